"""What every model promises (design.md, section 2), for each model. A new model needs one more line in MODELS."""

from __future__ import annotations

import hashlib
import random
import re
import warnings
from dataclasses import dataclass, field

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import torch
from small import QUICK, SMALL, fingerprint
from storage import STORAGE, contents, stored

import scarches_widgets as sca
from scarches_widgets.data.names import DataError
from scarches_widgets.models.base import Model


@dataclass(frozen=True)
class Case:
    """A model and how the tests make it small."""

    model: type[Model]
    options: dict = field(default_factory=dict)
    keys: dict = field(default_factory=lambda: {"batch_key": "batch"})

    def make(self, cells, **changes) -> Model:
        return self.model(cells, **(self.keys | self.options | changes))

    def trained(self, cells, **changes) -> Model:
        return self.trained_by(cells, QUICK, **changes)

    def trained_by(self, cells, options: dict, **changes) -> Model:
        model = self.make(cells, **changes)
        model.train(**options)
        return model

    def mapped(self, cells, reference, **options) -> Model:
        return self.model.load_query_data(cells, reference, **options)


LABELS = {"batch_key": "batch", "labels_key": "cell_type", "unlabeled_category": "Unknown"}
TRVAE = {"hidden_layer_sizes": (16, 12), "n_latent": 4}
PROGRAMS = {f"program {i}": [f"Gene{gene:04d}" for gene in range(10 * i + 1, 10 * i + 15)] for i in range(4)}
EXPIMAP = {"hidden_layer_sizes": (16, 12), "gene_sets": PROGRAMS, "min_genes": 5}
MVTCR = {"n_latent": 4, "n_hidden": 8, "shared_hidden": (8,), "gene_hidden": (16,), "n_embedding": 8, "n_heads": 2}
MODELS = [
    Case(sca.models.SCVI, SMALL),
    Case(sca.models.SCANVI, SMALL, LABELS),
    Case(sca.models.TRVAE, TRVAE),
    Case(sca.models.EXPIMAP, EXPIMAP),
    Case(sca.models.scPoli, {"hidden_layer_sizes": (16, 12), "n_latent": 4}, LABELS),
    Case(sca.models.TOTALVI, {"n_hidden": 16, "n_latent": 4}),
    Case(sca.models.mvTCR, MVTCR),
    Case(sca.models.MultiVAE, {"n_hidden": 16, "n_latent": 4}),
]


@pytest.fixture(scope="module")
def atlas(atlas):
    """With proteins besides, and genes of two modalities, for the models that read some."""
    cells, rng = atlas.copy(), np.random.default_rng(0)
    mean = np.exp(rng.normal(2, 1, 6) + 2 * rng.integers(2, size=(4, 6))[cells.obs["cell_type"].cat.codes])
    cells.obsm["protein_expression"] = pd.DataFrame(rng.poisson(mean), cells.obs_names, [f"P{i}" for i in range(6)])
    cells.var["modality"] = ["rna", "atac", "atac", "rna"] * 10
    for column in ("TRA_cdr3", "TRB_cdr3"):
        cells.obs[column] = ["C" + "".join(rng.choice(list("ACDF"), rng.integers(3, 6))) for _ in cells.obs_names]
    return cells


@pytest.fixture(params=MODELS, ids=lambda case: case.model.__name__)
def case(request) -> Case:
    return request.param


@pytest.fixture(scope="module")
def fitted(atlas):
    """A fitted model of each kind, on two of three batches; tests do not change it."""
    models = {}

    def of(case: Case) -> Model:
        if case.model not in models:
            models[case.model] = case.trained(atlas[atlas.obs["batch"] != "batch2"].copy())
        return models[case.model]

    return of


# ------------------------------------------------------------------------------------------------------------ training


def test_training_returns_its_run_and_a_history_of_every_loss_term(case, reference_cells):
    model = case.make(reference_cells)
    run = model.train(**QUICK)
    assert run is model.run and run.status == "done"
    pd.testing.assert_frame_equal(model.history, run.history)
    assert list(model.history.index) == [0, 1]
    assert np.isfinite(model.history.to_numpy(dtype=float)).all()
    terms = {name.removeprefix("train_") for name in model.history if name.startswith("train_")}
    assert {"loss", "unweighted_loss"} < terms
    assert {name.removeprefix("val_") for name in model.history if name.startswith("val_")} == terms


def test_training_lowers_the_loss(case, reference_cells):
    model = case.make(reference_cells)
    model.train(**{**QUICK, "max_epochs": 20})
    loss = model.history["val_unweighted_loss"]
    assert loss.iloc[-1] < loss.iloc[0]


