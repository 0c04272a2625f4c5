"""What every view of cells can do: select, colour, and follow the other views of its session."""

from __future__ import annotations

import base64
import gzip
import json
import zlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import traitlets

from ..data.names import DataError
from .base import HERE, Publisher, View
from .coloring import Coloring, coloring_of, columns_of, find_color
from .raster import Dots, Sight, as_png, painted, within
from .session import CellIndices, CellsSelected, Session

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData

MOST_CELLS = 200_000  # that a page is sent
MOST_LISTED = 500  # positions that `code` writes out
MOST_VIEWS = 16  # of one widget, whose wishes wait at once


class CellView(CellsSelected, View):
    """A view of an AnnData's cells; see `EmbeddingView` for what its users see.

    Of more than `MOST_CELLS` cells the page gets neither places nor colours nor names, but a picture of the part of the
    plane in sight (`raster`), counts, and the legend. It asks for another picture when its sight has changed, or
    `edition` has, and says around what it has drawn a line; the selection is found here.

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
    by_kernel = traitlets.Bool().tag(sync=True)  # the kernel draws, for there are many cells
    edition = traitlets.Int().tag(sync=True)  # counts the changes of what the kernel would draw
    tally = traitlets.Dict().tag(sync=True)  # of many cells: `n` selected, and Coloring.tally()
    picture = traitlets.Dict().tag(sync=True)  # of many cells: `png`, ranges `x` and `y`, and the `view` that asked

    panes: ClassVar[Sequence[str]] = ()  # traits like `picture`, one for each chart; none: many cells are refused
    commands = {  # noqa: RUF012
        "color": "_recolor",
        "look": "_click_look",
        "choose": "_click_choose",
        "surround": "_click_surround",
    }

    def __init__(self, adata: AnnData, color: str | None = None, session: Session | None = None, **state: Any):
        check_cells(adata, drawn_by_kernel=bool(self.panes))
        self.adata = adata
        many = state.pop("by_kernel", adata.n_obs > MOST_CELLS)
        self._asked: dict[tuple[str, str], dict[str, Any]] = {}  # what each view of a page wants to see of a pane
        self._painter = Publisher(self._paint_asked)
        self.session = Session() if session is None else session
        self.session.adopt(adata)
        if color is not None:
            self.session.color = color
        if not many:
            self.writable = {**self.writable, "selected": self._checked_bits}
        self._coloring = coloring_of(adata, self.session.color)
        super().__init__(
            n_cells=adata.n_obs,
            names=b"" if many else _packed(adata.obs_names),
            columns=columns_of(adata),
            by_kernel=many,
            coloring=self._coloring.for_page(not many),
            color=self.session.color,
            selection=self.session.selection,
            selected=b"" if many else _bits(self.session.mask),
            **state,
        )
        self._count()
        self.session.observe(self._hear_session, ["selection", "color"])

    def close(self) -> None:
        """Take the view from the screen and out of its session."""
        if self.comm is not None:
            self.session.unobserve(self._hear_session, ["selection", "color"])
            self._painter.close()
        super().close()

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
            self.coloring = self._coloring.for_page(not self.by_kernel)
            self._count()
            self._draw_anew()

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
        if self.by_kernel:
            with self.hold_sync():
                self._count()
                self._draw_anew()
        else:
            self.selected = _bits(self.mask)
        self.session.selection = self.selection

    # Many cells

    def _places_in(self, pane: str) -> np.ndarray:
        """Where the cells lie in a pane, float (cells, 2); NaN for those that it does not show."""
        raise NotImplementedError

    def _layers_in(self, pane: str, colours: dict[str, np.ndarray]) -> list[Dots]:
        """What is drawn in a pane, lowest first; `colours` are uint8 (colours, 3), `"own"` those of the cells here."""
        return [dots_of(self._places_in(pane), self._coloring, colours["own"], selected=self.mask)]

    def _draw_anew(self) -> None:
        if self.by_kernel:
            self.edition += 1

    def _count(self) -> None:
        if self.by_kernel:
            self.tally = {"n": len(self.selection), **self._coloring.tally(self.mask)}

    def _paint_asked(self) -> None:
        """Draw what was asked for last, and drop what was asked before."""
        while self._asked:
            (pane, view), asked = self._asked.popitem()
            sight = asked["sight"]
            try:
                png = as_png(painted(self._layers_in(pane, asked["colours"]), sight))
            except LookupError:  # the colours changed since they were asked for, and the page will ask again
                continue
            setattr(self, pane, {"png": png, "x": sight.x, "y": sight.y, "view": view, "number": asked["number"]})

    # From the browser

    def _click_look(self, content: dict, buffers: list) -> None:
        """Draw a part of the plane, in the colours of the page's theme."""
        pane, view, number = content["pane"], content["view"], content["number"]
        if not self.by_kernel or pane not in self.panes or not isinstance(view, str) or not isinstance(number, int):
            return
        if len(self._asked) > MOST_VIEWS:
            self._asked.clear()
        colours = {name: rgb_of(some) for name, some in content["colours"].items()}
        self._asked[pane, view] = {"sight": Sight.from_page(content), "number": number, "colours": colours}
        self._painter.touch()

    def _click_choose(self, content: dict, buffers: list) -> None:
        """Select cells by their category or number, all, none, or those that are not selected."""
        if "code" in content:
            chosen = self._coloring.values == int(content["code"])
        elif "low" in content:
            chosen = self._coloring.between(content["low"], content["high"])
        else:
            chosen = {"all": np.ones_like, "none": np.zeros_like, "inverse": np.logical_not}[content["what"]](self.mask)
        self._choose(chosen, content.get("mode"))

    def _click_surround(self, content: dict, buffers: list) -> None:
        """Select the cells within a line that was drawn in a pane."""
        pane = content["pane"]
        if self.by_kernel and pane in self.panes:
            corners = np.array([content["x"], content["y"]], dtype=np.float64).T
            self._choose(within(self._places_in(pane), corners), content.get("mode"))

    def _choose(self, chosen: np.ndarray, mode: str | None) -> None:
        """Select cells, bool (cells,), or "add" them to the selection, or "subtract" them."""
        self.error = None
        if mode == "add":
            chosen = self.mask | chosen
        elif mode == "subtract":
            chosen = self.mask & ~chosen
        self.selection = chosen

    @traitlets.observe("selected")
    def _take_selection(self, change: dict) -> None:
        if self.by_kernel:
            return
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


