"""Naming cells by a trained tree. Michielsen et al. 2021, doi:10.1038/s41467-021-23196-8, Methods."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from ...data.names import DataError
from .classifiers import NO_CALL, Route, TrainedTree
from .coordinates import coordinates
from .tree import REJECTED_BY_DISTANCE, REJECTED_BY_RECONSTRUCTION, Hierarchy

if TYPE_CHECKING:
    from anndata import AnnData

GATES = np.array(["", "reconstruction", "distance", "posterior"], dtype=object)
BY_RECONSTRUCTION, BY_DISTANCE, BY_POSTERIOR = 1, 2, 3


class _Pair(NamedTuple):
    labels: np.ndarray
    probabilities: np.ndarray


class Predictions(_Pair):
    """The pair (labels, probabilities) of `predict_labels`, with all that is known in `frame`."""

    frame: pd.DataFrame


def predict_labels(
    testdata: AnnData | ArrayLike, tree: Hierarchy, threshold: float = 0.5, *, use_rep: str | None = None
) -> Predictions:
    """Name cells by a trained tree, each as finely as it can be.

    Parameters
    ----------
    testdata
        Coordinates (cells, dimensions) like those that the tree was trained on, or an AnnData that holds them. It is
        not modified.
    tree
        From `train_tree` or `learn_tree`. Its nodes may have been renamed since, not moved.
    threshold
        A child is called if more than this share of the neighbours' votes is for it, 0 to 1. Machines ignore it.
    use_rep
        Where an AnnData's coordinates are: a key of `obsm`. Default: X.

    Returns
    -------
    labels
        Names of nodes as strings, (cells,). "Rejected (RE)" or "Rejection (dist)" for cells unlike all known ones, the
        root's name for those of which no child was called.
    probabilities
        Share of the votes in the last call, (cells, 1), 0 if there was none; NaN for machines, which have none.
    frame
        An attribute: one row per cell, by cell names if `testdata` has them.

        - `label`
        - `level_1`, `level_2`, … and `posterior_1`, …: nodes from below the root down, missing beyond the label; and
          the best child's share of the votes at each level that was reached
        - `path_probability`: product of the shares of all calls
        - `gate`: what rejected the cell, or stopped it above the leaves: "reconstruction", "distance", "posterior",
          or "" for nothing
        - `reconstruction_error`, `distance`: what the gates judged, in units of the coordinates
    """
    if not 0 <= threshold <= 1:
        raise ValueError(f"threshold is a share of votes, from 0 to 1, not {threshold!r}.")
    z, obs = coordinates(testdata, use_rep)
    route, gate, error = _routed(z, tree, threshold)
    names = pd.Series({node.id: node.name for node in tree}, dtype=object)
    labels = names.loc[route.reached].to_numpy(dtype=object, copy=True)
    labels[gate == BY_RECONSTRUCTION] = REJECTED_BY_RECONSTRUCTION
    labels[gate == BY_DISTANCE] = REJECTED_BY_DISTANCE
    columns = {"label": labels}
    for level in range(route.path.shape[1]):
        columns[f"level_{level + 1}"] = names.reindex(route.path[:, level]).to_numpy(dtype=object)
        columns[f"posterior_{level + 1}"] = route.posteriors[:, level]
    called = np.where(route.path == NO_CALL, 1.0, route.posteriors).prod(axis=1, initial=1.0)
    columns["path_probability"] = np.where(route.last == 0, 0.0, called)
    columns |= {"gate": GATES[gate], "reconstruction_error": error, "distance": route.distance}
    predictions = Predictions(labels, route.last[:, None])
    predictions.frame = pd.DataFrame(columns, index=None if obs is None else obs.index.copy())
    return predictions


def called_nodes(z: np.ndarray, tree: Hierarchy, threshold: float) -> np.ndarray:
    """Ids of the nodes that cells are called, the root's for rejected ones, (cells,)."""
    return _routed(z, tree, threshold)[0].reached


def _routed(z: np.ndarray, tree: Hierarchy, threshold: float) -> tuple[Route, np.ndarray, np.ndarray]:
    """The cells' ways, what stopped them (a position in `GATES`), and their reconstruction errors."""
    trained = _checked(tree, z.shape[1])
    error = np.full(len(z), np.nan)
    passes = np.ones(len(z), dtype=bool)
    if trained.reconstruction is not None:
        error = trained.reconstruction.projection.error(z)
        passes = error <= trained.reconstruction.limit
    data = z if trained.projection is None else trained.projection.scores(z)
    found = trained.classifier.route(data[passes], tree, threshold)
    is_near = ~(found.distance > trained.distance_limit)  # NaN, of machines, is near
    route = Route.start(tree, len(z))
    rows = np.flatnonzero(passes)
    route.distance[rows] = found.distance
    for part in ("reached", "path", "posteriors", "last", "stopped"):
        getattr(route, part)[rows[is_near]] = getattr(found, part)[is_near]
    gate = np.where(route.stopped, BY_POSTERIOR, 0)
    gate[rows[~is_near]] = BY_DISTANCE
    gate[~passes] = BY_RECONSTRUCTION
    return route, gate, error


def _checked(tree: Hierarchy, n_dimensions: int) -> TrainedTree:
    trained = tree.classifier
    if trained is None:
        raise DataError("The tree is not trained. Call `tree = train_tree(data, labels, tree)` first.")
    if trained.structure != tree.structure():
        raise DataError("The tree's shape has changed since it was trained. Call `train_tree` again.")
    if trained.n_dimensions != n_dimensions:
        raise DataError(
            f"The cells have {n_dimensions} dimensions, those that the tree was trained on {trained.n_dimensions}. "
            "Embed both with the same model."
        )
    return trained
