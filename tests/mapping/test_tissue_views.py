import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from anndata import AnnData

import scarches_widgets as sca
from scarches_widgets.data.names import DataError
from scarches_widgets.mapping import tissue as views

SECTIONS = ("section0", "section1")


@pytest.fixture(scope="module")
def cells():
    adata = sca.datasets.tissue(300, 12, n_types=3, n_regions=3, seed=1)
    adata.X = np.log1p(adata.X.toarray())
    return adata


@pytest.fixture(scope="module")
def pictured(cells):
    """The same, with an image of each section."""
    adata, rng = cells.copy(), np.random.default_rng(0)
    factors = {"tissue_hires_scalef": 0.05, "spot_diameter_fullres": 30.0}
    adata.uns["spatial"] = {
        section: {"images": {"hires": rng.random((50, 50, 3))}, "scalefactors": factors} for section in SECTIONS
    }
    return adata


@pytest.fixture(scope="module")
def mapped(cells):
    """A query that SageNet placed: without coordinates of its own."""
    reference, query = (cells[cells.obs["section"] == section].copy() for section in SECTIONS)
    del query.obsm["spatial"]
    model = sca.models.SageNet(reference, query, resolutions=(4,), n_components=5)
    model.train(max_epochs=5, progress=False)
    model.map_query()
    return query


def test_a_view_is_a_figure_and_the_code_that_draws_it_and_changes_nothing_else(cells):
    before = cells.copy()
    mine = plt.figure()
    view = views.spatial_scatter(cells, ["cell_type", "Gene0003"], library_key="section")
    assert [axis.get_title() for axis in view.figure.axes if axis.get_title()] == [
        f"{color}, {section}" for section in SECTIONS for color in ("cell_type", "Gene0003")
    ]
    assert plt.get_fignums() == [mine.number] and plt.gcf() is mine
    plt.close(mine)
    assert_equal(cells, before)
    assert view._repr_png_().startswith(b"\x89PNG") and view.table is None and view.note == ""
    assert runs(view.code, cells).uns["cell_type_colors"] == ["#0072B2", "#E69F00", "#009E73"]


def test_faults_are_named_before_squidpy_is_called(cells, pictured):
    with pytest.raises(DataError, match=r"no column 'cell_typ'\. Did you mean 'cell_type'"):
        views.nhood_enrichment(cells, "cell_typ")
    with pytest.raises(DataError, match=r"'Gene3' is neither a column of obs nor a gene\. Did you mean 'Gene0003'"):
        views.spatial_scatter(cells, "Gene3")
    with pytest.raises(DataError, match=r"no obsm\['spatail'\]"):
        views.ripley(cells, "cell_type", spatial_key="spatail")
    with pytest.raises(DataError, match="holds numbers, not categories"):
        views.co_occurrence(cells, "library_size")
    with pytest.raises(DataError, match=r"images of 2 libraries \(section0, section1\)"):
        views.spatial_scatter(pictured)
    with pytest.raises(DataError, match="3 dimensions, of which squidpy would look at two"):
        views.ripley(sca.datasets.tissue(50, 12, n_types=3, n_regions=3, n_dims=3), "cell_type")
    with pytest.raises(ValueError, match="mode='K' is not known"):
        views.ripley(cells, "cell_type", mode="K")
    with pytest.raises(ValueError, match="within a radius needs one"):
        views.spatial_neighbors(cells, method="radius")
    unnamed = cells.copy()
    unnamed.obs["none"] = pd.Categorical([None] * cells.n_obs)
    with pytest.raises(DataError, match=r"No cell has a value in obs\['none'\]"):
        views.nhood_enrichment(unnamed, "none")


@pytest.mark.slow
@pytest.mark.parametrize("library_key", [None, "section"])
@pytest.mark.parametrize("with_image", [False, True])
def test_every_view_of_the_graph_is_squidpys_with_and_without_image_and_libraries(
    cells, pictured, library_key, with_image
):
    adata = pictured if with_image else cells
    one = {} if library_key else {"image": False}
    for view in (
        views.spatial_scatter(adata, "cell_type", graph=True, library_key=library_key, **one),
        views.spatial_neighbors(adata, color="region", library_key=library_key, **one),
        views.spatial_autocorr(adata, library_key=library_key, **one),
        views.spatial_autocorr(adata, mode="geary", genes=["Gene0003", "Gene0001"], library_key=library_key, **one),
        views.nhood_enrichment(adata, "cell_type", library_key=library_key),
        views.nhood_enrichment(adata, "cell_type", n_perms=50, library_key=library_key),
        views.centrality_scores(adata, "cell_type", library_key=library_key),
    ):
        n_images = sum(len(axis.images) for axis in view.figure.axes if axis.get_xlabel() == "spatial1")
        assert (n_images > 0) == (with_image and library_key is not None and "spatial_scatter" in view.code)
        ran = runs(view.code, adata)
        assert_same_numbers(view, ran)


@pytest.mark.slow
def test_views_of_distances_are_squidpys(cells):
    near = views.co_occurrence(cells, "cell_type", clusters="Type 1", interval=8, max_cells=200)
    assert near.note == "Of 200 of 300 cells, drawn by seed 0." and len(near.table) == 7 * 3
    assert list(near.table) == ["distance", "around", "category", "ratio"] and set(near.table["around"]) == {"Type 1"}
    ran = runs(near.code, cells)
    assert ran.n_obs == 200
    np.testing.assert_allclose(near.table["ratio"], ran.uns["cell_type_co_occurrence"]["occ"][1].ravel())
    for mode in ("F", "G", "L"):
        view = views.ripley(cells, "cell_type", mode=mode, n_simulations=5)
        ran = runs(view.code, cells).uns[f"cell_type_ripley_{mode}"]
        pd.testing.assert_frame_equal(view.table.drop(columns="pvalue"), ran[f"{mode}_stat"])
    with pytest.raises(DataError, match=r"no category 'Type 9'"):
        views.co_occurrence(cells, "cell_type", clusters="Type 9", interval=8)


