"""What may be wrong with a tree, and how two trees differ."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pandas as pd

from ...data.names import shown
from .nodes import Node

if TYPE_CHECKING:
    from .tree import Hierarchy


@dataclass(frozen=True)
class Problem:
    """Something to look at; a tree with problems still works."""

    kind: str  # near-duplicate, label-not-in-tree, ambiguous-label, empty-leaf or single-child
    nodes: tuple[int, ...]  # ids of the nodes that it is about
    message: str  # a sentence, with what may be done
    label: str | None = None  # the label that it is about, if it is not of a node


def find_problems(tree: Hierarchy, cells: pd.DataFrame) -> list[Problem]:
    """Problems of a tree whose `counted_labels` are `cells`."""
    return [*_near_duplicates(tree), *_labels_without_node(tree, cells), *_odd_shapes(tree, cells)]


def _near_duplicates(tree: Hierarchy) -> Iterator[Problem]:
    spelt: dict[str, dict[str, list[Node]]] = {}  # by plain form, then as it is spelt
    for node in tree:
        for name in node.names:
            spelt.setdefault(_plain(name), {}).setdefault(name, []).append(node)
    # a label that is spelt alike and means two nodes was told apart by data sets
    groups = [
        {node.id: node for nodes in names.values() for node in nodes} for names in spelt.values() if len(names) > 1
    ]
    for ids, nodes in {tuple(nodes): nodes for nodes in groups if len(nodes) > 1}.items():
        what = f"{_quoted(nodes.values())} may be the same type"
        yield Problem("near-duplicate", ids, f"{what}: merge them, or rename one to tell them apart.")


def _labels_without_node(tree: Hierarchy, cells: pd.DataFrame) -> Iterator[Problem]:
    for label, rows in cells[cells["node"].isna()].groupby("label", sort=False):
        batches = [shown(dataset) for dataset in rows["dataset"] if dataset is not None]
        what = f"The label '{shown(label)}' ({rows['n_cells'].sum():,} cells"
        what += f" of {', '.join(batches)})" if batches else ")"
        owners = tree.called(label)
        if len(owners) > 1 and not batches:
            mend = "count cells by batch, or drop an alias."
            ids = tuple(node.id for node in owners)
            message = f"{what} means {_quoted(owners)} in different data sets: {mend}"
            yield Problem("ambiguous-label", ids, message, label)
        else:
            yield Problem("label-not-in-tree", (), f"{what} is not in the tree: add a node, or an alias.", label)


def _odd_shapes(tree: Hierarchy, cells: pd.DataFrame) -> Iterator[Problem]:
    has_cells = set(cells["node"])
    for node in tree:
        if len(cells) and node.is_leaf and node.id not in has_cells:
            yield Problem("empty-leaf", (node.id,), f"'{shown(node.name)}' has no cells: remove it, or add an alias.")
        if len(node.children) == 1 and not node.is_root:
            (child,) = node.children
            what = f"'{shown(node.name)}' has one child, '{shown(child.name)}'"
            yield Problem("single-child", (node.id, child.id), f"{what}: add the others, or merge the two.")


def _quoted(nodes: Iterable[Node]) -> str:
    return " and ".join(f"'{shown(node.name)}'" for node in nodes)


def _plain(name: str) -> str:
    """A name as people who spell it differently share it: without case, accents, blanks, punctuation and a plural's s.

    + and a − at the end of a word stay, since CD4+, CD4− and CD4 are different cells.
    """
    text = unicodedata.normalize("NFKD", name).casefold().replace("−", "-")
    words = [re.sub(r"[^\w+]|_", "", word) + "-" * word.endswith("-") for word in text.split()]
    return "".join(word[:-1] if len(word) > 3 and word.endswith("s") else word for word in words)


def same_types(before: Hierarchy, after: Hierarchy) -> dict[int, int]:
    """Ids of the nodes of `after` with those of `before` that are the same by name, or else by an alias."""
    same = {node.id: other.id for node in after if (other := before.named(node.name)) is not None}
    same.setdefault(after.root.id, before.root.id)
    taken = set(same.values())
    for node in after:
        others = [other for name in node.names if (other := before.find(name)) is not None and other.id not in taken]
        if node.id not in same and others:
            same[node.id] = others[0].id
            taken.add(others[0].id)
    return same


def compare(before: Hierarchy, after: Hierarchy, same: dict[int, int]) -> pd.DataFrame:
    """One row per difference; `same` says which node of `before` a node of `after` was, by ids."""
    old = {node.id: node for node in before}
    rows, kept = [], set()
    for node in after:
        was = old.get(same.get(node.id))
        if was is None:
            rows.append((node.name, "added", "", _parent(node)))
            continue
        kept.add(was.id)
        if was.name != node.name:
            rows.append((node.name, "renamed", was.name, node.name))
        if (was.parent and was.parent.id) != (node.parent and same.get(node.parent.id)):
            rows.append((node.name, "moved", _parent(was), _parent(node)))
        if set(was.aliases) != set(node.aliases):
            rows.append((node.name, "aliases", _aliases(was), _aliases(node)))
    rows += [(node.name, "removed", _parent(node), "") for node in before if node.id not in kept]
    return pd.DataFrame(rows, columns=["node", "change", "before", "after"])


def _aliases(node: Node) -> str:
    """Each alias with the data sets that have it: "Th (donor1, donor2), helper"."""
    datasets: dict[str, list[str]] = {}
    for alias in node.aliases:
        datasets.setdefault(alias.name, []).extend([] if alias.dataset is None else [alias.dataset])
    return ", ".join(f"{name} ({', '.join(of)})" if of else name for name, of in datasets.items())


def _parent(node: Node) -> str:
    return node.parent.name if node.parent else ""
