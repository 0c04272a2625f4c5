"""The static picture of an exercise: its question, its choices, and what is met."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from textwrap import wrap
from typing import Any

from .text_picture import shown_within, text_picture

ROW = 20  # pixels
LONGEST_LINE = 125  # characters, over the picture's width
MOST_LINES = 30  # of the question


def exercise_picture(
    title: str,
    question: str,
    choices: Sequence[str],
    answer: str | None,
    checks: Sequence[Mapping[str, Any]],
    format: str,
) -> bytes:
    """As "png" or "svg"; `checks` is what the view sends to its page."""
    lines = [line for part in question.split("\n") for line in wrap(part, LONGEST_LINE) or [""]][:MOST_LINES]
    lines += [f"({'x' if choice == answer else ' '}) {choice}" for choice in choices]
    lines += [""]
    lines += [f"{'met' if one['met'] else 'not yet'}: {one['text']}" for one in checks]
    texts = [(10, ROW, shown_within(title, LONGEST_LINE), True)]
    texts += [(10, ROW * (i + 2.6), shown_within(line, LONGEST_LINE), False) for i, line in enumerate(lines)]
    return text_picture(texts, round(ROW * (len(lines) + 2.4)), ROW * 1.5, format)
