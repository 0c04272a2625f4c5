"""A matrix in any container, read in blocks: NumPy, SciPy CSR and CSC, dask, a file (backed), or a view of these.

    for block in matrix_of(adata, layer).blocks():
        block.values, block.cells, block.genes

A block is about a hundred thousand values as they are stored (gene by gene for CSC and Fortran order): never densified,
never whole. The structure is checked first, before native code follows a pointer out of an array. Nothing is written:
a sparse matrix is not even asked for `has_sorted_indices`, since SciPy would note the answer in it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import sparse

from .findings import error
from .names import shown

if TYPE_CHECKING:
    from anndata import AnnData

VALUES_PER_BLOCK = 2**17


class Unreadable(Exception):
    """A matrix cannot be read; its one argument is the finding that says why."""


@dataclass(frozen=True)
class Block:
    """Some of the values in memory, and the cell and gene of each, as positions in the AnnData.

    From a sparse matrix, three arrays of one length. From a dense one, `values` is a table; one of `cells` and `genes`
    is a column beside it, the other a row above it.
    """

    values: np.ndarray
    cells: np.ndarray
    genes: np.ndarray
    unsorted: bool = False
    n_duplicates: int = 0  # entries that were added to others of the same cell and gene

    @property
    def is_sparse(self) -> bool:
        return self.values.ndim == 1


@dataclass(frozen=True)
class Matrix:
    """A matrix as it is stored, and the rows and columns of it that the AnnData shows (None: all)."""

    where: str
    stored: Any
    shape: tuple[int, int]  # as the AnnData that holds it declares
    cells: np.ndarray | None = None
    genes: np.ndarray | None = None

    @cached_property
    def kind(self) -> str:
        """`sparse`, `dense`, `dask`, `sparse file`, `dense file`, or empty for what cannot be read."""
        if hasattr(self.stored, "__dask_graph__"):
            return "dask"
        if isinstance(self.stored, np.ndarray):
            return "" if isinstance(self.stored, np.ma.MaskedArray | np.matrix) else "dense"
        is_sparse = getattr(self.stored, "format", None) in ("csr", "csc")
        if hasattr(self.stored, "group"):  # of arrays in a file: anndata's CSRDataset or CSCDataset
            return "sparse file" if is_sparse else ""
        if type(self.stored).__module__.partition(".")[0] in ("h5py", "zarr"):
            return "dense file" if hasattr(self.stored, "dtype") else ""
        return "sparse" if is_sparse and sparse.issparse(self.stored) else ""

    @property
    def is_sparse(self) -> bool:
        return self.kind.startswith("sparse")

    @property
    def by_gene(self) -> bool:
        """Whether a gene's values stand together, not a cell's: then a row is a gene."""
        return self.stored.format == "csc" if self.is_sparse else self.kind == "dense" and self.stored.flags.fnc

    @cached_property
    def compressed(self) -> tuple[Any, Any, np.ndarray]:
        """data and indices (perhaps in a file) and indptr of a sparse matrix."""
        if self.kind == "sparse":
            return self.stored.data, self.stored.indices, self.stored.indptr.astype(np.int64)
        group = self.stored.group
        return group["data"], group["indices"], group["indptr"][...].astype(np.int64)

    def first_cells(self, number: int) -> Matrix:
        """The same matrix of fewer cells."""
        return replace(self, cells=(np.arange(self.shape[0]) if self.cells is None else self.cells)[:number])

    def blocks(self) -> Iterator[Block]:
        """All of the matrix, about `VALUES_PER_BLOCK` stored values at a time, but at least a row; or `Unreadable`."""
        self._check_type()
        self._check_structure()
        yield from self._blocks_of_dask() if self.kind == "dask" else self._blocks_of_rows()

    def _check_type(self) -> None:
        if not self.kind:
            name = f"{type(self.stored).__module__.partition('.')[0]}.{type(self.stored).__name__}"
            mend = "Convert it, for example with scipy.sparse.csr_matrix(…) or numpy.asarray(…)."
            if isinstance(self.stored, np.ma.MaskedArray):
                mend = "Fill or drop the masked values: `.filled(0)`."
            why = "Models read NumPy arrays, SciPy CSR and CSC matrices, dask arrays and backed files."
            raise Unreadable(error("unreadable-type", self.where)(f"{self.where} is a {name}.", why, mend))
        dtype = self.stored.dtype
        if dtype.kind not in "biuf":
            mend = f"If it holds numbers, convert it: adata.{self.where} = adata.{self.where}.astype('float32')."
            what = f"{self.where} has the type {dtype}."
            raise Unreadable(error("not-numbers", self.where)(what, "A model needs real numbers.", mend))

    def _check_structure(self) -> None:
        if tuple(self.stored.shape) != self.shape:
            stored, declared = (" × ".join(map(str, shape)) for shape in (self.stored.shape, self.shape))
            raise self._malformed(f"it is {stored}, but obs and var make it {declared}")
        if not self.is_sparse:
            return
        data, indices, row_starts = self.compressed
        n_rows, falls = self.shape[self.by_gene], np.diff(row_starts) < 0
        if len(row_starts) != n_rows + 1:
            raise self._malformed(f"indptr has {len(row_starts):,} entries, not {n_rows + 1:,}")
        if row_starts[0] != 0:
            raise self._malformed(f"indptr starts at {row_starts[0]:,}, not at 0")
        if falls.any():
            row = int(np.argmax(falls))
            raise self._malformed(f"indptr falls from {row_starts[row]:,} to {row_starts[row + 1]:,} at row {row:,}")
        if indices.dtype.kind not in "iu":
            raise self._malformed(f"indices are of type {indices.dtype}, not whole numbers")
        if data.shape != indices.shape or row_starts[-1] > indices.shape[0]:
            sizes = f"{data.shape[0]:,} values and {indices.shape[0]:,} indices"
            raise self._malformed(f"indptr ends at {row_starts[-1]:,}, but there are {sizes}")

    def _malformed(self, fault: str) -> Unreadable:
        finding = error("malformed-matrix", self.where)(
            f"{self.where} is malformed: {fault}.",
            "Reading it would reach beyond its memory; the file may be damaged, or indptr or indices were edited.",
            "Load or build the matrix again.",
        )
        return Unreadable(finding)

    def _by_row(self, by_cell: tuple[Any, Any]) -> tuple[Any, Any]:
        """A pair of (cells, genes) as (rows, columns), and back."""
        return by_cell[::-1] if self.by_gene else by_cell

    def _blocks_of_rows(self) -> Iterator[Block]:
        n_rows, n_columns = self._by_row(self.shape)
        rows, _ = self._by_row((self.cells, self.genes))
        rows = np.arange(n_rows) if rows is None else rows
        in_stored_order = np.argsort(rows, kind="stable")
        sizes = np.diff(self.compressed[2])[rows] if self.is_sparse else np.full(len(rows), n_columns)
        block_of_row = np.cumsum(sizes[in_stored_order]) // VALUES_PER_BLOCK
        for places in np.split(in_stored_order, np.flatnonzero(np.diff(block_of_row)) + 1):
            if len(places):
                yield (self._sparse_block if self.is_sparse else self._dense_block)(rows[places], places)

    def _dense_block(self, rows: np.ndarray, places: np.ndarray) -> Block:
        """These rows of a dense matrix; `places` are theirs in the AnnData."""
        _, wanted = self._by_row((self.cells, self.genes))
        stored = self.stored.T if self.by_gene else self.stored
        values = _comparable(_joined([stored[run] for run in _runs(rows)]))
        values = values if wanted is None else values[:, wanted]
        return Block(values, *self._by_row(np.ix_(places, np.arange(values.shape[1]))))

    def _sparse_block(self, rows: np.ndarray, places: np.ndarray) -> Block:
        """The same of a sparse matrix; duplicates are summed. Native code gets no column that does not exist."""
        _, n_columns = self._by_row(self.shape)
        _, wanted = self._by_row((self.cells, self.genes))
        data, indices, row_starts = self.compressed
        spans = [slice(*row_starts[[run.start, run.stop]].tolist()) for run in _runs(rows)]
        values, columns = (_joined([stored[span] for span in spans]) for stored in (data, indices))
        if len(columns) and not (columns.min() >= 0 and columns.max() < n_columns):
            outside = columns[(columns < 0) | (columns >= n_columns)][0]
            axis = "cells" if self.by_gene else "genes"
            raise self._malformed(f"an entry points to position {outside:,} among {n_columns:,} {axis}")
        values, sizes, n_duplicates = _comparable(values), row_starts[rows + 1] - row_starts[rows], 0
        place = np.repeat(places, sizes)
        same_row = place[1:] == place[:-1]
        unsorted = bool((same_row & (columns[1:] < columns[:-1])).any())
        is_tidy = not (unsorted or (same_row & (columns[1:] == columns[:-1])).any())
        if wanted is not None or not is_tidy:
            exact = values if is_tidy else values.astype(np.float64)  # 200 + 100 in uint8 is 300
            starts = np.concatenate([[0], np.cumsum(sizes)])
            tidy = sparse.csr_matrix((exact, columns, starts), (len(rows), n_columns), copy=True)  # the user's stay
            tidy.sum_duplicates()
            n_duplicates = len(columns) - tidy.nnz
            tidy = tidy if wanted is None else tidy[:, wanted]
            values, columns, place = tidy.data, tidy.indices, np.repeat(places, np.diff(tidy.indptr))
        return Block(values, *self._by_row((place, columns.astype(np.int64))), unsorted, n_duplicates)

    def _blocks_of_dask(self) -> Iterator[Block]:
        """One chunk in memory at a time, and of a view only the chunks that it touches."""
        for i, (n_cells, cells, cell_places) in enumerate(_chunks(self.stored.chunks[0], self.cells)):
            for j, (n_genes, genes, gene_places) in enumerate(_chunks(self.stored.chunks[1], self.genes)):
                if len(cell_places) and len(gene_places):
                    chunk = self.stored.blocks[i, j].compute(scheduler="synchronous")
                    for block in Matrix(self.where, chunk, (n_cells, n_genes), cells, genes).blocks():
                        yield replace(block, cells=cell_places[block.cells], genes=gene_places[block.genes])


def _chunks(lengths: Sequence[int], seen: np.ndarray | None) -> Iterator[tuple[int, np.ndarray | None, np.ndarray]]:
    """Of each chunk along an axis: its length, the positions in it that the AnnData shows (None: all), their places."""
    for start, stop in pairwise(np.cumsum([0, *lengths]).tolist()):
        if seen is None:
            yield stop - start, None, np.arange(start, stop)
        else:
            places = np.flatnonzero((seen >= start) & (seen < stop))
            yield stop - start, seen[places] - start, places


def _runs(positions: np.ndarray) -> list[slice]:
    """The same positions as slices, one for each run of neighbours."""
    runs = np.split(positions, np.flatnonzero(np.diff(positions) != 1) + 1)
    return [slice(int(run[0]), int(run[-1]) + 1) for run in runs]


def _joined(parts: list[np.ndarray]) -> np.ndarray:
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


def _comparable(values: np.ndarray) -> np.ndarray:
    """The same numbers in a type that NumPy compares fast and SciPy takes."""
    if values.dtype.kind == "b":
        return values.view(np.uint8)
    if values.dtype == np.float16:
        return values.astype(np.float32)
    return values.astype(values.dtype.newbyteorder("="), copy=False)


def where_is(layer: str | None) -> str:
    """A matrix as messages call it."""
    return "X" if layer is None else f"layers['{shown(layer)}']"


def layer_names(adata: AnnData) -> list[str]:
    """The layers beside X, which anndata 0.13 has among them by the name None."""
    return [name for name in adata.layers if name is not None]


def matrix_of(adata: AnnData, layer: str | None) -> Matrix:
    """X or a layer where it is stored: a view's `.X` would copy the whole selection, in native code."""
    holder = adata._adata_ref if adata.is_view else adata
    return Matrix(where_is(layer), holder.X if layer is None else holder.layers[layer], holder.shape, *_seen(adata))


def raw_matrix_of(adata: AnnData) -> Matrix:
    """The matrix of `adata.raw`, which has genes of its own."""
    holder = adata._adata_ref if adata.is_view else adata
    return Matrix("raw", holder.raw.X, (holder.n_obs, holder.raw.n_vars), _seen(adata)[0])


def _seen(adata: AnnData) -> tuple[np.ndarray | None, np.ndarray | None]:
    """Positions of a view's cells and genes in the AnnData behind it; None: all, in order."""
    if not adata.is_view:
        return None, None
    whole = [np.arange(length) for length in adata._adata_ref.shape]
    seen = [positions[index] for positions, index in zip(whole, (adata._oidx, adata._vidx))]
    cells, genes = (None if np.array_equal(*pair) else pair[0] for pair in zip(seen, whole))
    return cells, genes
