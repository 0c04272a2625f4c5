"""squidpy's views of a tissue, each as one call: the figure, the numbers behind it, and the plain `sq.…` code.

    view = sca.mapping.tissue.nhood_enrichment(adata, "cell_type")
    view.figure, view.table, print(view.code)

squidpy computes and draws (Palla et al. 2022, doi:10.1038/s41592-021-01358-2); it is imported with the first view, in
seconds. Its functions write into the AnnData and into matplotlib's current figure: here they get a light copy, and the
figure is taken out of pyplot, so that neither the AnnData nor the user's plots change. `code` is what was called, and
does write into `adata`. Works with the reference, and with a mapped query by `spatial_key="X_sagenet"`.
"""

from __future__ import annotations

import logging
import threading
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import product
from operator import attrgetter
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd

from ..data.coordinates import places_of
from ..data.matrix import layer_names
from ..data.names import DataError, did_you_mean, listed, shown
from ..nn.enrichment import enrichment
from .layers import category_colors, table_of
from .pictures import picture_bytes

if TYPE_CHECKING:
    from anndata import AnnData

MOST_PAIRED_CELLS = 5000  # whose pairs are looked at: 2 s, and 16 times as long for 20,000
N_TOP = 4  # genes that are drawn
_drawing = threading.Lock()  # pyplot belongs to the process


@dataclass(frozen=True)
class TissueView:
    """What a function of this module returns; a notebook displays the figure.

    Attributes
    ----------
    figure
        A matplotlib Figure that pyplot does not know.
    code
        Plain squidpy for an `adata` (or of SpatialData, `sdata`), which it modifies.
    table
        The numbers; None where there are none beyond the picture.
    note
        What the reader must know of them; empty if nothing.
    """

    figure: Any
    code: str
    table: pd.DataFrame | None = None
    note: str = ""

    def _repr_png_(self) -> bytes:
        return picture_bytes(self.figure, whole=True)


def spatial_scatter(
    data,
    color: str | Sequence[str] | None = None,
    *,
    library_key: str | None = None,
    spatial_key: str = "spatial",
    image: bool = True,
    graph: bool = False,
    size: float | None = None,
    n_neighbors: int = 6,
    table_key: str | None = None,
) -> TissueView:
    """Cells where they lie, over the tissue's image if there is one.

    Parameters
    ----------
    data
        AnnData with coordinates in `obsm[spatial_key]`, of which the first two are drawn; or SpatialData. Not modified.
    color
        Columns of `obs` and genes; a picture of each.
    library_key
        Column of `obs` with each cell's section or slide; a picture of each.
    spatial_key
        "spatial"; of a query that SageNet mapped, "X_sagenet".
    image
        Whether to draw `uns[spatial_key][library]["images"]["hires"]`, where all libraries have one.
    graph
        Whether to draw the edges of the spatial graph.
    size
        Of points; over an image, in spot diameters.
    n_neighbors
        Of the graph, if it must be computed since the AnnData has none.
    table_key
        Name of the table in SpatialData that has several.

    Raises
    ------
    DataError
        If a key does not exist, or a column that must hold categories does not.
    """
    colors = [color] if isinstance(color, str) else list(color or [])
    script = _Script(data, table_key, spatial_key, colors, library_key)
    if graph:
        script.need_graph(n_neighbors, library_key)
    script.scatter(colors, library_key, image, script.graph_key if graph else None, size)
    return script.view()


