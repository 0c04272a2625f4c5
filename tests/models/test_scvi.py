"""scVI against independent truths: what scvi-tools computes, and the loss written down anew in float64."""

import numpy as np
import pytest
import scipy.special as sp
import torch
from small import QUICK, SMALL

import scarches_widgets as sca
from scarches_widgets.data.minibatches import Cells
from scarches_widgets.data.schema import DataSchema
from scarches_widgets.models.scvi import SCVIConfig, SCVIModule
from scarches_widgets.nn.layers import initialize
from scarches_widgets.nn.noise import Noise, generator_of

CONFIGS = {
    "published with scArches": {
        "n_layers": 2, "encode_covariates": True, "deeply_inject_covariates": False,
        "use_layer_norm": "both", "use_batch_norm": "none",
    },
    "defaults": {},
    "negative binomial": {"gene_likelihood": "nb", "encode_covariates": True},
    "one dispersion per batch": {"dispersion": "gene-batch", "gene_likelihood": "nb"},
    "poisson": {"gene_likelihood": "poisson"},
    "normal": {"gene_likelihood": "normal", "use_batch_norm": "none"},
}  # fmt: skip


@pytest.mark.parametrize("options", CONFIGS.values(), ids=CONFIGS)
def test_the_loss_of_a_fixed_minibatch_equals_the_formulas_in_float64(atlas, options):
    if options.get("gene_likelihood") == "normal":
        atlas = atlas.copy()
        atlas.X = atlas.X.log1p()
    schema = DataSchema.of(atlas, batch_key="batch")
    module = SCVIModule(schema, SCVIConfig(n_hidden=12, n_latent=3, **options))
    initialize(module, generator_of(0, "weights"))
    (cells,) = Cells(atlas, schema, are_counts=False).in_order(1000)
    module.eval()
    with torch.no_grad():
        loss = module.loss(cells.with_noise(Noise(5, "training", 0, 0)), kl_weight=0.3)
    noise = Noise(5, "training", 0, 0).normal_like(torch.empty(atlas.n_obs, 3)).double().numpy()
    reconstruction, kl = loss_in_numpy(module, cells, noise)
    assert float(loss.terms["reconstruction"]) == pytest.approx(reconstruction, rel=1e-5)
    assert float(loss.terms["kl_latent"]) == pytest.approx(kl, rel=1e-5)
    assert float(loss.total) == pytest.approx(reconstruction + 0.3 * kl, rel=1e-5)


def loss_in_numpy(module, cells, noise):
    """scVI's two terms, written down from Lopez et al. 2018 with numpy and scipy only."""
    weights = {name: value.double().numpy() for name, value in module.state_dict().items()}
    config, x, batch = module.config, cells.counts.double().numpy(), cells.batch.numpy()

    def linear(values, name):
        output = values @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]
        table = weights.get(f"{name}.offsets.0.blocks.0")
        return output if table is None else output + table[batch]

    def hidden(values, name, part):
        for i in range(config.n_layers):
            values = linear(values, f"{name}.linears.{i}")
            if config.use_batch_norm in (part, "both"):
                norm = {
                    k: weights[f"{name}.batch_norms.{i}.{k}"] for k in ("weight", "bias", "running_mean", "running_var")
                }
                values = (values - norm["running_mean"]) / np.sqrt(norm["running_var"] + 1e-3)
                values = values * norm["weight"] + norm["bias"]
            if config.use_layer_norm in (part, "both"):
                values = values - values.mean(1, keepdims=True)
                values = values / np.sqrt(values.var(1, keepdims=True) + 1e-5)
            values = np.maximum(values, 0)
        return values

    h = hidden(x if config.gene_likelihood == "normal" else np.log1p(x), "encoder.hidden", "encoder")
    mean, variance = linear(h, "encoder.mean"), np.exp(linear(h, "encoder.log_variance")) + 1e-4
    kl = 0.5 * (variance + mean**2 - 1 - np.log(variance)).sum(1).mean()
    d = hidden(mean + np.sqrt(variance) * noise, "decoder.hidden", "decoder")
    logits = linear(d, "decoder.fraction_logits")
    mu = np.maximum(x.sum(1, keepdims=True), 1) * sp.softmax(logits, axis=1)
    if config.gene_likelihood == "poisson":
        return -(x * np.log(mu) - mu - sp.gammaln(x + 1)).sum(1).mean(), kl
    name = "decoder.log_inverse_dispersion."
    per_batch = config.dispersion == "gene-batch"
    theta = np.exp(weights[name + "table.blocks.0"][batch] if per_batch else weights[name + "shared"])
    if config.gene_likelihood == "normal":
        return 0.5 * ((x - logits) ** 2 / theta + np.log(2 * np.pi * theta)).sum(1).mean(), kl
    log_p = sp.gammaln(x + theta) - sp.gammaln(theta) - sp.gammaln(x + 1)
    log_p = log_p + theta * np.log(theta / (theta + mu)) + x * np.log(mu / (theta + mu))
    if config.gene_likelihood == "zinb":
        pi = linear(d, "decoder.zero_inflation_logits")
        log_p = log_p - np.logaddexp(0, pi)
        log_p = np.where(x == 0, np.logaddexp(-np.logaddexp(0, -pi), log_p), log_p)
    return -log_p.sum(1).mean(), kl


