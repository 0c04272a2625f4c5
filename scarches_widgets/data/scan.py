"""One pass over all values of a matrix: what is counted, and where the first and the worst of each fault are."""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np

from .matrix import Block, Matrix

ROUNDING_NOISE = 1e-6  # distance from a whole number, relative above 1
HUGE_COUNT = 1e6
EXACT_IN_FLOAT32 = 2**24  # above, neighbouring whole numbers become one


class Place(NamedTuple):
    cell: int
    gene: int
    value: float


class Tally:
    """How many values have a fault, the first three of them by cell and gene, and the one farthest from zero."""

    def __init__(self):
        self.count = 0
        self.first: list[Place] = []
        self.worst: Place | None = None

    def add(self, block: Block, values: np.ndarray, is_faulty: np.ndarray) -> None:
        if not is_faulty.any():
            return
        cells, genes = (np.broadcast_to(index, values.shape)[is_faulty] for index in (block.cells, block.genes))
        values = values[is_faulty].astype(np.float64)  # abs of the smallest int32 is no int32
        order = (cells << 32) + genes  # by cell, then gene
        sizes = np.abs(values)
        farthest = np.flatnonzero(~(sizes < sizes.max()))  # among NaN, all
        chosen = [*np.argpartition(order, min(2, len(order) - 1))[:3], farthest[order[farthest].argmin()]]
        *first, worst = (Place(int(cells[i]), int(genes[i]), float(values[i])) for i in chosen)
        self.count += len(values)
        self.first = sorted([*self.first, *first])[:3]
        self.worst = min(self.worst or worst, worst, key=lambda place: (-abs(place.value), place))


class Scan:
    """What one pass over the matrix counts; the checks of values turn it into findings."""

    def __init__(self, matrix: Matrix, shape: tuple[int, int], expects: Literal["counts", "normalized", "any"]):
        self.matrix = matrix
        self.expects = expects
        self.cells_seen, self.genes_seen = (np.zeros(length, bool) for length in shape)  # with a value that is not 0
        self.n_nonzero = self.n_explicit_zeros = self.n_duplicates = 0
        self.unsorted = False
        self.all_whole = True  # looked at for normalised values only
        self.highest = 0.0
        self.nan, self.infinite, self.negative = Tally(), Tally(), Tally()
        self.fractional, self.nearly_whole, self.huge, self.inexact = Tally(), Tally(), Tally(), Tally()
        for block in matrix.blocks():
            if block.values.size:
                self._count_zeros(block)
                self._look_at(block, self._finite(block))

    def _count_zeros(self, block: Block) -> None:
        is_nonzero = block.values != 0
        for seen, owners in ((self.cells_seen, block.cells), (self.genes_seen, block.genes)):
            if seen.all():  # as for the genes, after a few blocks
                continue
            if not is_nonzero.all():
                others = tuple(axis for axis, length in enumerate(owners.shape) if length < is_nonzero.shape[axis])
                owners = owners[is_nonzero.any(axis=others, keepdims=True)]
            seen[owners] = True
        n_nonzero = np.count_nonzero(is_nonzero)
        self.n_nonzero += n_nonzero
        self.n_explicit_zeros += (block.values.size - n_nonzero) * block.is_sparse
        self.n_duplicates += block.n_duplicates
        self.unsorted |= block.unsorted

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
        if lowest < -ROUNDING_NOISE and (self.expects != "any" or self.matrix.stored.dtype.kind == "i"):
            self.negative.add(block, values, values < -ROUNDING_NOISE)
        if self.expects == "normalized" and self.all_whole:
            self.all_whole = bool((values == np.rint(values)).all())
        if self.expects != "counts":
            return
        if highest > HUGE_COUNT:
            self.huge.add(block, values, values > HUGE_COUNT)
            self.inexact.add(block, values, values > EXACT_IN_FLOAT32)
        if values.dtype.kind == "f" and (values != (whole := np.rint(values))).any():
            off = np.abs(values - whole)
            far = off > ROUNDING_NOISE * np.maximum(1, np.abs(values))
            self.fractional.add(block, values, far)
            self.nearly_whole.add(block, values, (off > 0) & ~far)