def spatial_neighbors(
    data,
    *,
    method: Literal["knn", "radius", "delaunay", "grid"] = "knn",
    n_neighbors: int = 6,
    radius: float | None = None,
    color: str | None = None,
    library_key: str | None = None,
    spatial_key: str = "spatial",
    image: bool = True,
    table_key: str | None = None,
) -> TissueView:
    """The spatial graph, computed anew, drawn over the cells.

    Parameters
    ----------
    method
        "knn": so many nearest cells. "radius": all cells within `radius`, in the units of the coordinates. "delaunay":
        triangulation. "grid": neighbours on the lattice of spots.
    n_neighbors
        Of "knn" and "grid".
    data, color, library_key, spatial_key, image, table_key
        As in `spatial_scatter`; cells of two libraries are no neighbours.

    Returns
    -------
    TissueView whose table has one row per library (or "all"): `cells`, `edges`, whatever their
    direction, mean `neighbors` of a cell, and `isolated` cells that have none.
    """
    colors = [] if color is None else [color]
    script = _Script(data, table_key, spatial_key, colors, library_key)
    script.graph(method, n_neighbors, radius, library_key)
    script.scatter(colors, library_key, image, script.graph_key, None)
    graph = script.adata.obsp[script.graph_key]
    either = (graph + graph.T).tocsr()  # squidpy's nearest neighbours need not be mutual
    n_neighbors_of = np.diff(either.indptr)
    library = script.adata.obs[library_key].to_numpy() if library_key else np.full(graph.shape[0], "all")
    frame = pd.DataFrame({"library": library, "neighbors": n_neighbors_of, "isolated": n_neighbors_of == 0})
    of_library = frame.groupby("library", observed=True)
    table = pd.DataFrame(
        {
            "cells": of_library.size(),
            "edges": of_library["neighbors"].sum() // 2,
            "neighbors": of_library["neighbors"].mean(),
            "isolated": of_library["isolated"].sum(),
        }
    )
    return script.view(table)


def nhood_enrichment(
    data,
    cluster_key: str,
    *,
    n_perms: int | None = None,
    library_key: str | None = None,
    spatial_key: str = "spatial",
    n_neighbors: int = 6,
    seed: int = 0,
    table_key: str | None = None,
) -> TissueView:
    """Which categories are neighbours more often than by chance.

    Parameters
    ----------
    cluster_key
        Categorical column of `obs`; cells without a value are left out.
    n_perms
        None: mean and variance over all permutations, by a formula (`nn.enrichment`), in milliseconds. A number:
        squidpy draws so many, seeded by `seed`; its z differs from the exact one by the error of its draw.
    data, library_key, spatial_key, n_neighbors, table_key
        As in `spatial_scatter`; labels are permuted within libraries.

    Returns
    -------
    TissueView whose table holds z, categories × categories: above 0, the row's cells have more neighbours of the
    column's category than by chance. `code` draws 1,000 permutations if `n_perms` is None.
    """
    script = _Script(data, table_key, spatial_key, (), library_key, cluster_key)
    script.need_graph(n_neighbors, library_key)
    options = {"n_perms": n_perms or 1000, "seed": seed, "show_progress_bar": False}
    options = _given(cluster_key=cluster_key, library_key=library_key, connectivity_key=script.graph_key) | options
    adata, categories = script.adata, script.adata.obs[cluster_key].cat.categories
    if n_perms is None:
        script.note(f"sq.gr.nhood_enrichment(adata, {_arguments(options)})")
        codes = [None if key is None else adata.obs[key].cat.codes.to_numpy() for key in (cluster_key, library_key)]
        found = enrichment(adata.obsp[script.graph_key], codes[0].astype(np.int64), len(categories), codes[1])
        adata.uns[f"{cluster_key}_nhood_enrichment"] = {"zscore": found.zscore, "count": found.counts}
    else:
        script.call("gr.nhood_enrichment", **options)
    z = adata.uns[f"{cluster_key}_nhood_enrichment"]["zscore"]
    script.draw("pl.nhood_enrichment", cluster_key=cluster_key, figsize=_square(len(categories)))
    return script.view(pd.DataFrame(z, index=categories, columns=categories))


