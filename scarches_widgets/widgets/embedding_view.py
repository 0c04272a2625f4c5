"""Cells in two dimensions: colour them, select them by lasso, box or category, and find them in other views."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import bokeh
import numpy as np
import traitlets

from ..data.names import DataError, did_you_mean, listed, shown
from ..mapping.pictures import FADED
from . import cell_view
from .base import inlined
from .bokeh_bridge import ensure_loader, figure_item
from .cell_view import CellView

if TYPE_CHECKING:
    from anndata import AnnData

    from .session import Session

IN_WORDS = {
    "umap": "UMAP",
    "tsne": "t-SNE",
    "pca": "PCA",
    "diffmap": "Diffusion map",
    "draw_graph_fa": "Force-directed",
}


class EmbeddingView(CellView):
    """Cells in two dimensions, coloured by a column or a gene; select them by lasso, box or category.

    Parameters
    ----------
    adata
        Cells; it is not changed. Of more than 200,000 the page gets pictures, and no names under the pointer.
    basis
        Key of `obsm`, with or without "X_"; its first two columns are shown, in one scale.
    color
        Column of `obs` (text, categories and booleans as groups, numbers on a scale), or a gene: then its values as `X`
        holds them. Columns come first where both have the name. Groups have the colours of `uns["<column>_colors"]` if
        it has one for each, else colours that colour-blind people can tell apart.
    session
        Views of one session show the same selection and colour; without one, the view has its own.

    Attributes
    ----------
    selection
        Positions of the selected cells, int64, ascending; `obs_names` and `mask` are the same in other forms. Set it
        with positions, a boolean mask or names of cells, and observe it: `view.observe(callback, "selection")`.
    color
        Can be set.

    Raises
    ------
    DataError
        The basis or colour is missing, positions are not finite, or there are no cells.

    Notes
    -----
    Keys: in the list of groups the arrows, Home, End and letters move, Enter or Space selects the group's cells, with
    Shift it adds them, with Alt it takes them away. Anywhere in the view Ctrl+A selects all cells and Escape none; with
    none selected, Escape goes back to the notebook's cell. On the chart the arrows move the picture, + and − zoom, 0
    shows all of it.

    Examples
    --------
    >>> view = EmbeddingView(adata, "umap", "cell_type")
    >>> view.selection = adata.obs["batch"] == "donor 1"
    >>> adata[view.selection]
    """

    _esm = inlined(Path(__file__).with_suffix(".js"))
    bokeh_version = traitlets.Unicode(bokeh.__version__).tag(sync=True)
    figure = traitlets.Dict().tag(sync=True)  # Bokeh's JSON, without data
    positions = traitlets.Bytes().tag(sync=True)  # float32: all x, then all y
    label = traitlets.Unicode().tag(sync=True)  # the basis in words
    axes = traitlets.Dict().tag(sync=True)  # of many cells: their extent

    panes = ("picture",)

    def __init__(self, adata: AnnData, basis: str = "X_umap", color: str | None = None, session: Session | None = None):
        self.basis = find_basis(adata, basis)
        self._position = positions_in(adata, self.basis)
        ensure_loader()
        label = _in_words(self.basis.removeprefix("X_"))
        many = adata.n_obs > cell_view.MOST_CELLS
        chart = cells_figure(adata.n_obs, f"{label} 1", f"{label} 2")
        if many:
            add_picture(chart)
        super().__init__(
            adata,
            color,
            session,
            label=label,
            positions=b"" if many else self._position.T.astype("<f4").tobytes(),
            axes={"extent": extent_of(self._position)} if many else {},
            figure=figure_item(chart),
        )

    def _places_in(self, pane: str) -> np.ndarray:
        return self._position

    def code(self) -> str:
        """Python that makes this view again, with its colour and selection."""
        selection = self._selection_code()
        imports = ["scarches_widgets as sca"]
        if "b85decode" in selection:
            imports = ["base64", "zlib", "numpy as np", *imports]
        color = f", color={self.color!r}" if self.color is not None else ""
        lines = [f"import {name}" for name in imports]
        lines += ["", f"view = sca.widgets.EmbeddingView(adata, basis={self.basis!r}{color})"]
        lines += [f"view.selection = {selection}", "view"]
        return "\n".join(lines) + "\n"

    def _summary(self) -> str:
        text = f"{self.label} of {self.n_cells:,} cells"
        if self._coloring.kind == "categories":
            text += f", coloured by {self._coloring.label} ({len(self._coloring.names)} groups)"
        elif self._coloring.kind == "numbers":
            text += f", coloured by {self._coloring.label}"
        n = len(self.selection)
        return text + (f"; {n:,} selected ({n / self.n_cells:.1%})." if n else ".")

    def _picture(self, format: str) -> bytes:
        from ..mapping.pictures import draw_groups, draw_numbers, figure, picture_bytes

        coloring = self._coloring
        drawn, (axis,) = figure((6, 4.4))
        if coloring.kind == "numbers":
            draw_numbers(axis, self._position, coloring.values, coloring.label, self.mask)
        elif coloring.kind == "categories":
            draw_groups(axis, self._position, coloring.values, coloring.names, coloring.colours, self.mask)
        else:
            codes = np.zeros(self.n_cells, dtype=np.uint8)
            draw_groups(axis, self._position, codes, ("cells",), coloring.colours, self.mask)
        axis.set(xlabel=f"{self.label} 1", ylabel=f"{self.label} 2", aspect="equal")
        return picture_bytes(drawn, format, most_colours=256)


def _in_words(name: str) -> str:
    """An embedding's name in words; of one that was made from another, such as "scvi_tsne", both."""
    of, _, how = name.rpartition("_")
    return f"{IN_WORDS[how]} of {of}" if of and how in IN_WORDS else IN_WORDS.get(name, name)


