"""What every view of cells can do: select, colour, and follow the other views of its session."""

from __future__ import annotations

import base64
import gzip
import json
import zlib
from typing import TYPE_CHECKING, Any

import numpy as np
import traitlets

from ..data.names import DataError
from .base import HERE, View
from .coloring import Coloring, coloring_of, columns_of, find_color
from .session import CellIndices, Session, mask_of, names_of

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData

MOST_CELLS = 200_000
MOST_LISTED = 500  # positions that `code` writes out


class CellView(View):
    """A view of an AnnData's cells; see `EmbeddingView` for what its users see.

    Attributes
    ----------
    selection
        Positions of the selected cells, int64, ascending. Set it with positions, a boolean mask or names of cells.
    color
        Column of obs or gene; None: all alike.
    obs_names, mask
        The selection as names, and as bool (cells,).
    session
        What this view shares with others.
    """

    _css = View._css + (HERE / "js" / "cells.css").read_text(encoding="utf-8")
    selection = CellIndices()
    color = traitlets.Unicode(None, allow_none=True)
    selected = traitlets.Bytes().tag(sync=True)  # one bit per cell, lowest first; the browser may write it
    n_cells = traitlets.Int().tag(sync=True)
    names = traitlets.Bytes().tag(sync=True)  # obs_names, as JSON, gzipped
    columns = traitlets.List(traitlets.Unicode()).tag(sync=True)  # of obs, by which cells can be coloured
    coloring = traitlets.Dict().tag(sync=True)  # Coloring.for_page(): all that belongs to one colour in one message

    commands = {"color": "_recolor"}  # noqa: RUF012

    def __init__(self, adata: AnnData, color: str | None = None, session: Session | None = None, **state: Any):
        check_cells(adata)
        self.adata = adata
        self.session = Session() if session is None else session
        self.session.adopt(adata)
        if color is not None:
            self.session.color = color
        self.writable = {**self.writable, "selected": self._checked_bits}
        self._coloring = coloring_of(adata, self.session.color)
        super().__init__(
            n_cells=adata.n_obs,
            names=gzip.compress(json.dumps([str(name) for name in adata.obs_names]).encode(), 4, mtime=0),
            columns=columns_of(adata),
            coloring=self._coloring.for_page(),
            color=self.session.color,
            selection=self.session.selection,
            selected=_bits(self.session.mask),
            **state,
        )
        self.session.observe(self._hear_session, ["selection", "color"])

    def close(self) -> None:
        """Take the view from the screen and out of its session."""
        if self.comm is not None:
            self.session.unobserve(self._hear_session, ["selection", "color"])
        super().close()

    @property
    def obs_names(self) -> pd.Index:
        """Names of the selected cells."""
        return names_of(self)

    @property
    def mask(self) -> np.ndarray:
        """Which cells are selected, bool (cells,)."""
        return mask_of(self)

    def refresh(self) -> None:
        """Read columns and colours again, after the AnnData has got new ones."""
        self._read_colors()

    def _read_colors(self) -> None:
        if self.adata.n_obs != self.n_cells:
            raise DataError(
                f"The AnnData has {self.adata.n_obs:,} cells now, and the view was made for {self.n_cells:,}. "
                "Make a new view."
            )
        self._coloring = self._colored()
        with self.hold_sync():
            self.columns = columns_of(self.adata)
            self.coloring = self._coloring.for_page()

    def _colored(self) -> Coloring:
        return coloring_of(self.adata, self.color)

    # Between this view and its session

    def _hear_session(self, change: dict) -> None:
        setattr(self, change["name"], change["new"])

    @traitlets.validate("color")
    def _check_color(self, proposal: dict) -> str | None:
        find_color(self.adata, proposal["value"])
        return proposal["value"]

    @traitlets.observe("color")
    def _show_color(self, change: dict) -> None:
        if self._coloring.key != self.color:
            self.error = None
            self._read_colors()
        self.session.color = self.color

    @traitlets.observe("selection")
    def _show_selection(self, change: dict) -> None:
        self.selected = _bits(self.mask)
        self.session.selection = self.selection

    # From the browser

    @traitlets.observe("selected")
    def _take_selection(self, change: dict) -> None:
        bits = np.unpackbits(np.frombuffer(self.selected, dtype=np.uint8), count=self.n_cells, bitorder="little")
        self.selection = bits.astype(bool)

    def _checked_bits(self, value: Any) -> bytes:
        """One bit for each cell and none beside."""
        if not isinstance(value, bytes | bytearray | memoryview):
            raise TypeError("The selection comes as bytes.")
        bits = bytes(value)
        if len(bits) != (self.n_cells + 7) // 8:
            raise ValueError("The selection has another number of cells.")
        if self.n_cells % 8 and bits[-1] >> self.n_cells % 8:
            raise ValueError("The selection has cells that do not exist.")
        return bits

    def _recolor(self, content: dict, buffers: list) -> None:
        key = content.get("key")
        if key is not None and not isinstance(key, str):
            raise TypeError("A colour is a name.")
        self.error = None
        self.color = key

    # Code

    def _selection_code(self) -> str:
        """An expression for the selected cells, in terms of `adata`."""
        if (chosen := self._selected_categories()) is not None:
            return f"adata.obs[{self.color!r}].isin({chosen!r})"
        return code_of_cells(self.mask)

    def _selected_categories(self) -> list | None:
        """The categories that make up the selection, if it is made of whole ones."""
        coloring = self._coloring
        if coloring.kind != "categories" or not len(self.selection):
            return None
        names = coloring.originals
        if not names or not all(isinstance(name, str | bool) for name in names):
            return None
        total, chosen = (
            np.bincount(codes, minlength=len(coloring.names)) for codes in (coloring.values, coloring.values[self.mask])
        )
        if ((chosen > 0) & (chosen < total)).any() or chosen[len(names) :].any():
            return None
        return [name for name, count in zip(names, chosen) if count]


def _bits(mask: np.ndarray) -> bytes:
    return np.packbits(mask, bitorder="little").tobytes()


def code_of_cells(mask: np.ndarray) -> str:
    """An expression for the cells of a mask: their positions, or, of many, the mask in `base64`, `zlib` and `np`."""
    if mask.sum() <= MOST_LISTED:
        return repr(np.flatnonzero(mask).tolist())
    packed = base64.b85encode(zlib.compress(np.packbits(mask).tobytes(), 9)).decode()
    return (
        f"np.unpackbits(np.frombuffer(zlib.decompress(base64.b85decode({packed!r})), np.uint8), "
        f"count={len(mask)}).astype(bool)"
    )


def check_cells(adata: AnnData) -> None:
    """Refuse what cannot be drawn point by point."""
    if adata.n_obs == 0:
        raise DataError("The AnnData has no cells, so there is nothing to show. Was a filter too strict?")
    if adata.n_obs > MOST_CELLS:
        raise DataError(
            f"{adata.n_obs:,} cells are more than the {MOST_CELLS:,} that this view draws, because each is sent to the "
            f"browser. Show a sample: `sc.pp.sample(adata, n={MOST_CELLS}, copy=True)`."
        )
