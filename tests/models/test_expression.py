"""Expression, library sizes and the distribution of counts, for every model that decodes counts."""

import numpy as np
import pytest
import torch
from scipy.stats import nbinom
from small import QUICK, SMALL, fingerprint

import scarches_widgets as sca
from scarches_widgets.data.minibatches import Cells
from scarches_widgets.data.names import DataError
from scarches_widgets.data.schema import DataSchema
from scarches_widgets.models.scvi import SCVIConfig, SCVIModule
from scarches_widgets.nn.layers import initialize
from scarches_widgets.nn.noise import Noise, generator_of

SCVI = sca.models.SCVI


@pytest.fixture(params=["SCVI", "SCANVI"])
def model(request, reference_cells):
    keys = {"labels_key": "cell_type"} if request.param == "SCANVI" else {}
    model = getattr(sca.models, request.param)(reference_cells, batch_key="batch", **keys, **SMALL)
    model.train(**QUICK)
    return model


# --------------------------------------------------------------------------------------------------------- batches


def test_cells_are_decoded_as_of_the_batch_that_is_named(model, reference_cells):
    own = model.get_normalized_expression()
    as_batch1 = model.get_normalized_expression(transform_batch="batch1")
    in_batch1 = (reference_cells.obs["batch"] == "batch1").to_numpy()
    np.testing.assert_array_equal(as_batch1[in_batch1], own[in_batch1])
    assert not np.allclose(as_batch1[~in_batch1], own[~in_batch1], rtol=1e-3)
    np.testing.assert_allclose(as_batch1.sum(axis=1), 1, rtol=1e-5)


def test_several_batches_are_averaged(model):
    one, other = (model.get_normalized_expression(transform_batch=name) for name in ("batch0", "batch1"))
    both = model.get_normalized_expression(transform_batch=["batch0", "batch1"])
    np.testing.assert_allclose(both, (one + other) / 2, rtol=1e-5)


def test_a_batch_that_the_model_does_not_know_is_refused_with_the_nearest(model):
    with pytest.raises(DataError, match=r"no batch of the model \(batch7\)"):
        model.get_normalized_expression(transform_batch="batch7")
    with pytest.raises(DataError, match="names no batch"):
        model.get_normalized_expression(transform_batch=[])


# ----------------------------------------------------------------------------------------------------------- draws


def test_draws_of_the_posterior_scatter_about_its_mean_and_follow_the_seed(model):
    draws = model.get_normalized_expression(n_samples=200, return_mean=False)
    assert draws.shape == (200, 208, 40) and draws.std(0).mean() > 0
    np.testing.assert_allclose(draws.mean(0), model.get_normalized_expression(n_samples=200), rtol=1e-4)
    again, other = (model.get_normalized_expression(n_samples=2, seed=seed) for seed in (0, 1))
    np.testing.assert_array_equal(again, model.get_normalized_expression(n_samples=2))
    assert not np.array_equal(again, other)
    with pytest.raises(ValueError, match="Give n_samples"):
        model.get_normalized_expression(return_mean=False)


def test_latents_come_as_mean_as_draw_or_with_their_variance(model):
    mean, variance = model.get_latent_representation(return_dist=True)
    np.testing.assert_array_equal(mean, model.get_latent_representation())
    draws = np.stack([model.get_latent_representation(give_mean=False, seed=seed) for seed in range(300)])
    np.testing.assert_allclose(draws.mean(0), mean, atol=5 * np.sqrt(variance.max() / 300))
    np.testing.assert_allclose(draws.var(0).mean(), variance.mean(), rtol=0.05)


def test_a_reference_and_its_query_are_embedded_by_one_call(trained, reference_cells, query_cells):
    query = SCVI.load_query_data(query_cells, trained)
    query.train(**QUICK)
    joint = query.get_latent_representation([reference_cells, query_cells])
    np.testing.assert_array_equal(joint[:208], trained.get_latent_representation())
    np.testing.assert_array_equal(joint[208:], query.get_latent_representation())


# -------------------------------------------------------------------------------------------------- library sizes


