"""One data set's labels into a tree, from predictions that were made elsewhere."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from ...data.names import DataError, listed
from .matching import LabelMatcher
from .tree import REJECTIONS, Hierarchy


def update_tree(
    tree: Hierarchy,
    y_true1: ArrayLike,
    y_pred1: ArrayLike,
    y_true2: ArrayLike,
    y_pred2: ArrayLike,
    threshold: float = 0.25,
    attach_missing: bool = False,
    *,
    dataset: str | None = None,
) -> tuple[Hierarchy, list[str]]:
    """Match the labels of a new data set with a tree, and add them.

    Parameters
    ----------
    tree
        It is not changed.
    y_true1, y_pred1
        Of each cell behind the tree: its label, and the new data set's label that a classifier trained there gives it.
    y_true2, y_pred2
        Of each cell of the new data set: its label, and the tree's node that it is called.
    threshold
        How much smaller than the largest share another may be and still be a match, 0 to 1.
    attach_missing
        Whether labels without a place become children of the root.
    dataset
        The new data set's name, for aliases. Default: "dataset 2", or the next number that is free.

    Returns
    -------
    tree, missing
        An edited copy, whose `history` has each edit; and the labels without a place, of which a tree cannot hold what
        was matched.

    Notes
    -----
    A prediction that is neither a label of the other side nor "Rejected (RE)", "Rejection (dist)" or the root's name
    (in `y_pred1` also "root2", unless a label is called so) is an error. See `matching` for the rules.
    """
    if not 0 < threshold <= 1:
        raise ValueError(f"threshold is a difference of shares, above 0 and up to 1, not {threshold!r}.")
    true1, pred1, true2, pred2 = (np.asarray(part).astype(str).ravel() for part in (y_true1, y_pred1, y_true2, y_pred2))
    if len(true1) != len(pred1) or len(true2) != len(pred2):
        raise DataError(
            f"Truth and prediction must be of the same cells, but have {len(true1):,} and {len(pred1):,} entries in "
            f"the first data set, {len(true2):,} and {len(pred2):,} in the second."
        )
    tree = tree.copy()
    names = np.unique(true2).tolist()
    codes = {name: code for code, name in enumerate(names)}
    rejections = {*REJECTIONS, tree.root.name, "root2"} - set(names)
    for label in set(pred1) - set(names) - rejections:
        raise DataError(f"y_pred1 has '{label}', which is none of the second data set's labels ({listed(names)}).")
    nodes_of_calls = {label: tree.find(label) for label in set(pred2)}
    if lost := [label for label, node in nodes_of_calls.items() if node is None]:
        raise DataError(f"y_pred2 has {listed(sorted(lost))}, which the tree does not have.")
    matcher = LabelMatcher(
        tree,
        names,
        _next_dataset(tree) if dataset is None else dataset,
        np.array([-1 if (node := tree.find(label)) is None else node.id for label in true1], dtype=int),
        np.array([codes.get(label, -1) for label in pred1], dtype=int),
        np.array([codes[label] for label in true2], dtype=int),
        np.array([nodes_of_calls[label].id for label in pred2], dtype=int),
    )
    return tree, [names[code] for code in matcher.run(threshold, attach_missing)]


def _next_dataset(tree: Hierarchy) -> str:
    known = set(tree.datasets)
    return next(name for i in range(2, len(known) + 3) if (name := f"dataset {i}") not in known)
