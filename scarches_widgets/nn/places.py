"""From probabilities of regions to places: a posterior over the reference's cells.

    log w_qr = Σ_m a [log p_m(y_m(r) | q) − log n_m(y_m(r))]        up to a constant per query cell q

with y_m(r) the region of reference cell r in partition m, n_m the number of cells in a region, and a the sharpness.
Cells of the same regions in all partitions have the same weight, so sums go over these atoms of the tissue: their
number of cells, their mean place, and their spread. Nothing is of the size of cells × cells.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import softmax, xlogy

SEPARATED = 5.0  # Ashman's D of two halves above which they are two modes: 3.5 for a uniform line, 2.7 for a normal one
SECOND_MODE = 0.3  # share of the mass that makes a second mode worth avoiding the mean between the two


@dataclass(frozen=True)
class Atoms:
    """Reference cells that are in the same region of every partition, as one.

    Attributes
    ----------
    regions
        Region of each atom in each partition, int (atoms, partitions).
    n_cells
        Float64 (atoms,).
    places
        Mean coordinates, (atoms, dimensions).
    variance
        Mean squared distance of its cells from there, (atoms,).
    of_cell
        Each cell's atom, int (cells,).
    """

    regions: np.ndarray
    n_cells: np.ndarray
    places: np.ndarray
    variance: np.ndarray
    of_cell: np.ndarray

    @classmethod
    def of(cls, regions: np.ndarray, places: np.ndarray) -> Atoms:
        """Of cells with these regions, int (cells, partitions), at these places, (cells, dimensions)."""
        distinct, of_cell = np.unique(regions, axis=0, return_inverse=True)
        of_cell = of_cell.reshape(-1)
        n_cells = np.bincount(of_cell).astype(np.float64)
        means = np.stack([np.bincount(of_cell, along) for along in places.T], axis=1) / n_cells[:, None]
        squares = ((places - means[of_cell]) ** 2).sum(1)
        return cls(distinct, n_cells, means, np.bincount(of_cell, squares) / n_cells, of_cell)

    def posterior(self, log_p: Sequence[np.ndarray], sharpness: float = 1.0) -> np.ndarray:
        """Probability that a query cell belongs where each atom is, (query cells, atoms); rows sum to 1.

        Parameters
        ----------
        log_p
            Per partition, log-probabilities of its regions, (query cells, regions).
        sharpness
            a above, one for all partitions.
        """
        log_weight = np.log(self.n_cells) + np.zeros((len(log_p[0]), 1))
        for of_partition, region in zip(log_p, self.regions.T):
            n_in_region = np.bincount(region, self.n_cells, minlength=of_partition.shape[1])
            log_weight += sharpness * (of_partition[:, region] - np.log(n_in_region[region]))
        return softmax(log_weight, axis=1)

    def mean_place(self, posterior: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Posterior mean, (query cells, dimensions), and root mean squared distance of the posterior from it."""
        place = posterior @ self.places
        return place, self.spread_around(place, posterior)

    def spread_around(self, place: np.ndarray, posterior: np.ndarray) -> np.ndarray:
        """√ Σ_r w_r |x_r − place|², (query cells,)."""
        origin = self.places.mean(0)  # so that the difference of squares does not cancel
        places, place = self.places - origin, place - origin
        squares = posterior @ (self.variance + (places**2).sum(1))
        cross = ((posterior @ places) * place).sum(1)
        return np.sqrt(np.maximum(squares - 2 * cross + (place**2).sum(1), 0.0))

    def place(self, posterior: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The mean, or where the posterior has two modes far apart, the mean of the heavier one.

        The posterior is cut at its mean, across its longest axis. It has two modes if both halves have more than 30 %
        of the mass, and their distance is large against their widths (Ashman's D > 5; Ashman et al. 1994,
        doi:10.1086/117248).

        Returns
        -------
        place
            (query cells, dimensions).
        spread
            Root mean squared distance of the posterior from there, (query cells,).
        is_bimodal
            Bool (query cells,).
        """
        place, spread = self.mean_place(posterior)
        second = np.einsum("qa,ai,aj->qij", posterior, self.places, self.places, optimize=True)
        axis = np.linalg.eigh(second - place[:, :, None] * place[:, None, :])[1][:, :, -1]  # (query cells, dimensions)
        along = axis @ self.places.T - (axis * place).sum(1)[:, None]  # 0 at the mean
        upper = posterior * (along > 0)
        mass = upper.sum(1)
        is_bimodal = np.minimum(mass, 1 - mass) > SECOND_MODE
        halves = np.stack([upper[is_bimodal], posterior[is_bimodal] - upper[is_bimodal]])  # (2, cells, atoms)
        mass, along = halves.sum(-1), along[is_bimodal]
        centers = (halves * along).sum(-1) / mass
        around = (along - centers[..., None]) ** 2 + self.variance / self.places.shape[1]  # an atom's, along one axis
        widths = (halves * around).sum(-1) / mass
        apart = 2**0.5 * np.abs(centers[0] - centers[1]) > SEPARATED * np.sqrt(widths.sum(0))
        heavier, rows = mass.argmax(0)[apart], np.flatnonzero(apart)
        is_bimodal[is_bimodal] = apart
        place[is_bimodal] = halves[heavier, rows] @ self.places / mass[heavier, rows, None]
        spread[is_bimodal] = self.spread_around(place[is_bimodal], posterior[is_bimodal])
        return place, spread, is_bimodal

    def centroid_place(self, log_p: Sequence[np.ndarray]) -> np.ndarray:
        """Mean over partitions, weighted by 1 − entropy, of the regions' centres weighted by their probabilities."""
        places, weights = np.zeros((len(log_p[0]), self.places.shape[1])), np.zeros((len(log_p[0]), 1))
        for of_partition, region in zip(log_p, self.regions.T):
            p, n_regions = np.exp(of_partition), of_partition.shape[1]
            n_in_region = np.bincount(region, self.n_cells, minlength=n_regions)
            sums = [np.bincount(region, self.n_cells * along, minlength=n_regions) for along in self.places.T]
            weight = 1 - normalized_entropy(p)[:, None] + 1e-9  # all undecided: alike
            places += weight * (p @ (np.stack(sums, axis=1) / np.maximum(n_in_region, 1)[:, None]))
            weights += weight
        return places / weights


def normalized_entropy(p: np.ndarray) -> np.ndarray:
    """Of each row of probabilities: 0 = certain, 1 = all alike; 0 for a single column."""
    if p.shape[1] == 1:
        return np.zeros(len(p))
    return np.clip(-xlogy(p, p).sum(1) / np.log(p.shape[1]), 0, 1)


def jensen_shannon_distance(p: np.ndarray, q: np.ndarray) -> np.ndarray:
    """√JSD of each row of `p` from each row of `q`, in bits: a metric, 0 to 1, (rows of p, rows of q).

    JSD(p, q) = H((p + q) / 2) − (H(p) + H(q)) / 2. One column of the two tables after the other, so that nothing of
    three dimensions is allocated.
    """
    mixed = np.zeros((len(p), len(q)))
    for of_p, of_q in zip(p.T, q.T):
        mean = (of_p[:, None] + of_q[None, :]) / 2
        mixed -= xlogy(mean, mean)
    own = [-xlogy(table, table).sum(1) / 2 for table in (p, q)]
    return np.sqrt(np.maximum(mixed - own[0][:, None] - own[1][None, :], 0) / np.log(2))


def jensen_shannon_of_pairs(p: np.ndarray, q: np.ndarray) -> np.ndarray:
    """√JSD of rows that stand in the same place of two arrays, (…, regions), as `jensen_shannon_distance`."""
    mean = (p + q) / 2
    divergence = (xlogy(p, p).sum(-1) + xlogy(q, q).sum(-1)) / 2 - xlogy(mean, mean).sum(-1)
    return np.sqrt(np.maximum(divergence, 0) / np.log(2))
