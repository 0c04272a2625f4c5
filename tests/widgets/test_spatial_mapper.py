"""The spatial mapper without a page: the tissue's layers, mapping, the threshold, what is written, what it refuses."""

from __future__ import annotations

import io
import threading
from unittest import mock

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from widgets.pages import click, levels, nothing_raised, texts, wait_until

import scarches_widgets as sca
from scarches_widgets.data.names import DataError
from scarches_widgets.mapping.spatial import HeldOut, knn_locations
from scarches_widgets.widgets import EmbeddingView, Session, SpatialMapper
from scarches_widgets.widgets.spatial_tissue import Tissue, expression_plane, latent_plane

QUICK = {"max_epochs": 2, "n_folds": 0, "n_top_genes": 20, "n_components": 5}


@pytest.fixture(scope="module")
def cells():
    return sca.datasets.tissue(n_obs=300, n_vars=40, n_types=4, n_regions=4, seed=0)


@pytest.fixture
def reference(cells):
    return cells[cells.obs["section"] == "section0"].copy()


@pytest.fixture
def query(cells):
    query = cells[cells.obs["section"] == "section1"].copy()
    del query.obsm["spatial"]
    return query


@pytest.fixture
def mapper(reference, query):
    return SpatialMapper(reference, query, region_key="region", **QUICK)


@pytest.fixture
def mapped(mapper):
    mapper.map()
    assert mapper.wait(300) == "done"
    return mapper


def floats(data):
    return np.frombuffer(data, dtype="<f4").reshape(2, -1).T


def state(mapper, name):
    return next(one for one in mapper.layer_states if one["name"] == name)


def tissue_with_image(reference):
    image = np.zeros((60, 40, 3), dtype=np.uint8)
    image[:30] = 255
    factors = {"tissue_hires_scalef": 0.05, "spot_diameter_fullres": 30.0}
    reference.uns["spatial"] = {"slide": {"images": {"hires": image}, "scalefactors": factors}}
    return reference


# The tissue


def test_a_reference_alone_is_shown_and_its_cells_are_selected_in_all_linked_views(reference):
    reference.obsm["X_umap"] = reference.obsm["spatial"][:, ::-1]
    session = Session()
    mapper = SpatialMapper(reference, session=session, color="region")
    umap = EmbeddingView(reference, session=session)
    assert mapper.status == "ready" and "Give cells to place" in mapper.blocked
    assert list(mapper.layers) == ["image", "graph", "cells", "regions"] and mapper.basis == "X_umap"
    np.testing.assert_array_equal(floats(mapper.tissue), reference.obsm["spatial"].astype(np.float32))
    umap.selection = reference.obs["region"] == "Region 1"
    assert mapper.obs_names.tolist() == reference.obs_names[reference.obs["region"] == "Region 1"].tolist()
    mapper.layers["cells"].color = "cell_type"
    assert umap.color == mapper.color == "cell_type"
    with pytest.raises(RuntimeError, match="Give cells to place"):
        mapper.map()


def test_a_section_shows_its_own_cells_and_a_plane_its_own_axes():
    cells = sca.datasets.tissue(n_obs=200, n_vars=40, n_dims=3, seed=0)
    mapper = SpatialMapper(cells, section_key="section")
    assert mapper.sections == ["section0", "section1"] and mapper.planes == ["xy", "xz", "yz"]
    mapper.plane, mapper.section = "xz", "section1"
    shown = np.isfinite(floats(mapper.tissue)).all(1)
    assert (shown == (cells.obs["section"] == "section1")).all()
    np.testing.assert_allclose(floats(mapper.tissue)[shown], cells.obsm["spatial"][shown][:, [0, 2]], rtol=1e-6)
    assert mapper.tissue_axes["x"] == "x" and mapper.tissue_axes["y"] == "z"
    with pytest.raises(DataError, match="no section 'section9'"):
        mapper.section = "section9"
    assert mapper.section is None
    click(mapper, "sight", section="section0")
    assert mapper.section == "section0" and 'mapper.section = "section0"' in mapper.code()


