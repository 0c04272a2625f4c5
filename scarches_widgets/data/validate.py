"""Every fault of an AnnData that would spoil a model, found in one pass and reported at once.

    validate(adata, batch_key="batch").raise_errors()

A check is a small function that yields a `Finding` for each fault it sees. To add one, write it and name it in the
table of its kind; nothing else changes:

    CHECKS            (asked)              anything about the AnnData in the request
    MATRIX_CHECKS     (matrix)             whether the matrix can be read at all, before a value is looked at
    VALUE_CHECKS      (asked, scan)        the values, by what one pass over all of them counted
    CATEGORY_CHECKS   (asked, categories)  a column of batches, labels or another categorical covariate

The pass takes the matrix in blocks of a quarter of a million values, in the order in which they are stored (gene by
gene for CSC and Fortran order), from memory, a file or dask: never densified, never whole. Nothing is written. The
user's sparse matrix is not even asked for `has_sorted_indices`, since SciPy would note the answer in it.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property, partial
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
import pandas as pd
from scipy import sparse

from .findings import Finding, Findings, counted, some
from .names import did_you_mean, listed, shown

if TYPE_CHECKING:
    from anndata import AnnData

VALUES_PER_BLOCK = 2**18
ROUNDING_NOISE = 1e-6  # distance from a whole number, relative above 1
HUGE_COUNT = 1e6
EXACT_IN_FLOAT32, EXACT_IN_FLOAT16 = 2**24, 2**11  # above, neighbouring whole numbers become one
CELLS_TO_GUESS_FROM = 128
MANY_CATEGORIES = 1000
BYTES_PER_CATEGORY = 2 * 128 * 4 * 4  # encoder and decoder; n_hidden; float32; weight, gradient and Adam's two moments

error, warning, note = (partial(Finding, level) for level in ("error", "warning", "note"))


# ---------------------------------------------------------------------------------------------- what the user asked


@dataclass(frozen=True)
class Request:
    """The arguments of `validate`, as every check receives them."""

    adata: AnnData
    batch_key: str | None
    labels_key: str | None
    layer: str | None
    size_factor_key: str | None
    categorical_covariate_keys: tuple[str, ...]
    continuous_covariate_keys: tuple[str, ...]
    unlabeled_category: str | None
    expects: Literal["counts", "any"]
    for_training: bool

    @property
    def where(self) -> str:
        """The matrix to read, as messages call it."""
        return where_is(self.layer)

    @property
    def keys(self) -> list[tuple[str, str]]:
        """Each argument that names a column of obs, and the column."""
        named = [
            ("batch_key", self.batch_key),
            ("labels_key", self.labels_key),
            ("size_factor_key", self.size_factor_key),
            *(("categorical_covariate_keys", key) for key in self.categorical_covariate_keys),
            *(("continuous_covariate_keys", key) for key in self.continuous_covariate_keys),
        ]
        return [(argument, key) for argument, key in named if key is not None]

    def columns(self, *arguments: str) -> list[tuple[str, pd.Series]]:
        """The columns of obs that these arguments name, as far as they exist."""
        obs = self.adata.obs
        named = dict.fromkeys((argument, key) for argument, key in self.keys if argument in arguments)
        return [(argument, obs[key]) for argument, key in named if list(obs.columns).count(key) == 1]

    @cached_property
    def counts_hint(self) -> str:
        """Where this AnnData holds counts and how to read them; empty if nowhere but, perhaps, where it is read."""
        return find_counts(self.adata, self.layer)

    def place(self, place: Place) -> str:
        return f"cell '{shown(self.adata.obs_names[place.cell])}', gene '{shown(self.adata.var_names[place.gene])}'"

    def which(self, tally: Tally) -> dict[str, Any]:
        """`count` and `examples` of a finding about values."""
        return {"count": tally.count, "examples": tuple(self.place(place) for place in tally.first)}


def where_is(layer: str | None) -> str:
    return "X" if layer is None else f"layers['{shown(layer)}']"


def validate(
    adata: AnnData,
    *,
    batch_key: str | None = None,
    labels_key: str | None = None,
    layer: str | None = None,
    size_factor_key: str | None = None,
    categorical_covariate_keys: Iterable[str] | None = (),
    continuous_covariate_keys: Iterable[str] | None = (),
    unlabeled_category: str | None = None,
    expects: Literal["counts", "any"] = "counts",
    for_training: bool = True,
) -> Findings:
    """Look at all of the data for faults that would spoil a model, and report every one of them.

    Every value is read once; memory stays bounded whatever the size of the matrix; the AnnData is not modified.

    Parameters
    ----------
    adata
        Cells × genes. X may be dense, CSR, CSC, dask, or in a file (backed); a view is fine.
    batch_key, labels_key
        Columns of `adata.obs` with the experimental batch and the cell type.
    layer
        Layer to read in place of X.
    size_factor_key
        Column of `adata.obs` with a positive number per cell.
    categorical_covariate_keys, continuous_covariate_keys
        Further columns of `adata.obs` that the model conditions on.
    unlabeled_category
        Label of the cells whose type is not known, such as `"Unknown"`.
    expects
        `"counts"`: raw counts, whole numbers ≥ 0. `"any"`: any finite numbers, for a normal likelihood.
    for_training
        False where a fitted model only looks at the cells: a single cell, batch or label is then no fault.

    Returns
    -------
    Every finding, errors first. `findings.ok` says whether work can start, `findings.raise_errors()` stops if not.

    Raises
    ------
    TypeError
        If `adata` is not an AnnData, or a key not a name.

    Examples
    --------
    >>> findings = sca.validate(adata, batch_key="batch", labels_key="cell_type")  # doctest: +SKIP
    >>> findings.frame()[["level", "where", "what"]]  # doctest: +SKIP
    """
    refuse_other_than_anndata(adata)
    if expects not in ("counts", "any"):
        raise ValueError(f"expects={expects!r} is not known. Pass 'counts' or 'any'.")
    asked = Request(
        adata,
        batch_key,
        labels_key,
        layer,
        size_factor_key,
        as_keys(categorical_covariate_keys),
        as_keys(continuous_covariate_keys),
        None if unlabeled_category is None else str(unlabeled_category),
        expects,
        for_training,
    )
    for argument, key in asked.keys:
        if not isinstance(key, Hashable):
            raise TypeError(f"{argument} takes names of columns in adata.obs, one for each; {key!r} is none.")
    return Findings(finding for check in CHECKS for finding in check(asked))


def refuse_other_than_anndata(adata: object) -> None:
    from anndata import AnnData

    if isinstance(adata, AnnData):
        return
    if isinstance(adata, str) or hasattr(adata, "__fspath__"):
        mend = f"Read the file first: sca.validate(sca.read({str(adata)!r}), …)."
    elif hasattr(adata, "mod"):
        mend = f"Pass one modality, such as mdata['{next(iter(adata.mod), 'rna')}']."
    else:
        mend = "Wrap the matrix: anndata.AnnData(X, obs=…, var=…)."
    raise TypeError(f"validate() looks at an AnnData and was given a {type(adata).__name__}. {mend}")


def as_keys(keys: Iterable[str] | None) -> tuple[str, ...]:
    """A tuple of column names; one name alone stands for itself, not for its letters."""
    return (keys,) if isinstance(keys, str) else tuple(keys or ())


# ------------------------------------------------------------------------------------------------ the matrix, in blocks


class Unreadable(Exception):
    """A block cannot be read; carries the finding that says why."""

    def __init__(self, finding: Finding):
        super().__init__(str(finding))
        self.finding = finding


@dataclass(frozen=True)
class Matrix:
    """A matrix as it is stored, and the rows and columns of it that the AnnData shows (None: all)."""

    where: str
    stored: Any
    shape: tuple[int, int]  # as the AnnData that holds it declares
    cells: np.ndarray | None = None
    genes: np.ndarray | None = None

    @property
    def is_dask(self) -> bool:
        return hasattr(self.stored, "__dask_graph__")

    @property
    def is_file_sparse(self) -> bool:
        """anndata's CSRDataset or CSCDataset: a group of arrays in a file."""
        return hasattr(self.stored, "group") and getattr(self.stored, "format", None) in ("csr", "csc")

    @property
    def is_file_dense(self) -> bool:
        return type(self.stored).__module__.partition(".")[0] in ("h5py", "zarr") and hasattr(self.stored, "dtype")

    @property
    def is_sparse(self) -> bool:
        in_memory = sparse.issparse(self.stored) and self.stored.format in ("csr", "csc")
        return in_memory or self.is_file_sparse

    @property
    def is_dense(self) -> bool:
        in_memory = isinstance(self.stored, np.ndarray) and not isinstance(self.stored, np.ma.MaskedArray | np.matrix)
        return in_memory or self.is_file_dense

    @property
    def by_gene(self) -> bool:
        """Whether a gene's values stand together, not a cell's; a `Block` has genes as its rows then."""
        if self.is_sparse:
            return self.stored.format == "csc"
        flags = getattr(self.stored, "flags", None)
        return isinstance(self.stored, np.ndarray) and flags.f_contiguous and not flags.c_contiguous

    @property
    def compressed(self) -> tuple[Any, Any, np.ndarray]:
        """data and indices (perhaps in a file) and indptr of a sparse matrix."""
        if self.is_file_sparse:
            group = self.stored.group
            return group["data"], group["indices"], group["indptr"][...].astype(np.int64)
        return self.stored.data, self.stored.indices, self.stored.indptr.astype(np.int64)

    def blocks(self) -> Iterator[Block]:
        """All of the matrix, about `VALUES_PER_BLOCK` stored values at a time, but at least a row.

        Raises
        ------
        Unreadable
            With the finding that says why.
        """
        for check in MATRIX_CHECKS:
            for finding in check(self):
                raise Unreadable(finding)
        yield from self._blocks_of_dask() if self.is_dask else self._blocks_of_rows()

    def _by_row(self, by_cell: tuple[Any, Any]) -> tuple[Any, Any]:
        """A pair of (cells, genes) as (rows, columns)."""
        return by_cell[::-1] if self.by_gene else by_cell

    def _blocks_of_rows(self) -> Iterator[Block]:
        n_rows, n_columns = self._by_row(self.shape)
        of_rows, _ = self._by_row((self.cells, self.genes))
        rows = np.arange(n_rows) if of_rows is None else of_rows
        if not len(rows):
            return
        arrays = self.compressed if self.is_sparse else None
        stored_per_row = np.diff(arrays[2])[rows] if self.is_sparse else np.full(len(rows), n_columns)
        block_of_row = np.cumsum(stored_per_row, dtype=np.int64) // VALUES_PER_BLOCK
        for first, stop in pairwise([0, *(np.flatnonzero(np.diff(block_of_row)) + 1).tolist(), len(rows)]):
            wanted = slice(first, stop) if of_rows is None else rows[first:stop]
            if self.is_sparse:
                yield self._sparse_block(first, *compressed_rows(*arrays, wanted))
            else:
                yield self._dense_block(first, self._dense_rows(wanted))

    def _dense_rows(self, wanted: slice | np.ndarray) -> np.ndarray:
        if self.is_file_dense and not isinstance(wanted, slice):
            in_file_order, back = np.unique(wanted, return_inverse=True)  # HDF5 reads in no other order
            return self.stored[in_file_order, :][back]
        return np.asarray((self.stored.T if self.by_gene else self.stored)[wanted])

    def _dense_block(self, first_row: int, rows: np.ndarray) -> Block:
        _, of_columns = self._by_row((self.cells, self.genes))
        rows = np.ascontiguousarray(rows if of_columns is None else rows[:, of_columns])
        n_rows, n_columns = rows.shape
        row_starts = np.arange(n_rows + 1) * n_columns
        return Block(comparable(rows.reshape(-1)), None, row_starts, n_columns, self.by_gene, first_row)

    def _sparse_block(self, first_row: int, values: np.ndarray, columns: np.ndarray, row_starts: np.ndarray) -> Block:
        """Duplicates are summed. Nothing goes to native code before the columns are known to exist."""
        _, n_columns = self._by_row(self.shape)
        _, of_columns = self._by_row((self.cells, self.genes))
        if len(columns) and not (columns.min() >= 0 and columns.max() < n_columns):
            outside = columns[(columns < 0) | (columns >= n_columns)][0]
            axis = "cells" if self.by_gene else "genes"
            raise Unreadable(malformed(self, f"an entry points to position {outside:,} among {n_columns:,} {axis}"))
        values, shape = comparable(values), (len(row_starts) - 1, n_columns)
        step, n_duplicates = smallest_step(columns, row_starts), 0
        if step <= 0:
            exact = values.astype(np.float64)  # 200 + 100 in uint8 is 300
            tidy = sparse.csr_matrix((exact, columns, row_starts), shape, copy=True)  # the user's arrays stay
            tidy.sum_duplicates()
            n_duplicates = len(columns) - tidy.nnz
            values, columns, row_starts = tidy.data, tidy.indices, tidy.indptr
        if of_columns is not None:
            seen = sparse.csr_matrix((values, columns, row_starts), shape)[:, of_columns]
            values, columns, row_starts, n_columns = seen.data, seen.indices, seen.indptr, len(of_columns)
        return Block(values, columns, row_starts, n_columns, self.by_gene, first_row, 0, step < 0, n_duplicates)

    def _blocks_of_dask(self) -> Iterator[Block]:
        lazy = self.stored if self.cells is None else self.stored[self.cells]
        lazy = lazy if self.genes is None else lazy[:, self.genes]
        first_cells, first_genes = (np.cumsum([0, *sizes]) for sizes in lazy.chunks)
        for i, n_cells in enumerate(lazy.chunks[0]):
            for j, n_genes in enumerate(lazy.chunks[1]):
                part = lazy.blocks[i, j].compute(scheduler="synchronous")  # one block in memory at a time
                for block in Matrix(self.where, part, (n_cells, n_genes)).blocks():
                    block = block.shifted(int(first_cells[i]), int(first_genes[j]))
                    yield block if lazy is self.stored else replace(block, unsorted=False)  # the view's order, not X's


