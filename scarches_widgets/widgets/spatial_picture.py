"""What is drawn of a tissue: its layers, the section and plane in sight, and the same cells by their expression."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import bokeh
import numpy as np
import pandas as pd
import traitlets

from ..data.names import DataError, did_you_mean, listed, shown
from ..mapping.layers import Layer, Layers
from . import cell_view
from .bokeh_bridge import figure_item
from .cell_view import CellView, check_cells, dots_of
from .coloring import Coloring, coloring_of, columns_of, is_numeric
from .embedding_view import IN_WORDS, add_picture, cells_figure, extent_of, find_basis, positions_in
from .form import as_arguments, as_python
from .raster import within_all
from .spatial_layers import LABELS, tissue_figure
from .spatial_tissue import PLANES, Tissue, expression_plane, latent_plane

if TYPE_CHECKING:
    from anndata import AnnData

    from .raster import Dots
    from .session import Session
    from .spatial_placing import Placed

BASES = {"expression": "Expression (PCA)", "sagenet": "SageNet's latents (PCA)"}
BEHIND = 0.35  # opacity of the reference's cells once a query lies on them


class TissuePicture(CellView):
    """The picture of `SpatialMapper`, which see: cells of `adata`, the query or the reference, can be selected."""

    section = traitlets.Unicode(None, allow_none=True).tag(sync=True)
    plane = traitlets.Enum(tuple(PLANES), "xy").tag(sync=True)
    basis = traitlets.Unicode().tag(sync=True)
    sections = traitlets.List().tag(sync=True)
    planes = traitlets.List().tag(sync=True)
    bases = traitlets.List().tag(sync=True)  # pairs of a basis and its words
    paints = traitlets.List().tag(sync=True)  # results by which the cells can be coloured
    bokeh_version = traitlets.Unicode(bokeh.__version__).tag(sync=True)
    figure = traitlets.Dict().tag(sync=True)  # of the cells by expression: Bokeh's JSON, without data
    positions = traitlets.Bytes().tag(sync=True)  # float32: all x, then all y
    label = traitlets.Unicode().tag(sync=True)
    axes = traitlets.Dict().tag(sync=True)  # names of both
    tissue_figure = traitlets.Dict().tag(sync=True)
    tissue = traitlets.Bytes().tag(sync=True)  # places of the same cells, NaN where there is none
    tissue_label = traitlets.Unicode().tag(sync=True)
    tissue_axes = traitlets.Dict().tag(sync=True)  # names, which way y grows, and the extent of the section in sight
    tissue_problem = traitlets.Unicode().tag(sync=True)  # why there is no tissue to draw
    layer_states = traitlets.List().tag(sync=True)  # one dict per layer, lowest first
    image = traitlets.Dict().tag(sync=True)  # Tissue.image, or empty while it is hidden; so also the next three
    graph = traitlets.Dict().tag(sync=True)
    outlines = traitlets.Dict().tag(sync=True)
    reference_cells = traitlets.Dict().tag(sync=True)
    tissue_picture = traitlets.Dict().tag(sync=True)

    panes = ("picture", "tissue_picture")

    def __init__(
        self,
        adata: AnnData,
        color: str | None = None,
        session: Session | None = None,
        *,
        reference: AnnData,
        basis: str | None = None,
        region_key: str | None = None,
        images: tuple[Mapping[str, Any] | None, Sequence[str]] = (None, ()),
        **state: Any,
    ):
        check_cells(reference)
        self.reference = reference
        self._images = dict(zip(("libraries", "without_image"), images))
        self.placed: Placed | None = None
        self._tissue: Tissue | None = None
        self._tissue_of: Any = ()
        self._results: AnnData | None = None
        self._paint: str | None = None
        self._planes_of: dict[str, np.ndarray] = {}
        self._reference_coloring = Coloring()
        self._has_query = adata is not reference
        self.layers = Layers(self._first_layers(region_key))
        many = max(adata.n_obs, reference.n_obs) > cell_view.MOST_CELLS
        chart = cells_figure(adata.n_obs)
        if many:
            add_picture(chart)
        super().__init__(
            adata,
            color,
            session,
            figure=figure_item(chart),
            tissue_figure=figure_item(tissue_figure(adata.n_obs, many)),
            tissue_label="Tissue, with the query's cells" if self._has_query else "Tissue",
            by_kernel=many,
            **state,
        )
        self._list_columns()
        self._list_bases()
        self.basis = self._first_basis() if basis is None else self._known_basis(basis)
        for layer in self.layers.values():
            layer.observe(self._layer_changed)

    def _first_layers(self, region_key: str | None = None) -> list[Layer]:
        groups = groupings_in(self.reference, least=2)
        key = region_key if region_key in groups else (groups[0] if groups else None)
        pictured = *self._images.values(), self.reference.uns.get("spatial")  # or why it is not
        layers = [
            Layer("image", "image", visible=any(map(bool, pictured))),
            Layer("graph", "vectors", visible=False, opacity=0.6),
            Layer("cells", "points", color=key if self._has_query else None),
        ]
        if self._has_query:
            layers.append(Layer("predicted", "points"))
        return [*layers, Layer("regions", "shapes", visible=False, color=key)]

    # The tissue

    def _lay_out(self, keys: dict[str, str | None] | None, problem: str) -> None:
        """Draw the tissue by these keys, if it is not drawn so already; None: there is none, for this reason."""
        if self._tissue_of == (keys, problem):
            return
        self._tissue = None if keys is None else Tissue(self.reference, **keys, **self._images)
        self._tissue_of = (keys, problem)
        if self._tissue is not None:
            for name in ("cells", self._own_layer):
                self.layers[name].size = self._tissue.diameter()
        self.tissue_problem = problem
        self.sections = [] if self._tissue is None else self._tissue.sections
        self.planes = [] if self._tissue is None else self._tissue.planes
        if self.section not in self.sections:
            self.section = None
        if self.plane not in self.planes:
            self.plane = "xy"
        self._draw_tissue()

    def _draw_tissue(self) -> None:
        self.tissue_axes = self._extent()
        if not self.by_kernel:
            self.tissue = self._tissue_places().T.astype("<f4").tobytes()
        for name in self.layers:
            self._draw_layer(name)
        self._list_layers()

    def _extent(self) -> dict[str, Any]:
        places = np.zeros((0, 2))
        if self._tissue is not None:
            places = self._tissue.in_plane(self.plane)[self._tissue.is_in(self.section)]
        extent = extent_of(places)
        return {"x": self.plane[0], "y": self.plane[1], "extent": extent, "y_down": True}

    def _tissue_places(self) -> np.ndarray:
        """Where the cells that can be selected lie, float64 (cells, 2)."""
        nowhere = np.full((self.n_cells, 2), np.nan)
        if self._tissue is None:
            return nowhere
        if not self._has_query:
            return np.where(self._tissue.is_in(self.section)[:, None], self._tissue.in_plane(self.plane), nowhere)
        return nowhere if self.placed is None else self.placed.places[:, PLANES[self.plane]]

    @traitlets.observe("section", "plane")
    def _look_elsewhere(self, change: dict) -> None:
        if change["name"] == "section" and self.section is not None and self.section not in self.sections:
            near = did_you_mean(self.section, self.sections)
            self.section = None
            raise DataError(f"There is no section '{shown(change['new'])}'.{near} There are: {listed(self.sections)}.")
        if change["name"] == "plane" and self.planes and self.plane not in self.planes:
            self.plane = "xy"
            raise DataError(f"The tissue has {2 if len(self.planes) == 1 else 3} dimensions: {listed(self.planes)}.")
        if self._tissue is not None:
            self._draw_tissue()

    # Layers

    def _layer_changed(self, change: dict) -> None:
        """A layer was changed, from Python or from the page."""
        layer, name = change["owner"], change["name"]
        try:
            if name == "color" and layer.name == self._own_layer:
                self._choose_color(layer.color)
            elif name == "color" and layer.color is not None:
                coloring_of(self.reference, layer.color)
        except DataError:
            layer.set_trait("color", change["old"])
            raise
        if name != "opacity" and not (name == "color" and layer.name == self._own_layer):
            self._draw_layer(layer.name)
        self._list_layers()

    @property
    def _own_layer(self) -> str:
        """The layer of the cells that can be selected."""
        return "predicted" if self._has_query else "cells"

    def _draw_layer(self, name: str) -> None:
        layer, tissue = self.layers[name], self._tissue
        if name == "cells":
            layer.coordinates = None if tissue is None else tissue.places
        elif name == "predicted":
            layer.coordinates = None if self.placed is None else self.placed.places
        drawn = layer.visible and tissue is not None
        if name == "image":
            is_flat = drawn and len(tissue.planes) == 1
            self.image = tissue.image(self.section) if is_flat else {}
        elif name == "graph":
            self.graph = tissue.graph(self.plane, self.section) if drawn else {}
        elif name == "regions":
            self.outlines = self._outlined(layer.color) if drawn else {}
        elif name == "cells" and self._has_query:
            self.reference_cells = self._seen_reference(layer) if drawn else {}

    def _outlined(self, key: str | None) -> dict[str, Any]:
        coloring = Coloring() if key is None else coloring_of(self.reference, key)
        if coloring.kind != "categories":
            return {"why": "Choose a column of groups to outline."}
        outlines = self._tissue.outlines(self.plane, self.section, *_regions_of(coloring))
        return {**outlines, "names": list(coloring.names), "colours": list(coloring.colours)}

    def _seen_reference(self, layer: Layer) -> dict[str, Any]:
        coloring = Coloring() if layer.color is None else coloring_of(self.reference, layer.color)
        self._reference_coloring = coloring
        places = b"" if self.by_kernel else self._reference_places().T.astype("<f4").tobytes()
        return {"positions": places, **coloring.for_page(not self.by_kernel)}

    def _reference_places(self) -> np.ndarray:
        inside = self._tissue.is_in(self.section)
        return np.where(inside[:, None], self._tissue.in_plane(self.plane), np.nan)

    def _cells_of_region_at(self, x: float, y: float) -> np.ndarray:
        """Which of the cells in sight lie within the outlined region at a point of the tissue, bool (cells,)."""
        if "lines" not in self.outlines:
            raise DataError("No region is outlined. Show the layer of region outlines, or click a group in the list.")
        key = self.layers["regions"].color
        rings = self._tissue.rings(self.plane, self.section, *_regions_of(coloring_of(self.reference, key)))
        regions: dict[int, list[np.ndarray]] = {}
        for code, corners in rings:
            regions.setdefault(code, []).append(corners)
        for corners in regions.values():
            if within_all(np.array([[x, y]]), corners)[0]:
                return within_all(self._places_in("tissue_picture"), corners)
        raise DataError("There is no outlined region here. Click into one, or a group in the list.")

    # Many cells

    def _places_in(self, pane: str) -> np.ndarray:
        return self._tissue_places() if pane == "tissue_picture" else self._expressed()

    def _layers_in(self, pane: str, colours: dict[str, np.ndarray]) -> list[Dots]:
        if pane != "tissue_picture":
            return super()._layers_in(pane, colours)
        layers = []
        if self._tissue is None:
            return layers
        below, own = self.layers["cells"], self.layers[self._own_layer]
        if self._has_query and below.visible:
            size = {"opacity": below.opacity, "diameter": below.size}
            layers.append(dots_of(self._reference_places(), self._reference_coloring, colours["reference"], **size))
        if own.visible:
            size = {"opacity": own.opacity, "diameter": own.size}
            places = self._places_in(pane)
            layers.append(dots_of(places, self._coloring, colours["own"], selected=self.mask, **size))
        return layers

    def _list_layers(self) -> None:
        """Tell the page of all layers."""
        self._draw_anew()
        notes = {"image": self.image, "graph": self.graph, "regions": self.outlines}
        states = []
        for layer in self.layers.values():
            name = layer.name
            note = notes.get(name, {})
            states.append(
                {
                    "name": name,
                    "label": "Cells" if name == "cells" and not self._has_query else LABELS[name],
                    "visible": layer.visible,
                    "opacity": layer.opacity,
                    "color": layer.color,
                    "colors": self._colors_of(name),
                    "radius": layer.size / 2,
                    "note": note.get("why") or note.get("note") or "",
                }
            )
        self.layer_states = states

    def _colors_of(self, name: str) -> list[str] | None:
        """Columns by which a layer can be coloured in the list; None: by none, or by the cells' own menu."""
        if name == "regions":
            return groupings_in(self.reference)
        return columns_of(self.reference) if name == "cells" and self._has_query else None

    def _list_columns(self) -> None:
        """Read anew by which columns cells can be coloured."""
        self.columns = columns_of(self.adata)
        self._list_layers()

    # Colours

    def _colored(self) -> Coloring:
        if self._results is not None and self._paint in self._results.obs:
            return coloring_of(self._results, self._paint)
        return super()._colored()

    def _read_colors(self) -> None:
        super()._read_colors()
        own = self.layers[self._own_layer]
        if own.color != self._coloring.key:
            own.set_trait("color", self._coloring.key)

    @traitlets.observe("color")
    def _show_color(self, change: dict) -> None:
        self._paint = None
        super()._show_color(change)

    def _choose_color(self, key: str | None) -> None:
        """Colour the cells that can be selected: by a result of the mapping, a column or a gene."""
        if key == self._coloring.key:
            return
        if self._results is not None and key in self._results.obs:
            self._paint = key
        else:
            self.color, self._paint = key, None
        if self._coloring.key != key:
            self._read_colors()

    def _show_placed(self) -> None:
        """A query has been placed: draw it, by its regions if they are known."""
        from anndata import AnnData

        placed = self.placed
        uns = {}
        if placed.regions is not None and f"{placed.regions.name}_colors" in self.reference.uns:
            uns[f"predicted_{placed.regions.name}_colors"] = list(self.reference.uns[f"{placed.regions.name}_colors"])
        self._results = AnnData(obs=placed.columns(), uns=uns)
        self.paints = list(self._results.obs)
        self.confidence = b"" if self.by_kernel else placed.confidence.astype("<f4").tobytes()
        if self.layers["cells"].opacity == 1:
            self.layers["cells"].opacity = BEHIND
        self._choose_color(self.paints[0])
        self._list_bases()
        if self.basis == "sagenet":
            self._show_basis({})  # of the new model
        self._draw_tissue()

    # The same cells by their expression

    def _first_basis(self) -> str:
        keys = [key for key, _ in self.bases if key not in BASES]
        known = [key for key in keys if key.removeprefix("X_") in IN_WORDS]
        return next((key for key in known if "umap" in key), known[0] if known else "expression")

    def _known_basis(self, basis: str) -> str:
        self._list_bases()
        if basis == "sagenet" and not self._has_latents:
            raise DataError("There is no trained SageNet yet, so there are no latents. Map first, or give a model.")
        return basis if basis in BASES else find_basis(self.adata, basis)

    @property
    def _has_latents(self) -> bool:
        return False

    def _latents(self) -> np.ndarray:
        """What a model says of the cells, (cells, latents)."""
        raise NotImplementedError

    def _list_bases(self) -> None:
        wide = [key for key, values in self.adata.obsm.items() if len(values.shape) == 2 and values.shape[1] > 1]
        words = [[key, IN_WORDS.get(key.removeprefix("X_"), key.removeprefix("X_"))] for key in wide]
        own = [name for name in BASES if name == "expression" or self._has_latents]
        self.bases = [*words, *([name, BASES[name]] for name in own)]

    @traitlets.observe("basis")
    def _show_basis(self, change: dict) -> None:
        if not self.basis:
            return
        self.label = dict(self.bases).get(self.basis, self.basis)
        name = "PC" if self.basis in BASES else self.label
        axes = {"x": f"{name} 1", "y": f"{name} 2"}
        places = self._expressed()
        if self.by_kernel:
            self.axes = {**axes, "extent": extent_of(places)}
            self._draw_anew()
        else:
            self.axes = axes
            self.positions = places.T.astype("<f4").tobytes()

    def _expressed(self) -> np.ndarray:
        """Positions by the basis, float32 (cells, 2)."""
        if self.basis not in BASES:
            return positions_in(self.adata, self.basis)
        if self.basis not in self._planes_of:
            plane = expression_plane(self.adata) if self.basis == "expression" else latent_plane(self._latents())
            self._planes_of[self.basis] = plane
        return self._planes_of[self.basis]

    # From the browser

    def _click_color(self, content: dict, buffers: list) -> None:
        key = content.get("key")
        if key is not None and not isinstance(key, str):
            raise TypeError("A colour is a name.")
        self.error = None
        self._choose_color(key)

    def _click_layer(self, content: dict, buffers: list) -> None:
        layer = self.layers[str(content["name"])]
        self.error = None
        for name, check in {"visible": _flag, "opacity": float, "color": _name}.items():
            if name in content:
                setattr(layer, name, check(content[name]))

    def _click_sight(self, content: dict, buffers: list) -> None:
        self.error = None
        if "section" in content:
            self.section = _name(content["section"])
        if "plane" in content:
            self.plane = content["plane"]
        if "basis" in content:
            self.basis = self._known_basis(str(content["basis"]))

    # Code and pictures

    def _code_of_sight(self) -> list[str]:
        """Lines that make the view again, with what is chosen in it."""
        keys = {"spatial_key": "spatial", "section_key": None}
        chosen = self._tissue_of[0] if self._tissue_of else None
        options = {name: value for name, value in (chosen or {}).items() if value != keys[name]}
        options |= self._code_of_options()
        made = f", {as_arguments(options)}" if options else ""
        given = [self._name_of_reference, *(["query"] if self._has_query else []), *self._code_of_arguments()]
        basis = "" if self.basis == self._first_basis() else f", basis={as_python(self.basis)}"
        lines = [f"mapper = sca.widgets.SpatialMapper({', '.join(given)}{made}{basis})"]
        if self.section is not None:
            lines.append(f"mapper.section = {as_python(self.section)}")
        if self.plane != "xy":
            lines.append(f"mapper.plane = {as_python(self.plane)}")
        for first in self._first_layers(options.get("region_key")):
            layer = self.layers[first.name]
            if layer.kind == "points" and self._tissue is not None:
                first.size = self._tissue.diameter()
            for name in ("visible", "opacity", "color", "size"):
                value = getattr(layer, name)
                is_own = name == "color" and layer.name == self._own_layer
                if value != getattr(first, name) and not (is_own and self._paint is not None):
                    lines.append(f"mapper.layers[{as_python(layer.name)}].{name} = {as_python(value)}")
        if len(self.selection):
            selection = self._selection_code()
            if "b85decode" in selection:
                lines.insert(0, "import base64, zlib\nimport numpy as np\n")
            lines += ["adata = mapper.adata", f"mapper.selection = {selection}"]
        return [*lines, "mapper"]

    def _code_of_arguments(self) -> list[str]:
        return []

    def _code_of_options(self) -> dict[str, Any]:
        return {}

    def _picture(self, format: str) -> bytes:
        from ..mapping.pictures import draw_groups, draw_numbers, figure, picture_bytes

        drawn, (left, right) = figure((10, 4.4), 2)
        coloring, places = self._coloring, self._tissue_places()
        if self._tissue is not None:
            if self._has_query and self.layers["cells"].visible:
                inside = self._tissue.is_in(self.section)
                own = self._tissue.in_plane(self.plane)[inside]
                draw_groups(left, own, np.zeros(len(own), dtype=int), ("reference",), ("#C9C9D0",))
            there = np.isfinite(places).all(1)
            everywhere = np.ones(self.n_cells, dtype=bool)
            for axis, position, kept in ((left, places, there), (right, self._expressed(), everywhere)):
                if not kept.any():
                    continue
                mask = self.mask[kept] if len(self.selection) else None
                if coloring.kind == "numbers":
                    draw_numbers(axis, position[kept], coloring.values[kept], coloring.label, mask)
                else:
                    codes = coloring.values if coloring.kind == "categories" else np.zeros(self.n_cells, dtype=int)
                    names = coloring.names or ("cells",)
                    draw_groups(axis, position[kept], codes[kept], names, coloring.colours, mask)
                if axis is left and axis.get_legend():
                    axis.get_legend().remove()
        if not left.yaxis_inverted():
            left.invert_yaxis()
        left.set(title=self.tissue_label, aspect="equal", xticks=[], yticks=[])
        right.set(title=self.label)
        return picture_bytes(drawn, format, most_colours=256)


def _regions_of(coloring: Coloring) -> tuple[np.ndarray, int]:
    """Each cell's region, int (cells,), and how many regions there are; codes beyond are none."""
    return coloring.values.astype(int), len(coloring.names) - coloring.has_missing


def groupings_in(adata: AnnData, least: int = 1) -> list[str]:
    """Columns of obs that hold so many groups at least."""
    columns = {name: adata.obs[name] for name in columns_of(adata) if not is_numeric(adata.obs[name])}
    return [name for name, column in columns.items() if n_groups(column) >= least]


def n_groups(column: pd.Series) -> int:
    """Of a column; cells without a value are one more."""
    if isinstance(column.dtype, pd.CategoricalDtype):
        return np.count_nonzero(np.bincount(column.cat.codes.to_numpy().astype(np.int64) + 1))
    return column.astype(str).nunique()


def _flag(value: Any) -> bool:
    if not isinstance(value, bool):
        raise TypeError("Visible or not is yes or no.")
    return value


def _name(value: Any) -> str | None:
    if value is not None and not isinstance(value, str):
        raise TypeError("This is no name.")
    return value
