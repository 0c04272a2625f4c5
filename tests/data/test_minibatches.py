"""Cells come out the same to the bit however they are stored, and nothing is copied whole or changed."""

from __future__ import annotations

import hashlib
import tracemalloc
import warnings

import anndata as ad
import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st
from storage import STORAGE, contents, stored

from scarches_widgets.data import minibatches
from scarches_widgets.data.minibatches import Cells, step_bounds
from scarches_widgets.data.schema import DataSchema

SHUFFLED = np.random.default_rng(0).permutation(300)


def schema_of(adata):
    return DataSchema.of(adata, batch_key="batch", labels_key="cell_type")


def dealt(cells: Cells, rows=SHUFFLED, batch_size=64) -> list[tuple]:
    """All that a network sees, minibatch by minibatch, as copies."""
    return [
        (
            minibatch.counts.numpy().tobytes(),
            minibatch.library_size.numpy().tobytes(),
            minibatch.batch.tolist(),
            minibatch.labels.tolist(),
            minibatch.rows.tolist(),
        )
        for minibatch in cells.minibatches(rows, batch_size)
    ]


def counts_of(adata, schema, columns=None, **options) -> np.ndarray:
    (minibatch,) = Cells(adata, schema, columns, **options).in_order(1000)
    return minibatch.counts.numpy()


def test_where_counts_are_is_told_cell_by_cell_and_zeros_that_are_stored_are_none(atlas):
    holed = atlas.copy()
    holed.X = sp.csr_matrix(holed.X)
    holed.X.data[::3] = 0
    for adata, model_genes in ((atlas, atlas), (holed, holed), (holed, holed[:, ::-2])):
        schema = schema_of(model_genes)
        columns, _ = schema.align(adata)
        for minibatch in Cells(adata, schema, columns).minibatches(SHUFFLED, 64):
            starts, genes = minibatch.seen
            cells = np.repeat(np.arange(len(minibatch)), np.diff(starts))
            found = np.zeros(minibatch.counts.shape, dtype=bool)
            found[cells, genes] = True
            assert (found == (minibatch.counts.numpy() != 0)).all() and len(genes) == found.sum()


# ------------------------------------------------------------------------------------------ however it is stored


@pytest.mark.parametrize("window", [100, 8192], ids=["in windows", "in one window"])
@pytest.mark.parametrize("storage", STORAGE)
def test_minibatches_are_the_same_to_the_bit_however_cells_are_stored(atlas, tmp_path, monkeypatch, storage, window):
    monkeypatch.setattr(minibatches, "WINDOW", window)
    schema = schema_of(atlas)
    adata = STORAGE[storage](atlas, tmp_path)
    assert dealt(Cells(adata, schema)) == dealt(Cells(atlas, schema))


@pytest.mark.parametrize("storage", STORAGE)
def test_genes_go_to_their_places_however_the_cells_are_stored(atlas, tmp_path, storage):
    genes = [*atlas.var_names[[7, 3, 30, 12, 0]], "absent gene", *atlas.var_names[20:25]]
    schema = DataSchema(genes=tuple(genes))
    adata = STORAGE[storage](atlas, tmp_path)
    columns, report = schema.align(adata)
    assert report.missing == ("absent gene",) and len(report.extra) == 30
    expected = np.insert(atlas[:, [gene for gene in genes if gene in atlas.var_names]].X.toarray(), 5, 0, axis=1)
    np.testing.assert_array_equal(counts_of(adata, schema, columns), expected)


def test_small_integers_are_summed_without_overflow(atlas):
    few = stored(atlas, np.minimum(atlas.X.toarray(), 255))
    bytes_ = stored(few, few.X.astype(np.uint8))
    assert few.X.sum(1).max() > 255
    assert dealt(Cells(bytes_, schema_of(few))) == dealt(Cells(few, schema_of(few)))
    halves = sp.csr_matrix((np.array([200, 100], np.uint8), [0, 0], [0, 2]), shape=(1, 40))  # 300 in two entries
    assert counts_of(stored(atlas[:1], halves), schema_of(atlas))[0, 0] == 300