def test_layers_are_switched_by_name_as_in_napari(mapper):
    mapper.layers["cells"].visible = False
    mapper.layers["regions"].opacity = 0.5
    mapper.layers["predicted"].size = 12.0
    assert not state(mapper, "cells")["visible"] and mapper.reference_cells == {}
    assert state(mapper, "regions")["opacity"] == 0.5 and state(mapper, "predicted")["radius"] == 6
    with nothing_raised():
        click(mapper, "layer", name="cells", visible=True, color="cell_type", opacity=0.25)
    assert mapper.layers["cells"].color == "cell_type" and mapper.reference_cells["key"] == "cell_type"
    assert 'mapper.layers["predicted"].size = 12.0' in mapper.code()
    with pytest.raises(KeyError, match="There is no layer 'cell'"):
        mapper.layers["cell"]
    with pytest.raises(DataError, match="neither a column"):
        mapper.layers["cells"].color = "nothing"
    assert mapper.layers["cells"].color == "cell_type"
    with nothing_raised():
        click(mapper, "layer", name="cells", opacity=7)
        click(mapper, "layer", name="nothing", visible=True)
        click(mapper, "layer", name="cells", visible="perhaps")
    assert mapper.layers["cells"].opacity == 0.25 and mapper.layers["cells"].visible is True


def test_the_graph_is_the_annDatas_own_or_that_of_the_nearest(reference):
    import scipy.sparse as sp

    mapper = SpatialMapper(reference)
    mapper.layers["graph"].visible = True
    assert "the 6 nearest" in state(mapper, "graph")["note"]
    reference.obsp["spatial_connectivities"] = sp.csr_matrix(([1.0, 1.0], ([0, 1], [1, 0])), shape=(150, 150))
    mapper.refresh()
    assert state(mapper, "graph")["note"] == "1 edge, obsp['spatial_connectivities']"
    x0, y0, x1, y1 = np.frombuffer(mapper.graph["lines"], dtype="<f4")
    np.testing.assert_allclose([[x0, y0], [x1, y1]], reference.obsm["spatial"][:2], rtol=1e-6)


def test_an_outline_goes_round_its_region_and_round_no_other():
    import anndata as ad

    grid = np.stack(np.meshgrid(np.arange(10.0), np.arange(10.0)), -1).reshape(-1, 2)
    adata = ad.AnnData(np.ones((100, 2), dtype=np.float32), obsm={"spatial": grid})
    adata.obs["side"] = pd.Categorical(np.where(grid[:, 0] < 5, "left", "right"))
    tissue = Tissue(adata, "spatial")
    codes = adata.obs["side"].cat.codes.to_numpy().astype(int)
    drawn = tissue.outlines("xy", None, codes, 2)
    x0, y0, x1, y1 = np.frombuffer(drawn["lines"], dtype="<f4").reshape(4, -1)
    of_left = np.frombuffer(drawn["regions"], dtype="<u2") == 0
    assert x0[of_left].max() == 4 and x0[~of_left].min() == 5
    lengths = np.hypot(x1 - x0, y1 - y0)
    assert lengths[of_left].sum() == lengths[~of_left].sum() == 2 * (4 + 9)


def test_an_image_lies_under_its_spots_and_spots_have_their_true_size(reference):
    mapper = SpatialMapper(tissue_with_image(reference))
    assert mapper.layers["image"].visible and mapper.image["jpeg"][:2] == b"\xff\xd8"
    assert (mapper.image["width"], mapper.image["height"]) == (800, 1200)
    assert state(mapper, "cells")["radius"] == 15
    del reference.uns["spatial"]
    plain = SpatialMapper(reference)
    assert not plain.layers["image"].visible and state(plain, "image")["note"] == ""
    plain.layers["image"].visible = True
    assert "no tissue image" in state(plain, "image")["note"]


