"""How the labels of a new data set fit into a tree: from predictions made both ways to edits of the tree.

Michielsen et al. 2021, doi:10.1038/s41467-021-23196-8, Methods, "Matching".

Two tables: of each leaf's cells, the share that the new data set's classifier gives each label; of each label's cells,
the share that the tree's classifier calls each node (rejected cells: the root). In a row, the largest share and all
within `threshold` of it are matches, if above 0.1; a match that is alone in its row counts twice. The two tables are
added. Where labels and nodes match

    one label : one node               perfect: the label becomes the node's alias
    several labels : one node          split: they become its children
    one label : several nodes          merge: a new node above them
    a label : the root alone           new: a new child of the root
    several : several                  complex: one of the above once rejected shares, or matches with an ancestor, are
                                       left out; else impossible, since a node cannot have two parents

First all matches are tried, then, for what they leave open, only those that count twice or come from both sides.

Differs from scHPL 1.0.5: results depend neither on how labels are spelt nor on their order; a share is compared with
the largest one, not with the next larger; the second time, rejected cells count no more than others; no label becomes
an alias of the root; a new node takes no leaf along that does not match it; a label that is the name of another type in
the tree becomes `label@dataset`.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from .journal import line_of_code
from .nodes import Alias, Node, lowest_common_ancestor
from .tree import Hierarchy, unused

SMALLEST_SHARE = 0.1  # a smaller one is no match


@dataclass(frozen=True)
class Match:
    """One label and one node that it was compared with."""

    label: str
    node: str
    share_of_label: float  # of the label's cells, how many the tree calls this node, 0 to 1
    share_of_node: float | None  # of the node's cells, how many get the label; None for nodes without own cells


@dataclass(frozen=True)
class Proposal:
    """An edit of the tree with its evidence; `tree.accept(proposal)` makes it.

    Proposals of one data set stand in the order in which they were made: a later one may need an earlier one.
    """

    kind: str  # perfect, split, merge, new, complex, attached, or impossible, which has no commands
    dataset: str
    labels: tuple[str, ...]
    nodes: tuple[str, ...]  # the nodes that the labels matched
    matches: tuple[Match, ...] = field(repr=False)
    commands: tuple[tuple[str, dict], ...] = field(repr=False)  # names of commands and their arguments

    @property
    def code(self) -> str:
        """The lines of Python that make the edit, for a tree called `tree`."""
        return "\n".join(line_of_code(*command) for command in self.commands)


def table_of_matches(shares: np.ndarray, threshold: float) -> np.ndarray:
    """2 for the only match of a row, 1 for each of several, 0 for none. (rows, columns), rows of shares."""
    largest = shares.max(axis=1, keepdims=True, initial=0)
    is_match = (shares > SMALLEST_SHARE) & (largest - shares < threshold)
    return is_match * np.where(is_match.sum(axis=1, keepdims=True) == 1, 2, 1)


class LabelMatcher:
    """Fits a data set's labels into `tree`, which it edits.

    Parameters
    ----------
    tree
        Edited, one proposal at a time.
    names
        The new data set's labels, each of some cells; codes count in their order.
    dataset
        Its name.
    reference_nodes, reference_calls
        Of each cell behind the tree: the id of its label's node, or -1; the label that the new data set's classifier
        gives it, as a code, or -1 for none.
    labels, calls
        Of each cell of the new data set: its label as a code; the id of the node that the tree's classifier calls it,
        the root's for none.
    """

    def __init__(
        self,
        tree: Hierarchy,
        names: list[str],
        dataset: str,
        reference_nodes: np.ndarray,
        reference_calls: np.ndarray,
        labels: np.ndarray,
        calls: np.ndarray,
    ):
        self.tree, self.names, self.dataset = tree, names, dataset
        self.proposals: list[Proposal] = []
        self.placed: dict[int, int] = {}  # labels' codes → ids of nodes
        self.made: set[int] = set()  # ids of new nodes
        self.ids = _ids_by_size(tree, reference_nodes)
        column = {id: number for number, id in enumerate(self.ids)}
        self.root = column[tree.root.id]
        self.rejected = len(names)
        self.order = [*_by_size(labels), self.rejected]  # in which labels are looked at: by no spelling
        self.calls_of_labels = np.zeros((len(names), len(self.ids)), dtype=int)
        np.add.at(self.calls_of_labels, (labels, [column[id] for id in calls.tolist()]), 1)
        self.calls_of_nodes = np.zeros((len(self.ids), len(names) + 1), dtype=int)  # the last column: rejected
        is_known = np.isin(reference_nodes, self.ids)
        rows = [column[id] for id in reference_nodes[is_known].tolist()]
        np.add.at(self.calls_of_nodes, (rows, reference_calls[is_known]), 1)  # -1 is the last column

    def run(self, threshold: float, attach_missing: bool = False) -> list[int]:
        """Make all edits that the matches allow, and return the codes of the labels that have no place."""
        evidence = self._evidence(threshold)
        possible, certain = evidence > 0, evidence > 1
        matched = possible.copy()
        self._scan(possible)
        certain &= possible
        self._scan(certain)
        missing = [label for label in range(self.rejected) if label not in self.placed]
        for label in missing:
            if attach_missing:
                commands = [self._add(label, self.tree.root, [self.root], "attached")]
                self._accept("attached", [label], [self.root], commands)
            else:
                self._note("impossible", [label], np.flatnonzero(matched[label]).tolist(), ())
        return [] if attach_missing else missing

    def _evidence(self, threshold: float) -> np.ndarray:
        """Labels (the last row: rejected) × nodes, 0 to 4."""
        evidence = np.zeros((len(self.names) + 1, len(self.ids)), dtype=int)
        evidence[:-1] = table_of_matches(_shares(self.calls_of_labels), threshold)
        is_leaf = [self.tree.node(id).is_leaf for id in self.ids]
        evidence[:, is_leaf] += table_of_matches(_shares(self.calls_of_nodes[is_leaf]), threshold).T
        return evidence

    # --- two scans over the matches ----------------------------------------------------------------------------------

    def _scan(self, open: np.ndarray):
        """Resolve what can be; True stays where a match is left open. Labels × nodes."""
        for resolve in (self._resolve_simple, self._resolve_merges):
            labels_of, nodes_of = open.sum(axis=0), open.sum(axis=1)  # counts as they were before
            for node in range(len(self.ids)):
                for label in self.order:
                    if open[label, node] and label not in self.placed:
                        resolve(open, node, label, labels_of, nodes_of)

    def _resolve_simple(self, open: np.ndarray, node: int, label: int, labels_of: np.ndarray, nodes_of: np.ndarray):
        if nodes_of[label] > 1:
            return
        if node == self.root:
            self._accept("new", [label], [node], [self._add(label, self.tree.root, [node], "new")])
            open[label, node] = False
        elif labels_of[node] == 1:
            if label != self.rejected:
                self._perfect(label, node)
            open[label, node] = False
        else:
            labels = self._labels(open[:, node])
            if all(nodes_of[other] == 1 for other in labels):
                self._split(node, labels)
                open[:, node] = False

    def _resolve_merges(self, open: np.ndarray, node: int, label: int, labels_of: np.ndarray, nodes_of: np.ndarray):
        if label == self.rejected or nodes_of[label] == 1:
            return
        nodes = np.flatnonzero(open[label]).tolist()
        if labels_of[node] == 1:
            is_plain = all(labels_of[other] == 1 for other in nodes if other != self.root)
            if is_plain and self._merge(label, nodes):
                open[label] = False
            return
        if node == self.root:
            return
        nodes = [other for other in nodes if other != self.root]
        labels = self._labels(open[:, node])
        hard_nodes = [other for other in nodes if labels_of[other] - open[self.rejected, other] > 1]
        hard_labels = [other for other in labels if nodes_of[other] - open[other, self.root] > 1]
        if len(nodes) == 1 and len(labels) == 1:
            self._perfect(label, node)
        elif len(labels) == 1:
            if hard_nodes or not self._merge(label, nodes):
                return
        elif len(nodes) == 1:
            if hard_labels:
                return
            self._split(node, labels)
        elif len(hard_nodes) > 1 or len(hard_labels) > 1 or not self._split_and_merge(node, labels, label, nodes):
            return
        open[:, nodes if len(labels) == 1 else [node]] = False
        open[labels if len(nodes) == 1 else [label]] = False

    def _labels(self, is_open: np.ndarray) -> list[int]:
        return [label for label in self.order if is_open[label] and label != self.rejected]

    # --- edits -------------------------------------------------------------------------------------------------------

    def _perfect(self, label: int, node: int):
        arguments = {"node": self._node(node).name, "alias": self._alias(label, [node], "perfect")}
        self._accept("perfect", [label], [node], [("add_alias", arguments)])
        self.placed[label] = self.ids[node]

    def _split(self, node: int, labels: list[int]):
        parent = self._node(node)
        self._accept("split", labels, [node], [self._add(label, parent, [node], "split") for label in labels])

    def _merge(self, label: int, matched: list[int]) -> bool:
        """Put the label above the nodes; False if they cannot have it as their parent."""
        nodes = [self._node(node) for node in matched if node != self.root]
        if not nodes:  # the others have been resolved
            return False
        if self.root in matched:
            branches = _branches(self.tree.root, nodes)
            if self._may_move(branches, nodes):
                self._insert_above(label, matched, self.tree.root, branches)
                return True
        if len(nodes) == 1:
            self._perfect(label, self.ids.index(nodes[0].id))
            return True
        top = next((n for n in nodes if all(other is n or other.is_below(n) for other in nodes)), None)
        if top is not None:
            if len(list(top.walk())) == len(nodes):
                self._perfect(label, self.ids.index(top.id))
                return True
            nodes.remove(top)
        parent = lowest_common_ancestor([node.parent for node in nodes])
        branches = _branches(parent, nodes)
        if not self._may_move(branches, nodes):
            return False
        if parent.id in self.ids and not parent.is_root and all(child in nodes for child in parent.children):
            self._perfect(label, self.ids.index(parent.id))
        else:
            self._insert_above(label, matched, parent, branches)
        return True

    def _split_and_merge(self, node: int, labels: list[int], label: int, matched: list[int]) -> bool:
        """Labels become children of an inner node, and one of them takes over the children that it matches."""
        top = self._node(node)
        nodes = [self._node(other) for other in matched if other != node]
        branches = _branches(top, nodes)
        if not all(other.is_below(top) for other in nodes) or not self._may_move(branches, nodes):
            return False
        adds = [self._add(other, top, matched if other == label else [node], "split") for other in labels]
        above = adds[labels.index(label)][1]["name"]
        moves = [("move", {"nodes": branch.name, "parent": above}) for branch in branches]
        self._accept("complex", labels, matched, [*adds, *moves])
        return True

    def _insert_above(self, label: int, matched: list[int], parent: Node, branches: list[Node]):
        command, arguments = self._add(label, parent, matched, "merge")
        arguments["children"] = [branch.name for branch in branches]
        self._accept("merge", [label], matched, [(command, arguments)])

    def _may_move(self, branches: list[Node], nodes: list[Node]) -> bool:
        """Whether branches can go below one label: none holds a new node, and all their leaves match it."""
        return all(
            below.id not in self.made
            and (not below.is_leaf or below in nodes or any(node in nodes for node in below.ancestors()))
            for branch in branches
            for below in branch.walk()
        )

    def _add(self, label: int, parent: Node, matched: list[int], match: str) -> tuple[str, dict]:
        name = self.names[label]
        taken = self.tree.taken_names()
        if name in taken:
            name = unused(f"{name}@{self.dataset}", {*self.names, *taken})
        return "add", {"name": name, "parent": parent.name, "aliases": [self._alias(label, matched, match)]}

    def _accept(self, kind: str, labels: list[int], matched: list[int], commands: list[tuple[str, dict]]):
        self.tree.accept(self._note(kind, labels, matched, tuple(commands)))
        for label, (command, arguments) in zip(labels, commands):
            if command == "add":
                self.placed[label] = self.tree[arguments["name"]].id
                self.made.add(self.placed[label])

    def _note(self, kind: str, labels: list[int], matched: list[int], commands: tuple) -> Proposal:
        pairs = [(label, node) for label in labels for node in matched]
        matches = [
            Match(self.names[label], self._node(node).name, *self._found(label, [node])) for label, node in pairs
        ]
        names = tuple(self.names[label] for label in labels), tuple(self._node(node).name for node in matched)
        self.proposals.append(Proposal(kind, self.dataset, *names, tuple(matches), commands))
        return self.proposals[-1]

    def _alias(self, label: int, matched: list[int], match: str) -> Alias:
        return Alias(self.names[label], self.dataset, match, *self._found(label, matched))

    def _found(self, label: int, nodes: list[int]) -> tuple[float, float | None]:
        """Of the label's cells, those called one of the nodes; of these nodes' own cells, those given the label."""
        calls, own = self.calls_of_labels[label], self.calls_of_nodes[nodes]
        of_nodes = float(own[:, label].sum() / own.sum()) if own.sum() else None
        return float(calls[nodes].sum() / calls.sum()), of_nodes

    def _node(self, number: int) -> Node:
        return self.tree.node(self.ids[number])


def _shares(counts: np.ndarray) -> np.ndarray:
    """Rows that sum to one, or to zero where there are no cells."""
    return counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)


def _branches(parent: Node, nodes: list[Node]) -> list[Node]:
    """The children of `parent` that are, or are above, one of the nodes."""
    return [child for child in parent.children if any(node is child or node.is_below(child) for node in nodes)]


def _by_size(codes: np.ndarray) -> list[int]:
    """The codes that occur, the most frequent first, and among equals the one that comes first."""
    found, first, sizes = np.unique(codes[codes >= 0], return_index=True, return_counts=True)
    return found[np.lexsort([first, -sizes])].tolist()


def _ids_by_size(tree: Hierarchy, reference_nodes: np.ndarray) -> list[int]:
    """The tree's nodes, those with the most cells below first, and among equals the one whose cells come first."""
    found, first, sizes = np.unique(reference_nodes, return_index=True, return_counts=True)
    own = dict(zip(found.tolist(), zip(sizes.tolist(), first.tolist())))
    keys = {}
    for number, node in enumerate(tree):
        below = [own.get(inner.id, (0, len(reference_nodes))) for inner in node.walk()]
        keys[node.id] = (-sum(size for size, _ in below), min(first for _, first in below), number)
    return sorted(keys, key=keys.get)
