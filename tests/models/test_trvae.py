"""trVAE against independent truths: what scArches computes, and the loss written down anew in float64."""

import warnings

import numpy as np
import pytest
import scipy.special as sp
import torch
from small import QUICK, fingerprint

import scarches_widgets as sca
from scarches_widgets.data.minibatches import Cells
from scarches_widgets.data.names import DataError
from scarches_widgets.data.schema import DataSchema
from scarches_widgets.models.trvae import TRVAEConfig, TRVAEModule
from scarches_widgets.nn.layers import initialize
from scarches_widgets.nn.noise import Noise, generator_of

SMALL = {"hidden_layer_sizes": (16, 12), "n_latent": 4, "batch_key": "batch"}
BANDWIDTHS = [1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 0.1, 1, 5, 10, 15, 20, 25, 30, 35, 100, 1e3, 1e4, 1e5, 1e6]


CONFIGS = {
    "defaults": {},
    "one hidden layer": {"hidden_layer_sizes": [7]},
    "zero inflation, discrepancy in the decoder": {"gene_likelihood": "zinb", "mmd_on": "y", "mmd_weight": 3.0},
    "batch normalisation": {"use_batch_norm": True, "use_layer_norm": False},
    "squared error": {"gene_likelihood": "mse"},
    "first batch against the others": {"mmd_boundary": 1},
    "no discrepancy": {"use_mmd": False},
}


@pytest.mark.parametrize("options", CONFIGS.values(), ids=CONFIGS)
def test_the_loss_of_a_fixed_minibatch_equals_the_formulas_in_float64(atlas, options):
    cells, module = fixed(atlas, options)
    with torch.no_grad():
        loss = module.loss(cells.with_noise(Noise(5, "training", 0, 0)), kl_weight=0.3)
    noise = Noise(5, "training", 0, 0).normal_like(torch.empty(atlas.n_obs, 3)).double().numpy()
    expected = loss_in_numpy(module, cells, noise)
    assert {name: float(term) for name, term in loss.terms.items()} == pytest.approx(expected, rel=1e-5, abs=5e-5)
    total = expected["reconstruction"] + 0.3 * expected["kl_latent"]
    total += options.get("mmd_weight", 1) * expected.get("mmd", 0)
    assert float(loss.total) == pytest.approx(total, rel=1e-5)


def fixed(atlas, options):
    """All cells, and a module with drawn weights and statistics."""
    if options.get("gene_likelihood") == "mse":
        atlas = atlas.copy()
        atlas.X = atlas.X.log1p()
    schema = DataSchema.of(atlas, batch_key="batch")
    module = TRVAEModule(schema, TRVAEConfig(**{"hidden_layer_sizes": (12, 8), "n_latent": 3, **options}))
    generator = generator_of(0, "weights")
    initialize(module, generator)
    for statistic in module.buffers():
        if statistic.dtype == torch.float32:
            statistic.uniform_(0.5, 1.5, generator=generator)
    (cells,) = Cells(atlas, schema, are_counts=False).in_order(1000)
    return cells, module.eval()


