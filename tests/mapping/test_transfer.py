import dataclasses
import pickle

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from scarches_widgets.data.names import DataError
from scarches_widgets.mapping import transfer
from scarches_widgets.mapping.transfer import (
    neighbor_label_probabilities,
    weighted_knn_trainer,
    weighted_knn_transfer,
)


def embedded(z, name="cell", **obs):
    z = np.asarray(z)
    names = [f"{name}{number:04d}" for number in range(len(z))]
    adata = ad.AnnData(np.zeros((len(z), 1), np.float32), obs=pd.DataFrame(obs, index=names))
    adata.obsm["X_emb"] = z
    return adata


@pytest.fixture
def reference():
    rng = np.random.default_rng(0)
    fine = rng.choice(["B naive", "B memory", "T", "NK"], 300)
    centres = pd.Series({"B naive": 0.0, "B memory": 1.5, "T": 4.0, "NK": 8.0})
    z = rng.normal(0, 1.5, (300, 6)) + centres[fine].to_numpy()[:, None]
    return embedded(z.astype(np.float32), "ref", cell_type_fine=fine, cell_type=[name.split()[0] for name in fine])


@pytest.fixture
def query():
    return embedded(np.random.default_rng(1).normal(2, 3, (80, 6)).astype(np.float32), "query")


def transferred(query, reference, n_neighbors=15, label_keys="cell_type_fine", threshold=1):
    knn_model = weighted_knn_trainer(reference, "X_emb", n_neighbors)
    return weighted_knn_transfer(
        query, ref_adata_obs=reference.obs, label_keys=label_keys, knn_model=knn_model, threshold=threshold
    )


def published_vote(query_z, reference_z, reference_labels, n_neighbors):
    """Sikkema et al. 2023, Methods, cell by cell."""
    labels, uncertainties = [], []
    for z in query_z.astype(float):
        distances = np.sqrt(((reference_z.astype(float) - z) ** 2).sum(axis=1))
        nearest = np.argsort(distances, kind="stable")[:n_neighbors]
        weights = np.exp(-distances[nearest] / (2 / distances[nearest].std()) ** 2)
        votes = pd.Series(weights / weights.sum()).groupby(np.asarray(reference_labels)[nearest]).sum()
        labels.append(votes.idxmax())
        uncertainties.append(1 - votes.max())
    return np.array(labels), np.array(uncertainties)


@pytest.mark.parametrize("n_neighbors", [2, 15, 300])
def test_labels_and_uncertainties_are_those_of_the_published_formula(reference, query, n_neighbors):
    labels, uncertainties = transferred(query, reference, n_neighbors)
    expected_labels, expected_uncertainties = published_vote(
        query.obsm["X_emb"], reference.obsm["X_emb"], reference.obs["cell_type_fine"], n_neighbors
    )
    np.testing.assert_allclose(uncertainties["cell_type_fine"], expected_uncertainties, atol=1e-12)
    is_clear = expected_uncertainties < 0.5 - 1e-9
    assert is_clear.sum() > 20
    np.testing.assert_array_equal(labels["cell_type_fine"][is_clear], expected_labels[is_clear])


def test_the_call_of_the_scarches_tutorial_runs_as_printed(reference, query):
    knn_model = weighted_knn_trainer(reference, train_adata_emb="X_emb", n_neighbors=50)
    labels, uncertainties = weighted_knn_transfer(
        query, ref_adata_obs=reference.obs, label_keys="cell_type", knn_model=knn_model, threshold=0.5
    )
    assert list(labels.index) == list(uncertainties.index) == list(query.obs_names)
    assert list(labels.columns) == list(uncertainties.columns) == ["cell_type"]


def test_uncertainty_is_exactly_zero_where_all_neighbours_agree(query):
    rng = np.random.default_rng(2)
    reference = embedded(rng.normal(size=(200, 6)), cell_type=["T"] * 200)
    labels, uncertainties = transferred(query, reference, 37, "cell_type")
    assert (labels["cell_type"] == "T").all()
    assert (uncertainties["cell_type"] == 0.0).all()


def test_a_cell_is_unknown_exactly_where_its_uncertainty_exceeds_the_threshold(reference, query):
    _, uncertainties = transferred(query, reference)
    threshold = float(uncertainties["cell_type_fine"].sort_values().iloc[40])  # some cell's own, which stays labelled
    labels, _ = transferred(query, reference, threshold=threshold)
    unknown = labels["cell_type_fine"] == "Unknown"
    assert 0 < unknown.sum() < len(labels)
    np.testing.assert_array_equal(unknown, uncertainties["cell_type_fine"] > threshold)


def test_with_a_threshold_of_one_no_cell_is_unknown(query):
    rng = np.random.default_rng(3)
    reference = embedded(rng.normal(size=(60, 6)), cell_type=[f"type {number}" for number in range(60)])
    labels, uncertainties = transferred(query, reference, 50, "cell_type", threshold=1)
    assert uncertainties["cell_type"].min() > 0.8
    assert not (labels["cell_type"] == "Unknown").any()