def test_in_the_background_training_returns_at_once_and_ends_with_the_same_bits(case, reference_cells):
    model = case.make(reference_cells)
    run = model.train(**QUICK, background=True)
    assert run.wait(60) == "done"
    assert fingerprint(model) == fingerprint(case.trained(reference_cells))


@pytest.mark.parametrize("n_cells", [2, 3, 64, 65, 129])
def test_any_number_of_cells_can_be_trained_on(case, reference_cells, n_cells):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = case.make(reference_cells[:n_cells].copy())
    model.train(**QUICK, train_size=1.0)
    assert np.isfinite(model.get_latent_representation()).all()


def test_a_training_that_was_stopped_is_resumed_to_the_same_bits(case, reference_cells, tmp_path):
    options = {**QUICK, "max_epochs": 3}
    stopped = case.make(reference_cells)
    run = stopped.train(**options, checkpoint_dir=tmp_path, background=True)
    run.stop("batch")
    run.wait(60)
    resumed = case.make(reference_cells)
    assert resumed.train(**options, checkpoint_dir=tmp_path, resume=True).status == "done"
    assert fingerprint(resumed) == fingerprint(case.trained_by(reference_cells, options))


def test_a_model_whose_training_is_stopped_in_its_first_epoch_stays_usable(case, reference_cells):
    model = case.trained(reference_cells)
    run = model.train(**{**QUICK, "max_epochs": 100_000, "batch_size": 2}, background=True)
    run.stop("batch")
    run.wait()
    assert np.isfinite(model.get_latent_representation()).all()


# ------------------------------------------------------------------------------------------------------------- latents


def test_latents_are_one_finite_float32_row_per_cell(case, fitted, reference_cells):
    z = fitted(case).get_latent_representation(reference_cells)
    assert z.dtype == np.float32 and z.shape == (reference_cells.n_obs, fitted(case).config.n_latent)
    assert np.isfinite(z).all()


@pytest.mark.parametrize("batch_size", [1, 7, 64])
def test_latents_do_not_depend_on_how_many_cells_are_taken_at_a_time(case, fitted, reference_cells, batch_size):
    z = fitted(case).get_latent_representation(reference_cells)
    np.testing.assert_allclose(
        fitted(case).get_latent_representation(reference_cells, batch_size=batch_size), z, rtol=1e-4, atol=1e-5
    )


def test_latents_are_means_and_the_same_each_time(case, fitted, reference_cells):
    model = fitted(case)
    np.testing.assert_array_equal(*(model.get_latent_representation(reference_cells) for _ in range(2)))


def test_a_cell_alone_lies_where_it_lies_among_others(case, fitted, reference_cells):
    z = fitted(case).get_latent_representation(reference_cells)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        alone = fitted(case).get_latent_representation(reference_cells[5].copy())
    np.testing.assert_allclose(alone, z[[5]], rtol=1e-4, atol=1e-5)


def test_a_cell_without_counts_has_a_finite_latent(case, reference_cells):
    X = reference_cells.X.toarray()
    X[3] = 0
    with pytest.warns(UserWarning, match="Cell"):
        model = case.trained(stored(reference_cells, X))
    assert np.isfinite(model.get_latent_representation()).all()


def test_a_model_that_was_not_trained_has_no_latents(case, reference_cells):
    with pytest.raises(RuntimeError, match=r"has not been trained.*Call model\.train\(\)"):
        case.make(reference_cells).get_latent_representation()


# ------------------------------------------------------------------------------------------------ keys, options, seeds


def test_keys_noted_beforehand_are_the_same_as_keys_given(case, reference_cells):
    noted = reference_cells.copy()
    case.model.setup_anndata(noted, **case.keys)
    with_note = case.model(noted, **case.options)
    with_note.train(**QUICK)
    assert with_note.schema == case.make(reference_cells).schema
    assert fingerprint(with_note) == fingerprint(case.trained(reference_cells))


def test_the_note_of_the_keys_is_all_that_setup_writes(case, reference_cells):
    before = contents(reference_cells)
    case.model.setup_anndata(reference_cells, **case.keys)
    assert reference_cells.uns.pop("scarches_widgets") == case.keys
    assert contents(reference_cells) == before


def test_keys_noted_beforehand_survive_a_file(case, reference_cells, tmp_path):
    reference_cells.obs["site"] = np.random.default_rng(0).choice(["lung", "nose"], reference_cells.n_obs)
    keys = case.keys | {"categorical_covariate_keys": ["site", "cell_type"]}
    case.model.setup_anndata(reference_cells, **keys)
    reference_cells.write_h5ad(tmp_path / "cells.h5ad")
    from_file = case.model(ad.read_h5ad(tmp_path / "cells.h5ad"), **case.options)
    assert from_file.schema == case.model(reference_cells, **keys, **case.options).schema


