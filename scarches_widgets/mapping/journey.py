"""From a reference model and a query to labels and honest scores: surgery, kNN transfer, a baseline, a tree."""

from __future__ import annotations

from collections.abc import Mapping as Dict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from ..data.names import DataError
from ..data.schema import as_text
from ..models.base import Model
from . import metrics
from .hierarchy import Hierarchy, learn_tree, predict_labels
from .transfer import weighted_knn_trainer, weighted_knn_transfer

if TYPE_CHECKING:
    from anndata import AnnData

EMBEDDING = "X_mapped"  # key in obsm of a mapped AnnData
BASELINE = "X_pca"
METHODS = {EMBEDDING: "surgery + kNN", BASELINE: "PCA + kNN"}
CLASSIFIER = "surgery + classifier"


@dataclass(frozen=True)
class Mapped:
    """A query on its reference.

    Attributes
    ----------
    cells
        Reference and query together, without counts. `obs`: `role` ("reference" or "query"), `batch`, and where labels
        were asked for `label` (the label given in the data; empty if none), `predicted` and `uncertainty` (query only);
        if the model has a classifier of these labels, also its `classified`, `classified_uncertainty` and `novelty`;
        with a tree `tree_label` (given; empty if none), and what the tree calls the query: `named`, `path_probability`,
        `gate`.
        `obsm`: "X_mapped", latents of the adapted model, and "X_pca", the baseline.
    model
        The adapted model.
    scores
        One row per method, one column per score; see `metrics`. None without labels.
    tree
        Learned from the reference's batches and trained, its cells counted by batch. None unless asked for.
    """

    cells: AnnData
    model: Model
    scores: pd.DataFrame | None
    tree: Hierarchy | None = None


def map_onto(
    reference: Model,
    query: AnnData,
    *,
    labels_key: str | None = None,
    tree_key: str | None = None,
    n_neighbors: int = 50,
    threshold: float = 1.0,
    surgery: Dict[str, Any] | None = None,
    train: Dict[str, Any] | None = None,
) -> Mapped:
    """Map a query onto a reference by surgery, and label its cells.

    Parameters
    ----------
    reference
        A trained model that holds its cells.
    query
        Its labels, if it has any, are used for scores only.
    labels_key
        Column of the reference's `obs` to transfer; None: no labels.
    tree_key
        Column of the reference's `obs` with labels that each batch may have given by rules of its own. A tree of types
        is learned from them and names the query's cells; see `hierarchy.learn_tree`. None: no tree.
    n_neighbors, threshold
        See `weighted_knn_transfer`.
    surgery, train
        Options of `load_query_data` and of `train`. A model with a classifier ignores the query's labels, unless
        `surgery` says otherwise.

    Returns
    -------
    Mapped
    """
    unseen = {"query_labels": "ignore"} if hasattr(reference, "predict") else {}
    model = type(reference).load_query_data(query, reference, **(unseen | (surgery or {})))
    model.train(**(train or {}))
    cells = _together(reference, query, {"label": labels_key, "tree_label": tree_key})
    is_query = (cells.obs["role"] == "query").to_numpy()
    cells.obsm[EMBEDDING] = np.concatenate(
        [reference.get_latent_representation(), model.get_latent_representation()], dtype=np.float32
    )
    cells.obsm[BASELINE] = _principal_components(reference, model)
    tree = None if tree_key is None else _named_by_tree(cells, is_query, tree_key)
    if labels_key is None:
        return Mapped(cells, model, None, tree)
    cells.obs["predicted"], cells.obs["uncertainty"] = "", np.nan
    rows = {}
    for key, method in METHODS.items():
        labels, uncertainty = _transferred(cells, is_query, key, n_neighbors, threshold)
        rows[method] = _scores(cells, is_query, key, labels, uncertainty)
        if key == EMBEDDING:
            cells.obs.loc[is_query, "predicted"] = labels
            cells.obs.loc[is_query, "uncertainty"] = uncertainty
    if hasattr(model, "predict_with_uncertainty") and labels_key == model.schema.labels_key:
        said = model.predict_with_uncertainty()
        rows[CLASSIFIER] = _scores(cells, is_query, EMBEDDING, said["label"].to_numpy(), said["uncertainty"].to_numpy())
        cells.obs["classified"], cells.obs["classified_uncertainty"], cells.obs["novelty"] = "", np.nan, np.nan
        cells.obs.loc[is_query, ["classified", "classified_uncertainty", "novelty"]] = said.to_numpy()
    return Mapped(cells, model, pd.DataFrame(rows).T, tree)


