"""The static picture of a tree of cell types."""

from __future__ import annotations

from ...data.names import shown
from ..pictures import COLOURS, figure, picture_bytes
from .nodes import Node
from .tree import Hierarchy

MOST_LEAVES = 60
LONGEST = 32  # characters of a name with its synonyms
ROW, COLUMN = 0.21, 2.3  # inches


def tree_picture(tree: Hierarchy, format: str) -> bytes:
    """As "png" or "svg": from left to right, as deep as 60 rows allow; what is not drawn is counted.

    Behind each name are its synonyms and, if cells were counted, the cells of the node and of all below it.
    """
    shown_nodes = _fitting(tree)
    n_cells = tree.counts(below=True).sum(axis=1)
    rows: dict[int, float] = {}
    leaves = 0
    for node in reversed(shown_nodes):  # children first
        below = [rows[child.id] for child in node.children if child.id in rows]
        if below:
            rows[node.id] = (below[0] + below[-1]) / 2
        else:
            rows[node.id] = float(leaves)
            leaves += 1
    depth = max(node.depth for node in shown_nodes)
    drawn, (axis,) = figure((COLUMN * (depth + 1) + 0.8, max(1.2, ROW * leaves + 0.4)))
    axis.set_axis_off()
    for node in shown_nodes:
        y, hidden = rows[node.id], len(list(node.walk())) - 1 if not _has_drawn(node, rows) else 0
        axis.plot([node.depth, node.depth + 0.06], [y, y], color=COLOURS[0], linewidth=1.2)
        if _has_drawn(node, rows):
            below = [rows[child.id] for child in node.children if child.id in rows]
            axis.plot([node.depth + 0.98] * 2, [min(below), max(below)], color="#8a8a93", linewidth=0.8)
            axis.plot([node.depth + 0.06, node.depth + 0.98], [y, y], color="#8a8a93", linewidth=0.8, zorder=0)
        if node.parent is not None:
            axis.plot([node.depth - 0.02, node.depth], [y, y], color="#8a8a93", linewidth=0.8)
        text = _cut(" = ".join([node.name, *([", ".join(node.names[1:])] if node.names[1:] else [])]))
        text += f"  {n_cells[node.name]:,}" if n_cells[node.name] else ""
        text += f"  (+{hidden:,} nodes)" if hidden else ""
        axis.text(node.depth + 0.1, y, text, fontsize=7.5, va="center", backgroundcolor="white")
    axis.set(xlim=(-0.1, depth + 1.2), ylim=(-0.8, leaves - 0.2))
    return picture_bytes(drawn, format, most_colours=64)


def _fitting(tree: Hierarchy) -> list[Node]:
    """The nodes to the greatest depth at which no more than `MOST_LEAVES` rows are needed."""
    nodes, below = [tree.root], list(tree.root.children)
    n_rows = 1
    while below:
        grown = n_rows + sum(len(node.children) - 1 for node in {one.parent for one in below} if node.children)
        if grown > MOST_LEAVES and len(nodes) > 1:
            break
        nodes += below[:MOST_LEAVES]
        n_rows, below = grown, [child for node in below for child in node.children]
    drawn = {node.id for node in nodes}
    return [node for node in tree if node.id in drawn]


def _has_drawn(node: Node, rows: dict[int, float]) -> bool:
    return any(child.id in rows for child in node.children)


def _cut(name: str) -> str:
    name = shown(name)
    return (name if len(name) <= LONGEST else f"{name[: LONGEST - 1]}…").replace("$", r"\$")