def test_two_components_are_those_of_numpys_decomposition(reference):
    counts = reference.X.toarray()
    logged = np.log1p(counts * (1e4 / counts.sum(1, keepdims=True)))
    centred = logged - logged.mean(0)
    u, s, _ = np.linalg.svd(centred, full_matrices=False)
    found = expression_plane(reference)
    np.testing.assert_allclose(np.abs(found), np.abs(u[:, :2] * s[:2]), atol=1e-3)
    assert latent_plane(np.arange(6.0)[:, None]).shape == (6, 2)


# Mapping


def test_a_query_is_placed_and_coloured_by_its_regions_in_the_references_colours(reference, query):
    reference.uns["region_colors"] = ["#111111", "#222222", "#333333", "#444444"]
    mapper = SpatialMapper(reference, query, region_key="region", **QUICK)
    before = query.copy()
    assert np.isnan(floats(mapper.tissue)).all()
    click(mapper, "map")
    assert mapper.wait(300) == "done" and mapper.error is None
    np.testing.assert_allclose(floats(mapper.tissue), mapper.locations[["x", "y"]].to_numpy(), rtol=1e-6)
    assert mapper.coloring["key"] == "predicted_region" and mapper.coloring["colours"] == reference.uns["region_colors"]
    assert mapper.layers["predicted"].color == "predicted_region"
    assert mapper.results["n_cells"] == 150 and sum(mapper.results["histogram"]) == 150
    assert list(query.obs) == list(before.obs) and list(query.obsm) == list(before.obsm), "nothing is written yet"
    mapper.layers["predicted"].color = "sagenet_confidence"
    assert mapper.coloring["kind"] == "numbers"
    click(mapper, "sight", basis="sagenet")
    assert mapper.basis == "sagenet" and np.isfinite(floats(mapper.positions)).all()
    again = SpatialMapper(reference, query, mapper.model, basis="sagenet")
    assert again.positions == mapper.positions
    with pytest.raises(DataError, match="no trained SageNet"):
        SpatialMapper(reference, query, basis="sagenet", **QUICK)


def test_the_threshold_says_which_cells_are_assigned_and_write_names_the_others_unknown(mapped, query):
    confidence = mapped.locations["confidence"].to_numpy()
    mapped.set_state({"threshold": float(np.median(confidence))})
    assert mapped.is_assigned.sum() == (confidence >= np.median(confidence)).sum()
    names = mapped.write()
    assert names == [
        "obsm['X_sagenet']",
        "obs['predicted_region']",
        "obs['sagenet_confidence']",
        "obs['sagenet_uncertainty']",
    ]
    np.testing.assert_array_equal(query.obsm["X_sagenet"], mapped.locations[["x", "y"]])
    unknown = (query.obs["predicted_region"] == "Unknown").to_numpy()
    assert (unknown == ~mapped.is_assigned).all() and 0 < unknown.sum() < 150
    mapped.write()
    assert "(replaced)" in mapped.written[-1]
    for wrong in (-0.1, 1.5, float("nan"), "0.5x", None, True):
        before = mapped.threshold
        mapped.set_state({"threshold": wrong})
        assert mapped.threshold == before


def test_the_same_options_map_again_without_training_and_others_train_anew(mapped):
    model = mapped.model
    mapped.set(region_key="cell_type")
    mapped.map()
    assert mapped.wait(300) == "done" and mapped.model is model and mapped.regions.name == "cell_type"
    mapped.set(n_top_genes=10)
    mapped.map()
    assert mapped.wait(300) == "done" and mapped.model is not model


def test_a_model_that_is_given_is_used_as_it_is(reference, query):
    model = sca.models.SageNet(reference, query, n_top_genes=20, n_components=5)
    model.train(max_epochs=2, progress=False)
    mapper = SpatialMapper(reference, query, model, n_folds=0)
    assert not {"spatial_key", "classifier"} & set(mapper.values)
    mapper.map()
    assert mapper.wait(300) == "done" and mapper.model is model and mapper.run is None
    pd.testing.assert_frame_equal(mapper.locations, model.predict_locations(query))