def dots_of(positions: np.ndarray, coloring: Coloring, colours: np.ndarray, **options: Any) -> Dots:
    """Cells in a coloring, drawn in `colours`: of its categories, or of its scale and then of no number.

    Raises
    ------
    LookupError
        The colours are fewer than the categories.
    """
    if coloring.kind == "numbers":
        return Dots(positions, coloring.values, colours, (coloring.low, coloring.high), **options)
    codes = coloring.values if coloring.kind == "categories" else np.zeros(len(positions), dtype=np.uint8)
    if len(colours) < max(1, len(coloring.names)):
        raise LookupError("There are fewer colours than categories.")
    return Dots(positions, codes, colours, **options)


def rgb_of(colours: Sequence[str]) -> np.ndarray:
    """Colours "#rrggbb" as uint8 (colours, 3)."""
    return np.frombuffer(bytes.fromhex("".join(colours).replace("#", "")), dtype=np.uint8).reshape(-1, 3)


def _packed(names: pd.Index) -> bytes:
    return gzip.compress(json.dumps([str(name) for name in names]).encode(), 4, mtime=0)


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


def check_cells(adata: AnnData, drawn_by_kernel: bool = True) -> None:
    """Refuse what cannot be drawn."""
    if adata.n_obs == 0:
        raise DataError("The AnnData has no cells, so there is nothing to show. Was a filter too strict?")
    if adata.n_obs > MOST_CELLS and not drawn_by_kernel:
        raise DataError(
            f"{adata.n_obs:,} cells are more than the {MOST_CELLS:,} that this view draws, because each is sent to the "
            f"browser. Show a sample: `sc.pp.sample(adata, n={MOST_CELLS}, copy=True)`."
        )
