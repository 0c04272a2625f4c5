"""expiMap against independent truths: what scArches computes, formulas in float64, and programs that were simulated."""

import warnings

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.special as sp
import torch
from small import QUICK, fingerprint
from upstream_scarches import expimap_module

import scarches_widgets as sca
from scarches_widgets.data.minibatches import Cells
from scarches_widgets.data.names import DataError
from scarches_widgets.nn.noise import Noise
from scarches_widgets.nn.programs import ProgramLayer
from scarches_widgets.training.options import planned

SETS = {f"set {i}": [f"Gene{gene:04d}" for gene in range(10 * i + 1, 10 * i + 15)] for i in range(4)}
SMALL = {"hidden_layer_sizes": (16, 12), "gene_sets": SETS, "min_genes": 5, "batch_key": "batch"}


@pytest.mark.realdata
def test_a_model_of_scarches_gives_the_same_latents_here(real_data):
    folder = real_data / "checkpoints" / "expimap_0.6.1_kang"
    module, schema = expimap_module(folder)
    expected = np.load(folder / "expected.npz", allow_pickle=False)
    kang = ad.read_h5ad(real_data / "pbmc_kang_donors.h5ad")[expected["obs_names"].astype(str)].copy()
    kang.var_names = kang.var_names.str.upper()
    columns, report = schema.align(kang)
    assert report.n_shared == 318
    with torch.no_grad():
        (cells,) = Cells(kang, schema, columns).in_order(1000)
        latents = module.encode(cells).mean.numpy()
    np.testing.assert_allclose(latents, expected["X_expimap"], atol=1e-4)


@pytest.mark.parametrize("options", [{}, {"soft_mask": True}, {"gene_likelihood": "mse"}], ids=str)
def test_the_loss_of_a_fixed_minibatch_equals_the_formulas_in_float64(atlas, options):
    adata = atlas.copy()
    if "gene_likelihood" in options:
        adata.X = adata.X.log1p()
    model = sca.models.EXPIMAP(adata, **SMALL, **options)
    (cells,) = model._cells(adata).in_order(1000)
    module = model.module.eval()
    if "soft_mask" in options:
        torch.nn.init.normal_(module.programs.weight, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        loss = module.loss(cells.with_noise(Noise(5, "training", 0, 0)), kl_weight=0.3)
    noise = Noise(5, "training", 0, 0).normal_like(torch.empty(atlas.n_obs, 4)).double().numpy()
    reconstruction, kl = loss_in_numpy(module, cells, noise, **options)
    assert float(loss.terms["reconstruction"]) == pytest.approx(reconstruction, rel=1e-5)
    assert float(loss.terms["kl_latent"]) == pytest.approx(kl, rel=1e-5)
    assert float(loss.total) == pytest.approx(reconstruction + 0.3 * kl, rel=1e-5)


def loss_in_numpy(module, cells, noise, soft_mask=False, gene_likelihood="nb"):
    """expiMap's two terms, written down from Lotfollahi et al. 2023 with numpy and scipy only."""
    weights = {name: value.double().numpy() for name, value in module.state_dict().items()}
    x, batch = cells.counts.double().numpy(), cells.batch.numpy()
    values = x if gene_likelihood == "mse" else np.log1p(x)
    for i in range(2):
        at = f"encoder.hidden.linears.{i}"
        values = values @ weights[f"{at}.weight"].T + weights[f"{at}.bias"]
        if i == 0:
            values = values + weights[f"{at}.offsets.0.blocks.0"][batch]
        values = (values - values.mean(1, keepdims=True)) / np.sqrt(values.var(1, keepdims=True) + 1e-5)
        values = np.maximum(values, 0)
    mean = values @ weights["encoder.mean.weight"].T + weights["encoder.mean.bias"]
    variance = np.exp(values @ weights["encoder.log_variance.weight"].T + weights["encoder.log_variance.bias"]) + 1e-4
    z = mean + np.sqrt(variance) * noise
    mask = 1 if soft_mask else np.array([[f"Gene{g:04d}" in genes for genes in SETS.values()] for g in range(1, 41)])
    logits = z @ (weights["decoder.hidden.weight"] * mask).T + weights["decoder.hidden.offsets.0.blocks.0"][batch]
    if gene_likelihood == "mse":
        reconstruction = ((x - np.maximum(logits, 0)) ** 2).sum(1).mean()
    else:
        mu = sp.softmax(logits, 1) * x.sum(1, keepdims=True)
        theta = np.exp(weights["decoder.log_inverse_dispersion.table.blocks.0"])[batch]
        log_p = sp.gammaln(x + theta) - sp.gammaln(theta) - sp.gammaln(x + 1)
        log_p += theta * np.log(theta / (theta + mu)) + x * np.log(mu / (theta + mu))
        reconstruction = -log_p.sum(1).mean()
    return reconstruction, (0.5 * (variance + mean**2 - 1 - np.log(variance))).sum(1).mean()


# ------------------------------------------------------------------------------------------------------ proximal steps


def test_a_step_of_the_group_lasso_is_the_minimum_that_it_stands_for():
    """prox(w) minimises ½ ‖v − w‖² + rate · lasso · ‖v‖: compared with a search, and zero where it must be."""
    from scipy.optimize import minimize

    layer = ProgramLayer(3, 4, {}, soft=False)
    weight = torch.tensor([[3.0, 0.1, 0.0], [0.0, 0.2, 0.0], [-4.0, 0.0, 0.0], [0.0, -0.1, 0.0]])
    with torch.no_grad():
        layer.weight.copy_(weight)
    layer.after_step(0.5, [2.0, 2.0, 2.0], 0.0)
    found = layer.weight.detach().numpy()
    for column, w in enumerate(weight.double().numpy().T):
        best = minimize(lambda v, w=w: 0.5 * ((v - w) ** 2).sum() + np.sqrt((v**2).sum() + 1e-16), w, tol=1e-10)
        np.testing.assert_allclose(found[:, column], best.x, atol=1e-3)
    assert (found[:, 1:] == 0).all() and np.isfinite(found).all()


def test_a_step_of_the_l1_penalty_shrinks_what_is_outside_a_soft_mask_and_nothing_else():
    layer = ProgramLayer(2, 3, {}, soft=True)
    layer.annotate(torch.tensor([[1.0, 0], [0, 1], [1, 0]]))
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[1.0, 0.3], [-0.05, 2.0], [0.2, -0.4]]))
    layer.after_step(0.1, 0.0, 1.0)
    torch.testing.assert_close(layer.weight.detach(), torch.tensor([[1.0, 0.2], [0.0, 2.0], [0.2, -0.3]]))


