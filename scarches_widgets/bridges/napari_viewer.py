"""A tissue in napari, the desktop viewer (doi:10.5281/zenodo.3555620); needs the extra scarches-widgets[napari].

    opened = sca.napari.open_viewer(adata, color="cell_type", region_key="region")
    opened.viewer.layers["cells"].visible = False
    opened.selection                                   # what is selected there; can be set here
    opened.assign("region")                            # regions drawn in napari's layer "drawn" become a column of obs

The layers are those of `mapping.layers`, turned to napari's order of axes: z, y, x.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import traitlets

from ..data.findings import counted
from ..data.names import DataError, shown
from ..mapping.layers import Layer, Layers, category_colors, cells_within, layers_of, table_of
from ..mapping.pictures import NO_VALUE, palette

if TYPE_CHECKING:
    from anndata import AnnData

SHARED = ("visible", "opacity")  # by a layer here, in napari, and in a SpatialMapper
DRAWN = "drawn"
IN_NOTEBOOK = "The notebook's own viewer, sca.widgets.SpatialMapper(adata), needs neither."


def open_viewer(mapper_or_adata, *, viewer=None, table_key: str | None = None, **options: Any) -> TissueViewer:
    """Open a tissue in napari; a script then calls `napari.run()`.

    Parameters
    ----------
    mapper_or_adata
        AnnData with coordinates; SpatialData with such a table; or a `SpatialMapper`, whose selection and layers are
        then shared with napari both ways.
    viewer
        A napari.Viewer to add to; None: a new one.
    table_key
        Name of the table in SpatialData that has several.
    **options
        Of `mapping.layers.layers_of`: color, region_key, library_key, library, spatial_key, locations. Of a mapper,
        they follow from it if they are not given.

    Raises
    ------
    RuntimeError
        If there is no screen, or napari is not installed.
    DataError
        As `layers_of`.
    """
    mapper = mapper_or_adata if hasattr(mapper_or_adata, "layers") and hasattr(mapper_or_adata, "reference") else None
    if mapper is None:
        adata = table_of(mapper_or_adata, table_key)
        layers = layers_of(adata, **options)
        selectable = {name for name in layers if layers[name].kind == "points"}
    else:
        adata, layers, selectable = _of_mapper(mapper, options)
    return TissueViewer(_new_viewer() if viewer is None else viewer, layers, adata, selectable, mapper)


def _of_mapper(mapper, options: dict[str, Any]) -> tuple[AnnData, Layers, set[str]]:
    """The AnnData that is selected from, all layers, and the names of those that show its cells."""
    asked = mapper.values if mapper.model is None else vars(mapper.model.config)
    keys = {"spatial_key": asked.get("spatial_key")}
    if mapper.section is not None:
        keys |= {"library_key": asked.get("section_key"), "library": mapper.section}
    options = {name: value for name, value in keys.items() if value} | options
    colors = {name: mapper.layers[name].color for name in mapper.layers}
    if mapper.query is None:
        return mapper.reference, layers_of(mapper.reference, **({"color": colors.get("cells")} | options)), {"cells"}
    layers = layers_of(mapper.reference, **({"color": colors.get("cells")} | options))
    if mapper.locations is not None:
        missing = "none of its coordinates"  # those of the query, if it has any, are of another frame
        color = colors.get("predicted") if colors.get("predicted") in mapper.query.obs else None
        placed = layers_of(mapper.query, locations=mapper.locations, spatial_key=missing, color=color)["predicted"]
        placed.size = layers["cells"].size
        layers.add(placed)
    return mapper.query, layers, {"predicted"}


def _new_viewer():
    has_screen = sys.platform != "linux" or os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
    if not has_screen:
        raise RuntimeError(
            "There is no screen here (neither DISPLAY nor WAYLAND_DISPLAY is set), so napari cannot open a window. "
            f"Start Jupyter on a machine with a desktop, or in a remote desktop. {IN_NOTEBOOK}"
        )
    try:
        import napari
    except ImportError as error:
        raise RuntimeError(
            f"napari cannot be imported ({error}). Install the extra: pip install 'scarches-widgets[napari]'. "
            f"{IN_NOTEBOOK}"
        ) from error
    return napari.Viewer(title="scarches-widgets")


class TissueViewer(traitlets.HasTraits):
    """What `open_viewer` returns: a napari viewer, and what it shares with Python.

    Attributes
    ----------
    viewer
        The napari.Viewer.
    layers
        As `mapping.layers.layers_of` gives them; `visible`, `opacity`, `size` and `color` of each can be changed there.
    adata
        The AnnData whose cells are selected: of a mapper with a query, the query.
    selection
        Positions of the selected cells, int64, ascending; can be set.
    """

    selection = traitlets.Any()  # validated below

    def __init__(self, viewer, layers: Layers, adata: AnnData, selectable: set[str], mapper=None):
        super().__init__(selection=np.zeros(0, dtype=np.int64))
        self.viewer, self.layers, self.adata, self._mapper = viewer, layers, adata, mapper
        self._links: list[traitlets.link] = []
        owners = {name: adata if name in selectable or mapper is None else mapper.reference for name in layers}
        self._shown = {layer.name: _added(viewer, layer, owners[layer.name]) for layer in layers.values()}
        self._owners, self._selectable = owners, {name for name in selectable if name in layers}
        for name in layers:
            self._share(layers[name], self._shown[name])
        for name in self._selectable:
            self._shown[name].selected_data.events.items_changed.connect(lambda *_, at=name: self._take(at))
        self._drawn = viewer.add_shapes(name=DRAWN, ndim=2, face_color="#ffffff33", edge_color="#ff00ff")
        if mapper is not None:
            self.selection = np.asarray(mapper.selection)
            mapper.observe(self._follow_mapper, "selection")

    def close(self) -> None:
        """End the link to the mapper, and close the window."""
        if self._mapper is not None:
            self._mapper.unobserve(self._follow_mapper, "selection")
        for link in self._links:
            link.unlink()
        self.viewer.close()

    def assign(self, column: str, name: str | None = None) -> list[str]:
        """Write the regions that were drawn in napari's layer "drawn" into a column of obs.

        Parameters
        ----------
        column
            Of `adata.obs`, a new one or one of categories; cells in no drawn region keep what they have.
        name
            Of all that was drawn; None: "drawn 1", "drawn 2", … in the order of drawing, of which the later lie on top.

        Returns
        -------
        What was written, a sentence per region.

        Raises
        ------
        DataError
            If nothing was drawn, a line was, or the column holds numbers.
        """
        if not len(self._drawn.data):
            raise DataError(f"Nothing is drawn in the layer '{DRAWN}'. Draw polygons around cells there.")
        obs = self.adata.obs
        if column in obs and pd.api.types.is_numeric_dtype(obs[column]):
            raise DataError(f"obs['{shown(column)}'] holds numbers, not regions. Take another column.")
        values = obs[column].astype(object) if column in obs else pd.Series(None, index=obs.index, dtype=object)
        if not self._selectable:
            raise DataError(
                "The query has not been placed yet, so none of its cells is shown. Map it first: mapper.map()."
            )
        shown_cells = next(self.layers[at] for at in sorted(self._selectable))
        written = []
        for number, (corners, kind) in enumerate(zip(self._drawn.data, self._drawn.shape_type), 1):
            inside = shown_cells.cells[_inside(shown_cells.coordinates, np.asarray(corners), kind)]
            values.iloc[inside] = region = name or f"drawn {number}"
            written.append(f"obs['{shown(column)}'] = '{shown(region)}' for {counted(len(inside), 'cell')}")
        obs[column] = pd.Categorical(values)
        if self._mapper is not None:
            self._mapper.refresh()
        return written

    # Between this, napari and a mapper

    def _share(self, layer: Layer, on_screen) -> None:
        for trait in SHARED:
            layer.observe(lambda change, to=on_screen: setattr(to, change["name"], change["new"]), trait)
            event = getattr(on_screen.events, trait)
            event.connect(lambda *_, to=layer, of=on_screen, what=trait: setattr(to, what, getattr(of, what)))
        if layer.kind == "points":
            layer.observe(lambda change, to=on_screen: setattr(to, "size", change["new"]), "size")
            layer.observe(lambda change: self._recolor(layer), "color")
        if self._mapper is not None and layer.name in self._mapper.layers:
            theirs = self._mapper.layers[layer.name]
            self._links += [traitlets.link((theirs, trait), (layer, trait)) for trait in SHARED]

    def _recolor(self, layer: Layer) -> None:
        self._shown[layer.name].face_color = _colors(self._owners[layer.name], layer)

    def _take(self, name: str) -> None:
        """What is selected in a layer of napari's."""
        rows = np.fromiter(self._shown[name].selected_data, dtype=np.int64)
        cells = np.unique(self.layers[name].cells[rows])
        known = np.intersect1d(self.selection, self.layers[name].cells)
        if not np.array_equal(cells, known):
            self.selection = np.union1d(np.setdiff1d(self.selection, known), cells)

    @traitlets.validate("selection")
    def _positions(self, proposal: dict) -> np.ndarray:
        positions = np.asarray(proposal["value"])
        positions = np.flatnonzero(positions) if positions.dtype == bool else np.unique(positions).astype(np.int64)
        if len(positions) and (positions[0] < 0 or positions[-1] >= self.adata.n_obs):
            raise traitlets.TraitError(f"The selection has positions beyond the {self.adata.n_obs:,} cells.")
        return positions

    @traitlets.observe("selection")
    def _show_selection(self, change: dict) -> None:
        for name in getattr(self, "_selectable", ()):
            rows = set(np.flatnonzero(np.isin(self.layers[name].cells, self.selection)).tolist())
            if set(self._shown[name].selected_data) != rows:
                self._shown[name].selected_data = rows
                self._shown[name].refresh()
        if getattr(self, "_mapper", None) is not None and not np.array_equal(self._mapper.selection, self.selection):
            self._mapper.selection = self.selection

    def _follow_mapper(self, change: dict) -> None:
        if not np.array_equal(self.selection, change["new"]):
            self.selection = np.asarray(change["new"])