def loss_in_numpy(module, cells, noise):
    """trVAE's terms, written down from Lotfollahi et al. 2020 and scArches' layers with numpy and scipy only."""
    weights = {name: value.double().numpy() for name, value in module.state_dict().items()}
    config, x, batch = module.config, cells.counts.double().numpy(), cells.batch.numpy()

    def linear(values, name):
        output = values @ weights[f"{name}.weight"].T + weights.get(f"{name}.bias", 0)
        table = weights.get(f"{name}.offsets.0.blocks.0")
        return output if table is None else output + table[batch]

    def layers(values, name):
        for i in range(len(config.hidden_layer_sizes)):
            values = linear(values, f"{name}.linears.{i}")
            if config.use_batch_norm:
                at = f"{name}.batch_norms.{i}"
                centred = values - weights[f"{at}.running_mean"]
                values = centred / np.sqrt(weights[f"{at}.running_var"] + 1e-5)
                values = values * weights[f"{at}.weight"] + weights[f"{at}.bias"]
            else:
                values = (values - values.mean(1, keepdims=True)) / np.sqrt(values.var(1, keepdims=True) + 1e-5)
            values = np.maximum(values, 0)
            yield values

    *_, hidden = layers(x if config.gene_likelihood == "mse" else np.log1p(x), "encoder.hidden")
    mean, variance = linear(hidden, "encoder.mean"), np.exp(linear(hidden, "encoder.log_variance")) + 1e-4
    z = mean + np.sqrt(variance) * noise
    y, *others = layers(z, "decoder.hidden")
    logits = linear([y, *others][-1], "decoder.fraction_logits")
    if config.gene_likelihood == "mse":
        reconstruction = ((x - np.maximum(logits, 0)) ** 2).sum(1).mean()
    else:
        mu = sp.softmax(logits, 1) * x.sum(1, keepdims=True)
        theta = np.exp(weights["decoder.log_inverse_dispersion.table.blocks.0"])[batch]
        log_p = sp.gammaln(x + theta) - sp.gammaln(theta) - sp.gammaln(x + 1)
        log_p += theta * np.log(theta / (theta + mu)) + x * np.log(mu / (theta + mu))
        if config.gene_likelihood == "zinb":
            zero = sp.expit(linear([y, *others][-1], "decoder.zero_inflation_logits"))
            log_p = np.log((x == 0) * zero + (1 - zero) * np.exp(log_p))
        reconstruction = -log_p.sum(1).mean()
    terms = {
        "reconstruction": reconstruction,
        "kl_latent": (0.5 * (variance + mean**2 - 1 - np.log(variance))).sum(1).mean(),
    }
    if config.use_mmd:
        groups = [(z if config.mmd_on == "z" else y)[batch == code] for code in range(3)]
        pairs = [(0, 1), (0, 2)] if config.mmd_boundary else [(0, 1), (0, 2), (1, 2)]
        terms["mmd"] = sum(discrepancy(groups[i], groups[j]) for i, j in pairs)
    return terms


def discrepancy(a, b):
    def kernel(u, v):
        squared = ((u[:, None] - v[None]) ** 2).sum(-1)
        return sum(np.exp(-squared / (2 * width)) for width in BANDWIDTHS).mean()

    return kernel(a, a) + kernel(b, b) - 2 * kernel(a, b)


# --------------------------------------------------------------------------------------------- what trVAE is there for


@pytest.mark.parametrize("mmd_on", ["z", "y"])
def test_the_penalty_draws_batches_together_where_it_is_measured(mmd_on):
    cells = sca.datasets.atlas(n_obs=300, n_vars=40, n_types=4, seed=1, batch_strength=2)
    batch, apart = cells.obs["batch"].to_numpy(), {}
    for use_mmd in (False, True):
        model = sca.models.TRVAE(cells, **SMALL, use_mmd=use_mmd, mmd_on=mmd_on, mmd_weight=20)
        model.train(max_epochs=30, batch_size=64, lr=0.01, progress=False)
        values = model.get_latent_representation() if mmd_on == "z" else model.get_y()
        apart[use_mmd] = discrepancy(values[batch == "batch0"], values[batch == "batch1"])
    assert apart[True] < 0.7 * apart[False]


def test_a_boundary_beyond_the_batches_is_refused(atlas):
    with pytest.raises(ValueError, match=r"mmd_boundary=3 .* there are 3 in all \(batch0, batch1, batch2\)"):
        sca.models.TRVAE(atlas, **SMALL, mmd_boundary=3)


