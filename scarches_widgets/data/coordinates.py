"""Where cells lie in their tissue, read from an AnnData and looked at."""

from __future__ import annotations

import numpy as np

from .names import DataError, did_you_mean, listed


def places_of(adata, spatial_key: str, of: str = "reference") -> np.ndarray:
    """Coordinates of the cells, float64 (cells, 2 or 3).

    Raises
    ------
    DataError
        If there are none, or not of 2 or 3 dimensions, or some are not finite, or all are the same.
    """
    if spatial_key not in adata.obsm:
        there = f"It has: {listed(adata.obsm, 10)}." if len(adata.obsm) else "Its obsm is empty."
        raise DataError(
            f"The {of} has no obsm['{spatial_key}'], so its cells have no coordinates."
            f"{did_you_mean(spatial_key, adata.obsm)} {there} Name the key of the coordinates: spatial_key=…"
        )
    try:
        places = np.asarray(adata.obsm[spatial_key], dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise DataError(
            f"obsm['{spatial_key}'] holds other than numbers ({error}). Coordinates are numbers."
        ) from error
    if places.ndim != 2 or places.shape[1] not in (2, 3):
        raise DataError(
            f"obsm['{spatial_key}'] is of shape {places.shape}; coordinates are (cells, 2) or (cells, 3). "
            f"Keep the columns that are coordinates: adata.obsm['{spatial_key}'][:, :2]."
        )
    bad = ~np.isfinite(places).all(axis=1)
    if bad.any():
        raise DataError(
            f"{bad.sum():,} of {len(bad):,} cells have NaN or infinite coordinates in obsm['{spatial_key}'] "
            f"({listed(adata.obs_names[bad])}). Drop these cells."
        )
    if (np.ptp(places, axis=0) == 0).all():
        raise DataError(f"All cells lie at one place in obsm['{spatial_key}'], so there is nothing to learn.")
    return places