def co_occurrence(
    data,
    cluster_key: str,
    *,
    clusters: str | Sequence[str] | None = None,
    interval: int = 50,
    max_cells: int = MOST_PAIRED_CELLS,
    spatial_key: str = "spatial",
    seed: int = 0,
    table_key: str | None = None,
) -> TissueView:
    """How much more frequent a category is at a distance from cells of another than anywhere.

    Parameters
    ----------
    clusters
        Categories around which to look; None: all.
    interval
        Number of distances.
    max_cells, seed
        All pairs of cells are looked at: of more cells, so many, drawn by the seed, which estimate the same ratios.
    data, cluster_key, spatial_key, table_key
        As in `nhood_enrichment`; 2-D coordinates of one library.

    Returns
    -------
    TissueView whose table has a row per distance and pair: `distance` (in the units of the coordinates), `around`,
    `category`, and `ratio` = p(category | within distance of around) / p(category).
    """
    script = _Script(data, table_key, spatial_key, cluster_key=cluster_key, is_flat=True)
    note = script.sample(max_cells, seed)
    options = _given(cluster_key=cluster_key, spatial_key=_unless(spatial_key, "spatial"))
    script.call("gr.co_occurrence", **options, interval=interval)
    found, categories = script.adata.uns[f"{cluster_key}_co_occurrence"], script.adata.obs[cluster_key].cat.categories
    wanted = [clusters] if isinstance(clusters, str) else clusters
    _check_clusters(wanted, categories, cluster_key)
    script.draw("pl.co_occurrence", **_given(cluster_key=cluster_key, clusters=None if wanted is None else [*wanted]))
    rows = pd.MultiIndex.from_product([categories, categories, found["interval"][1:]])
    table = pd.DataFrame([*rows], columns=["around", "category", "distance"])
    table["ratio"] = found["occ"].reshape(-1)
    table = table[["distance", "around", "category", "ratio"]]
    return script.view(table if wanted is None else table[table["around"].isin([*wanted])], note)


def spatial_autocorr(
    data,
    *,
    mode: Literal["moran", "geary"] = "moran",
    genes: Sequence[str] | None = None,
    layer: str | None = None,
    library_key: str | None = None,
    spatial_key: str = "spatial",
    n_neighbors: int = 6,
    image: bool = True,
    table_key: str | None = None,
) -> TissueView:
    """Moran's I or Geary's C of genes, and pictures of the four that vary most smoothly over the tissue.

    Parameters
    ----------
    mode
        "moran": I near 1 if neighbours are alike, near 0 by chance. "geary": C near 0 if they are alike, 1 by chance.
    genes
        Names; None: all.
    layer
        Where the values are, which should be log-normalised; None: X.
    data, library_key, spatial_key, n_neighbors, image, table_key
        As in `spatial_scatter`.

    Returns
    -------
    TissueView whose table has one row per gene, the smoothest first: `I` or `C`, `pval_norm` (normal approximation),
    `var_norm`, `pval_norm_fdr_bh` (Benjamini and Hochberg).
    """
    if mode not in ("moran", "geary"):
        raise ValueError(f"mode='{mode}' is not known. Pass 'moran' or 'geary'.")
    named = list(table_of(data, table_key).var_names if genes is None else genes)
    script = _Script(data, table_key, spatial_key, named, library_key, layer=layer)
    script.need_graph(n_neighbors, library_key)
    chosen = {"genes": list(genes) if genes is not None else None}
    if genes is None and "highly_variable" in table_of(data, table_key).var:
        script.note("genes = list(adata.var_names)  # all: by default squidpy takes those that are highly variable")
        chosen = {"genes": _Name("genes", named)}
    options = _given(
        mode=mode, **chosen, layer=layer, connectivity_key=_unless(script.graph_key, "spatial_connectivities")
    )
    script.call("gr.spatial_autocorr", **options)
    table = script.adata.uns["moranI" if mode == "moran" else "gearyC"]
    best = [gene for gene in table.index[:N_TOP] if np.isfinite(table.loc[gene].iloc[0])]
    script.scatter(best, library_key, image, None, None, layer)
    return script.view(table)


def ripley(
    data,
    cluster_key: str,
    *,
    mode: Literal["F", "G", "L"] = "L",
    n_simulations: int = 100,
    max_cells: int = MOST_PAIRED_CELLS,
    spatial_key: str = "spatial",
    seed: int = 0,
    table_key: str | None = None,
) -> TissueView:
    """Whether cells of a category lie in clusters, at random, or regularly, by distance.

    Parameters
    ----------
    mode
        Ripley's statistic: "F" of distances from random places, "G" from one another, "L" of all pairs.
    n_simulations
        Of places at random, for the p-values.
    max_cells, seed
        Of more cells, so many, drawn by the seed, which also draws the simulations. F and G are then of the thinned
        tissue.
    data, cluster_key, spatial_key, table_key
        As in `co_occurrence`.

    Returns
    -------
    TissueView whose table has a row per distance and category: `bins` (distance), the cluster key's category, `stats`
    (F and G: 0 to 1), and `pvalue`.
    """
    if mode not in ("F", "G", "L"):
        raise ValueError(f"mode='{mode}' is not known. Pass 'F', 'G' or 'L'.")
    script = _Script(data, table_key, spatial_key, cluster_key=cluster_key, is_flat=True)
    note = script.sample(max_cells, seed)
    options = _given(cluster_key=cluster_key, mode=mode, spatial_key=_unless(spatial_key, "spatial"))
    script.call("gr.ripley", **options, n_simulations=n_simulations, seed=seed)
    found = script.adata.uns[f"{cluster_key}_ripley_{mode}"]
    script.draw("pl.ripley", cluster_key=cluster_key, mode=mode)
    table = found[f"{mode}_stat"].copy()
    table["pvalue"] = np.asarray(found["pvalues"]).reshape(-1)
    return script.view(table, note)


