"""What may be wrong with a tree, and how two trees differ."""

from __future__ import annotations

import re
import unicodedata
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


def find_problems(tree: Hierarchy, cells: pd.DataFrame, own_cells: dict[int, int]) -> list[Problem]:
    problems = []
    plain: dict[str, list[Node]] = {}
    for node in tree:
        for form in dict.fromkeys(_plain(name) for name in node.names):
            plain.setdefault(form, []).append(node)
    seen = set()
    for nodes in plain.values():
        ids = tuple(node.id for node in nodes)
        if len(nodes) > 1 and ids not in seen:
            seen.add(ids)
            names = " and ".join(f"'{shown(node.name)}'" for node in nodes)
            problems.append(
                Problem(
                    "near-duplicate",
                    ids,
                    f"{names} may be the same type: merge them, or rename one to tell them apart.",
                )
            )
    for label, rows in cells.groupby("label", sort=False):
        lost = [row for row in rows.itertuples() if tree.find(label, row.dataset) is None]
        if not lost:
            continue
        n_cells = sum(row.n_cells for row in lost)
        batches = [shown(row.dataset) for row in lost if row.dataset is not None]
        of = f" of {', '.join(batches)}" if batches else ""
        owners = tree._table.by_label.get(label, {})
        if len(owners) > 1 and not batches:
            names = " and ".join(f"'{shown(node.name)}'" for node in owners.values())
            problems.append(
                Problem(
                    "ambiguous-label",
                    tuple(owners),
                    f"The label '{shown(label)}' ({n_cells:,} cells) means {names} in different data sets: count cells "
                    "by batch, or drop an alias.",
                )
            )
        else:
            problems.append(
                Problem(
                    "label-not-in-tree",
                    (),
                    f"The label '{shown(label)}' ({n_cells:,} cells{of}) is not in the tree: add a node, or an alias.",
                )
            )
    counted = len(cells) > 0
    for node in tree:
        if counted and node.is_leaf and not own_cells.get(node.id):
            problems.append(
                Problem("empty-leaf", (node.id,), f"'{shown(node.name)}' has no cells: remove it, or add an alias.")
            )
        if len(node.children) == 1 and not node.is_root:
            child = node.children[0]
            problems.append(
                Problem(
                    "single-child",
                    (node.id, child.id),
                    f"'{shown(node.name)}' has one child, '{shown(child.name)}': add the others, or merge the two.",
                )
            )
    return problems


def _plain(name: str) -> str:
    """A name as people who spell it differently share it: without case, accents, blanks, punctuation and a plural's s.

    + and a − at the end of a word stay, since CD4+, CD4− and CD4 are different cells.
    """
    text = unicodedata.normalize("NFKD", name).casefold().replace("−", "-")
    words = [re.sub(r"[^\w+]|_", "", word) + "-" * word.endswith("-") for word in text.split()]
    return "".join(word[:-1] if len(word) > 3 and word.endswith("s") else word for word in words)


def same_types(before: Hierarchy, after: Hierarchy) -> dict[int, int]:
    """Ids of the nodes of `after` with those of `before` that are the same by name, or else by an alias."""
    same = {node.id: other.id for node in after if (other := before._table.by_name.get(node.name)) is not None}
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
            rows.append(
                (node.name, "aliases", *(", ".join(dict.fromkeys(a.name for a in n.aliases)) for n in (was, node)))
            )
    rows += [(node.name, "removed", _parent(node), "") for node in before if node.id not in kept]
    return pd.DataFrame(rows, columns=["node", "change", "before", "after"])


def _parent(node: Node) -> str:
    return node.parent.name if node.parent else ""
