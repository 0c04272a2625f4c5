"""The whole journey in a suite, by clicks, in a real JupyterLab; its script runs alone and gives the same labels."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from playwright.sync_api import expect

from .lab import cut_off

pytestmark = [pytest.mark.browser, pytest.mark.slow]
expect.set_options(timeout=30_000)

SUITE = ".scaw-suite"
SHOTS = os.environ.get("SCARCHES_WIDGETS_SHOTS")  # a folder for pictures to look at
PICTURES = {  # what a step still shows when the kernel is gone
    "Train": ".scaw-training-panel",
    "Monitor": ".scaw-chart canvas",
    "Map and review": ".scaw-dot",
    "Tree": "[role=treeitem]",
    "Tissue": ".scaw-chart canvas",
    "Programs": ".scaw-program-list tbody tr",
}
START = """
import warnings; warnings.simplefilter("ignore")
import scarches_widgets as sca
suite = sca.widgets.Suite()
suite
"""

FILES = """
import scarches_widgets as sca
cells = sca.read("kang.h5ad")
sets = {
    "T cells": ["CD3D", "CD3E", "IL7R", "LTB", "CD2", "CD247", "LCK"],
    "Monocytes": ["LYZ", "CD14", "S100A8", "S100A9", "FCN1", "VCAN", "CST3", "TYROBP"],
    "Killing": ["NKG7", "GNLY", "GZMB", "CST7"],
    "Interferon": ["ISG15", "IFI6", "ISG20", "LY6E"],
}
sca.utils.add_annotations(cells, sets, clean=False)
cells.write_h5ad("pbmc.h5ad")
tissue = sca.datasets.tissue(n_obs=300, n_vars=60)
tissue.var_names = cells.var_names[:60]  # so that the tissue has genes of the query; what is placed where means nothing
tissue.write_h5ad("tissue.h5ad")
"""


def open_step(suite, name):
    suite.get_by_role("tab", name=re.compile(f"^{name}")).click()
    panel = suite.get_by_role("tabpanel", name=re.compile(f"^{name}"))
    expect(panel).to_be_visible()
    expect(suite).to_have_attribute("data-status", re.compile("ready|running|empty"))
    return panel


def reloaded(nb, suite, name):
    """The page anew: the same step is open; its panel."""
    nb.reload(SUITE)
    expect(suite.get_by_role("tab", selected=True)).to_contain_text(name)
    panel = suite.get_by_role("tabpanel", name=re.compile(f"^{name}"))
    expect(panel).to_be_visible()
    return panel


def in_python(nb, expression, timeout=60):
    return json.loads(nb.execute(f"import json; print(json.dumps({expression}))", timeout))


def shot(nb, name):
    if SHOTS:
        nb.page.screenshot(path=Path(SHOTS) / f"{name}.png", full_page=True)


@pytest.mark.realdata
def test_the_whole_journey_by_clicks_and_its_script_alone_gives_the_same_labels(notebook, lab, real_data, tmp_path):
    (lab.root / "kang.h5ad").write_bytes((real_data / "pbmc_kang_donors.h5ad").read_bytes())
    nb = notebook([START])
    nb.resize(1500, 1300)
    nb.execute(FILES)
    nb.run_all()
    suite = nb.wait_for(SUITE)
    shot(nb, "1-empty")
    locked = open_step(suite, "Map and review")
    expect(locked).to_contain_text("There are no cells of a reference yet.")
    locked.get_by_role("button", name="Go to Data").click()

    data = suite.get_by_role("tabpanel", name="Data")
    data.get_by_label("File of the reference", exact=True).fill("pbmc.h5ad")
    nb.press("Enter")
    expect(data.get_by_role("region", name="Reference")).to_contain_text("8,123 cells", timeout=60_000)
    data.get_by_text("Take it out of the reference").click()
    data.get_by_label("By column").select_option("batch")
    data.get_by_label("donor1039").check()
    data.get_by_role("button", name="Take these cells").click()
    expect(data.get_by_role("region", name="Query")).to_contain_text("408 cells")
    shot(nb, "2-data")
    data = reloaded(nb, suite, "Data")
    expect(data.get_by_role("region", name="Query")).to_contain_text("408 cells")

    expect(open_step(suite, "Programs")).to_contain_text("Gene programs come with EXPIMAP: train one in step Train.")
    train = open_step(suite, "Train")
    train.locator(".scaw-suite-form").get_by_role("combobox").select_option("EXPIMAP")
    panel = train.locator(".scaw-training-panel")
    expect(panel.locator(".scaw-title").first).to_have_text("Train EXPIMAP")
    panel.get_by_label("Epochs", exact=True).fill("3")
    panel.get_by_role("button", name="Train", exact=True).click()
    expect(panel).to_have_attribute("data-status", "done", timeout=120_000)
    shot(nb, "3-train")
    train = reloaded(nb, suite, "Train")
    expect(train.locator(".scaw-training-panel")).to_have_attribute("data-status", "done")
    monitor = open_step(suite, "Monitor")
    expect(monitor.locator(".scaw-loss-monitor")).to_be_visible()
    shot(nb, "4-monitor")
    monitor = reloaded(nb, suite, "Monitor")
    expect(monitor.locator(".scaw-loss-monitor")).to_have_attribute("data-epochs", "3")
    expect(monitor.locator(".scaw-chart[data-ready]")).to_be_visible()

    mapping = open_step(suite, "Map and review")
    panel = mapping.locator(".scaw-mapping-panel")
    panel.get_by_label("Epochs", exact=True).fill("2")
    panel.get_by_role("button", name="Map", exact=True).click()
    expect(panel).to_have_attribute("data-status", "done", timeout=120_000)
    review = mapping.locator(".scaw-label-review")
    expect(review.get_by_role("slider", name="Threshold of the uncertainty")).to_be_visible(timeout=60_000)
    expect(suite.get_by_role("region", name="Cells", exact=True).locator(".scaw-chart[data-ready]")).to_be_visible()
    review.get_by_role("slider", name="Threshold of the uncertainty").fill("0.3")
    review.locator(".scaw-queue tbody button").first.press("x")
    expect(review.locator(".scaw-trail li").first).to_contain_text("Rejected 1 cell")
    review.get_by_role("button", name="Apply", exact=True).click()
    expect(review).to_contain_text("Written: obs['reviewed_cell_type']")
    shot(nb, "5-map")

    second = nb.new_view(0, SUITE)
    expect(second.get_by_role("tab", selected=True)).to_contain_text("Map and review")
    expect(second.locator(".scaw-label-review .scaw-trail li").first).to_contain_text("Applied")

    reloaded(nb, suite, "Map and review")
    expect(suite.locator(".scaw-label-review .scaw-trail li").first).to_contain_text("Applied")
    expect(suite.get_by_role("region", name="Cells", exact=True).locator(".scaw-chart[data-ready]")).to_be_visible()

    suite.get_by_role("tab", selected=True).focus()  # by keyboard: along the steps, and the line between the panes
    nb.press("ArrowRight")
    assert nb.focused().startswith("button 5Tree")
    nb.press("ArrowLeft", "Enter")
    line = suite.get_by_role("separator", name="Width of the cells")
    line.focus()
    nb.press("ArrowLeft", "ArrowLeft")
    expect(line).to_have_attribute("aria-valuenow", "52")
    cells = suite.get_by_role("region", name="Cells", exact=True)
    nb.press("Enter")
    expect(cells).to_be_hidden()
    nb.press("Enter")
    expect(cells).to_be_visible()
    suite.get_by_role("button", name="Full screen").click()
    expect(suite.get_by_role("button", name="Leave full screen")).to_be_visible()
    shot(nb, "5-full")
    table = suite.get_by_role("region", name="Predicted labels")
    assert table.evaluate("one => one.scrollWidth <= one.clientWidth"), "the last column is seen in the pane"
    suite.get_by_role("button", name="Leave full screen").click()
    expect(suite.get_by_role("button", name="Full screen", exact=True)).to_be_visible()

    tree = open_step(suite, "Tree")
    tree.get_by_label("Fine labels").select_option("cell_type")
    tree.get_by_role("button", name="Make the tree").click()
    editor = tree.locator(".scaw-tree-editor")
    editor.get_by_role("treeitem", name=re.compile("^CD4 T")).click()
    nb.press("F2")
    editor.get_by_label(re.compile("^New name of CD4 T")).fill("CD4 T helper")
    nb.press("Enter")
    expect(editor.get_by_role("treeitem", name=re.compile("^CD4 T helper"))).to_be_visible()
    shot(nb, "6-tree")
    tree = reloaded(nb, suite, "Tree")
    expect(tree.get_by_role("treeitem", name=re.compile("^CD4 T helper"))).to_be_visible()

    open_step(suite, "Data").get_by_label("File of the tissue", exact=True).fill("tissue.h5ad")
    nb.press("Enter")
    expect(suite.get_by_role("region", name="Tissue", exact=True)).to_contain_text("300 cells")
    tissue = open_step(suite, "Tissue")
    mapper = tissue.locator(".scaw-spatial-mapper")
    mapper.get_by_label("Held-out parts").fill("0")
    mapper.get_by_role("button", name="Map", exact=True).click()
    expect(mapper).to_have_attribute("data-status", "done", timeout=120_000)
    tissue = reloaded(nb, suite, "Tissue")
    expect(mapper.locator(".scaw-chart[data-ready]")).to_have_count(2)
    nb.draw_over(mapper.locator(".scaw-chart").first, (0.13, 0.03), (0.55, 0.03), (0.55, 0.88), (0.13, 0.88))
    expect(mapper.locator(".scaw-board")).not_to_have_attribute("data-selected", "0")
    chosen = mapper.locator(".scaw-board").get_attribute("data-selected")
    shot(nb, "7-tissue")
    programs = open_step(suite, "Programs").locator(".scaw-gene-programs")
    expect(programs).to_have_attribute("data-status", "ready", timeout=60_000)
    expect(programs).to_have_attribute("data-selected", chosen)
    assert in_python(nb, "len(suite.session.selection)") == int(chosen)
    programs.get_by_role("button", name=re.compile("^Monocytes")).click()
    expect(programs.locator(".scaw-detail h4")).to_have_text("Monocytes")
    reloaded(nb, suite, "Programs")
    expect(programs.locator(".scaw-detail h4")).to_have_text("Monocytes")
    shot(nb, "7-programs")

    share = open_step(suite, "Share")
    for what in ("Report, one page", "Session, a small file", "Cells with their labels"):
        share.get_by_role("button", name=f"Write: {what}").click()
        expect(share.get_by_role("list", name="Written")).to_contain_text(
            what.split(",")[0].split()[0].lower(), timeout=60_000
        )
    shot(nb, "8-share")
    share = reloaded(nb, suite, "Share")
    expect(share.get_by_role("list", name="Written").get_by_role("listitem")).to_have_count(3)
    suite.get_by_text("What was done").click()
    share.get_by_text("Code", exact=True).first.click()
    nb.resize(700)
    for step in ("Share", "Map and review"):
        open_step(suite, step)
        assert cut_off(suite) == []
        shot(nb, f"9-narrow-{step[:3]}")
    nb.resize(1280)
    suite.get_by_role("button", name="Full screen").click()  # Lab's own bars leave 190 pixels at 400 %
    nb.zoom(4)
    for step in ("Share", "Map and review"):
        open_step(suite, step)
        assert cut_off(suite) == []
        shot(nb, f"9-zoomed-{step[:3]}")
    nb.zoom(1)
    suite.get_by_role("button", name="Leave full screen").click()
    nb.resize(1500, 1300)
    nb.set_theme("dark")
    shot(nb, "9-dark")

    columns = ["predicted_cell_type", "reviewed_cell_type"]
    labels = in_python(nb, f"suite.query.obs[{columns!r}].astype(str).to_dict('list')")
    leaves = in_python(nb, "suite.session.tree.to_newick()")
    script = in_python(nb, "suite.code()")
    end = f"import json\nprint(json.dumps([query.obs[{columns!r}].astype(str).to_dict('list'), tree.to_newick()]))\n"
    open_step(suite, "Map and review")
    nb.restart_kernel()
    expect(suite.locator("> .scaw-head .scaw-badge")).to_have_text("kernel gone")
    for step, css in PICTURES.items():
        suite.get_by_role("tab", name=re.compile(f"^{step}")).click()
        expect(suite.get_by_role("tabpanel", name=re.compile(f"^{step}")).locator(css).first).to_be_visible()
        shot(nb, f"9-gone-{step[:3]}")
    nb.lab.end_kernels()
    (lab.root / "again.py").write_text(script + end)
    run = subprocess.run([sys.executable, "again.py"], capture_output=True, text=True, cwd=lab.root)
    assert run.returncode == 0, run.stderr[-3000:]
    assert json.loads(run.stdout.splitlines()[-1]) == [labels, leaves]
    assert len(set(labels["reviewed_cell_type"])) > 3
