"""totalVI against scvi-tools, and each of its known defects (spec, section 4) against what is done here."""

import logging
from dataclasses import replace

import anndata as ad
import mudata
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import scipy.special as special
import torch
from scipy.stats import lognorm, nbinom
from sklearn.mixture import GaussianMixture
from small import QUICK, fingerprint

import scarches_widgets as sca
from scarches_widgets.data.minibatches import Cells
from scarches_widgets.data.names import DataError
from scarches_widgets.data.schema import DataSchema
from scarches_widgets.models.totalvi import TOTALVIConfig, TOTALVIModule, TOTALVIPlan
from scarches_widgets.nn.divergences import kl_to_standard_normal
from scarches_widgets.nn.layers import initialize
from scarches_widgets.nn.noise import generator_of
from scarches_widgets.nn.proteins import background_prior, lower_halves

KEY = "protein_expression"
TINY = {"n_hidden": 16, "n_latent": 4}


@pytest.fixture(scope="module")
def cite():
    """Two batches of 150 cells with 40 genes and 12 proteins. Tests do not change it."""
    return sca.datasets.cite_seq(300, 40, n_proteins=12, n_batches=2, n_types=4)


@pytest.fixture(scope="module")
def reference(cite):
    return part(cite, "batch0")


@pytest.fixture(scope="module")
def fitted(cite):
    """Fitted to both batches; tests do not change it."""
    return trained(cite)


def part(cite, batch):
    return cite[cite.obs["batch"] == batch].copy()


def trained(cells, **options):
    model = sca.models.TOTALVI(cells, batch_key="batch", protein_key=KEY, **TINY, **options)
    model.train(**QUICK)
    return model


def rna_only(cells):
    cells = cells.copy()
    del cells.obsm[KEY]
    return cells


def hidden(cells, batch, value=np.nan):
    """The cells without the proteins of a batch."""
    cells = cells.copy()
    table = cells.obsm[KEY].astype(float)
    table[(cells.obs["batch"] == batch).to_numpy()] = value
    cells.obsm[KEY] = table
    return cells


# ----------------------------------------------------------------------------------------------- scvi-tools' own values

# means over the cells of what scvi-tools 1.4.2 computes at posterior means: −log p(RNA), KL(q(z)), decoders of proteins
THEIRS = {
    "totalvi_1.4.2_cite": (612.930624, 39.6234278, 0.253447752, 1.54706283, 4.53186584, -0.11310015),
    "totalvi_1.1.5_synthetic": (332.296304, 0.152720368, 0.90684185, 0.08357560, 1.10084976, -0.07703779),
}


@pytest.mark.realdata
@pytest.mark.parametrize("folder", THEIRS)
def test_weights_of_scvi_tools_give_its_values_also_from_before_the_background_was_a_softplus(real_data, folder):
    folder = real_data / "checkpoints" / folder
    model = sca.hub.from_scvi_tools(folder)
    module, schema = model.module, model.schema
    if folder.name.endswith("cite"):
        expected = np.load(folder / "expected.npz", allow_pickle=False)
        adata = ad.read_h5ad(real_data / "cite_pbmc.h5ad")[expected["obs_names"].astype(str)].copy()
    else:
        schema, adata = replace(schema, protein_names_key="protein_names"), ad.read_h5ad(folder / "adata.h5ad")
    columns, report = schema.align(adata)
    assert report.overlap == 1
    with torch.no_grad():
        (cells,) = Cells(adata, schema, columns).in_order(1000)
        posterior = module.encode(cells)
        rates = module.proteins(posterior.mean, cells)
        found = [
            -module.decoder.log_likelihood(posterior.mean, cells),
            kl_to_standard_normal(posterior).sum(-1),
            rates.log_background.variance.sqrt(),
            rates.log_background.mean,
            rates.foreground / rates.background,
            rates.background_logits,
        ]
    np.testing.assert_allclose([float(values.mean()) for values in found], THEIRS[folder.name], rtol=1e-5, atol=1e-6)
    if folder.name.endswith("cite"):
        np.testing.assert_allclose(posterior.mean.numpy(), expected["X_totalvi"], atol=1e-4)


@pytest.mark.realdata
def test_a_model_of_a_mudata_fits_this_module(real_data):
    model = sca.hub.from_scvi_tools(real_data / "checkpoints" / "totalvi_mudata_1.3.0_synthetic")
    module, schema = model.module, model.schema
    assert (schema.n_genes, len(schema.proteins), schema.protein_key) == (100, 100, "protein_expression")
    assert not module.encoder.hidden.batch_norms and module.decoder.hidden.layers.batch_norms


