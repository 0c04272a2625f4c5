"""The trail of a review: its entries, as a record in `uns` that h5ad can hold, as JSON, and as lines of Python."""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..data.names import shown
from ..data.strict_json import parse_json

VERSION = 1
MOST_LISTED = 200  # cells whose names a line of Python lists
NO_CELLS = np.zeros(0, dtype=np.int32)


@dataclass(frozen=True, eq=False)
class Entry:
    """One line of the trail.

    Attributes
    ----------
    action
        "begin", "by", "threshold", "accept", "relabel", "reject", "comment", "undo", "redo" or "apply".
    cells
        Whom it concerns: ascending positions.
    which, of
        If they were named as a group: see `Review.cells`.
    label
        The new label; or the one whose threshold was set; or the column applied to.
    refers
        Number of the entry that was undone or done again.
    by, threshold
        Of the rule, after it.
    """

    number: int
    time: str  # UTC
    action: str
    cells: np.ndarray = field(default_factory=lambda: NO_CELLS, repr=False)
    which: str | None = None
    of: str | None = None
    label: str | None = None
    comment: str = ""
    refers: int | None = None
    by: str = ""
    threshold: float | None = None
    reviewer: str = ""

    @property
    def scope(self) -> str:
        """The cells in words."""
        n = f"{len(self.cells):,} {'cell' if len(self.cells) == 1 else 'cells'}"
        if self.which is None:
            return n if len(self.cells) else ""
        return f"{n}: {self.which}" + ("" if self.of is None else f" {self.of}")


COLUMNS = ("number", "time", "action", "scope", "n_cells", "label", "by", "threshold", "comment", "reviewer", "undone")
SAVED = tuple(name for name in Entry.__dataclass_fields__ if name != "cells")


def saved(facts: Mapping[str, Any], entries: Sequence[Entry], obs_names: np.ndarray) -> dict[str, Any]:
    """Facts and entries as JSON, and arrays: names of the cells concerned, each once, and which of them each entry
    concerns."""
    lists = [entry.cells for entry in entries]
    touched, places = np.unique(np.concatenate(lists), return_inverse=True)
    told = [{name: getattr(entry, name) for name in SAVED} for entry in entries]
    return {
        "trail": json.dumps({"version": VERSION, **facts, "entries": told}, ensure_ascii=False),
        "names": np.array(obs_names[touched], dtype=str),
        "cells": places.astype(np.int32),
        "ends": np.cumsum([len(one) for one in lists]),
    }


def as_json(facts: Mapping[str, Any], entries: Sequence[Entry], n_cells: int) -> dict[str, Any]:
    """Facts and entries as JSON without names of cells: their positions, or, of many, which they are as packed bits."""
    told = [
        {name: getattr(entry, name) for name in SAVED} | {"cells": packed_cells(entry.cells, n_cells)}
        for entry in entries
    ]
    return {"version": VERSION, **facts, "entries": told}


def from_json(record: Mapping[str, Any], n_cells: int) -> tuple[dict[str, Any], list[Entry], list[np.ndarray]]:
    """Facts, entries without cells, and the positions of each one's cells; any exception where it is no such record."""
    facts = dict(record)
    cells = [unpacked_cells(one["cells"], n_cells) for one in facts["entries"]]
    return facts, _entries_of(facts), cells


def packed_cells(cells: np.ndarray, n_cells: int) -> list[int] | str:
    """Ascending positions as a list, or, of more than 200, as text: a bit for each cell, packed."""
    if len(cells) <= MOST_LISTED:
        return [int(cell) for cell in cells]
    mask = np.zeros(n_cells, dtype=bool)
    mask[cells] = True
    return base64.b85encode(zlib.compress(np.packbits(mask).tobytes(), 9)).decode()


def unpacked_cells(packed: Any, n_cells: int) -> np.ndarray:
    """What `packed_cells` has packed; ValueError if it is nothing of the kind."""
    if isinstance(packed, str):
        length = (n_cells + 7) // 8
        try:
            bits = zlib.decompressobj().decompress(base64.b85decode(packed), length + 1)  # no more, whatever is in it
        except zlib.error as error:
            raise ValueError(f"its packed cells are damaged ({error})") from error
        if len(bits) != length:
            raise ValueError(f"its packed cells are not {n_cells:,}")
        return np.flatnonzero(np.unpackbits(np.frombuffer(bits, np.uint8), count=n_cells))
    if not isinstance(packed, list) or any(type(cell) is not int or not 0 <= cell < n_cells for cell in packed):
        raise ValueError(f"it names cells that are none of the {n_cells:,}")
    return np.unique(np.array(packed, dtype=np.int64))


def restored(record: Mapping[str, Any]) -> tuple[dict[str, Any], list[Entry], list[np.ndarray]]:
    """Facts, entries without cells, and the names of each one's cells; any exception where it is no such record."""
    facts = parse_json(str(record["trail"]).encode())
    entries = _entries_of(facts)
    names, places, ends = (np.asarray(record[name]) for name in ("names", "cells", "ends"))
    if len(places) and not (places.dtype.kind in "iu" and places.min() >= 0 and places.max() < len(names)):
        raise ValueError("it names cells that are not in it")
    if len(ends) != len(entries) or ends[-1] != len(places) or (np.diff(ends) < 0).any():
        raise ValueError("its cells do not fit its entries")
    return facts, entries, [names.astype(str)[some] for some in np.split(places, ends[:-1])]


def _entries_of(facts: Mapping[str, Any]) -> list[Entry]:
    """The entries, without their cells."""
    if facts["version"] != VERSION:
        raise ValueError(f"it is of version {shown(facts['version'])}")
    entries = [Entry(**{name: one[name] for name in SAVED}) for one in facts["entries"]]
    for entry in entries:
        facts_of = entry.number, entry.time, entry.comment, entry.reviewer
        if [type(one) for one in facts_of] != [int, str, str, str]:
            raise ValueError("an entry has no number, time, comment or reviewer")
    return entries


def line_of(entry: Entry, obs_names: np.ndarray, is_new: bool) -> str:
    """Python that does it again to a `review`; `is_new` says whether its label is none that a model knows."""
    if entry.action == "by":
        return f"review.set_rule({entry.by!r})"
    if entry.action == "threshold":
        return f"review.set_threshold({entry.threshold!r}{'' if entry.of is None else f', of={entry.of!r}'})"
    if entry.which is not None:
        cells = f"which={entry.which!r}" + ("" if entry.of is None else f", of={entry.of!r}")
    else:
        cells = _expression(entry.cells, obs_names)
    if entry.action == "comment":
        return f"review.comment({entry.comment!r}, {cells})"
    first = f"{entry.label!r}, " if entry.action == "relabel" else ""
    new = ", new=True" if entry.action == "relabel" and is_new else ""
    comment = f", comment={entry.comment!r}" if entry.comment else ""
    return f"review.{entry.action}({first}{cells}{comment}{new})"


def _expression(cells: np.ndarray, obs_names: np.ndarray) -> str:
    """Cells by their names, or, if they are many, as a packed mask."""
    if len(cells) <= MOST_LISTED:
        return repr([str(name) for name in obs_names[cells]])
    packed = packed_cells(cells, len(obs_names))
    bits = f"np.frombuffer(zlib.decompress(base64.b85decode({packed!r})), np.uint8)"
    return f"np.unpackbits({bits}, count={len(obs_names)}).astype(bool)"
