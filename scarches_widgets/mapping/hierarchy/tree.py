"""A tree of cell types that people and `learn_tree` edit: commands with inverses, undo, labels found by data set."""

from __future__ import annotations

import functools
import inspect
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from ...data.names import DataError, did_you_mean, listed, shown
from . import formats
from .journal import Edit, NodeTable, Patch, Step, without
from .nodes import Alias, Node, lowest_common_ancestor
from .problems import Problem, compare, find_problems, same_types

if TYPE_CHECKING:
    from anndata import AnnData
    from networkx import DiGraph

    from .matching import Proposal

REJECTED_BY_RECONSTRUCTION, REJECTED_BY_DISTANCE = "Rejected (RE)", "Rejection (dist)"
REJECTIONS = (REJECTED_BY_RECONSTRUCTION, REJECTED_BY_DISTANCE)  # what predictions say of a cell of no known type

CELLS = {"label": object, "dataset": object, "n_cells": int}  # how many cells of a data set carry a label
NO_CELLS = pd.DataFrame({name: pd.Series(dtype=dtype) for name, dtype in CELLS.items()})


def command(method: Callable) -> Callable:
    """A method that edits the tree: it happens whole or not at all, is noted in the history, and can be undone."""
    signature = inspect.signature(method)

    @functools.wraps(method)
    def edit(self: Hierarchy, *args, **kwargs):
        bound = signature.bind(self, *args, **kwargs)
        given = {
            name: list(value) if isinstance(value, Iterable) and not isinstance(value, str) else value
            for name, value in list(bound.arguments.items())[1:]
        }
        with self._editing(method.__name__, {name: _by_name(value) for name, value in given.items()}):
            return method(self, **given)

    return edit


