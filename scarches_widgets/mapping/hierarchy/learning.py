"""Training a tree on labelled cells, and learning it from data sets. Michielsen et al. 2021,
doi:10.1038/s41467-021-23196-8; Michielsen et al. 2023, doi:10.1093/nargab/lqad070.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from ...data.names import DataError, did_you_mean, listed, shown
from .classifiers import Kind, MachineClassifier, NeighborClassifier, TrainedTree
from .coordinates import coordinates, label_column
from .gates import fit_projection, fit_reconstruction
from .matching import LabelMatcher, Proposal
from .nodes import Alias
from .prediction import called_nodes
from .tree import Hierarchy

if TYPE_CHECKING:
    from anndata import AnnData


@dataclass(frozen=True)
class TrainingOptions:
    classifier: Kind = "knn"
    dimred: bool = False
    use_reconstruction: bool = True
    false_negative_percent: float = 0.5
    n_neighbors: int = 50
    dynamic_neighbors: bool = True
    distance_percentile: float = 99

    def __post_init__(self):
        if self.classifier not in ("knn", "svm", "svm_occ"):
            raise ValueError(f"classifier is 'knn', 'svm' or 'svm_occ', not {self.classifier!r}.")
        if not 0 < self.false_negative_percent < 100:
            raise ValueError(f"FN is a percentage, between 0 and 100, not {self.false_negative_percent!r}.")
        if not 0 < self.distance_percentile <= 100:
            raise ValueError(f"distkNN is a percentile, above 0 and up to 100, not {self.distance_percentile!r}.")
        if not isinstance(self.n_neighbors, int | np.integer) or self.n_neighbors < 1:
            raise ValueError(f"n_neighbors must be a whole number of at least 1, not {self.n_neighbors!r}.")


def train_tree(
    data: AnnData | ArrayLike,
    labels: str | ArrayLike,
    tree: Hierarchy,
    classifier: Kind = "knn",
    dimred: bool = False,
    useRE: bool = True,
    FN: float = 0.5,
    n_neighbors: int = 50,
    dynamic_neighbors: bool = True,
    distkNN: float = 99,
    *,
    use_rep: str | None = None,
    batch_key: str | None = None,
) -> Hierarchy:
    """Train a tree's classifiers on labelled cells.

    Parameters
    ----------
    data
        Coordinates (cells, dimensions), for example latent ones, or an AnnData that holds them. It is not modified.
    labels
        One label per cell, each a name or an alias in the tree, or a column of `data.obs`. Cells of other labels, or
        none, are warned of; they count in the two gates only.
    tree
        It is not changed.
    classifier
        "knn", "svm" (linear) or "svm_occ" (one-class).
    dimred
        Whether to replace the data by principal components first.
    useRE, FN
        Whether cells are rejected by their reconstruction error, and how many per cent of known cells may be.
    n_neighbors, dynamic_neighbors
        How many neighbours vote, and whether fewer do where a child has fewer cells.
    distkNN
        A cell further from its neighbours than this percentage of known cells is rejected; "knn" only.
    use_rep
        Where an AnnData's coordinates are: a key of `obsm`. Default: X.
    batch_key
        Column of `data.obs` with data sets' names, where a label means different nodes in different data sets.

    Returns
    -------
    A copy of the tree, with the same ids, that `predict_labels` can use.
    """
    options = TrainingOptions(classifier, dimred, useRE, FN, n_neighbors, dynamic_neighbors, distkNN)
    z, obs = coordinates(data, use_rep)
    if batch_key is not None and obs is None:
        raise TypeError("batch_key names a column of obs, so `data` must be an AnnData.")
    labels = label_column(obs, labels, len(z))
    batches = label_column(obs, batch_key, len(z)) if batch_key is not None else np.full(len(z), None, dtype=object)
    nodes, lost = np.full(len(z), -1), []
    cells = pd.DataFrame({"label": labels, "batch": batches})
    for (label, batch), rows in cells.groupby(["label", "batch"], dropna=False).indices.items():
        node = None if pd.isna(label) else tree.find(label, None if pd.isna(batch) else batch)
        if node is None:
            lost.append(label)
        else:
            nodes[rows] = node.id
    if lost:
        warnings.warn(
            f"{(nodes < 0).sum():,} of {len(z):,} cells have labels that are not in the tree ({listed(lost)}), so they "
            "train no node. Add the labels to the tree, or leave these cells out.",
            stacklevel=2,
        )
    tree = tree.copy()
    fit(tree, z, nodes, options)
    return tree


def learn_tree(
    data: AnnData,
    batch_key: str,
    batch_order: Iterable[str],
    cell_type_key: str,
    tree: Hierarchy | None = None,
    retrain: bool = False,
    batch_added: Iterable[str] | None = None,
    classifier: Kind = "knn",
    n_neighbors: int = 50,
    dynamic_neighbors: bool = True,
    distkNN: float = 99,
    dimred: bool = False,
    useRE: bool = True,
    FN: float = 0.5,
    rej_threshold: float = 0.5,
    match_threshold: float = 0.25,
    attach_missing: bool = False,
    *,
    use_rep: str | None = None,
    apply: bool = True,
) -> tuple[Hierarchy, list[str]] | tuple[Hierarchy, list[Proposal]]:
    """Learn a tree from data sets that were labelled apart, one after the other.

    Each new data set and the tree so far predict each other's cells, and what matches says where the new labels belong;
    see `matching`. The order matters: begin with the data set of the most cells or the finest labels.

    Parameters
    ----------
    data
        Cells of all data sets in common coordinates. It is not modified.
    batch_key, batch_order
        Column of `obs` that names the data sets, and those to be added, in this order; without a `tree`, the first
        one's labels are the tree to begin with.
    cell_type_key
        Column of `obs` with the labels. The same label in two data sets may be two types.
    tree, batch_added, retrain
        A tree to go on from; it is not changed. `batch_added` names the data sets whose cells it stands for, and
        `retrain` says whether to train it on them, though it is trained and has its shape still.
    classifier, n_neighbors, dynamic_neighbors, distkNN, dimred, useRE, FN
        As in `train_tree`.
    rej_threshold
        As `threshold` in `predict_labels`.
    match_threshold, attach_missing
        As `threshold` and `attach_missing` in `update_tree`.
    use_rep
        Where the coordinates are: a key of `obsm`. Default: X.
    apply
        False: return proposals instead, and do not train.

    Returns
    -------
    tree, missing
        A trained tree, whose `history` has each edit, whose aliases have the evidence, and whose cells are counted; and
        the labels that have no place in it. Or, with `apply=False`, the tree to begin with, not trained, and a list of
        `Proposal`: each can be made by `tree.accept(proposal)`; those of a second new data set suppose that those of
        the first were.
    """
    options = TrainingOptions(classifier, dimred, useRE, FN, n_neighbors, dynamic_neighbors, distkNN)
    z, obs = coordinates(data, use_rep)
    if obs is None:
        raise TypeError("learn_tree takes an AnnData, whose obs has labels and batches.")
    labels, batches = (label_column(obs, key, len(z)) for key in (cell_type_key, batch_key))
    order, added = _checked_batches(batch_order, batch_added, tree, batches, batch_key)
    used = np.isin(batches, [*order, *added])
    if n_missing := int(pd.isna(labels[used]).sum()):
        raise DataError(
            f"{n_missing:,} of {used.sum():,} cells have no '{cell_type_key}' (missing), so they cannot teach a tree. "
            "Leave these cells out."
        )
    nodes = np.full(len(z), -1)  # of each cell's label; -1 for labels without a place
    if tree is None:
        first, *order = order
        rows = batches == first
        tree, nodes[rows] = _flat_tree(labels[rows], first)
        known = rows
    else:
        tree, known = tree.copy(), np.isin(batches, added)
        for label, batch in {*zip(labels[known], batches[known])}:
            if (node := tree.find(label, batch)) is not None:
                nodes[(labels == label) & (batches == batch)] = node.id
    start = tree.copy()
    is_trained = not retrain and tree.classifier is not None and tree.classifier.structure == tree.structure()
    missing, proposals = [], []
    for batch in order:
        rows = batches == batch
        names, codes = np.unique(labels[rows].astype(str), return_inverse=True)
        if not is_trained:
            fit(tree, z[known], nodes[known], options)
        is_trained = False
        flat, flat_nodes = _flat_tree(labels[rows], batch)
        fit(flat, z[rows], flat_nodes, options)
        code_of_node = {node.id: code for code, node in enumerate(flat.leaves())}  # both in the order of names
        reference_calls = called_nodes(z[known], flat, rej_threshold)
        matcher = LabelMatcher(
            tree,
            names.tolist(),
            batch,
            nodes[known],
            np.array([code_of_node.get(id, -1) for id in reference_calls.tolist()], dtype=int),
            codes,
            called_nodes(z[rows], tree, rej_threshold),
        )
        missing += [names[code].item() for code in matcher.run(match_threshold, attach_missing)]
        proposals += matcher.proposals
        nodes[rows] = np.array([matcher.placed.get(code, -1) for code in range(len(names))])[codes]
        known = known | rows
    if not apply:
        start.classifier = None
        return start, proposals
    fit(tree, z[known], nodes[known], options)
    tree.count_cells(data[known], cell_type_key, batch_key)
    return tree, missing


def fit(tree: Hierarchy, z: np.ndarray, nodes: np.ndarray, options: TrainingOptions):
    """Train a tree in place on coordinates (cells, dimensions) and the ids of the cells' nodes, -1 for none."""
    if not (nodes >= 0).any():
        raise DataError("None of the cells' labels is in the tree, so it cannot be trained. Check the label column.")
    gate = fit_reconstruction(z, nodes, options.false_negative_percent) if options.use_reconstruction else None
    projection = None
    if options.dimred:
        projection = fit_projection(z) if gate is None else gate.projection
    data = z if projection is None else projection.scores(z)
    if options.classifier == "knn":
        classifier = NeighborClassifier(
            data, tree, nodes, options.n_neighbors, options.dynamic_neighbors, options.distance_percentile
        )
    else:
        n_genes = z.shape[1] if options.dimred else None
        classifier = MachineClassifier(data, tree, nodes, options.classifier, n_genes)
    tree.classifier = TrainedTree(
        options.classifier, tree.structure(), z.shape[1], gate, projection, classifier, classifier.distance_limit
    )


