"""A training run as a small JSON file, and its replay: the same events at the same pace, or a faster one.

Needs no torch: thirty learners see the curves of a run at once, on a machine that could not train thirty models.
Numbers are kept to seven digits, the resolution in which they are drawn.
"""

from __future__ import annotations

import json
import math
import os
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from ..data.names import DataError, shown
from .events import EpochEnded, Event, RunEnded, RunStarted, StepEnded, Warned
from .watched import Run

KIND, VERSION = "scarches_widgets training record", 1
LARGEST = 32 * 2**20  # bytes of a file; 100,000 epochs of ten terms have less
TICK = 0.1  # seconds between two looks at pause, stop and speed
STEPS = 10  # into which a replayed epoch is divided
PLAIN = ("epoch", "learning_rate", "kl_weight", "is_best", "n_without_improvement", "seconds")  # of an epoch


@dataclass(frozen=True)
class Record:
    """What a run told."""

    title: str
    started: RunStarted
    epochs: tuple[EpochEnded, ...]
    ended: RunEnded | None  # None: recorded while it ran
    warnings: tuple[str, ...] = ()

    def events(self) -> Iterator[Event]:
        """As the run told them, but for its steps."""
        yield self.started
        yield from map(Warned, self.warnings)
        yield from self.epochs
        yield self.ended or RunEnded("stopped", "recorded so far", len(self.epochs), None)


def record_of(run: Run, title: str = "") -> Record:
    """What a run has told until now.

    Raises
    ------
    ValueError
        If it has completed no epoch yet.
    """
    epochs = tuple(run.epochs)
    if run.started is None or not epochs:
        raise ValueError("No epoch has ended yet, so there is nothing to record. Train first.")
    return Record(title or _last_title(run), run.started, epochs, run.ended, tuple(run.warnings))


def _last_title(run: Run) -> str:
    return getattr(run, "title", "") or "training run"


def write_record(record: Record, path: str | os.PathLike) -> Path:
    """Write a record as JSON: 1,000 epochs of three terms take about 100 kB."""
    terms = {part: _terms(record.epochs, part) for part in ("train", "validation")}
    columns: dict[str, Any] = {name: [_kept(getattr(one, name)) for one in record.epochs] for name in PLAIN}
    for part, names in terms.items():
        values = [getattr(one, part) or {} for one in record.epochs]
        columns[part] = {name: [_kept(of.get(name, math.nan)) for of in values] for name in names}
    document = {
        "kind": KIND,
        "version": VERSION,
        "title": record.title,
        "started": asdict(record.started),
        "ended": asdict(record.ended) if record.ended else None,
        "warnings": list(record.warnings),
        "epochs": columns,
    }
    path = Path(path)
    path.write_text(json.dumps(document, separators=(",", ":"), allow_nan=False) + "\n", encoding="utf-8")
    return path


def read_record(path: str | os.PathLike) -> Record:
    """Read a file of `write_record`.

    Raises
    ------
    DataError
        If it is none; it says in what.
    """
    path = Path(path)
    if path.stat().st_size > LARGEST:
        raise DataError(f"{shown(path.name)} has {path.stat().st_size:,} bytes, too many for a training record.")
    try:
        document = json.loads(path.read_bytes())
        if document.get("kind") != KIND:
            raise ValueError("it does not say that it is one")
        if document["version"] != VERSION:
            raise ValueError(f"its version is {document['version']!r}, and this is written for {VERSION}")
        return _parsed(document)
    except (AttributeError, KeyError, TypeError, ValueError, RecursionError) as fault:
        raise DataError(
            f"{shown(path.name)} is no training record that can be played: {fault}. "
            "Make one with `LossMonitor(model).record(path)`."
        ) from fault