def test_an_inferred_library_size_has_the_prior_of_its_batch_and_its_kl_is_the_closed_form(atlas):
    schema = DataSchema.of(atlas, batch_key="batch")
    config = SCVIConfig(n_hidden=12, n_latent=3, gene_likelihood="nb", use_observed_lib_size=False)
    module = SCVIModule(schema, config)
    initialize(module, generator_of(0, "weights"))
    (cells,) = Cells(atlas, schema).in_order(1000)
    totals, batch = np.log(np.asarray(atlas.X.sum(1)).ravel()), cells.batch.numpy()
    module.library.prior.count(totals, batch)
    module.eval()
    with torch.no_grad():
        loss = module.loss(cells.with_noise(Noise(5, "training", 0, 0)), kl_weight=0.3)
        q, latent = module.library.encoder(cells), module.encode(cells)
    m, v = q.mean[:, 0].double().numpy(), q.variance[:, 0].double().numpy()
    prior_mean, prior_variance = (np.array([f(totals[batch == b]) for b in range(3)])[batch] for f in (np.mean, np.var))
    kl = 0.5 * ((v + (m - prior_mean) ** 2) / prior_variance - 1 - np.log(v / prior_variance))
    assert float(loss.terms["kl_library"]) == pytest.approx(kl.mean(), rel=1e-4)
    noise = Noise(5, "training", 0, 0)
    z = latent.mean + latent.variance.sqrt() * noise.normal_like(latent.mean)
    size = np.exp(m + np.sqrt(v) * noise.normal_like(q.mean).double().numpy()[:, 0])
    with torch.no_grad():
        shares = module.decoder.expected_fractions(module.decoder(z, cells)).double().numpy()
    theta = module.decoder.log_inverse_dispersion.shared.exp().detach().double().numpy()
    mean = size[:, None] * shares
    expected = -nbinom.logpmf(cells.counts.numpy(), theta, theta / (theta + mean)).sum(1).mean()
    assert float(loss.terms["reconstruction"]) == pytest.approx(expected, rel=1e-4)
    assert float(loss.total) == pytest.approx(expected + kl.mean() + 0.3 * float(loss.terms["kl_latent"]), rel=1e-4)


@pytest.mark.parametrize("name", ["SCVI", "SCANVI"])
def test_inferred_library_sizes_come_near_the_total_counts_and_move_with_surgery(
    name, reference_cells, query_cells, tmp_path
):
    cls, options = getattr(sca.models, name), SMALL | {"use_observed_lib_size": False}
    model = cls(reference_cells, batch_key="batch", labels_key="cell_type", **options)
    model.train(**{**QUICK, "max_epochs": 60})
    totals = np.asarray(reference_cells.X.sum(1)).ravel()
    sizes = model.get_latent_library_size()[:, 0]
    assert np.corrcoef(np.log(sizes), np.log(totals))[0, 1] > 0.6
    np.testing.assert_allclose(model.get_normalized_expression(library_size="latent").sum(axis=1), sizes, rtol=1e-4)
    z, weights = model.get_latent_representation(), fingerprint(model)
    query = cls.load_query_data(query_cells, model)
    new = query.module.library.prior.blocks[1]
    logs = np.log(np.asarray(query_cells.X.sum(1)).ravel())
    np.testing.assert_allclose(new.numpy()[0], [logs.mean(), np.log(logs.var())], rtol=1e-4)
    query.train(**QUICK, weight_decay=1e-2)
    np.testing.assert_allclose(new.numpy()[0], [logs.mean(), np.log(logs.var())], rtol=1e-4)
    assert fingerprint(model) == weights
    np.testing.assert_array_equal(query.get_latent_representation(reference_cells), z)
    query.save(tmp_path / "query")
    assert fingerprint(cls.load(tmp_path / "query", query_cells)) == fingerprint(query)
    assert "train_kl_library" in query.history


def test_a_scanvi_takes_over_the_scvi_s_library_sizes(reference_cells):
    scvi = SCVI(reference_cells, batch_key="batch", use_observed_lib_size=False, **SMALL)
    scvi.train(**QUICK)
    model = sca.models.SCANVI.from_scvi_model(scvi, labels_key="cell_type")
    weights = model.module.state_dict()
    assert all(torch.equal(weights[name], value) for name, value in scvi.module.state_dict().items())