def test_a_soft_mask_lets_genes_join_and_its_price_keeps_them_out(reference_cells):
    """The price rises over epochs; upstream crashes at the first of them."""
    outside = {}
    for l1 in (0.0, 100.0):
        model = sca.models.EXPIMAP(reference_cells, **SMALL, soft_mask=True)
        model.train(**QUICK, alpha_l1=l1, alpha_l1_epoch_anneal=2)
        weight, mask = model.module.programs.weight.detach(), model.module.programs.mask
        outside[l1] = int((weight[mask == 0] != 0).sum())
        assert model.term_genes("set 0")["in_mask"].all() == (l1 > 0)
    assert outside[0.0] > 0.9 * int((mask == 0).sum()) and outside[100.0] == 0


def test_a_hard_mask_stays_hard_and_a_strong_lasso_switches_programs_off(reference_cells):
    model = sca.models.EXPIMAP(reference_cells, **SMALL)
    model.train(**QUICK, weight_decay=0.04)
    programs = model.module.programs
    assert not programs.weight[programs.mask == 0].any() and model.nonzero_terms().all()
    model.train(**QUICK, alpha=1000, omega=[0, 1, 1, 1])
    assert model.nonzero_terms().tolist() == [True, False, False, False]
    assert model.term_genes("set 1").empty
    assert model.get_gene_program_scores()["set 1"].eq(0).all()
    with pytest.raises(ValueError, match="has 2 weights for 4 programs"):
        model.train(**QUICK, alpha=1, omega=[1, 1])


def test_the_published_schedule_is_that_of_scarches_trainer():
    plan = planned(sca.models.EXPIMAP.plan_class, {"schedule": "published"}).resolved(1000)
    assert (plan.max_epochs, plan.weight_decay, plan.kl_weight, plan.kl_warmup_epochs) == (400, 0.04, 0.35, 130)
    short = planned(sca.models.EXPIMAP.plan_class, {"schedule": "published", "n_epochs": 50}).resolved(1000)
    assert short.kl_warmup_epochs == 50
    annealed = planned(sca.models.EXPIMAP.plan_class, {"alpha_l1": 0.8, "alpha_l1_epoch_anneal": 8})
    assert [annealed.step_weights(epoch)["l1"] for epoch in (0, 4, 8, 20)] == pytest.approx([0.1, 0.4, 0.8, 0.8])


