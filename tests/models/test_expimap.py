"""expiMap against independent truths: what scArches computes, formulas in float64, and programs that were simulated."""

import warnings

import numpy as np
import pandas as pd
import pytest
import scipy.special as sp
import torch
from small import QUICK, fingerprint

import scarches_widgets as sca
from scarches_widgets.data.container import DamagedFile
from scarches_widgets.data.names import DataError
from scarches_widgets.nn.divergences import dependence
from scarches_widgets.nn.noise import Noise
from scarches_widgets.nn.programs import ProgramLayer
from scarches_widgets.training.options import planned

SETS = {f"set {i}": [f"Gene{gene:04d}" for gene in range(10 * i + 1, 10 * i + 15)] for i in range(4)}
SMALL = {"hidden_layer_sizes": (16, 12), "gene_sets": SETS, "min_genes": 5, "batch_key": "batch"}


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
    with pytest.warns(UserWarning, match=r"batches of 'batch' tell 'batch1' from.*so this contrast cannot be read"):
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


# ------------------------------------------------------------------------------------------------ programs that are new


NEW = {"new": SETS["set 2"][4:], "another": SETS["set 0"][:9]}


@pytest.fixture(scope="module")
def reference(atlas):
    """Fitted to two batches; tests do not change it."""
    model = sca.models.EXPIMAP(atlas[atlas.obs["batch"] != "batch2"].copy(), **SMALL)
    model.train(**QUICK)
    return model


def with_new(query_cells, reference, **options):
    return sca.models.EXPIMAP.load_query_data(query_cells, reference, new_gene_sets=NEW, n_new_terms=2, **options)


def test_a_query_learns_programs_of_its_own_and_the_reference_stays_to_the_bit(reference, query_cells):
    before = fingerprint(reference)
    of_reference = reference.get_latent_representation()
    query = with_new(query_cells, reference, use_hsic=True)
    assert query.terms == (*reference.terms, "new", "another", "unconstrained_0", "unconstrained_1")
    assert not query.nonzero_terms()[4:].any()
    query.train(**QUICK, weight_decay=0.04, alpha=1000, gamma_ext=0.01)
    assert fingerprint(reference) == before
    after = fingerprint(query)
    assert all(after[name] == bits for name, bits in before.items())
    both = query.get_latent_representation(reference.adata)
    assert both.shape == (reference.adata.n_obs, 8)
    np.testing.assert_array_equal(both[:, :4], of_reference)
    assert query.nonzero_terms().all() and "train_hsic" in query.history
    assert set(query.term_genes("new")["genes"]) == set(NEW["new"])
    assert query.mask_genes()["unconstrained_0"] == list(query.schema.genes)
    scores = query.get_gene_program_scores()
    assert list(scores) == list(query.terms) and np.isfinite(scores.to_numpy()).all()
    assert len(query.latent_enrich("cell_type")) == 8 * 4


def test_without_new_programs_a_surgery_is_what_it_was(reference, query_cells):
    plain = sca.models.EXPIMAP.load_query_data(query_cells, reference)
    assert set(fingerprint(with_new(query_cells, reference))) - set(fingerprint(plain)) == {
        "decoder.hidden.added.0.weight",
        "decoder.hidden.added.0.mask",
        *(f"encoder.{head}.added.0.{part}" for head in ("mean", "log_variance") for part in ("weight", "bias")),
    }


def test_new_programs_are_saved_named_and_kept_by_the_next_surgery(reference, query_cells, tmp_path):
    query = with_new(query_cells, reference, use_hsic=True, hsic_one_vs_all=True, soft_new_mask=True)
    query.train(**QUICK)
    query.update_terms({"unconstrained_0": "stress"})
    query.save(tmp_path / "query")
    loaded = sca.models.EXPIMAP.load(tmp_path / "query", query_cells)
    assert fingerprint(loaded) == fingerprint(query) and loaded.terms == query.terms and loaded.terms[6] == "stress"
    assert loaded.module.hsic == "one by one" and loaded.module.programs.soft_added
    query.train(**QUICK, seed=3)
    loaded.train(**QUICK, seed=3)
    assert fingerprint(loaded) == fingerprint(query)
    third = query_cells.copy()
    third.obs["batch"] = "batch3"
    last = sca.models.EXPIMAP.load_query_data(third, loaded, n_new_terms=1)
    last.train(**QUICK)
    assert last.terms == (*loaded.terms, "unconstrained_0")
    np.testing.assert_array_equal(
        last.get_latent_representation(query_cells)[:, :8], loaded.get_latent_representation(query_cells)
    )
    last.save(tmp_path / "last")
    assert fingerprint(sca.models.EXPIMAP.load(tmp_path / "last")) == fingerprint(last)