def test_options_as_scarches_spells_them_are_understood(reference_cells):
    theirs = sca.models.TRVAE(
        reference_cells, condition_key="batch", hidden_layer_sizes=np.array([16, 12]), latent_dim=4, dr_rate=0.1,
        recon_loss="zinb", use_bn=True, use_ln=False, beta=2,
    )  # fmt: skip
    ours = {"dropout_rate": 0.1, "gene_likelihood": "zinb", "mmd_weight": 2}
    assert theirs.config == TRVAEConfig((16, 12), 4, use_batch_norm=True, use_layer_norm=False, **ours)
    theirs.train(n_epochs=1, alpha_iter_anneal=10, alpha_kl=0.5, progress=False)
    assert theirs.history["kl_weight"].iloc[-1] <= 0.5


# --------------------------------------------------------------------------------------------------------------- values


def test_counts_models_refuse_normalised_values_and_the_squared_error_refuses_scaled_ones(atlas):
    normalised = atlas.copy()
    normalised.X = normalised.X.log1p()
    with pytest.raises(DataError, match="with a fraction"):
        sca.models.TRVAE(normalised, **SMALL)
    scaled = normalised.copy()
    scaled.X = scaled.X.toarray() - 1
    with pytest.raises(DataError, match=r"negative values .*no value below zero.*before sc\.pp\.scale"):
        sca.models.TRVAE(scaled, **SMALL, gene_likelihood="mse")
    with pytest.warns(UserWarning, match=r"whole numbers only .* look like raw counts"):
        sca.models.TRVAE(atlas, **SMALL, gene_likelihood="mse")


def test_the_squared_error_learns_normalised_values_and_says_what_it_cannot_do(reference_cells):
    reference_cells.X = reference_cells.X.log1p()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = sca.models.TRVAE(reference_cells, **SMALL, gene_likelihood="mse")
    model.train(max_epochs=60, batch_size=64, kl_weight=0.05, progress=False)
    assert model.history["val_reconstruction"].iloc[-1] < 0.7 * model.history["val_reconstruction"].iloc[0]
    expected, values = model.get_normalized_expression().to_numpy(), reference_cells.X.toarray()
    assert expected.min() >= 0
    of_gene = ((values - values.mean(0)) ** 2).mean()  # what a gene's mean over all cells leaves unexplained
    assert ((values - expected) ** 2).mean() < of_gene
    assert set(model.get_likelihood_parameters()) == {"mean"}
    with pytest.raises(ValueError, match="no distribution"):
        model.posterior_predictive_sample()
    with pytest.raises(ValueError, match="gene_likelihood='mse'"):
        model.differential_expression(groupby="cell_type")


def test_the_bound_on_the_evidence_leaves_the_discrepancy_out(reference_cells):
    model = sca.models.TRVAE(reference_cells, **SMALL, mmd_on="y")
    model.train(**QUICK)
    terms = model._loss_terms(None, 0, 256)
    assert terms["mmd"] > 0
    assert model.get_elbo() == pytest.approx(-terms["reconstruction"] - terms["kl_latent"])
    assert model.get_y().shape == (reference_cells.n_obs, 12)


# ------------------------------------------------------------------------------------------------------------- training


def test_the_published_schedule_is_that_of_scarches_trainer(reference_cells):
    model = sca.models.TRVAE(reference_cells, **SMALL)
    from scarches_widgets.training.options import planned

    plan = planned(model.plan_class, {"schedule": "published"}).resolved(1000)
    assert (plan.max_epochs, plan.lr, plan.weight_decay, plan.batch_size) == (400, 1e-3, 0.04, 128)
    assert plan.early_stopping and plan.early_stopping_kwargs.patience == 20
    assert plan.early_stopping_kwargs.reduce_lr and plan.early_stopping_kwargs.lr_patience == 13
    assert plan.kl_weight_at(0, 10) == 1
    assert plan.optimizer([]).eps == 0.01
    auto = planned(model.plan_class, {}).resolved(1000)
    assert (auto.early_stopping, auto.weight_decay) == (False, 1e-6)
    given = {
        "schedule": "published",
        "weight_decay": 0,
        "early_stopping": False,
        "alpha_epoch_anneal": 50,
        "n_epochs": 9,
    }
    plan = planned(model.plan_class, given).resolved(1000)
    assert (plan.weight_decay, plan.early_stopping, plan.max_epochs) == (0, False, 9)
    assert plan.kl_weight_at(250, 10) == 0.5
    with pytest.raises(ValueError, match="give one of them"):
        planned(model.plan_class, {"alpha_epoch_anneal": 50, "alpha_iter_anneal": 50})


