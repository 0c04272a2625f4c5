"""What is drawn of a tissue, as plain data that views in the notebook and napari both show.

Layers have napari's words, so that `layers["cells"].visible = False` reads alike in both. Coordinates are x, y[, z] in
the units of `obsm["spatial"]`, y downwards as the rows of an image run (napari's own order is z, y, x).

    image      a picture of the tissue                  `image`, (rows, columns, channels), uint8 or 0 to 1
    labels     a segmentation                           `image`, int (rows, columns), 0 = background
    points     cells, spots, or predicted positions     `coordinates`, (points, dimensions); `size`, a diameter
    vectors    edges of the neighbour graph             `coordinates`, (edges, 2, dimensions): from, to
    shapes     outlines of regions                      `polygons`, each (corners, 2), and their `names`

Nothing is modified: layers hold copies, or read-only views of an AnnData's arrays.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np
import pandas as pd
import traitlets
from scipy.spatial import Delaunay, QhullError, cKDTree

from ..data.coordinates import places_of
from ..data.names import DataError, did_you_mean, listed, shown
from .pictures import COLOURS, palette

if TYPE_CHECKING:
    from anndata import AnnData

KINDS = ("image", "labels", "points", "vectors", "shapes")
GRAPH = "spatial_connectivities"  # where squidpy writes it
LONGEST_EDGE = 3.0  # of an outline's triangles, in the distance of nearest cells that nine in ten do not exceed
MOST_MEASURED = 50_000  # cells whose nearest one is looked for
MOST_SEARCHED = 100_000  # cells among which it is looked for
RESOLUTIONS = ("hires", "lowres")  # of a tissue image, the better first


class Layer(traitlets.HasTraits):
    """One layer. What may be changed later is a trait, so that a view can observe it; the data stay.

    Attributes
    ----------
    name, kind
        One of `KINDS`; see the module's text for the data of each.
    visible, opacity
        Opacity from 0 to 1.
    color
        A column of `obs` or a gene, by which points are coloured; or a colour as "#rrggbb".
    size
        Diameter of points, in the units of the coordinates.
    coordinates, image, polygons, names
        As the kind has them.
    cells
        Of points, the position of each one's cell in the AnnData, int64 (points,).
    pixel_size
        Of an image, how many units of the coordinates one pixel spans. Its corner lies at 0, 0.
    """

    visible = traitlets.Bool(True)
    opacity = traitlets.Float(1.0, min=0.0, max=1.0)
    color = traitlets.Unicode(None, allow_none=True)
    size = traitlets.Float(1.0, min=0.0)

    def __init__(
        self,
        name: str,
        kind: Literal["image", "labels", "points", "vectors", "shapes"],
        *,
        coordinates: np.ndarray | None = None,
        image: np.ndarray | None = None,
        polygons: Sequence[np.ndarray] = (),
        names: Sequence[str] = (),
        cells: np.ndarray | None = None,
        pixel_size: float = 1.0,
        **state,
    ):
        if kind not in KINDS:
            raise ValueError(f"kind='{kind}' is not known. Pass one of {listed(KINDS, 9)}.")
        super().__init__(**state)
        self.name, self.kind = name, kind
        self.coordinates, self.image, self.cells, self.pixel_size = coordinates, image, cells, pixel_size
        self.polygons, self.names = list(polygons), list(names)

    def __repr__(self) -> str:
        hidden = "" if self.visible else ", hidden"
        return f"Layer({self.name!r}, {self.kind}, {self._amount}{hidden})"

    @property
    def _amount(self) -> str:
        if self.image is not None:
            return " × ".join(str(n) for n in self.image.shape[1::-1]) + " pixels"
        return f"{len(self.polygons if self.kind == 'shapes' else self.coordinates):,}"


class Layers:
    """Layers by name, the lowest first."""

    def __init__(self, layers: Sequence[Layer] = ()):
        self._by_name = {layer.name: layer for layer in layers}

    def __getitem__(self, name: str) -> Layer:
        if name not in self._by_name:
            raise KeyError(f"There is no layer '{name}'.{did_you_mean(name, self)} There are: {listed(self, 20)}.")
        return self._by_name[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._by_name)

    def __len__(self) -> int:
        return len(self._by_name)

    def __contains__(self, name: object) -> bool:
        return name in self._by_name

    def __repr__(self) -> str:
        return f"Layers({', '.join(repr(layer) for layer in self.values())})"

    def values(self) -> list[Layer]:
        return list(self._by_name.values())

    def add(self, layer: Layer) -> Layer:
        """On top of the others, or in place of the one of its name."""
        self._by_name[layer.name] = layer
        return layer


def layers_of(
    adata: AnnData,
    *,
    color: str | None = None,
    region_key: str | None = None,
    library_key: str | None = None,
    library: str | None = None,
    spatial_key: str = "spatial",
    locations: pd.DataFrame | None = None,
) -> Layers:
    """Layers of a tissue: those of "image", "segmentation", "graph", "cells", "regions" and "predicted" that exist.

    Parameters
    ----------
    adata
        Cells with coordinates in `obsm[spatial_key]`; or, with `locations`, cells that were placed.
    color
        Column of `obs` or gene, by which cells are coloured.
    region_key
        Column of `obs` whose regions are outlined, in 2-D.
    library_key, library
        Column of `obs` with each cell's section or slide, and the one to show; with one library in `uns[spatial_key]`
        and no `library_key`, all cells belong to it.
    locations
        Predicted places of these cells, as `SageNet.predict_locations` gives them.

    Raises
    ------
    DataError
        If there are no coordinates, or a key or library does not exist.
    """
    places = None
    if spatial_key in adata.obsm or locations is None:
        places = places_of(adata, spatial_key, of="AnnData")
    cells, library = _cells_of(adata, library_key, library, spatial_key)
    layers = Layers()
    if places is not None:
        places = places[cells]
        size = _add_pictures(layers, adata, library, spatial_key) or spacing(places)
        if GRAPH in adata.obsp:
            start, end = adata.obsp[GRAPH][cells][:, cells].nonzero()
            is_once = start < end
            edges = np.stack([places[start[is_once]], places[end[is_once]]], axis=1)
            layers.add(Layer("graph", "vectors", coordinates=edges, visible=False, opacity=0.5, color="#999999"))
        layers.add(Layer("cells", "points", coordinates=places, cells=cells, size=size, color=color))
        if region_key is not None and places.shape[1] == 2:
            layers.add(_outlined(adata, region_key, places, cells))
    if locations is not None:
        at = locations.loc[adata.obs_names[cells]]
        at = at[[name for name in ("x", "y", "z") if name in at]].to_numpy(dtype=np.float64)
        state = {"size": spacing(at) if places is None else size, "color": color or COLOURS[5]}
        layers.add(Layer("predicted", "points", coordinates=at, cells=cells, visible=places is None, **state))
    return layers


def table_of(data, table_key: str | None = None) -> AnnData:
    """The AnnData, or the table of SpatialData."""
    tables = getattr(data, "tables", None)
    if tables is None:
        return data
    if table_key is None and len(tables) == 1:
        return next(iter(tables.values()))
    if table_key not in tables:
        asked = f"no table '{table_key}'" if table_key is not None else f"{len(tables)} tables"
        raise DataError(f"The SpatialData has {asked}. Name one, table_key=…: {listed(tables, 20) or 'there is none'}.")
    return tables[table_key]


def spacing(places: np.ndarray) -> float:
    """Median distance of a cell from the nearest one at another place: a size at which points nearly touch.

    Of very many cells, those of a strip through the middle tell it.
    """
    if len(places) > MOST_SEARCHED:
        half = MOST_SEARCHED / len(places) / 2
        low, high = np.quantile(places[:, 0], [0.5 - half, 0.5 + half])
        places = places[(places[:, 0] >= low) & (places[:, 0] <= high)]
    nearest = _distances(places)
    if (nearest == 0).any():
        nearest = _distances(np.unique(places, axis=0))
    return float(np.median(nearest)) if len(nearest) else 1.0


def _distances(places: np.ndarray) -> np.ndarray:
    """Of some cells from the nearest other one; of none if there is but one."""
    if len(places) < 2:
        return np.zeros(0)
    some = places[:: -(-len(places) // MOST_MEASURED)]
    return cKDTree(places, balanced_tree=False, compact_nodes=False).query(some, 2)[0][:, 1]


def category_colors(adata: AnnData, key: str) -> list[str]:
    """A colour "#rrggbb" for each category of a column of `obs`: those of `uns["<key>_colors"]` if they fit."""
    from matplotlib.colors import to_hex

    n = len(adata.obs[key].cat.categories)
    stored = adata.uns.get(f"{key}_colors")
    try:
        colors = [to_hex(color) for color in stored][:n]
    except (TypeError, ValueError):
        colors = []
    return colors if len(colors) == n else palette(n)


def cells_within(places: np.ndarray, polygon: np.ndarray) -> np.ndarray:
    """Which points lie in a polygon, bool (points,); only x and y count."""
    from matplotlib.path import Path

    return Path(np.asarray(polygon)[:, :2]).contains_points(np.asarray(places)[:, :2])


def outlines(places: np.ndarray, codes: np.ndarray) -> list[tuple[int, np.ndarray]]:
    """Outlines of regions of cells: code of each one's region, and its corners, (corners, 2).

    A region is what triangles between neighbours (Delaunay) of one code cover, without those that have an edge much
    longer than cells are apart; it may have several parts, and holes are outlined too. Codes below 0 are no region.
    """
    try:
        triangles = Delaunay(places).simplices
    except QhullError:  # fewer than 3 cells, or all in a line
        return []
    corners = places[triangles]
    longest = np.linalg.norm(corners - np.roll(corners, 1, axis=1), axis=2).max(1)
    usual = np.quantile(cKDTree(places).query(places, 2)[0][:, 1], 0.9)
    of_one = (codes[triangles] == codes[triangles[:, :1]]).all(1) & (longest <= LONGEST_EDGE * max(usual, 1e-300))
    found = []
    for code in np.unique(codes[codes >= 0]):
        of_region = triangles[of_one & (codes[triangles[:, 0]] == code)]
        edges = np.sort(np.concatenate([of_region[:, [0, 1]], of_region[:, [1, 2]], of_region[:, [2, 0]]]), axis=1)
        distinct, count = np.unique(edges, axis=0, return_counts=True)
        found += [(int(code), places[ring]) for ring in _rings(distinct[count == 1])]
    return found


def _rings(edges: np.ndarray) -> list[list[int]]:
    """Closed walks that use each edge once; every corner has an even number of them."""
    next_to: dict[int, list[int]] = {}
    for start, end in edges.tolist():
        next_to.setdefault(start, []).append(end)
        next_to.setdefault(end, []).append(start)
    rings = []
    for start in next_to:
        while next_to[start]:
            ring = [start]
            while (end := next_to[ring[-1]].pop()) != start:
                next_to[end].remove(ring[-1])
                ring.append(end)
            next_to[start].remove(ring[-1])
            rings.append(ring)
    return rings


def _cells_of(adata, library_key: str | None, library: str | None, spatial_key: str) -> tuple[np.ndarray, str | None]:
    """Positions of the library's cells, and its name in `uns[spatial_key]`."""
    pictured = adata.uns.get(spatial_key, {})
    if library_key is None:
        if library is not None and library not in pictured:
            raise DataError(
                f"uns['{spatial_key}'] has no library '{library}'.{did_you_mean(library, pictured)} "
                f"There are: {listed(pictured, 20) or 'none'}."
            )
        if len(pictured) > 1:
            raise DataError(
                f"uns['{spatial_key}'] has {len(pictured)} libraries ({listed(pictured)}). Name the column of obs that "
                "says each cell's, and the one to show: library_key=…, library=…."
            )
        return np.arange(adata.n_obs), library or next(iter(pictured), None)
    if library_key not in adata.obs:
        raise DataError(
            f"obs has no column '{library_key}'.{did_you_mean(library_key, adata.obs)} "
            f"There are: {listed(adata.obs, 20)}."
        )
    names = adata.obs[library_key].astype(str).to_numpy()
    library = str(names[0]) if library is None else str(library)
    cells = np.flatnonzero(names == library)
    if not len(cells):
        there = pd.unique(names)
        raise DataError(
            f"No cell is of library '{shown(library)}' in obs['{library_key}'].{did_you_mean(library, there)} "
            f"There are: {listed(there, 20)}."
        )
    return cells, library


