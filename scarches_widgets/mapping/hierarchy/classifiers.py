"""The classifiers of a tree: at each node, which child a cell belongs to, and when to stop.

    knn        at each parent, a vote of the k nearest cells below it, each with weight 1 / distance; k is at most the
               smallest child's number of cells. A child is called if its share of the votes is above a threshold.
    svm        for each node, a linear support vector machine of its cells against its siblings'; of the children that
               claim a cell, the one that does so by the largest margin is called
    svm_occ    the same with one-class machines, of a node's own cells alone

A cell goes down from the root as far as a child is called. A parent with a single child is its alternative: the cells
that carry the parent's own label. Michielsen et al. 2021, doi:10.1038/s41467-021-23196-8, Methods.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal, Protocol

import numpy as np

from ..transfer import vote
from .gates import Projection, ReconstructionGate
from .neighbors import DistanceBlock, DistanceBlocks
from .nodes import Node
from .tree import Hierarchy

Kind = Literal["knn", "svm", "svm_occ"]
NO_CALL = -1
MOST_PCS_WITHOUT_EVIDENCE = 5


@dataclass(eq=False)
class Route:
    """The way of each cell down the tree, (cells,) or (cells, levels); ids of nodes, -1 for none."""

    reached: np.ndarray
    path: np.ndarray  # levels from 1, the children of the root
    posteriors: np.ndarray  # of the best child at each level that was reached, 0 to 1; NaN beyond, and for machines
    last: np.ndarray  # posterior of the last call, 0 if there was none
    stopped: np.ndarray  # bool: a node with children was reached, and none was called
    distance: np.ndarray  # mean distance to the nearest cells of all; NaN for machines

    @classmethod
    def start(cls, tree: Hierarchy, n_cells: int) -> Route:
        n_levels = max(node.depth for node in tree.leaves())
        return cls(
            np.full(n_cells, tree.root.id),
            np.full((n_cells, n_levels), NO_CALL),
            np.full((n_cells, n_levels), np.nan),
            np.zeros(n_cells),
            np.zeros(n_cells, dtype=bool),
            np.full(n_cells, np.nan),
        )


class Classifier(Protocol):
    def route(self, data: np.ndarray, tree: Hierarchy, threshold: float) -> Route: ...


@dataclass(eq=False)
class TrainedTree:
    """What `train_tree` attaches to a tree."""

    kind: Kind
    structure: dict[int, int | None]  # each node's parent, by ids
    n_dimensions: int
    reconstruction: ReconstructionGate | None
    projection: Projection | None  # data are replaced by their principal components first
    classifier: Classifier = field(repr=False)
    distance_limit: float  # infinite for machines


class TreeCells:
    """Known cells in the order of the tree, so that the cells of a node and of all below it stand together."""

    def __init__(self, tree: Hierarchy, nodes: np.ndarray):
        ranks = {node.id: rank for rank, node in enumerate(tree)}
        of_cells = np.array([ranks.get(id, NO_CALL) for id in nodes.tolist()], dtype=int)
        self.order = np.argsort(of_cells, kind="stable")[(of_cells < 0).sum() :]  # rows of the data
        self.strangers = np.flatnonzero(of_cells < 0)  # of labels that are not in the tree
        starts = np.searchsorted(of_cells[self.order], np.arange(len(ranks) + 1))
        self.own: dict[int, tuple[int, int]] = {}
        self.below: dict[int, tuple[int, int]] = {}  # with its own
        for node in tree:
            rank = ranks[node.id]
            self.own[node.id] = (starts[rank], starts[rank + 1])
            self.below[node.id] = (starts[rank], starts[rank + len(list(node.walk()))])

    def classes(self, parent: Node) -> dict[int, tuple[int, int]]:
        """The first and last cell of each child that has any; the parent's own cells are the alternative to a single
        child."""
        found = {child.id: self.below[child.id] for child in parent.children}
        if len(parent.children) == 1:
            found = {parent.id: self.own[parent.id], **found}
        return {id: (first, last) for id, (first, last) in found.items() if last > first}


class NeighborClassifier:
    """Votes of neighbours, at every parent from one table of distances."""

    def __init__(
        self, data: np.ndarray, tree: Hierarchy, nodes: np.ndarray, n_neighbors: int, dynamic: bool, percentile: float
    ):
        cells = TreeCells(tree, nodes)
        self.blocks = DistanceBlocks(data[cells.order])
        self.classes = {node.id: found for node in tree if (found := cells.classes(node))}
        self.k = {}
        for id, classes in self.classes.items():
            sizes = [last - first for first, last in classes.values()]
            self.k[id] = min(n_neighbors, min(sizes) if dynamic else sum(sizes))
        self.distance_limit = self._distance_limit(data, cells, tree.root.id, percentile)

    def route(self, data: np.ndarray, tree: Hierarchy, threshold: float) -> Route:
        route = Route.start(tree, len(data))
        for block in self.blocks.of(data):
            distances = np.full(len(block.query), np.nan)

            def call(node: Node, rows: np.ndarray, block=block, distances=distances):
                return self._vote(block, node, rows, threshold, distances)

            walk(tree, route, np.arange(len(block.query)) + block.start, call, block.start, set(self.classes))
            route.distance[block.start : block.start + len(block.query)] = distances
        return route

    def _vote(self, block: DistanceBlock, node: Node, rows: np.ndarray, threshold: float, distances: np.ndarray):
        ids, starts, first, last = self._span(node.id)
        found, positions = block.nearest(rows, first, last, self.k[node.id])
        if node.is_root:
            distances[rows] = found.mean(axis=1)
        is_same = found == 0
        weights = np.where(is_same.any(axis=1, keepdims=True), is_same, 1 / np.where(is_same, 1, found))
        shares = vote(np.searchsorted(starts, positions, side="right") - 1, weights, len(ids))
        best = shares.argmax(axis=1)
        posterior = shares[np.arange(len(rows)), best]
        return np.where(posterior > threshold, ids[best], NO_CALL), posterior

    def _span(self, id: int) -> tuple[np.ndarray, np.ndarray, int, int]:
        """A parent's classes, where each begins, and where all begin and end: they stand together."""
        classes = self.classes[id]
        starts = np.array([first for first, _ in classes.values()])
        return np.array(list(classes)), starts, starts[0], max(last for _, last in classes.values())

    def _distance_limit(self, data: np.ndarray, cells: TreeCells, root: int, percentile: float) -> float:
        if root not in self.classes:
            return np.inf
        _, _, first, last = self._span(root)
        k, means = self.k[root], []
        k_others = min(k, last - first - 1)
        if k_others > 0:
            for block in self.blocks.of(data[cells.order[first:last]]):
                rows = np.arange(len(block.query))
                distances, positions = block.nearest(rows, first, last, k_others + 1)
                is_self = positions == (first + block.start + rows)[:, None]
                is_self[~is_self.any(axis=1), -1] = True  # among more than k at its place, any other will do
                means.append(distances[~is_self].reshape(len(rows), k_others).mean(axis=1))
        outside = np.concatenate([cells.order[:first], cells.order[last:], cells.strangers])
        for block in self.blocks.of(data[outside]):
            means.append(block.nearest(np.arange(len(block.query)), first, last, k)[0].mean(axis=1))
        return float(np.percentile(np.concatenate(means), percentile)) if means else np.inf


