"""A session as a small JSON file, without data, without names of cells and without anybody's home directory."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from ..data.names import DataError, digest_of, shown
from ..data.strict_json import parse_json
from ..mapping.hierarchy import Hierarchy
from ..mapping.review import Review
from ..mapping.review_trail import packed_cells, unpacked_cells
from .coloring import find_color
from .session_script import Source, Step

if TYPE_CHECKING:
    from anndata import AnnData

    from .session import Session

FORMAT, VERSION = "scarches_widgets session", 1
LARGEST = 50_000_000  # bytes of a file that is read
STRICT = ConfigDict(extra="forbid")


@dataclass(frozen=True, config=STRICT)
class SavedSource:
    path: str | None
    column: str | None
    groups: list[str]
    inside: bool
    is_model: bool


@dataclass(frozen=True, config=STRICT)
class SavedStep:
    kind: str
    title: str
    code: str
    given: list[str]
    then: list[str]
    facts: dict[str, Any]
    time: str


@dataclass(frozen=True, config=STRICT)
class SavedSession:
    """What stands in a file."""

    format: Literal["scarches_widgets session"]
    version: int
    written_by: str  # version of the package
    time: str  # UTC
    n_cells: int | None  # None: the session had no cells
    cells: str | None  # SHA-256 of their names, in their order
    selection: list[int] | str  # as `packed_cells`
    color: str | None
    models: dict[str, str]  # name -> folder, from the file's
    sources: dict[str, SavedSource]
    steps: list[SavedStep]
    tree: str | None  # Hierarchy.to_json
    review: dict[str, Any] | None  # Review.to_json


def write_session(session: Session, path: Path) -> None:
    """Write a file in the place of `path`, whole or not at all."""
    here = Path(os.path.realpath(path)).parent
    if not here.is_dir():
        raise FileNotFoundError(f"There is no folder '{here}' to save into. Create it, or choose another.")
    adata = session.adata
    n_cells = None if adata is None else adata.n_obs
    sources = {name: asdict(replace(one, path=_from(one.path, here))) for name, one in session.sources.items()}
    content = {
        "format": FORMAT,
        "version": VERSION,
        "written_by": version("scarches-widgets"),
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "n_cells": n_cells,
        "cells": None if adata is None else digest_of(adata.obs_names),
        "selection": packed_cells(session.selection, n_cells or 0),
        "color": session.color,
        "models": {name: _from(folder, here) for name, folder in session.models.items()},
        "sources": sources,
        "steps": [_saved(step) for step in session.steps],
        "tree": None if session.tree is None else session.tree.to_json(),
        "review": session.held_review if session.review is None else session.review.to_json(),
    }
    text = json.dumps(content, ensure_ascii=False, allow_nan=False, indent=1)
    beside = here / f".{path.name}.{os.getpid()}.tmp"
    try:
        beside.write_text(text, encoding="utf-8")
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)


def _saved(step: Step) -> dict[str, Any]:
    """A step as plain values. A review's code names cells; the file has its decisions in another form."""
    home = str(Path.home()) + os.sep
    code = "" if step.kind == "review" else step.text.replace(home, "~/")
    facts = json.loads(json.dumps(step.facts, default=str), parse_constant=lambda constant: None)
    parts = {"kind": step.kind, "title": step.words, "time": step.time}
    return parts | {"code": code, "given": list(step.given), "then": list(step.then), "facts": facts}


def _from(path: str | None, folder: Path) -> str | None:
    """A path as it is reached from a folder; "/" divides it on every machine."""
    if path is None:
        return None
    try:
        return Path(os.path.relpath(os.path.realpath(Path(path).expanduser()), folder)).as_posix()
    except ValueError:  # on another disk of Windows
        return Path(path).as_posix()


