"""scANVI against independent truths: scvi-tools' own files, and the loss written down anew in float64."""

from dataclasses import replace

import anndata as ad
import numpy as np
import pytest
import torch
from scipy.special import log_softmax, softmax
from small import QUICK, SMALL, fingerprint
from test_scvi import CONFIGS, loss_in_numpy

import scarches_widgets as sca
from scarches_widgets.data.minibatches import Cells
from scarches_widgets.data.names import DataError
from scarches_widgets.data.schema import DataSchema
from scarches_widgets.hub.pickles import read_torch
from scarches_widgets.mapping import metrics
from scarches_widgets.models.scanvi import SCANVIConfig, SCANVIModule, SCANVIPlan
from scarches_widgets.nn.layers import initialize
from scarches_widgets.nn.noise import Noise, generator_of

SCVI, SCANVI = sca.models.SCVI, sca.models.SCANVI
KEYS = {"batch_key": "batch", "labels_key": "cell_type", "unlabeled_category": "Unknown"}


@pytest.fixture
def reference(reference_cells):
    """A small scANVI, trained for two epochs on two batches."""
    model = SCANVI(reference_cells, **KEYS, **SMALL)
    model.train(**QUICK)
    return model


def unlabelled(cells) -> ad.AnnData:
    cells = cells.copy()
    del cells.obs["cell_type"]
    return cells


# ---------------------------------------------------------------------------------------- as scvi-tools computes it


@pytest.mark.realdata
@pytest.mark.parametrize("folder", ["scanvi_1.0.3_synthetic", "scanvi_0.16.1_pancreas"])
def test_checkpoints_of_older_scvi_tools_give_what_their_weights_say_in_numpy(real_data, folder):  # traps T10, T17
    folder = real_data / "checkpoints" / folder
    model = sca.hub.from_scvi_tools(folder)
    module, schema, saved = model.module, model.schema, read_torch(folder / "model.pt")["model_state_dict"]
    w = {name: value.double().numpy() for name, value in saved.items() if hasattr(value, "numpy")}
    counts = np.random.default_rng(0).poisson(2.0, (30, schema.n_genes)).astype(np.float32)
    one_hot = np.eye(len(schema.batches))[np.zeros(30, dtype=int)] if len(schema.batches) > 1 else np.zeros((30, 0))
    z = dense(w, np.hstack([np.log1p(counts), one_hot]), "z_encoder.encoder")
    z = z @ w["z_encoder.mean_encoder.weight"].T + w["z_encoder.mean_encoder.bias"]
    logits = dense(w, z, "classifier.classifier.0") @ w["classifier.classifier.1.weight"].T
    logits += w["classifier.classifier.1.bias"]
    cells = ad.AnnData(counts)
    cells.var_names = schema.genes
    if schema.batch_key:
        cells.obs[schema.batch_key] = schema.batches[0]
    with torch.no_grad():
        (minibatch,) = Cells(cells, schema).in_order(1000)
        np.testing.assert_allclose(module.encode(minibatch).mean.numpy(), z, atol=1e-4)
        np.testing.assert_allclose(module.label_logits(minibatch).softmax(-1).numpy(), softmax(logits, 1), atol=1e-4)


def dense(w: dict, values: np.ndarray, name: str) -> np.ndarray:
    """scvi-tools' FCLayers, evaluated."""
    i = 0
    while f"{name}.fc_layers.Layer {i}.0.weight" in w:
        layer = f"{name}.fc_layers.Layer {i}"
        values = values @ w[f"{layer}.0.weight"].T + w[f"{layer}.0.bias"]
        if f"{layer}.1.weight" in w:
            values = (values - w[f"{layer}.1.running_mean"]) / np.sqrt(w[f"{layer}.1.running_var"] + 1e-3)
            values = values * w[f"{layer}.1.weight"] + w[f"{layer}.1.bias"]
        else:
            values = values - values.mean(1, keepdims=True)
            values = values / np.sqrt(values.var(1, keepdims=True) + 1e-5)
        values, i = np.maximum(values, 0), i + 1
    return values


