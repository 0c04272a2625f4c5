"""The static picture of a tree of cell types."""

from __future__ import annotations

import html
from typing import NamedTuple

from ...data.names import shown
from ..pictures import figure, picture_bytes
from .nodes import Node
from .tree import Hierarchy

MOST_LEAVES = 60
LONGEST = 32  # characters of a name with its synonyms
ROW, COLUMN = 20, 215  # pixels
LINES = "#8a8a93"


class Drawing(NamedTuple):
    """Straight lines and texts on them, in pixels from the upper left corner."""

    width: int
    height: int
    lines: list[tuple[tuple[float, float], tuple[float, float]]]
    texts: list[tuple[float, float, str]]


def tree_picture(tree: Hierarchy, format: str) -> bytes:
    """As "png" or "svg": from left to right, as deep as 60 rows allow; what is not drawn is counted.

    Behind each name are its synonyms and, if cells were counted, the cells of the node and of all below it.
    """
    drawing = _drawing(tree)
    return _svg(drawing) if format == "svg" else _png(drawing)


def _drawing(tree: Hierarchy) -> Drawing:
    nodes = _fitting(tree)
    drawn = {node.id for node in nodes}
    n_cells = tree.counts(below=True).sum(axis=1)
    n_leaves = sum(drawn.isdisjoint(child.id for child in node.children) for node in nodes)
    middle: dict[int, float] = {}  # height of each node
    lines, texts, leaf = [], [], n_leaves
    for node in reversed(nodes):  # children first
        below = [middle[child.id] for child in node.children if child.id in middle]
        if below:
            middle[node.id] = (below[0] + below[-1]) / 2
        else:
            middle[node.id] = leaf * ROW
            leaf -= 1
        x, y = 8 + COLUMN * node.depth, middle[node.id]
        lines.append(((x, y), (x + COLUMN, y)))
        if below:
            lines.append(((x + COLUMN, min(below)), (x + COLUMN, max(below))))
        synonyms = ", ".join(node.names[1:])
        text = _cut(f"{node.name} = {synonyms}" if synonyms else node.name)
        text += f" · {n_cells[node.name]:,}" if n_cells[node.name] else ""
        n_hidden = sum(len(list(child.walk())) for child in node.children if child.id not in drawn)
        texts.append((x + 7, y - 4, text + (f"  (+{n_hidden:,} nodes)" if n_hidden else "")))
    width = COLUMN * (1 + max(node.depth for node in nodes)) + 16
    return Drawing(width, ROW * n_leaves + 14, lines, texts)


def _svg(drawing: Drawing) -> bytes:
    """Written here, since matplotlib takes a second to be imported, and a tree should be seen at once."""
    width, height, lines, texts = drawing
    path = "".join(f"M{x} {y}L{to_x} {to_y}" for (x, y), (to_x, to_y) in lines)
    words = "".join(f'<text x="{x}" y="{y}">{html.escape(text)}</text>' for x, y, text in texts)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        f'font-family="sans-serif" font-size="11"><rect width="100%" height="100%" fill="#fff"/>'
        f'<path d="{path}" fill="none" stroke="{LINES}"/>{words}</svg>'
    ).encode()


def _png(drawing: Drawing) -> bytes:
    from matplotlib.collections import LineCollection

    dpi = 100
    drawn, (axis,) = figure((drawing.width / dpi, drawing.height / dpi), dpi=dpi)
    drawn.set_layout_engine("none")  # it would draw all texts twice
    axis.set_position((0, 0, 1, 1))
    axis.set_axis_off()
    axis.add_collection(LineCollection(drawing.lines, colors=LINES, linewidths=0.8))
    for x, y, text in drawing.texts:
        axis.text(x, y, text.replace("$", r"\$"), fontsize=7.5)
    axis.set(xlim=(0, drawing.width), ylim=(drawing.height, 0))
    return picture_bytes(drawn, "png", most_colours=64)


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


def _cut(name: str) -> str:
    name = shown(name)
    return name if len(name) <= LONGEST else f"{name[: LONGEST - 1]}…"