def find_basis(adata: AnnData, basis: str) -> str:
    """The key of obsm that is meant by a name with or without "X_"."""
    for key in (basis, f"X_{basis}"):
        if key in adata.obsm:
            return key
    keys = list(adata.obsm.keys())
    near = did_you_mean(basis, keys) or did_you_mean(f"X_{basis}", keys)
    there = (
        f"There are: {listed(keys, 20)}." if keys else "It is empty; compute one first, e.g. with `sc.tl.umap(adata)`."
    )
    raise DataError(f"adata.obsm has no '{shown(basis)}'.{near} {there}")


def positions_in(adata: AnnData, key: str) -> np.ndarray:
    """The first two columns of an embedding, float32 (cells, 2)."""
    values = adata.obsm[key]
    if len(values.shape) != 2 or values.shape[1] < 2:
        raise DataError(
            f"obsm['{shown(key)}'] has the shape {tuple(values.shape)}, and two columns are needed to draw it."
        )
    values = values.iloc[:, :2] if hasattr(values, "iloc") else values[:, :2]
    for convert in ("compute", "toarray"):
        values = getattr(values, convert)() if hasattr(values, convert) else values
    position = np.asarray(values, dtype=np.float32)
    wrong = int((~np.isfinite(position)).any(axis=1).sum())
    if wrong:
        raise DataError(
            f"{wrong:,} of {len(position):,} cells have no finite position in obsm['{shown(key)}'], so they cannot be "
            "drawn. Show only the others: `adata[np.isfinite(adata.obsm[…]).all(axis=1)]`."
        )
    return position


def extent_of(position: np.ndarray) -> dict[str, list[float]]:
    """The ranges in which the cells lie that lie somewhere, `x` and `y`; from 0 to 1 if there are none."""
    if not np.isfinite(position).all():
        position = position[np.isfinite(position).all(axis=1)]
    if not len(position):
        return {"x": [0.0, 1.0], "y": [0.0, 1.0]}
    return {axis: [float(position[:, i].min()), float(position[:, i].max())] for i, axis in enumerate("xy")}


def point_size(n: int) -> float:
    """Diameter in pixels at which `n` cells neither vanish nor cover each other."""
    return float(np.clip(28 / max(n, 1) ** 0.23, 1.7, 9))


def cells_figure(n: int, x_label: str | None = None, y_label: str | None = None):
    """Axes, points over an empty source that the page fills, and tools that the page's own buttons work."""
    from bokeh.models import (
        BoxSelectTool,
        ColumnDataSource,
        HoverTool,
        LassoSelectTool,
        LinearColorMapper,
        PanTool,
        Range1d,
        WheelZoomTool,
    )
    from bokeh.plotting import figure

    source = ColumnDataSource({"x": [], "y": [], "value": []}, name="cells")
    mapper = LinearColorMapper(palette=["#888888"], low=-0.5, high=0.5, nan_color="#888888", name="colours")
    chart = figure(
        name="chart",
        height=440,
        sizing_mode="stretch_width",
        x_axis_label=x_label,
        y_axis_label=y_label,
        x_range=Range1d(0, 1, name="x"),
        y_range=Range1d(0, 1, name="y"),
        tools="",
        toolbar_location=None,
        output_backend="webgl",
        background_fill_color=None,  # no flash of white before the page paints it
        border_fill_color=None,
    )
    chart.xgrid.visible = chart.ygrid.visible = False
    points = chart.scatter(
        "x",
        "y",
        source=source,
        size=point_size(n),
        fill_color={"field": "value", "transform": mapper},
        line_color=None,
        fill_alpha=0.85,
        nonselection_fill_alpha=FADED,
        selection_fill_alpha=1.0,
        name="points",
    )
    lasso, box, pan = LassoSelectTool(name="lasso", continuous=False), BoxSelectTool(name="box"), PanTool(name="move")
    wheel = WheelZoomTool(name="wheel")
    hover = HoverTool(renderers=[points], tooltips=None)  # only finds the cell: the page writes its name, as text
    chart.add_tools(lasso, box, pan, wheel, hover)
    chart.toolbar.active_drag = lasso
    chart.toolbar.active_scroll = None  # a page is scrolled over its charts; see the .js
    return chart


def add_picture(chart) -> None:
    """Make room in a figure for a picture of many cells, and have it tell of lines that are drawn around them."""
    from bokeh.models import ColumnDataSource

    empty = {"image": [np.zeros((1, 1), dtype=np.uint32)], "x": [0], "y": [0], "dw": [1], "dh": [1]}
    places = {name: name for name in ("image", "x", "y", "dw", "dh")}
    chart.image_rgba(**places, source=ColumnDataSource(empty, name="picture"), name="drawn_picture", level="glyph")
    chart.subscribed_events.add("selectiongeometry")
