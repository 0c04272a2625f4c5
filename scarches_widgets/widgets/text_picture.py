"""Lines of text as a static picture, for widgets that show words and no chart."""

from __future__ import annotations

import html
from collections.abc import Sequence

from ..data.names import shown
from ..mapping.pictures import figure, picture_bytes

WIDTH = 900  # pixels
RULE = "#8a8a93"


def text_picture(texts: Sequence[tuple[float, float, str, bool]], height: int, rule: float, format: str) -> bytes:
    """As "png" or "svg".

    Parameters
    ----------
    texts
        Of each text: where it begins, x and y of its baseline in pixels from the upper left, what it says, whether it
        is bold.
    height, rule
        In pixels: of the picture, and where a line is drawn across it.
    """
    return _svg(texts, height, rule) if format == "svg" else _png(texts, height, rule)


def shown_within(text: str, longest: int) -> str:
    """A text whose control characters are visible, cut to a number of characters."""
    text = "".join(shown(character) for character in text)
    return text if len(text) <= longest else f"{text[: longest - 1]}…"


def _svg(texts: Sequence[tuple[float, float, str, bool]], height: int, rule: float) -> bytes:
    words = "".join(
        f'<text x="{x}" y="{y:g}" font-weight="{600 if bold else 400}">{html.escape(text)}</text>'
        for x, y, text, bold in texts
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}" '
        f'font-family="sans-serif" font-size="12"><rect width="100%" height="100%" fill="#fff"/>'
        f'<path d="M10 {rule:g}H{WIDTH - 10}" stroke="{RULE}"/>{words}</svg>'
    ).encode()


def _png(texts: Sequence[tuple[float, float, str, bool]], height: int, rule: float) -> bytes:
    dpi = 100
    drawn, (axis,) = figure((WIDTH / dpi, height / dpi), dpi=dpi)
    drawn.set_layout_engine("none")
    axis.set_position((0, 0, 1, 1))
    axis.set_axis_off()
    axis.plot((10, WIDTH - 10), (rule, rule), color=RULE, linewidth=0.8)
    for x, y, text, bold in texts:
        axis.text(x, y, text.replace("$", r"\$"), fontsize=8.2, weight="bold" if bold else "normal")
    axis.set(xlim=(0, WIDTH), ylim=(height, 0))
    return picture_bytes(drawn, "png", most_colours=64)
