"""Trees as text and tables: Newick, JSON, edges, and flat arrays for a browser.

Newick keeps names and shape; JSON keeps everything but the history of edits.
"""

from __future__ import annotations

import json
import re
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from ...data.names import DataError, shown
from ...data.strict_json import parse_json
from .nodes import Alias, Node

if TYPE_CHECKING:
    from networkx import DiGraph

FORMAT = {"format": "scarches_widgets.hierarchy", "format_version": 1}
TOKEN = re.compile(r"\[[^\]]*\]|'(?:[^']|'')*'|[(),;:]|[^(),;:'\[\]]+")


@dataclass(frozen=True)
class FlatTree:
    """A tree as columns, one row per node, every node before its children and siblings in their order."""

    version: int  # of the tree; a `Patch` whose `base` it is goes on from here
    ids: np.ndarray  # int32
    parents: np.ndarray  # int32, ids; -1 for the root, which is the first row
    depths: np.ndarray  # int32, 0 for the root
    names: list[str]
    aliases: list[list[dict]]  # of each node its synonyms, as `Alias` has them
    n_cells: np.ndarray  # int32, cells of the node's own labels; 0 if none were counted
    n_cells_below: np.ndarray  # int32, those of the node and of all below it

    def to_json(self) -> dict:
        """The same with lists for arrays."""
        return {name: part.tolist() if isinstance(part, np.ndarray) else part for name, part in vars(self).items()}


def flatten(root: Node, version: int, own_cells: dict[int, int]) -> FlatTree:
    nodes, depths = [], {root.id: 0}
    for node in root.walk():
        nodes.append(node)
        if node.parent is not None:
            depths[node.id] = depths[node.parent.id] + 1
    below = {node.id: own_cells.get(node.id, 0) for node in nodes}
    for node in reversed(nodes[1:]):
        below[node.parent.id] += below[node.id]
    return FlatTree(
        version,
        np.array([node.id for node in nodes], np.int32),
        np.array([-1 if node.parent is None else node.parent.id for node in nodes], np.int32),
        np.array([depths[node.id] for node in nodes], np.int32),
        [node.name for node in nodes],
        [[asdict(alias) for alias in node.aliases] for node in nodes],
        np.array([own_cells.get(node.id, 0) for node in nodes], np.int32),
        np.array([below[node.id] for node in nodes], np.int32),
    )


def to_newick(root: Node) -> str:
    """One line, all names in quotes."""
    pieces, ahead = [], [root]
    while ahead:
        part = ahead.pop()
        if isinstance(part, str):
            pieces.append(part)
            continue
        name = "'" + part.name.replace("'", "''") + "'"
        if part.is_leaf:
            pieces.append(name)
            continue
        ahead.append(")" + name)
        for child in reversed(part.children):
            ahead += [child, ","]
        ahead[-1] = "("  # before the first child
    return "".join(pieces) + ";"


def parse_newick(text: str) -> list[tuple[int, str | None]]:
    """Rows (the parent's row, name) of one tree, parents first; -1 for the root, None for a node without a name.

    Lengths of branches and [comments] are passed over; within quotes, '' is a quote.
    """
    rows: list[list] = [[-1, None]]
    here = 0
    after_colon = ended = False
    position = 0
    while position < len(text):
        match = TOKEN.match(text, position)
        if match is None:
            raise _newick_error(text, position, "a quote or bracket is not closed here")
        token, start, position = match.group(), position, match.end()
        if token.startswith("[") or not token.strip():
            continue
        if ended:
            raise _newick_error(text, start, "more text follows the first tree")
        if token == "(":
            if rows[here][1] is not None or here != len(rows) - 1:
                raise _newick_error(text, start, "a '(' cannot stand here; a comma is missing before it")
            rows.append([here, None])
            here = len(rows) - 1
        elif token in ",)":
            after_colon = False
            parent = rows[here][0]
            if parent < 0:
                raise _newick_error(text, start, f"there is no '(' to this '{token}'")
            if token == ",":
                rows.append([parent, None])
                here = len(rows) - 1
            else:
                here = parent
        elif token == ":":
            after_colon = True
        elif token == ";":
            ended = True
        elif not after_colon:
            if rows[here][1] is not None:
                raise _newick_error(text, start, "a second name stands here; a comma is missing before it")
            rows[here][1] = token[1:-1].replace("''", "'") if token.startswith("'") else token.strip()
    if here != 0:
        raise _newick_error(text, len(text), "a ')' is missing")
    return [tuple(row) for row in rows]