def test_a_file_whose_surgeries_and_names_of_programs_disagree_is_refused(
    reference, query_cells, tmp_path, monkeypatch
):
    query = with_new(query_cells, reference)
    query._surgeries[-1]["program"] = 3
    query.save(tmp_path / "query")
    with pytest.raises(DamagedFile, match="disagree on how many times 'program' was added"):
        sca.models.EXPIMAP.load(tmp_path / "query")


def test_a_query_with_new_programs_resumes_to_the_same_bits(reference, query_cells, tmp_path):
    options = {**QUICK, "batch_size": 16, "max_epochs": 4, "beta": 2.0}
    whole = with_new(query_cells, reference, use_hsic=True)
    whole.train(**options)
    kept = {**options, "checkpoint_dir": tmp_path}
    first = with_new(query_cells, reference, use_hsic=True)
    run = first.train(**{**kept, "max_epochs": 4, "background": True})
    run.stop()
    run.wait(60)
    second = with_new(query_cells, reference, use_hsic=True)
    assert second.train(**kept, resume=True).status == "done"
    assert fingerprint(second) == fingerprint(whole)


@pytest.mark.parametrize("one_by_one", [False, True])
def test_hsic_is_of_the_new_free_programs_with_all_others(reference, query_cells, one_by_one):
    query = with_new(query_cells, reference, use_hsic=True, hsic_one_vs_all=one_by_one)
    (cells,) = query._cells(query_cells).in_order(1000)
    with torch.no_grad():
        z = query.module.encode(cells).mean
        found = query.module.loss(cells, hsic_weight=2.0)
    pairs = [([*range(7)], [7]), ([*range(6), 7], [6])] if one_by_one else [([*range(6)], [6, 7])]
    expected = sum(float(dependence(z[:, others], z[:, free])) for others, free in pairs)
    assert float(found.terms["hsic"]) == pytest.approx(expected, rel=1e-5)
    rest = float(found.terms["reconstruction"] + found.terms["kl_latent"])
    assert float(found.total) == pytest.approx(rest + 2 * expected, rel=1e-6)


def test_training_stays_finite_when_a_new_program_is_the_same_for_all_cells(reference, query_cells):
    """Latents of a minibatch that are all alike, as of a collapsed program: scArches' HSIC is NaN (its issue 256)."""
    query = with_new(query_cells, reference, use_hsic=True)
    with torch.no_grad():
        for head in (query.module.encoder.mean, query.module.encoder.log_variance):
            head.added[0].weight.zero_()
            head.added[0].bias.fill_(-20.0 if head is query.module.encoder.log_variance else 0.3)
    query.train(**QUICK, lr=1e-6)
    assert np.isfinite(query.history.to_numpy(dtype=float)).all()


def test_new_programs_and_training_are_spelled_as_scarches_spells_them(reference, query_cells):
    mask = np.zeros((1, 40), int)
    mask[0, :9] = 1
    theirs = {"new_n_ext": 1, "new_n_ext_m": 1, "new_ext_mask": mask.tolist(), "new_soft_ext_mask": True}
    query = sca.models.EXPIMAP.load_query_data(query_cells, reference, **theirs, use_hsic=True)
    assert query.terms[4:] == ("constrained_0", "unconstrained_0") and query.soft_new_mask
    assert query.mask_genes()["constrained_0"] == list(query.schema.genes[:9])
    plan = planned(query.plan_class, {"beta": 3.0, "gamma_ext": 0.7, "gamma_epoch_anneal": 10, "alpha_l1": 0.5})
    assert plan.loss_weights(0) == {"hsic_weight": 3.0}
    assert plan.step_weights(5)["free_l1"] == pytest.approx(0.35)
    assert sca.models.TRVAE(query_cells, batch_key="batch", beta=3.0).config.mmd_weight == 3.0  # another beta


