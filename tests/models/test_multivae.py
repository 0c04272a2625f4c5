"""MultiVAE: its formulas, missing modalities, and each known defect of multigrate (spec, section 4)."""

import anndata as ad
import mudata
import numpy as np
import pandas as pd
import pytest
import torch
from scipy.stats import bernoulli, nbinom, poisson
from sklearn.neighbors import KNeighborsClassifier
from small import QUICK, fingerprint

import scarches_widgets as sca
from scarches_widgets.data.names import DataError
from scarches_widgets.models.multivae import MultiVAEPlan
from scarches_widgets.nn.divergences import kl_to_standard_normal
from scarches_widgets.nn.noise import Noise

TINY = {"n_hidden": 16, "n_latent": 4}
MOSAIC = {"batch1": ["rna", "protein"], "batch2": ["rna"]}


@pytest.fixture(scope="module")
def complete():
    """RNA, peaks and proteins of three batches. Tests do not change it."""
    return sca.datasets.multiome(180, 40, 50, 3, 4, n_proteins=6, seed=1)


@pytest.fixture(scope="module")
def mosaic():
    """RNA and ATAC (and proteins) in batch0, RNA and proteins in batch1, RNA alone in batch2, all in batch3."""
    return sca.datasets.multiome(240, 40, 50, 4, 4, n_proteins=6, seed=1, measured=MOSAIC)


@pytest.fixture(scope="module")
def reference(mosaic):
    return mosaic[mosaic.obs["batch"] != "batch3"].copy()


@pytest.fixture(scope="module")
def fitted(reference):
    """Fitted to the mosaic; tests do not change it."""
    return trained(reference)


def trained(cells, **options):
    model = sca.models.MultiVAE(cells, batch_key="batch", **TINY, **options)
    model.train(**QUICK)
    return model


def query(mosaic, *modalities):
    """Cells of a new batch with the features of these modalities alone."""
    cells = mosaic[mosaic.obs["batch"] == "batch3", mosaic.var["modality"].isin(modalities)].copy()
    del cells.obsm["modality_mask"]
    return cells


def minibatch(model, n=40, noise=None):
    (cells, *_) = model._cells(model.adata).in_order(n)
    return cells.with_noise(noise)


# ------------------------------------------------------------------------------------------------------------- formulas


def test_the_terms_of_the_loss_are_the_formulas_of_each_likelihood(complete):
    complete = complete.copy()
    is_protein = (complete.var["modality"] == "protein").to_numpy()
    X = complete.X.toarray()
    X[:, is_protein] = np.log1p(X[:, is_protein]) - 1.5
    complete.X = X
    likelihoods = {"rna": "nb", "atac": "poisson", "protein": "mse"}
    for chosen in (likelihoods, likelihoods | {"atac": "bce"}):
        model = trained(complete, likelihoods=chosen, integrate_on="batch", mmd="both")
        cells, module = minibatch(model), model.module
        with torch.no_grad():
            terms = module.loss(cells).terms
            z = module.encode(cells).mean
            rna, atac, protein = (module.part(i, cells)[0] for i in range(3))
            mean = (rna.library_size * module.decoders[0].expected(z, rna)).double()
            theta = module.decoders[0].log_inverse_dispersion(rna).exp().double()
            expected = module.decoders[1].expected(z, atac).double()
            values = module.decoders[2].expected(z, protein)
        of_rna = nbinom.logpmf(rna.counts.round(), theta, theta / (theta + mean)).sum(1).mean()
        np.testing.assert_allclose(float(terms["reconstruction_rna"]), -of_rna, rtol=1e-4)
        if chosen["atac"] == "poisson":
            of_atac = poisson.logpmf(atac.counts.round(), atac.library_size * expected)
        else:
            of_atac = bernoulli.logpmf(atac.counts > 0, expected)
        np.testing.assert_allclose(float(terms["reconstruction_atac"]), -of_atac.sum(1).mean(), rtol=1e-4)
        squared = (protein.counts - values).square().sum(1).mean()
        np.testing.assert_allclose(float(terms["reconstruction_protein"]), float(squared), rtol=1e-5)
        kl = kl_to_standard_normal(module.encode(cells)).sum(1).mean()
        np.testing.assert_allclose(float(terms["kl_latent"]), float(kl.detach()), rtol=1e-5)
        assert {"mmd_latent", "mmd_marginal"} < set(terms)
        weights = module.loss(cells, kl_weight=0.5).weights
        assert [weights[f"reconstruction_{name}"] for name in module.names] == [1, 0.3, 1]
        assert weights["kl_latent"] == 0.05