# ----------------------------------------------------------------------------------------------- the loss, written anew


def test_the_protein_terms_of_a_fixed_minibatch_equal_the_formulas_in_float64(cite):
    schema = replace(DataSchema.of(cite, batch_key="batch"), protein_key=KEY, proteins=tuple(cite.obsm[KEY]))
    module = TOTALVIModule(schema, TOTALVIConfig(**TINY, protein_dispersion="protein-batch", gene_likelihood="zinb"))
    initialize(module, generator_of(0, "weights"))
    with torch.no_grad():
        module.proteins.log_efficiency.blocks[0].normal_(generator=generator_of(1, "weights"))
        module.proteins.measured.blocks[0][1, 5:] = 0
        module.proteins.measured.blocks[0][0] = module.proteins.measured.blocks[0][1, :5] = 1
    module.eval()
    (cells,) = Cells(cite, schema).in_order(1000)
    with torch.no_grad():
        z = module.encode(cells).mean
        loss = module.loss(cells, kl_weight=0.3, protein_weight=2.0)
        rates = module.proteins(z, cells)
        w = {name: value.double().numpy() for name, value in module.proteins.state_dict().items()}
    batch, y = cells.batch.numpy(), cells.proteins.double().numpy()
    back, fore, logits, (alpha, variance) = (
        tuple(one.double().numpy() for one in part) if isinstance(part, tuple) else part.double().numpy()
        for part in rates
    )
    np.testing.assert_allclose(back, np.exp(alpha), rtol=1e-5)
    assert (fore >= back).all()
    theta, log_e = np.exp(w["log_inverse_dispersion.table.blocks.0"][batch]), w["log_efficiency.blocks.0"][batch]
    mask, log_pi = w["measured.blocks.0"][batch], special.log_expit(logits)
    log_p = [nbinom.logpmf(y, theta, theta / (theta + np.exp(log_e) * mean)) for mean in (back, fore)]
    mixed = np.logaddexp(log_pi + log_p[0], special.log_expit(-logits) + log_p[1])
    reconstruction = -(mixed * mask).sum(1).mean()
    prior_sd = np.exp(w["prior_log_scale.blocks.0"][batch])
    apart = ((alpha - w["prior_mean.blocks.0"][batch]) ** 2 + variance) / prior_sd**2
    kl = (0.5 * (apart - 1 - np.log(variance / prior_sd**2)) * mask).sum(1).mean()
    penalty = -((lognorm.logpdf(np.exp(log_e), 1) + 1e-3 * log_pi) * mask).sum(1).mean()
    assert float(loss.terms["reconstruction_protein"]) == pytest.approx(reconstruction, rel=1e-4)
    assert float(loss.terms["kl_background"]) == pytest.approx(kl, rel=1e-4)
    assert float(loss.terms["penalty_protein"]) == pytest.approx(penalty, rel=1e-4)
    total = loss.terms["reconstruction"] + 0.3 * (2 * reconstruction + kl + penalty + loss.terms["kl_latent"])
    assert float(loss.total) == pytest.approx(float(total), rel=1e-5)


def test_the_published_schedule_is_scvi_tools_and_the_automatic_one_warms_up_in_a_quarter():
    plan = TOTALVIPlan(schedule="published").resolved(3600, 400)
    assert (plan.lr, plan.batch_size, plan.early_stopping, plan.kl_warmup_steps) == (4e-3, 256, True, 3000)
    stopping = plan.early_stopping_kwargs
    assert (stopping.patience, stopping.reduce_lr, stopping.lr_patience, stopping.lr_factor) == (45, True, 30, 0.6)
    assert [plan.kl_weight_at(step, 15) for step in (0, 1500, 3000, 5000)] == [0, 0.5, 1, 1]
    plan = TOTALVIPlan().resolved(3600, 400)
    assert (plan.lr, plan.max_epochs, plan.early_stopping) == (4e-3, 86, False)
    assert [plan.kl_weight_at(step, 4) for step in (0, 43, 86, 200)] == [0, 0.5, 1, 1]


