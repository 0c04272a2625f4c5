"""What a suite says of its cells: where each role's came from, and which files there are."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..data.names import listed, shown

if TYPE_CHECKING:
    from anndata import AnnData

    from .session_script import Source

ROLES = ("reference", "query", "tissue")
IN_SCRIPT = {"reference": "reference_cells", "query": "query", "tissue": "tissue"}
OF_FILES = (".h5ad", ".zarr")
MOST_FILES = 200


def words_of(role: str, adata: AnnData | None, sources: Mapping[str, Source]) -> str:
    """The cells of a role in words; empty if there are none."""
    if adata is None:
        return ""
    source = sources[IN_SCRIPT[role]]
    where = "given in Python" if source.path is None else Path(source.path).name
    if source.column is not None:
        where += f", {'only' if source.inside else 'without'} {listed(source.groups)} of {source.column}"
    return f"{adata.n_obs:,} cells × {adata.n_vars:,} genes · {shown_whole(where)}"


def files_in(folder: Path) -> list[str]:
    """Names of the files of cells in a folder, the first 200; none if it cannot be read."""
    try:
        names = sorted(path.name for path in folder.iterdir() if path.suffix in OF_FILES)
    except OSError:
        return []
    return names[:MOST_FILES]


def shown_whole(text: object) -> str:
    """A path as one line, however long."""
    return "".join(character if character.isprintable() else repr(character)[1:-1] for character in str(text))


def check_role(role: Any) -> None:
    if role not in ROLES:
        raise ValueError(f"There is no role '{shown(role)}'. There are: {listed(ROLES)}.")


def text_of(value: Any) -> str:
    """A name that was typed, without blanks around it."""
    if not isinstance(value, str) or not value.strip():
        raise ValueError("A name is missing. Fill it in.")
    return value.strip()
