"""Voilà renders the tour as a page without code, on which widgets are drawn and training begins by a click."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from playwright.sync_api import expect

from .lab import ROOT

pytestmark = [pytest.mark.browser, pytest.mark.slow]

TOUR = Path(__file__).resolve().parents[2] / "notebooks" / "00_tour.ipynb"
LONG = 400_000  # ms; Voilà first executes the tour, training and t-SNE included
ICONS = "cdn.jsdelivr.net/npm/@fortawesome/"  # the font of Voilà's own template, which ours do without


@pytest.fixture
def served_tour(tmp_path):
    """The address of the tour in a Voilà of its own."""
    shutil.copyfile(TOUR, tmp_path / TOUR.name)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    folders = {"JUPYTER_CONFIG_DIR": "config", "JUPYTER_RUNTIME_DIR": "runtime", "IPYTHONDIR": "ipython"}
    own = {name: str(tmp_path / folder) for name, folder in folders.items()}
    own["OMP_NUM_THREADS"] = "1"  # t-SNE's threads wait for one another, for minutes where CPUs are shared
    command = [sys.executable, "-m", "voila", TOUR.name, "--no-browser", f"--port={port}", "--show_tracebacks=True"]
    with open(tmp_path / "log", "wb") as log:
        server = subprocess.Popen(
            command,
            cwd=tmp_path,
            env=os.environ | own,
            stdout=log,
            stderr=log,
        )
    url, end = f"http://127.0.0.1:{port}", time.monotonic() + 60
    while time.monotonic() < end and server.poll() is None:
        try:
            urllib.request.urlopen(f"{url}/static/", timeout=5).close()
            break
        except urllib.error.HTTPError:  # it is there, and has no such page
            break
        except (urllib.error.URLError, ConnectionError):
            time.sleep(0.1)
    else:
        server.kill()
        raise RuntimeError(f"Voilà did not start:\n{(tmp_path / 'log').read_text(errors='replace')[-3000:]}")
    yield url
    server.terminate()
    server.wait(30)


def test_voila_renders_the_tour_and_a_click_trains(served_tour, browser, tmp_path):
    context = browser.new_context(viewport={"width": 1280, "height": 1600})
    asked, errors = [], []

    def refuse(route):
        asked.append(route.request.url)
        route.abort()

    context.route(lambda url: not url.startswith((f"{served_tour}/", "data:", "blob:")), refuse)
    page = context.new_page()
    page.on("pageerror", lambda error: errors.append(f"{error.message}\n{error.stack}"))
    page.goto(served_tour, timeout=LONG)
    panel = page.locator(".scaw-training-panel").first
    expect(panel).to_have_attribute("data-status", "done", timeout=LONG)
    page.wait_for_function(
        "() => document.querySelectorAll('.scaw-embedding-view .scaw-chart[data-ready]').length === 2", timeout=LONG
    )
    assert page.locator(".scaw-loss-monitor .scaw-chart[data-ready]").count() == 1
    assert page.locator(".jp-CodeCell .jp-InputArea:visible").count() == 0, "a page without code"
    if shots := os.environ.get("SCARCHES_WIDGETS_SHOTS"):
        page.screenshot(path=Path(shots) / "voila.png", full_page=True)

    panel.get_by_label("Epochs", exact=True).fill("400")
    panel.get_by_role("button", name="Train anew").click()
    expect(panel).to_have_attribute("data-status", "running", timeout=60_000)
    monitor = page.locator(".scaw-loss-monitor").first
    page.wait_for_function("() => Number(document.querySelector('.scaw-loss-monitor').dataset.epochs) >= 2")
    panel.get_by_role("button", name="Stop now").click()
    expect(monitor).to_have_attribute("data-status", "stopped", timeout=60_000)
    if shots:
        page.screenshot(path=Path(shots) / "voila-stopped.png", full_page=True)
    assert page.locator(ROOT).count() >= 5
    assert [url for url in asked if ICONS not in url] == []
    assert errors == []
    context.close()