def test_likelihoods_follow_from_the_values_unless_they_are_given(complete, reference, caplog):
    with caplog.at_level("INFO"):
        model = sca.models.MultiVAE(complete, **TINY)
    assert model.config.likelihoods == ("nb", "poisson", "nb") and model.expects == "counts"
    assert "rna nb, atac poisson, protein nb" in caplog.text
    normalised = complete.copy()
    normalised.X = normalised.X.toarray()
    normalised.X[:, -1] -= 0.5
    assert sca.models.MultiVAE(normalised, **TINY).config.likelihoods == ("nb", "poisson", "mse")
    with pytest.raises(DataError, match=r"'protein' has values that are no counts \(.*'Control2'\).*'mse'"):
        sca.models.MultiVAE(normalised, **TINY, likelihoods=["mse", "nb", "nb"])
    with pytest.raises(ValueError, match=r"names 1, and there are 3 modalities \(rna, atac, protein\)"):
        sca.models.MultiVAE(complete, **TINY, likelihoods=["nb"])
    with pytest.raises(ValueError, match=r"likelihoods names a modality 'atca'.*'atac'"):
        sca.models.MultiVAE(complete, **TINY, likelihoods={"atca": "nb"})


def test_half_of_the_peaks_are_hidden_from_their_encoder_in_training_and_of_nothing_else(complete):
    seen, names = {}, ["rna", "atac", "protein"]

    def steps(**options):
        model = sca.models.MultiVAE(complete, batch_key="batch", **TINY, **options)
        for name, encoder in zip(names, model.module.encoders):
            encoder.register_forward_pre_hook(lambda module, given, name=name: seen.update({name: given[0]}))
        cells = minibatch(model, noise=Noise(0, "training", 0))
        values = {name: torch.log1p(cells.counts[:, slice(*of)]) for name, of in zip(names, model.module.bounds)}
        for is_training in (True, False):
            model.module.train(is_training)
            model.module.experts(cells)
            yield values, dict(seen)

    (values, drawn), (_, all_of_them) = steps()
    is_hidden = (drawn["atac"] == 0) & (values["atac"] > 0)
    assert 0.4 < is_hidden.sum() / (values["atac"] > 0).sum() < 0.6
    torch.testing.assert_close(drawn["atac"], torch.where(is_hidden, 0, 2 * values["atac"]))
    for name in names:
        assert name == "atac" or torch.equal(drawn[name], values[name])
        assert torch.equal(all_of_them[name], values[name])
    (values, drawn), _ = steps(feature_dropout={"rna": 0.25, "atac": 0})
    assert torch.equal(drawn["atac"], values["atac"])
    assert 0.15 < ((drawn["rna"] == 0) & (values["rna"] > 0)).sum() / (values["rna"] > 0).sum() < 0.35
    with pytest.raises(ValueError, match=r"feature_dropout=\(0.5,\) names 1, and there are 3 modalities"):
        sca.models.MultiVAE(complete, **TINY, feature_dropout=[0.5])


def test_multigrate_s_names_are_understood(complete):
    config = sca.models.MultiVAE(
        complete, losses=["nb", "mse", "mse"], z_dim=5, dropout=0.1, cond_dim=7, integrate_on="batch",
        batch_key="batch", mmd="marginal", loss_coefs={"kl": 0.1, "integ": 3800, 0: 2.0},
    ).config  # fmt: skip
    assert (config.n_latent, config.dropout_rate, config.condition_dim) == (5, 0.1, 7)
    assert config.likelihoods == ("nb", "mse", "mse") and config.modality_weights == (2, 1, 1)
    of_rna = sca.models.MultiVAE(complete, batch_key="batch", loss_coefs={0: 2.0}, **TINY)
    assert of_rna.config.modality_weights == (2, 0.3, 1)  # those that are not named stay as they were
    assert (config.kl_coef, config.mmd, config.mmd_weight) == (0.1, "marginal", 200)
    newer = sca.models.MultiVAE(complete, batch_key="batch", integrate_on="batch", modality_alignment="MMD", **TINY)
    assert newer.config.mmd == "latent"


