"""Minibatches of cells from any kind of AnnData, in a model's gene order.

Rows are taken where they lie: nothing is copied or densified as a whole. In-memory rows go dense into one reused
buffer. Rows in a file (backed) or behind a dask graph are fetched in windows of several minibatches, in file order,
and then dealt out in the order that was asked for, so that the result is the same as in memory.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor

from .matrix import matrix_of
from .modalities import protein_table
from .multimodal import measured_modalities
from .receptors import Receptors, receptor_table
from .schema import BATCH, DataSchema

WORTH_SKIPPING = 8  # rows: a smaller gap between two that are wanted is read with them
WINDOW = 8192  # rows per read from a file or a dask graph
CELL_BY_CELL = ("counts", "library_size", "continuous", "size_factor", "labels", "proteins", "measured", "receptors")


@dataclass(frozen=True)
class Share:
    """Which of a step's cells one of several processes has; see `nn.ranks`."""

    n_cells: int  # of the step, in all processes
    start: int  # position among them of the first that is here
    n_ranks: int  # processes
    is_whole: bool = False  # whether every process has all of them


@dataclass(frozen=True)
class Part:
    """Number `rank` of `size` parts of each step, which are contiguous."""

    rank: int
    size: int

    def bounds(self, n: int) -> tuple[int, int]:
        return n * self.rank // self.size, n * (self.rank + 1) // self.size


@dataclass(frozen=True)
class Minibatch:
    """The cells of one step. `counts` lies in a reused buffer: it is valid until the next minibatch is asked for."""

    counts: Tensor  # float32 (cells, genes)
    library_size: Tensor  # float32 (cells, 1); total count over the genes, at least 1
    categories: Mapping[str, Tensor]  # variable -> int64 (cells,)
    rows: np.ndarray  # the cells' positions in their AnnData
    continuous: Tensor | None = None  # float32 (cells, covariates)
    size_factor: Tensor | None = None  # float32 (cells, 1)
    labels: Tensor | None = None  # int64 (cells,), −1 = unlabelled
    proteins: Tensor | None = None  # float32 (cells, proteins); counts of a second modality, None = there are none
    measured: Tensor | None = None  # bool (cells, modalities); None = the model has one
    receptors: Receptors | None = None  # CDR3 sequences, each distinct one once; None = the model reads none
    labelled: Minibatch | None = None  # other cells, all with labels, for a model that trains on such beside
    seen: tuple[Tensor, Tensor] | None = None  # where each cell's counts ≠ 0 begin, and their genes (int64)
    genes: Tensor | None = None  # of the model, those that the data have: their positions, int64; None = all
    noise: object | None = None  # what the step may draw; None = use means, drop nothing
    share: Share | None = None  # which of the step's cells these are; None = all

    @property
    def n_cells(self) -> int:
        """Of the step, in all processes that share it."""
        return len(self.rows) if self.share is None else self.share.n_cells

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def batch(self) -> Tensor:
        """Experimental batch of each cell, int64 (cells,)."""
        return self.categories[BATCH]

    def to(self, device: torch.device | str) -> Minibatch:
        """The same cells on another device."""
        moved = {
            name: value.to(device) for name in (*CELL_BY_CELL, "labelled") if (value := getattr(self, name)) is not None
        }
        categories = {variable: codes.to(device) for variable, codes in self.categories.items()}
        seen = None if self.seen is None else tuple(part.to(device) for part in self.seen)
        genes = None if self.genes is None else self.genes.to(device)
        return replace(self, categories=categories, seen=seen, genes=genes, **moved)

    def with_noise(self, noise: object) -> Minibatch:
        is_part = noise is not None and self.share is not None
        return replace(self, noise=noise.part(self.share.start, len(self), self.share.n_cells) if is_part else noise)

    def only(self, i: int) -> Minibatch:
        """The i-th cell alone, with no others beside."""
        one = {name: value[i : i + 1] for name in CELL_BY_CELL if (value := getattr(self, name)) is not None}
        categories = {variable: codes[i : i + 1] for variable, codes in self.categories.items()}
        return replace(
            self, categories=categories, rows=self.rows[i : i + 1], labelled=None, seen=None, share=None, **one
        )


