"""Cells' coordinates and labels, from arrays or from an AnnData."""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy import sparse

from ...data.names import DataError, did_you_mean, listed
from ..transfer import _coordinates, finite


def coordinates(data: ArrayLike, use_rep: str | None) -> tuple[np.ndarray, pd.DataFrame | None]:
    """Float64 (cells, dimensions), and `obs` if `data` is an AnnData."""
    if hasattr(data, "obs_names"):
        z = _coordinates(data, "X" if use_rep is None else use_rep, "data")
        return z.astype(np.float64), data.obs
    if use_rep is not None:
        raise TypeError("use_rep names a key of obsm, so `data` must be an AnnData.")
    z = np.asarray(data.toarray() if sparse.issparse(data) else data, dtype=np.float64)
    if z.ndim != 2 or z.shape[1] == 0:
        raise DataError(f"Coordinates are a table of cells × dimensions, not of shape {z.shape}.")
    return finite(z, np.arange(len(z)), "the data"), None


def label_column(obs: pd.DataFrame | None, labels: str | ArrayLike, n_cells: int) -> np.ndarray:
    """Labels as strings, None where missing, (cells,), from a column of obs or from an array."""
    if isinstance(labels, str):
        if obs is None or labels not in obs:
            columns = () if obs is None else obs
            has = listed(columns, 10) or "none"
            raise DataError(f"There is no column '{labels}' in obs.{did_you_mean(labels, columns)} It has: {has}.")
        labels = obs[labels]
    labels = pd.Series(np.asarray(labels, dtype=object).ravel())
    if len(labels) != n_cells:
        raise DataError(f"There are {len(labels):,} labels for {n_cells:,} cells.")
    return np.where(labels.isna(), None, labels.astype(str)).astype(object)
