"""The tour: walked by keyboard alone in a real JupyterLab, and executed by a program and read without any network."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from playwright.sync_api import expect

pytestmark = [pytest.mark.browser, pytest.mark.slow]

TOUR = Path(__file__).resolve().parents[2] / "notebooks" / "00_tour.ipynb"
TRAINING, MONITOR, MAPPING, CELLS = (
    f".scaw-{name}" for name in ("training-panel", "loss-monitor", "mapping-panel", "embedding-view")
)
MOST_GROWTH = 300_000  # bytes
LONG = 300  # seconds, for what takes a few on an idle machine


def place_of(text: str) -> int:
    """Which cell of the tour has this line."""
    cells = json.loads(TOUR.read_text(encoding="utf-8"))["cells"]
    return next(i for i, cell in enumerate(cells) if text in [line.rstrip() for line in cell["source"]])


def walk_to(nb, i):
    """Arrow keys, from cell to cell."""
    active = "() => scawPanel.content.activeCellIndex"
    for _ in range(100):
        at = nb.page.evaluate(active)
        if at == i:
            return
        nb.press("ArrowDown" if at < i else "ArrowUp")
    raise AssertionError(f"The arrow keys do not lead to cell {i}, but to {at}")


def run_up_to(nb, i):
    """Shift+Enter in each cell from the active one on, up to cell `i`."""
    while nb.page.evaluate("() => scawPanel.content.activeCellIndex") <= i:
        before = nb.page.evaluate("() => scawPanel.content.activeCellIndex")
        nb.press("Shift+Enter")
        nb.page.wait_for_function("i => scawPanel.content.activeCellIndex > i", arg=before, timeout=1000 * LONG)


def wait_for_views(nb, condition, argument=None):
    """Wait until the condition, a JavaScript function of a view's root, holds for both embedding views."""
    nb.page.wait_for_function(
        f"argument => {{ const views = [...document.querySelectorAll('.jp-OutputArea {CELLS}')];"
        f" return views.length === 2 && views.every((view) => ({condition})(view, argument)); }}",
        arg=argument,
        timeout=1000 * LONG,
    )


