"""Two of the three gates that reject a cell of no known type: unlike all cells in shape, or far from all of them.

Reconstruction: the error |x − x̂| of a projection on the principal components that hold 90 % of the variance (100 of
them in more than 100 dimensions) is larger than that of all but `false_negative_percent` of known cells. The limit is
found on held-out fifths: it is the median of the five percentiles.

Distance: the mean distance to the k nearest known cells is larger than that of `percentile` percent of known cells,
each of which is left out of its own neighbours.

The third, a call that too few neighbours back, is in `classifiers`. Michielsen et al. 2021,
doi:10.1038/s41467-021-23196-8, Methods.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np

from ...data.names import DataError

N_FOLDS = 5


@dataclass(frozen=True, eq=False)
class Projection:
    """Principal components of known cells."""

    center: np.ndarray  # (dimensions,)
    components: np.ndarray  # (dimensions, components), orthonormal columns

    def scores(self, data: np.ndarray) -> np.ndarray:
        return (data - self.center) @ self.components

    def error(self, data: np.ndarray) -> np.ndarray:
        """How far each cell is from its projection, (cells,)."""
        centered = data - self.center
        return np.linalg.norm(centered - (centered @ self.components) @ self.components.T, axis=1)


@dataclass(frozen=True, eq=False)
class ReconstructionGate:
    projection: Projection
    limit: float


def fit_projection(data: np.ndarray) -> Projection:
    center = data.mean(axis=0)
    return _projection(center, *_moments(data - center))


def fit_reconstruction(data: np.ndarray, labels: np.ndarray, false_negative_percent: float) -> ReconstructionGate:
    """The gate for these cells, in folds stratified by their labels, as scHPL's."""
    from sklearn.model_selection import StratifiedKFold

    if len(data) < N_FOLDS:
        raise DataError(
            f"The reconstruction gate needs {N_FOLDS} cells or more, but there are {len(data)}. Pass `useRE=False`."
        )
    if np.unique(labels, return_counts=True)[1].max() < N_FOLDS:
        labels = np.zeros(len(labels), dtype=int)  # no label can be in every fold
    center = data.mean(axis=0)  # first of all, or the sums of squares cancel
    centered = data - center
    total = _moments(centered)
    limits = []
    folds = StratifiedKFold(N_FOLDS, shuffle=True, random_state=0)
    for _, held_out in _quietly(folds.split, data, labels):
        others = (whole - part for whole, part in zip(total, _moments(centered[held_out])))
        errors = _projection(center, *others).error(data[held_out])
        limits.append(np.percentile(errors, 100 - false_negative_percent))
    return ReconstructionGate(_projection(center, *total), float(np.median(limits)))


def _moments(data: np.ndarray) -> tuple[int, np.ndarray, np.ndarray]:
    """Number of cells, sum and sum of squares: a fold's can be taken from the whole's."""
    return len(data), data.sum(axis=0), data.T @ data


def _projection(center: np.ndarray, n: int, total: np.ndarray, squares: np.ndarray) -> Projection:
    mean = total / n
    variances, vectors = np.linalg.eigh(squares / n - np.outer(mean, mean))
    variances, vectors = np.clip(variances[::-1], 0, None), vectors[:, ::-1]
    n_components = min(100, n)
    if len(mean) <= 100:
        shares = np.cumsum(variances) / max(variances.sum(), np.finfo(float).tiny)
        n_components = int(np.searchsorted(shares, 0.9, side="right")) + 1
    return Projection(center + mean, vectors[:, :n_components])


def _quietly(split, data: np.ndarray, labels: np.ndarray) -> list:
    """scikit-learn warns of labels with fewer cells than folds, which do no harm here."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The least populated class", category=UserWarning)
        return list(split(data, labels))