def test_values_a_hair_beside_whole_numbers_are_rounded_unless_they_are_no_counts(atlas):
    noisy = stored(atlas, atlas.X.toarray() * np.float32(1 + 1e-7))
    np.testing.assert_array_equal(counts_of(noisy, schema_of(atlas)), atlas.X.toarray())
    logs = stored(atlas, atlas.X.log1p())
    np.testing.assert_array_equal(counts_of(logs, schema_of(atlas), are_counts=False), logs.X.toarray())


def test_a_layer_is_read_in_place_of_x(atlas):
    adata = atlas.copy()
    adata.layers["counts"], adata.X = adata.X.copy(), adata.X.log1p()
    np.testing.assert_array_equal(counts_of(adata, DataSchema.of(adata, layer="counts")), atlas.X.toarray())


def test_a_cell_without_counts_has_library_size_one(atlas):
    X = atlas.X.toarray()
    X[5] = 0
    (minibatch,) = Cells(stored(atlas, X), schema_of(atlas)).in_order(1000)
    assert minibatch.library_size[5].item() == 1
    np.testing.assert_array_equal(minibatch.library_size[:5, 0], X[:5].sum(1))


# ----------------------------------------------------------------------------------------------- nothing changes


@pytest.mark.parametrize("storage", [name for name in STORAGE if "backed" not in name and "dask" not in name])
def test_the_cells_in_memory_are_not_modified(atlas, tmp_path, storage):
    adata = STORAGE[storage](atlas, tmp_path)
    before = contents(adata)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # such as ImplicitModificationWarning
        dealt(Cells(adata, schema_of(atlas)))
    assert contents(adata) == before


@pytest.mark.parametrize("storage", ["backed csr", "backed dense", "view of backed csr", "view of backed dense"])
def test_a_file_is_not_written_to(atlas, tmp_path, storage):
    adata = STORAGE[storage](atlas, tmp_path)
    before = hashlib.sha256((tmp_path / "cells.h5ad").read_bytes()).digest()
    dealt(Cells(adata, schema_of(atlas)))
    adata.file.close()
    assert hashlib.sha256((tmp_path / "cells.h5ad").read_bytes()).digest() == before


def test_what_a_minibatch_holds_is_no_window_onto_the_user_s_arrays(atlas):
    dense = stored(atlas, atlas.X.toarray())
    before = contents(dense)
    for minibatch in Cells(dense, schema_of(atlas)).in_order(64):
        for tensor in (minibatch.counts, minibatch.library_size, minibatch.batch, minibatch.labels):
            tensor.zero_()
    assert contents(dense) == before
    assert sum(minibatch.batch.sum() for minibatch in Cells(dense, schema_of(atlas)).in_order(64)) > 0


# ------------------------------------------------------------------------------------------------- little memory


def test_all_minibatches_of_a_pass_share_one_buffer(atlas):
    passes = [
        {minibatch.counts.data_ptr() for minibatch in Cells(atlas, schema_of(atlas)).in_order(64)} for _ in range(2)
    ]
    assert all(len(addresses) == 1 for addresses in passes)
    assert "reused buffer" in minibatches.Minibatch.__doc__


class Spy:
    """A matrix in a file that counts the rows of each read."""

    def __init__(self, matrix):
        self.matrix, self.reads = matrix, []

    def __getitem__(self, rows):
        self.reads.append(len(rows))
        return self.matrix[rows]


@pytest.mark.parametrize("storage", ["backed csr", "backed dense", "view of backed csr", "view of backed dense"])
def test_a_file_is_read_in_windows_of_several_minibatches(atlas, tmp_path, monkeypatch, storage):
    monkeypatch.setattr(minibatches, "WINDOW", 100)
    cells = Cells(STORAGE[storage](atlas, tmp_path), schema_of(atlas))
    cells._values = spy = Spy(cells._values)
    dealt(cells, batch_size=40)
    assert spy.reads == [80, 80, 80, 60]