# --------------------------------------------------------------------------------------------------------- the loss


@pytest.mark.parametrize("linear", [False, True], ids=["deep classifier", "linear classifier"])
@pytest.mark.parametrize("options", [CONFIGS["published with scArches"], CONFIGS["defaults"]], ids=["layer", "batch"])
def test_the_loss_of_a_fixed_minibatch_equals_the_formulas_in_float64(atlas, options, linear):
    schema = DataSchema.of(atlas, **KEYS)
    config = SCANVIConfig(n_hidden=12, n_latent=3, linear_classifier=linear, **options)
    module = SCANVIModule(schema, config).eval()
    initialize(module, generator_of(0, "weights"))
    (cells,) = Cells(atlas, schema).in_order(1000)
    beside = next(Cells(atlas, schema).minibatches(np.array([7, 2, 2, 30]), 4))
    with torch.no_grad():
        noisy = cells.with_noise(Noise(5, "training", 0, 0))
        loss = module.loss(replace(noisy, labelled=beside), kl_weight=0.3, classification_weight=20.0)
    expected = terms_in_numpy(module, cells, beside)
    for name, value in expected.items():
        assert float(loss.terms[name]) == pytest.approx(value, rel=1e-5, abs=1e-6), name
    assert set(loss.terms) == set(expected)
    weights = {"kl_z2": 0.3, "kl_labels": 0.3, "classification": 20.0}
    total = sum(weights.get(name, 1) * value for name, value in expected.items())
    assert float(loss.total) == pytest.approx(total, rel=1e-5)


def terms_in_numpy(module, cells, beside) -> dict[str, float]:
    """Xu et al. 2021 as scvi-tools has it, one label after the other, in float64."""
    w = {name: value.double().numpy() for name, value in module.state_dict().items()}
    config, n, n_labels = module.config, len(cells), len(module.label_novelty.means)
    noise = Noise(5, "training", 0, 0)
    draw = lambda rows: noise.normal_like(torch.empty(rows, 3)).double().numpy()  # noqa: E731
    noise_z1, noise_z2 = draw(n), draw(n_labels * n).reshape(n_labels, n, 3)
    reconstruction, _ = loss_in_numpy(module, cells, noise_z1)
    mean, variance = encoded(w, module, cells)
    z1 = mean + np.sqrt(variance) * noise_z1
    log_p = log_softmax(logits_in_numpy(w, config, z1), axis=1)
    p = np.exp(log_p)
    kl_z1, kl_z2 = log_normal(z1, mean, variance), 0
    for y in range(n_labels):
        h = hidden(w, config, z1, "z2_encoder.hidden", "encoder", y)
        m, v = affine(w, h, "z2_encoder.mean"), np.exp(affine(w, h, "z2_encoder.log_variance")) + 1e-4
        h = hidden(w, config, m + np.sqrt(v) * noise_z2[y], "z1_decoder.hidden", "decoder", y)
        prior = affine(w, h, "z1_decoder.mean"), np.exp(affine(w, h, "z1_decoder.log_variance"))
        kl_z1 = kl_z1 - p[:, y] * log_normal(z1, *prior)
        kl_z2 = kl_z2 + p[:, y] * 0.5 * (v + m**2 - 1 - np.log(v)).sum(1)
    labels = beside.labels.numpy()
    classification = -log_softmax(logits_in_numpy(w, config, encoded(w, module, beside)[0]), axis=1)
    return {
        "reconstruction": reconstruction,
        "kl_z1": kl_z1.mean(),
        "kl_z2": kl_z2.mean(),
        "kl_labels": (p * (log_p - np.log(1 / n_labels))).sum(1).mean(),
        "classification": classification[np.arange(len(labels)), labels].mean(),
    }


def affine(w, values, name):
    return values @ w[f"{name}.weight"].T + w[f"{name}.bias"]