def _newick_error(text: str, position: int, what: str) -> DataError:
    around = shown(text[max(0, position - 20) : position + 20])
    return DataError(
        f"This is no Newick tree: at character {position + 1} (… {around} …) {what}. A tree reads "
        "('CD4 T','CD8 T')'T cell'; with names in quotes, and a quote within a name doubled."
    )


def to_json(root: Node, cells: pd.DataFrame) -> str:
    nodes = [
        {
            "id": node.id,
            "parent": None if node.parent is None else node.parent.id,
            "name": node.name,
            "aliases": [asdict(alias) for alias in node.aliases],
        }
        for node in root.walk()
    ]
    return json.dumps(
        {**FORMAT, "nodes": nodes, "cells": [list(row) for row in cells.itertuples(index=False)]},
        ensure_ascii=False,
        indent=1,
    )


def parse_json_tree(text: str) -> tuple[list[dict], list[list]]:
    """The nodes, with their aliases as `Alias`, parents first, and the counted cells."""
    try:
        found = parse_json(text.encode())
        if any(found.get(key) != value for key, value in FORMAT.items()):
            raise ValueError(f"it does not say {json.dumps(FORMAT)[1:-1]}")
        nodes = [
            {
                "id": int(row["id"]),
                "parent": None if row["parent"] is None else int(row["parent"]),
                "name": row["name"],
                "aliases": tuple(_alias(**alias) for alias in row["aliases"]),
            }
            for row in found["nodes"]
        ]
        cells = [
            [str(label), None if dataset is None else str(dataset), int(n)] for label, dataset, n in found["cells"]
        ]
    except (ValueError, TypeError, KeyError) as error:
        raise DataError(f"This is no tree that `to_json` wrote: {error}.") from error
    return nodes, cells


def _alias(name: str, dataset: str | None, match: str | None, share_of_label, share_of_node) -> Alias:
    text = [None if part is None else str(part) for part in (name, dataset, match)]
    return Alias(*text, *(None if share is None else float(share) for share in (share_of_label, share_of_node)))


def to_edges(root: Node) -> pd.DataFrame:
    rows = [(node.parent.name, node.name) for node in root.walk() if node.parent is not None]
    return pd.DataFrame(rows, columns=["parent", "child"])


def to_networkx(root: Node) -> DiGraph:
    import networkx

    graph = networkx.DiGraph()
    for node in root.walk():
        graph.add_node(node.name, aliases=[alias.name for alias in node.aliases])
        if node.parent is not None:
            graph.add_edge(node.parent.name, node.name)
    return graph


def order_edges(edges: pd.DataFrame) -> list[tuple[str | None, str]]:
    """(parent, child) pairs with parents first, the root's parent None, from rows in any order."""
    pairs = [(str(parent), str(child)) for parent, child in edges.itertuples(index=False)]
    children: dict[str, list[str]] = {}
    parent_of: dict[str, str] = {}
    for parent, child in pairs:
        if child in parent_of:
            raise DataError(
                f"'{shown(child)}' has two parents ('{shown(parent_of[child])}' and '{shown(parent)}'). In a tree each "
                "node has one: drop a row, or give the two children different names."
            )
        parent_of[child] = parent
        children.setdefault(parent, []).append(child)
    roots = [name for name in children if name not in parent_of]
    if len(roots) != 1:
        found = ", ".join(f"'{shown(name)}'" for name in roots[:3]) or "none, since the rows go round in a circle"
        raise DataError(f"The edges must have one root, a parent that is no child; found: {found}.")
    ordered, ahead = [(None, roots[0])], [roots[0]]
    while ahead:
        parent = ahead.pop()
        ordered += [(parent, child) for child in children.get(parent, [])]
        ahead += children.get(parent, [])
    if len(ordered) != len(pairs) + 1:
        raise DataError("Some of the edges go round in a circle, apart from the root. Check the parents.")
    return ordered