def test_where_neighbours_place_better_the_mapper_says_so_and_a_click_takes_them(mapper, reference, query):
    table = pd.DataFrame(
        {"distance_correlation": [0.5, 0.2], "median_error": [90.0, 140.0]}, index=["kNN, PCA", "SageNet"]
    )
    found = HeldOut(table, table, table, 0.6, 1.0, is_better=False)
    mapper.set(n_folds=2)
    with mock.patch("scarches_widgets.widgets.spatial_mapper.held_out", return_value=found) as asked:
        mapper.map()
        assert mapper.wait(300) == "done"
        assert asked.call_args.kwargs["n_folds"] == 2 and asked.call_args.kwargs["train"] == {"max_epochs": 2}
    assert mapper.verdict["better"] is False and mapper.held_out is found
    assert mapper.verdict["text"].startswith("On held-out cells kNN, PCA places better than SageNet")
    click(mapper, "neighbours")
    assert mapper.wait(300) == "done" and mapper.results["method"] == "neighbours"
    expected = knn_locations(reference, query)
    np.testing.assert_array_equal(mapper.locations[["x", "y"]], expected[["x", "y"]])
    assert mapper.locations["confidence"].between(0, 1).all()
    assert mapper.write()[0] == "obsm['X_knn']"


@pytest.mark.slow
def test_the_model_is_measured_on_held_out_cells_when_it_has_placed_the_query(reference, query):
    mapper = SpatialMapper(reference, query, **{**QUICK, "n_folds": 2})
    mapper.map()
    assert mapper.wait(300) == "done"
    assert {row["method"] for row in mapper.verdict["rows"]} >= {"SageNet", "kNN, PCA"}
    assert mapper.held_out.folds["fold"].nunique() == 2
    assert mapper.run.started.max_epochs == 2 and mapper.progress["n_epochs"] == 2, "the run shown is the mapping's"


def test_stop_ends_the_training_and_nothing_is_placed(reference, query):
    mapper = SpatialMapper(reference, query, **{**QUICK, "max_epochs": 100_000})
    mapper.map()
    trains = threading.Event()
    mapper.observe(lambda change: trains.set() if change["new"].get("n_epochs") else None, "progress")
    assert trains.wait(300)
    click(mapper, "stop")
    assert mapper.wait(300) == "stopped" and mapper.locations is None and mapper.results == {}
    mapper.set(max_epochs=2)
    mapper.map()
    assert mapper.wait(300) == "done"


@pytest.mark.slow
def test_stop_in_the_test_keeps_the_places_and_gives_no_verdict(reference, query):
    mapper = SpatialMapper(reference, query, **{**QUICK, "n_folds": 3})
    testing = threading.Event()

    def at_the_test(change):
        if "Testing" in change["new"].get("stage", "") and not testing.is_set():
            testing.set()
            mapper.stop()

    mapper.observe(at_the_test, "progress")
    mapper.map()
    assert mapper.wait(300) == "done" and testing.is_set()
    assert mapper.locations is not None and mapper.verdict == {} and mapper.held_out is None


# What is written by hand


def test_selected_cells_are_assigned_a_name_and_the_others_keep_theirs(reference):
    mapper = SpatialMapper(reference)
    mapper.selection = range(10)
    with nothing_raised():
        click(mapper, "assign", column="layer", name="outer")
    assert (reference.obs["layer"] == "outer").sum() == 10 and reference.obs["layer"].isna().sum() == 140
    assert "layer" in mapper.columns and mapper.written == ["obs['layer'] = 'outer' for 10 cells"]
    mapper.selection = [0]
    mapper.assign("region", "Region 1")
    assert reference.obs["region"].iloc[0] == "Region 1" and len(reference.obs["region"].cat.categories) == 4
    with nothing_raised():
        click(mapper, "assign", column="library_size", name="x")
    assert "holds numbers" in mapper.error["what"]
    mapper.selection = []
    with pytest.raises(DataError, match="No cell is selected"):
        mapper.assign("layer", "inner")
    with pytest.raises(RuntimeError, match="has not been placed"):
        mapper.write()


