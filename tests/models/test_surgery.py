"""A reference stays the same to the bit whatever is mapped onto it, and only a query's own batches are learnt."""

from __future__ import annotations

import math
import re
import warnings

import anndata as ad
import numpy as np
import pytest
import torch
from small import QUICK, SMALL, fingerprint
from storage import contents

import scarches_widgets as sca
from scarches_widgets.data.names import DataError
from scarches_widgets.models.base import Model
from scarches_widgets.models.scvi import SCVIConfig, SCVIModule
from scarches_widgets.training import plan
from scarches_widgets.training.plan import BRISK, TrainingPlan

SCVI = sca.models.SCVI
HARSH = {**QUICK, "max_epochs": 4, "weight_decay": 1e-2}  # a decay that moves whatever is not safe from it

CONFIGS = {
    "layer norm, batches in the first layer": {
        "n_layers": 2, "deeply_inject_covariates": False, "use_layer_norm": "both", "use_batch_norm": "none",
    },
    "batch norm, dropout, batches in every layer": {"n_layers": 2, "use_batch_norm": "both", "dropout_rate": 0.2},
    "a dispersion per gene and batch": {"dispersion": "gene-batch", "gene_likelihood": "nb"},
}  # fmt: skip
each_config = pytest.mark.parametrize("options", CONFIGS.values(), ids=CONFIGS)


def reference_of(cells, batch_key="batch", **options) -> Model:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a single batch is sometimes the point
        model = SCVI(cells, batch_key=batch_key, **(SMALL | options))
    model.train(**QUICK)
    return model


def mapped(cells, reference, **options) -> Model:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return SCVI.load_query_data(cells, reference, **options)


def latents(model, cells=None) -> np.ndarray:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # on few genes or single batches, which is not what is looked at
        return model.get_latent_representation(cells)


def batch(atlas, *names):
    return atlas[atlas.obs["batch"].isin(names)].copy()


def only(atlas, genes):
    return atlas[:, genes].copy()


# ---------------------------------------------------------------------------------- the reference stays as it is


@each_config
def test_training_a_query_moves_no_weight_no_statistic_and_no_latent_of_the_reference(
    reference_cells, query_cells, options
):  # traps T4, T5, T9
    reference = reference_of(reference_cells, **options)
    weights, z = fingerprint(reference), latents(reference)
    query = mapped(query_cells, reference)
    np.testing.assert_array_equal(latents(query, reference_cells), z)  # before training
    query.train(**HARSH)
    assert fingerprint(reference) == weights
    np.testing.assert_array_equal(latents(reference), z)
    assert {name: weight for name, weight in fingerprint(query).items() if name in weights} == weights
    np.testing.assert_array_equal(latents(query, reference_cells), z)


@each_config
def test_only_rows_for_the_new_batch_are_trainable_and_all_of_them_learn(reference_cells, query_cells, options):
    reference = reference_of(reference_cells, **options)
    query = mapped(query_cells, reference)
    before = fingerprint(query)
    query.train(**HARSH)
    new = set(before) - set(fingerprint(reference))
    tables = [name for name in fingerprint(reference) if name.endswith(".blocks.0")]
    assert new == {name.removesuffix("0") + "1" for name in tables}
    assert {name for name, weight in query.module.named_parameters() if weight.requires_grad} == new
    assert {name for name, weight in fingerprint(query).items() if weight != before[name]} == new


def test_the_reference_model_itself_is_left_as_it_was_and_can_be_trained_on(reference_cells, query_cells):
    reference = reference_of(reference_cells)
    twin = reference_of(reference_cells)
    mapped(query_cells, reference).train(**HARSH)
    assert all(weight.requires_grad for weight in reference.module.parameters())
    assert not any(getattr(part, "frozen", False) for part in reference.module.modules())
    assert reference.adata is reference_cells and reference.gene_report is None
    assert reference.schema == twin.schema
    for model in (reference, twin):
        model.train(**QUICK)
    assert fingerprint(reference) == fingerprint(twin)


def test_a_query_is_held_to_the_prior_as_firmly_as_its_reference_was(reference_cells, query_cells, tmp_path):
    how = {**QUICK, "kl_warmup_epochs": 1}
    weak = SCVI(reference_cells, batch_key="batch", **SMALL)
    weak.train(**how, kl_weight=0.02)
    weak.save(tmp_path / "weak")
    query = mapped(query_cells, tmp_path / "weak")
    for options, expected in ({}, 0.02), ({"kl_weight": 0.5}, 0.5), ({"schedule": "published"}, 1.0), ({}, 0.02):
        query.train(**how, **options)
        assert query.history["kl_weight"].iloc[-1] == pytest.approx(expected)


