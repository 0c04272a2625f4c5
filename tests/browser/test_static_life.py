"""What is left of each widget in a saved notebook: small, and as a page every picture is there without a network."""

from __future__ import annotations

import re
import subprocess
import sys

import nbformat
import pytest

pytestmark = [pytest.mark.browser, pytest.mark.slow]
MOST_GROWTH = 300_000  # bytes

DATA = """
import warnings; warnings.simplefilter("ignore")
import numpy as np, scarches_widgets as sca
from scarches_widgets.widgets import *

adata = sca.datasets.atlas(n_obs=3000, n_vars=80, n_types=5, seed=1)
is_query = adata.obs["batch"] == "batch2"
reference, query = adata[~is_query].copy(), adata[is_query].copy()
session = Session()
suite = Suite(reference, query, session=session)
suite.open_step("train")
training = suite.widgets["training"]
training.set(max_epochs=5, n_hidden=16)
training.train().wait(); training.wait(); suite.wait()
suite.open_step("map")
mapping = suite.widgets["mapping"]
mapping.set(max_epochs=2)
mapping.map(); mapping.wait(); suite.wait()
suite.make_tree(["type_level1", "cell_type"])
cells, review, tree = (suite.widgets[name] for name in ("cells", "review", "tree"))
sets = adata.uns["truth"]["markers"]
programs = sca.models.EXPIMAP(reference, gene_sets=sets, min_genes=1, hidden_layer_sizes=[8], batch_key="batch")
programs.train(max_epochs=2, progress=False)
programs = GenePrograms(programs)
tissue = SpatialMapper(sca.datasets.tissue(n_obs=600, n_vars=60, seed=0))
sca.hub.save(training.model, "saved")
hub = ModelHub(".", query)
"""
SHOWN = {
    "training": "Training panel",
    "training.monitor": "Loss monitor: done after 5 epochs",
    "mapping": "Mapping panel",
    "cells": "t-SNE of scvi of ",
    "review": "Review of ",
    "tree": "Tree of cell types",
    "tissue": "Tissue of 600 cells",
    "programs": "Gene programs of EXPIMAP",
    "hub": "Model hub",
    "suite": "Suite; reference: ",
}


def test_a_saved_notebook_is_small_and_its_page_shows_every_picture_without_network(notebook, lab, browser, tmp_path):
    nb = notebook([DATA, *SHOWN])
    before = nb._path.stat().st_size
    nb.run_all(timeout=180)
    nb.reload()
    growth = nb._path.stat().st_size - before
    saved = nbformat.read(nb._path, 4)
    sizes = {}
    for cell, (name, words) in zip(saved.cells[1:], SHOWN.items(), strict=True):
        (output,) = [one for one in cell.outputs if "text/html" in one.get("data", {})]
        sizes[name] = len(output.data["text/html"])
        left = "<table>" if name == "hub" else r'src="data:image/(png|svg\+xml);base64,'  # of a list, the list
        assert re.search(left, output.data["text/html"]), name
        assert words in output.data["text/plain"], name
    assert growth <= MOST_GROWTH, (growth, sizes)

    page = tmp_path / "page.html"
    command = [sys.executable, "-m", "jupyter", "nbconvert", "--to", "html", str(nb._path), "--output", str(page)]
    subprocess.run(command, check=True, capture_output=True)
    context = browser.new_context(offline=True)
    try:
        shown = context.new_page()
        shown.goto(page.as_uri(), wait_until="domcontentloaded")
        pictures = shown.locator("figure img")
        assert pictures.count() == len(SHOWN) - 1
        widths = pictures.evaluate_all(
            "all => Promise.all(all.map((one) => one.decode().then(() => one.naturalWidth)))"
        )
        assert min(widths) > 100, widths
        text = shown.locator("body").inner_text()
        for words in SHOWN.values():
            assert words in text
        shown.screenshot(path=tmp_path / "page.png", full_page=True)
    finally:
        context.close()