def test_a_background_s_prior_is_the_lower_half_of_cells_counts():
    rng = np.random.default_rng(0)
    counts = np.exp(rng.normal([2] * 10 + [6] * 6, 0.1, (50, 16))) - 1
    mean, scale = background_prior(counts, rng)
    assert mean == pytest.approx(2, abs=0.02) and scale == pytest.approx(0.1 / np.sqrt(100), rel=0.2)
    assert background_prior(counts[:, :4], rng) is None
    for cell in np.log1p(rng.poisson(np.exp(rng.normal([2] * 10 + [6] * 6, 0.5, (5, 16))))):
        theirs = GaussianMixture(2, random_state=0, tol=1e-9, max_iter=1000).fit(cell[:, None])
        i, ours = theirs.means_[:, 0].argmin(), lower_halves(cell[None])
        np.testing.assert_allclose(np.ravel(ours), [theirs.means_[i, 0], theirs.covariances_[i, 0, 0]], rtol=1e-3)
    mean, scale = background_prior(np.zeros((50, 16)), rng)
    assert mean == 0 and scale == pytest.approx(0.05 / 10)


def test_more_than_ten_proteins_have_priors_of_their_batch_and_fewer_do_not(cite):
    priors = sca.models.TOTALVI(cite, batch_key="batch", **TINY).module.proteins.prior_mean.rows()
    assert (priors == priors[:, :1]).all() and priors[0, 0] != priors[1, 0] and (priors != 3).all()
    few = cite.copy()
    few.obsm[KEY] = few.obsm[KEY].iloc[:, :10]
    assert (sca.models.TOTALVI(few, batch_key="batch", **TINY).module.proteins.prior_mean.rows() == 3).all()


# ---------------------------------------------------------------------------------------------- what it reads, by name


def test_without_a_key_the_one_table_of_counts_is_taken_and_named(cite, caplog):
    with caplog.at_level(logging.WARNING):
        model = sca.models.TOTALVI(cite, batch_key="batch", **TINY)
    assert "reads the proteins from obsm['protein_expression']" in caplog.text
    assert model.schema.proteins == tuple(cite.obsm[KEY])


def test_bad_proteins_are_refused_before_anything_is_trained(cite):
    cases = {
        "negative value": cite.obsm[KEY] - 1,
        "with a fraction": np.log1p(cite.obsm[KEY]),
        "No cell has a count of any protein": cite.obsm[KEY] * 0,
    }
    for message, table in cases.items():
        cells = cite.copy()
        cells.obsm[KEY] = table
        with pytest.raises(DataError, match=message):
            sca.models.TOTALVI(cells, batch_key="batch", protein_key=KEY)
    with pytest.raises(
        DataError, match=r"obsm has no 'proteins'.*Did you mean|obsm has no 'proteins'.*It has: X_truth"
    ):
        sca.models.TOTALVI(cite, batch_key="batch", protein_key="proteins")


def test_scvi_tools_names_of_keys_and_options_are_understood(cite, fitted):
    noted = cite.copy()
    sca.models.TOTALVI.setup_anndata(noted, batch_key="batch", protein_expression_obsm_key=KEY)
    model = sca.models.TOTALVI(noted, **TINY, dropout_rate_encoder=0.2, gene_dispersion="gene")
    model.train(**QUICK, pro_recons_weight=1.0)
    assert fingerprint(model) == fingerprint(fitted)


def test_a_mudata_is_trained_on_and_mapped_like_the_same_cells_in_an_anndata(cite, fitted):
    def multimodal(cells):
        proteins = ad.AnnData(sp.csr_matrix(cells.obsm[KEY].to_numpy(np.float32)), obs=cells.obs[[]].copy())
        proteins.var_names = cells.obsm[KEY].columns
        return mudata.MuData({"rna": ad.AnnData(cells.X, obs=cells.obs[["batch"]], var=cells.var), KEY: proteins})

    model = sca.models.TOTALVI(multimodal(cite), batch_key="batch", **TINY)
    model.train(**QUICK)
    assert fingerprint(model) == fingerprint(fitted)
    z = fitted.get_latent_representation(cite)
    np.testing.assert_array_equal(fitted.get_latent_representation(multimodal(cite)), z)
    np.testing.assert_array_equal(model.get_latent_representation(), z)