def test_the_query_s_anndata_is_not_modified(trained, query_cells):
    before = contents(query_cells)
    query = mapped(query_cells, trained)
    query.train(**QUICK)
    query.get_latent_representation()
    assert contents(query_cells) == before


# -------------------------------------------------------------------------------------- what the query may learn


def test_a_query_is_mapped_at_once_and_training_then_moves_it(trained, query_cells):
    query = mapped(query_cells, trained)
    assert not query.is_trained
    zero_shot = latents(query)
    assert zero_shot.shape == (query_cells.n_obs, 4) and np.isfinite(zero_shot).all()
    query.train(**QUICK)
    assert np.isfinite(latents(query)).all()
    assert not np.allclose(latents(query), zero_shot, atol=1e-4)


def test_before_training_a_new_batch_counts_as_the_average_of_the_known_ones(trained, query_cells):
    query = mapped(query_cells, trained)
    for table in (part for part in query.module.modules() if hasattr(part, "blocks")):
        old, new = table.blocks
        assert not new.requires_grad or torch.equal(new[0], old.mean(0))


@pytest.mark.parametrize("options", [{}, {"use_batch_norm": "none", "use_layer_norm": "both"}], ids=["batch", "layer"])
def test_a_reference_of_a_single_batch_keeps_its_latents_and_still_learns_a_query_s_batch(atlas, options):  # trap T2
    one = batch(atlas, "batch0")
    reference = reference_of(one, **options)
    z = latents(reference)
    query = mapped(batch(atlas, "batch1", "batch2"), reference)
    np.testing.assert_array_equal(latents(query, one), z)
    before = latents(query)
    query.train(**HARSH)
    np.testing.assert_array_equal(latents(query, one), z)
    assert not np.allclose(latents(query), before, atol=1e-4)


def test_without_batches_in_the_encoder_the_user_is_told_that_latents_cannot_move(
    reference_cells, query_cells
):  # trap T3
    reference = reference_of(reference_cells, encode_covariates=False)
    with pytest.warns(UserWarning, match=r"encoder does not see batches \(encode_covariates=False\).*cannot move"):
        query = SCVI.load_query_data(query_cells, reference)
    before, error = latents(query), query.get_reconstruction_error()
    query.train(**{**QUICK, "max_epochs": 10})
    np.testing.assert_array_equal(latents(query), before)
    assert query.get_reconstruction_error() < error  # the decoder does learn


def test_query_cells_of_a_known_batch_are_announced_and_move_nothing_of_the_reference(atlas):  # trap T6
    reference_cells = batch(atlas, "batch0", "batch1")
    reference = reference_of(reference_cells)
    weights, z = fingerprint(reference), latents(reference)
    query_cells = batch(atlas, "batch1", "batch2")
    with pytest.warns(UserWarning, match=r"1 of the query's batches are known to the reference \(batch1\)"):
        query = SCVI.load_query_data(query_cells, reference)
    query.train(**HARSH)
    np.testing.assert_array_equal(latents(query, reference_cells), z)
    assert {name: weight for name, weight in fingerprint(query).items() if name in weights} == weights
    known = (query_cells.obs["batch"] == "batch1").to_numpy()
    np.testing.assert_array_equal(latents(query)[known], z[(reference_cells.obs["batch"] == "batch1").to_numpy()])


def test_the_dispersion_of_a_new_batch_starts_at_the_mean_and_is_trained(reference_cells, query_cells):  # trap T7
    reference = reference_of(reference_cells, dispersion="gene-batch")
    query = mapped(query_cells, reference)
    old, new = query.module.decoder.log_inverse_dispersion.table.blocks
    assert old.shape == (2, 40) and new.shape == (1, 40)
    torch.testing.assert_close(new[0], old.mean(0), rtol=0, atol=0)
    assert new.requires_grad and not old.requires_grad
    before = new.detach().clone()
    query.train(**HARSH)
    assert (query.module.decoder.log_inverse_dispersion.table.blocks[1] != before).all()


