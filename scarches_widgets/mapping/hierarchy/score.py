"""How good predicted names are, when names stand in a tree."""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from ...data.names import DataError, listed
from .nodes import Node
from .tree import Hierarchy


def hierarchical_f1(true: ArrayLike, pred: ArrayLike, tree: Hierarchy) -> float:
    """F1 of predicted nodes and all nodes above them, the root left out.

    With P a cell's predicted node and its ancestors, T those of its true one: precision is Σ|P ∩ T| / Σ|P|, recall
    Σ|P ∩ T| / Σ|T|. What P has below a true inner node is left out: a finer name is no error.

    Parameters
    ----------
    true, pred
        One label per cell, names or aliases in the tree. Predictions may be rejections, which count as the root.

    Returns
    -------
    0 to 1.

    References
    ----------
    Kiritchenko et al. 2006, doi:10.1007/11766247_34; Michielsen et al. 2021, doi:10.1038/s41467-021-23196-8, Methods.
    """
    pairs = pd.DataFrame({"true": np.asarray(true).astype(str).ravel(), "pred": np.asarray(pred).astype(str).ravel()})
    nodes = {label: tree.find(label) for label in np.unique(pairs.to_numpy())}
    if lost := [label for label, node in nodes.items() if node is None]:
        raise DataError(f"{listed(lost)}: not in the tree, or the label of several nodes.")
    n_common = n_predicted = n_true = 0
    for (true_label, pred_label), n_cells in pairs.value_counts().items():
        true_node, pred_node = nodes[true_label], nodes[pred_label]
        truth, predicted = _lineage(true_node), _lineage(pred_node)
        if pred_node.is_below(true_node):
            predicted = truth
        n_common += n_cells * len(truth & predicted)
        n_predicted += n_cells * len(predicted)
        n_true += n_cells * len(truth)
    return 2 * n_common / (n_predicted + n_true) if n_predicted + n_true else 0.0


hierarchical_F1 = hierarchical_f1  # scHPL's spelling


def confusion_matrix(true: ArrayLike, pred: ArrayLike) -> pd.DataFrame:
    """Cells by true label (rows) and predicted label (columns), labels in sorted order."""
    rows, columns = (
        pd.Series(np.asarray(part).astype(str).ravel(), name=name)
        for part, name in ((true, "true"), (pred, "predicted"))
    )
    return pd.crosstab(rows, columns)


def _lineage(node: Node) -> set[int]:
    """Ids of the node and its ancestors without the root."""
    return {step.id for step in node.path()[1:]}
