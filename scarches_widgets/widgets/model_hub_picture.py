"""The static picture of a list of models: one line each."""

from __future__ import annotations

from collections.abc import Sequence

from .text_picture import shown_within, text_picture

MOST_ROWS = 40
ROW = 22  # pixels
COLUMNS = ((10, 34), (290, 44), (620, 12), (720, 26))  # where each begins, in pixels, and characters that fit into it
HEAD = ("Model", "What it is", "Size", "My cells")


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
    return text_picture(texts, height, ROW * 2.65, format)
