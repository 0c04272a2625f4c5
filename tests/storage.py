"""The same cells in every way in which an AnnData can hold them, and a way to see that nobody has changed them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import anndata as ad
import dask.array as da
import numpy as np
import pandas as pd
import scipy.sparse as sp


def stored(adata, X):
    """A copy of `adata` that holds `X`."""
    copy = adata.copy()
    copy.X = X
    return copy


def on_disk(adata, X, folder):
    path = Path(folder) / "cells.h5ad"
    stored(adata, X).write_h5ad(path)
    return ad.read_h5ad(path, backed="r")


def memory_mapped(adata, folder):
    np.save(Path(folder) / "X.npy", adata.X.toarray())
    return stored(adata, np.load(Path(folder) / "X.npy", mmap_mode="r"))


def untidy(X):
    """`X` with every entry in two parts, the entries of each row back to front, and an explicit zero in each row."""
    n, entries = X.shape[0], X.tocoo()
    rows = np.concatenate([entries.row, entries.row, np.arange(n)])
    columns = np.concatenate([entries.col, entries.col, np.zeros(n, int)])
    values = np.concatenate([entries.data - 1, np.ones_like(entries.data), np.zeros(n, np.float32)])
    order = np.lexsort((-columns, rows))
    starts = np.searchsorted(rows[order], np.arange(n + 1))
    return sp.csr_matrix((values[order], columns[order], starts), shape=X.shape)


def among_others(adata):
    """The cells and genes of `adata`, shuffled among as many others; and where they stand."""
    (n_cells, n_genes), rng = adata.shape, np.random.default_rng(0)
    X = np.full((2 * n_cells, 2 * n_genes), 7, dtype=np.float32)
    X[:n_cells, :n_genes] = adata.X.toarray()
    tables = (pd.concat([table, table.set_axis(table.index + " too")]) for table in (adata.obs, adata.var))
    orders = [rng.permutation(length) for length in X.shape]
    many = ad.AnnData(sp.csr_matrix(X), *tables)
    for key, table in adata.obsm.items():
        if isinstance(table, pd.DataFrame):
            many.obsm[key] = pd.concat([table, table.set_axis(table.index + " too")])
    many = many[np.ix_(*orders)].copy()
    return many, np.argsort(orders[0])[:n_cells], np.argsort(orders[1])[:n_genes]


def view(adata):
    many, cells, genes = among_others(adata)
    return many[cells, genes]


def view_on_disk(adata, folder, convert=lambda X: X):
    many, cells, genes = among_others(adata)
    return on_disk(many, convert(many.X), folder)[cells, genes]


def dense(X):
    return X.toarray()


# name -> (cells with a tidy CSR matrix, empty folder) -> the same cells, held otherwise
STORAGE: dict[str, Callable[[ad.AnnData, Path], ad.AnnData]] = {
    "csr": lambda adata, folder: adata.copy(),
    "csc": lambda adata, folder: stored(adata, adata.X.tocsc()),
    "csr_array": lambda adata, folder: stored(adata, sp.csr_array(adata.X)),
    "untidy csr": lambda adata, folder: stored(adata, untidy(adata.X)),
    "dense": lambda adata, folder: stored(adata, dense(adata.X)),
    "dense, gene by gene": lambda adata, folder: stored(adata, np.asfortranarray(dense(adata.X))),
    "read-only memmap": memory_mapped,
    "view": lambda adata, folder: view(adata),
    "backed csr": lambda adata, folder: on_disk(adata, adata.X, folder),
    "backed dense": lambda adata, folder: on_disk(adata, dense(adata.X), folder),
    "view of backed csr": view_on_disk,
    "view of backed dense": lambda adata, folder: view_on_disk(adata, folder, dense),
    "dask": lambda adata, folder: stored(adata, da.from_array(dense(adata.X), chunks=(70, 15))),
    "dask of csr": lambda adata, folder: stored(adata, da.from_array(adata.X, chunks=(70, -1))),
    "float64": lambda adata, folder: stored(adata, adata.X.astype(np.float64)),
    "int64": lambda adata, folder: stored(adata, adata.X.astype(np.int64)),
    "uint16": lambda adata, folder: stored(adata, dense(adata.X).astype(np.uint16)),
}


def contents(adata) -> dict[str, object]:
    """All that an AnnData in memory holds, to the bit."""
    matrices = {"X": adata.X, **{f"layer {key}": adata.layers[key] for key in adata.layers}}
    held = {name: as_bytes(matrix) for name, matrix in matrices.items()}
    held |= {f"obsm {key}": np.asarray(adata.obsm[key]).tobytes() for key in adata.obsm}
    for name, table in (("obs", adata.obs), ("var", adata.var)):
        categories = {key: tuple(table[key].cat.categories) for key in table.select_dtypes("category")}
        held[name] = (table.to_csv(), tuple(map(str, table.dtypes)), categories)
    return held | {"uns": repr(adata.uns), "is view": adata.is_view}


def as_bytes(matrix) -> tuple:
    if sp.issparse(matrix):
        return matrix.format, *(part.tobytes() for part in (matrix.data, matrix.indices, matrix.indptr))
    return str(matrix.dtype), np.asarray(matrix).tobytes()