# ------------------------------------------------------------------------------------------------------------- programs


@pytest.fixture(scope="module")
def fitted():
    """An atlas of three batches whose programs are known, and a model of them and of one set drawn at random."""
    cells = sca.datasets.atlas(n_obs=900, n_vars=200, n_types=4, n_programs=3, seed=3)
    sets = dict(cells.uns["truth"]["programs"])
    sets["at random"] = sorted(np.random.default_rng(0).choice(cells.var_names, 15, replace=False))
    sets |= {f"markers of {name}": genes for name, genes in cells.uns["truth"]["markers"].items()}
    model = sca.models.EXPIMAP(cells, gene_sets=sets, min_genes=3, hidden_layer_sizes=[64], batch_key="batch")
    model.train(max_epochs=40, alpha=0.1, progress=False)
    return model


def test_scores_follow_the_simulated_activities_upwards(fitted):
    truth = fitted.adata.uns["truth"]
    scores = fitted.get_gene_program_scores()
    for name in truth["programs"]:
        activity = fitted.adata.obsm["X_truth"][:, list(truth["coordinates"]).index(name)]
        assert np.corrcoef(scores[name], activity)[0, 1] > 0.5, name


def test_bayes_factors_find_the_markers_of_a_type_and_change_sign_with_the_groups(fitted):
    table = fitted.latent_enrich("cell_type")
    for cell_type in fitted.adata.obs["cell_type"].cat.categories:
        of_type = table[table["group"] == cell_type].set_index("term")
        own = of_type.loc[f"markers of {cell_type}"]
        assert own["prob_up"] > 0.5 and own["mean_shift"] > 0
        assert of_type["bayes_factor"].abs().is_monotonic_decreasing
        np.testing.assert_allclose(of_type["bayes_factor"], sp.logit(of_type["prob_up"]), atol=1e-6)
    first, second = list(fitted.adata.obs["cell_type"].cat.categories[:2])
    masks = {name: (fitted.adata.obs["cell_type"] == name).to_numpy() for name in (first, second)}
    there = fitted.latent_enrich(masks, comparison=second).set_index("term")["bayes_factor"]
    back = fitted.latent_enrich(masks, comparison=first).set_index("term")["bayes_factor"]
    np.testing.assert_allclose(there, -back[there.index], atol=0.15)
    pd.testing.assert_frame_equal(table, fitted.latent_enrich("cell_type"))


def test_a_group_named_like_a_part_of_rest_is_compared_too(fitted):  # upstream leaves out groups called "r", "es", …
    half = np.arange(900) < 450
    names = {"r": half, "rest of it": ~half}
    assert fitted.latent_enrich(names)["group"].unique().tolist() == ["r", "rest of it"]


def test_a_contrast_that_is_the_batch_itself_is_announced_as_unreadable(fitted):
    with pytest.warns(UserWarning, match=r"no batch of 'batch' in common, so this contrast cannot be read"):
        fitted.latent_enrich("batch", comparison="batch0")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fitted.latent_enrich("cell_type")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"groups": "cell_typ"}, "no column 'cell_typ'.*Did you mean 'cell_type'"),
        ({"groups": "cell_type", "comparison": "Naive b"}, "Did you mean 'Naive B'"),
        ({"groups": {"none": []}}, "'none' has no cells"),
        ({"groups": {"all": np.ones(900, bool)}}, "'all' has all cells"),
        ({"groups": {"named": ["Cell00001", "Cell"]}}, r"cells that are not there \(Cell\)"),
        ({"groups": {"short": np.ones(3, bool)}}, "3 entries for 900 cells"),
    ],
)
def test_groups_that_cannot_be_compared_are_refused(fitted, arguments, says):
    with pytest.raises(DataError, match=says):
        fitted.latent_enrich(**arguments)


def test_a_program_tells_its_genes_and_directions_say_which_way_it_points(fitted):
    genes = fitted.mask_genes()["Hypoxia"]
    assert genes == sorted(fitted.adata.uns["truth"]["programs"]["Hypoxia"])
    table = fitted.term_genes("Hypoxia")
    assert set(table["genes"]) <= set(genes) and table["in_mask"].all()
    assert table["weights"].abs().is_monotonic_decreasing
    for method in ("sum", "counts"):
        found = fitted.latent_directions(method)
        assert found.loc["Hypoxia", "direction"] == np.sign(table["weights"].sum())
        assert found["confidence"].between(0, 1).all()
    with pytest.raises(ValueError, match="neither 'sum' nor 'counts'"):
        fitted.latent_directions("mean")
    with pytest.raises(DataError, match="Did you mean 'Hypoxia'"):
        fitted.term_genes("hypoxia")