def hidden(w, config, values, name, part, y=None):
    for i in range(config.n_layers):
        values = affine(w, values, f"{name}.linears.{i}")
        if y is not None:
            values = values + w[f"{name}.linears.{i}.offsets.0.blocks.0"][y]
        if config.use_batch_norm in (part, "both"):
            norm = f"{name}.batch_norms.{i}."
            values = (values - w[norm + "running_mean"]) / np.sqrt(w[norm + "running_var"] + 1e-3)
            values = values * w[norm + "weight"] + w[norm + "bias"]
        if config.use_layer_norm in (part, "both"):
            values = values - values.mean(1, keepdims=True)
            values = values / np.sqrt(values.var(1, keepdims=True) + 1e-5)
        values = np.maximum(values, 0)
    return values


def encoded(w, module, cells):
    with torch.no_grad():
        posterior = module.encode(cells)  # which test_scvi compares with numpy
    return posterior.mean.double().numpy(), posterior.variance.double().numpy()


def logits_in_numpy(w, config, z):
    h = z if config.linear_classifier else hidden(w, config, z, "classifier.hidden", "encoder")
    return h @ w["classifier.rows.blocks.0"].T + w["classifier.biases.blocks.0"][:, 0]


def log_normal(x, mean, variance):
    return -0.5 * ((x - mean) ** 2 / variance + np.log(2 * np.pi * variance)).sum(1)


# ------------------------------------------------------------------------------------------------------------ labels


def test_predictions_are_labels_or_probabilities_whose_rows_sum_to_one(reference, query_cells, reference_cells):
    soft = reference.predict(soft=True)
    assert list(soft.index) == list(reference_cells.obs_names)
    assert list(soft.columns) == sorted(reference_cells.obs["cell_type"].unique())
    np.testing.assert_allclose(soft.sum(axis=1), 1, atol=1e-6)
    assert (soft.to_numpy() >= 0).all()
    np.testing.assert_array_equal(reference.predict(), soft.idxmax(axis=1).to_numpy())
    scores = reference.predict_with_uncertainty()
    np.testing.assert_array_equal(scores["label"], reference.predict())
    np.testing.assert_allclose(scores["uncertainty"], 1 - soft.max(axis=1), atol=1e-6)
    assert scores["novelty"].between(0, 1).all()


@pytest.mark.parametrize("options", [{}, {"linear_classifier": True}], ids=["deep", "linear"])
def test_training_on_half_of_the_labels_finds_the_other_half(options):
    cells = sca.datasets.atlas(n_obs=600, n_vars=100, n_batches=2, n_types=4, seed=0, batch_strength=0.5)
    truth = cells.obs["cell_type"].astype(str).to_numpy()
    hidden_from_it = np.random.default_rng(0).random(600) < 0.5
    cells.obs["partial"] = np.where(hidden_from_it, "Unknown", truth)
    model = SCANVI(cells, batch_key="batch", labels_key="partial", unlabeled_category="Unknown", n_hidden=32, **options)
    assert model.schema.labels == tuple(sorted(set(truth)))
    model.train(max_epochs=40, progress=False)
    assert (model.predict()[hidden_from_it] == truth[hidden_from_it]).mean() > 0.9


def test_cells_whose_label_is_missing_or_the_unlabelled_category_count_as_unlabelled_alike(reference_cells):
    models = []
    for nothing in ("Unknown", np.nan):
        cells = reference_cells.copy()
        cells.obs["cell_type"] = cells.obs["cell_type"].astype(object)
        cells.obs.loc[cells.obs_names[::3], "cell_type"] = nothing
        model = SCANVI(cells, **KEYS, **SMALL)
        model.train(**QUICK)
        models.append(model)
    assert fingerprint(models[0]) == fingerprint(models[1])


def test_what_the_decoder_knows_of_batches_learns_faster_in_the_default_network_alone(atlas):
    model = SCANVI(atlas, batch_key="batch", labels_key="cell_type")
    names = {id(parameter): name for name, parameter in model.module.named_parameters()}

    def paces(kind, **options):
        return {names[id(row)]: pace for row, pace in model.module.paces(kind(**options))}

    default = SCANVI.plan_class_for(model.config)
    assert paces(default) == {"decoder.hidden.linears.0.offsets.0.blocks.0": 5.0}
    assert set(paces(default, schedule="published").values()) == {1.0}
    assert set(paces(SCANVIPlan).values()) == {1.0}