def _flat_tree(labels: np.ndarray, dataset: str) -> tuple[Hierarchy, np.ndarray]:
    """A root with one leaf per label, by name, and each cell's node."""
    names, codes = np.unique(labels.astype(str), return_inverse=True)
    tree = Hierarchy("root" if "root" not in names else f"root of {dataset}")
    ids = [tree.add(name, aliases=[Alias(name, dataset)]).id for name in names.tolist()]
    return tree.copy(), np.array(ids)[codes]


def _checked_batches(
    batch_order: Iterable[str],
    batch_added: Iterable[str] | None,
    tree: Hierarchy | None,
    batches: np.ndarray,
    batch_key: str,
) -> tuple[list[str], list[str]]:
    order, added = ([str(batch) for batch in _several(part)] for part in (batch_order, batch_added))
    known = set(batches)
    for batch in [*order, *added]:
        if batch not in known:
            raise DataError(f"obs['{batch_key}'] has no '{shown(batch)}'.{did_you_mean(batch, known)}")
    if twice := [batch for batch in {*order, *added} if [*order, *added].count(batch) > 1]:
        raise DataError(f"{listed(sorted(twice))}: named more than once in batch_order and batch_added.")
    if not order:
        raise DataError("batch_order is empty; name the data sets to be added.")
    if (tree is None) != (not added):
        raise DataError(
            "batch_added is needed with a tree, and only then: name the data sets whose cells the tree stands for."
        )
    return order, added


def _several(batches: Iterable[str] | str | None) -> Iterable[str]:
    if batches is None:
        return []
    return [batches] if isinstance(batches, str) else batches
