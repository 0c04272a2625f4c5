"""mvTCR: its mixtures against closed forms, and each known defect of mvtcr (spec, section 3) against what is done."""

from itertools import product

import anndata as ad
import numpy as np
import pytest
import torch
from small import fingerprint

import scarches_widgets as sca
from scarches_widgets.data.names import DataError
from scarches_widgets.models.mvtcr import MvTCRPlan, neighbor_votes, options_of
from scarches_widgets.nn.noise import Noise
from scarches_widgets.training.groups import balanced_shares, connected_groups

mvTCR = sca.models.mvTCR
TINY = {"n_latent": 4, "n_hidden": 8, "shared_hidden": (8,), "gene_hidden": (16,), "n_embedding": 8, "n_heads": 2}
QUICK = {"max_epochs": 2, "batch_size": 64, "progress": False}


@pytest.fixture(scope="module")
def cells():
    """240 T cells of two donors. Tests do not change it."""
    return sca.datasets.receptors(240, 40, n_epitopes=4)


@pytest.fixture(scope="module")
def reference(cells):
    """A model of the first donor's cells; tests do not change it."""
    return trained(cells[cells.obs["batch"] == "batch0"].copy())


def trained(cells, **options):
    model = mvTCR(cells, batch_key="batch", **(TINY | options))
    model.train(**QUICK)
    return model


def minibatch(model):
    return next(model._cells(model.adata).in_order(32))


# ----------------------------------------------------------------------------------------------------- parts and losses


def test_the_mixture_is_the_mean_of_both_and_the_product_weighs_by_precision(cells):
    for combine in ("moe", "poe"):
        model = mvTCR(cells, combine=combine, **TINY)
        with torch.no_grad():
            found = model.module.posteriors(minibatch(model))
        rna, tcr, joint = (found[name] for name in ("rna", "tcr", "joint"))
        if combine == "moe":
            np.testing.assert_allclose(joint.mean, (rna.mean + tcr.mean) / 2, atol=1e-6)
        else:
            precision = 1 + 1 / rna.variance + 1 / tcr.variance
            np.testing.assert_allclose(joint.variance, 1 / precision, rtol=1e-5)
            expected = (rna.mean / rna.variance + tcr.mean / tcr.variance) / precision
            np.testing.assert_allclose(joint.mean, expected, atol=1e-5)


@pytest.mark.parametrize("kind", ["cnn", "gru"])
@pytest.mark.parametrize("combine", ["poe", "concat"])
def test_every_encoder_and_every_way_of_joining_is_trained(cells, kind, combine):
    before = mvTCR(cells, batch_key="batch", combine=combine, sequence_encoder=kind, **TINY)
    model = trained(cells, combine=combine, sequence_encoder=kind)
    state, first = model.module.state_dict(), before.module.state_dict()
    still = [name for name in first if torch.equal(state[name], first[name])]
    assert not [name for name in still if "batch_norms" not in name], "weights that no gradient reaches"
    assert np.isfinite(model.get_latent_representation()).all()


class Coin(Noise):
    """The posterior's mean for a draw, and these sides, one after the other."""

    def __init__(self, *sides):
        super().__init__(0, "training")
        self.sides = iter(sides)

    def normal_like(self, values):
        return torch.zeros_like(values)

    def kept_like(self, values, probability):
        return torch.full_like(values, next(self.sides))


@pytest.mark.parametrize("combine", ["moe", "poe"])
def test_in_training_chance_decides_which_z_is_decoded_and_into_which_chain(cells, combine):
    model = mvTCR(cells, combine=combine, **TINY)
    for part in model.module.modules():
        if hasattr(part, "frozen"):
            part.frozen = True  # neither dropout nor moving statistics

    def terms(noise, training):
        return model.module.train(training)(minibatch(model).with_noise(noise)).terms

    sides, whole = [terms(Coin(*pair), True) for pair in product((0, 1), (0, 1))], terms(Coin(), False)
    for name, n_different in {"reconstruction": 2, "reconstruction_tcr": 4}.items():
        found = [float(one[name]) for one in sides]
        assert len(set(found)) == n_different
        assert sum(found) / 4 == pytest.approx(float(whole[name]), rel=1e-5)