def test_a_query_of_known_batches_only_has_nothing_to_train_and_says_so(trained, atlas):
    query = mapped(batch(atlas, "batch1"), trained)
    before = fingerprint(query)
    with pytest.warns(UserWarning, match="nothing to train"):
        run = query.train(**QUICK)
    assert run.status == "done" and run.wait() == "done"
    assert fingerprint(query) == before == fingerprint(trained)
    assert np.isfinite(latents(query)).all()


def test_a_reference_without_batch_key_says_that_it_cannot_be_adapted(reference_cells, query_cells):
    reference = reference_of(reference_cells, batch_key=None)
    with pytest.warns(UserWarning, match="trained without a batch_key"):
        query = SCVI.load_query_data(query_cells, reference)
    np.testing.assert_array_equal(latents(query), latents(reference, query_cells))


# --------------------------------------------------------------------------------------------- several variables


def with_covariates(atlas):
    atlas = atlas.copy()
    rng = np.random.default_rng(0)
    atlas.obs["site"] = rng.choice(["lung", "nose"], atlas.n_obs)
    atlas.obs["sex"] = rng.choice(["f", "m"], atlas.n_obs)
    new = atlas.obs["batch"] == "batch2"
    atlas.obs.loc[new, "site"] = rng.choice(["blood", "nose", "trachea"], new.sum())
    return batch(atlas, "batch0", "batch1"), batch(atlas, "batch2")


@each_config
def test_new_batches_and_new_levels_of_covariates_do_not_get_into_each_other_s_places(atlas, options):  # trap T16
    reference_cells, query_cells = with_covariates(atlas)
    reference = SCVI(
        reference_cells, batch_key="batch", categorical_covariate_keys=["site", "sex"], **(SMALL | options)
    )
    reference.train(**QUICK)
    z, elbo = latents(reference), reference.get_elbo()
    query = mapped(query_cells, reference)
    assert query.schema.batches == ("batch0", "batch1", "batch2")
    assert query.schema.categorical_covariates == (("site", ("lung", "nose", "blood", "trachea")), ("sex", ("f", "m")))
    np.testing.assert_array_equal(latents(query, reference_cells), z)
    assert query.get_elbo(reference_cells) == elbo  # the decoder too
    before = fingerprint(query)
    query.train(**HARSH)
    np.testing.assert_array_equal(latents(query, reference_cells), z)
    assert query.get_elbo(reference_cells) == elbo
    changed = {name for name, weight in fingerprint(query).items() if weight != before[name]}
    assert changed == set(before) - set(fingerprint(reference))
    assert not any("offsets.2" in name for name in changed)  # sex, of which nothing is new


# ------------------------------------------------------------------------------------------- one after the other


@pytest.mark.parametrize("on_disk", [False, True], ids=["in memory", "saved and loaded between"])
def test_queries_mapped_one_after_the_other_leave_all_earlier_cells_where_they_are(atlas, tmp_path, on_disk):
    atlas = sca.datasets.atlas(n_obs=300, n_vars=40, n_batches=5, n_types=4, seed=2)
    parts = [batch(atlas, "batch2", "batch3"), batch(atlas, "batch1", "batch4"), batch(atlas, "batch0")]
    model = reference_of(parts[0])
    seen = [(parts[0], latents(model))]
    for i, cells in enumerate(parts[1:]):
        if on_disk:
            model.save(tmp_path / str(i))
        model = mapped(cells, tmp_path / str(i) if on_disk else model)
        model.train(**HARSH)
        for earlier, z in seen:
            np.testing.assert_array_equal(latents(model, earlier), z)
        seen.append((cells, latents(model)))
    assert model.schema.batches == ("batch2", "batch3", "batch1", "batch4", "batch0")
    trainable = {name for name, weight in model.module.named_parameters() if weight.requires_grad}
    assert trainable and all(name.endswith("blocks.2") for name in trainable)


def test_a_reference_in_a_folder_maps_to_the_same_bits_as_the_model_itself(trained, query_cells, tmp_path):
    trained.save(tmp_path / "reference")
    models = [
        mapped(query_cells, reference) for reference in (trained, tmp_path / "reference", str(tmp_path / "reference"))
    ]
    for model in models:
        model.train(**QUICK)
    assert fingerprint(models[0]) == fingerprint(models[1]) == fingerprint(models[2])
    np.testing.assert_array_equal(latents(models[0]), latents(models[1]))


# --------------------------------------------------------------------------------------------------------- genes