def test_the_published_schedule_is_multigrate_s():
    plan = MultiVAEPlan(schedule="published").resolved(900, 100)
    assert (plan.max_epochs, plan.lr, plan.weight_decay, plan.kl_warmup_epochs) == (200, 5e-4, 1e-3, 66)
    assert plan.early_stopping and plan.early_stopping_kwargs.patience == 10 and plan.batch_size == 256
    assert plan.optimizer([]).eps == 1e-8
    auto = MultiVAEPlan().resolved(1764, 196)
    assert (auto.max_epochs, auto.lr, auto.weight_decay, auto.early_stopping) == (60, 1e-2, 1e-6, False)


def test_decoders_start_at_the_means_of_what_was_measured(reference):
    model = sca.models.MultiVAE(reference, batch_key="batch", likelihoods={"protein": "mse"}, **TINY)
    biases = [torch.softmax(decoder.output.bias, 0) for decoder in model.module.decoders]
    for i, name in enumerate(("rna", "atac")):
        totals = reference.X[:, (reference.var["modality"] == name).to_numpy()].sum(0) + 0.5
        np.testing.assert_allclose(biases[i].detach(), np.asarray(totals / totals.sum()).ravel(), rtol=1e-4)
    has_it = reference.obsm["modality_mask"]["protein"].to_numpy()
    mean = reference[has_it, reference.var["modality"] == "protein"].X.toarray().mean(0)
    np.testing.assert_allclose(model.module.decoders[2].output.bias.detach(), mean, rtol=1e-5)


# ----------------------------------------------------------------------------------------------------- what is missing


def test_a_missing_modality_gives_the_unimodal_posterior_to_the_bit(mosaic, reference, fitted):
    for mix in ("product", "mixture"):
        model = fitted if mix == "product" else trained(reference, mix="mixture")
        both = model.load_query_data(query(mosaic, "rna", "atac"), model)
        for one in ("rna", "atac"):
            alone = model.load_query_data(query(mosaic, one), model)
            for z, by_one in zip(
                alone.get_latent_representation(return_dist=True),
                both.get_latent_representation(modality=one, return_dist=True),
            ):
                np.testing.assert_array_equal(z, by_one)
        assert not np.array_equal(both.get_latent_representation(), by_one)


def test_what_a_cell_lacks_is_neither_encoded_nor_explained_whatever_stands_there(reference, fitted):
    changed = reference.copy()
    mask = changed.obsm["modality_mask"]["atac"].to_numpy()
    is_peak = (changed.var["modality"] == "atac").to_numpy()
    X = changed.X.toarray()
    X[np.ix_(~mask, is_peak)] = 7
    changed.X = X
    with pytest.warns(UserWarning, match="with values of 'atac', which by obsm"):
        again = trained(changed)
    assert fingerprint(again) == fingerprint(fitted)
    np.testing.assert_array_equal(again.get_latent_representation(), fitted.get_latent_representation())


def test_values_whose_sum_is_zero_or_less_are_measured(complete):  # multigrate takes them as missing in its encoder
    cells = complete.copy()
    is_protein = (cells.var["modality"] == "protein").to_numpy()
    X = cells.X.toarray()
    X[:, is_protein] = -np.abs(np.log1p(X[:, is_protein])) - 0.1
    cells.X = X
    model = trained(cells)
    z, by_rna = model.get_latent_representation(modality=("joint", "rna"))
    assert (z != by_rna).any(1).all()
    assert np.isfinite(model.get_latent_representation(modality="protein")).all()


def test_a_mosaic_of_three_modalities_is_saved_mapped_and_trained_and_the_reference_stays_to_the_bit(
    mosaic, reference, fitted, tmp_path
):
    weights, z = fingerprint(fitted), fitted.get_latent_representation()
    fitted.save(tmp_path / "reference")
    for modalities in (("rna",), ("atac",), ("protein", "rna")):
        cells = query(mosaic, *modalities)
        mapped = sca.models.MultiVAE.load_query_data(cells, tmp_path / "reference")
        before = mapped.get_latent_representation()
        mapped.train(**QUICK, weight_decay=0.1)
        assert not np.array_equal(mapped.get_latent_representation(), before)
        np.testing.assert_array_equal(mapped.get_latent_representation(reference), z)
    mapped.save(tmp_path / "query")
    loaded = sca.models.MultiVAE.load(tmp_path / "query", cells)
    assert fingerprint(loaded) == fingerprint(mapped)
    np.testing.assert_array_equal(loaded.get_latent_representation(), mapped.get_latent_representation())
    assert fingerprint(fitted) == weights