@pytest.mark.parametrize("kind", ["categorical", "text", "missing"])
def test_undo_makes_the_column_what_it_was_or_takes_it_away(reference, kind):
    if kind == "categorical":
        names = pd.Categorical(["b"] * 100 + ["a"] * 49 + [None], categories=["b", "never", "a"], ordered=True)
        reference.obs["zone"] = names
    elif kind == "text":
        reference.obs["zone"] = np.array(["one", "two", "three"] * 50, dtype=object)
    reference.obs["last"] = 1
    before = reference.obs.copy()
    mapper = SpatialMapper(reference)
    with pytest.raises(RuntimeError, match="nothing to take back"):
        mapper.undo()
    mapper.selection = range(10)
    mapper.assign("zone", "rim")
    once = reference.obs.copy()
    mapper.assign("zone", "core", cells=range(5, 20))
    assert mapper.undoable == "obs['zone'] = 'core'" and (reference.obs["zone"] == "core").sum() == 15
    mapper.layers["cells"].color = mapper.layers["regions"].color = "zone"
    click(mapper, "undo")
    pd.testing.assert_frame_equal(reference.obs, once)
    mapper.undo()
    pd.testing.assert_frame_equal(reference.obs, before)
    assert mapper.undoable == "" and ("zone" in mapper.columns) == (kind != "missing")
    assert mapper.color == mapper.layers["regions"].color == (None if kind == "missing" else "zone")


def test_what_was_changed_since_is_not_undone(reference):
    mapper = SpatialMapper(reference)
    mapper.assign("zone", "rim", cells=range(10))
    reference.obs["zone"] = "mine"
    with nothing_raised():
        click(mapper, "undo")
    assert "has been changed since 'rim' was assigned" in mapper.error["what"]
    assert (reference.obs["zone"] == "mine").all() and mapper.undoable == ""


def test_a_group_or_an_outlined_region_is_filled_by_a_click():
    import anndata as ad

    grid = np.stack(np.meshgrid(np.arange(12.0), np.arange(12.0)), -1).reshape(-1, 2)
    adata = ad.AnnData(np.ones((144, 2), dtype=np.float32), obsm={"spatial": grid})
    middle = (np.abs(grid - 5.5) < 3).all(1)
    adata.obs["part"] = pd.Categorical(np.where(middle, "middle", np.where(grid[:, 0] < 6, "left", "right")))
    mapper = SpatialMapper(adata, color="part")
    click(mapper, "fill", column="zone", name="in", code=1)
    assert ((adata.obs["zone"] == "in") == (adata.obs["part"] == "middle")).all()
    click(mapper, "fill", column="zone", name="out", x=1.0, y=1.0)
    assert "No region is outlined" in mapper.error["what"]
    mapper.layers["regions"].visible = True
    click(mapper, "fill", column="zone", name="out", x=0.5, y=6.2)
    inside = (adata.obs["zone"] == "out").to_numpy()
    assert mapper.error is None and inside.sum() > 20 and (adata.obs["part"][inside] == "left").all()
    click(mapper, "fill", column="zone", name="out", x=-5.0, y=0.0)
    assert "no outlined region here" in mapper.error["what"]
    click(mapper, "undo")
    assert not (adata.obs["zone"] == "out").any() and (adata.obs["zone"] == "in").sum() == middle.sum()


def test_squidpys_views_are_shown_with_their_code_and_what_is_wrong_is_told(mapped, query):
    assert list(mapped.statistics["groups"]) == ["reference"], "the query has no places yet"
    mapped.write()
    assert "predicted_region" in mapped.statistics["groups"]["query"]
    view = mock.Mock(note="", code="sq.gr.ripley(adata)", **{"_repr_png_.return_value": b"png"})
    with mock.patch("scarches_widgets.mapping.tissue.ripley", return_value=view) as asked:
        click(mapped, "statistic", what="ripley", of="query", column="predicted_region")
        wait_until(lambda: mapped.statistic.get("png"), seconds=120)
    assert asked.call_args == mock.call(query, "predicted_region", spatial_key="X_sagenet")
    assert mapped.statistic["title"] == "Ripley's L of the query by predicted_region"
    click(mapped, "statistic", what="ripley", of="reference", column=None)
    wait_until(lambda: "Choose a column" in mapped.statistic.get("problem", ""), seconds=120)


