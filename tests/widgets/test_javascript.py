"""The pure functions of the widgets' JavaScript: every `*.test.mjs` beside this file, under node."""

from __future__ import annotations

from pathlib import Path

import pytest
from node import node

FILES = sorted(Path(__file__).parent.glob("*.test.mjs"))


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_javascript(file):
    run = node("--test", "--test-reporter=tap", file)
    assert run.returncode == 0, run.stdout + run.stderr
    assert "# tests 0" not in run.stdout, f"{file.name} holds no test"