def _added(viewer, layer: Layer, adata: AnnData):
    """The layer on the screen."""
    common = {"name": layer.name, "visible": layer.visible, "opacity": layer.opacity}
    if layer.kind in ("image", "labels"):
        scale = {"scale": (layer.pixel_size, layer.pixel_size)}
        if layer.kind == "labels":
            return viewer.add_labels(layer.image, **scale, **common)
        return viewer.add_image(
            layer.image, rgb=layer.image.ndim == 3 and layer.image.shape[-1] in (3, 4), **scale, **common
        )
    if layer.kind == "shapes":
        polygons = [at[:, ::-1] for at in layer.polygons]
        drawn = {"face_color": "transparent", "edge_color": layer.color or "#444444"}
        return viewer.add_shapes(polygons, shape_type="polygon", features={"name": layer.names}, **drawn, **common)
    at = layer.coordinates[..., ::-1]
    if layer.kind == "vectors":
        lines = np.stack([at[:, 0], at[:, 1] - at[:, 0]], axis=1)  # napari's vectors: start, direction
        return viewer.add_vectors(lines, vector_style="line", edge_color=layer.color or "#999999", **common)
    colors = {"face_color": _colors(adata, layer), "border_width": 0}
    return viewer.add_points(at, size=layer.size, **colors, **common)