@pytest.mark.parametrize("storage", ["backed csr", "backed dense", "view of backed csr", "view of backed dense"])
def test_a_file_is_never_in_memory_as_a_whole(tmp_path, monkeypatch, storage):
    monkeypatch.setattr(minibatches, "WINDOW", 50)
    counts = np.random.default_rng(0).poisson(1, (3000, 300)).astype(np.float32)
    large = ad.AnnData(sp.csr_matrix(counts))
    adata = STORAGE[storage](large, tmp_path)
    schema = DataSchema.of(large)
    tracemalloc.start()
    for _ in Cells(adata, schema).in_order(50):
        pass
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < large.X.data.nbytes  # half of what a CSR copy takes, and two thirds of a dense one


def test_a_dask_array_is_computed_in_windows_and_never_whole(atlas, tmp_path, monkeypatch):
    monkeypatch.setattr(minibatches, "WINDOW", 100)
    adata = STORAGE["dask"](atlas, tmp_path)
    computed = []
    compute = type(adata.X).compute
    monkeypatch.setattr(type(adata.X), "compute", lambda self, **kw: computed.append(len(self)) or compute(self, **kw))
    dealt(Cells(adata, schema_of(atlas)), batch_size=40)
    assert computed == [80, 80, 80, 60]


# --------------------------------------------------------------------------------------------- steps of an epoch


@given(st.integers(1, 300), st.integers(1, 64))
@settings(max_examples=300, deadline=None)
def test_steps_hold_every_cell_once_and_none_is_of_a_single_cell(n, batch_size):
    bounds = step_bounds(n, batch_size)
    assert [cell for start, stop in bounds for cell in range(start, stop)] == list(range(n))
    sizes = [stop - start for start, stop in bounds]
    if batch_size == 1:
        assert sizes == [1] * n  # what was asked for; useful for mapping, and for training without batch normalisation
    else:
        assert min(sizes) > 1 or n == 1
        assert max(sizes) <= batch_size + 1
        assert len(sizes) == max(1, n // batch_size + (n % batch_size > 1))


def test_no_cells_make_no_steps(atlas):
    assert step_bounds(0, 64) == []
    assert dealt(Cells(atlas, schema_of(atlas)), rows=SHUFFLED[:0]) == []


@pytest.mark.parametrize("storage", ["csr", "backed csr"])
def test_a_pass_can_start_at_any_step_and_deals_out_the_same_cells_from_there(atlas, tmp_path, monkeypatch, storage):
    monkeypatch.setattr(minibatches, "WINDOW", 100)
    cells = Cells(STORAGE[storage](atlas, tmp_path), schema_of(atlas))
    everything = dealt(cells)
    for step in range(len(everything) + 1):
        rest = [minibatch.counts.numpy().tobytes() for minibatch in cells.minibatches(SHUFFLED, 64, first_step=step)]
        assert rest == [counts for counts, *_ in everything[step:]]


def test_one_cell_alone_is_the_one_of_the_minibatch(atlas):
    adata = atlas.copy()
    adata.obs["size"], adata.obs["age"] = np.linspace(1, 2, 300), np.linspace(20, 80, 300)
    schema = DataSchema.of(
        adata, batch_key="batch", labels_key="cell_type", size_factor_key="size", continuous_covariate_keys=["age"]
    )
    (minibatch,) = Cells(adata, schema).minibatches(SHUFFLED[:50], 50)
    one, row = minibatch.only(7), SHUFFLED[7]
    assert len(one) == 1 and one.rows.tolist() == [row]
    np.testing.assert_array_equal(one.counts[0], adata.X[row].toarray()[0])
    assert one.library_size.item() == adata.X[row].sum()
    assert one.continuous.item() == np.float32(adata.obs["age"].iloc[row])
    assert one.size_factor.item() == np.float32(adata.obs["size"].iloc[row])
    assert schema.batches[one.batch.item()] == adata.obs["batch"].iloc[row]
    assert schema.labels[one.labels.item()] == adata.obs["cell_type"].iloc[row]