# ---------------------------------------------------------------------------------------------------- dispersions


def test_each_label_has_dispersions_of_its_own_and_unlabelled_cells_their_mean(reference_cells):
    reference_cells.obs["partial"] = reference_cells.obs["cell_type"].astype(object)
    reference_cells.obs.loc[reference_cells.obs_names[:20], "partial"] = "Unknown"
    keys = {"batch_key": "batch", "labels_key": "partial", "unlabeled_category": "Unknown"}
    model = SCVI(reference_cells, dispersion="gene-label", **keys, **SMALL)
    before = model.module.decoder.log_inverse_dispersion.table.blocks[0].detach().clone()
    model.train(**QUICK)
    rows = model.module.decoder.log_inverse_dispersion.table.blocks[0].detach()
    assert rows.shape == (4, 40) and (rows != before).all()
    found = model.get_likelihood_parameters()["inverse_dispersion"]
    codes = model.schema.label_codes(reference_cells)
    rows = rows.double().numpy()
    expected = np.where(codes[:, None] < 0, np.exp(rows.mean(0)), np.exp(rows[codes]))
    np.testing.assert_allclose(found, expected, rtol=1e-4)
    without = reference_cells.copy()
    del without.obs["partial"]
    found = model.get_likelihood_parameters(without)["inverse_dispersion"]
    np.testing.assert_allclose(found, np.tile(np.exp(rows.mean(0)), (208, 1)), rtol=1e-4)


def test_dispersions_by_label_need_labels(reference_cells):
    with pytest.raises(DataError, match="labels_key"):
        SCVI(reference_cells, batch_key="batch", dispersion="gene-label")


def test_a_query_is_mapped_onto_a_reference_with_dispersions_by_label(reference_cells, query_cells):
    model = SCVI(reference_cells, batch_key="batch", labels_key="cell_type", dispersion="gene-label", **SMALL)
    model.train(**QUICK)
    del query_cells.obs["cell_type"]
    query = SCVI.load_query_data(query_cells, model)
    query.train(**QUICK)
    np.testing.assert_array_equal(query.get_latent_representation(reference_cells), model.get_latent_representation())


# -------------------------------------------------------------------------------------------- distribution of counts


def test_parameters_give_the_reconstruction_error_back(reference_cells):
    model = SCVI(reference_cells, batch_key="batch", gene_likelihood="nb", **SMALL)
    model.train(**QUICK)
    p = {name: values.astype(np.float64) for name, values in model.get_likelihood_parameters().items()}
    assert set(p) == {"mean", "inverse_dispersion"}
    theta = p["inverse_dispersion"]
    log_p = nbinom.logpmf(reference_cells.X.toarray(), theta, theta / (theta + p["mean"])).sum(1)
    with torch.no_grad():
        (cells,) = model._minibatches(None, 1000)
        exact = model.module.decoder.log_likelihood(model.module.encode(cells).mean, cells).numpy()
    np.testing.assert_allclose(log_p, exact, rtol=1e-4)


@pytest.mark.parametrize("likelihood", ["zinb", "nb", "poisson"])
def test_drawn_counts_have_the_means_of_the_distribution(reference_cells, likelihood):
    model = SCVI(reference_cells, batch_key="batch", gene_likelihood=likelihood, **SMALL)
    model.train(**{**QUICK, "max_epochs": 10, "lr": 0.01})
    draws = model.posterior_predictive_sample(n_samples=60)
    assert draws.shape == (60, 208, 40) and (draws >= 0).all() and (draws == np.round(draws)).all()
    p = model.get_likelihood_parameters()
    mean = p["mean"] * (1 - p.get("zero_inflation", 0))
    ratio = draws.mean((0, 1)) / mean.mean(0)
    assert np.abs(np.log(ratio)).mean() < 0.15  # z is drawn, too
    np.testing.assert_array_equal(model.posterior_predictive_sample(seed=3), model.posterior_predictive_sample(seed=3))
    genes = list(reference_cells.var_names[[5, 2]])
    assert model.posterior_predictive_sample(gene_list=genes).shape == (208, 2)
