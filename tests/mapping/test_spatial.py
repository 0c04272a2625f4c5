import warnings

import numpy as np
import pandas as pd
import pytest
from scipy.spatial.distance import pdist
from scipy.stats import spearmanr

import scarches_widgets as sca
from scarches_widgets.data.names import DataError
from scarches_widgets.mapping import spatial

QUICK = {"max_epochs": 40, "batch_size": 64, "lr": 0.02}
SMALL = {"resolutions": (4, 9), "n_components": 10}


@pytest.fixture(scope="module")
def tissue():
    return sca.datasets.tissue(400, 40, n_types=4, n_regions=4, seed=1)


@pytest.fixture(scope="module")
def sections(tissue):
    return tuple(tissue[tissue.obs["section"] == f"section{i}"].copy() for i in (0, 1))


def test_the_score_is_spearmans_correlation_of_all_distances():
    rng = np.random.default_rng(0)
    truth = rng.normal(size=(80, 3))
    predicted = truth + rng.normal(size=(80, 3))
    expected = spearmanr(pdist(predicted), pdist(truth)).statistic
    assert spatial.distance_correlation(predicted, truth) == pytest.approx(expected)
    turned = truth @ np.linalg.qr(rng.normal(size=(3, 3)))[0] * 7 + 100
    assert spatial.distance_correlation(turned, truth) == pytest.approx(1)  # no common frame is needed
    assert spatial.distance_correlation(np.ones((80, 2)), truth) == 0
    some = spatial.distance_correlation(predicted, truth, max_cells=60)
    assert some != pytest.approx(expected, abs=1e-9) and abs(some - expected) < 0.15
    with pytest.raises(ValueError, match="80 predicted places and 79 true ones"):
        spatial.distance_correlation(predicted, truth[:-1])


def test_errors_are_distances_whatever_other_columns_a_frame_has():
    frame = pd.DataFrame({"uncertainty": [9.0, 9.0], "x": [0.0, 3.0], "y": [0.0, 4.0]})
    assert spatial.location_errors(frame, np.zeros((2, 2))).tolist() == [0, 5]


@pytest.mark.parametrize("features", ["log", "pca"])
def test_neighbours_place_a_cell_at_their_mean(sections, features):
    reference, query = sections
    one = spatial.knn_locations(reference, reference, features=features, n_neighbors=1)
    np.testing.assert_allclose(one[["x", "y"]], reference.obsm["spatial"])
    assert (one["uncertainty"] == 0).all()
    located = spatial.knn_locations(reference, query, features=features)
    error = spatial.location_errors(located, query.obsm["spatial"])
    assert list(located) == ["x", "y", "uncertainty"] and np.median(error) < 300  # by chance, 380 of 1,000 µm


def test_the_baseline_on_log_counts_is_sklearns(sections):
    from sklearn.neighbors import KNeighborsRegressor

    reference, query = sections
    logged = [np.log1p(1e4 * a.X.toarray() / a.X.toarray().sum(1, keepdims=True)) for a in sections]
    expected = KNeighborsRegressor(10).fit(logged[0], reference.obsm["spatial"]).predict(logged[1])
    located = spatial.knn_locations(reference, query[:, ::-1].copy(), features="log")  # genes go by name
    np.testing.assert_allclose(located[["x", "y"]], expected, rtol=1e-3)


def test_neighbours_vote_on_regions(sections):
    reference, query = sections
    regions = spatial.knn_regions(reference, query, "region")
    assert (regions["region"] == query.obs["region"].astype(str)).mean() > 0.4
    assert regions["probability"].between(0.2, 1).all()
    with pytest.raises(DataError, match=r"no column 'regoin'\. Did you mean 'region'\?"):
        spatial.knn_regions(reference, query, "regoin")


def test_each_section_is_held_out_once_and_the_better_method_is_named(tissue):
    found = spatial.held_out(tissue, section_key="section", train=QUICK, **SMALL)
    assert set(found.folds["fold"]) == {"section0", "section1"}
    assert set(found.table.index) == {"SageNet", "kNN, log expression", "kNN, PCA"}
    assert found.locations.index.equals(tissue.obs_names)
    errors = spatial.location_errors(found.locations, tissue.obsm["spatial"])
    np.testing.assert_allclose(found.locations["error"], errors)
    assert 0.3 < found.coverage < 0.95
    widened = found.locations["uncertainty"] * found.uncertainty_factor
    assert abs((errors <= widened).mean() - 0.63) < 0.01
    assert found.is_better == (found.table["distance_correlation"].idxmax() == "SageNet")
    assert "SageNet places better than kNN" in str(found)


def test_without_sections_blocks_of_the_tissue_are_held_out(sections):
    short = {**QUICK, "max_epochs": 4}
    found = spatial.held_out(sections[0], n_folds=2, train=short, **SMALL)
    assert found.locations["fold"].value_counts().gt(60).all() and len(found.locations) == 200
    again = spatial.held_out(sections[0], n_folds=2, train=short, **SMALL)
    pd.testing.assert_frame_equal(found.locations, again.locations)


def test_where_the_model_is_no_better_the_neighbours_are_offered(sections):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = spatial.held_out(sections[0], n_folds=2, train={"max_epochs": 1, "lr": 1e-6}, **SMALL)
    assert not found.is_better
    assert "places better than SageNet" in str(found) and "knn_locations" in str(found)


@pytest.mark.slow
def test_calibrated_uncertainties_hold_for_another_section_and_are_saved(tmp_path):
    tissue = sca.datasets.tissue(900, 40, n_sections=3, n_types=4, n_regions=4, seed=1)
    reference, query = (
        tissue[rows].copy() for rows in (tissue.obs["section"] != "section2", tissue.obs["section"] == "section2")
    )
    model = sca.models.SageNet(reference, query, section_key="section", resolutions=(4, 9, 20), n_components=10)
    model.train(**QUICK, progress=False)
    before = model.predict_locations()

    def coverage(located):
        return (spatial.location_errors(located, query.obsm["spatial"]) <= located["uncertainty"]).mean()

    found = spatial.calibrate(model, train=QUICK)
    after = model.predict_locations()
    assert coverage(before) > 0.75  # the model is too modest here
    assert abs(coverage(after) - 0.63) < 0.15
    pd.testing.assert_series_equal(after["uncertainty"], before["uncertainty"] * found.uncertainty_factor)
    pd.testing.assert_frame_equal(after.drop(columns="uncertainty"), before.drop(columns="uncertainty"))
    model.save(tmp_path / "model")
    loaded = sca.models.SageNet.load(tmp_path / "model")
    assert loaded.uncertainty_factors == model.uncertainty_factors == {"reference": found.uncertainty_factor}
    with pytest.raises(RuntimeError, match=r"Give them: model\.references\['reference'\]"):
        spatial.calibrate(loaded)
    with pytest.raises(ValueError, match="factor=0 does not make an uncertainty"):
        model.scale_uncertainty(0)


def test_folds_that_cannot_be_are_refused(sections):
    with pytest.raises(DataError, match=r"no column 'sectoin'\. Did you mean 'section'\?"):
        spatial.held_out(sections[0], section_key="sectoin")
    with pytest.raises(DataError, match="30 cells are too few for 4 folds"):
        spatial.held_out(sections[0][:30].copy())
    with pytest.raises(ValueError, match="n_folds=1: two at least"):
        spatial.held_out(sections[0], n_folds=1)