def read_session(path: Path) -> SavedSession:
    """What stands in a file, its parts checked one by one; they may still not fit the cells."""
    try:
        if path.stat().st_size > LARGEST:
            raise ValueError(f"it has more than {LARGEST:,} bytes")
        data = path.read_bytes()
        content = parse_json(data)
        if content.get("format") != FORMAT:
            raise ValueError(f'it does not say "format": "{FORMAT}"')
        if content.get("version") != VERSION:
            raise ValueError(f"it is of version {shown(content.get('version'))}, and this release reads {VERSION}")
        return TypeAdapter(SavedSession).validate_json(data, strict=True)
    except ValidationError as error:
        first = error.errors()[0]
        where = shown(".".join(map(str, first["loc"])))
        raise DataError(f"'{shown(path.name)}' is no session: at {where}: {first['msg']}.") from error
    except ValueError as error:
        raise DataError(
            f"'{shown(path.name)}' is no session: {error}. Sessions are written by `session.save`."
        ) from error


def fitted(saved: SavedSession, adata: AnnData | None, folder: Path) -> dict[str, Any]:
    """Attributes of a session of these cells; raises DataError, before anything is changed, if they do not fit."""
    if saved.n_cells is not None:
        if adata is None:
            raise DataError(
                f"The file is of {saved.n_cells:,} cells, and the session has none yet, so nothing can be compared. "
                "Make it with them: `Session(adata=adata).load(path)`."
            )
        _check_same_cells(saved, adata)
    try:
        selection = unpacked_cells(saved.selection, saved.n_cells or 0)
    except ValueError as error:
        raise DataError(f"The file's selection cannot be read: {error}.") from error
    if adata is not None:
        find_color(adata, saved.color)
    review, held = _review_of(saved, adata)
    steps = tuple(
        Step(one.kind, one.title, one.code, tuple(one.given), tuple(one.then), one.facts, one.time)
        for one in saved.steps
    )
    if review is not None:
        steps = tuple(
            replace(one, code=lambda: review.code(review.applied_key)) if one.kind == "review" else one for one in steps
        )
    return {
        "selection": selection,
        "color": saved.color,
        "models": {name: _to(path, folder) for name, path in saved.models.items()},
        "sources": {
            name: Source(_to(one.path, folder), one.column, tuple(one.groups), one.inside, one.is_model)
            for name, one in saved.sources.items()
        },
        "steps": tuple(steps),
        "tree": None if saved.tree is None else Hierarchy.from_json(saved.tree),
        "made_tree": None,
        "review": review,
        "held_review": held,
    }


def _to(path: str | None, folder: Path) -> str | None:
    """A path that stands in a file of a folder, as it is reached from here."""
    if path is None:
        return None
    try:
        return os.path.relpath(folder / path)
    except ValueError:  # on another disk of Windows
        return str(folder / path)


def _check_same_cells(saved: SavedSession, adata: AnnData) -> None:
    if saved.n_cells != adata.n_obs:
        raise DataError(
            f"The file is of another AnnData: of {saved.n_cells:,} cells, and this session has {adata.n_obs:,}. Load "
            "it into a session of its own AnnData."
        )
    if saved.cells != digest_of(adata.obs_names):
        raise DataError(
            f"The file is of another AnnData: it has {saved.n_cells:,} cells too, but other names or another order, so "
            "its selection and decisions would fall on the wrong cells. Load it into a session of its own AnnData."
        )


def _review_of(saved: SavedSession, adata: AnnData | None) -> tuple[Review | None, dict[str, Any] | None]:
    """The review; or, as long as the columns of labels are not there, what it will be taken up from."""
    if saved.review is None:
        return None, None
    try:
        columns = [str(name) for pair in saved.review["models"].values() for name in pair]
    except (AttributeError, KeyError, TypeError) as error:
        raise DataError("The file's review cannot be read: it does not say which labels were reviewed.") from error
    if adata is None or any(name not in adata.obs for name in columns):
        return None, saved.review
    return Review.from_json(adata, saved.review), None