@pytest.mark.parametrize(("n_train", "expected"), [(1280, 60), (12_800, 20), (1_000_000, 20)])
def test_the_default_network_takes_600_steps_and_of_many_cells_20_epochs(n_train, expected):
    assert SCANVI.plan_class_for(SCANVIConfig())().resolved(n_train).max_epochs == expected


def test_without_labels_the_error_says_what_to_give(reference_cells):
    with pytest.raises(DataError, match=r"SCANVI\(adata, labels_key='cell_type'"):
        SCANVI(reference_cells, batch_key="batch")
    reference_cells.obs["cell_type"] = "Unknown"
    with pytest.raises(DataError, match="None of the 208 cells has a label"):
        SCANVI(reference_cells, **KEYS)


def test_a_single_label_can_be_trained_on(reference_cells):
    reference_cells.obs["cell_type"] = np.where(np.arange(208) < 100, "T", "Unknown")
    model = SCANVI(reference_cells, **KEYS, **SMALL)
    model.train(**QUICK)
    np.testing.assert_array_equal(model.predict(soft=True).to_numpy(), 1)


def test_the_weight_of_the_classification_is_an_option_of_training_under_both_names(reference_cells):
    models = [SCANVI(reference_cells, **KEYS, **SMALL) for _ in range(3)]
    models[0].train(**QUICK, classification_weight=7.0)
    models[1].train(**QUICK, plan_kwargs={"classification_ratio": 7.0})
    models[2].train(**QUICK)
    assert fingerprint(models[0]) == fingerprint(models[1]) != fingerprint(models[2])
    history = models[0].history
    total = history["train_loss"] - history["train_reconstruction"] - history["train_kl_z1"]
    total -= 7 * history["train_classification"]
    assert (total.to_numpy() > -1e-3).all()
    assert "val_classification" in history


def test_a_run_that_was_stopped_goes_on_to_the_same_bits(reference_cells, tmp_path):
    options = {"batch_size": 64, "max_epochs": 4, "progress": False, "n_samples_per_label": 20}
    whole = SCANVI(reference_cells, **KEYS, **SMALL)
    whole.train(**options)
    broken = SCANVI(reference_cells, **KEYS, **SMALL)

    def stop_in_the_middle(event):
        if getattr(event, "epoch", 0) == 1 and getattr(event, "step", 0) == 1:
            broken.run.stop("batch")

    broken.watch_runs(lambda run: run.subscribe(stop_in_the_middle))
    broken.train(**options, checkpoint_dir=tmp_path)
    assert broken.run.status == "stopped" and len(broken.run.epochs) == 1
    resumed = SCANVI(reference_cells, **KEYS, **SMALL)
    resumed.train(**options, checkpoint_dir=tmp_path, resume=True)
    assert fingerprint(resumed) == fingerprint(whole)


# -------------------------------------------------------------------------------------------------------- from scVI


def test_a_scanvi_from_a_scvi_starts_at_its_latents_and_leaves_it_untouched(trained, reference_cells):
    before = fingerprint(trained)
    model = SCANVI.from_scvi_model(trained, "Unknown", labels_key="cell_type")
    own = model.module.state_dict()
    for name, weight in trained.module.state_dict().items():
        assert torch.equal(own[name], weight), name
    assert model.config.n_latent == trained.config.n_latent and model.config.encode_covariates
    assert model.schema.batches == trained.schema.batches
    model.train(**QUICK)
    assert fingerprint(trained) == before
    assert set(model.predict()) <= set(model.schema.labels)


def test_a_third_of_the_epochs_suffice_after_a_scvi(trained, reference_cells):
    alone = SCANVI(reference_cells, **KEYS, **SMALL)
    after = SCANVI.from_scvi_model(trained, "Unknown", labels_key="cell_type")
    epochs = {}
    for schedule in ("auto", "published"):
        plan = SCANVIPlan(schedule=schedule)
        epochs[schedule] = [m._resolved(plan, m._training_cells(plan)).max_epochs for m in (alone, after)]
    assert epochs["auto"][1] == round(epochs["auto"][0] / 3)
    assert epochs["published"] == [400, 10]