def _together(reference: Model, query: AnnData, labels: Dict[str, str | None]) -> AnnData:
    """An AnnData of both, without counts; `labels` names a column here and the key of that in the data."""
    from anndata import AnnData

    parts = []
    for role, adata in (("reference", reference.adata), ("query", query)):
        obs = pd.DataFrame({"role": role}, index=adata.obs_names.astype(str))
        batch_key = reference.schema.batch_key
        obs["batch"] = as_text(adata.obs[batch_key]) if batch_key else role
        for column, key in labels.items():
            if key is not None:
                given = key in adata.obs
                obs[column] = pd.Series(as_text(adata.obs[key]), obs.index).fillna("") if given else ""
        parts.append(obs)
    return AnnData(obs=pd.concat(parts))


def _principal_components(reference: Model, model: Model) -> np.ndarray:
    """Fifty components of the reference's log counts per 10,000, query projected; no correction for batches."""
    from sklearn.decomposition import PCA

    logged = [_log_counts(part) for part in (reference, model)]
    n_components = min(50, min(logged[0].shape) - 1)
    pca = PCA(n_components, svd_solver="arpack", random_state=0).fit(logged[0])
    return np.concatenate([pca.transform(part) for part in logged], dtype=np.float32)


def _log_counts(model: Model):
    """log(1 + counts per 10,000) of the model's cells, CSR, in the reference's gene order."""
    from scipy import sparse

    parts = []
    for cells in model._cells(model.adata).in_order(1024):
        counts = sparse.csr_matrix(cells.counts.numpy())
        parts.append(sparse.diags_array(1e4 / cells.library_size.numpy().ravel()) @ counts)
    return sparse.csr_matrix(sparse.vstack(parts)).log1p()


def _transferred(cells, is_query, key, n_neighbors, threshold) -> tuple[np.ndarray, np.ndarray]:
    reference, query = cells[~is_query], cells[is_query]
    labelled = (reference.obs["label"] != "").to_numpy()
    knn = weighted_knn_trainer(reference[labelled], key, n_neighbors)
    labels, uncertainty = weighted_knn_transfer(
        query, ref_adata_obs=reference.obs[labelled], label_keys="label", knn_model=knn, threshold=threshold
    )
    return labels["label"].to_numpy(), uncertainty["label"].to_numpy()


def _named_by_tree(cells: AnnData, is_query: np.ndarray, tree_key: str) -> Hierarchy:
    """The tree of the reference's batches, those of most labels first; writes what it calls the query's cells."""
    labelled = cells[~is_query & (cells.obs["tree_label"] != "").to_numpy()]
    if not labelled.n_obs:
        raise DataError(f"No cell of the reference has a '{tree_key}', so no tree can be learned from it.")
    batches = labelled.obs.groupby("batch")["tree_label"].agg(["nunique", "size"])
    order = batches.sort_values(["nunique", "size"], ascending=False, kind="stable").index
    tree, _ = learn_tree(labelled, "batch", order, "tree_label", use_rep=EMBEDDING)
    said = predict_labels(cells[is_query], tree, use_rep=EMBEDDING).frame
    cells.obs["named"], cells.obs["path_probability"], cells.obs["gate"] = "", np.nan, ""
    for column, name in (("named", "label"), ("path_probability", "path_probability"), ("gate", "gate")):
        cells.obs.loc[is_query, column] = said[name].to_numpy()
    return tree


def _scores(cells, is_query, key, predicted, uncertainty) -> dict[str, float]:
    """How well labels were transferred, where the query's are known; and how batches and types lie in the embedding."""
    truth = cells.obs["label"].to_numpy()
    known = np.isin(truth[is_query], np.unique(truth[~is_query])) & (truth[is_query] != "")
    novel = ~known & (truth[is_query] != "")
    row: dict[str, float] = {}
    if known.any():
        row["accuracy"] = float((predicted[known] == truth[is_query][known]).mean())
        row["macro_f1"] = metrics.macro_f1(truth[is_query][known], predicted[known])
    if known.any() and novel.any():
        row["auroc_unknown_types"] = metrics.auroc(uncertainty[known | novel], novel[known | novel])
    z, labelled = cells.obsm[key], truth != ""
    batches = cells.obs["batch"].to_numpy()
    row["mixing_within_types"] = metrics.batch_mixing_within_types(z[labelled], truth[labelled], batches[labelled])
    row["asw_types"] = metrics.silhouette_of_labels(z[labelled], truth[labelled])
    return row
