"""scPoli against independent truths: what scArches computes, the loss in float64; prototypes, conditions, surgery."""

import logging
import warnings

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.special as sp
import torch
from sklearn.metrics import roc_auc_score
from small import QUICK, fingerprint

import scarches_widgets as sca
from scarches_widgets.data.minibatches import Cells
from scarches_widgets.data.names import DataError
from scarches_widgets.data.schema import DataSchema
from scarches_widgets.models.scpoli import ScPoliConfig, ScPoliModule
from scarches_widgets.nn.layers import initialize
from scarches_widgets.nn.noise import Noise, generator_of
from scarches_widgets.training.options import planned

SMALL = {"hidden_layer_sizes": (16,), "n_latent": 4, "embedding_dims": 3}
KEYS = {"batch_key": "batch", "labels_key": "cell_type"}
scPoli = sca.models.scPoli
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*cells carry labels that the reference knows"),
    pytest.mark.filterwarnings("ignore:.*has a single cell in 1 of 5 labels"),
]


@pytest.fixture(scope="module")
def reference(atlas):
    """Trained on two of three batches, with prototypes; tests do not change it."""
    model = scPoli(atlas[atlas.obs["batch"] != "batch2"].copy(), **KEYS, **SMALL)
    model.train(20, batch_size=64, progress=False)
    return model


@pytest.fixture
def partly_labelled(reference_cells):
    """A third of the cells has no label, another level of labels is coarser, and one type is of one cell."""
    fine = reference_cells.obs["cell_type"].astype(object)
    fine.iloc[7] = "rare"
    reference_cells.obs["coarse"] = ["T" if "T" in name else "other" for name in fine]
    fine.iloc[::3] = np.nan
    reference_cells.obs["cell_type"] = fine
    return reference_cells


# -------------------------------------------------------------------------------------------------- independent truths


CONFIGS = {
    "defaults": {},
    "two hidden layers": {"hidden_layer_sizes": [12, 8]},
    "zero inflation": {"gene_likelihood": "zinb"},
    "batch normalisation": {"use_batch_norm": True, "use_layer_norm": False},
    "squared error": {"gene_likelihood": "mse"},
}


@pytest.mark.parametrize("options", CONFIGS.values(), ids=CONFIGS)
def test_the_loss_of_a_fixed_minibatch_equals_the_formulas_in_float64(atlas, options):
    cells, module = fixed(atlas, options)
    with torch.no_grad():
        loss = module.loss(cells.with_noise(Noise(5, "training", 0, 0)), kl_weight=0.3, prototype_weight=2)
    noise = Noise(5, "training", 0, 0).normal_like(torch.empty(atlas.n_obs, 3)).double().numpy()
    expected = loss_in_numpy(module, cells, noise)
    assert {name: float(term) for name, term in loss.terms.items()} == pytest.approx(expected, rel=1e-5, abs=5e-5)
    total = expected["reconstruction"] + 0.3 * expected["kl_latent"] + 2 * expected["prototype"]
    assert float(loss.total) == pytest.approx(total, rel=1e-5)


def fixed(atlas, options):
    """All cells, a quarter of them without a label; a module with drawn weights, prototypes and statistics."""
    atlas = atlas.copy()
    if options.get("gene_likelihood") == "mse":
        atlas.X = atlas.X.log1p()
    labels = atlas.obs["cell_type"].astype(object)
    labels.iloc[::4] = np.nan
    atlas.obs["cell_type"] = labels
    schema = DataSchema.of(atlas, **KEYS)
    module = ScPoliModule(schema, ScPoliConfig(**{"n_latent": 3, "embedding_dims": 2, **options}))
    generator = generator_of(0, "weights")
    initialize(module, generator)
    for name, statistic in module.named_buffers():
        if statistic.dtype == torch.float32:
            statistic.uniform_(0.5, 1.5, generator=generator)
        if name == "prototypes.0.n_cells":
            statistic.fill_(1)
    (cells,) = Cells(atlas, schema, are_counts=False).in_order(1000)
    return cells, module.eval()