def test_weights_are_mvtcrs_times_the_number_of_genes(cells):
    model = mvTCR(cells, **TINY)
    loss = model.module(minibatch(model), kl_weight=0.5, rna_weight=2.0, tcr_weight=0.25)
    expected = 2 * loss.terms["reconstruction"] + 40 * 0.25 * loss.terms["reconstruction_tcr"]
    assert float(loss.total) == pytest.approx(float(expected + 40 * 0.5 * loss.terms["kl_latent"]), rel=1e-5)


def test_by_default_the_loss_is_a_cells_evidence_bound_in_nats_and_a_querys_weight_its_references(cells, reference):
    model = mvTCR(cells, **TINY)
    plan = model._resolved(MvTCRPlan(), model._training_cells(MvTCRPlan()))
    residues = cells.obs["TRA_cdr3"].astype(str).str.len() + cells.obs["TRB_cdr3"].astype(str).str.len() - 2
    assert plan.tcr_weight * 40 == pytest.approx(residues.mean())
    assert plan.kl_weight * 40 == pytest.approx(1)
    assert float(reference.history["kl_weight"].iloc[-1]) * 40 == pytest.approx(1)
    query = mvTCR.load_query_data(cells[cells.obs["batch"] == "batch1"].copy(), reference)
    assert query._resolved(MvTCRPlan(), query._training_cells(MvTCRPlan())).kl_weight == pytest.approx(1 / 40)
    told = mvTCR(cells, **TINY)._resolved(MvTCRPlan(kl_weight=0.5, tcr_weight=0.25), model._training_cells(MvTCRPlan()))
    assert (told.kl_weight, told.tcr_weight) == (0.5, 0.25)


def test_counts_are_normalised_and_log_normalised_values_taken_as_they_are(cells):
    counts = cells.X.toarray()
    logged = cells.copy()
    logged.X = np.log1p(1e4 * counts / counts.sum(1, keepdims=True))
    models = [mvTCR(one, **TINY) for one in (cells, logged)]
    assert [model.config.normalize for model in models] == [True, False]
    seen = [model.module._observed(minibatch(model)).numpy().copy() for model in models]
    np.testing.assert_allclose(*seen, rtol=1e-4)
    negative = cells.copy()
    negative.X = counts - 0.5
    with pytest.raises(DataError, match="negative"):
        mvTCR(negative, **TINY)


def test_the_weight_of_kl_rises_over_thirty_percent_of_the_epochs_however_few():
    plan = MvTCRPlan(max_epochs=2, kl_weight=1.0).resolved(100)  # mvtcr divides by zero
    assert [plan.kl_weight_at(step, 10) for step in (0, 3, 6, 19)] == [0, 0.5, 1, 1]


def test_published_training_is_mvtcrs():
    plan = MvTCRPlan(schedule="published").resolved(1000)
    assert (plan.max_epochs, plan.lr, plan.optimizer([]).eps) == (200, 3e-4, 1e-8)


# ----------------------------------------------------------------------------------------------------------- clonotypes


def test_validation_cells_are_of_clonotypes_of_their_own(cells):
    for changed in (cells, cells[:, :].copy()):
        if changed is not cells:
            del changed.obs["clonotype"]
        dealt = mvTCR(changed, **TINY)._training_cells(MvTCRPlan(train_size=0.8))
        sides = [set(cells.obs["clonotype"].iloc[rows]) for rows in (dealt.train_rows, dealt.validation_rows)]
        assert not sides[0] & sides[1]
        assert 30 <= dealt.n_validation <= 48


def test_groups_that_share_a_receptor_or_a_name_are_one():
    groups = connected_groups(["a", "b", "b", "c", "d"], [1, 1, 2, 3, 3])
    assert [list(groups == group) for group in groups[[0, 3]]] == [[1, 1, 1, 0, 0], [0, 0, 0, 1, 1]]