def test_a_run_after_a_scvi_that_was_stopped_can_be_taken_up_by_the_same_model(trained, tmp_path):
    model = SCANVI.from_scvi_model(trained, "Unknown", labels_key="cell_type")
    model.watch_runs(lambda run: run.subscribe(lambda event: run.stop("epoch")))
    options = {"schedule": "published", "progress": False, "checkpoint_dir": tmp_path}
    model.train(**options)
    model._watchers.clear()
    assert model.run.status == "stopped"
    assert model.train(**options, resume=True).status == "done" and len(model.history) == 10


def test_options_that_contradict_the_scvi_are_refused_with_its_value(trained):
    with pytest.raises(ValueError, match=r"n_latent=7 contradicts the SCVI, which has n_latent=4"):
        SCANVI.from_scvi_model(trained, "Unknown", labels_key="cell_type", n_latent=7)
    with pytest.raises(TypeError, match=r"no option 'linear_clasifier'. Did you mean 'linear_classifier'"):
        SCANVI.from_scvi_model(trained, "Unknown", labels_key="cell_type", linear_clasifier=True)
    assert SCANVI.from_scvi_model(trained, labels_key="cell_type", linear_classifier=True).config.linear_classifier


def test_what_is_no_trained_scvi_with_labels_is_refused(trained, reference, reference_cells):
    with pytest.raises(TypeError, match="takes an SCVI and was given a SCANVI"):
        SCANVI.from_scvi_model(reference)
    with pytest.raises(RuntimeError, match="has not been trained"):
        SCANVI.from_scvi_model(SCVI(reference_cells, batch_key="batch", **SMALL), labels_key="cell_type")
    with pytest.raises(DataError, match=r"no column 'celltype'.*Did you mean 'cell_type'"):
        SCANVI.from_scvi_model(trained, labels_key="celltype")
    with pytest.raises(DataError, match=r"learns from labels.*labels_key"):
        SCANVI.from_scvi_model(trained)


def test_a_scvi_that_has_been_adapted_to_a_query_can_become_a_scanvi(trained, atlas, query_cells):
    adapted = SCVI.load_query_data(query_cells, trained)
    adapted.train(**QUICK)
    model = SCANVI.from_scvi_model(adapted, labels_key="cell_type", adata=atlas)
    assert model.schema.batches == ("batch0", "batch1", "batch2")
    (rows,) = model.module.encoder.hidden.linears[0].offsets[0].blocks
    theirs = adapted.module.encoder.hidden.linears[0].offsets[0].rows()
    assert torch.equal(rows, theirs) and all(weight.requires_grad for weight in model.module.encoder.parameters())
    before = fingerprint(adapted)
    model.train(**QUICK)
    assert fingerprint(adapted) == before


# ----------------------------------------------------------------------------------------------------------- surgery


def test_a_query_needs_no_labels_and_trains_nothing_of_the_classifier(reference, query_cells):
    query = SCANVI.load_query_data(unlabelled(query_cells), reference)
    query.train(**QUICK, weight_decay=1e-2)
    assert "train_classification" not in query.history
    trainable = {name for name, weight in query.module.named_parameters() if weight.requires_grad}
    assert trainable and all(name.endswith("blocks.1") for name in trainable)
    assert not any(name.startswith(("classifier", "z2", "z1")) for name in trainable)
    assert set(query.predict()) <= set(reference.schema.labels)