# What stands in the way


def test_without_coordinates_the_keys_that_exist_are_named_and_one_can_be_chosen(reference, query):
    reference.obsm["places"] = reference.obsm.pop("spatial")
    mapper = SpatialMapper(reference, query, **QUICK)
    assert mapper.status == "invalid" and levels(mapper, "spatial_key") == ["error"]
    assert "places" in texts(mapper, "spatial_key") and "places" in mapper.tissue_problem
    assert np.isnan(floats(mapper.tissue)).all()
    mapper.set(spatial_key="places")
    assert mapper.status == "ready" and mapper.tissue_problem == ""
    assert mapper.code().count('spatial_key="places"') == 2, "of the model and of the mapper"


def test_few_shared_genes_are_told_before_anything_runs(reference, query):
    query.var_names = [*query.var_names[:10], *(f"other{i}" for i in range(30))]
    mapper = SpatialMapper(reference, query, **QUICK)
    assert mapper.status == "invalid" and mapper.overlap["n_shared"] == 10
    assert "25.0% of the reference's genes" in texts(mapper, "min_gene_overlap")
    query.var_names = [f"other{i}" for i in range(40)]
    stranger = SpatialMapper(reference, query, **QUICK)
    assert stranger.status == "invalid" and stranger.overlap == {}


def test_what_is_no_tissue_or_no_model_is_refused(reference, query, trained):
    with pytest.raises(TypeError, match="AnnData as reference"):
        SpatialMapper("file.h5ad")
    with pytest.raises(TypeError, match="SageNet as model and was given a SCVI"):
        SpatialMapper(reference, query, trained)
    with pytest.raises(TypeError, match="Did you mean 'region_key'"):
        SpatialMapper(reference, query, region_kye="region")
    with pytest.raises(DataError, match="no cells"):
        SpatialMapper(reference, query[:0].copy())


def test_the_table_of_spatialdata_is_looked_at_and_code_takes_it_too(reference, query):
    from spatialdata import SpatialData

    several = SpatialData(tables={"cells": reference, "nuclei": reference[:50].copy()})
    with pytest.raises(DataError, match=r"has 2 tables\. Name one, table_key=…: cells, nuclei"):
        SpatialMapper(several)
    nuclei = SpatialMapper(several, table_key="nuclei")
    assert nuclei.n_cells == 50
    exec(nuclei.code(), again := {"reference": several})
    assert again["mapper"].n_cells == 50
    exec(
        SpatialMapper(several, query, table_key="cells", **QUICK).code(),
        again := {"reference": several, "query": query},
    )
    assert len(again["places"]) == query.n_obs


