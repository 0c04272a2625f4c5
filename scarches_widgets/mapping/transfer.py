"""Labels carried from a reference to a query by the nearest neighbours. Sikkema et al. 2023,
doi:10.1038/s41591-023-02327-2; Lotfollahi et al. 2022, doi:10.1038/s41587-021-01001-7.

    d_ij                                            distance of query cell i to j, one of its k nearest reference cells
    s_i = (2 / std_j d_ij)²                         width of cell i's kernel
    w_ij = exp(−d_ij / s_i)
    P_i(label) = Σ_(j of this label) w_ij / Σ_j w_ij
    uncertainty_i = 1 − max P_i                     0 = all neighbours agree

Differs from scArches' code: equal distances give equal weights and large ones do not underflow (there: NaN); the
threshold is on the uncertainty; label keys are exact names (there: prefixes); cells are matched by name, so that the
order of the reference's cells does not matter.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from scipy import sparse

from ..data.names import DataError, did_you_mean, listed
from ..training.limits import usable_cpus
from .neighbors import ExactSearch, NeighborSearch

if TYPE_CHECKING:
    from anndata import AnnData

UNKNOWN = "Unknown"
VOTES_AT_ONCE = 2_500_000  # 50,000 cells × 50 neighbours: 40 MB of distances and indices


@dataclass(frozen=True, eq=False)
class KNNReference:
    """A reference's cells, ready to be asked for neighbours.

    They stand in the order of their names, so that ties do not depend on the order in which the reference came.
    """

    obs_names: pd.Index
    embedding: str  # "X" or a key of obsm
    n_neighbors: int
    search: NeighborSearch = field(repr=False)

    @property
    def coordinates(self) -> np.ndarray:
        """(cells, dimensions), in the order of `obs_names`."""
        return self.search.coordinates


def weighted_knn_trainer(train_adata: AnnData, train_adata_emb: str, n_neighbors: int = 50) -> KNNReference:
    """Index a reference for label transfer.

    Parameters
    ----------
    train_adata
        The reference; its cell names must be unique, since labels are matched by name.
    train_adata_emb
        Where its coordinates are: a key of `obsm`, or "X". Up to some 50 dimensions are searched quickly.
    n_neighbors
        How many reference cells vote on a query cell. More than the reference has: all of them, with a warning.

    Returns
    -------
    The index, to be given to `weighted_knn_transfer` as `knn_model`.

    Raises
    ------
    DataError
        No such embedding, no cells, coordinates that are not finite, or names that occur twice.
    """
    if not isinstance(n_neighbors, int | np.integer) or n_neighbors < 1:
        raise ValueError(f"n_neighbors must be a whole number of at least 1, not {n_neighbors!r}.")
    coordinates = _coordinates(train_adata, train_adata_emb, "reference")
    names = pd.Index(train_adata.obs_names.astype(str))
    if len(names) == 0:
        raise DataError("The reference has no cells, so there are no neighbours. Check how `train_adata` was subset.")
    if not names.is_unique:
        twice = names[names.duplicated()].unique()
        raise DataError(
            f"{len(twice):,} cell names of the reference occur more than once ({listed(twice)}), but labels are "
            "matched by name. Call `train_adata.obs_names_make_unique()` first."
        )
    if n_neighbors > len(names):
        warnings.warn(
            f"n_neighbors={n_neighbors} is more than the reference's {len(names):,} cells; all of them will vote.",
            stacklevel=2,
        )
    order = np.argsort(names.to_numpy(), kind="stable")
    search = ExactSearch(coordinates[order])
    return KNNReference(names[order], train_adata_emb, min(int(n_neighbors), len(names)), search)


def weighted_knn_transfer(
    query_adata: AnnData,
    query_adata_emb: str | None = None,
    ref_adata_obs: pd.DataFrame | None = None,
    label_keys: str | Iterable[str] | None = None,
    knn_model: KNNReference | None = None,
    threshold: float = 1,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Label each query cell by a weighted vote of its nearest reference cells.

    Parameters
    ----------
    query_adata
        The query, embedded by the same model as the reference. It is not modified.
    query_adata_emb
        Where its coordinates are: a key of `obsm`, or "X". Default: the key that the reference was indexed by.
    ref_adata_obs
        The reference's `obs`, in any order: rows are matched by cell name.
    label_keys
        Exact names of one or more columns of `ref_adata_obs`.
    knn_model
        What `weighted_knn_trainer` returned.
    threshold
        Cells of a larger uncertainty, 0 to 1, are labelled "Unknown"; 1: none is. The Human Lung Cell Atlas used 0.2.

    Returns
    -------
    labels, uncertainties
        Two frames, query cells × label keys: names as strings, and 1 − the winning label's share of the votes, 0 to 1
        (0 = all neighbours agree).

    Raises
    ------
    DataError
        Embedding or label column not found, coordinates not finite or of another number of dimensions than the
        reference's, `ref_adata_obs` of other cells than the reference, labels missing or continuous.

    Notes
    -----
    Where distances vary by 1 or less, the published weights are nearly equal and the vote is close to a plain majority.
    On equal shares the first label in sorted order wins.

    References
    ----------
    Sikkema et al. 2023, doi:10.1038/s41591-023-02327-2, Methods.
    Lotfollahi et al. 2022, doi:10.1038/s41587-021-01001-7, Methods.
    """
    if not 0 <= threshold <= 1:
        raise ValueError(f"threshold is an uncertainty, from 0 to 1, not {threshold!r}.")
    label_keys = [label_keys] if isinstance(label_keys, str) else list(label_keys if label_keys is not None else ())
    if not label_keys:
        raise TypeError("label_keys is missing: name one or more columns of `ref_adata_obs`.")
    labels_of_reference = reference_labels(knn_model, ref_adata_obs, label_keys)
    query_z = _query_coordinates(query_adata, query_adata_emb, knn_model)

    winners, uncertainties = elected(knn_model, labels_of_reference, query_z)
    labels = {
        key: np.where(uncertainties[key] > threshold, UNKNOWN, names[winners[key]])
        for key, (names, _) in labels_of_reference.items()
    }
    index = query_adata.obs_names.copy()
    return pd.DataFrame(labels, index=index), pd.DataFrame(uncertainties, index=index)