def test_proteins_of_a_query_are_matched_by_name_and_never_by_position(cite, fitted, caplog):
    z = fitted.get_latent_representation(cite)
    shuffled = cite.copy()
    shuffled.obsm[KEY] = cite.obsm[KEY].iloc[:, np.random.default_rng(0).permutation(12)].assign(CD99=1)
    np.testing.assert_array_equal(fitted.get_latent_representation(shuffled), z)
    assert "1 protein of obsm['protein_expression'] are unknown to the model" in caplog.text
    renamed = cite.copy()
    renamed.obsm[KEY] = cite.obsm[KEY].add_prefix("anti-")
    with pytest.raises(DataError, match="None of the model's 12 proteins"):
        fitted.get_latent_representation(renamed)


# -------------------------------------------------------------------------------------- proteins that were not measured


def test_what_was_not_measured_in_a_batch_is_masked_whether_zero_or_nan(cite):
    models = [trained(hidden(cite, "batch1", value)) for value in (0, np.nan)]
    assert fingerprint(models[0]) == fingerprint(models[1])
    assert models[0].module.proteins.measured.rows().tolist() == [[1.0] * 12, [0.0] * 12]
    cells = rna_only(part(cite, "batch1"))
    terms = models[0]._loss_terms(cells, 0, 256)
    assert terms["reconstruction_protein"] == terms["kl_background"] == terms["penalty_protein"] == 0


def test_weights_of_a_batch_without_proteins_learn_nothing_of_proteins(cite):
    """In scvi-tools, the price of mixing and efficiency is unmasked: it moves rows that no count has spoken of."""
    cells = hidden(cite, "batch1")
    before = sca.models.TOTALVI(cells, batch_key="batch", protein_key=KEY, **TINY)
    after = sca.models.TOTALVI(cells, batch_key="batch", protein_key=KEY, **TINY)
    after.train(**QUICK, weight_decay=0, adversarial_classifier=False)
    for name in ("background_logits.linear.offsets.0", "log_efficiency"):
        rows = [model.module.proteins.get_submodule(name).rows().detach() for model in (before, after)]
        assert torch.equal(rows[0][1], rows[1][1]) and not torch.equal(rows[0][0], rows[1][0])


def test_a_protein_that_a_batch_lacks_is_told_as_of_the_batches_that_have_it(cite):
    model = trained(hidden(cite, "batch1"))
    cells = part(cite, "batch1")
    for of in (model.get_protein_foreground_probability, lambda *a, **k: model.get_normalized_expression(*a, **k)[1]):
        np.testing.assert_allclose(of(cells), of(cells, transform_batch="batch0"), rtol=1e-5)


def test_an_adversary_trains_where_a_reference_s_batches_lack_proteins_and_nowhere_else(cite, fitted):
    def trains(model, **options):
        model.train(**QUICK, **options)
        return "train_adversary" in model.history

    lacking = hidden(cite, "batch1")
    assert not trains(sca.models.TOTALVI(cite, batch_key="batch", **TINY))
    assert trains(sca.models.TOTALVI(lacking, batch_key="batch", **TINY))
    assert trains(sca.models.TOTALVI(cite, batch_key="batch", **TINY), adversarial_classifier=True)
    query = part(cite, "batch1")
    query.obs["batch"] = "new"
    query = sca.models.TOTALVI.load_query_data(rna_only(query), fitted)
    assert not trains(query)
    with pytest.raises(ValueError, match="the reference's cells are not among these"):
        query.train(**QUICK, adversarial_classifier=True)


def test_the_adversary_learns_the_batch_and_only_the_encoder_is_confused(cite):
    module = sca.models.TOTALVI(cite, batch_key="batch", **TINY).module
    classifier = module.adversary.classifier.eval()
    z, batch = torch.randn(9, 4, requires_grad=True), torch.arange(9) % 2
    confusion, adversary = (term.mean() for term in module.adversary(z, batch, None))
    log_p = torch.log_softmax(classifier(z), -1)
    assert confusion.item() == pytest.approx(-log_p[range(9), 1 - batch].mean().item(), rel=1e-5)
    assert adversary.item() == pytest.approx(-log_p[range(9), batch].mean().item(), rel=1e-5)
    weights = list(classifier.parameters())
    assert torch.autograd.grad(confusion, weights, allow_unused=True, retain_graph=True) == (None,) * len(weights)
    assert torch.autograd.grad(adversary, z, allow_unused=True) == (None,)


# ------------------------------------------------------------------------------------------------------------- surgery


