"""The static picture of a review: what is kept of each type, and the labels beside another column."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..data.names import shown
from ..mapping.pictures import COLOURS, NO_VALUE, figure, picture_bytes
from ..mapping.review import Review

BARS = 25
SIDE = 25  # rows and columns of the heat map


def review_picture(review: Review, confusion: dict[str, Any], format: str) -> bytes:
    """As "png" or "svg"; `confusion` is what the view sends to its page."""
    table = review.table.head(BARS)
    height = 1.4 + 0.26 * max(6, len(table), min(SIDE, len(confusion.get("rows", ()))))
    drawn, axes = figure((11 if confusion else 6, height), 2 if confusion else 1)
    _draw_bars(axes[0], table, review)
    if confusion:
        _draw_crossing(axes[1], confusion)
    return picture_bytes(drawn, format)


def _draw_bars(axis, table, review: Review) -> None:
    places, kept = np.arange(len(table)), (table["cells"] - table["unknown"]).to_numpy()
    axis.barh(places, kept, color=COLOURS[0], label="labelled")
    axis.barh(
        places,
        table["unknown"],
        left=kept,
        color=NO_VALUE,
        label=f"{_cut(review.unknown)} (above {review.rule.threshold:g})",
    )
    for place, (n, share) in enumerate(zip(table["cells"], table["share"])):
        axis.annotate(f"{share:.0%}", (n, place), (3, 0), textcoords="offset points", va="center", fontsize=7)
    axis.set_yticks(places, [_cut(label) for label in table.index], fontsize=8)
    axis.set(ylim=(max(len(table), 4) - 0.4, -0.6), xlabel="cells, by predicted type")
    axis.margins(x=0.1)
    axis.legend(frameon=False, fontsize=8, loc="lower left", bbox_to_anchor=(0, 1), ncols=2)


def _draw_crossing(axis, confusion: dict[str, Any]) -> None:
    counts = np.array(confusion["counts"])[:SIDE, :SIDE]
    shares = counts / np.maximum(np.array(confusion["sums"])[:SIDE, None], 1)
    rows, columns = (confusion[name][:SIDE] for name in ("rows", "columns"))
    image = axis.imshow(shares, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    axis.set_xticks(
        range(len(columns)), [_cut(name or "no value") for name in columns], rotation=45, ha="right", fontsize=8
    )
    axis.set_yticks(range(len(rows)), [_cut(name) for name in rows], fontsize=8)
    axis.set(ylabel="label now", xlabel=_cut(confusion["column"]))
    axis.spines[["left", "bottom"]].set_visible(False)
    axis.figure.colorbar(image, ax=axis, label="share of the row", shrink=0.8)


def _cut(name: str, longest: int = 28) -> str:
    text = shown(name).replace("$", r"\$")  # which matplotlib reads as mathematics
    return text if len(text) <= longest else f"{text[: longest - 1]}…"
