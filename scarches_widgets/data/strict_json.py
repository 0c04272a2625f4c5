"""JSON from files that others made: no NaN, no key that stands twice, no depth that overflows the parser's stack."""

from __future__ import annotations

import json
import math
from collections import Counter

import numpy as np

from .names import shown

MOST_BRACKETS = 1_000_000  # lists and objects; empty ones take 20 times their size in memory
DEEPEST = 64  # brackets within each other; far from Python's recursion limit
STEP = np.zeros(256, np.int8)  # what a byte does to the depth
STEP[list(b"[{")], STEP[list(b"]}")] = 1, -1


def parse_json(data: bytes) -> dict:
    """A JSON object, read strictly: NaN, infinity, a repeated key or deep nesting is a `ValueError`."""
    if data.count(b"[") + data.count(b"{") > MOST_BRACKETS or _depth(data) > DEEPEST:
        raise ValueError(
            f"it has more than {MOST_BRACKETS:,} lists and objects, or more than {DEEPEST} within each other"
        )
    value = json.loads(data.decode(), object_pairs_hook=_unique, parse_constant=_finite, parse_float=_finite)
    if not isinstance(value, dict):
        raise ValueError("it is not a JSON object")
    return value


def _depth(data: bytes) -> int:
    """How deep the brackets go, those within text aside; found before parsing, which is recursive."""
    data = data.replace(rb"\\", b"").replace(rb"\"", b"")  # the quotes that are left begin or end a text
    depth = deepest = quotes = 0
    for start in range(0, len(data), 1_000_000):  # in blocks, to stay small
        block = np.frombuffer(data[start : start + 1_000_000], np.uint8)
        quotes_so_far = quotes + np.cumsum(block == ord('"'))
        depths = depth + np.cumsum(STEP[block] * (quotes_so_far % 2 == 0))
        depth, deepest, quotes = depths[-1], max(deepest, depths.max()), quotes_so_far[-1]
    return deepest


def _unique(pairs: list[tuple[str, object]]) -> dict:
    if len(found := dict(pairs)) < len(pairs):
        ((key, _),) = Counter(key for key, _ in pairs).most_common(1)
        raise ValueError(f"the key '{shown(key)}' stands twice in one object")
    return found


def _finite(text: str) -> float:
    if not math.isfinite(number := float(text)):
        raise ValueError(f"{shown(text)} is not a finite number")
    return number