def test_cells_of_large_clonotypes_are_drawn_less_often():
    sizes = np.repeat(["large", "small"], [90, 10])
    shares = balanced_shares(sizes)
    assert shares[0] / shares[-1] == pytest.approx(np.log(10 / 10 + 1) / np.log(90 / 10 + 1))
    assert shares.sum() == pytest.approx(1)


def test_a_column_to_balance_by_is_refused_if_it_is_not_there(cells):
    with pytest.raises(DataError, match=r"'clone', which is no column of obs. Did you mean 'clonotype'"):
        mvTCR(cells, balanced_sampling="clone", **TINY)


# -------------------------------------------------------------------------------------------------------------- surgery


def test_surgery_trains_the_new_batches_vector_alone_buffers_included(cells, reference):
    before = fingerprint(reference)
    query = mvTCR.load_query_data(cells[cells.obs["batch"] == "batch1"].copy(), reference)
    start = fingerprint(query)
    query.train(**QUICK, weight_decay=0.1)
    after = fingerprint(query)
    assert fingerprint(reference) == before
    assert [name for name in after if after[name] != start[name]] == ["conditions.tables.0.blocks.1"]
    np.testing.assert_array_equal(
        query.get_latent_representation(reference.adata), reference.get_latent_representation()
    )


def test_a_query_may_have_longer_receptors_than_the_reference_but_not_than_its_network(cells, reference):
    query = cells[cells.obs["batch"] == "batch1"].copy()
    query.obs["TRA_cdr3"] = "C" + "A" * 24 + "F"  # the reference's have 18 residues at most
    assert np.isfinite(mvTCR.load_query_data(query, reference).get_latent_representation()).all()
    query.obs["TRA_cdr3"] = "C" + "A" * 35 + "F"
    with pytest.raises(DataError, match="longer than 30 residues"):
        mvTCR.load_query_data(query, reference)


def test_a_model_with_a_head_is_saved_with_all_that_it_is(cells, tmp_path):
    options = {"labels_key": "epitope", "supervised": True, "metadata": ("response",), "training": {"batch_size": 32}}
    model = trained(cells, **options)
    model.save(tmp_path / "model")
    loaded = mvTCR.load(tmp_path / "model")
    assert fingerprint(loaded) == fingerprint(model) and loaded.config == model.config
    np.testing.assert_array_equal(loaded.predict(cells), model.predict())
    assert list(loaded.get_latent(cells).obs) == ["response"]


# --------------------------------------------------------------------------------------------------------------- labels


def test_the_supervised_head_is_trained(cells):
    model = mvTCR(cells, batch_key="batch", labels_key="response", supervised=True, **TINY)
    first = model.module.classifier.rows.blocks[0].detach().clone()
    model.train(max_epochs=8, batch_size=64, lr=2e-2, classification_weight=1.0, progress=False)
    assert not torch.equal(model.module.classifier.rows.blocks[0], first)  # mvtcr's optimiser does not hold it
    assert (model.predict() == cells.obs["response"]).mean() > 0.7  # 0.5 by chance
    shares = model.predict(soft=True)
    assert list(shares) == ["Response A", "Response B"] and np.allclose(shares.sum(1), 1)


def test_without_a_head_the_way_to_labels_is_told(cells, reference):
    with pytest.raises(RuntimeError, match="predict_by_neighbors"):
        reference.predict()
    with pytest.raises(ValueError, match="supervised=True learns labels"):
        mvTCR(cells, supervised=True, **TINY)


def test_neighbours_vote_by_the_inverse_of_their_distance():
    z, reference = np.array([[0.0], [3.0]], np.float32), np.array([[1.0], [-2.0], [3.0], [9.0]], np.float32)
    votes = neighbor_votes(z, reference, np.array([0, 1, 1, 0]), 2, n_neighbors=3)
    np.testing.assert_allclose(votes[0], [1 / (1 + 1 / 2 + 1 / 3), (1 / 2 + 1 / 3) / (1 + 1 / 2 + 1 / 3)], rtol=1e-5)
    np.testing.assert_allclose(votes[1], [0, 1])  # a cell at the very place