def test_new_batches_labels_and_levels_of_covariates_do_not_get_into_each_other_s_places(atlas):  # trap T16
    cells = atlas.copy()
    rng = np.random.default_rng(0)
    cells.obs["site"] = rng.choice(["lung", "nose"], cells.n_obs)
    cells.obs["age"] = rng.normal(size=cells.n_obs)
    in_query = (cells.obs["batch"] == "batch2").to_numpy()
    cells.obs.loc[in_query, "site"] = rng.choice(["blood", "nose"], in_query.sum())
    known, query_cells = cells[~in_query & (cells.obs["cell_type"] != "Naive B")].copy(), cells[in_query].copy()
    covariates = {"categorical_covariate_keys": ["site"], "continuous_covariate_keys": ["age"]}
    reference = SCANVI(known, dispersion="gene-batch", **KEYS, **covariates, **SMALL)
    reference.train(**QUICK)
    z, elbo, weights = reference.get_latent_representation(), reference.get_elbo(), fingerprint(reference)
    query = SCANVI.load_query_data(query_cells, reference)
    query.train(**QUICK, weight_decay=1e-2)
    np.testing.assert_array_equal(query.get_latent_representation(known), z)
    assert query.get_elbo(known) == elbo and fingerprint(reference) == weights
    extended = SCANVI.load_query_data(query_cells, reference, new_labels="extend")
    extended.train(**QUICK, weight_decay=1e-2)
    np.testing.assert_array_equal(extended.get_latent_representation(known), z)


def test_labels_of_the_query_are_used_with_a_warning_or_not_at_all(reference, query_cells):
    with pytest.warns(UserWarning, match=r"92 of the query's 92 cells carry labels.*query_labels='ignore'"):
        using = SCANVI.load_query_data(query_cells, reference)
    using.train(**QUICK)
    assert "train_classification" in using.history
    ignoring = SCANVI.load_query_data(query_cells, reference, query_labels="ignore")
    ignoring.train(**QUICK)
    without = SCANVI.load_query_data(unlabelled(query_cells), reference)
    without.train(**QUICK)
    assert fingerprint(ignoring) == fingerprint(without) != fingerprint(using)


def test_that_labels_are_to_be_ignored_is_saved_with_the_model(reference, query_cells, tmp_path):
    SCANVI.load_query_data(query_cells, reference, query_labels="ignore").save(tmp_path / "query")
    loaded = SCANVI.load(tmp_path / "query", query_cells)
    loaded.train(**QUICK)
    assert "train_classification" not in loaded.history


@pytest.fixture
def partial_reference(reference_cells):
    """A reference that does not know the type "Naive B"."""
    model = SCANVI(reference_cells[reference_cells.obs["cell_type"] != "Naive B"].copy(), **KEYS, **SMALL)
    model.train(**{**QUICK, "max_epochs": 30})
    return model


def test_new_labels_are_ignored_with_a_warning_that_says_what_else_can_be_done(partial_reference, query_cells):
    with pytest.warns(UserWarning, match=r"1 label of the query is new \(Naive B\).*'extend'.*'hold out'"):
        query = SCANVI.load_query_data(query_cells, partial_reference)
    query.train(**QUICK)
    assert "Naive B" not in set(query.predict())


def test_new_labels_that_are_held_out_are_reported(partial_reference, query_cells, recwarn):
    query = SCANVI.load_query_data(query_cells, partial_reference, new_labels="hold out", query_labels="ignore")
    assert not [warning for warning in recwarn if "Naive B" in str(warning.message)]
    query.train(**QUICK)
    report = query.held_out_report()
    assert list(report.index) == ["Naive B"]
    assert report.loc["Naive B", "n_cells"] == (query_cells.obs["cell_type"] == "Naive B").sum()
    assert report.loc["Naive B", "predicted"] in partial_reference.schema.labels
    assert partial_reference.held_out_report().empty