def test_surgery_keeps_the_reference_to_the_bit_running_statistics_included(cite, reference):
    model = trained(reference)
    names = {name for name in model.module.state_dict() if "running" in name}
    assert len(names) == 2 * (2 + 4 + 2)  # encoder, four decoders, adversary
    query = sca.models.TOTALVI.load_query_data(part(cite, "batch1"), model)
    z = model.get_latent_representation()
    expression = [table.to_numpy() for table in model.get_normalized_expression()]
    query.train(**QUICK, weight_decay=1e-2)
    after = query.module.state_dict()
    for name, value in model.module.state_dict().items():
        assert torch.equal(after[name], value), name
    np.testing.assert_array_equal(query.get_latent_representation(reference), z)
    for ours, theirs in zip(query.get_normalized_expression(reference), expression):
        np.testing.assert_array_equal(ours, theirs)


def test_a_query_trains_its_efficiencies_priors_and_dispersions(cite, reference):  # trap T7
    model = trained(reference, protein_dispersion="protein-batch")
    query = sca.models.TOTALVI.load_query_data(part(cite, "batch1"), model)
    decoder = query.module.proteins
    tables = decoder.log_efficiency, decoder.prior_mean, decoder.log_inverse_dispersion.table
    before = [table.blocks[-1].detach().clone() for table in tables]
    assert torch.equal(before[2], tables[2].blocks[0])  # at first the reference's mean
    query.train(**QUICK)
    assert all(not torch.equal(table.blocks[-1], start) for table, start in zip(tables, before))


def test_a_query_of_rna_alone_is_imputed_as_of_the_reference_s_batches(cite, fitted):
    cells = rna_only(part(cite, "batch1"))
    cells.obs["batch"] = "new"
    query = sca.models.TOTALVI.load_query_data(cells, fitted)
    query.train(**QUICK)
    assert not query.module.proteins.measured.rows()[2].any()
    _, imputed = query.get_normalized_expression(include_protein_background=True)
    both = [
        query.get_normalized_expression(include_protein_background=True, transform_batch=batch)[1]
        for batch in ("batch0", "batch1")
    ]
    np.testing.assert_allclose(imputed, (both[0] + both[1]) / 2, rtol=1e-4)


def test_a_query_of_rna_alone_is_mapped_saved_and_its_proteins_imputed(cite, reference, tmp_path):
    model = trained(reference)
    query = sca.models.TOTALVI.load_query_data(rna_only(part(cite, "batch1")), model)
    query.train(**QUICK)
    genes, proteins = query.get_normalized_expression(include_protein_background=True)
    assert genes.shape == (query.adata.n_obs, 40) and list(proteins) == list(cite.obsm[KEY])
    assert np.isfinite(proteins.to_numpy()).all() and (proteins > 0).all(axis=None)
    query.save(tmp_path / "query")
    again = sca.models.TOTALVI.load(tmp_path / "query", query.adata)
    pd.testing.assert_frame_equal(again.get_normalized_expression(include_protein_background=True)[1], proteins)


# --------------------------------------------------------------------------------------------------------------- verbs


def test_the_pair_of_latents_is_by_rna_alone_and_by_proteins_alone(cite, fitted):
    rna, protein = fitted.get_latent_representation(modality=("rna", "protein"))
    np.testing.assert_array_equal(rna, fitted.get_latent_representation(rna_only(cite)))
    assert rna.shape == protein.shape == (300, 4) and not np.allclose(rna, protein)
    more = cite.copy()
    more.obsm[KEY] = cite.obsm[KEY] * 3
    np.testing.assert_array_equal(fitted.get_latent_representation(more, modality="rna"), rna)
    with pytest.raises(ValueError, match=r"modality='prot' is none of joint, rna, protein\. Did you mean 'protein'"):
        fitted.get_latent_representation(modality="prot")


def test_a_library_size_scales_once_for_several_batches(cite, fitted):
    """scvi-tools multiplies by it anew with each batch of transform_batch."""
    both = ["batch0", "batch1"]
    once, larger = (fitted.get_normalized_expression(transform_batch=both, library_size=size) for size in (1, 1e4))
    np.testing.assert_allclose(larger[0], 1e4 * once[0], rtol=1e-4)
    np.testing.assert_allclose(larger[0].sum(axis=1), 1e4, rtol=1e-4)
    np.testing.assert_array_equal(larger[1], once[1])


