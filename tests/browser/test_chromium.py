"""Where the browser of the tests comes from. (These tests need none.)"""

from __future__ import annotations

import os

import pytest

from . import chromium as bringing


def stub(path, works=True):
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"#!/bin/sh\nexit {0 if works else 1}\n")
    path.chmod(0o755)
    return path


@pytest.fixture
def empty_machine(tmp_path, monkeypatch):
    """No browser, no apt-get and no playwright; what would be run is noted."""
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setattr(bringing.sys, "executable", str(tmp_path / "no-python"))
    return tmp_path


def test_a_browser_on_the_path_comes_first_then_playwrights_own(empty_machine):
    own = stub(empty_machine / "playwright" / "chrome")
    assert bringing.chromium(own) == own
    chrome = stub(empty_machine / "bin" / "google-chrome")
    assert bringing.chromium(own) == chrome


def test_a_browser_that_does_not_start_is_passed_over(empty_machine):
    stub(empty_machine / "bin" / "chromium", works=False)
    own = stub(empty_machine / "playwright" / "chrome")
    assert bringing.chromium(own) == own


def test_root_brings_debians_browser(empty_machine, monkeypatch):
    folder = empty_machine / "bin"
    apt = stub(folder / "apt-get")
    apt.write_text(f'#!/bin/sh\n[ "$1" = update ] || /bin/ln {stub(empty_machine / "debian" / "chromium")} {folder}\n')
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert bringing.chromium(empty_machine / "none") == folder / "chromium"


def test_without_any_browser_the_test_fails_and_says_why_and_both_commands(empty_machine):
    with pytest.raises(pytest.fail.Exception) as failure:
        bringing.chromium(empty_machine / "none")
    text = str(failure.value)
    assert "no-python" in text and "No such file" in text
    assert "apt-get update && apt-get install -y --no-install-recommends chromium" in text
    assert "python -m playwright install chromium" in text