def loss_in_numpy(module, cells, noise):
    """scPoli's terms, written down from De Donno et al. 2023 and scArches' layers with numpy and scipy only."""
    weights = {name: value.double().numpy() for name, value in module.state_dict().items()}
    config, x, batch = module.config, cells.counts.double().numpy(), cells.batch.numpy()
    vectors = weights["conditions.tables.0.blocks.0"][batch]

    def linear(values, name):
        output = values @ weights[f"{name}.weight"].T + weights.get(f"{name}.bias", 0)
        if f"{name}.of_conditions" in weights:
            output = output + vectors @ weights[f"{name}.of_conditions"].T
        return output

    def layers(values, name):
        for i in range(len(config.widths(x.shape[1]))):
            values = linear(values, f"{name}.linears.{i}")
            if config.use_batch_norm:
                at = f"{name}.batch_norms.{i}"
                centred = values - weights[f"{at}.running_mean"]
                values = centred / np.sqrt(weights[f"{at}.running_var"] + 1e-5)
                values = values * weights[f"{at}.weight"] + weights[f"{at}.bias"]
            else:
                values = (values - values.mean(1, keepdims=True)) / np.sqrt(values.var(1, keepdims=True) + 1e-5)
            values = np.maximum(values, 0)
        return values

    hidden = layers(x if config.gene_likelihood == "mse" else np.log1p(x), "encoder.hidden")
    mean, variance = linear(hidden, "encoder.mean"), np.exp(linear(hidden, "encoder.log_variance")) + 1e-4
    z = mean + np.sqrt(variance) * noise
    decoded = layers(z, "decoder.hidden")
    logits = linear(decoded, "decoder.fraction_logits")
    if config.gene_likelihood == "mse":
        reconstruction = ((x - np.maximum(logits, 0)) ** 2).sum(1).mean()
    else:
        mu = sp.softmax(logits, 1) * x.sum(1, keepdims=True)
        theta = np.exp(weights["decoder.log_inverse_dispersion.table.blocks.0"][batch])
        log_p = sp.gammaln(x + theta) - sp.gammaln(theta) - sp.gammaln(x + 1)
        log_p += theta * np.log(theta / (theta + mu)) + x * np.log(mu / (theta + mu))
        if config.gene_likelihood == "zinb":
            pi = sp.expit(linear(decoded, "decoder.zero_inflation_logits"))
            log_p = np.log(pi * (x == 0) + (1 - pi) * np.exp(log_p))
        reconstruction = -log_p.sum(1).mean()
    labels, prototypes = cells.labels.numpy(), weights["prototypes.0.means"]
    pull = sum(np.linalg.norm(z[labels == k] - prototypes[k], axis=1).mean() for k in range(len(prototypes)))
    kl = 0.5 * (variance + mean**2 - 1 - np.log(variance)).sum(1).mean()
    return {"reconstruction": reconstruction, "kl_latent": kl, "prototype": pull}


# ----------------------------------------------------------------------------------------------------- options and keys


def test_options_as_scarches_spells_them_are_understood(reference_cells):
    theirs = scPoli(
        adata=reference_cells, condition_keys=["batch"], cell_type_keys=["cell_type"], embedding_dims=5,
        latent_dim=4, hidden_layer_sizes=[16], recon_loss="zinb", dr_rate=0.1, use_bn=True, use_ln=False,
    )  # fmt: skip
    ours = {"dropout_rate": 0.1, "gene_likelihood": "zinb", "use_batch_norm": True, "use_layer_norm": False}
    assert theirs.config == ScPoliConfig((16,), 4, 5, **ours)
    assert (theirs.schema.batch_key, theirs.schema.labels_key) == ("batch", "cell_type")
    theirs.train(n_epochs=4, pretraining_epochs=3, eta=10, alpha_epoch_anneal=100, clustering_res=1, progress=False)
    assert (theirs.history["train_prototype"] > 0).tolist() == [False, False, False, True]


def test_early_stopping_as_scarches_tutorials_have_it_watches_the_prototypes(reference_cells):
    model = scPoli(reference_cells, **KEYS, **SMALL)
    stopping = {"early_stopping_metric": "val_prototype_loss", "mode": "min", "threshold": 1e9, "patience": 2}
    run = model.train(
        n_epochs=20, pretraining_epochs=4, eta=5, early_stopping_kwargs=stopping, early_stopping=True, progress=False
    )
    assert run.ended.reason == "no better val_prototype in 2 epochs" and len(run.epochs) == 7  # not before the fifth