def elected(
    reference: KNNReference,
    labels: Mapping[str, tuple[np.ndarray, np.ndarray]],
    query_z: np.ndarray,
    threads: int | None = None,
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """The vote of `weighted_knn_transfer`, in arrays.

    Parameters
    ----------
    reference
        The index.
    labels
        Per label key the names, and each reference cell's code, in the order of `reference.obs_names`.
    query_z
        Coordinates, (cells, dimensions).
    threads
        That search; None: all that this process may use.

    Returns
    -------
    Per label key the code of the winner, int64 (cells,), and 1 − its share of the votes, (cells,).
    """
    winners = {key: np.empty(len(query_z), dtype=np.int64) for key in labels}
    uncertainties = {key: np.empty(len(query_z)) for key in labels}
    most_labels = max(len(names) for names, _ in labels.values())
    for cells, neighbors, weights in _neighborhoods(reference, query_z, most_labels, threads):
        for key, (names, codes) in labels.items():
            shares = vote(codes[neighbors], weights, len(names))
            winners[key][cells] = shares.argmax(axis=1)
            uncertainties[key][cells] = np.clip(1 - shares.max(axis=1), 0, 1)
    return winners, uncertainties


def neighbor_label_probabilities(
    query_adata: AnnData,
    query_adata_emb: str | None = None,
    ref_adata_obs: pd.DataFrame | None = None,
    label_key: str | None = None,
    knn_model: KNNReference | None = None,
) -> pd.DataFrame:
    """Every label's share of the votes, where `weighted_knn_transfer` tells only the winner's.

    Parameters
    ----------
    query_adata, query_adata_emb, ref_adata_obs, knn_model
        As in `weighted_knn_transfer`, which see for the errors too.
    label_key
        Exact name of one column of `ref_adata_obs`.

    Returns
    -------
    Query cells × the reference's labels in sorted order; 0 to 1, rows sum to 1.
    """
    if not isinstance(label_key, str):
        raise TypeError(f"label_key must be the name of one column of `ref_adata_obs`, not {label_key!r}.")
    names, codes = reference_labels(knn_model, ref_adata_obs, [label_key])[label_key]
    query_z = _query_coordinates(query_adata, query_adata_emb, knn_model)
    shares = np.empty((len(query_z), len(names)))
    for cells, neighbors, weights in _neighborhoods(knn_model, query_z, len(names)):
        shares[cells] = vote(codes[neighbors], weights, len(names))
    return pd.DataFrame(shares, index=query_adata.obs_names.copy(), columns=pd.Index(names, name=label_key))


def kernel_weights(distances: np.ndarray) -> np.ndarray:
    """The published weights of each row's neighbours, (cells, n_neighbors), up to a factor per row.

    exp(−d / s) with 1 / s = std² / 4. The row's smallest distance is subtracted first: this factor cancels in the
    shares, and the nearest neighbour weighs 1, where all would underflow to 0. A spread of zero gives equal weights.
    """
    beyond_nearest = distances - distances.min(axis=1, keepdims=True)
    return np.exp(-beyond_nearest * distances.std(axis=1, keepdims=True) ** 2 / 4)


def vote(codes: np.ndarray, weights: np.ndarray, n_labels: int) -> np.ndarray:
    """Each label's share of a cell's votes, (cells, n_labels), from the neighbours' label codes and weights."""
    n_cells = len(codes)
    ballot = codes + n_labels * np.arange(n_cells)[:, None]
    votes = np.bincount(ballot.ravel(), weights.ravel(), minlength=n_cells * n_labels).reshape(n_cells, n_labels)
    return votes / votes.sum(axis=1, keepdims=True)  # a label with all the votes has exactly 1


def finite(coordinates: np.ndarray, cell_names: Iterable[object], where: str) -> np.ndarray:
    """The same coordinates, if every cell's are finite, and small enough for their squares to be."""
    bad = ~(np.abs(coordinates) < np.finfo(np.float32).max).all(axis=1)
    if bad.any():
        raise DataError(
            f"{bad.sum():,} of {len(bad):,} cells have NaN, infinite or enormous coordinates in {where} "
            f"({listed(np.asarray(cell_names)[bad])}), so they have no distances. Drop these cells, or compute the "
            "embedding again (a training run that diverged gives NaN)."
        )
    return coordinates


def _neighborhoods(
    reference: KNNReference, query_z: np.ndarray, n_labels: int, threads: int | None = None
) -> Iterator[tuple[slice, np.ndarray, np.ndarray]]:
    """Chunk by chunk: which cells, their neighbours' rows in the reference, these neighbours' weights."""
    step = max(1, VOTES_AT_ONCE // max(reference.n_neighbors, n_labels))
    for start in range(0, len(query_z), step):
        cells = slice(start, start + step)
        distances, neighbors = reference.search.nearest(query_z[cells], reference.n_neighbors, threads or usable_cpus())
        yield cells, neighbors, kernel_weights(distances)


def _coordinates(adata: AnnData, key: str, role: str) -> np.ndarray:
    """The embedding `key` of an AnnData as a dense float array, (cells, dimensions)."""
    if key == "X":
        where, values = f"the {role}'s X", adata.X
        if values is None:
            raise DataError(f"The {role} has no X. Name the key of obsm that holds its embedding.")
        if adata.isbacked:
            values = values[:]
        if hasattr(values, "compute"):  # dask
            values = values.compute()
    elif key in adata.obsm:
        where, values = f"the {role}'s obsm['{key}']", adata.obsm[key]
    else:
        raise DataError(
            f"The {role} has no obsm['{key}'].{did_you_mean(key, adata.obsm)} It has: "
            f"{listed(adata.obsm, 10) or 'none'}. Store the latent coordinates first: "
            f"`adata.obsm['{key}'] = model.get_latent_representation(adata)`."
        )
    values = values.toarray() if sparse.issparse(values) else np.asarray(values)
    return finite(np.asarray(values, dtype=np.result_type(values, np.float32)), adata.obs_names, where)


def _query_coordinates(query_adata: AnnData, key: str | None, reference: KNNReference) -> np.ndarray:
    key = reference.embedding if key is None else key
    query_z = _coordinates(query_adata, key, "query")
    n_dimensions = reference.coordinates.shape[1]
    if query_z.shape[1] != n_dimensions:
        raise DataError(
            f"The query's '{key}' has {query_z.shape[1]} dimensions, but the reference's '{reference.embedding}' has "
            f"{n_dimensions}, so no distances can be taken. Embed both with the same model."
        )
    return query_z


def reference_labels(
    reference: KNNReference | None, obs: pd.DataFrame | None, label_keys: list[str]
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Per label key the names in sorted order, and each reference cell's code."""
    if not isinstance(reference, KNNReference):
        raise TypeError(
            f"knn_model must come from `weighted_knn_trainer(train_adata, ...)`; got {type(reference).__name__}."
        )
    if not isinstance(obs, pd.DataFrame):
        raise TypeError(f"ref_adata_obs must be the reference's obs (a DataFrame); got {type(obs).__name__}.")
    for key in label_keys:
        if key not in obs:
            raise DataError(
                f"ref_adata_obs has no column '{key}'.{did_you_mean(key, obs)} It has: {listed(obs, 10) or 'none'}."
            )
    rows = _rows_by_name(reference.obs_names, obs.index.astype(str))
    return {key: _encoded(obs[key].iloc[rows], key) for key in label_keys}


def _rows_by_name(names: pd.Index, obs_names: pd.Index) -> np.ndarray:
    """Where each reference cell stands in `ref_adata_obs`."""
    missing = names[~names.isin(obs_names)]
    if len(missing) or len(obs_names) != len(names):
        raise DataError(
            f"ref_adata_obs has {len(obs_names):,} rows, the indexed reference {len(names):,} cells, of which "
            f"{len(missing):,} are not among those rows{f' ({listed(missing)})' if len(missing) else ''}; labels are "
            "matched by cell name. Give the `.obs` of the same AnnData that `weighted_knn_trainer` was given."
        )
    return obs_names.get_indexer(names)


def _encoded(column: pd.Series, key: str) -> tuple[np.ndarray, np.ndarray]:
    """The labels' names in sorted order, and each cell's code."""
    if pd.api.types.is_float_dtype(column):
        raise DataError(
            f"'{key}' holds continuous numbers, not labels. Name a column of classes, or make classes with `pd.cut`."
        )
    n_missing = int(column.isna().sum())
    if n_missing:
        raise DataError(
            f"{n_missing:,} of the reference's {len(column):,} cells have no '{key}' (NaN), so they could not vote. "
            "Train the index without them, or name them: "
            f"`obs['{key}'] = obs['{key}'].astype(object).fillna('unlabelled')`."
        )
    codes, names = pd.factorize(column.astype(str), sort=True)
    return names.to_numpy(dtype=object), codes
