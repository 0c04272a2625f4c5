"""The static picture of gene programs: the first ones as bars, and the cells."""

from __future__ import annotations

import re

import numpy as np
import pandas as pd

from ..data.names import shown
from ..mapping.pictures import COLOURS, draw_groups, draw_numbers, figure, picture_bytes
from .coloring import Coloring

BARS = 15
LONGEST = 44  # characters of a name beside a bar


def program_picture(
    table: pd.DataFrame,
    title: str,
    position: np.ndarray | None,
    axes: dict[str, str],
    coloring: Coloring,
    selected: np.ndarray,
    format: str,
) -> bytes:
    """As "png" or "svg".

    Parameters
    ----------
    table
        Programs, those first that are to be drawn, by `bayes_factor` if there is such a column, else by `activity`.
    title
        What is compared.
    position, axes
        Where cells lie, (cells, 2), and `x` and `y` in words; None: nowhere yet.
    coloring, selected
        Their colours, and which are selected, bool (cells,).
    """
    drawn, (left, right) = figure((11, 4.4), 2)
    _draw_bars(left, table.head(BARS), title)
    if position is None:
        right.set_axis_off()
        return picture_bytes(drawn, format, most_colours=256)
    if coloring.kind == "numbers":
        draw_numbers(right, position, coloring.values, "", selected)
        right.set_title(_in_lines(coloring.label), fontsize=10)
    else:
        codes = coloring.values if coloring.kind == "categories" else np.zeros(len(position), dtype=np.uint8)
        draw_groups(right, position, codes, coloring.names or ("cells",), coloring.colours, selected)
    right.set(xlabel=_in_lines(axes["x"]), ylabel=_in_lines(axes["y"]))
    return picture_bytes(drawn, format, most_colours=256)


def _draw_bars(axis, table: pd.DataFrame, title: str) -> None:
    if not len(table):
        axis.text(0.5, 0.5, "no programs listed", ha="center", transform=axis.transAxes)
        axis.set_axis_off()
        return
    is_contrast = "bayes_factor" in table
    values = table["bayes_factor" if is_contrast else "activity"].to_numpy()
    places = np.arange(len(table))
    axis.barh(places, values, color=np.where(values < 0, COLOURS[1], COLOURS[0]))
    axis.set_yticks(places, [_cut(term) for term in table["term"]], fontsize=7)
    axis.set(ylim=(max(len(table), 6) - 0.4, -0.6))
    axis.set_xlabel("Bayes factor" if is_contrast else "standard deviation of the activity")
    axis.set_title(_in_lines(title), fontsize=10)


def _literal(text: str) -> str:
    return text.replace("$", r"\$")  # which matplotlib reads as mathematics


def _cut(name: str) -> str:
    name = shown(name)
    return _literal(name if len(name) <= LONGEST else f"{name[: LONGEST - 1]}…")


def _in_lines(text: str, width: int = 40) -> str:
    """A long name in lines, broken after underscores and blanks."""
    lines = [""]
    for piece in re.findall(r"[^_ ]*[_ ]?", " ".join(text.split())):
        if len(lines[-1]) + len(piece) > width:
            lines.append("")
        lines[-1] += piece
    return _literal("\n".join(lines))
