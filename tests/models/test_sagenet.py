import logging
import warnings
from unittest import mock

import anndata as ad
import h5py
import numpy as np
import pandas as pd
import pytest
from scipy.spatial.distance import pdist
from scipy.stats import spearmanr
from small import fingerprint
from storage import STORAGE, contents

import scarches_widgets as sca
from scarches_widgets.data.names import DataError

QUICK = {"max_epochs": 25, "batch_size": 64, "lr": 0.02, "progress": False}
SMALL = {"resolutions": (4, 9), "n_components": 10}
GRAPHS = ("TransformerConv", "GraphSAGE", "GCN")


@pytest.fixture(scope="module")
def sections():
    """Two sections of a small tissue; the query's coordinates are known to the tests only."""
    tissue = sca.datasets.tissue(400, 40, n_types=4, n_regions=4, seed=1)
    reference, query = (tissue[tissue.obs["section"] == f"section{i}"].copy() for i in (0, 1))
    query.obsm["truth"] = query.obsm.pop("spatial")
    return reference, query


@pytest.fixture(scope="module")
def fitted(sections):
    """Tests do not change it."""
    return fit(*sections)


def fit(reference, query=None, seed=0, **options):
    model = sca.models.SageNet(reference, query, seed=seed, **(SMALL | options))
    model.train(**QUICK, seed=seed)
    return model


def xy(locations):
    return locations[[name for name in ("x", "y", "z") if name in locations]].to_numpy()


def test_cells_are_placed_near_where_they_were(sections, fitted):
    _, query = sections
    located = fitted.predict_locations(query)
    assert list(located) == ["x", "y", "uncertainty", "confidence"] and located.index.equals(query.obs_names)
    error = np.linalg.norm(xy(located) - query.obsm["truth"], axis=1)
    assert np.median(error) < 200  # µm, of 1,000; by chance, 380
    assert spearmanr(error, located["uncertainty"]).statistic > 0.2
    assert located["confidence"].between(0, 1).all() and (located["uncertainty"] > 0).all()


def test_a_tissue_may_have_three_dimensions():
    tissue = sca.datasets.tissue(300, 40, n_sections=1, n_types=4, n_regions=4, n_dims=3)
    located = fit(tissue).predict_locations(tissue)
    assert list(located) == ["x", "y", "z", "uncertainty", "confidence"]
    assert np.median(np.linalg.norm(xy(located) - tissue.obsm["spatial"], axis=1)) < 330


@pytest.mark.parametrize("classifier", ["linear", *GRAPHS])
def test_every_classifier_places_cells_and_comes_back_from_a_file(sections, tmp_path, classifier):
    reference, query = sections
    model = fit(reference, query, classifier=classifier)
    located = model.predict_locations()
    assert np.median(np.linalg.norm(xy(located) - query.obsm["truth"], axis=1)) < 230
    model.save_as_folder(tmp_path / "model")
    again = sca.models.SageNet.load_from_folder(tmp_path / "model")
    pd.testing.assert_frame_equal(again.predict_locations(query), located)
    if classifier in GRAPHS:
        network = model.gene_network["reference"]
        assert network.edges.shape[1] == model.config.references[0].n_edges > 0
        assert {"alpha", "n_edges", "n_isolated"} <= set(network.report)


def test_a_saved_model_has_everything_but_the_reference_s_obs(sections, fitted, tmp_path):
    reference, query = sections
    fitted.save(tmp_path / "model")
    again = sca.models.SageNet.load(tmp_path / "model")
    assert fingerprint(again) == fingerprint(fitted) and again.config == fitted.config
    pd.testing.assert_frame_equal(again.history, fitted.history)
    pd.testing.assert_frame_equal(again.predict_regions(query), fitted.predict_regions(query))
    with pytest.raises(RuntimeError, match=r"loaded without them. Give them: model\.references\['reference'\]"):
        again.predict_regions(query, "cell_type")
    with_cells = sca.models.SageNet.load(tmp_path / "model", reference)
    pd.testing.assert_frame_equal(with_cells.predict_regions(query, "region"), fitted.predict_regions(query, "region"))


