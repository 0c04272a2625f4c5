"""Training on files larger than the memory: the same result as in memory, in blocks that a disk likes."""

import numpy as np
import pytest
from small import QUICK, SMALL, fingerprint

import scarches_widgets as sca
from scarches_widgets.data.minibatches import Cells
from scarches_widgets.data.names import DataError
from scarches_widgets.data.schema import DataSchema
from scarches_widgets.training.cells import TrainingCells
from scarches_widgets.training.plan import TrainingPlan

IN_BLOCKS = QUICK | {"shuffle_block": 32}


def trained(adata, **options):
    model = sca.models.SCVI(adata, batch_key="batch", **SMALL)
    model.train(**IN_BLOCKS | options)
    return model


def test_files_of_any_kind_train_to_the_bits_of_the_same_cells_in_memory(atlas, tmp_path):
    atlas.write_h5ad(tmp_path / "whole.h5ad", compression="gzip")
    atlas.write_zarr(tmp_path / "whole.zarr")
    atlas[:100].copy().write_h5ad(tmp_path / "first.h5ad")
    atlas[100:].copy().write_zarr(tmp_path / "second.zarr")
    expected = trained(atlas)
    for paths in ("whole.h5ad", "whole.zarr", ["first.h5ad", "second.zarr"]):
        source = [tmp_path / path for path in paths] if isinstance(paths, list) else tmp_path / paths
        adata = sca.read(source, backed="r")
        model = trained(adata)
        assert fingerprint(model) == fingerprint(expected), paths
        np.testing.assert_array_equal(model.get_latent_representation(), expected.get_latent_representation())


def test_files_are_joined_by_the_names_of_their_genes(atlas, tmp_path):
    first, second = atlas[:150, 5:].copy(), atlas[150:, ::-1].copy()
    first.write_h5ad(tmp_path / "first.h5ad")
    second.write_h5ad(tmp_path / "second.h5ad")
    joined = sca.read([tmp_path / "first.h5ad", tmp_path / "second.h5ad"], backed="r")
    assert list(joined.var_names) == list(atlas.var_names[5:])
    np.testing.assert_array_equal(joined.X.compute().toarray(), atlas.X[:, 5:].toarray())
    assert list(joined.obs["batch"]) == list(atlas.obs["batch"])
    with pytest.raises(DataError, match="names of cells are in the files more than once"):
        atlas.write_h5ad(tmp_path / "again.h5ad")
        sca.read([tmp_path / "first.h5ad", tmp_path / "again.h5ad"], backed="r")
    with pytest.raises(ValueError, match="backed='r'"):
        sca.read([tmp_path / "first.h5ad"])


def dealt(atlas, **options) -> TrainingCells:
    schema = DataSchema.of(atlas, batch_key="batch")
    return TrainingCells(Cells(atlas, schema), TrainingPlan(batch_size=16, **options))


def test_blocks_deal_every_cell_once_per_epoch_in_another_order_each(atlas):
    cells = dealt(atlas, shuffle_block=8)
    epochs = [np.concatenate([minibatch.rows for minibatch in cells.train(epoch)]) for epoch in (0, 1, 0)]
    for rows in epochs:
        np.testing.assert_array_equal(np.sort(rows), cells.train_rows)
    np.testing.assert_array_equal(epochs[0], epochs[2])
    assert (epochs[0] != epochs[1]).any()


def test_a_file_sorted_by_batch_is_told_where_blocks_show_few_batches_and_not_otherwise(monkeypatch):
    monkeypatch.setattr("scarches_widgets.data.minibatches.WINDOW", 64)
    atlas = sca.datasets.atlas(n_obs=800, n_vars=24, n_batches=8, n_types=2, seed=0)
    in_order = atlas[np.argsort(atlas.obs["batch"].to_numpy(), kind="stable")].copy()
    note = dealt(in_order, shuffle_block=64).shuffling_note()
    assert "sorted by batch: a minibatch sees" in note and "of 8 batches" in note and "smaller shuffle_block" in note
    assert dealt(in_order, shuffle_block=4).shuffling_note() is None
    assert dealt(in_order).shuffling_note() is None
    mixed = atlas[np.random.default_rng(0).permutation(atlas.n_obs)].copy()
    assert dealt(mixed, shuffle_block=64).shuffling_note() is None
    model = sca.models.SCVI(in_order, batch_key="batch", **SMALL)
    model.train(**QUICK | {"shuffle_block": 64, "batch_size": 16})
    assert any("sorted by batch" in warning for warning in model.run.warnings)