def _add_pictures(layers: Layers, adata, library: str | None, spatial_key: str) -> float | None:
    """Add the library's image and segmentation; the diameter of its spots, if it is known."""
    pictured = adata.uns.get(spatial_key, {}).get(library, {})
    images, factors = pictured.get("images", {}), pictured.get("scalefactors", {})
    for resolution in RESOLUTIONS:
        if resolution in images:
            pixel_size = 1 / float(factors.get(f"tissue_{resolution}_scalef", 1.0))
            layers.add(Layer("image", "image", image=np.asarray(images[resolution]), pixel_size=pixel_size))
            break
    if "segmentation" in images:
        pixel_size = 1 / float(factors.get("tissue_segmentation_scalef", 1.0))
        segmented = np.asarray(images["segmentation"])
        layers.add(Layer("segmentation", "labels", image=segmented, pixel_size=pixel_size, opacity=0.5, visible=False))
    return float(factors["spot_diameter_fullres"]) if "spot_diameter_fullres" in factors else None


def _outlined(adata, region_key: str, places: np.ndarray, cells: np.ndarray) -> Layer:
    if region_key not in adata.obs:
        raise DataError(
            f"obs has no column '{region_key}' with regions.{did_you_mean(region_key, adata.obs)} "
            f"There are: {listed(adata.obs, 20)}."
        )
    codes, names = pd.factorize(adata.obs[region_key].to_numpy()[cells], sort=True)
    found = outlines(places, codes)
    return Layer(
        "regions",
        "shapes",
        polygons=[at for _, at in found],
        names=[str(names[code]) for code, _ in found],
        color="#444444",
        visible=False,
    )