def test_a_file_from_before_uncertainties_were_calibrated_is_read_as_not_calibrated(sections, fitted, tmp_path):
    tensors = fitted.module.state_dict()
    earlier = {name: one for name, one in tensors.items() if not name.endswith("uncertainty_factor")}
    assert len(earlier) == len(tensors) - 1
    with mock.patch.object(fitted.module, "state_dict", return_value=earlier):
        fitted.save(tmp_path / "model")
    again = sca.models.SageNet.load(tmp_path / "model")
    assert again.module.references[0].uncertainty_factor == 1
    assert fingerprint(again) == fingerprint(fitted)
    pd.testing.assert_frame_equal(again.predict_locations(sections[1]), fitted.predict_locations(sections[1]))


def test_a_loaded_model_is_trained_further_on_its_own_cells_and_on_no_others(sections, fitted, tmp_path):
    reference, query = sections
    fitted.save(tmp_path / "model")
    again = sca.models.SageNet.load(tmp_path / "model")
    with pytest.raises(RuntimeError, match=r"Give them: model\.references\['reference'\] = adata"):
        again.train(**QUICK)
    for others in (reference[:-1].copy(), reference[::-1].copy()):
        again.references["reference"] = others
        with pytest.raises(DataError, match="are not those that the model was made of"):
            again.train(**QUICK)
    again.references["reference"] = reference
    again.train(**QUICK)
    first = [model.history["train_kmeans_4"].iloc[0] for model in (fitted, again)]
    assert first[1] < 0.7 * first[0] and len(again.predict_locations(query)) == query.n_obs


def test_a_model_that_is_not_trained_trains_itself_and_says_so(sections, monkeypatch):
    monkeypatch.setattr("scarches_widgets.training.plan.MOST_EPOCHS", 3)
    reference, query = sections
    model = sca.models.SageNet(reference[:60].copy(), query, **SMALL)
    with pytest.warns(UserWarning, match="has not been trained; it is trained now"):
        located = model.predict_locations(query)
    assert len(model.history) == 3 and len(located) == query.n_obs
    with pytest.raises(ValueError, match="no cells to place"):
        fit(reference).predict_locations()


def test_training_has_a_history_of_every_partition_and_runs_in_the_background(sections, fitted):
    assert {"train_kmeans_4", "val_kmeans_9", "val_loss"} <= set(fitted.history)
    assert fitted.history["val_loss"].iloc[-1] < fitted.history["val_loss"].iloc[0]
    model = sca.models.SageNet(*sections, **SMALL)
    seen = []
    model.watch_runs(lambda run: run.subscribe(seen.append))
    assert model.train(**QUICK, background=True).wait(60) == "done"
    assert fingerprint(model) == fingerprint(fitted)
    assert seen


def test_early_stopping_and_resuming_are_those_of_every_model(sections, tmp_path):
    model = sca.models.SageNet(*sections, **SMALL)
    run = model.train(n_epochs=200, use_early_stopping=True, patience=3, lr=0.05, progress=False)
    assert len(run.epochs) < 200 and run.ended.best_epoch is not None
    stopped = sca.models.SageNet(*sections, **SMALL)
    half = stopped.train(**QUICK, checkpoint_dir=tmp_path, background=True)
    half.stop("batch")
    half.wait(60)
    resumed, whole = (sca.models.SageNet(*sections, **SMALL) for _ in range(2))
    resumed.train(**QUICK, checkpoint_dir=tmp_path, resume=True)
    whole.train(**QUICK)
    assert fingerprint(resumed) == fingerprint(whole)


def test_one_seed_gives_one_result_and_another_seed_another(sections, fitted):
    np.random.seed(1)  # noqa: NPY002
    state = np.random.get_state()[1].tolist()  # noqa: NPY002
    assert fingerprint(fit(*sections)) == fingerprint(fitted)
    assert state == np.random.get_state()[1].tolist()  # noqa: NPY002
    assert fingerprint(fit(*sections, seed=1)) != fingerprint(fitted)


@pytest.mark.parametrize("storage", [name for name in STORAGE if name not in ("untidy csr", "view of backed dense")])
def test_places_are_the_same_to_the_bit_however_cells_are_stored(sections, fitted, tmp_path, storage):
    located = fitted.predict_locations(STORAGE[storage](sections[1], tmp_path))
    pd.testing.assert_frame_equal(located, fitted.predict_locations(sections[1]))


def test_a_reference_is_read_alike_however_it_is_stored(sections, fitted, tmp_path):
    for storage in ("csc", "backed csr", "dense", "dask"):
        reference = STORAGE[storage](sections[0], tmp_path)
        assert fingerprint(fit(reference, sections[1])) == fingerprint(fitted)