def test_labels_come_from_the_reference_for_any_column(cells, reference):
    query = cells[cells.obs["batch"] == "batch1"].copy()
    mapped = mvTCR.load_query_data(query, reference)
    told = mapped.predict_by_neighbors(reference=reference.adata, labels_key="pair", soft=True)
    assert list(told) == ["Pair 1", "Pair 2"] and list(told.index) == list(query.obs_names)
    assert np.allclose(told.sum(1), 1)
    with pytest.raises(DataError, match=r"no column 'pairs'.*Did you mean 'pair'"):
        mapped.predict_by_neighbors(reference=reference.adata, labels_key="pairs")


def test_each_modality_has_a_latent_of_its_own_unless_one_encoder_sees_both(cells, reference):
    rna, tcr = reference.get_latent_representation(modality=("rna", "tcr"))
    np.testing.assert_allclose(reference.get_latent_representation(), (rna + tcr) / 2, atol=1e-6)
    with pytest.raises(ValueError, match="Did you mean 'rna'"):
        reference.get_latent_representation(modality="rn")
    with pytest.raises(ValueError, match="one encoder"):
        trained(cells, combine="concat").get_latent_representation(modality="rna")


# ------------------------------------------------------------------------------------------------------------ bad input


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("TRA_cdr3", "CA*F", "no amino acid"),
        ("TRB_cdr3", "", "is empty in 1 of"),
        ("TRB_cdr3", "C" * 31, "longer than"),
    ],
)
def test_unfit_receptors_are_refused_with_the_cells_name(cells, reference, column, value, message):
    unfit = reference.adata.copy()
    unfit.obs[column] = unfit.obs[column].astype(str)
    unfit.obs.loc[unfit.obs_names[5], column] = value
    for use in (lambda: mvTCR(unfit, **TINY), lambda: reference.get_latent_representation(unfit)):
        with pytest.raises(DataError, match=message) as raised:
            use()
        assert unfit.obs_names[5] in str(raised.value)


def test_cells_with_both_chains_are_told_apart(cells):
    some = cells[:3].copy()
    some.obs["TRA_cdr3"] = ["", "CAF", None]
    assert mvTCR.has_receptor(some).tolist() == [False, True, False]


def test_columns_can_be_noted_and_are_kept_in_a_file(cells, tmp_path):
    renamed = cells.copy()
    renamed.obs = renamed.obs.rename(columns={"TRA_cdr3": "a", "TRB_cdr3": "b"})
    mvTCR.setup_anndata(renamed, batch_key="batch", receptor_keys=("a", "b"))
    del renamed.uns["truth"]
    renamed.write_h5ad(tmp_path / "cells.h5ad")
    model = mvTCR(sca.read(tmp_path / "cells.h5ad"), **TINY)
    assert (model.schema.receptor_keys, model.schema.batch_key) == (("a", "b"), "batch")


def test_heads_must_divide_the_embedding(cells):
    with pytest.raises(ValueError, match="n_heads=3 must divide n_embedding=8"):
        mvTCR(cells, **(TINY | {"n_heads": 3}))


# -------------------------------------------------------------------------------------------------------- mvtcr's names

PARAMS = {"joint": {"zdim": 4, "hdim": 8, "shared_hidden": [8], "num_layers": 1}, "rna": {"gene_hidden": [16]}}


