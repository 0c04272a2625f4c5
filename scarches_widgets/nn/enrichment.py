"""Which labels are neighbours more often than by chance: the mean and variance over all permutations, in closed form.

The count of a pair of labels is X_ab = Σ_ij A_ij [l_i = a][l_j = b], with A_ij = 1 if there is an edge from i to j. If
labels are permuted among cells, with P(a, b, …) the probability that distinct cells carry these labels,

    E[X_ab]  = m P(a, b)
    E[X_ab²] = m P(a, b) + r [a = b] P(a, a) + s_out P(a, b, b) + s_in P(b, a, a) + 2 c [a = b] P(a, a, a)
               + (m² − m − r − s_out − s_in − 2 c) P(a, a, b, b)

since two edges are the same (m), reciprocal (r = Σ A_ij A_ji), of one start (s_out = Σ_i d_i (d_i − 1), d out-degrees),
of one end (s_in), one after the other (c = Σ_i d_in,i d_out,i − r, in either order), or have no cell in common. These
are the moments that squidpy's nhood_enrichment estimates from permutations (Palla et al. 2022,
doi:10.1038/s41592-021-01358-2).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import sparse


@dataclass(frozen=True)
class Enrichment:
    """Of each label's cells (rows) next to each label's (columns).

    Attributes
    ----------
    counts
        Edges from the row's cells to the column's, int64 (labels, labels).
    mean, variance
        Of the counts if labels are permuted, float64 (labels, labels).
    """

    counts: np.ndarray
    mean: np.ndarray
    variance: np.ndarray

    @property
    def zscore(self) -> np.ndarray:
        """(counts − mean) / standard deviation; 0 where no permutation changes the count."""
        is_fixed = self.variance <= 1e-9 * np.maximum(self.mean, 1) ** 2
        return np.where(is_fixed, 0.0, (self.counts - self.mean) / np.sqrt(np.where(is_fixed, 1, self.variance)))


def enrichment(
    graph: sparse.csr_matrix, codes: np.ndarray, n_labels: int, libraries: np.ndarray | None = None
) -> Enrichment:
    """Counts of neighbours by labels, and their moments over permutations.

    Parameters
    ----------
    graph
        (cells, cells); every stored entry off the diagonal is one edge, whatever its value.
    codes
        Each cell's label, int (cells,), 0 to `n_labels` − 1.
    libraries
        Code of each cell's library, int (cells,): labels are permuted within libraries, and edges between them do not
        count. None: one library.
    """
    libraries = np.zeros(len(codes), dtype=np.int64) if libraries is None else libraries
    starts = np.repeat(np.arange(graph.shape[0]), np.diff(graph.indptr))
    ends = graph.indices
    is_edge = (starts != ends) & (libraries[starts] == libraries[ends])
    starts, ends = starts[is_edge], ends[is_edge].astype(np.int64)
    counts = np.bincount(codes[starts] * n_labels + codes[ends], minlength=n_labels**2).reshape(n_labels, n_labels)
    mean, variance = np.zeros((2, n_labels, n_labels))
    for library in np.unique(libraries):
        of_library = libraries == library
        inside = of_library[starts]
        n_of_label = np.bincount(codes[of_library], minlength=n_labels).astype(np.float64)
        of_library_mean, of_library_variance = _moments(starts[inside], ends[inside], len(codes), n_of_label)
        mean += of_library_mean
        variance += of_library_variance
    return Enrichment(counts, mean, np.maximum(variance, 0))


def _moments(starts: np.ndarray, ends: np.ndarray, n_cells: int, n_of_label: np.ndarray):
    """Mean and variance, each (labels, labels), of one library's edges."""
    m = float(len(starts))
    d_out, d_in = (np.bincount(at, minlength=n_cells).astype(np.float64) for at in (starts, ends))
    r = float(np.isin(starts * n_cells + ends, ends * n_cells + starts).sum())
    s_out, s_in = (float((d * (d - 1)).sum()) for d in (d_out, d_in))
    c = float((d_in * d_out).sum()) - r

    same = np.eye(len(n_of_label))
    a, b = n_of_label[:, None], n_of_label[None, :]
    n = n_of_label.sum()
    two, three, four = (max(np.prod(n - np.arange(k)), 1.0) for k in (2, 3, 4))  # ordered choices of distinct cells
    p_ab = a * (b - same) / two
    p_abb = a * (b - same) * (b - same - 1) / three
    p_baa = b * (a - same) * (a - same - 1) / three
    p_aaa = a * (a - 1) * (a - 2) / three
    p_aabb = a * (b - same) * (a - 1 - same) * (b - 1 - 2 * same) / four
    mean = m * p_ab
    apart = m**2 - m - r - s_out - s_in - 2 * c
    square = m * p_ab + same * r * p_ab + s_out * p_abb + s_in * p_baa + 2 * same * c * p_aaa + apart * p_aabb
    return mean, square - mean**2