def test_genes_are_matched_by_name_and_missing_ones_count_as_average(sections, fitted):
    query = sections[1]
    located = fitted.predict_locations(query)
    shuffled = query[:, np.random.default_rng(0).permutation(40)].copy()
    np.testing.assert_allclose(xy(fitted.predict_locations(shuffled)), xy(located), rtol=1e-4)
    with pytest.warns(UserWarning, match="8 missing"):
        fewer = fitted.predict_locations(query[:, 8:].copy())
    assert np.median(np.linalg.norm(xy(fewer) - query.obsm["truth"], axis=1)) < 250
    with pytest.raises(DataError, match="genes"):
        fitted.predict_locations(query[:, :5].copy())


def test_only_genes_that_the_query_has_are_learned_from(sections):
    reference, query = sections
    model = sca.models.SageNet(reference, query[:, ::-1][:, :30].copy(), **SMALL)
    assert model.schema.genes == tuple(reference.var_names[10:])


def test_counts_and_log_normalised_values_give_the_same_places(sections, fitted):
    reference, query = (adata.copy() for adata in sections)
    target = fitted.config.references[0].target_sum
    for adata in (reference, query):
        counts = adata.X.toarray()
        adata.X = np.log1p(counts * (target / counts.sum(1, keepdims=True)))
    np.testing.assert_allclose(xy(fitted.predict_locations(query)), xy(fitted.predict_locations(sections[1])), atol=0.5)
    model = fit(reference, query)
    assert model.config.references[0].target_sum is None
    np.testing.assert_allclose(model.spatial_genes["reference"], fitted.spatial_genes["reference"], atol=1e-4)


def test_a_few_cells_are_placed_by_the_reference_s_means_and_a_warning_says_so(sections, fitted):
    reference, _ = sections
    all_cells = fitted.predict_locations(reference)
    with pytest.warns(UserWarning, match="10 cells are of sections too small"):
        few = fitted.predict_locations(reference[:10].copy())
    np.testing.assert_allclose(xy(few), xy(all_cells)[:10], atol=1)


def test_each_section_is_standardised_alone(sections):
    reference, query = sections
    both = ad.concat([reference, query])
    both.X = both.X.toarray()
    both.X[200:, :20] *= 7  # another technology
    both.obsm["spatial"] = np.concatenate([reference.obsm["spatial"], query.obsm["truth"]])
    model = fit(both, section_key="section")
    alone = model.predict_locations(both[200:].copy())
    np.testing.assert_allclose(xy(alone), xy(model.predict_locations(both))[200:], atol=1)


def test_regions_are_those_of_a_partition_or_of_any_column_of_the_reference(sections, fitted):
    _, query = sections
    regions = fitted.predict_regions(query)
    assert list(regions) == ["region", "probability", "entropy", "confidence"]
    assert set(regions["region"]) <= set("0123")
    soft = fitted.predict_regions(query, "kmeans_9", soft=True)
    assert soft.shape == (200, 9)
    np.testing.assert_allclose(soft.sum(axis=1), 1, rtol=1e-6)
    by_name = fitted.predict_regions(query, "region")
    assert (by_name["region"] == query.obs["region"].astype(str)).mean() > 0.6
    np.testing.assert_allclose(fitted.predict_regions(query, "region", soft=True).max(axis=1), by_name["probability"])
    with pytest.raises(DataError, match=r"'regoin' is neither a partition nor.*Did you mean 'region'\?"):
        fitted.predict_regions(query, "regoin")


def test_columns_of_obs_may_be_the_partitions(sections):
    reference, query = sections
    model = fit(reference, query, comm_columns=["region", "cell_type"])
    assert model.config.partition_names == ("region", "cell_type")
    regions = model.predict_regions()
    assert (regions["region"] == query.obs["region"].astype(str)).mean() > 0.6
    unnamed = reference.copy()
    unnamed.obs["region"] = unnamed.obs["region"].cat.remove_categories("Region 0")
    with pytest.raises(DataError, match=r"cells have no 'region' \(NaN\)"):
        sca.models.SageNet(unnamed, partition_keys="region")


@pytest.mark.parametrize(("partitions", "resolutions"), [("grid", (4, 9)), ("leiden", (0.5, 1.0))])
def test_partitions_may_be_grids_or_communities(sections, partitions, resolutions):
    reference, query = sections
    located = fit(reference, query, partitions=partitions, resolutions=resolutions).predict_locations()
    assert np.median(np.linalg.norm(xy(located) - query.obsm["truth"], axis=1)) < 230