@pytest.mark.parametrize(
    "keys", [(), ("donor",), ("age",), ("donor", "age")], ids=lambda keys: "+".join(keys) or "none"
)
def test_surgery_works_with_and_without_each_kind_of_covariate(mosaic, keys):  # multigrate: KeyError 'columns'
    cells = mosaic.copy()
    cells.obs["donor"] = np.where(cells.obs["batch"] == "batch3", "new", np.where(np.arange(240) % 2, "old", "older"))
    cells.obs["age"] = np.linspace(0, 1, cells.n_obs)
    options = {"categorical_covariate_keys": ["donor"] if "donor" in keys else []}
    options["continuous_covariate_keys"] = ["age"] if "age" in keys else []
    reference = cells[cells.obs["batch"] != "batch3"].copy()
    model = trained(reference, **options)
    z = model.get_latent_representation()
    mapped = sca.models.MultiVAE.load_query_data(query(cells, "rna"), model)
    mapped.train(**QUICK)
    np.testing.assert_array_equal(mapped.get_latent_representation(reference), z)


def test_cells_without_a_modality_are_refused_where_it_is_asked_for(fitted, reference):
    with pytest.raises(DataError, match=r"cells were looked at, and lack 'atac'"):
        fitted.get_latent_representation(modality="atac")
    with pytest.raises(ValueError, match=r"modality='atca' is none of joint, rna, atac, protein\. Did you mean 'atac'"):
        fitted.get_latent_representation(modality="atca")
    z = fitted.get_latent_representation(reference[reference.obs["batch"] == "batch0"], modality=("rna", "atac"))
    assert len(z) == 2 and not np.array_equal(*z)


def test_a_mudata_is_trained_on_and_mapped_like_the_same_cells_side_by_side(complete):
    parts = {}
    for name in ("rna", "atac", "protein"):
        part = complete[:, complete.var["modality"] == name].copy()
        parts[name] = ad.AnnData(part.X, part.obs, part.var[[]])
    parts["protein"] = parts["protein"][complete.obs["batch"] != "batch1"].copy()
    mdata = mudata.MuData(parts)
    aligned = complete[mdata.obs_names].copy()
    aligned.obsm["modality_mask"]["protein"] = (aligned.obs["batch"] != "batch1").to_numpy()
    X = aligned.X.toarray()
    X[np.ix_(aligned.obs["batch"] == "batch1", aligned.var["modality"] == "protein")] = 0
    aligned.X = X
    model, same = trained(mdata), trained(aligned)
    assert fingerprint(model) == fingerprint(same)
    z = model.get_latent_representation()
    np.testing.assert_array_equal(same.get_latent_representation(mdata), z)
    np.testing.assert_array_equal(sca.models.MultiVAE.load_query_data(mdata, same).get_latent_representation(), z)


def test_features_stand_in_any_order(reference, fitted):
    z = fitted.get_latent_representation()
    order = np.random.default_rng(0).permutation(reference.n_vars)
    np.testing.assert_array_equal(fitted.get_latent_representation(reference[:, order].copy()), z)
    model = trained(reference[:, order].copy())
    np.testing.assert_array_equal(model.get_latent_representation(reference), model.get_latent_representation())


# ------------------------------------------------------------------------------------------------------------ bad input


def test_what_nothing_ties_to_the_rest_is_refused_unless_groups_are_drawn_together(complete):
    apart = complete[:, complete.var["modality"] != "protein"].copy()
    is_rna = (apart.obs["batch"] == "batch0").to_numpy()
    apart.obsm["modality_mask"] = pd.DataFrame({"rna": is_rna, "atac": ~is_rna}, index=apart.obs_names)
    with pytest.warns(UserWarning), pytest.raises(DataError, match="No cell has 'atac' and another modality"):
        sca.models.MultiVAE(apart, batch_key="batch", **TINY)
    with pytest.warns(UserWarning):
        model = trained(apart, integrate_on="batch")
    assert model.config.mmd == "latent" and (model.history["train_mmd_latent"] > 0).all()  # not off without a word


def test_what_is_to_be_drawn_together_must_be_named(complete):
    with pytest.raises(ValueError, match=r"mmd='latent' draws groups together, and integrate_on does not say which"):
        sca.models.MultiVAE(complete, batch_key="batch", mmd="latent", **TINY)
    with pytest.raises(ValueError, match=r"integrate_on='btch' is neither.*\(batch\)\. Did you mean 'batch'"):
        sca.models.MultiVAE(complete, batch_key="batch", integrate_on="btch", **TINY)


