"""What a page does with a panel, without a page: entries, clicks, waiting."""

from __future__ import annotations

import time
from contextlib import contextmanager
from unittest import mock

from traitlets.log import get_logger


def enter(panel, **entries):
    """What a page sends when fields are filled in."""
    values = {**panel.values, **entries}
    panel._handle_msg({"content": {"data": {"method": "update", "state": {"values": values}}}, "buffers": []})


def click(panel, op, **content):
    """What a page sends when a button is clicked."""
    panel._handle_msg({"content": {"data": {"method": "custom", "content": {"op": op, **content}}}, "buffers": []})


def wait_until(condition, seconds=20):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "This should have happened long ago."
        time.sleep(0.005)


def looked(panel):
    """The panel, when it has looked at its data."""
    wait_until(lambda: not panel._is_looking)
    return panel


def levels(panel, option):
    """The levels of the remarks at an option, such as ["error"]."""
    return [one["level"] for one in panel.remarks.get(option, [])]


def texts(panel, option):
    return " ".join(f"{one['text']} {one['more']}" for one in panel.remarks.get(option, []))


@contextmanager
def nothing_raised():
    """ipywidgets catches what handlers raise, and logs it."""
    log = get_logger()
    with mock.patch.object(log, "warning") as warning, mock.patch.object(log, "error") as error:
        yield
    assert not warning.called, warning.call_args
    assert not error.called, error.call_args