def test_programs_can_be_renamed_and_the_names_are_saved(reference_cells, tmp_path):
    model = sca.models.EXPIMAP(reference_cells, **SMALL)
    model.train(**QUICK)
    model.update_terms({"set 1": "interferon"})
    model.save(tmp_path / "model")
    loaded = sca.models.EXPIMAP.load(tmp_path / "model", reference_cells)
    assert loaded.terms == ("set 0", "interferon", "set 2", "set 3")
    assert list(loaded.get_gene_program_scores()) == list(loaded.terms)
    with pytest.raises(DataError, match="Two programs would be called 'set 0'"):
        model.update_terms({"interferon": "set 0"})


def test_a_model_that_was_not_trained_is_trained_for_its_scores_and_says_so(reference_cells, query_cells):
    model = sca.models.EXPIMAP(reference_cells, **SMALL)
    with pytest.warns(UserWarning, match="trained now, with the defaults"):
        scores = model.get_gene_program_scores()
    assert model.is_trained and scores.shape == (reference_cells.n_obs, 4)
    with pytest.raises(DataError, match="load_query_data"):
        model.get_gene_program_scores(query_cells)


def test_a_query_learns_its_batch_and_the_loadings_stay(reference_cells, query_cells):  # trap T5; and no proximal step
    reference = sca.models.EXPIMAP(reference_cells, **SMALL)
    reference.train(**QUICK)
    query = sca.models.EXPIMAP.load_query_data(query_cells, reference)
    query.train(**QUICK, weight_decay=0.04, alpha=1000)
    before, after = fingerprint(reference), fingerprint(query)
    assert all(after[name] == bits for name, bits in before.items())
    assert query.terms == reference.terms and query.get_gene_program_scores().shape == (query_cells.n_obs, 4)


def test_loadings_of_a_query_are_trained_if_they_are_not_to_be_frozen(reference_cells, query_cells, tmp_path):
    reference = sca.models.EXPIMAP(reference_cells, **SMALL)
    reference.train(**QUICK)
    before = fingerprint(reference)
    sca.models.EXPIMAP.load_query_data(query_cells, reference, freeze_expression=False).save(tmp_path / "query")
    query = sca.models.EXPIMAP.load(tmp_path / "query", query_cells)
    query.train(**QUICK, alpha=1000)
    after = fingerprint(query)
    moved = {name for name, bits in before.items() if after[name] != bits}
    assert {"decoder.hidden.weight", "encoder.hidden.linears.0.weight"} <= moved
    assert not any("mean" in name or ".linears.1." in name or "mask" in name for name in moved)
    assert not query.nonzero_terms().any() and reference.nonzero_terms().all()
    assert fingerprint(reference) == before


# ---------------------------------------------------------------------------------------------------- where they stand


def test_programs_are_taken_from_the_annotations_or_the_gene_sets(reference_cells):
    given = sca.models.EXPIMAP(reference_cells, **SMALL)
    sca.utils.add_annotations(reference_cells, SETS, min_genes=5)
    options = {name: value for name, value in SMALL.items() if name not in ("gene_sets", "min_genes")}
    assert fingerprint(sca.models.EXPIMAP(reference_cells, **options)) == fingerprint(given)


def test_without_programs_that_fit_the_message_says_what_to_do(reference_cells):
    options = {"batch_key": "batch"}
    with pytest.raises(DataError, match=r"varm has no 'I'.*add_annotations.*gene_sets="):
        sca.models.EXPIMAP(reference_cells, **options)
    reference_cells.varm["I"] = np.ones((40, 2))
    for terms, says in ((["a"], r"\(40, 2\).*names 1 programs"), (["a", "a"], r"several programs alike \(a\)")):
        reference_cells.uns["terms"] = terms
        with pytest.raises(DataError, match=says):
            sca.models.EXPIMAP(reference_cells, **options)
    reference_cells.uns["terms"], reference_cells.varm["I"] = ["a", "b"], np.full((40, 2), 0.5)
    with pytest.raises(DataError, match="must hold 0 and 1"):
        sca.models.EXPIMAP(reference_cells, **options)
    reference_cells.obs["age"] = 1.0 + np.arange(reference_cells.n_obs)
    with pytest.raises(DataError, match=r"not continuous covariates \(age\)"):
        sca.models.EXPIMAP(reference_cells, **SMALL, continuous_covariate_keys=["age"])