def test_distances_in_the_thousands_give_numbers_not_nan():
    rng = np.random.default_rng(4)
    reference = embedded(rng.normal(0, 300, (100, 6)), cell_type=rng.choice(["B", "T"], 100))
    labels, uncertainties = transferred(embedded(np.full((5, 6), 2000.0), "query"), reference, 50, "cell_type")
    assert set(labels["cell_type"]) <= {"B", "T"}
    assert uncertainties["cell_type"].between(0, 0.5).all()


def test_neighbours_at_equal_distances_have_equal_votes():
    reference = embedded([[1.0, 0], [0, 1], [-1, 0], [0, -1]], cell_type=["B", "T", "T", "T"])
    labels, uncertainties = transferred(embedded([[0.0, 0]], "query"), reference, 4, "cell_type")
    assert labels["cell_type"].tolist() == ["T"]
    assert uncertainties["cell_type"].tolist() == [0.25]


def test_on_equal_votes_the_first_label_in_sorted_order_wins():
    reference = embedded([[1.0], [-1.0]], cell_type=["T", "B"])
    labels, uncertainties = transferred(embedded([[0.0]], "query"), reference, 2, "cell_type")
    assert labels["cell_type"].tolist() == ["B"]
    assert uncertainties["cell_type"].tolist() == [0.5]


def test_a_label_key_takes_no_longer_named_column_along(reference, query):
    labels, _ = transferred(query, reference, label_keys="cell_type")
    assert list(labels.columns) == ["cell_type"]
    labels, _ = transferred(query, reference, label_keys=["cell_type_fine", "cell_type"])
    assert list(labels.columns) == ["cell_type_fine", "cell_type"]


@pytest.mark.parametrize("decimals", [None, 0])  # rounded: many cells at the same distance
def test_the_order_of_the_reference_cells_changes_no_bit(reference, query, decimals):
    if decimals is not None:
        reference.obsm["X_emb"] = reference.obsm["X_emb"].round(decimals)
        query.obsm["X_emb"] = query.obsm["X_emb"].round(decimals)
    shuffled = reference[np.random.default_rng(5).permutation(reference.n_obs)].copy()
    for one, other in zip(transferred(query, reference), transferred(query, shuffled)):
        pd.testing.assert_frame_equal(one, other, check_exact=True)


def test_labels_are_matched_to_the_reference_by_cell_name(reference, query):
    knn_model = weighted_knn_trainer(reference, "X_emb", 15)
    one = weighted_knn_transfer(query, None, reference.obs, "cell_type", knn_model)
    other = weighted_knn_transfer(query, None, reference.obs.sample(frac=1, random_state=0), "cell_type", knn_model)
    pd.testing.assert_frame_equal(one[0], other[0])
    with pytest.raises(DataError, match=r"2 are not among those rows \(ref0000, ref0001\)"):
        renamed = reference.obs.rename(index={"ref0000": "a", "ref0001": "b"})
        weighted_knn_transfer(query, None, renamed, "cell_type", knn_model)
    with pytest.raises(DataError, match="250 rows, the indexed reference 300 cells"):
        weighted_knn_transfer(query, None, reference.obs[:250], "cell_type", knn_model)


def test_a_cell_is_labelled_alone_as_among_others(reference, query, monkeypatch):
    together = transferred(query, reference)
    monkeypatch.setattr(transfer, "VOTES_AT_ONCE", 100)
    for one, other in zip(together, transferred(query, reference)):
        pd.testing.assert_frame_equal(one, other, check_exact=True)
    for one, other in zip(together, transferred(query[7:8], reference)):
        pd.testing.assert_frame_equal(one[7:8], other, check_exact=True)


def test_probabilities_sum_to_one_and_agree_with_the_labels(reference, query):
    knn_model = weighted_knn_trainer(reference, "X_emb", 15)
    probabilities = neighbor_label_probabilities(query, None, reference.obs, "cell_type_fine", knn_model)
    labels, uncertainties = transferred(query, reference)
    assert list(probabilities.columns) == ["B memory", "B naive", "NK", "T"]
    np.testing.assert_allclose(probabilities.sum(axis=1), 1)
    np.testing.assert_array_equal(probabilities.idxmax(axis=1), labels["cell_type_fine"])
    np.testing.assert_allclose(1 - probabilities.max(axis=1), uncertainties["cell_type_fine"], atol=1e-15)


def test_categorical_and_numbered_labels_work_and_unused_categories_do_not_appear(reference, query):
    reference.obs["cluster"] = (reference.obs["cell_type"] == "T").astype(int)
    reference.obs["cell_type"] = pd.Categorical(reference.obs["cell_type"], ["T", "B", "NK", "never seen"])
    labels, _ = transferred(query, reference, label_keys=["cluster", "cell_type"])
    assert set(labels["cluster"]) == {"0", "1"}
    knn_model = weighted_knn_trainer(reference, "X_emb")
    probabilities = neighbor_label_probabilities(query, None, reference.obs, "cell_type", knn_model)
    assert list(probabilities.columns) == ["B", "NK", "T"]


