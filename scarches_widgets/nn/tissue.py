"""What a tissue says of its cells before anything is trained: neighbours, spatial genes and components, regions."""

from __future__ import annotations

from typing import Literal

import numpy as np
from scipy import sparse

from .clusters import clusters_of

MOST_REGIONS = 4096


def neighbour_graph(places: np.ndarray, n_neighbors: int = 6, sections: np.ndarray | None = None) -> sparse.csr_matrix:
    """Who is next to whom: float64 (cells, cells) of 0 and 1, symmetric, without the diagonal.

    Parameters
    ----------
    places
        Coordinates, (cells, dimensions).
    n_neighbors
        Two cells are neighbours if either is among so many nearest ones of the other.
    sections
        Code of each cell's section, int (cells,); cells of two sections are no neighbours. None: one section.
    """
    from scipy.spatial import cKDTree

    sections = np.zeros(len(places), dtype=int) if sections is None else sections
    pairs = [np.zeros((0, 2), dtype=int)]
    for section in np.unique(sections):
        cells = np.flatnonzero(sections == section)
        n_nearest = min(n_neighbors, len(cells) - 1)
        if n_nearest:
            nearest = cKDTree(places[cells]).query(places[cells], np.arange(1, n_nearest + 2))[1]
            pairs.append(np.stack([np.repeat(cells, n_nearest + 1), cells[nearest].ravel()], axis=1))
    rows, columns = np.concatenate(pairs).T
    apart = rows != columns  # of two cells at one place, the nearest of either may be the other
    shape = (len(places), len(places))
    graph = sparse.csr_matrix((np.ones(apart.sum()), (rows[apart], columns[apart])), shape)
    graph = graph.maximum(graph.T)
    graph.data[:] = 1.0
    return graph


def morans_i(values: np.ndarray, graph: sparse.csr_matrix) -> np.ndarray:
    """Spatial autocorrelation of each column of `values`, (cells, genes); 0 for a constant one.

    I = n / Σ_ij w_ij · Σ_ij w_ij (x_i − x̄)(x_j − x̄) / Σ_i (x_i − x̄)²  (Moran 1950, doi:10.2307/2332142), about −1 to 1.
    """
    centered = values - values.mean(0)
    squares = np.einsum("ij,ij->j", centered, centered, dtype=np.float64)
    products = np.einsum("ij,ij->j", centered, graph @ centered, dtype=np.float64)
    flat = squares <= 1e-12 * len(values)
    return np.where(flat, 0.0, len(values) / max(graph.sum(), 1.0) * products / np.where(flat, 1.0, squares))


def spatial_components(z: np.ndarray, graph: sparse.csr_matrix, n_components: int) -> np.ndarray:
    """Directions in which neighbourhoods vary most, float32 (genes, components), orthonormal.

    They are the principal components of what each cell and its neighbours have in the mean. Noise of single cells
    averages out there, so that the first directions are of patterns of the tissue.

    Parameters
    ----------
    z
        Standardised expression, (cells, genes).
    graph
        As `neighbour_graph` gives it.
    n_components
        No more than genes or cells.
    """
    n_around = np.asarray(graph.sum(1))
    smooth = (z + graph @ z) / (1 + n_around)
    smooth = np.asarray(smooth - smooth.mean(0), dtype=np.float64)
    _, directions = np.linalg.eigh(smooth.T @ smooth)
    directions = directions[:, ::-1][:, : min(n_components, *z.shape)]
    largest = directions[np.abs(directions).argmax(0), np.arange(directions.shape[1])]
    return (directions * np.sign(largest)).astype(np.float32)  # eigenvectors have no sign of their own


def partition(
    places: np.ndarray, method: Literal["kmeans", "grid", "leiden"], resolution: float, seed: int = 0
) -> np.ndarray:
    """Number of each cell's region, int64 (cells,), from 0 without gaps.

    Parameters
    ----------
    places
        Coordinates, (cells, dimensions).
    method
        "kmeans": compact regions of about equal numbers of cells. "grid": squares or cubes of one size. "leiden":
        communities of the graph of 15 nearest neighbours in space.
    resolution
        For "kmeans", the number of regions; for "grid", about that number if cells filled the box around them; for
        "leiden", its resolution.
    seed
        Of "kmeans" and "leiden".
    """
    if method == "grid":
        low, span = places.min(0), np.maximum(np.ptp(places, axis=0), 1e-12)
        wide = span > 1e-9 * span.max()
        side = (span[wide].prod() / resolution) ** (1 / wide.sum())
        n_along = np.where(wide, np.maximum(1, np.round(span / side)), 1).astype(np.int64)
        square = np.minimum((places - low) / span * n_along, n_along - 1).astype(np.int64)
        return np.unique(np.ravel_multi_index(square.T, n_along), return_inverse=True)[1].astype(np.int64)
    n_clusters = max(1, round(resolution)) if method == "kmeans" else None
    return clusters_of(
        places, method=method, resolution=resolution, n_clusters=n_clusters, most=MOST_REGIONS, seed=seed
    )