def test_normalized_expression_sums_to_the_library_size_and_follows_the_gene_list(trained, reference_cells):
    expression = trained.get_normalized_expression(library_size=1e4)
    np.testing.assert_allclose(expression.sum(axis=1), 1e4, rtol=1e-4)
    assert list(expression.index) == list(reference_cells.obs_names)
    genes = list(reference_cells.var_names[[7, 2]])
    some = trained.get_normalized_expression(library_size=1e4, gene_list=genes)
    np.testing.assert_array_equal(some, expression[genes])


def test_normalized_expression_at_the_cells_own_size_sums_to_their_counts(trained, reference_cells):
    expression = trained.get_normalized_expression(library_size="latent")
    np.testing.assert_allclose(expression.sum(axis=1), np.asarray(reference_cells.X.sum(1)).ravel(), rtol=1e-4)


def test_training_raises_the_elbo_and_lowers_the_reconstruction_error(reference_cells):
    model = sca.models.SCVI(reference_cells, batch_key="batch", **SMALL)
    model.train(**QUICK)
    before = model.get_elbo(), model.get_reconstruction_error()
    model.train(**{**QUICK, "max_epochs": 20})
    assert model.get_elbo() > before[0]
    assert model.get_reconstruction_error() < before[1]
    assert model.get_elbo() < -model.get_reconstruction_error()  # the KL term is positive


def test_size_factors_scale_the_expected_counts(reference_cells):
    reference_cells.obs["size"] = np.linspace(0.5, 2, reference_cells.n_obs)
    model = sca.models.SCVI(reference_cells, batch_key="batch", size_factor_key="size", **SMALL)
    model.train(**QUICK)
    once = model.get_normalized_expression().to_numpy()
    reference_cells.obs["size"] *= 3
    np.testing.assert_allclose(model.get_normalized_expression().to_numpy(), 3 * once, rtol=1e-5)


def test_more_covariates_are_corrected_for(reference_cells):
    rng = np.random.default_rng(0)
    reference_cells.obs["sex"] = rng.choice(["f", "m"], reference_cells.n_obs)
    reference_cells.obs["age"] = rng.normal(size=reference_cells.n_obs)
    model = sca.models.SCVI(
        reference_cells,
        batch_key="batch",
        categorical_covariate_keys=["sex"],
        continuous_covariate_keys=["age"],
        **SMALL,
    )
    model.train(**QUICK)
    before = model.get_latent_representation()
    reference_cells.obs["age"] += 5
    assert not np.allclose(model.get_latent_representation(), before)
    assert model.schema.n_levels == {"batch": 2, "covariate sex": 2}