def test_mvtcrs_dict_is_understood(cells):
    params = PARAMS | {"batch_size": 32, "learning_rate": 1e-3, "loss_weights": [1.0, 0.5, 1e-5]}
    params["tcr"] = {"embedding_size": 8, "num_heads": 2, "num_seq_labels": 24, "max_tcr_length": 20}
    model = mvTCR.models.mixture_modules.poe.PoEModel(cells, params, "clonotype", ["epitope"], conditional="batch")
    config = model.config
    assert (config.combine, config.n_latent, config.gene_hidden, config.max_tcr_length) == ("poe", 4, (16,), 20)
    assert model.schema.batch_key == "batch" and config.metadata == ("epitope",)
    run = model.train(n_epochs=3, early_stop=1, progress=False)
    assert run.status == "done"
    assert config.training == {"batch_size": 32, "lr": 1e-3, "rna_weight": 1.0, "tcr_weight": 0.5, "kl_weight": 1e-5}
    assert model.history["kl_weight"].iloc[-1] == pytest.approx(1e-5)


@pytest.mark.parametrize(
    ("params", "error", "message"),
    [
        ({"joint": {"zdims": 4}}, TypeError, r"\['joint'\] has an unknown key 'zdims'. Did you mean 'zdim'"),
        ({"trc": {}}, TypeError, "unknown key 'trc'. Did you mean 'tcr'"),
        ({"rna": {"num_layers": 2, "gene_hidden": [8]}}, ValueError, "num_layers=2 and gives 1 widths"),
        ({"joint": {"losses": ["NB", "CE"]}}, ValueError, "Leave the key out"),
        ({"loss_weights": [1.0, 2.0]}, ValueError, "there are three"),
        ({"tcr": 3}, TypeError, "is a dict, not 3"),
    ],
)
def test_faults_in_mvtcrs_dict_are_named(params, error, message):
    with pytest.raises(error, match=message):
        options_of(params)


def test_metadata_that_are_not_there_are_refused(cells):
    with pytest.raises(DataError, match=r"metadata names 'epitop'.*Did you mean 'epitope'"):
        mvTCR.models.mixture_modules.moe.MoEModel(cells, PARAMS, metadata=["epitop"])


# ----------------------------------------------------------------------------------------------------- what it is worth


@pytest.mark.slow
def test_planted_epitopes_are_told_by_both_modalities_together_and_by_neither_alone():
    from sklearn.metrics import f1_score

    from scarches_widgets.data.receptors import split_clonotypes

    cells = sca.datasets.receptors(1000, 100, response_strength=2.0)
    train, test = (cells[rows].copy() for rows in split_clonotypes(cells.obs["clonotype"], 0.25))
    model = mvTCR(train, batch_key="batch", **(TINY | {"n_latent": 10, "n_hidden": 32, "n_embedding": 16}))
    model.train(max_epochs=30, lr=3e-3, progress=False)
    f1 = {}
    for modality in ("joint", "rna", "tcr"):
        told = model.predict_by_neighbors(test, train, "epitope", n_neighbors=10, modality=modality)
        f1[modality] = f1_score(test.obs["epitope"].astype(str), told.astype(str), average="weighted")
    assert f1["joint"] > max(f1["rna"], f1["tcr"]) + 0.1


# ------------------------------------------------------------------------------------------------------- measured cells


@pytest.mark.realdata
@pytest.mark.filterwarnings("ignore:.*(same batch|nothing but zeros)")
def test_cells_of_one_clone_lie_at_one_place_by_their_receptors_and_apart_by_rna(real_data):
    """The 258 T cells of one patient with both chains, of which the largest clone has 78."""
    cells = ad.read_h5ad(real_data / "cite_tcr_320cells.h5ad")
    cells = cells[mvTCR.has_receptor(cells)].copy()
    model = mvTCR(cells, batch_key="batch", **TINY)
    model.train(**QUICK)
    rna, tcr = model.get_latent_representation(modality=("rna", "tcr"))
    clone = cells.obs["clonotype"].astype(str)
    largest = (clone == clone.value_counts().index[0]).to_numpy()
    assert (len(cells), largest.sum()) == (258, 78)
    assert np.ptp(tcr[largest], axis=0).max() < 1e-5 and np.ptp(rna[largest], axis=0).max() > 1e-2
    told = model.predict_by_neighbors(reference=cells, labels_key="clonotype", modality="tcr")
    assert (told == clone).all()