@pytest.mark.slow
def test_the_closed_form_is_squidpys_z_within_the_error_of_its_permutations(cells):
    import squidpy

    n_perms = 4000
    for library_key in (None, "section"):
        adata = cells.copy()
        squidpy.gr.spatial_neighbors_knn(adata, n_neighs=6, library_key=library_key)  # not symmetric
        options = {"n_perms": n_perms, "seed": 0, "show_progress_bar": False, "library_key": library_key}
        drawn = squidpy.gr.nhood_enrichment(adata, "region", copy=True, **options)
        exact = views.nhood_enrichment(adata, "region", library_key=library_key).table.to_numpy()
        # of z = (x − mean) / sd: the error of the mean is 1 / √n, that of sd z / √(2n), about, and of five times that
        error = np.sqrt(1 / n_perms + drawn.zscore**2 / (2 * n_perms))
        assert np.abs(exact).max() > 5 and (np.abs(exact - drawn.zscore) < 5 * error).all()


@pytest.mark.slow
def test_a_mapped_query_is_viewed_where_it_was_placed(mapped):
    before = mapped.copy()
    place = {"spatial_key": "X_sagenet"}
    scatter = views.spatial_scatter(mapped, ["pred_reference_kmeans_4", "sagenet_confidence"], graph=True, **place)
    enriched = views.nhood_enrichment(mapped, "pred_reference_kmeans_4", **place)
    others = [
        views.spatial_autocorr(mapped, **place),
        views.centrality_scores(mapped, "cell_type", **place),
        views.co_occurrence(mapped, "cell_type", interval=5, **place),
        views.ripley(mapped, "cell_type", n_simulations=5, **place),
    ]
    assert_equal(mapped, before)
    assert "X_sagenet_connectivities" in runs(scatter.code, mapped).obsp
    assert enriched.table.to_numpy().max() > 3  # a region's cells are neighbours in predicted places
    for view in (enriched, *others):
        runs(view.code, mapped)


@pytest.mark.slow
def test_cells_without_a_category_and_unused_categories_are_left_out(cells):
    adata = cells.copy()
    names = adata.obs["cell_type"].astype(object)
    names.iloc[:20] = None
    adata.obs["named"] = pd.Categorical(names, categories=["Type 0", "Nobody", "Type 1", "Type 2"])
    adata.uns["named_colors"] = ["#ff0000", "#000000", "#00ff00", "#0000ff"]
    adata.obs["text"] = adata.obs["region"].astype(str)
    for key, categories in (
        ("named", ["Type 0", "Type 1", "Type 2"]),
        ("text", list(cells.obs["region"].cat.categories)),
    ):
        view = views.nhood_enrichment(adata, key)
        ran = runs(view.code, adata)
        assert list(view.table.index) == list(ran.obs[key].cat.categories) == categories
        assert len(ran.uns[f"{key}_colors"]) == 3
    assert list(runs(views.nhood_enrichment(adata, "named").code, adata).uns["named_colors"])[1] == "#00ff00"


@pytest.mark.slow
def test_the_table_of_spatialdata_is_viewed(cells):
    from spatialdata import SpatialData

    data = SpatialData(tables={"table": cells.copy(), "other": cells[:50].copy()})
    view = views.nhood_enrichment(data, "cell_type", table_key="table")
    assert "adata = sdata.tables['table']" in view.code
    namespace = {"sdata": data}
    exec(view.code, namespace)
    pd.testing.assert_frame_equal(view.table, views.nhood_enrichment(cells, "cell_type").table)
    with pytest.raises(DataError, match=r"has 2 tables\. Name one, table_key=…: other, table|table, other"):
        views.nhood_enrichment(data, "cell_type")


def runs(code: str, adata: AnnData) -> AnnData:
    """What the code made of a copy."""
    namespace = {"adata": adata.copy()}
    exec(code, namespace)
    plt.close("all")
    return namespace["adata"]


def assert_same_numbers(view, ran: AnnData) -> None:
    if "spatial_autocorr" in view.code:
        pd.testing.assert_frame_equal(view.table, ran.uns["moranI" if "'moran'" in view.code else "gearyC"])
    elif "centrality" in view.code:
        pd.testing.assert_frame_equal(view.table, ran.uns["cell_type_centrality_scores"])
    elif "n_perms=50" in view.code:
        np.testing.assert_allclose(view.table, ran.uns["cell_type_nhood_enrichment"]["zscore"])
    elif "n_perms=1000" in view.code:
        np.testing.assert_allclose(view.table, ran.uns["cell_type_nhood_enrichment"]["zscore"], rtol=0.3, atol=0.5)
    elif view.table is not None:
        graph = ran.obsp["spatial_connectivities"]
        assert view.table["edges"].sum() == (graph + graph.T).nnz / 2 and view.table["cells"].sum() == ran.n_obs


def assert_equal(adata: AnnData, before: AnnData) -> None:
    for table in ("obs", "obsm", "obsp", "uns", "var", "layers"):
        assert list(getattr(adata, table)) == list(getattr(before, table))
    pd.testing.assert_frame_equal(adata.obs, before.obs)
    assert (adata.X == before.X).all()