def circles_and_image(transformation_of_image, of_circles=None, dtype="uint8", channels=3):
    """SpatialData of 30 spots, 10 pixels apart in an image of half the resolution, which is red at the first spot."""
    from shapely import Point
    from spatialdata import SpatialData
    from spatialdata.models import Image2DModel, ShapesModel, TableModel
    from spatialdata.transformations import Identity

    geopandas = pytest.importorskip("geopandas")
    places = np.array([[10.0 * (i % 6) + 20, 10.0 * (i // 6) + 40] for i in range(30)])
    pixels = np.zeros((channels, 60, 50), dtype=dtype)
    pixels[0, 15:26, 5:16] = 200  # y, x
    spots = geopandas.GeoDataFrame({"radius": np.full(30, 4.0)}, geometry=[Point(*place) for place in places])
    cells = AnnData(np.hstack([places, places[::-1]]).astype(np.float32), obsm={"spatial": places})
    cells.obs["kind"] = pd.Categorical(["left", "right"] * 15)
    cells.obs["region"], cells.obs["instance"] = pd.Categorical(["spots"] * 30), np.arange(30)
    table = TableModel.parse(cells, region="spots", region_key="region", instance_key="instance")
    image = Image2DModel.parse(pixels, dims=("c", "y", "x"), transformations={"global": transformation_of_image})
    shapes = ShapesModel.parse(spots, transformations={"global": of_circles or Identity()})
    return SpatialData(images={"slide": image}, shapes={"spots": shapes}, tables={"table": table})


@pytest.mark.parametrize("dtype, channels", [("uint8", 3), ("uint16", 1)])
def test_an_image_of_spatialdata_lies_under_its_cells(dtype, channels):
    from PIL import Image
    from spatialdata.transformations import Scale

    data = circles_and_image(Scale([2.0, 2.0], axes=("x", "y")), dtype=dtype, channels=channels)
    mapper = SpatialMapper(data, color="kind")
    assert (mapper.image["width"], mapper.image["height"]) == (100, 120), "in units of the coordinates"
    picture = np.asarray(Image.open(io.BytesIO(mapper.image["jpeg"])))
    assert picture[20, 10, 0] > 150 > 60 > picture[50, 40, 0], "red at (20, 40), the first spot"
    assert mapper.layers["cells"].size == 8, "the circles' diameter"
    assert "spatial" not in data.tables["table"].uns, "the data are not written to"
    exec(mapper.code(), again := {"reference": data})
    assert again["mapper"].image == mapper.image


def test_coordinates_after_the_transformation_of_their_shapes_are_known_as_such():
    from spatialdata.transformations import Scale

    twice = Scale([2.0, 2.0], axes=("x", "y"))
    data = circles_and_image(twice, of_circles=twice)
    assert SpatialMapper(data).image["width"] == 50, "both are scaled alike, and the coordinates are those before"
    data.tables["table"].obsm["spatial"] *= 2
    after = SpatialMapper(data)
    assert after.image["width"] == 100 and after.layers["cells"].size == 16


@pytest.mark.parametrize(
    "transformation, why",
    [("shift", "'slide' is turned, shifted or stretched"), ("elsewhere", "coordinates are not those of 'spots'")],
)
def test_an_image_that_lies_otherwise_is_not_drawn_and_it_says_why(transformation, why):
    from spatialdata.transformations import Identity, Translation

    is_shifted = transformation == "shift"
    data = circles_and_image(Translation([30.0, 0.0], axes=("x", "y")) if is_shifted else Identity())
    if not is_shifted:
        data.tables["table"].obsm["spatial"] += 500
    assert why in {layer["name"]: layer for layer in SpatialMapper(data).layer_states}["image"]["note"]


def test_a_failure_is_told_and_the_mapper_can_be_used_again(mapper):
    with mock.patch("scarches_widgets.widgets.spatial_mapper.SageNet", side_effect=MemoryError("There is no memory.")):
        mapper.map()
        assert mapper.wait(300) == "failed"
    assert "no memory" in mapper.error["what"]
    mapper.map()
    assert mapper.wait(300) == "done" and mapper.error is None


# What lasts


def test_code_makes_the_same_mapper(mapped, reference, query):
    mapped.selection = query.obs["cell_type"] == query.obs["cell_type"].iloc[0]
    mapped.layers["regions"].visible = True
    code = mapped.code()
    assert mapped.script == code
    names = {"reference": reference, "query": query}
    exec(code.replace("model.train(", "model.train(progress=False, "), names)
    again = names["mapper"]
    assert again.selection.tolist() == mapped.selection.tolist()
    assert again.layers["regions"].visible and again.layers["regions"].color == mapped.layers["regions"].color
    pd.testing.assert_frame_equal(names["places"], mapped.locations)


@pytest.mark.slow
def test_pictures_are_drawn_with_and_without_a_query(mapped, reference, tmp_path):
    assert mapped.snapshot("svg").data.startswith("<svg") and mapped.snapshot("png").data[:4] == b"\x89PNG"
    page = mapped.export_html(tmp_path / "mapper.html").read_text()
    assert "placed by SageNet" in page and "predict_locations" in page
    assert SpatialMapper(reference, color="library_size").snapshot("png").data[:4] == b"\x89PNG"