class Hierarchy:
    """One rooted tree of cell types.

    It is a sequence of its nodes, each before its children: `tree[0]` is the root, `tree["T cell"]` the node of that
    name. Names are unique. A node's aliases say what data sets call it; the same label may be an alias of another node
    in another data set. Nodes are changed by the commands below only. Where these take a node, they take its name, an
    alias that no other node has, or the `Node`.

    Parameters
    ----------
    root
        The root's name.

    Attributes
    ----------
    version
        Grows by one with each edit, undo or redo.
    classifier
        What `train_tree` made of the tree, or None.

    Examples
    --------
    >>> tree = Hierarchy.from_newick("(('CD4 T','CD8 T')'T cell','B cell')'root';")
    >>> tree.move("B cell", tree.add("Lymphoid"))
    >>> tree.undo()
    >>> tree.to_newick()
    """

    def __init__(self, root: str = "root"):
        self._table = NodeTable(Node(0, _checked_name(root)))
        self._done: list[Edit] = []
        self._undone: list[Edit] = []
        self._recording: tuple[list[Step], list[Step]] | None = None
        self._lock = threading.RLock()  # a widget's handlers may run on another thread
        self._subscribers: list[Callable[[Patch], object]] = []
        self._cells = NO_CELLS
        self.version = 0
        self.classifier = None

    # --- reading -----------------------------------------------------------------------------------------------------

    @property
    def root(self) -> Node:
        return self._table.root

    def __len__(self) -> int:
        return len(self._table.by_id)

    def __iter__(self) -> Iterator[Node]:
        return self.root.walk()

    def __contains__(self, node: str | Node) -> bool:
        return self._table.by_id.get(node.id) is node if isinstance(node, Node) else self.find(node) is not None

    def __getitem__(self, key: int | str) -> Node:
        if isinstance(key, str):
            return self._node(key)
        return self.root if key == 0 else list(self)[key]

    def __repr__(self) -> str:
        return f"Hierarchy({len(self)} nodes, {len(self.leaves())} leaves, root '{shown(self.root.name)}')"

    def __str__(self) -> str:
        lines = []
        for node in self:
            synonyms = f"  (= {', '.join(node.names[1:])})" if node.names[1:] else ""
            lines.append("  " * node.depth + node.name + synonyms)
        return "\n".join(lines)

    def leaves(self) -> list[Node]:
        """The nodes without children, in order; the root, if it is alone."""
        return self.root.leaves()

    def node(self, id: int) -> Node:
        """The node of this id, which it keeps through all edits; `KeyError` if it is not in the tree now."""
        return self._table.by_id[id]

    def structure(self) -> dict[int, int | None]:
        """Each node's parent, by ids; the root's is None."""
        return {node.id: node.parent and node.parent.id for node in self}

    @property
    def datasets(self) -> list[str]:
        """The data sets that nodes have aliases of, in the order of the tree."""
        return list(
            dict.fromkeys(alias.dataset for node in self for alias in node.aliases if alias.dataset is not None)
        )

    def named(self, name: str) -> Node | None:
        """The node of this name; None if there is none, though it may be an alias."""
        return self._table.by_name.get(name)

    def called(self, label: str) -> list[Node]:
        """The nodes that some data set calls so."""
        return list(self._table.by_label.get(label, {}).values())

    def taken_names(self) -> set[str]:
        """What a new node cannot be called: names, and aliases of no particular data set."""
        return {*self._table.by_name, *(label for dataset, label in self._table.by_alias if dataset is None)}

    def find(self, label: str, dataset: str | None = None) -> Node | None:
        """The node that a label means, or None if there is none, or more than one.

        Parameters
        ----------
        label
            A name or an alias. A rejection, such as "Rejected (RE)", means the root.
        dataset
            Where the label comes from. If the tree has aliases of this data set, only these and aliases of no
            particular data set count; else a node's name comes first, and then any alias.
        """
        table = self._table
        for key in ((dataset, label), (None, label)):
            if key in table.by_alias:
                return table.by_alias[key]
        if dataset is not None and table.n_aliases[dataset]:
            return None
        if label in table.by_name:
            return table.by_name[label]
        if label in REJECTIONS:
            return self.root
        nodes = self.called(label)
        return nodes[0] if len(nodes) == 1 else None

    def flat(self) -> formats.FlatTree:
        """The tree as columns, for a view that then follows by the patches of `subscribe`."""
        with self._lock:
            return formats.flatten(self.root, self.version, self._own_cells())

    # --- making and keeping ------------------------------------------------------------------------------------------

    @classmethod
    def from_obs(
        cls, adata: AnnData, keys: list[str], *, batch_key: str | None = None, root: str = "root"
    ) -> Hierarchy:
        """Build a tree from label columns.

        Parameters
        ----------
        adata
            Its cells are counted too, by their finest label. It is not modified.
        keys
            Columns of `obs` from coarse to fine, for example `["lineage", "cell_type"]`. Where a cell's finer labels
            are missing or repeat the coarser one, the branch ends at that.
        batch_key
            Column of `obs` by which to count cells.
        root
            The root's name; a number is added if a label is called so.

        Raises
        ------
        DataError
            A column is missing, or a label stands below two others.
        """
        columns = pd.DataFrame({number: _labels(adata.obs, key) for number, key in enumerate(keys)})
        if columns.empty:
            raise DataError("A tree needs one or more label columns and some cells. Check `keys` and `adata`.")
        finest = columns.ffill(axis=1).iloc[:, -1]
        parent_of: dict[str, str | None] = {}
        for row in columns.drop_duplicates().sort_values(list(columns)).itertuples(index=False):
            path = list(dict.fromkeys(label for label in row if isinstance(label, str)))
            for parent, child in zip([None, *path], path):
                if parent_of.setdefault(child, parent) != parent:
                    places = " and ".join(
                        "at the top" if place is None else f"below '{shown(place)}'"
                        for place in (parent_of[child], parent)
                    )
                    raise DataError(
                        f"'{shown(child)}' stands {places} in {listed(keys)}, but a label has one place in a tree. "
                        "Rename it where it means another type, or correct these cells."
                    )
        tree = cls(unused(root, parent_of))
        for child, parent in parent_of.items():
            tree._perform(("insert", tree._table.next_id, _id(tree, parent), _n_children(tree, parent), child, ()))
        tree._cells = _counted(finest, _labels(adata.obs, batch_key) if batch_key else None)
        return tree

    @classmethod
    def from_newick(cls, text: str, root: str = "root") -> Hierarchy:
        """Read one tree in Newick format; names may stand in quotes, and lengths and [comments] are passed over.

        A root without a name is called `root`, other such nodes "node 1", "node 2", …; leaves need names.
        """
        rows = formats.parse_newick(text)
        children = {parent for parent, _ in rows}
        names = [name for _, name in rows if name is not None]
        unnamed = iter(range(1, len(rows) + 1))
        tree, ids = cls(rows[0][1] if rows[0][1] is not None else unused(root, names)), [0]
        for number, (parent, name) in enumerate(rows[1:], 1):
            if name is None:
                if number not in children:
                    raise DataError(
                        f"A leaf below '{shown(tree.node(ids[parent]).name)}' has no name. Name all leaves."
                    )
                name = next(free for i in unnamed if (free := f"node {i}") not in names)
            name = tree._free_name(name)
            tree._perform(("insert", number, ids[parent], len(tree.node(ids[parent]).children), name, ()))
            ids.append(number)
        return tree

    def to_newick(self) -> str:
        """One line, every name in quotes, siblings in their order; without aliases and counts, which `to_json` has."""
        return formats.to_newick(self.root)

    @classmethod
    def from_json(cls, text: str) -> Hierarchy:
        """Read what `to_json` wrote: ids, names, aliases with their evidence, counts."""
        nodes, cells = formats.parse_json_tree(text)
        if not nodes or nodes[0]["parent"] is not None:
            raise DataError("This tree has no root: its first node must have no parent.")
        tree = cls(nodes[0]["name"])
        tree._table = NodeTable(Node(nodes[0]["id"], _checked_name(nodes[0]["name"])))
        tree._perform(("set", nodes[0]["id"], nodes[0]["name"], tree._checked_aliases(nodes[0]["aliases"])))
        for row in nodes[1:]:
            if row["parent"] not in tree._table.by_id or row["id"] in tree._table.by_id:
                raise DataError(f"The node '{shown(row['name'])}' has no parent before it, or an id that stands twice.")
            position = len(tree.node(row["parent"]).children)
            name, aliases = tree._free_name(row["name"]), tree._checked_aliases(row["aliases"])
            tree._perform(("insert", row["id"], row["parent"], position, name, aliases))
        tree._cells = _as_table(cells)
        return tree

    def to_json(self) -> str:
        """Everything but the history of edits and the classifier, as text."""
        with self._lock:
            return formats.to_json(self.root, self._cells)

    @classmethod
    def from_edges(cls, edges: pd.DataFrame) -> Hierarchy:
        """Build a tree from a table of two columns, parent and child, rows in any order."""
        if edges.shape[1] != 2 or edges.isna().any(axis=None):
            raise DataError("Edges are a table of two columns, parent and child, without missing values.")
        rows = formats.order_edges(edges)
        tree = cls(rows[0][1])
        for parent, child in rows[1:]:
            child = tree._free_name(child)
            tree._perform(("insert", tree._table.next_id, _id(tree, parent), _n_children(tree, parent), child, ()))
        return tree

    def to_edges(self) -> pd.DataFrame:
        """A table of parent and child, one row per node but the root."""
        return formats.to_edges(self.root)

    @classmethod
    def from_networkx(cls, graph: DiGraph) -> Hierarchy:
        """Build a tree from a directed graph whose edges go from parent to child."""
        if graph.number_of_edges() == 0 and graph.number_of_nodes() == 1:
            return cls(str(next(iter(graph.nodes))))
        return cls.from_edges(pd.DataFrame(list(graph.edges), columns=["parent", "child"]))

    def to_networkx(self) -> DiGraph:
        """A directed graph from parent to child; nodes are names, with an attribute `aliases`."""
        return formats.to_networkx(self.root)

    def copy(self) -> Hierarchy:
        """The same tree with the same ids and classifier, without history."""
        tree = Hierarchy.from_json(self.to_json())
        tree._table.next_id = self._table.next_id
        tree.classifier = self.classifier
        return tree

    def __deepcopy__(self, memo: dict) -> Hierarchy:
        return self.copy()

    # --- commands ----------------------------------------------------------------------------------------------------

    @command
    def rename(self, node: str | Node, name: str, keep_alias: bool = True):
        """Give a node another name. Its old one becomes an alias by default, so that labels in data are found."""
        node = self._node(node)
        if name == node.name:
            return
        aliases = without(node.aliases, name, None)
        if keep_alias and all(alias.name != node.name for alias in aliases):
            aliases = (*aliases, Alias(node.name))
        self._perform(("set", node.id, self._free_name(name, allowed=node), aliases))

    @command
    def add(
        self,
        name: str,
        parent: str | Node | None = None,
        children: Iterable[str | Node] = (),
        position: int | None = None,
        aliases: Iterable[Alias] = (),
    ) -> Node:
        """Add a node below `parent` (default: the root), last or at a position; some of the parent's children may go
        below it."""
        parent = self.root if parent is None else self._node(parent)
        children = [self._node(child) for child in children]
        if strangers := [child.name for child in children if child.parent is not parent]:
            raise DataError(
                f"{listed(strangers)}: no children of '{shown(parent.name)}', so a new node cannot be put between. Use "
                "`group` or `move`."
            )
        node = self._insert(self._free_name(name), parent, position, self._checked_aliases(aliases))
        for child in children:
            self._place(child, node)
        return node

    @command
    def remove(self, nodes: str | Node | Iterable[str | Node], keep_children: bool = True):
        """Remove one or several nodes; their children take their place, or go too. Their labels are then not in the
        tree."""
        for node in self._several(nodes, "removed"):
            if node not in self:  # it went with one above it
                continue
            if keep_children:
                for position, child in enumerate(list(node.children), node.position):
                    self._place(child, node.parent, position)
            for below in reversed(list(node.walk())):
                self._perform(("delete", below.id))

    @command
    def move(self, nodes: str | Node | Iterable[str | Node], parent: str | Node, position: int | None = None):
        """Put one or several nodes, with all below them, under another parent, last or from a position on.

        The position counts from 0 among the parent's other children. A node below another of them goes along with it.
        """
        nodes, parent = self._several(nodes, "moved"), self._node(parent)
        for node in nodes:
            if parent is node or parent.is_below(node):
                path = " → ".join(shown(step.name) for step in parent.path()[node.depth :])
                raise DataError(
                    f"'{shown(node.name)}' cannot be moved below itself ({path}). Move '{shown(parent.name)}' out of "
                    "it first."
                )
        stay = [child for child in parent.children if child not in nodes]
        after = None if position is None else next(iter(stay[max(0, position) :]), None)
        for node in nodes:
            if any(node.is_below(other) for other in nodes):
                continue
            others = [child for child in parent.children if child is not node]
            self._place(node, parent, None if after is None else others.index(after))

    @command
    def group(self, nodes: Iterable[str | Node], name: str) -> Node:
        """Put nodes below a new one, which stands below their lowest common ancestor, where the first of them was."""
        nodes = self._apart(nodes)
        parent = lowest_common_ancestor([node.parent for node in nodes])
        branch = next(child for child in parent.children if nodes[0] is child or nodes[0].is_below(child))
        position = branch.position + (branch is not nodes[0])
        group = self._insert(self._free_name(name), parent, position, ())
        for node in nodes:
            self._place(node, group)
        return group

    @command
    def merge(self, nodes: Iterable[str | Node], name: str | None = None) -> Node:
        """Make synonyms one node: the first takes the others' names as aliases, and their children."""
        first, *others = list(dict.fromkeys(self._node(node) for node in nodes)) or [self.root]
        if not others:
            raise DataError("Merging takes two nodes or more.")
        aliases = list(first.aliases)
        for node in others:
            self._not_root(node, "merged into another node; name it first")
            if first.is_below(node):
                raise DataError(
                    f"'{shown(first.name)}' is below '{shown(node.name)}'. Name the upper node first to merge them."
                )
            own = [] if any(alias.name == node.name for alias in node.aliases) else [Alias(node.name)]
            aliases += [*own, *node.aliases]
            for child in list(node.children):
                self._place(child, first)
            self._perform(("delete", node.id))
        self._perform(("set", first.id, first.name, tuple(aliases)))
        if name is not None:
            self.rename(first, name)
        return first

    @command
    def split(self, node: str | Node, names: Iterable[str], below: bool = False) -> list[Node]:
        """Make each of some names a node of its own, beside the node or below it.

        Names that are the node's aliases leave it, with what is known of them; others are new.
        """
        node, names = self._node(node), list(names)
        if not below:
            self._not_root(node, "split into siblings; use `below=True`")
        if not names:
            raise DataError("Splitting takes the names of the nodes to be made.")
        leaving = [alias for alias in node.aliases if alias.name in names]
        self._perform(("set", node.id, node.name, tuple(alias for alias in node.aliases if alias not in leaving)))
        made = []
        for number, name in enumerate(names):
            aliases = tuple(alias for alias in leaving if alias.name == name and alias.dataset is not None)
            parent, position = (node, None) if below else (node.parent, node.position + 1 + number)
            made.append(self._insert(self._free_name(name), parent, position, aliases))
        return made

    @command
    def add_alias(self, node: str | Node, alias: str | Alias, dataset: str | None = None):
        """Note that a data set (or any) calls the node so."""
        node = self._node(node)
        new = self._checked_aliases([alias if isinstance(alias, Alias) else Alias(alias, dataset)])
        self._perform(("set", node.id, node.name, (*node.aliases, *new)))

    @command
    def drop_alias(self, node: str | Node, alias: str, dataset: str | None = None):
        """Forget that a data set (or any) calls the node so."""
        node = self._node(node)
        aliases = without(node.aliases, alias, dataset)
        if len(aliases) == len(node.aliases):
            known = listed([f"{a.name} ({a.dataset or 'any data set'})" for a in node.aliases], 10) or "none"
            raise DataError(f"'{shown(node.name)}' has no alias '{shown(alias)}' of that data set. It has: {known}.")
        self._perform(("set", node.id, node.name, aliases))

    @command
    def reorder(self, node: str | Node, children: Iterable[str | Node] | None = None):
        """Put all of a node's children into the order given; default: by name."""
        node = self._node(node)
        by_name = sorted(node.children, key=lambda child: child.name.casefold())
        order = by_name if children is None else [self._node(child) for child in children]
        if sorted(child.id for child in order) != sorted(child.id for child in node.children):
            raise DataError(
                f"An order of '{shown(node.name)}' must name each of its {len(node.children)} children once."
            )
        for position, child in enumerate(order):
            if node.children[position] is not child:
                self._place(child, node, position)

    @command
    def accept(self, proposal: Proposal):
        """Make an edit that `learn_tree(…, apply=False)` proposed, all of it as one."""
        for name, arguments in proposal.commands:
            getattr(self, name)(**arguments)

    @property
    def history(self) -> tuple[Edit, ...]:
        """The edits that led here, oldest first, without those undone."""
        return tuple(self._done)

    @property
    def undone(self) -> tuple[Edit, ...]:
        """The edits that `redo` would do again, the next one last."""
        return tuple(self._undone)

    def undo(self) -> Edit | None:
        """Take the last edit back, and return it; None if there is none."""
        return self._travel(self._done, self._undone, "inverse")

    def redo(self) -> Edit | None:
        """Do the edit again that was undone last, and return it; None if there is none."""
        return self._travel(self._undone, self._done, "steps")

    def subscribe(self, callback: Callable[[Patch], object]) -> Callable[[], None]:
        """Call back with a `Patch` after every edit, undo and redo, on the thread that made it.

        Returns a function that ends it.
        """
        self._subscribers.append(callback)
        return lambda: self._subscribers.remove(callback) if callback in self._subscribers else None

    # --- checking and using ------------------------------------------------------------------------------------------

    def validate(self) -> list[Problem]:
        """What may be wrong: names that are nearly the same, labels that no node or more than one has, empty leaves,
        and nodes with a single child. Labels and cells are known after `count_cells` or `from_obs`."""
        with self._lock:
            return find_problems(self, self.counted_labels())

    def diff(self, other: Hierarchy | None = None) -> pd.DataFrame:
        """What differs in this tree from another, or from itself before all edits.

        Returns
        -------
        One row per difference: `node` (its name here, or there if it is gone), `change` (added, removed, renamed,
        moved, aliases), `before` and `after` (names of it, of its parent, or of its aliases).
        """
        with self._lock:
            if other is None:
                other = self.copy()
                for step in (step for edit in reversed(self._done) for step in edit.inverse):
                    other._table.perform(step)
                return compare(other, self, {node.id: node.id for node in self})
            return compare(other, self, same_types(other, self))

    def count_cells(self, adata: AnnData, key: str, batch_key: str | None = None):
        """Count the cells of each label of `obs[key]`, in all or by batch, for `counts`, `validate` and `flat`.

        Batches are looked up as data sets of aliases. Counting is no edit; it replaces earlier counts.
        """
        self._cells = _counted(_labels(adata.obs, key), _labels(adata.obs, batch_key) if batch_key else None)

    def counted_labels(self) -> pd.DataFrame:
        """What `count_cells` found: `label`, `dataset` (None if not by batch), `n_cells`, and the id of the `node` that
        the label means, None if there is none."""
        nodes = [self.find(row.label, row.dataset) for row in self._cells.itertuples()]
        return self._cells.assign(node=pd.Series([node and node.id for node in nodes], dtype=object))

    def counts(self, below: bool = False) -> pd.DataFrame:
        """Cells per node and batch, of the node's own labels or with those of all nodes below it.

        Returns
        -------
        Nodes, in order, × batches (one column "cells" if none were given); whole numbers.
        """
        cells = self.counted_labels()
        cells["dataset"] = [dataset or "cells" for dataset in cells["dataset"]]
        batches = sorted(set(cells["dataset"])) or ["cells"]
        nodes = list(self)
        row_of = {node.id: row for row, node in enumerate(nodes)}
        table = np.zeros((len(nodes), len(batches)), dtype=int)
        for label in cells.dropna(subset="node").itertuples():
            table[row_of[label.node], batches.index(label.dataset)] += label.n_cells
        if below:
            for row, node in reversed(list(enumerate(nodes))[1:]):
                table[row_of[node.parent.id]] += table[row]
        return pd.DataFrame(table, index=pd.Index([node.name for node in nodes], name="node"), columns=batches)

    def apply(self, adata: AnnData, key: str, level: int | None = None, *, dataset: str | None = None) -> pd.Series:
        """Translate labels into names of this tree, at a chosen depth.

        Parameters
        ----------
        adata, key
            The labels are `adata.obs[key]`. Nothing is written; assign the result where you want it.
        level
            1 for the nodes below the root, 2 for their children, and so on; nodes above it stay. Default: each label's
            own node.
        dataset
            Whose labels they are, where a label means different nodes in different data sets.

        Returns
        -------
        Categorical, in the order of the tree; missing where a label is missing.

        Raises
        ------
        DataError
            A label is not in the tree, or means several nodes.
        """
        if level is not None and level < 0:
            raise ValueError(f"level counts from 0, the root, not {level!r}.")
        labels = _labels(adata.obs, key)
        targets = {}
        for label in labels.dropna().unique():
            node = self._node(label, dataset)
            path = node.path()
            targets[label] = path[len(path) - 1 if level is None else min(level, len(path) - 1)]
        used = set(targets.values())
        names = pd.CategoricalDtype([node.name for node in self if node in used])
        return labels.map({label: node.name for label, node in targets.items()}).astype(names)

    # --- parts -------------------------------------------------------------------------------------------------------

    def _node(self, node: str | Node, dataset: str | None = None) -> Node:
        if isinstance(node, Node):
            if node.id not in self._table.by_id:
                raise DataError(f"'{shown(node.name)}' is not, or no longer, in this tree.")
            return self._table.by_id[node.id]
        if not isinstance(node, str):
            raise TypeError(f"A node is named by a string or is a Node, not {node!r}.")
        if dataset is None and node in self._table.by_name:
            return self._table.by_name[node]
        if (found := self.find(node, dataset)) is None:
            several = [n.name for n in self.called(node)]
            raise DataError(
                f"'{shown(node)}' is not in the tree.{did_you_mean(node, self._table.by_name)}"
                if len(several) < 2 or dataset is not None
                else f"'{shown(node)}' means {listed(several)} in different data sets. Name the node, or the data set."
            )
        return found

    def _not_root(self, node: Node, done: str) -> Node:
        if node.is_root:
            raise DataError(f"'{shown(node.name)}' is the root, which cannot be {done}.")
        return node

    def _several(self, nodes: str | Node | Iterable[str | Node], done: str) -> list[Node]:
        """One node or several, each once, without the root."""
        nodes = [nodes] if isinstance(nodes, str | Node) else nodes
        found = list(dict.fromkeys(self._not_root(self._node(node), done) for node in nodes))
        if not found:
            raise DataError(f"No node was named, so none can be {done}.")
        return found

    def _apart(self, nodes: Iterable[str | Node]) -> list[Node]:
        """The nodes, none of which is below another, nor the root."""
        nodes = list(dict.fromkeys(self._not_root(self._node(node), "grouped") for node in nodes))
        if not nodes:
            raise DataError("A group takes one node or more.")
        for node in nodes:
            if above := next((other for other in nodes if node.is_below(other)), None):
                raise DataError(
                    f"'{shown(node.name)}' is below '{shown(above.name)}', so it goes with it. Leave it out."
                )
        return nodes

    def _free_name(self, name: str, allowed: Node | None = None) -> str:
        """The name, if no other node has it, as its name or as an alias in any data set."""
        owners = [self._table.by_name.get(_checked_name(name)), self._table.by_alias.get((None, name))]
        if owner := next((node for node in owners if node is not None and node is not allowed), None):
            raise DataError(
                f"'{shown(name)}' is in the tree already, {_place_of(owner)}. Choose another name, or merge the two."
            )
        return name

    def _checked_aliases(self, aliases: Iterable[Alias]) -> tuple[Alias, ...]:
        aliases = tuple(aliases)
        for alias in aliases:
            _checked_name(alias.name)
            owner = self._table.by_alias.get((alias.dataset, alias.name))
            if alias.dataset is None:
                owner = owner or self._table.by_name.get(alias.name)
            if owner is not None:
                of = f" of '{shown(alias.dataset)}'" if alias.dataset is not None else ""
                raise DataError(
                    f"The label '{shown(alias.name)}'{of} is in the tree already, {_place_of(owner)}. Drop it there "
                    "first, or merge the two nodes."
                )
        if len({(alias.dataset, alias.name) for alias in aliases}) < len(aliases):
            raise DataError(f"An alias stands twice in {listed([alias.name for alias in aliases], 10)}.")
        return aliases

    def _insert(self, name: str, parent: Node, position: int | None, aliases: tuple[Alias, ...]) -> Node:
        id, end = self._table.next_id, len(parent.children)
        self._perform(("insert", id, parent.id, end if position is None else _within(position, end), name, aliases))
        return self.node(id)

    def _place(self, node: Node, parent: Node, position: int | None = None):
        end = len(parent.children) - (node.parent is parent)
        position = end if position is None else _within(position, end)
        if node.parent is not parent or node.position != position:
            self._perform(("place", node.id, parent.id, position))

    def _perform(self, step: Step):
        inverse = self._table.perform(step)
        if self._recording is not None:
            self._recording[0].append(step)
            self._recording[1].insert(0, inverse)

    @contextmanager
    def _editing(self, name: str, arguments: dict[str, object]):
        with self._lock:
            if self._recording is not None:  # within another command, whose part this is
                yield
                return
            self._recording = steps, inverse = [], []
            try:
                yield
            except BaseException:
                for step in inverse:
                    self._table.perform(step)
                raise
            finally:
                self._recording = None
            if steps:
                self._done.append(Edit(name, arguments, tuple(steps), tuple(inverse)))
                self._undone.clear()
                self._publish(tuple(steps))

    def _travel(self, from_: list[Edit], to: list[Edit], direction: str) -> Edit | None:
        with self._lock:
            if not from_:
                return None
            to.append(edit := from_.pop())
            steps = getattr(edit, direction)
            for step in steps:
                self._table.perform(step)
            self._publish(steps)
            return edit

    def _publish(self, steps: tuple[Step, ...]):
        self.version += 1
        for callback in list(self._subscribers):
            callback(Patch(self.version - 1, self.version, steps))

    def _own_cells(self) -> dict[int, int]:
        """Cells of each node's own labels, by ids."""
        found = Counter()
        for row in self.counted_labels().dropna(subset="node").itertuples():
            found[row.node] += row.n_cells
        return found