def test_a_misspelt_option_is_refused_with_the_nearest_name(case, reference_cells):
    with pytest.raises(TypeError, match=r"no option 'dropout_rat'\. Did you mean 'dropout_rate'\?"):
        case.make(reference_cells, dropout_rat=5)
    with pytest.raises(TypeError, match=r"no option 'batch_sise'\. Did you mean 'batch_size'\?"):
        case.make(reference_cells).train(batch_sise=5)


def test_an_option_out_of_range_is_refused_with_its_range(case, reference_cells):
    with pytest.raises(ValueError, match="dropout_rate=1 should be less than 1"):
        case.make(reference_cells, dropout_rate=1)


def test_names_of_both_upstreams_are_understood(case, reference_cells):
    keys = {name: key for name, key in case.keys.items() if name != "batch_key"}
    ours = case.trained(reference_cells)
    theirs = case.model(reference_cells, condition_key="batch", **keys, **case.options)
    theirs.train(n_epochs=2, batch_size=64, progress=False)
    assert fingerprint(theirs) == fingerprint(ours)


def test_one_seed_gives_one_result_and_another_seed_another(case, reference_cells):
    first, second = case.trained(reference_cells), case.trained(reference_cells)
    assert fingerprint(first) == fingerprint(second)
    assert fingerprint(case.trained(reference_cells, seed=1)) != fingerprint(first)
    second.train(**QUICK, seed=1)
    first.train(**QUICK)
    assert fingerprint(first) != fingerprint(second)


def test_the_process_s_random_state_is_neither_read_nor_moved(case, reference_cells):
    random.seed(1), np.random.seed(1), torch.manual_seed(1)  # noqa: NPY002
    expected = fingerprint(case.trained(reference_cells))
    random.seed(2), np.random.seed(2), torch.manual_seed(2)  # noqa: NPY002
    states = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()  # noqa: NPY002
    model = case.trained(reference_cells)
    model.get_latent_representation()
    assert fingerprint(model) == expected
    assert states == (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist())  # noqa: NPY002


def test_two_runs_at_once_give_what_each_gives_alone(case, reference_cells):
    alone = [fingerprint(case.trained(reference_cells, seed=seed)) for seed in (0, 1)]
    models = [case.make(reference_cells, seed=seed) for seed in (0, 1)]
    for run in [model.train(**QUICK, background=True) for model in models]:
        run.wait()
    assert [fingerprint(model) for model in models] == alone


# ------------------------------------------------------------------------------------------------- however it is stored


@pytest.mark.parametrize("storage", STORAGE)
def test_training_and_latents_are_the_same_to_the_bit_however_cells_are_stored(
    case, fitted, reference_cells, tmp_path, storage
):
    adata = STORAGE[storage](reference_cells, tmp_path)
    model = case.make(adata)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.train(**QUICK)
    assert fingerprint(model) == fingerprint(fitted(case))
    z = fitted(case).get_latent_representation(reference_cells)
    np.testing.assert_array_equal(model.get_latent_representation(), z)
    np.testing.assert_array_equal(fitted(case).get_latent_representation(adata), z)


@pytest.mark.parametrize("storage", [name for name in STORAGE if "backed" not in name and "dask" not in name])
def test_nothing_of_the_anndata_is_modified(case, fitted, reference_cells, query_cells, tmp_path, storage):
    for cells, make in ((reference_cells, case.make), (query_cells, lambda cells: case.mapped(cells, fitted(case)))):
        adata = STORAGE[storage](cells, tmp_path)
        before = contents(adata)
        model = make(adata)
        model.train(**QUICK)
        model.get_latent_representation()
        model.get_latent_representation(adata)
        model.save(tmp_path / "model", overwrite=True)
        assert contents(adata) == before


@pytest.mark.parametrize("mode", ["r", "r+"])
def test_a_file_with_cells_is_never_written_to(case, reference_cells, tmp_path, mode):
    path = tmp_path / "cells.h5ad"
    reference_cells.write_h5ad(path)
    before = hashlib.sha256(path.read_bytes()).digest()
    adata = ad.read_h5ad(path, backed=mode)
    model = case.trained(adata)
    model.get_latent_representation()
    model.save(tmp_path / "model")
    adata.file.close()
    assert hashlib.sha256(path.read_bytes()).digest() == before


# ---------------------------------------------------------------------------------------------------- genes and batches


