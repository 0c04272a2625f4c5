"""Cells that annbatch reads train a model to the bits of the same cells in memory.

annbatch needs Python 3.12: on 3.11, all of these are skipped but the last.
"""

import json
import shutil
import sys

import anndata as ad
import numpy as np
import pytest
import scipy.sparse as sp
import zarr
from small import QUICK, SMALL, fingerprint

import scarches_widgets as sca
from scarches_widgets.bridges import annbatch_collection
from scarches_widgets.bridges.annbatch_collection import read_collection
from scarches_widgets.data import files, minibatches
from scarches_widgets.data.matrix import layer_names
from scarches_widgets.data.minibatches import Cells
from scarches_widgets.data.names import DataError
from scarches_widgets.data.schema import DataSchema
from scarches_widgets.training.cells import TrainingCells
from scarches_widgets.training.plan import TrainingPlan

IN_BLOCKS = QUICK | {"shuffle_block": 16, "max_epochs": 3}
SHARD = 100  # cells


@pytest.fixture(scope="module")
def annbatch():
    return pytest.importorskip("annbatch", reason="the extra [annbatch] is not installed (it needs Python 3.12)")


def written(annbatch, adata, folder, **options):
    """Cells as a collection of shards of `SHARD` cells; its folder."""
    obsm, layers = dict(adata.obsm), {name: adata.layers[name] for name in layer_names(adata)}
    plain = ad.AnnData(adata.X, obs=adata.obs, var=adata.var[[]], obsm=obsm, layers=layers)  # without uns
    plain.write_h5ad(folder / "cells.h5ad")
    shape = {"dataset_size": SHARD, "shuffle_chunk_size": 20, "n_obs_per_chunk": 8, "shard_size": 32}
    collection = annbatch.DatasetCollection(folder / "cells.zarr")
    collection.add_adatas([folder / "cells.h5ad"], **shape, rng=np.random.default_rng(0), **options)
    return folder / "cells.zarr"


@pytest.fixture(scope="module")
def folder(annbatch, atlas, tmp_path_factory):
    return written(annbatch, atlas, tmp_path_factory.mktemp("collection"))


def model_of(adata):
    return sca.models.SCANVI(adata, batch_key="batch", labels_key="cell_type", unlabeled_category="Unknown", **SMALL)


def trained(adata, **options):
    model = model_of(adata)
    model.train(**IN_BLOCKS | options)
    return model


def test_a_collection_trains_to_the_bits_of_the_same_cells_in_memory_and_its_loss_falls(
    annbatch, folder, atlas, monkeypatch
):
    monkeypatch.setattr(files, "SLICE", 32)
    monkeypatch.setattr(annbatch_collection, "SLICE", 32)
    asked = []
    rows = annbatch_collection.ShardedMatrix._rows
    monkeypatch.setattr(
        annbatch_collection.ShardedMatrix, "_rows", lambda self, *span: asked.append(span) or rows(self, *span)
    )
    adata = read_collection(folder)
    assert len(list(folder.glob("dataset_*"))) == 3 and list(adata.obs_names) != list(atlas.obs_names)
    in_memory = atlas[adata.obs_names].copy()
    model, expected = trained(adata), trained(in_memory)
    assert fingerprint(model) == fingerprint(expected)
    np.testing.assert_array_equal(model.get_latent_representation(), expected.get_latent_representation())
    assert model.history["train_loss"].iloc[-1] < model.history["train_loss"].iloc[0]
    assert len(asked) > 30 and max(stop - start for start, stop in asked) <= 32  # never the matrix as a whole
    opened = read_collection(annbatch.DatasetCollection(folder, mode="r"))
    assert (opened.X.compute() != in_memory.X).nnz == 0


def test_each_cell_comes_once_per_epoch_with_its_own_counts_batch_and_label(folder, atlas, monkeypatch):
    monkeypatch.setattr(minibatches, "WINDOW", 64)
    adata = read_collection(folder)
    schema = DataSchema.of(adata, batch_key="batch", labels_key="cell_type")
    cells = TrainingCells(Cells(adata, schema), TrainingPlan(batch_size=16, shuffle_block=8))
    for epoch in (0, 1):
        dealt = []
        for minibatch in cells.train(epoch):
            theirs = atlas[adata.obs_names[minibatch.rows]]
            np.testing.assert_array_equal(minibatch.counts.numpy(), theirs.X.toarray())
            assert [schema.batches[code] for code in minibatch.batch] == list(theirs.obs["batch"])
            assert [schema.labels[code] for code in minibatch.labels] == list(theirs.obs["cell_type"])
            assert minibatch.seen is not None
            dealt += minibatch.rows.tolist()
        assert sorted(dealt) == cells.train_rows.tolist()
    assert cells.shuffling_note() is None


