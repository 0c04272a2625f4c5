"""Nearest neighbours in nested groups of cells: one table of distances serves every node of a tree.

|x − y|² = |x|² + |y|² − 2 x·y, in blocks, one matrix product each, in single precision. A block is used for all groups,
as the cells of a group stand together. Candidates are those within a bound that cannot miss a neighbour: the columns
are dealt to more piles than neighbours are wanted, and the k-th smallest of the piles' minima is no less than the k-th
smallest distance. The candidates' distances are then taken anew in double precision, so that results are exact and do
not depend on the blocks.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

BLOCK = 4_000_000  # distances in memory at a time: 16 MB
PILES_PER_NEIGHBOR = 8  # more piles: fewer candidates besides the neighbours
PAIRS_AT_ONCE = 200_000


class DistanceBlocks:
    """Squared distances from query cells to reference cells, (cells, dimensions) both, some query cells at a time."""

    def __init__(self, reference: np.ndarray):
        self.reference = np.ascontiguousarray(reference, dtype=np.float64)
        self.center = self.reference.mean(axis=0)
        centered = (self.reference - self.center).T
        squares = (centered**2).sum(axis=0)
        self.largest_square = squares.max(initial=0)
        self.turned = np.vstack([-2 * centered, squares]).astype(np.float32)  # (dimensions + 1, reference cells)

    def of(self, query: np.ndarray) -> Iterator[DistanceBlock]:
        step = max(16, BLOCK // max(1, len(self.reference)))
        for start in range(0, len(query), step):
            yield DistanceBlock(self, np.asarray(query[start : start + step], dtype=np.float64), start)


class DistanceBlock:
    """Some query cells' distances to all reference cells; `start` is the first one's row in the query."""

    def __init__(self, blocks: DistanceBlocks, query: np.ndarray, start: int):
        self.blocks, self.query, self.start = blocks, query, start
        centered = query - blocks.center
        with_one = np.hstack([centered, np.ones((len(query), 1))]).astype(np.float32)
        self.approximate = with_one @ blocks.turned  # (cells, reference cells), squared distances less |x|²
        largest = (centered**2).sum(axis=1) + blocks.largest_square
        self.tolerance = 4 * (query.shape[1] + 4) * np.finfo(np.float32).eps * largest  # twice the rounding error

    def nearest(self, rows: np.ndarray, first: int, last: int, k: int) -> tuple[np.ndarray, np.ndarray]:
        """The k nearest among reference cells first … last − 1 of these rows of the block.

        Returns distances, ascending, and positions in the reference, both (rows, k); of equal ones the first.
        """
        part = self.approximate[:, first:last] if len(rows) == len(self.query) else self.approximate[rows, first:last]
        bound = _bound(part, k) + self.tolerance[rows]
        found = np.flatnonzero(part <= bound[:, None])
        of_row, position = np.divmod(found, last - first)
        position += first
        distances = np.empty(len(found))
        for start in range(0, len(found), PAIRS_AT_ONCE):
            pairs = slice(start, start + PAIRS_AT_ONCE)
            difference = self.query[rows[of_row[pairs]]] - self.blocks.reference[position[pairs]]
            distances[pairs] = np.sqrt(np.einsum("ij,ij->i", difference, difference))
        order = np.lexsort([position, distances, of_row])
        starts = np.searchsorted(of_row, np.arange(len(rows)))
        chosen = order[starts[:, None] + np.arange(k)]
        return distances[chosen], position[chosen]


def _bound(part: np.ndarray, k: int) -> np.ndarray:
    """Of each row a value that at least k entries do not exceed."""
    n_rows, n = part.shape
    n_piles = PILES_PER_NEIGHBOR * k
    height = n // n_piles
    if height > 1:
        part = part[:, : height * n_piles].reshape(n_rows, height, n_piles).min(axis=1)
    return np.partition(part, k - 1, axis=1)[:, k - 1]