def test_the_whole_tour_is_walked_by_keyboard_alone(notebook):
    nb = notebook(TOUR)
    nb.page.evaluate("() => { window.clicks = 0; addEventListener('pointerdown', () => { clicks += 1; }, true); }")

    run_up_to(nb, place_of("panel"))
    nb.wait_for(f"{TRAINING}[data-status=ready]", timeout=LONG)
    walk_to(nb, place_of("panel"))
    nb.tab_to("Train")
    nb.press("Enter")  # in place of the cell that does the same
    nb.wait_for(f"{TRAINING}[data-status=running]:not([data-epochs='0'])", timeout=LONG)
    nb.tab_to("Pause")
    nb.press("Enter")
    nb.wait_for(f"{TRAINING}[data-status=paused]", timeout=LONG)

    nb.press("Escape")
    walk_to(nb, place_of("panel.monitor"))
    run_up_to(nb, place_of("panel.monitor"))
    nb.wait_for(f"{MONITOR} .scaw-chart[data-ready]", timeout=LONG)
    walk_to(nb, place_of("panel.monitor"))
    nb.tab_to("Loss monitor.*")
    nb.tab_to("Resume")
    nb.press("Enter")
    nb.wait_for(f"{MONITOR}[data-status=done]", timeout=LONG)
    nb.press("Escape")
    nb.tab_to("Loss monitor, done.*")
    nb.press("Home", "ArrowRight", "t", "l")
    nb.wait_for_text(f"{MONITOR} .scaw-readout", "Epoch 1:", timeout=LONG)
    n_epochs = int(nb.execute("print(len(panel.run.epochs))", timeout=LONG))
    expect(nb.widgets(f"{MONITOR} tbody tr")).to_have_count(n_epochs)
    nb.press("Escape")

    walk_to(nb, place_of("panel.monitor.snapshot()"))
    run_up_to(nb, place_of("mapping"))
    nb.wait_for(f"{MAPPING}[data-status=ready]", timeout=LONG)
    walk_to(nb, place_of("mapping"))
    nb.tab_to("Map")
    nb.press("Enter")
    nb.wait_for(f"{MAPPING}[data-status=done]", timeout=LONG)
    nb.tab_to("Predicted labels")
    nb.press("Escape")

    walk_to(nb, place_of("import anndata as ad"))
    run_up_to(nb, place_of("raw_view"))
    wait_for_views(nb, "view => view.querySelector('.scaw-chart[data-ready]')")
    walk_to(nb, place_of("raw_view"))
    nb.tab_to("Colour by.*")
    nb.press("b")
    wait_for_views(nb, "view => view.dataset.color === 'batch'")
    nb.tab_to("batch.*")
    nb.press("Home", "Enter")
    n_query = int(nb.execute("print(query_cells.n_obs)", timeout=LONG))
    wait_for_views(nb, "(view, n) => Number(view.dataset.selected) === n", n_query)
    assert nb.execute("print((cells[session.selection].obs['role'] == 'query').all())") == "True\n"
    nb.press("Escape")
    wait_for_views(nb, "view => view.dataset.selected === '0'")
    nb.press("Escape")

    last = len(json.loads(TOUR.read_text(encoding="utf-8"))["cells"]) - 1
    walk_to(nb, place_of("raw_view") + 1)
    run_up_to(nb, last - 1)
    n_selected = int(nb.execute("print(len(session.selection))", timeout=LONG))  # after all cells
    wait_for_views(nb, "(view, n) => Number(view.dataset.selected) === n", n_selected)
    texts = "".join(output.get("text", "") for i in range(last) for output in nb.outputs(i))
    assert float(re.search(r"([\d.]+)% of the labels are right", texts)[1]) > 90
    assert not any(output["output_type"] == "error" for i in range(last) for output in nb.outputs(i))
    assert nb.page.evaluate("() => window.clicks") == 0


@pytest.fixture(scope="module")
def executed(tmp_path_factory):
    """The tour after a program has executed it, top to bottom, as `jupyter nbconvert` does unasked."""
    folder = tmp_path_factory.mktemp("executed")
    convert = [sys.executable, "-m", "nbconvert", f"--output-dir={folder}"]
    subprocess.run([*convert, "--execute", "--to=notebook", "--ExecutePreprocessor.timeout=600", TOUR], check=True)
    path = folder / TOUR.name
    subprocess.run([*convert, "--to=html", path], check=True)
    return path


def test_the_executed_tour_has_no_error_and_is_small(executed):
    text = executed.read_text(encoding="utf-8")
    cells = [cell for cell in json.loads(text)["cells"] if cell["cell_type"] == "code"]
    assert all(cell["execution_count"] for cell in cells)
    assert not any(output["output_type"] == "error" for cell in cells for output in cell["outputs"])
    assert len(text.encode()) - TOUR.stat().st_size <= MOST_GROWTH
    assert "widget-state" not in text, "neither BokehJS nor the views' code is saved"


def test_the_executed_tour_as_a_page_shows_every_picture_without_any_network(executed, browser):
    context = browser.new_context(viewport={"width": 1280, "height": 1600})
    context.route(re.compile("^(?!file:|data:)"), lambda route: route.abort())
    page = context.new_page()
    page.goto(executed.with_suffix(".html").as_uri())
    pictures = page.locator("figure img")
    alts = pictures.evaluate_all("all => all.map((one) => one.alt)")
    shown = ["Training panel for SCVI:", "Loss monitor: done after", "Mapping panel:", "mapped of", "raw of"]
    assert [alt[: len(start)] for alt, start in zip(alts, shown, strict=True)] == shown
    for picture in [*pictures.all(), page.locator(".jp-RenderedSVG svg, .jp-RenderedSVG img")]:  # the last: snapshot()
        box = picture.bounding_box()
        assert min(box["width"], box["height"]) > 150
    assert pictures.evaluate_all("all => all.every((one) => one.complete && one.naturalWidth > 150)")
    context.close()