def test_expression_of_proteins_is_foreground_with_its_probability_and_background_with_the_rest(fitted):
    p = fitted.get_protein_foreground_probability()
    assert ((p >= 0) & (p <= 1)).all(axis=None)
    _, foreground = fitted.get_normalized_expression()
    _, whole = fitted.get_normalized_expression(include_protein_background=True)
    assert (whole >= foreground).all(axis=None)
    _, shares = fitted.get_normalized_expression(scale_protein=True)
    np.testing.assert_allclose(shares.sum(axis=1), 1, rtol=1e-5)
    _, some = fitted.get_normalized_expression(protein_list=["Control1", "Protein02"])
    pd.testing.assert_frame_equal(some, foreground[["Control1", "Protein02"]])
    with pytest.raises(DataError, match="not among the model's"):
        fitted.get_normalized_expression(protein_list=["CD99"])


def test_draws_have_a_seed_and_their_mean_is_the_mean_of_the_draws(fitted):
    options = {"n_samples": 3, "sample_protein_mixing": True, "seed": 4}
    genes, proteins = fitted.get_normalized_expression(return_mean=False, **options)
    assert genes.shape == (3, 300, 40) and proteins.shape == (3, 300, 12)
    means = fitted.get_normalized_expression(**options)
    for draws, mean in zip((genes, proteins), means):
        np.testing.assert_allclose(draws.mean(0), mean, rtol=1e-4, atol=1e-6)
    with pytest.raises(ValueError, match="sample_protein_mixing=True draws"):
        fitted.get_normalized_expression(sample_protein_mixing=True)


def test_features_correlate_over_genes_and_proteins(cite, fitted):
    for options in (
        {},
        {"correlation_type": "pearson", "log_transform": True, "transform_batch": ["batch0", "batch1"]},
    ):
        matrix = fitted.get_feature_correlation_matrix(n_samples=2, gene_list=["Gene0003", "Gene0001"], **options)
        assert list(matrix)[:3] == ["Gene0003", "Gene0001", "Protein01_protein"] and matrix.shape == (14, 14)
        np.testing.assert_allclose(matrix, matrix.T)
        np.testing.assert_allclose(np.diag(matrix), 1)
    with pytest.raises(ValueError, match="neither spearman nor pearson"):
        fitted.get_feature_correlation_matrix(correlation_type="kendall")


def test_genes_and_proteins_are_compared_together(cite, fitted):
    table = fitted.differential_expression(groupby="cell_type", n_samples=200, fdr_target=0.5)
    assert table.groupby("comparison").size().unique().tolist() == [52]
    proteins = table[table["modality"] == "protein"]
    assert set(proteins.index) == {f"{name}_protein" for name in cite.obsm[KEY]}
    one = table[table["group1"] == "Naive B"]
    is_b = (cite.obs["cell_type"] == "Naive B").to_numpy()
    counts = cite.obsm[KEY]["Protein01"]
    assert one.loc["Protein01_protein", "raw_mean1"] == pytest.approx(counts[is_b].mean())
    assert one.loc["Protein01_protein", "non_zeros_proportion2"] == pytest.approx((counts[~is_b] > 0).mean())
    found = one["is_de_fdr_0.5"]  # over both together
    assert (1 - one["proba_de"][found]).mean() <= 0.5 and not found.all() and found.any()
    again = fitted.differential_expression(idx1=is_b, mode="vanilla", n_samples=200, all_stats=False)
    assert again["bayes_factor"].is_monotonic_decreasing and len(again) == 52


def test_elbo_and_reconstruction_errors_count_both_modalities(fitted):
    errors = fitted.get_reconstruction_error()
    assert set(errors) == {"rna", "protein"} and -fitted.get_elbo() > sum(errors.values())


@pytest.mark.slow
def test_foreground_and_imputed_proteins_are_those_of_the_truth():
    cite = sca.datasets.cite_seq(seed=3)
    model = sca.models.TOTALVI(part(cite, "batch0"), batch_key="batch")
    model.train(progress=False)
    query = sca.models.TOTALVI.load_query_data(rna_only(part(cite, "batch1")), model)
    query.train(progress=False)
    _, imputed = query.get_normalized_expression(include_protein_background=True)
    counts = np.log1p(part(cite, "batch1").obsm[KEY])
    r = [np.corrcoef(np.log1p(imputed[name]), counts[name])[0, 1] for name in list(counts)[:-2]]
    assert np.mean(r) > 0.5