def centrality_scores(
    data,
    cluster_key: str,
    *,
    library_key: str | None = None,
    spatial_key: str = "spatial",
    n_neighbors: int = 6,
    table_key: str | None = None,
) -> TissueView:
    """How central each category's cells are in the spatial graph. Minutes for a hundred thousand cells.

    Parameters
    ----------
    data, cluster_key, library_key, spatial_key, n_neighbors, table_key
        As in `nhood_enrichment`.

    Returns
    -------
    TissueView whose table has one row per category: `degree_centrality` (the share of other cells that are its
    neighbours), `average_clustering`, `closeness_centrality`.
    """
    script = _Script(data, table_key, spatial_key, (), library_key, cluster_key)
    script.need_graph(n_neighbors, library_key)
    options = _given(cluster_key=cluster_key, connectivity_key=script.graph_key)
    script.call("gr.centrality_scores", **options)
    script.draw("pl.centrality_scores", cluster_key=cluster_key, figsize=(12, 4))
    return script.view(script.adata.uns[f"{cluster_key}_centrality_scores"])


class _Name:
    """A value that stands in the code as a variable."""

    def __init__(self, name: str, value: Any):
        self.name, self.value = name, value

    def __repr__(self) -> str:
        return self.name


class _Script:
    """Calls squidpy on a light copy, and writes down what a user would type."""

    def __init__(
        self,
        data,
        table_key: str | None,
        spatial_key: str,
        colors: Sequence[str] = (),
        library_key: str | None = None,
        cluster_key: str | None = None,
        layer: str | None = None,
        is_flat: bool = False,
    ):
        source = table_of(data, table_key)
        self.lines = ["import squidpy as sq", ""]
        if source is not data:
            self.lines += [f"adata = sdata.tables[{_name_of(source, data)!r}]"]
        places = places_of(source, spatial_key, of="AnnData")
        if is_flat and places.shape[1] != 2:
            raise DataError(
                f"obsm['{spatial_key}'] has {places.shape[1]} dimensions, of which squidpy would look at two. Cut a "
                "slab of the tissue and give two coordinates, for example "
                f"adata.obsm['flat'] = adata.obsm['{spatial_key}'][:, :2], spatial_key='flat'."
            )
        self.spatial_key, self._figure = spatial_key, None
        genes = [name for name in colors if name not in source.obs]
        columns = [name for name in (*colors, cluster_key) if name is not None and name not in genes]
        self.adata = _light_copy(source, [*columns, library_key], genes, layer, spatial_key, places)
        categorical = [key for key in (cluster_key, library_key) if key is not None]
        for key in categorical:
            self._as_categories(key)
        for key in categorical:
            self._with_a_category(key)
        for key in columns:
            self._color(key)

    @property
    def graph_key(self) -> str:
        return f"{self.spatial_key}_connectivities"

    # What is called

    def note(self, line: str) -> None:
        """Write a line without calling it."""
        self.lines.append(line)

    def call(self, name: str, **options: Any) -> None:
        """A function of squidpy by its name, of the light copy."""
        import squidpy

        self.note(f"sq.{name}(adata, {_arguments(options)})")
        options = {key: value.value if isinstance(value, _Name) else value for key, value in options.items()}
        with _quiet():
            attrgetter(name)(squidpy)(self.adata, **options)

    def draw(self, name: str, **options: Any) -> None:
        """The same, of a function that draws."""
        import matplotlib.pyplot as plt
        from matplotlib.backends.backend_agg import FigureCanvasAgg

        with _drawing, plt.ioff():
            before = plt.get_fignums()
            current = plt.gcf().number if before else None
            try:
                self.call(name, **options)
                numbers = [number for number in plt.get_fignums() if number not in before]
                self._figure = plt.figure(numbers[-1])
            finally:
                for number in set(plt.get_fignums()) - set(before):
                    plt.close(number)
                if current is not None:
                    plt.figure(current)
        FigureCanvasAgg(self._figure)

    def view(self, table: pd.DataFrame | None = None, note: str = "") -> TissueView:
        return TissueView(self._figure, "\n".join(self.lines) + "\n", table, note)

    # What several views do

    def need_graph(self, n_neighbors: int, library_key: str | None) -> None:
        """The AnnData's own graph, or one of nearest neighbours."""
        if self.graph_key not in self.adata.obsp:
            self.graph("knn", n_neighbors, None, library_key)

    def graph(self, method: str, n_neighbors: int, radius: float | None, library_key: str | None) -> None:
        import squidpy

        of_method = {
            "knn": {"n_neighs": n_neighbors},
            "radius": {"radius": radius},
            "delaunay": {},
            "grid": {"n_neighs": n_neighbors},
        }
        if method not in of_method:
            raise ValueError(f"method='{method}' is not known. Pass one of {listed(of_method, 9)}.")
        if method == "radius" and radius is None:
            raise ValueError("A graph of all cells within a radius needs one: radius=…, in the units of coordinates.")
        key = _unless(self.spatial_key, "spatial")
        options = _given(spatial_key=key, library_key=library_key, key_added=key) | of_method[method]
        if hasattr(squidpy.gr, f"spatial_neighbors_{method}"):
            self.call(f"gr.spatial_neighbors_{method}", **options)
        else:  # before squidpy 1.8.2
            options |= {"delaunay": True} if method == "delaunay" else {}
            self.call("gr.spatial_neighbors", coord_type="grid" if method == "grid" else "generic", **options)

    def scatter(
        self,
        colors: Sequence[str],
        library_key: str | None,
        image: bool,
        graph_key: str | None,
        size: float | None,
        layer: str | None = None,
    ) -> None:
        options = _given(
            color=list(colors) or None,
            library_key=library_key,
            spatial_key=_unless(self.spatial_key, "spatial"),
            connectivity_key=graph_key,
            size=size,
            layer=layer,
        )
        pictured = self.adata.uns.get(self.spatial_key, {})
        libraries = list(self.adata.obs[library_key].cat.categories) if library_key else list(pictured)
        if image and library_key is None and len(libraries) > 1:
            raise DataError(
                f"uns['{self.spatial_key}'] has images of {len(libraries)} libraries ({listed(libraries)}). Name the "
                "column of obs that says each cell's: library_key=…, or pass image=False."
            )
        if library_key is not None:
            panels = product(map(str, libraries), colors or [""])  # as squidpy lays them out
            options["title"] = [", ".join(filter(None, (color, library))) for library, color in panels]
        has_image = [name for name in libraries if "hires" in pictured.get(name, {}).get("images", {})]
        if image and libraries and has_image == libraries:
            self.draw("pl.spatial_scatter", **options, library_id=libraries)
        else:
            alone = {} if library_key else {"library_id": "tissue"}  # or squidpy warns that it has no name
            self.draw("pl.spatial_scatter", **options, **alone, shape=None)

    def sample(self, max_cells: int, seed: int) -> str:
        """Keep so many cells at most; what the reader must know of it."""
        n_cells = self.adata.n_obs
        if n_cells <= max_cells:
            return ""
        drawn = np.sort(np.random.default_rng(seed).choice(n_cells, max_cells, replace=False))
        self.adata = self.adata[drawn].copy()
        self.lines.insert(0, "import numpy as np")
        self.note(
            f"drawn = np.sort(np.random.default_rng({seed}).choice(adata.n_obs, {max_cells}, replace=False))\n"
            "adata = adata[drawn].copy()"
        )
        return f"Of {max_cells:,} of {n_cells:,} cells, drawn by seed {seed}."

    # Columns as squidpy needs them

    def _as_categories(self, key: str) -> None:
        column = self.adata.obs[key]
        if isinstance(column.dtype, pd.CategoricalDtype):
            return
        if pd.api.types.is_float_dtype(column):
            raise DataError(f"obs['{key}'] holds numbers, not categories. Cut them into classes: pd.cut(…).")
        self.note(f'adata.obs[{key!r}] = adata.obs[{key!r}].astype("category")')
        self.adata.obs[key] = column.astype("category")

    def _with_a_category(self, key: str) -> None:
        """Leave out cells without a category, and categories without cells."""
        column = self.adata.obs[key]
        if column.isna().all():
            raise DataError(f"No cell has a value in obs['{key}'].")
        if column.isna().any() or len(column.cat.categories) > column.nunique():
            self.note(f"adata = adata[adata.obs[{key!r}].notna()].copy()  # and without unused categories")
            self.adata = self.adata[column.notna()].copy()

    def _color(self, key: str) -> None:
        """Colours of the categories, where the user has none that fit."""
        column = self.adata.obs[key]
        if isinstance(column.dtype, pd.CategoricalDtype):
            colors = category_colors(self.adata, key)
            if list(self.adata.uns.get(f"{key}_colors", [])) != colors:
                self.note(f"adata.uns[{key + '_colors'!r}] = {colors!r}")
                self.adata.uns[f"{key}_colors"] = colors