def test_genes_in_another_order_give_the_same_latents_to_the_bit(trained, query_cells, tmp_path):  # trap T14
    trained.save(tmp_path / "reference")
    shuffled = only(query_cells, np.random.default_rng(0).permutation(query_cells.n_vars))
    for reference in (trained, SCVI.load(tmp_path / "reference")):
        queries = [mapped(cells, reference) for cells in (query_cells, shuffled)]
        np.testing.assert_array_equal(latents(queries[1]), latents(queries[0]))
        assert queries[1].gene_report.reordered and not queries[0].gene_report.reordered
        for query in queries:
            query.train(**QUICK)
        assert fingerprint(queries[1]) == fingerprint(queries[0])
        queries[1].save(tmp_path / "query", overwrite=True)
        again = SCVI.load(tmp_path / "query")
        np.testing.assert_array_equal(latents(again, query_cells), latents(again, shuffled))
        np.testing.assert_array_equal(latents(again, shuffled), latents(queries[0]))


def test_a_fifth_of_the_genes_missing_is_announced_with_numbers_and_names_and_counts_as_zeros(trained, query_cells):
    missing = list(query_cells.var_names[[2, 9, 17, 21, 22, 30, 31, 39]])
    incomplete = only(query_cells, query_cells.var_names.difference(missing))
    message = (
        "32 of the reference's 40 genes found (80.0%); 8 missing, filled with zeros (Gene0003, Gene0010, Gene0018, …)"
    )
    with pytest.warns(UserWarning, match=re.escape(message)):
        query = SCVI.load_query_data(incomplete, trained)
    assert query.gene_report.missing == tuple(missing) and query.gene_report.overlap == 0.8
    zeros = query_cells.copy()
    zeros.X = zeros.X.toarray() * ~zeros.var_names.isin(missing)
    np.testing.assert_array_equal(latents(query), latents(mapped(zeros, trained)))
    query.train(**QUICK)
    assert np.isfinite(latents(query)).all()
    assert np.isfinite(query.history.to_numpy()).all()


def test_a_query_learns_nothing_from_genes_that_it_lacks(trained, query_cells):
    incomplete = only(query_cells, query_cells.var_names[:30])
    as_zeros = query_cells.copy()
    as_zeros.X = as_zeros.X.multiply(np.arange(40) < 30).tocsr()
    queries = [mapped(cells, trained) for cells in (incomplete, as_zeros)]
    np.testing.assert_array_equal(latents(queries[0]), latents(queries[1]))
    for query in queries:
        query.train(**QUICK)
    reconstruction = [query.history["train_reconstruction"].iloc[0] for query in queries]
    assert reconstruction[0] < reconstruction[1] - 2, "nats: zeros that were not measured need no explanation"


def test_genes_that_the_reference_does_not_know_are_left_out(trained, query_cells):
    extra = ad.concat(
        [query_cells, only(query_cells, slice(0, 7))], axis="var", label="part", index_unique="-", merge="first"
    )
    extra.var_names = extra.var_names.str.removesuffix("-0")
    extra = only(extra, np.random.default_rng(0).permutation(extra.n_vars))
    query = mapped(extra, trained)
    assert len(query.gene_report.extra) == 7 and query.gene_report.overlap == 1
    np.testing.assert_array_equal(latents(query), latents(mapped(query_cells, trained)))


def test_a_query_without_any_gene_of_the_reference_is_refused(trained, query_cells):
    query_cells.var_names = [f"other{i}" for i in range(40)]
    with pytest.raises(DataError, match=r"None of the reference's 40 genes is in the query \(Gene0001, "):
        SCVI.load_query_data(query_cells, trained)


def test_a_query_with_less_than_half_of_the_genes_is_refused_unless_the_user_insists(trained, query_cells):
    few = only(query_cells, slice(0, 18))
    with pytest.raises(DataError, match=r"22 of the reference's 40 genes are missing.*45\.0% are shared") as raised:
        SCVI.load_query_data(few, trained)
    (advised,) = re.findall(r"set min_gene_overlap=(\S+)", str(raised.value))
    query = mapped(few, trained, min_gene_overlap=float(advised))
    query.train(**QUICK)
    assert np.isfinite(latents(query)).all()


def test_a_query_with_other_names_for_the_genes_is_mapped_by_the_advised_column(trained, query_cells):
    expected = latents(mapped(query_cells, trained))
    query_cells.var["symbol"] = query_cells.var_names
    query_cells.var_names = [f"ENSG{i:011d}" for i in range(40)]
    with pytest.raises(DataError, match="set gene_map='symbol'"):
        SCVI.load_query_data(query_cells, trained)
    query = mapped(query_cells, trained, gene_map="symbol")
    np.testing.assert_array_equal(latents(query), expected)
    query.train(**QUICK)
    assert np.isfinite(latents(query)).all()