class Cells:
    """All cells of an AnnData as a model sees them.

    Parameters
    ----------
    adata
        Not modified. X (or the schema's layer) may be CSR, CSC, dense, a view, backed or a dask array.
    schema
        Keys, levels and gene order of the model.
    columns
        Position in the schema of each gene of `adata`, −1 = not used; None if the genes are the schema's.
    are_counts
        Whether values within rounding noise of whole numbers are rounded.
    """

    def __init__(self, adata, schema: DataSchema, columns: np.ndarray | None = None, are_counts: bool = True):
        self.schema = schema
        self.n_cells = adata.n_obs
        self.names = adata.obs_names
        self._columns = columns
        self._genes = _known_genes(columns, schema.n_genes)
        self._are_counts = are_counts
        self._values, self._stored_rows, stored_genes = _as_stored(adata, schema.layer)
        if stored_genes is not None:
            self._columns = _through(stored_genes, columns, self._values.shape[1])
        if sp.issparse(self._values) and self._values.format != "csr":
            self._values = self._values.tocsr()  # column-wise rows cannot be taken one by one
        self._categories = schema.codes(adata)
        self._labels = schema.label_codes(adata)
        self._continuous = _float_columns(adata, schema.continuous_covariates)
        self._size_factor = _float_columns(adata, [schema.size_factor_key] if schema.size_factor_key else [])
        proteins = protein_table(adata, schema.protein_key, schema.protein_names_key) if schema.proteins else None
        self._proteins = None if proteins is None else proteins.in_order(schema.proteins)
        self._measured = measured_modalities(adata, schema, columns) if schema.modalities else None
        receptors = receptor_table(adata, schema.receptor_keys) if schema.receptor_keys else None
        self._receptors = None if receptors is None else receptors.encoded()

    def minibatches(
        self,
        rows: np.ndarray,
        batch_size: int,
        first_step: int = 0,
        part: Part | None = None,
        whole_from: int | None = None,
    ) -> Iterator[Minibatch]:
        """Deal out `rows` in this order, `batch_size` at a time; start at the minibatch number `first_step`. With a
        `part`, this part of each minibatch, but all of those from number `whole_from` on."""
        steps = step_bounds(len(rows), batch_size)
        if part is None:
            yield from self._dealt(rows, steps[first_step:], batch_size)
            return
        shares, bounds = [], []
        for number, (start, stop) in list(enumerate(steps))[first_step:]:
            is_whole = whole_from is not None and number >= whole_from
            low, high = (0, stop - start) if is_whole else part.bounds(stop - start)
            shares.append(Share(stop - start, low, part.size, is_whole))
            bounds.append((start + low, start + high))
        for cells, share in zip(self._dealt(rows, bounds, batch_size), shares):
            yield replace(cells, share=share)

    def _dealt(self, rows: np.ndarray, bounds: list[tuple[int, int]], batch_size: int) -> Iterator[Minibatch]:
        if not bounds:
            return
        buffer = np.empty((max(stop - start for start, stop in bounds), self.schema.n_genes), dtype=np.float32)
        if isinstance(self._values, np.ndarray) or sp.issparse(self._values):
            for start, stop in bounds:
                yield self._minibatch(self._values, rows[start:stop], rows[start:stop], buffer)
            return
        stored = rows if self._stored_rows is None else self._stored_rows[rows]
        per_window = rows_per_read(batch_size) // batch_size
        for first in range(0, len(bounds), per_window):
            window = bounds[first : first + per_window]
            wanted = np.concatenate([stored[start:stop] for start, stop in window])
            sorted_rows, place = np.unique(wanted, return_inverse=True)
            values, first_place = _rows_of(self._values, sorted_rows), 0
            for start, stop in window:
                places = place[first_place : first_place + stop - start]
                yield self._minibatch(values, places, rows[start:stop], buffer)
                first_place += stop - start

    @property
    def batch_codes(self) -> np.ndarray:
        """Experimental batch of each cell, int64 (cells,)."""
        return self._categories[BATCH]

    def in_order(self, batch_size: int) -> Iterator[Minibatch]:
        """All cells, first to last."""
        return self.minibatches(np.arange(self.n_cells), batch_size)

    def _minibatch(self, values, places: np.ndarray, rows: np.ndarray, buffer: np.ndarray) -> Minibatch:
        dense = buffer[: len(rows)]
        seen = self._fill(values, places, dense)
        counts = torch.from_numpy(dense)
        return Minibatch(
            counts=counts,
            library_size=counts.sum(1, keepdim=True).clamp_min_(1),
            categories={variable: torch.from_numpy(codes[rows]) for variable, codes in self._categories.items()},
            rows=rows,
            continuous=_taken(self._continuous, rows),
            size_factor=_taken(self._size_factor, rows),
            labels=_taken(self._labels, rows),
            proteins=None if self._proteins is None else torch.from_numpy(self._proteins.of(rows)),
            measured=_taken(self._measured, rows),
            receptors=None if self._receptors is None else self._receptors.of(rows),
            seen=seen,
            genes=self._genes,
        )

    def _fill(self, values, places: np.ndarray, dense: np.ndarray) -> tuple[Tensor, Tensor] | None:
        """Write the rows at `places`, in the schema's gene order, into `dense`; where its counts are not zero."""
        taken, seen = values[places], None
        if sp.issparse(taken):
            data, indices, indptr = taken.data.astype(np.float32), taken.indices, taken.indptr
            if self._columns is not None:
                indices = self._columns[indices]
                used = indices >= 0
                indptr = np.concatenate([[0], np.cumsum(used)])[indptr]
                data, indices = data[used], indices[used]
            if self._are_counts:
                np.rint(data, out=data)
                if values.has_canonical_format:  # else an entry may be stored in parts
                    seen = _seen(data, indices, indptr)
            sp.csr_matrix((data, indices, indptr), shape=dense.shape).toarray(out=dense)
            return seen
        if self._columns is None:
            dense[:] = taken
        else:
            used = self._columns >= 0
            dense[:] = 0
            dense[:, self._columns[used]] = taken[:, used]
        if self._are_counts:
            np.rint(dense, out=dense)
        return None