@pytest.mark.filterwarnings("ignore:.*carry labels")
def test_new_labels_extend_the_classifier_and_only_their_rows_are_trained(
    partial_reference, query_cells, reference_cells, tmp_path
):
    known = reference_cells[reference_cells.obs["cell_type"] != "Naive B"].copy()
    z, weights = partial_reference.get_latent_representation(), fingerprint(partial_reference)
    logits_before = logits_of(partial_reference, known)
    query = SCANVI.load_query_data(query_cells, partial_reference, new_labels="extend")
    assert query.schema.labels == (*partial_reference.schema.labels, "Naive B")
    query.train(max_epochs=100, batch_size=32, progress=False, weight_decay=1e-4)
    assert fingerprint(partial_reference) == weights
    ours = fingerprint(query)
    same = {name for name in weights if "label_novelty" not in name}
    assert {name: ours[name] for name in same} == {name: weights[name] for name in same}
    np.testing.assert_array_equal(query.get_latent_representation(known), z)
    np.testing.assert_allclose(logits_of(query, known)[:, :3], logits_before, rtol=1e-5, atol=1e-5)
    is_new = (query_cells.obs["cell_type"] == "Naive B").to_numpy()
    assert metrics.auroc(query.predict(soft=True)["Naive B"].to_numpy(), is_new) > 0.8
    query.save(tmp_path / "extended")
    again = SCANVI.load(tmp_path / "extended", query_cells)
    np.testing.assert_array_equal(again.predict(soft=True), query.predict(soft=True))
    np.testing.assert_array_equal(again.predict_with_uncertainty(), query.predict_with_uncertainty())


def logits_of(model, adata):
    with torch.no_grad():
        (cells,) = model._cells(adata).in_order(1024)
        return model.module.label_logits(cells).numpy()


def test_choices_about_labels_that_do_not_exist_or_contradict_are_refused(reference, query_cells):
    with pytest.raises(ValueError, match=r"new_labels='extent' is none of ignore, hold out, extend.*'extend'"):
        SCANVI.load_query_data(query_cells, reference, new_labels="extent")
    with pytest.raises(ValueError, match=r"query_labels='ignore' hides the cells.*new_labels='extend'"):
        SCANVI.load_query_data(query_cells, reference, new_labels="extend", query_labels="ignore")


# ------------------------------------------------------------------------------------------------- cells of no label


@pytest.mark.slow
def test_cells_of_a_type_that_the_reference_lacks_are_told_by_their_novelty():
    # single types at single seeds lie between 0.66 and 0.92: how far a type is from the others decides
    atlas = sca.datasets.atlas(n_obs=3000, n_vars=400, n_batches=3, n_types=14, seed=0)
    in_query = (atlas.obs["batch"] == "batch2").to_numpy()
    found = {}
    for held_out in ("Plasma cell", "CD56dim NK", "Conventional dendritic"):
        is_new = (atlas.obs["cell_type"] == held_out).to_numpy()
        model = SCANVI(atlas[~in_query & ~is_new].copy(), **KEYS, encode_covariates=True)
        model.train(progress=False)
        query = SCANVI.load_query_data(unlabelled(atlas[in_query]), model)
        query.train(progress=False)
        scores = query.predict_with_uncertainty()
        found[held_out] = metrics.auroc(scores["novelty"].to_numpy(), is_new[in_query])
        truth = atlas.obs["cell_type"].astype(str).to_numpy()[in_query]
        assert (scores["label"].to_numpy() == truth)[~is_new[in_query]].mean() > 0.9
        of_reference = model.predict_with_uncertainty()["novelty"]
        assert abs(of_reference.mean() - 0.5) < 0.02  # uniform, by construction
    assert np.mean(list(found.values())) > 0.75 and min(found.values()) > 0.6, found


def test_cells_of_counts_at_random_are_newer_than_the_reference_s_own(reference_cells, reference):
    reference.train(**{**QUICK, "max_epochs": 20})
    nonsense = reference_cells.copy()
    nonsense.X = np.random.default_rng(0).permuted(reference_cells.X.toarray(), axis=1)
    nonsense = SCANVI.load_query_data(unlabelled(nonsense), reference)
    own, other = (model.predict_with_uncertainty()["novelty"] for model in (reference, nonsense))
    assert abs(own.mean() - 0.5) < 0.02 and other.mean() > 0.8


def test_a_model_that_was_not_trained_on_labels_here_warns_that_it_knows_no_novelty(reference):
    expected = reference.predict_with_uncertainty()
    reference.module.label_novelty.n_cells.zero_()
    with pytest.warns(UserWarning, match="Novelty is NaN: this model does not know where its labels lie"):
        scores = reference.predict_with_uncertainty()
    assert scores["novelty"].isna().all()
    assert scores.drop(columns="novelty").equals(expected.drop(columns="novelty"))