@pytest.mark.parametrize(
    ("arguments", "error", "says"),
    [
        ({"new_gene_sets": {"set 0": ["Gene0001"]}}, DataError, r"of these names already: set 0"),
        ({"new_gene_sets": {"far": ["XIST"], "near": ["Gene0001"]}}, DataError, r"1 of 2 new gene sets.*\(far\)"),
        ({"new_ext_mask": np.ones((1, 3))}, DataError, r"of the reference's 40 genes.*shape \(1, 3\)"),
        ({"new_ext_mask": np.ones((1, 40)), "new_n_ext_m": 2}, DataError, "new_n_ext_m=2.* has 1"),
        ({"use_hsic": True}, ValueError, "there are none. Give n_new_terms=1"),
        ({"n_new_terms": -1}, ValueError, "must be 0 or more"),
        ({"n_new_terms": 1, "new_n_ext": 1}, TypeError, "two spellings of one option"),
        ({"n_new_term": 1}, TypeError, "n_new_term"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_new_programs_that_cannot_be_are_refused(reference, query_cells, arguments, error, says):
    with pytest.raises(error, match=says):
        sca.models.EXPIMAP.load_query_data(query_cells, reference, **arguments)


def test_a_reference_without_batches_can_learn_programs_from_a_query(reference_cells, query_cells):
    reference = sca.models.EXPIMAP(reference_cells, **{**SMALL, "batch_key": None})
    reference.train(**QUICK)
    with pytest.warns(UserWarning, match="no batch to add"):
        query = with_new(query_cells, reference)
    query.train(**QUICK)
    assert query.nonzero_terms().all()


# ------------------------------------------------------------------------------------------------- how they are read


def overlapping(of_child: float, of_parent: float, child=(1.0, 1.0), batch_key=None):
    """A fitted model of two nested sets whose loadings are given, in the genes of both and those of the larger one."""
    cells = sca.datasets.atlas(n_obs=60, n_vars=40, n_types=2, n_batches=1, seed=0)
    sets = {
        "child": list(cells.var_names[:6]),
        "parent": list(cells.var_names[:12]),
        "far": list(cells.var_names[20:26]),
    }
    model = sca.models.EXPIMAP(cells, gene_sets=sets, min_genes=2, hidden_layer_sizes=[8], batch_key=batch_key)
    model.train(**QUICK)
    with torch.no_grad():
        weight = model.module.programs.weight.zero_()
        weight[:3, 0], weight[3:6, 0], weight[:6, 1], weight[20:26, 2] = (
            child[0] * of_child,
            child[1] * of_child,
            of_parent,
            1.0,
        )
    return model


def test_what_is_said_of_a_set_s_genes_is_found_whichever_set_says_it():
    """Another set's latent may tell what happens to a set's genes; the set's own latent then says nothing of it."""
    model = overlapping(of_child=0.01, of_parent=2.0)
    z = model.get_latent_representation().astype(float)
    loadings = model._loadings().astype(float)
    logits = z @ loadings.T
    expected = logits[:, :6].mean(1) - logits.mean(1)
    np.testing.assert_allclose(model.get_gene_program_scores()["child"], expected, atol=1e-5)
    np.testing.assert_allclose(model.get_gene_program_scores(of="latents")["child"], z[:, 0], atol=1e-5)
    up = z[:, 1] > np.median(z[:, 1])
    table = model.latent_enrich({"up": up, "down": ~up}, "down").set_index("term")
    assert table.loc["child", "bayes_factor"] > 0
    assert table.loc["child", "mean_shift"] == pytest.approx(expected[up].mean() - expected[~up].mean(), abs=1e-5)
    with pytest.raises(ValueError, match="of='gene' is neither"):
        model.latent_enrich({"up": up, "down": ~up}, "down", of="gene")


def test_bayes_factors_of_genes_are_those_of_draws_from_the_posterior():
    model = overlapping(of_child=0.5, of_parent=-0.4)
    up = np.arange(60) % 2 == 0
    table = model.latent_enrich({"up": up, "down": ~up}, "down").set_index("term")
    mean, variance = model.get_latent_representation(return_dist=True)
    rng = np.random.default_rng(0)
    draws = [mean[rows] + np.sqrt(variance[rows]) * rng.standard_normal((200_000, 3)) for rows in (
        rng.choice(np.flatnonzero(up), 200_000), rng.choice(np.flatnonzero(~up), 200_000))]  # fmt: skip
    activities = [(z @ model._loadings().T)[:, :6].mean(1) - (z @ model._loadings().T).mean(1) for z in draws]
    assert table.loc["child", "prob_up"] == pytest.approx((activities[0] > activities[1]).mean(), abs=0.02)


def test_latents_that_may_point_either_way_are_announced_with_where_to_look():
    model = overlapping(of_child=1.0, of_parent=1.0, child=(1.0, -0.95))
    with pytest.warns(UserWarning, match=r"1 of 3 programs have loadings of both signs.*\(child\).*latent_directions"):
        model.get_gene_program_scores(of="latents")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.get_gene_program_scores()


def test_a_contrast_that_the_batches_nearly_tell_is_announced_too(fitted):
    batch = fitted.adata.obs["batch"].astype(str).to_numpy()
    mixed = (batch == "batch0") ^ (np.arange(900) % 25 == 0)  # as donors that are "unknown" for one side
    with pytest.warns(UserWarning, match=r"tell 'here' from.* \(9\d% of cells"):
        fitted.latent_enrich({"here": mixed, "there": ~mixed}, comparison="there")


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
