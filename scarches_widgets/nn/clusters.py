"""Clusters of cells in latent space, by Leiden's algorithm or k-means, with a generator of their own."""

from __future__ import annotations

import random
import threading
from typing import Literal

import numpy as np

N_NEIGHBORS = 15
MOST_CELLS = 20_000  # among which communities are looked for; the others join the nearest
LEIDEN_ITERATIONS = 10
_IGRAPH = threading.Lock()  # its random generator is the process's


def clusters_of(
    z: np.ndarray,
    *,
    method: Literal["leiden", "kmeans"] = "leiden",
    resolution: float = 2.0,
    n_clusters: int | None = None,
    most: int,
    seed: int = 0,
) -> np.ndarray:
    """Number of each cell's cluster, int64 (cells,); the largest cluster is 0.

    Parameters
    ----------
    z
        Latent coordinates, (cells, n_latent).
    method
        "leiden": communities of the graph of 15 nearest neighbours (Traag et al. 2019,
        doi:10.1038/s41598-019-41695-z), found among 20,000 cells at most. "kmeans".
    resolution
        Of Leiden; the larger, the more clusters.
    n_clusters
        Of k-means; None: 10. There are no more than cells.
    most
        More clusters are not returned; cells of the smallest join the nearest of the others.
    seed
        Of all choices.
    """
    rng = np.random.default_rng(seed)
    sample = np.arange(len(z)) if len(z) <= MOST_CELLS else np.sort(rng.choice(len(z), MOST_CELLS, replace=False))
    if method == "kmeans":
        codes = _by_kmeans(z[sample], min(n_clusters or 10, most, len(sample)), seed)
    else:
        codes = _by_leiden(z[sample], resolution, seed)
    order = np.argsort(-np.bincount(codes), kind="stable")[:most]
    means = np.stack([z[sample][codes == code].mean(0) for code in order])
    rank = np.full(codes.max() + 1, -1)
    rank[order] = np.arange(len(order))
    found = np.full(len(z), -1)
    found[sample] = rank[codes]
    others = found < 0
    found[others] = _nearest(z[others], means)
    return found.astype(np.int64)


def _by_kmeans(z: np.ndarray, n_clusters: int, seed: int) -> np.ndarray:
    from sklearn.cluster import KMeans

    return KMeans(n_clusters, n_init=10, random_state=seed % 2**32).fit_predict(z)


def _by_leiden(z: np.ndarray, resolution: float, seed: int) -> np.ndarray:
    import igraph
    from sklearn.neighbors import kneighbors_graph

    n_neighbors = min(N_NEIGHBORS, len(z) - 1)
    if n_neighbors < 1:
        return np.zeros(len(z), dtype=np.int64)
    graph = kneighbors_graph(z, n_neighbors)
    pairs = np.sort(np.stack(graph.nonzero(), 1), axis=1)
    graph = igraph.Graph(len(z), np.unique(pairs, axis=0))
    with _IGRAPH:
        igraph.set_random_number_generator(random.Random(seed))
        try:
            found = graph.community_leiden("modularity", resolution=resolution, n_iterations=LEIDEN_ITERATIONS)
        finally:
            igraph.set_random_number_generator(random)
    return np.array(found.membership)


def _nearest(z: np.ndarray, means: np.ndarray) -> np.ndarray:
    from sklearn.metrics import pairwise_distances_argmin

    return pairwise_distances_argmin(z, means) if len(z) else np.zeros(0, dtype=np.int64)