def test_hidden_layers_default_to_one_of_root_genes_units_as_published(atlas):
    layers = scPoli(atlas, batch_key="batch").module.encoder.hidden.linears
    assert [layer.weight.shape for layer in layers] == [(7, 40)]


def test_the_schedules_are_those_that_the_docstring_tells(reference_cells):
    published = planned(scPoli.plan_class, {"schedule": "published"}).resolved(1000)
    assert (published.max_epochs, published.pretraining_epochs, published.prototype_weight) == (100, 90, 1)
    assert (published.lr, published.weight_decay, published.early_stopping) == (1e-3, 0.04, False)
    assert published.kl_weight_at(500, 10) == 0.5 and published.optimizer([]).eps == 0.01
    assert published.loss_weights(89) == {"prototype_weight": 0} and published.loss_weights(90) == {
        "prototype_weight": 1
    }
    auto = planned(scPoli.plan_class, {}).resolved(1280)
    assert (auto.max_epochs, auto.pretraining_epochs, auto.prototype_weight) == (70, 35, 5)
    assert "prototypes of weight 5 from epoch 35" in auto.in_words()
    unlabelled = scPoli(reference_cells, batch_key="batch", **SMALL)
    unlabelled.train(**QUICK)
    assert "prototypes" not in unlabelled.run.started.schedule


def test_weight_decay_spares_the_vectors_of_conditions(reference_cells):
    model = scPoli(reference_cells, **KEYS, **SMALL)
    alone = [id(parameter) for parameter in model.module.undecayed]
    assert alone == [id(model.module.conditions.tables[0].blocks[0])]


def test_each_condition_key_has_vectors_and_each_label_key_prototypes(partly_labelled):
    partly_labelled.obs["site"] = np.random.default_rng(0).integers(0, 3, partly_labelled.n_obs)  # numbers: not text
    keys = {"condition_keys": ["batch", "site"], "cell_type_keys": ["cell_type", "coarse"]}
    model = scPoli(partly_labelled, **keys, **SMALL | {"embedding_dims": (3, 2)})
    model.train(5, batch_size=16, progress=False)
    vectors = model.get_conditional_embeddings()
    assert {key: part.shape for key, part in vectors.items()} == {"batch": (2, 3), "site": (3, 2)}
    assert list(vectors["site"].obs_names) == ["0", "1", "2"]
    found = model.classify()
    assert list(found) == ["cell_type", "coarse"]
    assert set(found["coarse"]["preds"]) <= {"T", "other"}
    agree = (found["coarse"]["preds"] == partly_labelled.obs["coarse"]).mean()
    assert agree > 0.8
    noted = partly_labelled.copy()
    scPoli.setup_anndata(noted, **keys)
    assert scPoli(noted, **SMALL | {"embedding_dims": (3, 2)}).schema == model.schema
    with pytest.raises(ValueError, match=r"embedding_dims=\(3,\) has 1 widths for 2 conditions \(batch, site\)"):
        scPoli(partly_labelled, **keys, embedding_dims=(3,))
    with pytest.raises(DataError, match=r"no column 'coarze'.*Did you mean 'coarse'"):
        scPoli(partly_labelled, batch_key="batch", labels_key=["cell_type", "coarze"])


@pytest.mark.parametrize("labels", ["no key", "none may be learned"])
def test_a_model_without_labels_trains_maps_and_says_what_it_cannot_do(reference_cells, query_cells, labels):
    options = {"batch_key": "batch"} if labels == "no key" else dict(KEYS)
    query_cells.obs["cell_type"] = np.nan
    if labels == "none may be learned":
        options["labeled_indices"] = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = scPoli(reference_cells, **options, **SMALL)
        model.train(**QUICK)
        query = scPoli.load_query_data(query_cells, model, query_labels="ignore")
        query.train(**QUICK)
    assert np.isfinite(query.get_latent_representation()).all()
    for ask in (query.predict, query.classify, query.predict_with_uncertainty, query.get_prototypes_info):
        with pytest.raises(RuntimeError, match=r"has no prototypes.*labels_key"):
            ask()


# ----------------------------------------------------------------------------------------------------------- prototypes