def test_bad_cells_are_refused_before_anything_is_trained(complete, fitted, mosaic):
    plain = complete.copy()
    del plain.var["modality"]
    with pytest.raises(DataError, match=r"var has no column 'modality'.*organize_multimodal_anndatas"):
        sca.models.MultiVAE(plain, batch_key="batch")
    empty = complete.copy()
    empty.obsm["modality_mask"]["atac"] = False
    with pytest.raises(DataError, match="says of none that it was measured"):
        sca.models.MultiVAE(empty, batch_key="batch")
    few = query(mosaic, "rna", "atac")
    few = few[:, (few.var["modality"] == "rna") | (np.arange(few.n_vars) % 5 == 0)].copy()
    with pytest.raises(DataError, match=r"40 of the reference's 50 features of 'atac' are missing"):
        sca.models.MultiVAE.load_query_data(few, fitted)
    other = query(mosaic, "atac")
    other.var_names = other.var_names.str.replace("-", ":", n=1)
    with pytest.raises(DataError, match="None of the reference's"):
        sca.models.MultiVAE.load_query_data(other, fitted)


# --------------------------------------------------------------------------------------------- expression, imputation


def test_what_a_batch_lacks_is_imputed_as_of_the_batches_that_have_it(fitted, reference):
    peaks = fitted.impute(modality="atac")
    lacks = ~reference.obsm["modality_mask"]["atac"].to_numpy()
    assert peaks.index.equals(reference.obs_names[lacks]) and peaks.shape[1] == 50
    np.testing.assert_allclose(peaks.sum(1), 1, rtol=1e-5)
    of_batch0 = fitted.get_normalized_expression(modality="atac", transform_batch="batch0")
    np.testing.assert_allclose(peaks, of_batch0[lacks], rtol=1e-5)
    own = fitted.get_normalized_expression(modality="atac", feature_list=list(peaks)[:3], library_size=100)
    np.testing.assert_allclose(own, 100 * of_batch0.iloc[:, :3], rtol=1e-5)
    drawn = [fitted.get_normalized_expression(n_samples=3, seed=seed) for seed in (0, 0, 1)]
    assert drawn[0].equals(drawn[1]) and not drawn[0].equals(drawn[2]) and drawn[0].shape == (reference.n_obs, 40)
    with pytest.raises(ValueError, match=r"2 modalities are missing in some cells \(atac, protein\).*modality='atac'"):
        fitted.impute()
    with pytest.raises(ValueError, match="Every cell has 'rna'"):
        fitted.impute(modality="rna")
    with pytest.raises(DataError, match="1 of 1 features are not among those of 'rna'"):
        fitted.get_normalized_expression(feature_list="chr1-1000-1500")
    with pytest.raises(DataError, match=r"no batch of the model \(batch9\)"):
        fitted.get_normalized_expression(transform_batch="batch9")


@pytest.mark.slow
def test_chromatin_alone_finds_the_types_of_a_reference_and_the_rna_of_the_truth():
    cells = sca.datasets.multiome(1500, 200, 600, 3, 6, measured={"batch1": ["rna"]})
    reference = cells[cells.obs["batch"] != "batch2"].copy()
    held_out = cells[cells.obs["batch"] == "batch2"].copy()
    model = sca.models.MultiVAE(reference, batch_key="batch")
    model.train(max_epochs=60, progress=False)
    neighbours = KNeighborsClassifier(15).fit(model.get_latent_representation(), reference.obs["cell_type"])
    for modality in ("rna", "atac"):
        alone = held_out[:, held_out.var["modality"] == modality].copy()
        del alone.obsm["modality_mask"]
        mapped = sca.models.MultiVAE.load_query_data(alone, model)
        mapped.train(progress=False)
        assert neighbours.score(mapped.get_latent_representation(), held_out.obs["cell_type"]) > 0.7
    genes = mapped.impute(modality="rna")
    counts = held_out[:, list(genes)].X.toarray()
    shares = counts / counts.sum(1, keepdims=True)
    types = held_out.obs["cell_type"].to_numpy()
    logged = [np.log(pd.DataFrame(table).groupby(types).mean() + 1e-4) for table in (genes.to_numpy(), shares)]
    assert np.corrcoef(*(table.to_numpy().ravel() for table in logged))[0, 1] > 0.75