# ------------------------------------------------------------------------------------------------------- refused


class OTHER(Model):
    config_class, module_class = SCVIConfig, SCVIModule


def test_a_reference_of_another_kind_is_refused_with_the_call_to_make(trained, query_cells, tmp_path):
    with pytest.raises(TypeError, match=r"given a SCVI as reference. Call SCVI\.load_query_data"):
        OTHER.load_query_data(query_cells, trained)
    trained.save(tmp_path / "reference")
    with pytest.raises(TypeError, match=r"holds a SCVI, not a OTHER. Call SCVI\.load"):
        OTHER.load_query_data(query_cells, tmp_path / "reference")


def test_an_untrained_reference_is_refused(reference_cells, query_cells):
    with pytest.raises(RuntimeError, match=r"has not been trained. Call reference\.train\(\)"):
        SCVI.load_query_data(query_cells, SCVI(reference_cells, batch_key="batch", **SMALL))


def test_a_reference_that_is_being_trained_is_refused(trained, query_cells):
    run = trained.train(max_epochs=100_000, batch_size=64, background=True)
    try:
        with pytest.raises(RuntimeError, match=r"is being trained .*model\.run\.wait\(\).*model\.run\.stop\(\)"):
            SCVI.load_query_data(query_cells, trained)
    finally:
        run.stop("epoch")
        run.wait()
    assert mapped(query_cells, trained).schema.batches == ("batch0", "batch1", "batch2")


def test_a_query_with_faulty_values_is_refused_before_anything_is_done(trained, query_cells):
    query_cells.X.data[7] = -1
    with pytest.raises(DataError, match="negative"):
        SCVI.load_query_data(query_cells, trained)


def test_the_reference_s_own_cells_as_query_are_announced(trained):
    with pytest.warns(UserWarning, match="the reference's own AnnData"):
        SCVI.load_query_data(trained.adata, trained)


@pytest.mark.parametrize("model", ["SCVI", "SCANVI"])
def test_a_network_that_queries_are_to_be_mapped_onto_is_trained_in_more_steps(model):
    kind = getattr(sca.models, model)

    def pace(**options):
        return kind.plan_class_for(kind.config_class(**options)).pace

    assert (pace().steps, pace().lr) == (BRISK.steps, BRISK.lr)
    for options in ({"encode_covariates": True}, {"n_layers": 2}, {"use_layer_norm": "both"}):
        assert pace(**options).steps > BRISK.steps and pace(**options).lr < BRISK.lr


# The prior of new rows


def test_new_rows_are_drawn_to_an_average_batch_by_a_prior_as_wide_as_the_layers_first_weights(atlas):
    reference = reference_of(batch(atlas, "batch0", "batch1"))
    query = mapped(batch(atlas, "batch2"), reference)
    layer = query.module.encoder.hidden.linears[0]
    (table,) = layer.offsets
    reference_rows = table.blocks[0].detach()
    table.blocks[1].data += 1
    anchors = TrainingPlan().anchors(query.module, n_train=50)
    anchor, strength = anchors[id(table.blocks[1])]
    torch.testing.assert_close(anchor, reference_rows.mean(0))
    assert strength == pytest.approx(1 / (20 * layer.bound**2 * 50))
    assert id(table.blocks[0]) not in anchors
    assert not TrainingPlan(schedule="published").anchors(query.module, 50)
    assert not TrainingPlan().anchors(reference.module, 50), "a reference has no prior"


def test_the_narrower_the_prior_the_nearer_rows_of_few_cells_stay_to_an_average_batch(atlas, monkeypatch):
    reference = reference_of(batch(atlas, "batch0", "batch1"))

    def departure(variance):
        monkeypatch.setattr(plan, "PRIOR_VARIANCE", variance)
        query = mapped(batch(atlas, "batch2")[:40].copy(), reference)
        query.train(max_epochs=60, progress=False)
        (table,) = query.module.encoder.hidden.linears[0].offsets
        return float((table.blocks[1] - table.start()).detach().norm())

    narrow, wider, given, free = (departure(one) for one in (1e-3, 0.1, plan.PRIOR_VARIANCE, math.inf))
    assert 0 < 10 * narrow < wider < given / 4 and given < free