def test_prototypes_are_the_means_of_their_labels_latents_at_the_end(reference):
    z, labels = reference.get_latent_representation(), reference.adata.obs["cell_type"].astype(str)
    info = reference.get_prototypes_info()
    assert list(info.obs_names) == list(reference.schema.labels) == list(info.obs["cell_type_pred"])
    np.testing.assert_allclose(info.X, np.stack([z[labels == name].mean(0) for name in info.obs_names]), atol=1e-5)
    assert (info.obs["n_cells"] == labels.value_counts()[list(info.obs_names)]).all()


def test_prototypes_draw_cells_of_a_label_together_the_more_the_weight(reference_cells):
    distance = {}
    for weight in (0.01, 20):
        model = scPoli(reference_cells, **KEYS, **SMALL)
        model.train(8, lr=1e-2, batch_size=32, prototype_weight=weight, progress=False)
        distance[weight] = model.history["val_prototype"].iloc[-1]
    assert distance[20] < 0.7 * distance[0.01]


def test_labels_are_the_same_each_time_and_do_not_move_the_process_s_random_state(reference):  # scArches draws latents
    torch.manual_seed(0)
    first = reference.classify()["cell_type"]
    torch.manual_seed(1)
    state = torch.get_rng_state()
    second = reference.classify()["cell_type"]
    assert torch.equal(torch.get_rng_state(), state)
    for name in ("preds", "uncert"):
        np.testing.assert_array_equal(first[name], second[name])
    np.testing.assert_array_equal(reference.predict(), first["preds"])


def test_what_classify_returns_is_told_by_distances_shares_or_probabilities(reference, query_cells):
    plain = reference.classify()["cell_type"]
    distances, labels = plain["weighted_distances"], np.array(reference.schema.labels)
    np.testing.assert_array_equal(plain["uncert"], distances.min(axis=1))
    np.testing.assert_array_equal(plain["preds"], labels[distances.to_numpy().argmin(1)])
    soft = reference.classify(get_prob=True)["cell_type"]
    pd.testing.assert_frame_equal(soft["weighted_distances"], reference.predict(soft=True), check_names=False)
    np.testing.assert_allclose(soft["uncert"], 1 - soft["weighted_distances"].max(axis=1), atol=1e-6)
    np.testing.assert_array_equal(soft["preds"], plain["preds"])  # uncertain, not certain, cells are high
    scaled = reference.classify(scale_uncertainties=True)["cell_type"]["uncert"]
    assert scaled.min() >= 0 and scaled.max() < 1 and scaled.mean() == pytest.approx(0.5, abs=0.02)
    half = reference.adata[:100].copy()  # scArches scales by the cells that it is given
    np.testing.assert_allclose(
        reference.classify(half, scale_uncertainties=True)["cell_type"]["uncert"], scaled[:100], rtol=1e-4
    )
    with pytest.raises(ValueError, match="Choose one"):
        reference.classify(get_prob=True, scale_uncertainties=True)


def test_labels_of_one_cell_and_labels_that_only_validation_cells_have_get_prototypes(partly_labelled):
    model = scPoli(partly_labelled, **KEYS, **SMALL)  # scArches: NaN covariance; a crash
    model.train(4, train_size=0.3, progress=False)
    info = model.get_prototypes_info()
    assert "rare" in info.obs_names and np.isfinite(info.X).all()
    assert np.isfinite(model.history.to_numpy(dtype=float)).all()


def test_only_the_labels_that_may_be_learned_are_learned(reference_cells):
    codes = reference_cells.obs["cell_type"].astype(str)
    first = sorted(set(codes))[0]
    cells = np.flatnonzero(codes != first)
    model = scPoli(reference_cells, **KEYS, **SMALL, labeled_indices=cells)
    model.train(**QUICK)
    assert first not in model.get_prototypes_info().obs_names and first not in set(model.predict())
    by_name = scPoli(reference_cells, **KEYS, **SMALL, unknown_ct_names=[first])
    by_name.train(**QUICK)
    assert first not in by_name.schema.labels and len(by_name.schema.labels) == 3
    with pytest.raises(ValueError, match=r"labeled_indices reach from 5 to 999, and there are 208"):
        scPoli(reference_cells, **KEYS, labeled_indices=[5, 999])