def test_genes_are_matched_by_name_and_never_by_position(case, fitted, reference_cells):
    z = fitted(case).get_latent_representation(reference_cells)
    shuffled = reference_cells[:, np.random.default_rng(0).permutation(40)].copy()
    np.testing.assert_array_equal(fitted(case).get_latent_representation(shuffled), z)


def test_missing_genes_are_announced_and_count_as_zero(case, fitted, reference_cells):
    missing = reference_cells.var_names[[4, 8, 15, 16, 23]]
    zeros = stored(reference_cells, reference_cells.X.toarray() * ~reference_cells.var_names.isin(missing))
    fewer = reference_cells[:, ~reference_cells.var_names.isin(missing)].copy()
    with pytest.warns(UserWarning, match=re.escape("5 missing, filled with zeros (Gene0005, Gene0009, Gene0016, …)")):
        z = fitted(case).get_latent_representation(fewer)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # on genes without counts
        np.testing.assert_array_equal(z, fitted(case).get_latent_representation(zeros))


def test_batches_are_matched_by_name_and_not_by_the_order_of_the_categories(case, fitted, reference_cells):
    z = fitted(case).get_latent_representation(reference_cells)
    reference_cells.obs["batch"] = pd.Categorical(reference_cells.obs["batch"], ["unused", "batch1", "batch0"])
    np.testing.assert_array_equal(fitted(case).get_latent_representation(reference_cells), z)


def test_an_unseen_batch_needs_surgery_and_the_error_says_so(case, fitted, query_cells):
    with pytest.raises(DataError, match=r"1 batch that the model has not seen \(batch2; 92 cells\).*load_query_data"):
        fitted(case).get_latent_representation(query_cells)


def test_cells_given_to_load_are_looked_at_like_any_others(case, fitted, reference_cells, tmp_path):
    fitted(case).save(tmp_path / "model")
    with pytest.raises(DataError, match=r"37 of the reference's 40 (genes|features) are missing"):
        case.model.load(tmp_path / "model", reference_cells[:, :3].copy()).get_latent_representation()


@pytest.mark.parametrize("option", ["min_gene_overlap", "gene_map"])
def test_the_advice_on_genes_can_be_followed_where_it_is_given(case, fitted, reference_cells, option):
    cells = reference_cells[:, :10].copy() if option == "min_gene_overlap" else reference_cells.copy()
    cells.var_names = [name if option == "min_gene_overlap" else name + ".1" for name in cells.var_names]
    with pytest.raises(DataError) as raised:
        fitted(case).get_latent_representation(cells)
    (value,) = re.findall(rf"set {option}='?([\w.]+\w)'?", str(raised.value))
    model = fitted(case)
    setattr(model, option, float(value) if option == "min_gene_overlap" else value)
    assert np.isfinite(model.get_latent_representation(cells)).all()


# --------------------------------------------------------------------------------------------------- saving and surgery


def test_a_saved_model_comes_back_to_the_bit_with_or_without_cells(case, fitted, reference_cells, tmp_path):
    model = fitted(case)
    model.save(tmp_path / "model")
    z = model.get_latent_representation(reference_cells)
    with_cells, without = (case.model.load(tmp_path / "model", cells) for cells in (reference_cells, None))
    assert fingerprint(with_cells) == fingerprint(without) == fingerprint(model)
    assert (without.schema, without.config) == (model.schema, model.config)
    pd.testing.assert_frame_equal(without.history, model.history)
    np.testing.assert_array_equal(with_cells.get_latent_representation(), z)
    np.testing.assert_array_equal(without.get_latent_representation(reference_cells), z)


def test_a_query_is_mapped_and_fitted_and_the_reference_stays_to_the_bit(case, fitted, reference_cells, query_cells):
    reference = fitted(case)
    weights, z = fingerprint(reference), reference.get_latent_representation(reference_cells)
    query = case.mapped(query_cells, reference)
    assert np.isfinite(query.get_latent_representation()).all()  # at once
    query.train(**QUICK, weight_decay=1e-2)
    assert np.isfinite(query.get_latent_representation()).all()
    assert fingerprint(reference) == weights
    np.testing.assert_array_equal(query.get_latent_representation(reference_cells), z)


def test_a_model_says_what_it_is(case, fitted, query_cells):
    assert repr(case.make(fitted(case).adata)).endswith("not trained)")
    assert re.search(r"\(208 cells, 40 genes, 2 batches; trained for 2 epochs\)", repr(fitted(case)))
    assert "3 batches, 1 surger" in repr(case.mapped(query_cells, fitted(case)))