def _colors(adata: AnnData, layer: Layer) -> np.ndarray:
    """Of each point, RGBA from 0 to 1, float (points, 4)."""
    from matplotlib import colormaps
    from matplotlib.colors import is_color_like, to_rgba_array

    if layer.color is None or (is_color_like(layer.color) and layer.color not in adata.obs):
        return np.repeat(to_rgba_array(layer.color or palette(1)[0]), len(layer.cells), axis=0)
    if layer.color in adata.obs:
        column = adata.obs[layer.color].iloc[layer.cells]
        if isinstance(column.dtype, pd.CategoricalDtype):
            colors = [*category_colors(adata, layer.color), NO_VALUE]  # code −1 is the last
            return to_rgba_array(colors)[column.cat.codes]
        if not pd.api.types.is_numeric_dtype(column) or pd.api.types.is_bool_dtype(column):
            codes, names = pd.factorize(column, sort=True)
            return to_rgba_array([*palette(len(names)), NO_VALUE])[codes]
        values = column.to_numpy(dtype=float, na_value=np.nan)
    elif layer.color in adata.var_names:
        column = adata[layer.cells, layer.color].X
        values = np.asarray(column.toarray() if hasattr(column, "toarray") else column, dtype=float).ravel()
    else:
        raise DataError(f"'{shown(layer.color)}' is neither a column of obs, nor a gene, nor a colour.")
    finite = np.isfinite(values)
    low, high = (values[finite].min(), values[finite].max()) if finite.any() else (0.0, 1.0)
    colors = colormaps["cividis"]((values - low) / max(high - low, 1e-300))
    colors[~finite] = to_rgba_array(NO_VALUE)
    return colors


def _inside(places: np.ndarray, corners: np.ndarray, kind: str) -> np.ndarray:
    """Which points, x, y[, z], lie in a shape of napari's, whose corners are [z,] y, x; bool (points,)."""
    corners = corners[:, -2:][:, ::-1]
    if kind in ("polygon", "rectangle"):
        return cells_within(places, corners)
    if kind == "ellipse":  # given by the box around it
        axes = np.stack([corners[1] - corners[0], corners[3] - corners[0]]) / 2
        return ((np.linalg.solve(axes.T, (places[:, :2] - corners.mean(0)).T) ** 2).sum(0)) <= 1
    raise DataError(f"A {kind} in the layer '{DRAWN}' has no inside. Draw polygons, rectangles or ellipses.")