def test_unlabelled_cells_get_clusters_of_which_a_new_label_can_be_made(partly_labelled, tmp_path):
    model = scPoli(partly_labelled, labels_key=["cell_type", "coarse"], batch_key="batch", **SMALL)
    partly_labelled.obs["coarse"] = partly_labelled.obs["coarse"].where(partly_labelled.obs["cell_type"].notna())
    model.train(**QUICK)
    clusters = model.get_prototypes_info("unlabeled")
    n_unlabelled = int(partly_labelled.obs["cell_type"].isna().sum())
    assert clusters.obs["n_cells"].sum() == n_unlabelled and clusters.n_obs > 1
    assert {"cell_type_pred", "coarse_uncert"} <= set(clusters.obs)
    model.add_new_cell_type("new", "cell_type", [0, 1])
    n_cells = clusters.obs["n_cells"].to_numpy()[:2, None]
    new = model.get_prototypes_info()[model.get_prototypes_info().obs_names == "new"]
    np.testing.assert_allclose(new.X[0], (clusters.X[:2] * n_cells).sum(0) / n_cells.sum(), rtol=1e-5)
    assert "new" in set(model.predict()) and (model._own_codes()[:, 0] == -1).sum() == n_unlabelled
    model.add_new_cell_type("newer", "coarse", [2])
    model.save(tmp_path / "model")
    again = scPoli.load(tmp_path / "model", partly_labelled)
    assert fingerprint(again) == fingerprint(model) and again.label_levels == model.label_levels
    np.testing.assert_array_equal(again.predict(), model.predict())
    infos = [one.get_prototypes_info("unlabeled").obs for one in (again, model)]
    pd.testing.assert_frame_equal(*infos)
    for arguments, match in (
        (("new", "cell_type", [0]), "is a label of 'cell_type' already"),
        (("x", "cell_tipe", [0]), "Did you mean 'cell_type'"),
        (("x", "cell_type", [999]), "must name some of the"),
    ):
        with pytest.raises(ValueError, match=match):
            model.add_new_cell_type(*arguments)


def test_clusters_can_be_left_out_or_found_by_kmeans(partly_labelled):
    model = scPoli(partly_labelled, **KEYS, **SMALL)
    model.train(**QUICK, unlabeled_prototype_training=False)
    with pytest.raises(RuntimeError, match="no prototypes of unlabelled cells"):
        model.get_prototypes_info("unlabeled")
    model.train(**QUICK, clustering="kmeans", n_clusters=5)
    assert model.get_prototypes_info("unlabeled").n_obs == 5


# ----------------------------------------------------------------------------------------------------------- conditions


def test_vectors_of_conditions_come_with_what_all_their_cells_share(atlas):
    cells = atlas.copy()
    cells.obs["age"] = cells.obs["batch"].map({"batch0": 30, "batch1": 40, "batch2": 50}).astype(int)
    model = scPoli(cells, **KEYS, **SMALL)
    model.train(**QUICK)
    vectors = model.get_conditional_embeddings()
    assert vectors.shape == (3, 3) and list(vectors.obs_names) == ["batch0", "batch1", "batch2"]
    assert vectors.obs["age"].tolist() == [30, 40, 50] and "cell_type" not in vectors.obs
    assert (np.linalg.norm(vectors.X, axis=1) <= 1 + 1e-6).all()


def test_a_latent_is_the_posterior_s_mean_unless_a_draw_is_asked_for(reference):  # scArches draws by default
    mean = reference.get_latent()
    np.testing.assert_array_equal(mean, reference.get_latent_representation())
    assert abs(reference.get_latent(mean=False) - mean).max() > 0.01
    np.testing.assert_array_equal(reference.get_latent_representation(mean=True), mean)


# ------------------------------------------------------------------------------------------------------------- training


def test_the_best_epoch_is_sought_among_those_with_the_same_loss_and_comes_back(reference_cells):  # trap T13
    model = scPoli(reference_cells, **KEYS, **SMALL)
    early = {"early_stopping": True, "early_stopping_kwargs": {"patience": 3}}
    run = model.train(30, pretraining_epochs=5, batch_size=32, lr=0.2, progress=False, **early)
    losses = model.history["val_unweighted_loss"]
    assert 7 < len(losses) < 30 and run.ended.best_epoch == losses[5:].idxmin()


