"""Scores of an embedding or a mapping: is the biology kept, are the batches mixed, is the uncertainty honest?

All take plain arrays: `z`, coordinates (cells, dimensions); `labels` and `batches`, one name per cell. Larger is
better, and 1 is perfect. `scores` gathers them for a report. After Luecken et al. 2022, doi:10.1038/s41592-021-01336-8,
unless a function names another source.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy import sparse
from scipy.spatial import cKDTree
from scipy.stats import hypergeom, rankdata

from ..data.names import DataError
from ..training.limits import usable_cpus
from .transfer import finite, vote

FEWEST_CELLS = 10  # a type with fewer cells says little about mixing, and would count as much as a large one


def knn_predict(
    reference_z: ArrayLike, reference_labels: ArrayLike, query_z: ArrayLike | None = None, n_neighbors: int = 15
) -> np.ndarray:
    """The label that most of each cell's nearest reference cells carry.

    Parameters
    ----------
    reference_z, reference_labels
        Coordinates (cells, dimensions), and one label per cell.
    query_z
        Coordinates of the cells to be labelled. Default: the reference's own cells, each without its own vote.
    n_neighbors
        How many cells vote, each alike; no more than there are.

    Returns
    -------
    Labels as strings, (cells,). On equal votes the first in sorted order.
    """
    reference_z = _embedding(reference_z)
    names, codes = _encoded(reference_labels, "reference_labels", len(reference_z))
    if query_z is None:
        neighbors = _other_neighbors(reference_z, n_neighbors)
    else:
        ranks = np.arange(1, min(n_neighbors, len(reference_z)) + 1)
        neighbors = cKDTree(reference_z).query(_embedding(query_z), k=ranks, workers=usable_cpus())[1]
    return names[vote(codes[neighbors], np.ones(neighbors.shape), len(names)).argmax(axis=1)]


def knn_accuracy(
    reference_z: ArrayLike,
    reference_labels: ArrayLike,
    query_z: ArrayLike | None = None,
    query_labels: ArrayLike | None = None,
    n_neighbors: int = 15,
) -> float:
    """Share of cells whose nearest neighbours vote for the right label.

    Parameters
    ----------
    reference_z, reference_labels, n_neighbors
        As in `knn_predict`.
    query_z, query_labels
        The mapped cells and their true labels; a label that the reference lacks counts as wrong. Default: the
        reference's own cells, each left out in its turn.

    Returns
    -------
    0 to 1.
    """
    if (query_z is None) != (query_labels is None):
        raise TypeError("Give query_z and query_labels together, or neither.")
    truth = reference_labels if query_labels is None else query_labels
    predicted = knn_predict(reference_z, reference_labels, query_z, n_neighbors)
    return float((_names(truth, "query_labels", len(predicted)) == predicted).mean())


def transfer_accuracy(z: ArrayLike, labels: ArrayLike, batches: ArrayLike, n_neighbors: int = 15) -> float:
    """Share of cells labelled rightly by the neighbours from *other* batches: what a new batch may expect.

    Unlike `knn_accuracy`, it does not profit from the neighbours of a cell's own batch.

    Parameters
    ----------
    z, labels, batches
        Coordinates (cells, dimensions), and one label and batch per cell. At least two batches.
    n_neighbors
        How many cells vote, each alike.

    Returns
    -------
    0 to 1: the mean over batches, each of which is the query once. Cells of types that no other batch has are left out.
    """
    z = _embedding(z)
    labels = _names(labels, "labels", len(z))
    batch_names, batch_codes = _encoded(batches, "batches", len(z))
    if len(batch_names) < 2:
        raise DataError(
            f"Transfer needs two batches or more, but all cells are of '{batch_names[0]}'. Check `batches`."
        )
    accuracies = []
    for batch in range(len(batch_names)):
        reference = batch_codes != batch
        query = ~reference & np.isin(labels, labels[reference])
        if query.any():
            accuracies.append(knn_accuracy(z[reference], labels[reference], z[query], labels[query], n_neighbors))
    return float(np.mean(accuracies)) if accuracies else np.nan


def macro_f1(true_labels: ArrayLike, predicted_labels: ArrayLike) -> float:
    """F1 of each cell type, averaged so that a rare type counts as much as a common one.

    Parameters
    ----------
    true_labels, predicted_labels
        One name per cell. A prediction such as "Unknown" is a miss of the true type, but no type of its own.

    Returns
    -------
    0 to 1.
    """
    from sklearn.metrics import f1_score

    true_labels = _names(true_labels, "true_labels")
    predicted_labels = _names(predicted_labels, "predicted_labels", len(true_labels))
    types = np.unique(true_labels)
    return float(f1_score(true_labels, predicted_labels, labels=types, average="macro", zero_division=0))


def batch_mixing_within_types(z: ArrayLike, labels: ArrayLike, batches: ArrayLike, n_neighbors: int = 30) -> float:
    """How well batches are mixed among cells of the same type: 1 = like shuffled batches, 0 = separated.

    For each type: the entropy of the batches among a cell's nearest neighbours *of its type*, −Σ_b p_b ln p_b, averaged
    over the type's cells, divided by what shuffling the batches over these cells would give. That expectation is exact,
    since a shuffled neighbourhood is k draws without replacement from the type's n cells, n_b of batch b:

        E = Σ_b Σ_x Hypergeometric(x; n, n_b, k) · (−x/k · ln x/k)

    So neither a type's uneven batches nor a small k lower the score. Ratios are capped at 1 and averaged over types.

    Parameters
    ----------
    z, labels, batches
        Coordinates (cells, dimensions), and one cell type and batch per cell.
    n_neighbors
        Size of a neighbourhood, k; in a smaller type, all its other cells.

    Returns
    -------
    0 to 1; NaN if no type has cells of two batches. Types of one batch or fewer than 10 cells are left out.
    """
    ratios = []
    for type_z, batch_codes in _types_to_mix(z, labels, batches):
        n_cells, sizes = len(type_z), np.bincount(batch_codes)
        neighbors = _other_neighbors(type_z, n_neighbors)
        k = neighbors.shape[1]
        counts = np.arange(k + 1)
        chance = hypergeom.pmf(counts, n_cells, sizes[:, None], k)  # (batches, counts)
        expected = (chance * _entropy_term(counts / k)).sum()
        shares = vote(batch_codes[neighbors], np.ones(neighbors.shape), len(sizes))  # (cells, batches)
        if expected > 0:  # a single neighbour has no entropy
            ratios.append(min(_entropy_term(shares).sum(axis=1).mean() / expected, 1.0))
    return float(np.mean(ratios)) if ratios else np.nan


def silhouette_of_labels(z: ArrayLike, labels: ArrayLike, max_cells: int = 5000, seed: int = 0) -> float:
    """How far cell types stand apart: the mean silhouette width s, scaled as (s + 1) / 2.

    Parameters
    ----------
    z, labels
        Coordinates (cells, dimensions), and one label per cell; at least two labels.
    max_cells
        Silhouettes take time with the square of the cells: above this number a random sample is scored.
    seed
        Of that sample.

    Returns
    -------
    0 to 1; 0.5 = types overlap. NaN if the sample holds a single label, or as many labels as cells.

    References
    ----------
    Rousseeuw 1987, doi:10.1016/0377-0427(87)90125-7.
    """
    from sklearn.metrics import silhouette_samples

    z = _embedding(z)
    labels = _names(labels, "labels", len(z))
    sample = _sample(len(z), max_cells, seed)
    if not 2 <= len(np.unique(labels[sample])) < len(sample):
        return np.nan
    return float((silhouette_samples(z[sample], labels[sample]).mean() + 1) / 2)


def silhouette_of_batches(
    z: ArrayLike, labels: ArrayLike, batches: ArrayLike, max_cells: int = 5000, seed: int = 0
) -> float:
    """How little batches stand apart within a cell type: the mean over types of mean(1 − |s|).

    Read it beside `batch_mixing_within_types`: it can be high where each batch has only one near neighbour batch
    (Rautenstrauch and Ohler 2025, doi:10.1038/s41587-025-02743-4).

    Parameters
    ----------
    z, labels, batches
        Coordinates (cells, dimensions), and one cell type and batch per cell.
    max_cells
        At most so many cells of each type are scored, a random sample.
    seed
        Of these samples.

    Returns
    -------
    0 to 1; NaN if no type has cells of two batches. Types of one batch or fewer than 10 cells are left out.
    """
    from sklearn.metrics import silhouette_samples

    widths = []
    for type_z, batch_codes in _types_to_mix(z, labels, batches):
        sample = _sample(len(type_z), max_cells, seed)
        if 2 <= len(np.unique(batch_codes[sample])) < len(sample):
            widths.append(1 - np.abs(silhouette_samples(type_z[sample], batch_codes[sample])).mean())
    return float(np.mean(widths)) if widths else np.nan


def graph_connectivity(z: ArrayLike, labels: ArrayLike, n_neighbors: int = 15) -> float:
    """Whether each cell type hangs together in the neighbour graph of all cells.

    Parameters
    ----------
    z, labels
        Coordinates (cells, dimensions), and one cell type per cell.
    n_neighbors
        Edges from each cell.

    Returns
    -------
    0 to 1: the mean over types of the largest connected part's share of the type's cells.
    """
    z = _embedding(z)
    names, codes = _encoded(labels, "labels", len(z))
    neighbors = _other_neighbors(z, n_neighbors)
    sources = np.repeat(np.arange(len(z)), neighbors.shape[1])
    within_type = codes[sources] == codes[neighbors.ravel()]
    edges = sources[within_type], neighbors.ravel()[within_type]
    graph = sparse.coo_matrix((np.ones(len(edges[0]), bool), edges), shape=(len(z), len(z)))
    parts = sparse.csgraph.connected_components(graph, directed=False)[1]
    return float(
        np.mean([np.bincount(parts[codes == code]).max() / (codes == code).sum() for code in range(len(names))])
    )


def cluster(z: ArrayLike, n_clusters: int, seed: int = 0) -> np.ndarray:
    """Clusters to compare with labels by `nmi` and `ari`: k-means, best of 5 seeded starts.

    k-means rather than Leiden, since it is told the number of types and so has no resolution to be tuned to the score.

    Parameters
    ----------
    z
        Coordinates, (cells, dimensions).
    n_clusters
        The number of cell types.
    seed
        Of the starts.

    Returns
    -------
    Each cell's cluster, 0 to n_clusters − 1.
    """
    from sklearn.cluster import KMeans

    return KMeans(n_clusters, n_init=5, random_state=seed).fit_predict(_embedding(z))


def nmi(labels: ArrayLike, clusters: ArrayLike) -> float:
    """Normalised mutual information of labels and clusters: 0 = unrelated, 1 = the same partition.

    Parameters
    ----------
    labels, clusters
        One name per cell, for example from `cluster`.

    Returns
    -------
    0 to 1, normalised by the mean of both entropies.
    """
    from sklearn.metrics import normalized_mutual_info_score

    labels = _names(labels, "labels")
    return float(normalized_mutual_info_score(labels, _names(clusters, "clusters", len(labels))))


def ari(labels: ArrayLike, clusters: ArrayLike) -> float:
    """Rand index of labels and clusters, adjusted for chance: 0 = as by chance, 1 = the same partition.

    Parameters
    ----------
    labels, clusters
        One name per cell, for example from `cluster`.

    Returns
    -------
    −0.5 to 1.
    """
    from sklearn.metrics import adjusted_rand_score

    labels = _names(labels, "labels")
    return float(adjusted_rand_score(labels, _names(clusters, "clusters", len(labels))))


def auroc(scores: ArrayLike, is_positive: ArrayLike) -> float:
    """Area under the ROC curve: the chance that a positive scores higher than a negative, ties counting half.

    For example, does the uncertainty find the wrong labels: `auroc(uncertainties, predicted != truth)`.

    Parameters
    ----------
    scores
        One number per cell.
    is_positive
        True or False per cell; both must occur.

    Returns
    -------
    0 to 1; 0.5 = no better than chance.

    References
    ----------
    Hanley and McNeil 1982, doi:10.1148/radiology.143.1.7063747.
    """
    scores, is_positive = np.asarray(scores, dtype=float), np.asarray(is_positive, dtype=bool)
    if scores.shape != is_positive.shape:
        raise ValueError(f"scores and is_positive differ in shape: {scores.shape} and {is_positive.shape}.")
    n_positive, n_negative = int(is_positive.sum()), int((~is_positive).sum())
    if not n_positive or not n_negative:
        raise DataError(f"Both positives and negatives are needed; there are {n_positive:,} and {n_negative:,}.")
    if np.isnan(scores).any():
        raise DataError(
            f"{np.isnan(scores).sum():,} of {len(scores):,} scores are NaN and have no rank. Drop those cells."
        )
    rank_sum = rankdata(scores)[is_positive].sum()
    return float((rank_sum - n_positive * (n_positive + 1) / 2) / (n_positive * n_negative))


def scores(
    z: ArrayLike,
    labels: ArrayLike,
    batches: ArrayLike | None = None,
    *,
    n_neighbors: int = 15,
    max_cells: int = 5000,
    seed: int = 0,
) -> pd.Series:
    """All scores of one embedding. `pd.DataFrame({"PCA": scores(...), "scVI": scores(...)})` compares two.

    Parameters
    ----------
    z, labels
        Coordinates (cells, dimensions), and one cell type per cell.
    batches
        One batch per cell; without it, the scores about batches are left out.
    n_neighbors
        Of the vote, the graph and the mixing.
    max_cells, seed
        Cells whose silhouettes are taken, and the seed of that sample and of the clusters.

    Returns
    -------
    Score by name, 1 = perfect; NaN where the data allow none.
    """
    labels = _names(labels, "labels", len(_embedding(z)))
    predicted = knn_predict(z, labels, n_neighbors=n_neighbors)
    clusters = cluster(z, len(np.unique(labels)), seed)
    values = {
        "knn_accuracy": float((predicted == labels).mean()),
        "knn_macro_f1": macro_f1(labels, predicted),
        "nmi": nmi(labels, clusters),
        "ari": ari(labels, clusters),
        "silhouette_of_labels": silhouette_of_labels(z, labels, max_cells, seed),
        "graph_connectivity": graph_connectivity(z, labels, n_neighbors),
    }
    if batches is not None:
        several = len(np.unique(_names(batches, "batches", len(labels)))) > 1
        values |= {
            "transfer_accuracy": transfer_accuracy(z, labels, batches, n_neighbors) if several else np.nan,
            "batch_mixing_within_types": batch_mixing_within_types(z, labels, batches, n_neighbors),
            "silhouette_of_batches": silhouette_of_batches(z, labels, batches, max_cells, seed),
        }
    return pd.Series(values, name="score").rename_axis("metric")


def _embedding(z: ArrayLike) -> np.ndarray:
    z = np.asarray(z)
    if z.ndim != 2 or len(z) == 0:
        raise ValueError(f"Coordinates must be (cells, dimensions) with at least one cell; got shape {z.shape}.")
    return finite(z, np.arange(len(z)), "the embedding")


def _names(values: ArrayLike, what: str, n_cells: int | None = None) -> np.ndarray:
    """One string per cell; neither missing nor of another number than the cells."""
    values = np.asarray(values, dtype=object)
    if values.ndim != 1 or (n_cells is not None and len(values) != n_cells):
        raise ValueError(f"{what} must have one name per cell ({n_cells or 'any number'}); got shape {values.shape}.")
    if pd.isna(values).any():
        raise DataError(
            f"{pd.isna(values).sum():,} of {len(values):,} {what} are missing (NaN). Drop or name these cells."
        )
    return values.astype(str)


def _encoded(values: ArrayLike, what: str, n_cells: int) -> tuple[np.ndarray, np.ndarray]:
    return np.unique(_names(values, what, n_cells), return_inverse=True)


def _other_neighbors(z: np.ndarray, n_neighbors: int) -> np.ndarray:
    """Each cell's nearest other cells, (cells, n_neighbors or all others)."""
    if n_neighbors < 1 or len(z) < 2:
        raise ValueError(
            f"Neighbours need two cells or more and n_neighbors of at least 1; got {len(z)}, {n_neighbors}."
        )
    ranks = np.arange(1, min(n_neighbors, len(z) - 1) + 2)
    found = cKDTree(z).query(z, k=ranks, workers=usable_cpus())[1]
    dropped = found == np.arange(len(z))[:, None]
    dropped[~dropped.any(axis=1), -1] = True  # among many twins a cell may not find itself; its last neighbour goes
    return found[~dropped].reshape(len(z), -1)


def _types_to_mix(z: ArrayLike, labels: ArrayLike, batches: ArrayLike) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Coordinates and batch codes of each type that has enough cells and two batches or more."""
    z = _embedding(z)
    labels, batches = _names(labels, "labels", len(z)), _names(batches, "batches", len(z))
    for label in np.unique(labels):
        of_type = labels == label
        names, codes = np.unique(batches[of_type], return_inverse=True)
        if of_type.sum() >= FEWEST_CELLS and len(names) > 1:
            yield z[of_type], codes


def _entropy_term(p: np.ndarray) -> np.ndarray:
    """−p ln p, 0 at 0."""
    return -p * np.log(p, where=p > 0, out=np.zeros_like(p, dtype=float))


def _sample(n_cells: int, max_cells: int, seed: int) -> np.ndarray:
    """Rows to score: all, or a seeded sample."""
    if n_cells <= max_cells:
        return np.arange(n_cells)
    return np.sort(np.random.default_rng(seed).choice(n_cells, max_cells, replace=False))