def test_distances_are_a_metric_and_the_nearest_are_those_of_all_pairs(sections, fitted):
    _, query = sections
    dense = fitted.cell_distances(query, dense=True)
    assert dense.dtype == np.float32 and dense.shape == (200, 200)
    np.testing.assert_array_equal(dense, dense.T)
    assert (dense.diagonal() == 0).all() and 0 < dense.max() <= 1
    sparse = fitted.cell_distances(query, n_neighbors=7)
    assert sparse.nnz == 200 * 7
    nearest = np.sort(dense + 2 * np.eye(200), axis=1)[:, :7]
    np.testing.assert_allclose(np.sort(sparse.data.reshape(200, 7), axis=1), nearest, atol=1e-6)
    assert spearmanr(dense[np.triu_indices(200, 1)], pdist(query.obsm["truth"])).statistic > 0.3


def test_informative_genes_are_those_that_vary_over_the_tissue_and_attributions_are_complete(sections, fitted):
    genes = fitted.informative_genes(n_steps=32)
    assert genes.attrs["completeness_error"] < 0.05
    assert set(genes.index) == set(fitted.spatial_genes.index[fitted.spatial_genes["is_used"]])
    moran = fitted.spatial_genes.loc[genes.index, "reference"]
    assert spearmanr(genes["importance"], moran).statistic > 0.5
    assert spearmanr(genes["importance"], genes["permutation"]).statistic > 0.5
    assert genes["best_rank"].min() == 0 and genes["best_region"].str.contains("kmeans_").all()


def test_mapping_writes_what_it_says_and_nothing_else_is_changed(sections, fitted):
    reference, query = sections[0], sections[1].copy()
    before = contents(reference), contents(query)
    fitted.predict_locations(query)
    assert (contents(reference), contents(query)) == before
    written = fitted.load_query_data(query, save_prob=True, save_dist=True)
    assert {"obs['pred_reference_kmeans_4']", "obs['ent_reference_kmeans_9']", "obsm['X_sagenet']"} <= set(written)
    assert query.obsm["X_sagenet"].shape == (200, 2) and query.obsm["prob_reference_kmeans_9"].shape == (200, 9)
    assert query.obs["ent_reference_kmeans_4"].between(0, 1).all() and query.obsp["sagenet_distances"].nnz
    assert f"obs['{query.obs.columns[-1]}']" in written


def test_several_references_keep_frames_of_their_own(sections):
    reference, query = sections
    far = query.copy()
    far.obsm["spatial"] = far.obsm["truth"] + 50_000
    model = fit({"near": reference, "far": far})
    located = model.predict_locations(query)
    assert set(located["reference"]) <= {"near", "far"}
    is_far = located["reference"] == "far"
    assert (located.loc[is_far, "x"] > 49_000).all() and (located.loc[~is_far, "x"] < 1_100).all()
    only = model.predict_locations(query, reference="near")
    assert "reference" not in only and (only["x"] < 1_100).all()
    with pytest.raises(ValueError, match="Name one: reference="):
        model.predict_regions(query)
    with pytest.raises(ValueError, match=r"There is no reference 'nera'\. Did you mean 'near'\?"):
        model.predict_locations(query, reference="nera")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda adata: adata.obsm.update(X_spatial=adata.obsm.pop("spatial")), r"no obsm\['spatial'\].*'X_spatial'"),
        (lambda adata: adata.obsm["spatial"].__setitem__((3, 0), np.nan), "1 of 200 cells have NaN"),
        (lambda adata: adata.obsm["spatial"].fill(1.0), "All cells lie at one place"),
        (lambda adata: adata.obsm.update(spatial=adata.obsm["spatial"][:, :1]), r"shape \(200, 1\)"),
    ],
)
def test_coordinates_that_are_none_are_refused_with_how_to_mend_them(sections, change, message):
    reference = sections[0].copy()
    change(reference)
    with pytest.raises(DataError, match=message):
        sca.models.SageNet(reference)


