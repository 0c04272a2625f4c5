"""One JupyterLab and one Chromium for all browser tests; one browser context a test."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from playwright.sync_api import sync_playwright

from .chromium import chromium
from .lab import Lab, Notebook

FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
]
FAILED = pytest.StashKey[bool]()


@pytest.fixture(scope="package")
def lab(tmp_path_factory):
    lab = Lab(tmp_path_factory.mktemp("lab"))
    yield lab
    lab.stop()


@pytest.fixture(scope="package")
def browser():
    """For the package, not the session: while Playwright's loop lives, no other test could call `asyncio.run`."""
    with sync_playwright() as playwright:
        path = chromium(playwrights_own=Path(playwright.chromium.executable_path))
        browser = playwright.chromium.launch(executable_path=path, headless=True, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def notebook(lab, browser, request, tmp_path):
    """`notebook(cells, theme="light")` opens cells, or a copy of a notebook's file, in a Lab.

    A request to another host or an error on the page fails the test.
    """
    opened = []
    context = browser.new_context(viewport={"width": 1280, "height": 1600})

    def open_notebook(cells, theme="light") -> Notebook:
        path = lab.root / f"{request.node.name}-{len(opened)}.ipynb"
        if isinstance(cells, Path):
            shutil.copyfile(cells, path)
        else:
            Notebook.write(path, cells)
        opened.append(Notebook(lab, context, path, tmp_path))
        opened[-1].open()
        opened[-1].set_theme(theme)
        return opened[-1]

    yield open_notebook
    if request.node.stash.get(FAILED, False):
        for i, page in enumerate(opened):
            request.node.add_report_section("teardown", "picture", str(page.screenshot(f"failed-{i}")))
    try:
        for page in opened:
            page.check()
    finally:
        context.close()
        lab.end_kernels()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    report = yield
    if report.failed:
        item.stash[FAILED] = True
    return report
