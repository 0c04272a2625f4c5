"""What a suite leaves for readers without a kernel: a page that opens offline, and a picture of its steps."""

from __future__ import annotations

import html
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING

from ..mapping.pictures import COLOURS, figure, picture_bytes
from ..mapping.report import offline_page
from .suite_data import ROLES
from .suite_steps import STEPS

if TYPE_CHECKING:
    from .suite import Suite

SECTIONS = {  # name of a widget -> heading
    "training": "Training",
    "mapping": "Mapping",
    "cells": "Cells",
    "review": "Review of labels",
    "tree": "Tree of cell types",
    "tissue": "Tissue",
    "programs": "Gene programs",
}
PACKAGES = ("scarches-widgets", "torch", "numpy", "scipy", "pandas", "anndata", "scikit-learn", "ipywidgets", "bokeh")
MOST_LINES = 8  # of the timeline, in the picture


def write_suite_report(suite: Suite, path: Path, title: str = "") -> None:
    """Write a suite's report; see `Suite.report`."""
    title = title or "Report of a mapping"
    parts = [
        f"<h1>{_text(title)}</h1>",
        f'<p class="lead">{_text(suite._summary())}</p>',
        *_data(suite),
        *_timeline(suite),
    ]
    for name, heading in SECTIONS.items():
        if name in suite.widgets:
            parts += [f"<h2>{heading}</h2>", suite.widgets[name]._static_html()]
    parts += ["<h2>Script</h2>", "<p>It does all of the above again and gives the same labels.</p>"]
    parts += [f"<pre><code>{html.escape(suite.code())}</code></pre>", *_versions()]
    path.write_text(offline_page(title, "".join(parts)), encoding="utf-8")


def _data(suite: Suite) -> list[str]:
    rows = [(role.capitalize(), suite.facts[role]) for role in ROLES]
    return ["<h2>Data</h2>", _table(("Role", "Cells"), [row for row in rows if row[1]])]


def _timeline(suite: Suite) -> list[str]:
    rows = [(time[:16].replace("T", " "), words) for time, words in suite.timeline]
    return ["<h2>What was done</h2>", _table(("Time (UTC)", "Step"), rows)] if rows else []


def _versions() -> list[str]:
    rows = [("Python", platform.python_version()), ("System", platform.platform())]
    for name in PACKAGES:
        try:
            rows.append((name, version(name)))
        except PackageNotFoundError:  # of what is optional
            continue
    return ["<h2>Versions</h2>", _table(("Software", "Version"), rows)]


def _table(head: tuple[str, str], rows: list[tuple[str, str]]) -> str:
    top = "".join(f'<th class="left">{_text(text)}</th>' for text in head)
    body = "".join("<tr>" + "".join(f'<td class="left">{_text(text)}</td>' for text in row) + "</tr>" for row in rows)
    return f'<div class="scroll"><table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table></div>'


def suite_picture(suite: Suite, format: str) -> bytes:
    """The steps, which of them were taken, and what was done last; as "png" or "svg"."""
    lines = [f"{time[11:16]} UTC  {words}" for time, words in suite.timeline[-MOST_LINES:]]
    lines = lines or ["Nothing has been done yet."]
    drawn, (axis,) = figure((9, 0.9 + 0.24 * len(lines)))
    axis.set_axis_off()
    axis.set(xlim=(0, len(STEPS)), ylim=(-len(lines) - 0.6, 2.2))
    for i, step in enumerate(suite.steps):
        colour = COLOURS[2] if step["done"] else COLOURS[7] if step["locked"] else COLOURS[0]
        axis.plot(i + 0.5, 1.6, "o", markersize=9, color=colour if step["done"] else "white", markeredgecolor=colour)
        state = "done" if step["done"] else "locked" if step["locked"] else "open"
        axis.text(i + 0.5, 0.9, step["title"], ha="center", va="top", fontsize=9)
        axis.text(i + 0.5, 0.1, state, ha="center", va="top", fontsize=7.5, color="#55555f")
    for i, line in enumerate(lines):
        axis.text(0.05, -i - 1, line.replace("$", r"\$"), va="center", fontsize=8.5)
    return picture_bytes(drawn, format, most_colours=64)


def _text(value: object) -> str:
    return html.escape(str(value), quote=True)