@pytest.mark.parametrize("kind", ["dense", "csr", "csc", "view", "backed", "dask"])
def test_every_kind_of_x_gives_the_same_labels(reference, query, kind, tmp_path):
    def on_x(adata, kind):
        z = adata.obsm["X_emb"]
        if kind == "view":
            twice = pd.concat([adata.obs, adata.obs.rename(index="other {}".format)])
            return ad.AnnData(np.vstack([z, z]), obs=twice)[: len(z)]
        if kind == "dask":
            z = pytest.importorskip("dask.array").from_array(z, chunks=(50, 3))
        made = ad.AnnData({"csr": sparse.csr_matrix, "csc": sparse.csc_matrix}.get(kind, lambda x: x)(z), obs=adata.obs)
        if kind == "backed":
            made.write_h5ad(tmp_path / f"{adata.n_obs}.h5ad")
            made = ad.read_h5ad(tmp_path / f"{adata.n_obs}.h5ad", backed="r")
        return made

    knn_model = weighted_knn_trainer(on_x(reference, kind), "X", 15)
    labels, _ = weighted_knn_transfer(on_x(query, kind), None, reference.obs, "cell_type_fine", knn_model)
    pd.testing.assert_frame_equal(labels, transferred(query, reference)[0])


def test_nothing_that_is_given_is_modified(reference, query):
    before = reference.copy(), query.copy()
    transferred(query, reference, threshold=0.1)
    for then, now in zip(before, (reference, query)):
        pd.testing.assert_frame_equal(then.obs, now.obs)
        np.testing.assert_array_equal(then.obsm["X_emb"], now.obsm["X_emb"])


def test_a_query_without_cells_gets_empty_frames(reference, query):
    labels, uncertainties = transferred(query[:0], reference)
    assert labels.shape == uncertainties.shape == (0, 1)


def test_the_index_is_frozen_and_can_be_sent_to_another_process(reference):
    knn_model = weighted_knn_trainer(reference, "X_emb", 15)
    with pytest.raises(dataclasses.FrozenInstanceError):
        knn_model.n_neighbors = 3
    sent = pickle.loads(pickle.dumps(knn_model))
    np.testing.assert_array_equal(sent.coordinates, knn_model.coordinates)
    assert "ref0000" in repr(knn_model)


def test_more_neighbours_than_reference_cells_warns_and_all_vote(reference, query):
    with pytest.warns(UserWarning, match="all of them will vote"):
        knn_model = weighted_knn_trainer(reference, "X_emb", 1000)
    assert knn_model.n_neighbors == 300
    weighted_knn_transfer(query, None, reference.obs, "cell_type", knn_model)


def test_errors_say_what_is_wrong_and_name_what_is_near(reference, query):
    with pytest.raises(DataError, match=r"no obsm\['X_embb'\]. Did you mean 'X_emb'\?"):
        weighted_knn_trainer(reference, "X_embb")
    with pytest.raises(DataError, match=r"no column 'celltype'\. Did you mean 'cell_type'"):
        transferred(query, reference, label_keys="celltype")
    with pytest.raises(DataError, match="has 4 dimensions, but the reference's 'X_emb' has 6"):
        transferred(embedded(query.obsm["X_emb"][:, :4]), reference)
    with pytest.raises(ValueError, match="from 0 to 1, not 2"):
        transferred(query, reference, threshold=2)
    with pytest.raises(ValueError, match="at least 1, not 0"):
        weighted_knn_trainer(reference, "X_emb", 0)
    with pytest.raises(TypeError, match="weighted_knn_trainer"):
        weighted_knn_transfer(query, None, reference.obs, "cell_type", None)
    with pytest.raises(TypeError, match="label_keys is missing"):
        transferred(query, reference, label_keys=None)


def test_data_that_cannot_be_compared_are_refused(reference, query):
    reference.obs["pseudotime"] = np.linspace(0, 1, 300)
    with pytest.raises(DataError, match="continuous numbers"):
        transferred(query, reference, label_keys="pseudotime")
    reference.obs.loc[["ref0003", "ref0009"], "cell_type"] = np.nan
    with pytest.raises(DataError, match="2 of the reference's 300 cells have no 'cell_type'"):
        transferred(query, reference, label_keys="cell_type")
    query.obsm["X_emb"][4, 2] = np.nan
    with pytest.raises(DataError, match=r"1 of 80 cells have NaN, infinite or enormous .* \(query0004\)"):
        transferred(query, reference)
    reference.obsm["X_emb"] = reference.obsm["X_emb"].astype(float)
    reference.obsm["X_emb"][0] = 1e160  # its square is infinite
    with pytest.raises(DataError, match="ref0000"):
        weighted_knn_trainer(reference, "X_emb")
    with pytest.raises(DataError, match="no cells"):
        weighted_knn_trainer(reference[:0], "X_emb")
    reference.obs_names = ["twice", "twice", *reference.obs_names[2:]]
    reference.obsm["X_emb"][0] = 0
    with pytest.raises(DataError, match="obs_names_make_unique"):
        weighted_knn_trainer(reference, "X_emb")