def test_the_best_epoch_comes_back(reference_cells):  # trap T13: scArches keeps the live weights as its best ones
    model = sca.models.TRVAE(reference_cells, **SMALL)
    early = {"early_stopping": True, "early_stopping_kwargs": {"patience": 3}}
    model.train(max_epochs=60, batch_size=16, lr=0.2, progress=False, **early)
    losses = model.history["val_unweighted_loss"]
    assert losses.idxmin() < losses.index[-1]
    model.train(max_epochs=int(losses.idxmin()) + 1, batch_size=16, lr=1e-12, progress=False)  # measures where it is
    assert model.history["val_unweighted_loss"].iloc[0] == pytest.approx(losses.min(), rel=0.02)


# -------------------------------------------------------------------------------------------------------------- surgery


@pytest.fixture(scope="module")
def reference(atlas):
    model = sca.models.TRVAE(atlas[atlas.obs["batch"] != "batch2"].copy(), **SMALL, use_batch_norm=True)
    model.train(**QUICK)
    return model


def changed(query, reference):
    """Which of the reference's tensors training the query has moved in the query's model."""
    before = fingerprint(reference)
    return {name for name, bits in fingerprint(query).items() if name in before and before[name] != bits}


@pytest.mark.parametrize("batches", ["new", "new and known"])
def test_a_frozen_reference_stays_in_place_even_under_weight_decay(reference, atlas, batches):  # traps T5, T6
    cells = atlas[atlas.obs["batch"].isin(["batch2"] if batches == "new" else ["batch1", "batch2"])].copy()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        query = sca.models.TRVAE.load_query_data(cells, reference)
    query.train(**QUICK, weight_decay=0.04)
    assert changed(query, reference) == set()
    trained = {name for name, weight in query.module.named_parameters() if weight.requires_grad}
    assert trained == {
        "encoder.hidden.linears.0.offsets.0.blocks.1",
        "decoder.hidden.linears.0.offsets.0.blocks.1",
        "decoder.log_inverse_dispersion.table.blocks.1",
    }


def test_what_is_not_to_be_frozen_is_trained_and_stays_so_in_a_saved_model(reference, query_cells, tmp_path):
    before = fingerprint(reference)
    for options, moved in (
        ({"freeze": False}, {"encoder.mean.weight", "encoder.hidden.linears.1.weight"}),
        ({"freeze_expression": False}, {"encoder.hidden.linears.0.weight", "decoder.hidden.linears.0.weight"}),
    ):
        sca.models.TRVAE.load_query_data(query_cells, reference, **options).save(tmp_path / "query", overwrite=True)
        query = sca.models.TRVAE.load(tmp_path / "query", query_cells)
        query.train(**QUICK)
        assert moved <= changed(query, reference)
        if "freeze_expression" in options:
            assert not any(
                ".linears.1." in name or "mean" in name for name in changed(query, reference) if "norm" not in name
            )
    assert fingerprint(reference) == before


def test_dropout_of_a_query_is_off_unless_it_is_to_stay(reference, query_cells):
    for removed in (True, False):
        query = sca.models.TRVAE.load_query_data(query_cells, reference, remove_dropout=removed)
        hidden = query.module.train().encoder.hidden
        dropped = hidden.dropout(torch.ones(100, 100), Noise(0, "training", 0)) == 0
        assert bool(dropped.any()) is not removed
