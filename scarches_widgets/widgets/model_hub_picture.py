"""The static picture of a list of models: one line each."""

from __future__ import annotations

import html
from collections.abc import Sequence

from ..data.names import shown
from ..mapping.pictures import figure, picture_bytes

MOST_ROWS = 40
ROW, WIDTH = 22, 900  # pixels
COLUMNS = ((10, 34), (290, 44), (620, 12), (720, 26))  # where each begins, in pixels, and characters that fit into it
HEAD = ("Model", "What it is", "Size", "My cells")
RULE = "#8a8a93"


def hub_picture(title: str, rows: Sequence[Sequence[str]], format: str) -> bytes:
    """As "png" or "svg".

    Parameters
    ----------
    title
        The line above.
    rows
        Title, kind, size and fit of each model; those beyond 40 are counted.
    """
    lines = [HEAD, *rows[:MOST_ROWS]]
    if len(rows) > MOST_ROWS:
        lines.append((f"and {len(rows) - MOST_ROWS:,} more", "", "", ""))
    texts = [(10, ROW, shown_within(title, 120), True)]
    for i, line in enumerate(lines):
        for (x, longest), text in zip(COLUMNS, line):
            texts.append((x, ROW * (i + 2.3), shown_within(text, longest), i == 0))
    height = round(ROW * (len(lines) + 2.2))
    return _svg(texts, height) if format == "svg" else _png(texts, height)


def shown_within(text: str, longest: int) -> str:
    text = "".join(shown(character) for character in text)
    return text if len(text) <= longest else f"{text[: longest - 1]}…"


def _svg(texts: list[tuple[float, float, str, bool]], height: int) -> bytes:
    words = "".join(
        f'<text x="{x}" y="{y:g}" font-weight="{600 if bold else 400}">{html.escape(text)}</text>'
        for x, y, text, bold in texts
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}" '
        f'font-family="sans-serif" font-size="12"><rect width="100%" height="100%" fill="#fff"/>'
        f'<path d="M10 {ROW * 2.65:g}H{WIDTH - 10}" stroke="{RULE}"/>{words}</svg>'
    ).encode()


def _png(texts: list[tuple[float, float, str, bool]], height: int) -> bytes:
    dpi = 100
    drawn, (axis,) = figure((WIDTH / dpi, height / dpi), dpi=dpi)
    drawn.set_layout_engine("none")
    axis.set_position((0, 0, 1, 1))
    axis.set_axis_off()
    axis.plot((10, WIDTH - 10), (ROW * 2.65,) * 2, color=RULE, linewidth=0.8)
    for x, y, text, bold in texts:
        axis.text(x, y, text.replace("$", r"\$"), fontsize=8.2, weight="bold" if bold else "normal")
    axis.set(xlim=(0, WIDTH), ylim=(height, 0))
    return picture_bytes(drawn, "png", most_colours=64)