def _parsed(document: dict) -> Record:
    columns = document["epochs"]
    n = len(columns["epoch"])
    lists = [columns[name] for name in PLAIN]
    lists += [values for part in ("train", "validation") for values in columns[part].values()]
    if not n or any(not isinstance(one, list) or len(one) != n for one in lists):
        raise ValueError("its columns are not equally long lists of at least one epoch")
    if any(not (value is None or isinstance(value, int | float)) for one in lists for value in one):
        raise ValueError("there is something else than numbers among its epochs")
    if not columns["train"]:
        raise ValueError("it has no losses on training cells")
    epochs = tuple(
        EpochEnded(
            int(columns["epoch"][i]),
            _row(columns["train"], i),
            _row(columns["validation"], i) or None,
            _number(columns["learning_rate"][i]),
            _number(columns["kl_weight"][i]),
            bool(columns["is_best"][i]),
            int(columns["n_without_improvement"][i]),
            _number(columns["seconds"][i]),
        )
        for i in range(n)
    )
    ended = document["ended"]
    return Record(
        str(document["title"])[:200],
        _of(RunStarted, document["started"]),
        epochs,
        None if ended is None else _of(RunEnded, ended),
        tuple(str(one)[:2000] for one in document["warnings"]),
    )


def _of(cls: type, values: dict) -> Any:
    """An event from its fields, each of the type that it is declared with."""
    kinds = {"int": int, "str": str, "int | None": int | None}
    for field in fields(cls):
        value = values[field.name]
        if isinstance(value, bool) or not isinstance(value, kinds[field.type]):
            raise ValueError(f"{field.name} is {value!r}")
    return cls(**{field.name: values[field.name] for field in fields(cls)})


def _terms(epochs: tuple[EpochEnded, ...], part: str) -> list[str]:
    return list(dict.fromkeys(name for epoch in epochs for name in getattr(epoch, part) or {}))


def _kept(value: float | bool) -> float | int | None:
    """A number as JSON carries it; None for one that is not finite."""
    if isinstance(value, bool | int):
        return int(value)
    return float(f"{value:.7g}") if math.isfinite(value) else None


def _number(value: float | None) -> float:
    return math.nan if value is None else float(value)


def _row(columns: dict[str, list], i: int) -> dict[str, float]:
    return {name: _number(values[i]) for name, values in columns.items()}


class Replay(Run):
    """Plays a record as if the run ran now; obeys `pause`, `resume` and `stop` as a `TrainingRun` does.

    Parameters
    ----------
    record
        What to play.
    speed
        How many times faster than it was recorded; 0: all at once. Can be set while it plays.

    Attributes
    ----------
    title
        The record's.
    """

    controls = ("pause", "speed")

    def __init__(self, record: Record, speed: float = 1.0):
        super().__init__(self._played(record))
        self.record = record
        self.title = record.title
        self._nudged = threading.Event()
        self.speed = speed

    @property
    def speed(self) -> float:
        """Times as fast as recorded; 0: all at once."""
        return self._speed

    @speed.setter
    def speed(self, value: float) -> None:
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1e6:
            raise ValueError(f"speed={value!r} is not a number of times as fast, from 0 (all at once) to 1,000,000.")
        self._speed = float(value)
        self._nudged.set()

    def _played(self, record: Record) -> Iterator[Event]:
        for event in record.events():
            if isinstance(event, EpochEnded):
                yield from self._lasting(event)
            yield event

    def _lasting(self, epoch: EpochEnded) -> Iterator[Event]:
        """Let an epoch's time pass, at the speed that holds meanwhile."""
        whole = left = epoch.seconds if epoch.seconds > 0 else TICK
        while left > 0 and self._speed > 0:
            begun = time.monotonic()
            self._nudged.wait(min(left / self._speed, TICK))
            self._nudged.clear()
            left -= (time.monotonic() - begun) * max(self._speed, 1e-9)
            yield StepEnded(epoch.epoch, min(STEPS - 1, int(STEPS * (1 - max(0, left) / whole))), STEPS, math.nan)


def finished(record: Record) -> Replay:
    """A record as a run that has ended."""
    run = Replay(record, speed=0)
    run.start().wait()
    return run