class MachineClassifier:
    """A support vector machine at every node below the root."""

    distance_limit = np.inf

    def __init__(self, data: np.ndarray, tree: Hierarchy, nodes: np.ndarray, kind: Kind, n_genes: int | None):
        cells = TreeCells(tree, nodes)
        self.margins: dict[int, Callable[[np.ndarray], np.ndarray]] = {}
        self.columns: dict[int, np.ndarray | slice] = {}
        for node in list(tree)[1:]:
            positive = cells.order[slice(*cells.below[node.id])]
            siblings = [cells.below[child.id] for child in node.parent.children if child is not node]
            rivals = [span for span in siblings if span[1] > span[0]] or [cells.own[node.parent.id]]
            negative = np.concatenate([cells.order[slice(*span)] for span in rivals])
            if not len(positive):
                continue
            columns = slice(None) if n_genes is None else telling_columns(data[positive], data[negative], n_genes)
            self.columns[node.id] = columns
            self.margins[node.id] = _fit(kind, data[positive][:, columns], data[negative][:, columns])

    def route(self, data: np.ndarray, tree: Hierarchy, threshold: float) -> Route:
        route = Route.start(tree, len(data))

        def call(node: Node, rows: np.ndarray):
            ids = [child.id for child in node.children if child.id in self.margins]
            margins = np.column_stack([self.margins[id](data[rows][:, self.columns[id]]) for id in ids])
            best = margins.argmax(axis=1)
            is_claimed = margins[np.arange(len(rows)), best] > 0
            return np.where(is_claimed, np.array(ids)[best], NO_CALL), np.full(len(rows), np.nan)

        parents = {node.id for node in tree if any(child.id in self.margins for child in node.children)}
        walk(tree, route, np.arange(len(data)), call, 0, parents)
        return route


def walk(tree: Hierarchy, route: Route, cells: np.ndarray, call: Callable, start: int, parents: set[int]):
    """Take cells down the tree, all those at a node at once.

    `call(node, rows)` says of rows, counted from `start`, which child is called (or the node itself, to stay) and with
    what posterior; `parents` are the nodes where there is something to call.
    """
    at = {tree.root.id: cells}
    for level, node in ((node.depth, node) for node in tree):
        here = at.pop(node.id, None)
        if here is None or not len(here) or node.id not in parents:
            continue
        called, posterior = call(node, here - start)
        route.posteriors[here, level] = posterior
        route.stopped[here] = called == NO_CALL
        is_called = called != NO_CALL
        route.last[here[is_called]] = posterior[is_called]
        for child in node.children:
            chosen = here[called == child.id]
            route.reached[chosen] = route.path[chosen, level] = child.id
            at[child.id] = chosen


def telling_columns(positive: np.ndarray, negative: np.ndarray, n_genes: int) -> np.ndarray:
    """The principal components whose means differ (Welch's t-test, p times the number of genes up to 0.05), or the five
    that differ most."""
    from scipy.stats import ttest_ind

    if min(len(positive), len(negative)) < 2:
        return np.arange(positive.shape[1])
    p = ttest_ind(positive, negative, equal_var=False).pvalue
    telling = np.flatnonzero(p * n_genes <= 0.05)
    return telling if len(telling) else np.sort(np.argsort(p)[:MOST_PCS_WITHOUT_EVIDENCE])


def _fit(kind: Kind, positive: np.ndarray, negative: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """A function from cells to margins, positive where the node claims a cell."""
    from sklearn.svm import LinearSVC, OneClassSVM

    if kind == "svm_occ":
        return OneClassSVM(gamma="scale", nu=0.05).fit(positive).decision_function
    if not len(negative):  # nothing to tell it from: an only child takes all
        return lambda cells: np.ones(len(cells))
    labels = np.repeat([1, 0], [len(positive), len(negative)])
    return LinearSVC(random_state=1, dual="auto").fit(np.vstack([positive, negative]), labels).decision_function