def test_a_run_that_is_taken_up_again_in_its_second_phase_ends_with_the_same_bits(partly_labelled, tmp_path):
    options = {"max_epochs": 6, "pretraining_epochs": 2, "batch_size": 32, "progress": False}
    whole = scPoli(partly_labelled, **KEYS, **SMALL)
    whole.train(**options)
    for n_steps in (14, 16):  # between two epochs; within one
        folder, seen = tmp_path / str(n_steps), []
        broken = scPoli(partly_labelled, **KEYS, **SMALL)
        broken.watch_runs(lambda run, seen=seen: run.subscribe(lambda event: stop_after(run, seen, n_steps)))  # noqa: B023
        broken.train(**options, checkpoint_dir=folder, checkpoint_every=0)
        assert broken.run.status == "stopped"
        resumed = scPoli(partly_labelled, **KEYS, **SMALL)
        resumed.train(**options, checkpoint_dir=folder, resume=True)
        assert fingerprint(resumed) == fingerprint(whole)


def stop_after(run, seen, n_steps):
    seen.append(1)
    if len(seen) == 3 * n_steps:
        run.stop("batch")


# -------------------------------------------------------------------------------------------------------------- surgery


@pytest.mark.parametrize("labels", ["use", "ignore"])
def test_surgery_trains_the_vectors_of_new_conditions_and_nothing_else(reference, query_cells, labels):  # traps T5, T6
    before, z = fingerprint(reference), reference.get_latent_representation()
    query = scPoli.load_query_data(query_cells, reference, query_labels=labels)
    trained = {name for name, weight in query.module.named_parameters() if weight.requires_grad}
    assert trained == {"conditions.tables.0.blocks.1"}
    start = query.module.conditions.tables[0].blocks[1].clone()
    query.train(5, batch_size=32, weight_decay=0.04, progress=False)
    assert not torch.equal(query.module.conditions.tables[0].blocks[1], start)
    after = fingerprint(query)
    assert fingerprint(reference) == before
    moved = {name for name in before if after[name] != before[name]}
    assert {name for name in moved if not name.startswith("clusters")} == {"prototypes.0.is_fixed"}
    np.testing.assert_array_equal(query.get_latent_representation(reference.adata), z)


def test_a_query_in_another_order_of_genes_gives_the_same_labels(reference, query_cells):  # trap T14
    shuffled = query_cells[:, np.random.default_rng(0).permutation(40)].copy()
    labels = [scPoli.load_query_data(cells, reference, query_labels="ignore") for cells in (query_cells, shuffled)]
    for query in labels:
        query.train(**QUICK)
    np.testing.assert_array_equal(labels[0].predict(), labels[1].predict())


def test_new_labels_of_a_query_get_prototypes_if_they_are_to(reference, query_cells, caplog, tmp_path):
    labels = query_cells.obs["cell_type"].astype(object)
    old = labels.iloc[0]
    query_cells.obs["cell_type"] = labels.replace(old, "new")
    with pytest.warns(UserWarning, match=r"1 label of the query is new \(new\)"):
        scPoli.load_query_data(query_cells, reference)
    query = scPoli.load_query_data(query_cells, reference, new_labels="extend")
    assert "new" in set(query.predict())  # at once
    query.train(**QUICK)
    assert query.schema.labels == (*reference.schema.labels, "new") and "new" not in reference.schema.labels
    z = query.get_latent_representation()[(query_cells.obs["cell_type"] == "new").to_numpy()]
    np.testing.assert_allclose(query.get_prototypes_info()["new"].X[0], z.mean(0), atol=1e-5)
    np.testing.assert_array_equal(query.module.classifier.means[:4], reference.module.classifier.means)
    query.save(tmp_path / "query")
    np.testing.assert_array_equal(scPoli.load(tmp_path / "query", query_cells).predict(), query.predict())
    held_out = scPoli.load_query_data(query_cells, reference, new_labels="hold out", unknown_ct_names=["Other"])
    held_out.train(**QUICK)
    report = held_out.held_out_report()
    assert report.loc["new", "n_cells"] == (query_cells.obs["cell_type"] == "new").sum()