def _name_of(table, data) -> str:
    return next(name for name, one in data.tables.items() if one is table)


def _light_copy(
    source, columns: Sequence, genes: Sequence[str], layer: str | None, spatial_key: str, places
) -> AnnData:
    """An AnnData of the columns, genes and coordinates that a view needs."""
    from anndata import AnnData

    columns = [key for key in dict.fromkeys(columns) if key is not None]
    for key in columns:
        if key not in source.obs:
            raise DataError(
                f"obs has no column '{shown(key)}'.{did_you_mean(key, source.obs)} There are: {listed(source.obs, 20)}."
            )
    for gene in genes:
        if gene not in source.var_names:
            raise DataError(
                f"'{shown(gene)}' is neither a column of obs nor a gene."
                f"{did_you_mean(gene, [*source.obs, *source.var_names])}"
            )
    known = layer_names(source)
    if layer is not None and layer not in known:
        raise DataError(f"There is no layer '{layer}'.{did_you_mean(layer, known)} There are: {listed(known, 9)}.")
    light = AnnData(obs=source.obs[columns].copy(), var=pd.DataFrame(index=pd.Index(genes, dtype=str)))
    if len(genes):
        every = len(genes) == source.n_vars
        part = source if every else source[:, list(genes)]
        part = part.to_memory() if part.isbacked else part
        values = part.X if layer is None else part.layers[layer]
        values = values.compute() if hasattr(values, "compute") else values
        light.X = values
        if layer is not None:
            light.layers[layer] = values
    light.obsm[spatial_key] = places.copy()
    if (key := f"{spatial_key}_connectivities") in source.obsp:
        light.obsp[key] = source.obsp[key].copy()
    if spatial_key in source.uns:
        light.uns[spatial_key] = source.uns[spatial_key]
    for key in columns:
        if f"{key}_colors" in source.uns:
            light.uns[f"{key}_colors"] = list(source.uns[f"{key}_colors"])
    return light


def _check_clusters(wanted, categories: pd.Index, key: str) -> None:
    for name in wanted or ():
        if name not in categories:
            raise DataError(
                f"obs['{key}'] has no category '{name}'.{did_you_mean(name, categories)} "
                f"There are: {listed(categories, 20)}."
            )


@contextmanager
def _quiet() -> Iterator[None]:
    """Without spatialdata's news of each graph, which it prints, and squidpy's warnings of its own calls."""
    logger = logging.getLogger("spatialdata._logging")
    level = logger.level
    logger.setLevel(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "No data for colormapping", UserWarning)
            yield
    finally:
        logger.setLevel(level)


def _arguments(options: dict[str, Any]) -> str:
    return ", ".join(f"{name}={value!r}" for name, value in options.items())


def _given(**options: Any) -> dict[str, Any]:
    """Without those that are None."""
    return {name: value for name, value in options.items() if value is not None}


def _unless(value: str, default: str) -> str | None:
    return None if value == default else value


def _square(n: int) -> tuple[float, float]:
    return (max(4.0, 0.6 * n + 1.5),) * 2