def test_training_goes_on_from_a_checkpoint_to_the_bits_of_an_unbroken_run(folder, tmp_path):
    whole = trained(read_collection(folder))
    first = model_of(read_collection(folder))
    first.watch_runs(
        lambda run: run.subscribe(lambda event: run.stop("batch") if getattr(event, "step", 0) == 3 else None)
    )
    first.train(**IN_BLOCKS, checkpoint_dir=tmp_path / "kept", checkpoint_every=0)
    assert first.run.status == "stopped"
    resumed = trained(read_collection(folder), checkpoint_dir=tmp_path / "kept", resume=True)
    assert fingerprint(resumed) == fingerprint(whole)


def test_layers_dense_matrices_and_proteins_are_read_and_genes_go_to_their_places(annbatch, tmp_path):
    cells = sca.datasets.cite_seq(n_obs=250, n_vars=60, n_proteins=12, n_batches=2, n_types=3, seed=0)
    cells.layers["counts"], cells.X = cells.X, np.log1p(cells.X.toarray())
    adata = read_collection(written(annbatch, cells[:, ::-1].copy(), tmp_path))
    theirs = cells[adata.obs_names]
    np.testing.assert_array_equal(adata.X.compute(), theirs.X[:, ::-1])
    backwards = adata.layers["counts"][::-3].compute()
    np.testing.assert_array_equal(backwards.toarray(), theirs.layers["counts"].toarray()[::-3, ::-1])
    np.testing.assert_array_equal(adata.obsm["protein_expression"], theirs.obsm["protein_expression"])
    schema = DataSchema(genes=tuple(cells.var_names), layer="counts")
    (minibatch,) = Cells(adata, schema, schema.align(adata)[0]).in_order(1000)
    np.testing.assert_array_equal(minibatch.counts.numpy(), theirs.layers["counts"].toarray())


def test_shards_that_are_sorted_by_batch_are_told(annbatch, tmp_path, monkeypatch):
    monkeypatch.setattr(minibatches, "WINDOW", 64)
    atlas = sca.datasets.atlas(n_obs=400, n_vars=30, n_batches=8, n_types=2, seed=0)
    in_order = atlas[np.argsort(atlas.obs["batch"].to_numpy(), kind="stable")].copy()
    model = sca.models.SCVI(
        read_collection(written(annbatch, in_order, tmp_path, shuffle=False)), batch_key="batch", **SMALL
    )
    model.train(**QUICK | {"shuffle_block": 64, "batch_size": 16, "max_epochs": 1})
    assert any("sorted by batch" in warning for warning in model.run.warnings)


def test_what_is_no_collection_or_not_safe_to_open_is_refused(annbatch, folder, atlas, tmp_path):
    with pytest.raises(TypeError, match=r"order of its own.*Pass the DatasetCollection"):
        read_collection(annbatch.Loader(preload_to_gpu=False))
    with pytest.raises(TypeError, match="folder or a DatasetCollection, not a AnnData"):
        read_collection(atlas)
    with pytest.raises(DataError, match=r"an \.h5ad file, not a collection"):
        read_collection(folder.parent / "cells.h5ad")
    atlas.write_zarr(tmp_path / "plain.zarr")
    with pytest.raises(DataError, match="holds no shards"):
        read_collection(tmp_path / "plain.zarr")
    spoilt = tmp_path / "spoilt.zarr"
    shutil.copytree(folder, spoilt)
    shards = zarr.open_group(spoilt, mode="r+", use_consolidated=False)
    ad.io.write_elem(shards["dataset_1"], "X", sp.csc_matrix(atlas.X[:SHARD]))
    with pytest.raises(DataError, match="X of the collection is stored as csc_matrix, csr_matrix"):
        read_collection(spoilt)
    ad.io.write_elem(shards["dataset_1"], "obs", ad.io.read_elem(shards["dataset_0"]["obs"]))
    with pytest.raises(DataError, match="100 names of cells are in the files more than once"):
        read_collection(spoilt)
    ad.io.write_elem(shards["dataset_1"], "var", atlas.var.iloc[1:, :0])
    with pytest.raises(DataError, match=r"Shard 1 of the collection has other genes.*\(39 and 40\)"):
        read_collection(spoilt)
    array = spoilt / "dataset_2" / "X" / "data" / "zarr.json"
    array.write_text(json.dumps(json.loads(array.read_text()) | {"codecs": [{"name": "numcodecs.pickle"}]}))
    with pytest.raises(DataError, match="pickle', which is not known to be safe"):
        read_collection(spoilt)


def test_without_annbatch_it_is_said_what_to_install_and_how_to_read_the_same_cells(monkeypatch):
    monkeypatch.setattr(sys, "version_info", (3, 11, 7))
    with pytest.raises(ImportError, match=r"needs Python 3.12 or later, and this is .*sca\.read\("):
        read_collection("cells.zarr")
    monkeypatch.setattr(sys, "version_info", (3, 12, 1))
    monkeypatch.setattr(annbatch_collection, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"pip install 'scarches-widgets\[annbatch\]'"):
        read_collection("cells.zarr")