@dataclass(frozen=True)
class Block:
    """Some rows of the matrix in memory. A row is a cell, or a gene where the matrix is stored `by_gene`."""

    values: np.ndarray  # the stored values, row after row
    columns: np.ndarray | None  # column of each value; None: dense, every column in turn
    row_starts: np.ndarray  # where each row starts in `values`, and where the last one ends
    n_columns: int
    by_gene: bool
    first_row: int
    first_column: int = 0
    unsorted: bool = False
    n_duplicates: int = 0

    def shifted(self, cells: int, genes: int) -> Block:
        """The same block, that many cells and genes further on."""
        rows, columns = (genes, cells) if self.by_gene else (cells, genes)
        return replace(self, first_row=self.first_row + rows, first_column=self.first_column + columns)

    def locate(self, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Cell and gene of the values at these positions."""
        rows = self.first_row + np.searchsorted(self.row_starts, positions, side="right") - 1
        columns = self.first_column + self.columns_at(positions)
        return (columns, rows) if self.by_gene else (rows, columns)

    def first_positions(self, positions: np.ndarray) -> np.ndarray:
        """The three of them that come first by cell, then gene, whichever way the matrix is stored."""
        third = min(2, len(positions) - 1)
        if self.by_gene:
            cells = self.columns_at(positions)
            positions = positions[cells <= np.partition(cells, third)[third]]
        else:
            end_of_row = self.row_starts[np.searchsorted(self.row_starts, positions[third], side="right")]
            positions = positions[positions < end_of_row]
        cells, genes = self.locate(positions)
        return positions[np.lexsort((genes, cells))[:3]]

    def owners(self, chosen: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The cells and the genes with a chosen value, in no order and perhaps repeated."""
        if self.columns is None:
            grid = chosen.reshape(-1, self.n_columns)
            rows, columns = np.flatnonzero(grid.any(axis=1)), np.flatnonzero(grid.any(axis=0))
        elif chosen.all():
            rows, columns = np.flatnonzero(np.diff(self.row_starts)), self.columns
        else:
            before = np.concatenate([[0], np.cumsum(chosen)])
            rows, columns = np.flatnonzero(np.diff(before[self.row_starts])), self.columns[chosen]
        rows, columns = rows + self.first_row, columns + self.first_column
        return (columns, rows) if self.by_gene else (rows, columns)

    def columns_at(self, positions: np.ndarray) -> np.ndarray:
        return positions % self.n_columns if self.columns is None else self.columns[positions]


def compressed_rows(
    data: Any, indices: Any, row_starts: np.ndarray, wanted: slice | np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Values, columns and row starts of some rows of a matrix whose data and indices may be in a file."""
    runs = [wanted] if isinstance(wanted, slice) else slices_of(wanted)
    spans = [slice(int(row_starts[run.start]), int(row_starts[run.stop])) for run in runs]
    values, columns = (
        stored[spans[0]] if len(spans) == 1 else np.concatenate([stored[span] for span in spans])
        for stored in (data, indices)
    )
    lengths = np.concatenate([np.diff(row_starts[run.start : run.stop + 1]) for run in runs])
    return values, columns, np.concatenate([[0], np.cumsum(lengths)])


def slices_of(positions: np.ndarray) -> list[slice]:
    """The same positions as slices, one for each run of neighbours."""
    runs = np.split(positions, np.flatnonzero(np.diff(positions) != 1) + 1)
    return [slice(int(run[0]), int(run[-1]) + 1) for run in runs if len(run)]


def smallest_step(columns: np.ndarray, row_starts: np.ndarray) -> int:
    """From one stored column to the next in a row: above 0 if tidy, 0 for duplicates, below if out of order."""
    steps = np.diff(columns.view(f"i{columns.itemsize}"))  # the difference of unsigned numbers would never be below 0
    starts = row_starts[1:-1]
    steps[starts[(starts > 0) & (starts < len(columns))] - 1] = 1
    return int(steps.min(initial=1))


def comparable(values: np.ndarray) -> np.ndarray:
    """The same numbers in a type that NumPy compares fast and SciPy takes."""
    if values.dtype.kind == "b":
        return values.view(np.uint8)
    if values.dtype == np.float16:
        return values.astype(np.float32)
    return values.astype(values.dtype.newbyteorder("="), copy=False)


def matrix_of(adata: AnnData, layer: str | None) -> Matrix:
    """X or a layer where it is stored: a view's `.X` would copy the whole selection, in native code."""
    holder = adata._adata_ref if adata.is_view else adata
    return Matrix(where_is(layer), holder.X if layer is None else holder.layers[layer], holder.shape, *seen_of(adata))


def raw_matrix_of(adata: AnnData) -> Matrix:
    holder = adata._adata_ref if adata.is_view else adata
    return Matrix("raw", holder.raw.X, (holder.n_obs, holder.raw.n_vars), seen_of(adata)[0])


def seen_of(adata: AnnData) -> tuple[np.ndarray | None, np.ndarray | None]:
    """Positions of a view's cells and genes in the AnnData behind it; None: all, in order."""
    if not adata.is_view:
        return None, None
    whole = [np.arange(length) for length in adata._adata_ref.shape]
    seen = [positions[index] for positions, index in zip(whole, (adata._oidx, adata._vidx))]
    cells, genes = (None if np.array_equal(*pair) else pair[0] for pair in zip(seen, whole))
    return cells, genes


# --------------------------------------------------------------------------------------- can the matrix be read at all?


def check_container(matrix: Matrix) -> Iterator[Finding]:
    if matrix.is_dask or matrix.is_sparse or matrix.is_dense:
        return
    name = f"{type(matrix.stored).__module__.partition('.')[0]}.{type(matrix.stored).__name__}"
    yield error(
        "unreadable-type",
        matrix.where,
        f"{matrix.where} is a {name}.",
        "Models read NumPy arrays, SciPy CSR and CSC matrices, dask arrays and backed files.",
        "Fill or drop the masked values: `.filled(0)`."
        if isinstance(matrix.stored, np.ma.MaskedArray)
        else "Convert it, for example with scipy.sparse.csr_matrix(…) or numpy.asarray(…).",
    )


def check_numbers(matrix: Matrix) -> Iterator[Finding]:
    dtype = getattr(matrix.stored, "dtype", None)
    if isinstance(dtype, np.dtype) and dtype.kind not in "biuf":
        yield error(
            "not-numbers",
            matrix.where,
            f"{matrix.where} has the type {dtype}.",
            "A model needs real numbers.",
            f"If it holds numbers, convert it: adata.{matrix.where} = adata.{matrix.where}.astype('float32').",
        )


def check_structure(matrix: Matrix) -> Iterator[Finding]:
    """Before native code follows a pointer out of the array."""
    if tuple(matrix.stored.shape) != matrix.shape:
        stored, declared = (" × ".join(map(str, shape)) for shape in (matrix.stored.shape, matrix.shape))
        yield malformed(matrix, f"it is {stored}, but obs and var make it {declared}")
        return
    if not matrix.is_sparse:
        return
    data, indices, row_starts = matrix.compressed
    n_rows = matrix.shape[matrix.by_gene]
    steps = np.diff(row_starts)
    if len(row_starts) != n_rows + 1:
        yield malformed(matrix, f"indptr has {len(row_starts):,} entries, not {n_rows + 1:,}")
    elif row_starts[0] != 0:
        yield malformed(matrix, f"indptr starts at {row_starts[0]:,}, not at 0")
    elif (steps < 0).any():
        row = int(np.argmax(steps < 0))
        yield malformed(matrix, f"indptr falls from {row_starts[row]:,} to {row_starts[row + 1]:,} at row {row:,}")
    elif indices.dtype.kind not in "iu":
        yield malformed(matrix, f"indices are of type {indices.dtype}, not whole numbers")
    elif data.shape != indices.shape or row_starts[-1] > indices.shape[0]:
        sizes = f"{data.shape[0]:,} values and {indices.shape[0]:,} indices"
        yield malformed(matrix, f"indptr ends at {row_starts[-1]:,}, but there are {sizes}")


def malformed(matrix: Matrix, fault: str) -> Finding:
    return error(
        "malformed-matrix",
        matrix.where,
        f"{matrix.where} is malformed: {fault}.",
        "Reading it would reach beyond its memory; the file may be damaged, or indptr or indices were edited.",
        "Load or build the matrix again.",
    )


MATRIX_CHECKS: tuple[Callable[[Matrix], Iterator[Finding]], ...] = (
    check_container,
    check_numbers,
    check_structure,
)


# ------------------------------------------------------------------------------------------ one pass over all values


class Place(NamedTuple):
    cell: int
    gene: int
    value: float


class Tally:
    """How many values have a fault, the first three of them, and the one farthest from zero."""

    def __init__(self):
        self.count = 0
        self.first: list[Place] = []
        self.worst: Place | None = None

    def add(self, block: Block, values: np.ndarray, faulty: np.ndarray) -> None:
        positions = np.flatnonzero(faulty)
        if not len(positions):
            return
        self.count += len(positions)
        sizes = np.abs(values[positions].astype(np.float64))  # abs of the smallest int32 is no int32
        farthest = positions[sizes == sizes.max()]
        self.first = sorted([*self.first, *places(block, values, positions)])[:3]
        if len(farthest):  # none among NaN
            candidates = [*places(block, values, farthest)[:1], *([self.worst] if self.worst else [])]
            self.worst = min(candidates, key=lambda place: (-abs(place.value), place.cell, place.gene))


def places(block: Block, values: np.ndarray, positions: np.ndarray) -> list[Place]:
    """The first three of these positions, by cell and gene."""
    positions = block.first_positions(positions)
    cells, genes = block.locate(positions)
    return [Place(*place) for place in zip(cells.tolist(), genes.tolist(), values[positions].astype(float).tolist())]


class Scan:
    """What one pass over the matrix counts; the value checks turn it into findings."""

    def __init__(self, matrix: Matrix, asked: Request):
        self.matrix = matrix
        self.expects = asked.expects
        self.cells_seen, self.genes_seen = (np.zeros(length, bool) for length in asked.adata.shape)  # with a value ≠ 0
        self.n_nonzero = self.n_explicit_zeros = self.n_duplicates = 0
        self.unsorted = False
        self.highest = 0.0
        self.nan, self.infinite, self.negative = Tally(), Tally(), Tally()
        self.fractional, self.nearly_whole, self.huge, self.inexact = Tally(), Tally(), Tally(), Tally()
        for block in matrix.blocks():
            self._add(block)

    def _add(self, block: Block) -> None:
        if not len(block.values):
            return
        is_other_than_zero = block.values != 0
        cells, genes = block.owners(is_other_than_zero)
        self.cells_seen[cells] = True
        self.genes_seen[genes] = True
        self.n_nonzero += (n_nonzero := np.count_nonzero(is_other_than_zero))
        if block.columns is not None:
            self.n_explicit_zeros += len(block.values) - n_nonzero
        self.n_duplicates += block.n_duplicates
        self.unsorted |= block.unsorted
        self._look_at(block, self._finite(block))

    def _finite(self, block: Block) -> np.ndarray:
        """The values, with 0 in place of NaN and infinity, which are tallied."""
        values = block.values
        if values.dtype.kind != "f" or (np.isfinite(values.min()) and np.isfinite(values.max())):  # NaN makes both NaN
            return values
        self.nan.add(block, values, np.isnan(values))
        self.infinite.add(block, values, np.isinf(values))
        return np.where(np.isfinite(values), values, 0)

    def _look_at(self, block: Block, values: np.ndarray) -> None:
        lowest, highest = values.min(), values.max()
        self.highest = max(self.highest, float(highest))
        if lowest < -ROUNDING_NOISE and (self.expects == "counts" or values.dtype.kind == "i"):
            self.negative.add(block, values, values < -ROUNDING_NOISE)
        if self.expects == "any":
            return
        if highest > HUGE_COUNT:
            self.huge.add(block, values, values > HUGE_COUNT)
            self.inexact.add(block, values, values > EXACT_IN_FLOAT32)
        if values.dtype.kind == "f" and (values != (whole := np.rint(values))).any():
            off = np.abs(values - whole)
            far = off > ROUNDING_NOISE * np.maximum(1, np.abs(values))
            self.fractional.add(block, values, far)
            self.nearly_whole.add(block, values, (off > 0) & ~far)


def check_matrix(asked: Request) -> Iterator[Finding]:
    """All that concerns the matrix: found, readable, and its values as the model expects them."""
    if asked.layer is not None and asked.layer not in asked.adata.layers:
        layers = list(asked.adata.layers)
        yield error(
            "missing-layer",
            asked.where,
            f"adata has no layer '{shown(asked.layer)}'.{did_you_mean(asked.layer, layers)}",
            f"Its layers: {listed(layers, limit=10)}." if layers else "It has no layers at all.",
            "Pass layer= with one of them." if layers else "Leave `layer` out to read adata.X.",
        )
        return
    matrix = matrix_of(asked.adata, asked.layer)
    if matrix.stored is None:
        mend = asked.counts_hint or "Pass the layer that holds the counts as layer=."
        yield error("no-matrix", "X", "adata.X is empty (None).", "There is nothing to read in it.", mend)
        return
    if 0 in asked.adata.shape:
        return
    try:
        scan = Scan(matrix, asked)
    except Unreadable as unreadable:
        yield unreadable.finding
        return
    for check in VALUE_CHECKS:
        yield from check(asked, scan)


# ------------------------------------------------------------------------------------------------- checks of the values


def check_nan(asked: Request, scan: Scan) -> Iterator[Finding]:
    if scan.nan.count:
        yield error(
            "nan-values",
            asked.where,
            f"{asked.where} has {scan.nan.count:,} NaN (the first at {asked.place(scan.nan.first[0])}).",
            "A single one makes the loss of its whole minibatch NaN.",
            "Find the step that made it, often a division by a total of zero, or remove the cell or gene.",
            **asked.which(scan.nan),
        )


def check_infinite(asked: Request, scan: Scan) -> Iterator[Finding]:
    if scan.infinite.count:
        first = scan.infinite.first[0]
        yield error(
            "infinite-values",
            asked.where,
            f"{asked.where} has {counted(scan.infinite.count, 'infinite value')} "
            f"(the first, {first.value}, at {asked.place(first)}).",
            "A single one makes the loss of its whole minibatch NaN.",
            "Find the step that made it, often a logarithm of zero or a division by it, or remove the cell or gene.",
            **asked.which(scan.infinite),
        )


def check_negative(asked: Request, scan: Scan) -> Iterator[Finding]:
    if not scan.negative.count:
        return
    worst = scan.negative.worst
    what = (
        f"{asked.where} has {counted(scan.negative.count, 'negative value')} "
        f"(lowest {worst.value:.6g} at {asked.place(worst)})."
    )
    dtype = scan.matrix.stored.dtype
    if dtype.kind == "i" and worst.value <= -(2**30):
        why = f"Values near -2^31 in {dtype}: overflow upstream? A sum grew larger than its type holds."
        mend = "Repeat the step that made them with a larger type, such as float64."
        yield error("overflowed-values", asked.where, what, why, mend, **asked.which(scan.negative))
    elif asked.expects == "counts":
        looks = " This looks scaled (each gene centred on zero)." if scan.fractional.count else ""
        why = f"Counts are never negative.{looks}"
        yield error("negative-values", asked.where, what, why, mend_counts(asked), **asked.which(scan.negative))


def check_fractional(asked: Request, scan: Scan) -> Iterator[Finding]:
    if scan.fractional.count:
        first = scan.fractional.first[0]
        percent = 100 * scan.fractional.count / scan.n_nonzero
        yield error(
            "fractional-values",
            asked.where,
            f"{asked.where} has {counted(scan.fractional.count, 'value')} with a fraction, {percent:.3g} % of the "
            f"nonzero ones ({first.value:.6g} at {asked.place(first)}).",
            f"The model's likelihood is one of raw counts; this looks {looks_like(scan)}.",
            mend_counts(asked),
            **asked.which(scan.fractional),
        )
    elif scan.nearly_whole.count:
        yield warning(
            "nearly-whole-values",
            asked.where,
            f"{asked.where} has {counted(scan.nearly_whole.count, 'value')} a hair beside a whole number "
            f"({scan.nearly_whole.first[0].value!r} at {asked.place(scan.nearly_whole.first[0])}).",
            "This is float noise, at most 1e-6, as left by a normalisation undone; the values will be rounded.",
            **asked.which(scan.nearly_whole),
        )


def looks_like(scan: Scan) -> str:
    """A guess at what was done to the counts."""
    if scan.negative.count:
        return "scaled (each gene centred on zero)"
    if scan.fractional.count < 0.5 * scan.n_nonzero:
        return "like counts that were estimated or corrected (RSEM, SoupX); if so, round them"
    sums, sums_of_expm1 = sums_of_first_cells(scan.matrix)
    if is_constant(sums_of_expm1):
        return f"log-normalised: log1p, row sums of expm1 constant near {sums_of_expm1.mean():,.0f}"
    if is_constant(sums):
        return f"normalised, not log: row sums constant near {sums.mean():,.0f}"
    if scan.highest < 20:
        return f"log-transformed: no value above {scan.highest:.3g}"
    return "normalised, not log"


def sums_of_first_cells(matrix: Matrix) -> tuple[np.ndarray, np.ndarray]:
    """Sums of x and of expm1(x) over the genes, for the first cells that have any counts."""
    sums = np.zeros((2, CELLS_TO_GUESS_FROM))
    for block in matrix.blocks():
        if not block.by_gene and block.first_row >= CELLS_TO_GUESS_FROM:
            break
        cells, _ = block.locate(np.arange(len(block.values)))
        kept = cells < CELLS_TO_GUESS_FROM
        values = block.values[kept].astype(np.float64)
        with np.errstate(over="ignore"):  # expm1 of counts
            for row, addends in zip(sums, (values, np.expm1(values))):
                row += np.bincount(cells[kept], addends, CELLS_TO_GUESS_FROM)
    plain, of_expm1 = sums[:, sums[0] > 0]
    return plain, of_expm1


def is_constant(sums: np.ndarray) -> bool:
    return len(sums) > 1 and bool(np.isfinite(sums).all()) and sums.std() < 0.01 * sums.mean()


def mend_counts(asked: Request) -> str:
    return asked.counts_hint or (
        "Neither X, nor raw, nor a layer holds counts: go back to before normalising, keep them with "
        "adata.layers['counts'] = adata.X.copy() and pass layer='counts'."
    )


def find_counts(adata: AnnData, besides: str | None) -> str:
    """Every value of what is suggested was looked at."""
    for layer in sorted(adata.layers, key=lambda name: "count" not in str(name).lower()):
        if layer != besides and holds_counts(matrix_of(adata, layer)):
            return f"{where_is(layer)} holds counts: pass layer='{shown(layer)}'."
    if besides is not None and holds_counts(matrix_of(adata, None)):
        return "X holds counts: leave `layer` out."
    if adata.raw is not None and holds_counts(raw_matrix_of(adata)):
        return "adata.raw holds counts: pass adata.raw.to_adata()."
    return ""


def holds_counts(matrix: Matrix) -> bool:
    """Whether every value is a whole number ≥ 0, and one at least is not zero."""
    highest = 0.0
    try:
        for values in (block.values for block in matrix.blocks() if len(block.values)):
            highest = max(highest, float(values.max()))
            if not (values.min() >= 0 and np.isfinite(highest) and (values == np.rint(values)).all()):
                return False
    except Unreadable:
        return False
    return highest > 0 and matrix.stored.dtype.kind != "b"


def check_large(asked: Request, scan: Scan) -> Iterator[Finding]:
    if scan.inexact.count:
        worst = scan.inexact.worst
        yield error(
            "inexact-counts",
            asked.where,
            f"{asked.where} has {counted(scan.inexact.count, 'count')} above 2^24 = 16,777,216 "
            f"(highest {worst.value:.6g} at {asked.place(worst)}).",
            "Models compute in float32, where such neighbours as 16,777,216 and 16,777,217 are the same number.",
            "No cell holds so many molecules of a gene: look at how this value came about, or remove the gene.",
            **asked.which(scan.inexact),
        )
    elif scan.huge.count:
        worst = scan.huge.worst
        yield warning(
            "huge-counts",
            asked.where,
            f"{asked.where} has {counted(scan.huge.count, 'count')} above a million "
            f"(highest {worst.value:.6g} at {asked.place(worst)}).",
            "A few such values outweigh all others in the loss.",
            "Check that these are counts per cell, not sums over cells or intensities.",
            **asked.which(scan.huge),
        )


def check_half_precision(asked: Request, scan: Scan) -> Iterator[Finding]:
    if asked.expects == "counts" and scan.matrix.stored.dtype == np.float16 and scan.highest > EXACT_IN_FLOAT16:
        yield warning(
            "half-precision",
            asked.where,
            f"{asked.where} is float16 and holds counts up to {scan.highest:,.0f}.",
            "Above 2,048 float16 skips whole numbers, so that some counts were rounded before they came here.",
            "If you have them in a wider type, use those.",
        )


def check_boolean(asked: Request, scan: Scan) -> Iterator[Finding]:
    if scan.matrix.stored.dtype.kind != "b":
        return
    what = f"{asked.where} is boolean: only whether a gene was seen (binarised)."
    if asked.expects == "counts":
        yield error("boolean-values", asked.where, what, "The model's likelihood is one of counts.", mend_counts(asked))
    else:
        yield warning("boolean-values", asked.where, what, "It will be read as 0 and 1.")


def check_all_zero(asked: Request, scan: Scan) -> Iterator[Finding]:
    if not scan.n_nonzero:
        n_cells, n_genes = asked.adata.shape
        yield error(
            "all-zero",
            asked.where,
            f"All {n_cells:,} × {n_genes:,} values of {asked.where} are zero.",
            "There is nothing to learn from.",
            asked.counts_hint or "Look at the step that made it.",
            count=n_cells * n_genes,
        )


def check_empty_cells(asked: Request, scan: Scan) -> Iterator[Finding]:
    if scan.n_nonzero and not scan.cells_seen.all():
        empty = asked.adata.obs_names[~scan.cells_seen]
        yield warning(
            "empty-cells",
            asked.where,
            f"{asked.where} holds nothing but zeros for {len(empty):,} of {counted(asked.adata.n_obs, 'cell')} "
            f"({listed(empty)}).",
            "Their place in the embedding says nothing about them.",
            "Remove them: sc.pp.filter_cells(adata, min_counts=1).",
            **some(empty),
        )


def check_empty_genes(asked: Request, scan: Scan) -> Iterator[Finding]:
    if asked.for_training and scan.n_nonzero and not scan.genes_seen.all():
        empty = asked.adata.var_names[~scan.genes_seen]
        yield warning(
            "empty-genes",
            asked.where,
            f"{asked.where} holds nothing but zeros for {len(empty):,} of {counted(asked.adata.n_vars, 'gene')} "
            f"({listed(empty)}).",
            "They teach the model nothing.",
            "Remove them: sc.pp.filter_genes(adata, min_cells=1).",
            **some(empty),
        )


def check_tidiness(asked: Request, scan: Scan) -> Iterator[Finding]:
    untidy = [
        *([counted(scan.n_explicit_zeros, "explicit zero")] if scan.n_explicit_zeros else []),
        *([counted(scan.n_duplicates, "duplicate entry", "duplicate entries")] if scan.n_duplicates else []),
        *(["entries out of order"] if scan.unsorted else []),
    ]
    if untidy:
        yield note(
            "untidy-sparse",
            asked.where,
            f"{asked.where} stores {' and '.join(untidy)}.",
            "The values are the same; this is mended on a copy, and your matrix stays as it is.",
            count=scan.n_explicit_zeros + scan.n_duplicates or 1,
        )


def check_stored_by_gene(asked: Request, scan: Scan) -> Iterator[Finding]:
    if asked.for_training and scan.matrix.is_file_sparse and scan.matrix.by_gene:
        yield error(
            "stored-by-gene",
            asked.where,
            f"{asked.where} stands in its file gene by gene (CSC).",
            "Training reads a few cells at a time, and each time would go through the whole file.",
            "Load it with adata.to_memory(), or write the file anew with X in CSR.",
        )


VALUE_CHECKS: tuple[Callable[[Request, Scan], Iterator[Finding]], ...] = (
    check_nan,
    check_infinite,
    check_negative,
    check_fractional,
    check_large,
    check_half_precision,
    check_boolean,
    check_all_zero,
    check_empty_cells,
    check_empty_genes,
    check_tidiness,
    check_stored_by_gene,
)


# ------------------------------------------------------------------------------------------------------ shape and names


def check_shape(asked: Request) -> Iterator[Finding]:
    n_cells, n_genes = asked.adata.shape
    for code, number, noun in (("no-cells", n_cells, "cells"), ("no-genes", n_genes, "genes")):
        if not number:
            yield error(
                code,
                "shape",
                f"adata has no {noun} ({n_cells:,} cells × {n_genes:,} genes).",
                "A selection before this one has probably kept nothing.",
                "Look at the filter that made it.",
            )
    if n_cells == 1:
        what = f"adata has a single cell ('{shown(asked.adata.obs_names[0])}')."
        if asked.for_training:
            yield error("one-cell", "shape", what, "Training needs 2 at least.", "Pass all cells to learn from.")
        else:
            yield warning("one-cell", "shape", what, "It can be mapped, but not compared with cells of its kind.")


def check_gene_names(asked: Request) -> Iterator[Finding]:
    names = asked.adata.var_names
    is_text = np.array([isinstance(name, str) for name in names], dtype=bool)
    is_bytes = np.array([isinstance(name, bytes) for name in names], dtype=bool)
    is_missing = names.isna() | np.array([not str(name).strip() for name in names], dtype=bool)
    if is_missing.any():
        positions = np.flatnonzero(is_missing)
        yield error(
            "unnamed-genes",
            "var_names",
            f"adata.var_names leaves {counted(len(positions), 'gene')} without a name (position {listed(positions)}).",
            "Genes are matched by name, never by position.",
            "Name them, or remove them: adata = adata[:, [isinstance(name, str) and name.strip() != '' for name in "
            "adata.var_names]].",
            **some(positions),
        )
    if is_bytes.any():
        yield error(
            "binary-names",
            "var_names",
            f"adata.var_names has {counted(is_bytes.sum(), 'name')} in bytes, not text ({listed(names[is_bytes])}).",
            "To Python b'CD3D' and 'CD3D' are different names.",
            "Decode them: adata.var_names = [name.decode() if isinstance(name, bytes) else name for name in "
            "adata.var_names].",
            **some(names[is_bytes]),
        )
    other = names[~(is_text | is_bytes | is_missing)]
    if len(other):
        yield warning(
            "names-not-text",
            "var_names",
            f"adata.var_names has {counted(len(other), 'name')} of type {type_name(other[0])}, not text "
            f"({listed(other)}).",
            "They are read as text, and must be spelt so in a query.",
            "Say so yourself: adata.var_names = adata.var_names.astype(str).",
            **some(other),
        )
    twice = names[~is_missing & names.duplicated()].unique()
    if len(twice):
        yield error(
            "duplicated-genes",
            "var_names",
            f"adata.var_names uses {counted(len(twice), 'name')} more than once ({listed(twice)}).",
            "Genes are matched by name, and it would be chance which of them is taken.",
            "Sum or drop the doubles, or number them with adata.var_names_make_unique().",
            **some(twice),
        )


def check_cell_names(asked: Request) -> Iterator[Finding]:
    names = asked.adata.obs_names
    twice = names[names.duplicated()].unique()
    if len(twice):
        yield warning(
            "duplicated-cells",
            "obs_names",
            f"adata.obs_names uses {counted(len(twice), 'name')} more than once ({listed(twice)}).",
            "Results keep the order of the cells, but cannot be joined by name.",
            "Number them with adata.obs_names_make_unique().",
            **some(twice),
        )


# ------------------------------------------------------------------------------------------------------- columns of obs


def check_keys(asked: Request) -> Iterator[Finding]:
    columns = list(asked.adata.obs.columns)
    for argument, key in dict.fromkeys(asked.keys):
        where = f"obs['{shown(key)}']"
        if key not in columns:
            yield error(
                "missing-key",
                where,
                f"adata.obs has no column '{shown(key)}' ({argument}).{did_you_mean(key, columns)}",
                f"Its columns: {listed(columns, limit=10)}." if columns else "It has no columns at all.",
                "Pass one of them." if columns else f"Add it, or leave out {argument}.",
            )
        elif (number := columns.count(key)) > 1:
            yield error(
                "ambiguous-key",
                where,
                f"adata.obs has {number} columns called '{shown(key)}' ({argument}).",
                "It would be chance which of them is taken.",
                "Rename or drop all but one.",
                count=number,
            )
    for key, number in Counter(key for _, key in asked.keys).items():
        if number > 1:
            arguments = " and ".join(argument for argument, named in asked.keys if named == key)
            yield warning(
                "repeated-key",
                f"obs['{shown(key)}']",
                f"'{shown(key)}' is given {number} times, as {arguments}.",
                "What a model removes as a difference between batches it cannot learn as anything else.",
                "Name each column once.",
                count=number,
            )


def check_categorical(asked: Request) -> Iterator[Finding]:
    roles = {"batch_key": "batch", "labels_key": "label", "categorical_covariate_keys": "category"}
    for argument, column in asked.columns(*roles):
        uncountable = list(check_one_type(column))
        yield from uncountable
        if not uncountable:
            categories = categories_of(column, roles[argument], asked.unlabeled_category)
            for check in CATEGORY_CHECKS:
                yield from check(asked, categories)


def check_one_type(column: pd.Series) -> Iterator[Finding]:
    """1, "1" and 1.0 must not become three batches; and a list is no category at all."""
    values = column.cat.categories if isinstance(column.dtype, pd.CategoricalDtype) else column.dropna()
    if values.dtype != object or pd.api.types.infer_dtype(values) == "string":
        return
    where = of_obs(column)
    one_of_each = {type_name(value): value for value in values}
    examples = [f"{value!r} ({name})" for name, value in one_of_each.items()]
    if len(one_of_each) > 1:
        yield error(
            "mixed-types",
            where,
            f"adata.{where} mixes types: {listed(examples)}.",
            "Whether 1, '1' and 1.0 are one category or three would depend on who reads them.",
            f"Spell them in one way, for example adata.{where} = adata.{where}.map(str, na_action='ignore').",
            **some(examples),
        )
    elif not all(isinstance(value, Hashable) for value in one_of_each.values()):
        yield error(
            "not-categories",
            where,
            f"adata.{where} holds values such as {listed(examples)}.",
            "A category is a single name.",
            "Name another column, or join the parts to one text.",
            examples=tuple(map(shown, examples)),
        )


@dataclass(frozen=True)
class Categories:
    """A categorical column of obs as its checks see it."""

    column: pd.Series
    noun: str  # "batch", "label" or "category" (of another covariate)
    sizes: pd.Series  # cells per category; without the unused and the unlabelled one
    n_unlabeled: int  # cells that carry the unlabelled category

    @property
    def where(self) -> str:
        return of_obs(self.column)

    @property
    def plural(self) -> str:
        return {"batch": "batches", "label": "labels", "category": "categories"}[self.noun]


def categories_of(column: pd.Series, noun: str, unlabeled_category: str | None) -> Categories:
    sizes = column.value_counts(sort=False)
    sizes = sizes[sizes > 0]
    marks_unlabeled = noun == "label" and unlabeled_category is not None
    is_unlabeled = np.array([marks_unlabeled and str(name) == unlabeled_category for name in sizes.index], dtype=bool)
    return Categories(column, noun, sizes[~is_unlabeled], int(sizes[is_unlabeled].sum()))


def of_obs(column: pd.Series) -> str:
    return f"obs['{shown(column.name)}']"


def type_name(value: object) -> str:
    """`str`, `int`, `float` or `bool` for NumPy's scalars, too."""
    kinds = {"bool": bool | np.bool_, "int": int | np.integer, "float": float | np.floating, "str": str}
    return next((name for name, kind in kinds.items() if isinstance(value, kind)), type(value).__name__)


def check_missing_values(asked: Request, categories: Categories) -> Iterator[Finding]:
    column, where = categories.column, categories.where
    cells = asked.adata.obs_names[column.isna()]
    if not len(cells):
        return
    of_all = f"{len(cells):,} of {counted(len(column), 'cell')} ({listed(cells)})"
    what = f"adata.{where} has no {categories.noun} for {of_all}."
    if categories.noun == "label":
        name = f", as '{shown(asked.unlabeled_category)}'" if asked.unlabeled_category is not None else ""
        yield note("missing-labels", where, what, f"They are taken as unlabelled{name}.", **some(cells))
    else:
        yield error(
            "missing-values",
            where,
            what,
            f"A cell whose {categories.noun} is unknown cannot be corrected for it.",
            f"Fill the gaps, drop these cells (adata[adata.{where}.notna()]), or give them a {categories.noun} of "
            f"their own: adata.{where} = adata.{where}.astype(object).fillna('unknown').",
            **some(cells),
        )


def check_one_per_cell(asked: Request, categories: Categories) -> Iterator[Finding]:
    number = len(categories.sizes)
    if number == len(categories.column) > 2:
        found = error if asked.for_training else warning
        yield found(
            "one-category-per-cell",
            categories.where,
            f"adata.{categories.where} has {number:,} {categories.plural} for {number:,} cells "
            f"({listed(categories.sizes.index)}).",
            f"This looks like barcodes. With every cell its own {categories.noun}, nothing is shared between cells.",
            "Name the column that tells groups of cells, such as samples, apart.",
            **some(categories.sizes.index),
        )


def check_one_category(asked: Request, categories: Categories) -> Iterator[Finding]:
    if asked.for_training and categories.noun != "label" and len(categories.sizes) == 1:
        yield warning(
            "one-category",
            categories.where,
            f"adata.{categories.where} has the same {categories.noun} for all cells, "
            f"'{shown(categories.sizes.index[0])}'.",
            "There is no difference to learn and remove.",
            "That is fine for a single sample; otherwise name the column that tells samples apart.",
            **some(categories.sizes.index),
        )


def check_small(asked: Request, categories: Categories) -> Iterator[Finding]:
    """Batches of one or two cells, labels of one."""
    limit, size = (1, "a single cell") if categories.noun == "label" else (2, "one or two cells")
    small = categories.sizes.index[categories.sizes <= limit]
    if asked.for_training and len(small) and len(categories.sizes) < len(categories.column):
        yield warning(
            "small-categories",
            categories.where,
            f"adata.{categories.where} has {size} in {len(small):,} of {len(categories.sizes):,} {categories.plural} "
            f"({listed(small)}).",
            "What is learnt about them rests on next to nothing.",
            "Merge them with others of their kind, or leave out their cells.",
            **some(small),
        )


def check_unused(asked: Request, categories: Categories) -> Iterator[Finding]:
    if isinstance(categories.column.dtype, pd.CategoricalDtype):
        all_names = categories.column.cat.categories
        unused = all_names[~all_names.isin(categories.column.dropna().unique())]
        if len(unused):
            yield note(
                "unused-categories",
                categories.where,
                f"adata.{categories.where} has {counted(len(unused), 'category', 'categories')} without cells "
                f"({listed(unused)}).",
                "The model leaves them out.",
                **some(unused),
            )


def check_alike(asked: Request, categories: Categories) -> Iterator[Finding]:
    """Names that differ only by blanks or case, from the unlabelled category's as well."""
    sizes = {str(name): int(size) for name, size in categories.sizes.sort_values(ascending=False).items()}
    if categories.noun == "label" and asked.unlabeled_category is not None:
        sizes = {asked.unlabeled_category: categories.n_unlabeled, **sizes}
    spellings = defaultdict(list)
    for name in sizes:
        spellings["".join(name.split()).casefold()].append(name)
    for kept, *others in spellings.values():
        if others:
            with_sizes = [f"'{shown(name)}' ({counted(sizes[name], 'cell')})" for name in (kept, *others)]
            yield warning(
                "look-alike-categories",
                categories.where,
                f"{' and '.join(with_sizes)} in adata.{categories.where} differ only by blanks or case.",
                f"They are different {categories.plural} to a model. Did you mean one?",
                f"Then adata.{categories.where} = adata.{categories.where}.astype(object).replace({others}, {kept!r}).",
                **some([kept, *others]),
            )


def check_read_as_text(asked: Request, categories: Categories) -> Iterator[Finding]:
    names = categories.sizes.index
    if len(names) and not isinstance(names[0], str):
        yield note(
            "read-as-text",
            categories.where,
            f"The {categories.plural} in adata.{categories.where} are {type_name(names[0])} values ({listed(names)}).",
            f"They are read as text, '{shown(names[0])}' for the first, and a query must spell them so.",
            **some(names),
        )


def check_many(asked: Request, categories: Categories) -> Iterator[Finding]:
    number = len(categories.sizes)
    if number > MANY_CATEGORIES:
        yield warning(
            "many-categories",
            categories.where,
            f"adata.{categories.where} has {number:,} {categories.plural}.",
            f"They take about {number * BYTES_PER_CATEGORY / 1e6:,.0f} MB in training (encoder and decoder of 128 "
            "units, with Adam), and each is learnt from few cells.",
            "Name a column with fewer, or merge them into groups.",
            count=number,
        )


def check_unlabeled(asked: Request, categories: Categories) -> Iterator[Finding]:
    if categories.noun != "label":
        return
    n_cells, name = len(categories.column), shown(asked.unlabeled_category)
    if categories.sizes.empty and n_cells and asked.for_training:
        called = f" other than '{name}'" if categories.n_unlabeled else ""
        yield error(
            "nothing-labelled",
            categories.where,
            f"None of the {n_cells:,} cells has a label{called} in adata.{categories.where}.",
            "A classifier learns from labelled cells.",
            "Name another labels_key, or leave it out to train a model that needs no labels.",
            count=n_cells,
        )
    elif categories.n_unlabeled:
        yield note(
            "unlabelled-cells",
            categories.where,
            f"adata.{categories.where} is '{name}' for {categories.n_unlabeled:,} of {counted(n_cells, 'cell')}.",
            "They are taken as unlabelled: no cell type of that name is learnt.",
            count=categories.n_unlabeled,
        )


CATEGORY_CHECKS: tuple[Callable[[Request, Categories], Iterator[Finding]], ...] = (
    check_missing_values,
    check_one_per_cell,
    check_one_category,
    check_small,
    check_unused,
    check_alike,
    check_read_as_text,
    check_many,
    check_unlabeled,
)


def check_continuous(asked: Request) -> Iterator[Finding]:
    for _, column in asked.columns("continuous_covariate_keys"):
        numbers = numbers_in(column)
        if numbers is None:
            yield not_numeric(column)
        elif not (finite := np.isfinite(numbers)).all():
            yield bad_numbers("covariate-not-finite", "NaN or infinite", "A number", asked, column, ~finite)
        elif len(numbers) > 1 and np.ptp(numbers) == 0:
            yield warning(
                "constant-covariate",
                of_obs(column),
                f"adata.{of_obs(column)} is {numbers[0]:.6g} in every cell.",
                "It explains no difference between them.",
                "Leave it out, or check that this is the right column.",
            )


def check_size_factors(asked: Request) -> Iterator[Finding]:
    for _, column in asked.columns("size_factor_key"):
        numbers = numbers_in(column)
        if numbers is None:
            yield not_numeric(column)
        elif not (good := np.isfinite(numbers) & (numbers > 0)).all():
            yield bad_numbers("bad-size-factors", "not above zero", "A positive number", asked, column, ~good)


def numbers_in(column: pd.Series) -> np.ndarray | None:
    """The column in float64, gaps as NaN; None if it holds anything but real numbers."""
    if not pd.api.types.is_numeric_dtype(column) or pd.api.types.is_complex_dtype(column):
        return None
    return column.to_numpy(dtype=np.float64, na_value=np.nan)


def not_numeric(column: pd.Series) -> Finding:
    where = of_obs(column)
    examples = column.dropna().unique()[:3]
    return error(
        "not-numeric",
        where,
        f"adata.{where} holds {column.dtype} values ({listed(examples)}), not numbers.",
        "The model computes with it.",
        f"Convert it: adata.{where} = adata.{where}.astype(float); or pass it as a categorical covariate.",
        examples=tuple(map(shown, examples)),
    )


def bad_numbers(code: str, kind: str, needed: str, asked: Request, column: pd.Series, is_bad: np.ndarray) -> Finding:
    where = of_obs(column)
    cells = asked.adata.obs_names[is_bad]
    return error(
        code,
        where,
        f"adata.{where} is {kind} for {len(cells):,} of {counted(len(column), 'cell')} "
        f"({column[is_bad].iloc[0]} for '{shown(cells[0])}').",
        f"{needed} is needed for every cell.",
        "Mend the values, or leave out these cells.",
        **some(cells),
    )


CHECKS: tuple[Callable[[Request], Iterator[Finding]], ...] = (
    check_shape,
    check_gene_names,
    check_cell_names,
    check_matrix,
    check_keys,
    check_categorical,
    check_continuous,
    check_size_factors,
)