def test_only_some_labels_of_a_query_may_be_learned_and_a_saved_model_asks_for_them(reference, query_cells, tmp_path):
    query_cells.obs_names = [f"{i}" for i in range(query_cells.n_obs)[::-1]]  # names that look like positions
    query = scPoli.load_query_data(query_cells, reference, labeled_indices=[0, 1, 2])
    codes = query._own_codes()[:, 0]
    assert (codes[:3] >= 0).all() and (codes[3:] == -1).all()
    query.train(**QUICK)
    query.save(tmp_path / "query")
    again = scPoli.load(tmp_path / "query", query_cells)
    with pytest.raises(RuntimeError, match=r"model\.labeled_indices = "):
        again.train(**QUICK)
    again.labeled_indices = [0, 1, 2]
    again.train(**QUICK)


def test_a_query_needs_no_column_of_labels(reference, query_cells, caplog):
    del query_cells.obs["cell_type"]
    with caplog.at_level(logging.INFO):
        query = scPoli.load_query_data(query_cells, reference)
    query.train(**QUICK)
    assert set(query.predict()) <= set(reference.schema.labels)


@pytest.mark.slow
def test_a_type_that_the_reference_lacks_is_farther_from_all_prototypes():
    cells = sca.datasets.atlas(n_obs=1500, n_vars=200, n_batches=3, n_types=5, seed=0)
    left_out = cells.obs["cell_type"].astype(str).value_counts().index[1]
    is_query, is_new = cells.obs["batch"] == "batch2", cells.obs["cell_type"] == left_out
    model = scPoli(cells[~is_query & ~is_new].copy(), **KEYS, hidden_layer_sizes=(64,))
    model.train(progress=False)
    query = scPoli.load_query_data(cells[is_query].copy(), model, query_labels="ignore")
    query.train(progress=False)
    found = query.classify()["cell_type"]
    new = is_new[is_query].to_numpy()
    known = cells.obs["cell_type"][is_query].to_numpy()[~new]
    assert (found["preds"][~new] == known).mean() > 0.8
    assert np.median(found["uncert"][new]) > np.quantile(found["uncert"][~new], 0.75)


# -------------------------------------------------------------------------------------------------------- measured data


def mapped(cells, is_query):
    """A query that was mapped with its labels unseen, which cells the reference knows, and whether these are right."""
    model = scPoli(cells[~is_query].copy(), **KEYS)
    model.train(progress=False)
    query = scPoli.load_query_data(cells[is_query].copy(), model, query_labels="ignore", new_labels="hold out")
    query.train(progress=False)
    truth = query.adata.obs["cell_type"].astype(str).to_numpy()
    return query, np.isin(truth, model.schema.labels), query.predict() == truth


@pytest.mark.slow
@pytest.mark.realdata
def test_a_sixth_donor_is_labelled_from_five_others(real_data):
    kang = ad.read_h5ad(real_data / "pbmc_kang_donors.h5ad")
    _, _, is_right = mapped(kang, (kang.obs["batch"] == "donor1015").to_numpy())
    assert is_right.mean() >= 0.84


@pytest.mark.slow
@pytest.mark.realdata
def test_cell_lines_that_the_reference_lacks_are_farther_from_its_prototypes(real_data):
    import scanpy as sc

    lines = ad.read_h5ad(real_data / "celllines_5batches.h5ad")
    is_query = lines.obs["batch"].str.contains("5cl").to_numpy()
    logs = sc.pp.log1p(sc.pp.normalize_total(lines[~is_query], target_sum=1e4, copy=True), copy=True)
    table = sc.pp.highly_variable_genes(logs, flavor="cell_ranger", n_top_genes=3000, inplace=False)
    query, is_known, is_right = mapped(lines[:, table["highly_variable"].to_numpy()].copy(), is_query)
    scores = query.predict_with_uncertainty()[["uncertainty", "novelty"]].to_numpy()
    scores = np.column_stack([query.classify()["cell_type"]["uncert"], scores])
    distance, uncertainty, novelty = (roc_auc_score(~is_known, score) for score in scores.T)
    assert is_right[is_known].mean() >= 0.98
    assert distance >= 0.85 and uncertainty >= 0.95 and novelty >= 0.95