def _checked_name(name: str) -> str:
    if not isinstance(name, str) or not name.strip():
        raise DataError(f"A node's name is text with at least one character that is not blank, not {name!r}.")
    if name in REJECTIONS:
        raise DataError(f"'{name}' is what predictions call a cell of no known type. Choose another name.")
    return name


def unused(name: str, names: Iterable[str]) -> str:
    """The name, with a number behind it if it is among `names`."""
    names = set(names)
    return next(free for i in range(len(names) + 1) if (free := f"{name} {i + 1}" if i else name) not in names)


def _place_of(node: Node) -> str:
    return f"as '{shown(node.name)}'" + ("" if node.is_root else f" below '{shown(node.parent.name)}'")


def _by_name(value: object) -> object:
    """An argument as a line of code shows it: nodes by their names."""
    if isinstance(value, list):
        return [_by_name(part) for part in value]
    return value.name if isinstance(value, Node) else value


def _within(position: int, end: int) -> int:
    return min(max(int(position), 0), end)


def _id(tree: Hierarchy, name: str | None) -> int:
    return tree.root.id if name is None else tree._node(name).id


def _n_children(tree: Hierarchy, name: str | None) -> int:
    return len((tree.root if name is None else tree._node(name)).children)


def _labels(obs: pd.DataFrame, key: str) -> pd.Series:
    """A column of labels as strings, missing where it is."""
    if key not in obs:
        raise DataError(f"obs has no column '{key}'.{did_you_mean(key, obs)} It has: {listed(obs, 10) or 'none'}.")
    column = obs[key].astype(object)
    return column.where(column.isna(), column.astype(str))


def _counted(labels: pd.Series, batches: pd.Series | None) -> pd.DataFrame:
    datasets = [None] * len(labels) if batches is None else batches.where(batches.notna(), None).tolist()
    found = Counter((label, dataset) for label, dataset in zip(labels, datasets) if isinstance(label, str))
    return _as_table([[*pair, found[pair]] for pair in sorted(found, key=lambda pair: (pair[0], pair[1] or ""))])


def _as_table(cells: list[list]) -> pd.DataFrame:
    """Rows of label, data set (or None) and number of cells."""
    if not cells:
        return NO_CELLS
    return pd.DataFrame({name: pd.Series(part, dtype=dtype) for (name, dtype), part in zip(CELLS.items(), zip(*cells))})