def _seen(data: np.ndarray, genes: np.ndarray, starts: np.ndarray) -> tuple[Tensor, Tensor]:
    if not data.all():  # zeros that are stored
        is_seen = data != 0
        starts, genes = np.concatenate([[0], np.cumsum(is_seen)])[starts], genes[is_seen]
    return torch.from_numpy(starts.astype(np.int64)), torch.from_numpy(genes.astype(np.int64))


def step_bounds(n: int, batch_size: int) -> list[tuple[int, int]]:
    """Start and stop of each step over `n` cells. A last step of one cell joins the one before it, for a batch
    normalisation cannot take the variance of one cell; with a `batch_size` of 1, each cell has a step of its own."""
    starts = list(range(0, n, batch_size))
    if batch_size > 1 and len(starts) > 1 and n - starts[-1] == 1:
        starts.pop()
    return list(zip(starts, [*starts[1:], n]))


def rows_per_read(batch_size: int) -> int:
    """Cells that are fetched together from a file or a dask graph: whole minibatches."""
    return max(1, WINDOW // batch_size) * batch_size


def _rows_of(stored, rows: np.ndarray):
    """These rows, which rise, of a matrix in a file or behind a dask graph; neighbours are read in one go."""
    if getattr(stored, "format", None) != "csr" or not hasattr(stored, "group"):
        return _in_memory(stored[rows])
    spans = np.split(rows, np.flatnonzero(np.diff(rows) > WORTH_SKIPPING) + 1)
    if len(spans) * WORTH_SKIPPING > len(rows):  # far from one another: each is read by itself
        return _in_memory(stored[rows])
    parts = [stored[int(span[0]) : int(span[-1]) + 1][span - span[0]] for span in spans]
    return sp.vstack(parts, format="csr") if len(parts) > 1 else parts[0]


def _as_stored(adata, layer: str | None):
    """The matrix to take rows from, and which of its rows and columns are the AnnData's (None: all, in order).

    A view of a file is read through the file itself: its `.X` would be the whole selection, in memory.
    """
    if adata.isbacked and adata.is_view and layer is None:
        matrix = matrix_of(adata, layer)
        return matrix.stored, matrix.cells, matrix.genes
    return (adata.X if layer is None else adata.layers[layer]), None, None


def _through(stored_genes: np.ndarray, columns: np.ndarray | None, n_stored: int) -> np.ndarray:
    """Position in the schema of each gene in the file, of which a view shows `stored_genes`; −1 = not used."""
    composed = np.full(n_stored, -1, dtype=np.int64)
    composed[stored_genes] = np.arange(len(stored_genes)) if columns is None else columns
    return composed


def _known_genes(columns: np.ndarray | None, n_genes: int) -> Tensor | None:
    """Positions in the schema of the genes that the data have; None if they have all."""
    if columns is None:
        return None
    known = np.unique(columns[columns >= 0])
    return None if len(known) == n_genes else torch.from_numpy(known)


def _in_memory(taken):
    """Rows of a backed or dask array as a scipy CSR or a numpy array."""
    if hasattr(taken, "compute"):
        taken = taken.compute()
    return taken.tocsr() if sp.issparse(taken) else np.asarray(taken)


def _float_columns(adata, keys) -> np.ndarray | None:
    return adata.obs[list(keys)].to_numpy(dtype=np.float32) if keys else None


def _taken(values: np.ndarray | None, rows: np.ndarray) -> Tensor | None:
    return None if values is None else torch.from_numpy(values[rows])