def test_options_are_refused_by_name_and_a_sentence_says_why(sections):
    with pytest.raises(TypeError, match=r"no option 'clasifier'\. Did you mean 'classifier'\?"):
        sca.models.SageNet(sections[0], clasifier="GCN")
    with pytest.raises(TypeError, match="partition_names follows from the references"):
        sca.models.SageNet(sections[0], partition_names=())
    with pytest.raises(ValueError, match="read_out='average' is not known"):
        fit(sections[0]).predict_locations(sections[1], read_out="average")


def test_a_tissue_without_patterns_is_refused(sections):
    reference = sections[0].copy()
    reference.X = np.ones(reference.shape, dtype=np.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(DataError, match="None of 40 genes varies over the tissue"):
            sca.models.SageNet(reference)


def test_a_model_says_what_it_is_and_how_the_query_s_genes_compare(sections, caplog):
    with caplog.at_level(logging.INFO):
        model = sca.models.SageNet(*sections, **SMALL)
    assert "40 of the reference's 40 genes found" in caplog.text
    assert repr(model).startswith("SageNet(reference: 200 cells;") and repr(model).endswith("not trained)")


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(5))
def test_the_posterior_places_simulated_cells_better_than_neighbours_and_centroids(seed):
    tissue = sca.datasets.tissue(seed=seed)
    reference, query = (tissue[tissue.obs["section"] == f"section{i}"].copy() for i in (0, 1))
    model = sca.models.SageNet(reference, query, seed=seed)
    model.train(progress=False, seed=seed)
    truth = pdist(query.obsm["spatial"])
    score = {
        read_out: spearmanr(pdist(xy(model.predict_locations(read_out=read_out))), truth).statistic
        for read_out in ("posterior", "centroid")
    }
    for features in ("log", "pca"):
        located = sca.mapping.spatial.knn_locations(reference, query, features=features)
        score[features] = spearmanr(pdist(xy(located)), truth).statistic
    assert score["posterior"] > max(score["log"], score["pca"], score["centroid"])


@pytest.mark.slow
@pytest.mark.realdata
@pytest.mark.parametrize(
    ("file", "reference", "query", "least"),
    [
        ("starmap_mouse_mpfc", "section0", "section1", 0.28),
        ("starmap_mouse_mpfc", "section1", "section0", 0.42),
        ("st_breast_her2", "H1", "H2", 0.56),
        ("st_breast_her2", "H2", "H1", 0.48),
        ("st_breast_her2", "A1", "A2", 0.42),
    ],
)
def test_distances_in_measured_tissue_are_told_as_well_as_required(real_data, file, reference, query, least):
    adata = ad.read_h5ad(real_data / f"{file}.h5ad")
    reference, query = (adata[adata.obs["batch"] == batch].copy() for batch in (reference, query))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # on genes without counts
        model = sca.models.SageNet(reference, query)
        model.train(progress=False)
        located = model.predict_locations()
    assert spearmanr(pdist(xy(located)), pdist(query.obsm["spatial"])).statistic > least - 0.01


@pytest.mark.slow
@pytest.mark.realdata
def test_dissociated_neurons_of_a_cortex_lie_in_the_order_of_their_layers(real_data):
    tissue = ad.read_h5ad(real_data / "starmap_mouse_mpfc.h5ad")
    tissue = tissue[tissue.obs["batch"] == "section1"].copy()  # its layers follow one another along x
    with h5py.File(real_data / "multiome_snare_mouse_cortex.h5mu") as file:
        query = ad.io.read_elem(file["mod/rna"])  # another technology, of which 82 genes are in the panel of 158
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # on genes that are missing
        model = sca.models.SageNet(tissue, query)
        model.train(progress=False)
        located = model.predict_locations()
    depth = located["x"].groupby(query.obs["cell_type"].astype(str)).median()
    width = np.ptp(tissue.obsm["spatial"][:, 0])
    assert depth["L4/5"] - depth["L2/3"] > 0.1 * width and depth["L6"] - depth["L4/5"] > 0.1 * width


@pytest.mark.slow
def test_20_000_cells_are_placed_without_a_table_of_cells_by_cells():
    import tracemalloc

    tissue = sca.datasets.tissue(40_000, 60)
    reference, query = (tissue[tissue.obs["section"] == f"section{i}"].copy() for i in (0, 1))
    model = sca.models.SageNet(reference, query)
    model.train(max_epochs=2, progress=False)
    tracemalloc.start()
    model.predict_locations()
    model.cell_distances(n_neighbors=10)
    assert tracemalloc.get_traced_memory()[1] < 20_000**2  # bytes: a quarter of a float32 table
