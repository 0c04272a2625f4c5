"""One session, four kinds of view: what is selected in one is selected in the others and in Python."""

from __future__ import annotations

import json
import re
import time

import pytest
from playwright.sync_api import expect

pytestmark = [pytest.mark.browser, pytest.mark.slow]

CELLS = """
import warnings; warnings.simplefilter("ignore")
import numpy as np, pandas as pd
import scarches_widgets as sca

cells = sca.datasets.tissue(n_obs=600, n_vars=60, seed=0)
reference = cells[cells.obs["section"] == "section0"].copy()
query = cells[cells.obs["section"] == "section1"].copy()
del query.obsm["spatial"]
codes = query.obs["cell_type"].cat.codes.to_numpy()
angles = 2 * np.pi * codes / 8
query.obsm["X_umap"] = 4 * np.c_[np.cos(angles), np.sin(angles)] + np.random.default_rng(0).normal(size=(300, 2)) * 0.3

effects = query.uns["truth"]["effects"].iloc[:, :8]
sets = {f"markers of {name}": effects[name].nlargest(8).index.tolist() for name in effects}
model = sca.models.EXPIMAP(query, gene_sets=sets, min_genes=3, hidden_layer_sizes=[16])
model.train(max_epochs=5, batch_size=64, progress=False)
session = sca.widgets.Session(adata=query, color="cell_type")
"""
VIEWS = {
    "umap": "sca.widgets.EmbeddingView(query, 'umap', session=session)",
    "tissue": "sca.widgets.SpatialMapper(reference, query, session=session, region_key='region', n_top_genes=40, "
    "n_components=10, max_epochs=40, n_folds=0)",
    "tree": "sca.widgets.TreeEditor(sca.hierarchy.Hierarchy.from_obs(query, ['cell_type']), query, session=session)",
    "programs": "sca.widgets.GenePrograms(model, query, session=session)",
}
SHOW = [f"{name} = {made}\n{name}" for name, made in VIEWS.items()]
SHOW[1] = SHOW[1].replace("\n", "\ntissue.map(); tissue.wait(120)\n")
LEFT = [(0.12, 0.02), (0.5, 0.02), (0.5, 0.9), (0.12, 0.9)]


def in_python(nb):
    """What all views in the kernel have selected: positions, where the cells lie in the embedding, cells per type."""
    asked = (
        f"import json\nviews = [{', '.join(VIEWS)}]\n"
        "chosen = session.selection\n"
        "assert all(view.selection.tolist() == chosen.tolist() for view in views)\n"
        "x = sorted(query.obsm['X_umap'][chosen, 0].astype('float32').tolist())\n"
        "types = query.obs['cell_type'].iloc[chosen].value_counts()\n"
        "print(json.dumps([chosen.tolist(), x, {name: int(n) for name, n in types.items() if n}]))"
    )
    return json.loads(nb.execute(asked))


def in_charts(nb):
    """Which of its points each chart shows as selected (all draw the cells in one order), and where the first does."""
    return nb.page.evaluate(
        """async () => {
            const Bokeh = await Object.values(globalThis.__scarches_widgets_bokeh)[0].promise;
            const [first, ...others] = Bokeh.documents.map((doc) => doc.get_model_by_name("cells")).filter(Boolean);
            const chosen = ({ selected }) => [...selected.indices].sort((a, b) => a - b);
            return [[first, ...others].map(chosen), chosen(first).map((i) => first.data.x[i]).sort((a, b) => a - b)];
        }"""
    )


def in_tree(nb):
    """How many selected cells the tree tells of each type."""
    labels = nb.widgets(".scaw-tree-editor [role=treeitem][aria-level='2']").evaluate_all(
        "all => all.map((one) => one.getAttribute('aria-label'))"
    )
    told = [re.fullmatch(r"(.+?), \d+ cells, (\d+) of them selected", label) for label in labels]
    return {one[1]: int(one[2]) for one in told if one}


def selected_everywhere(nb, but=()):
    """Wait until another choice than `but` is in Python, in each chart and in the tree; its positions and its types."""
    end = time.monotonic() + 30
    while True:
        chosen, lie, types = in_python(nb)
        (first, *others), shown = in_charts(nb)
        if chosen != list(but) and shown == lie and others == [first] * 3 and in_tree(nb) == types:
            return chosen, types
        counts = [len(chosen), len(first), *map(len, others), sum(in_tree(nb).values())]
        assert time.monotonic() < end, f"selected in Python, in the charts and in the tree: {counts}"
        nb.page.wait_for_timeout(50)


def test_a_lasso_in_the_embedding_selects_in_tissue_tree_and_programs_and_a_choice_in_each_comes_back(notebook):
    nb = notebook([CELLS, *SHOW])
    nb.resize(1280, 1400)
    nb.run_all()
    nb.page.wait_for_function(
        "() => document.querySelectorAll('.jp-OutputArea .scaw-chart[data-ready]').length === 4",  # the tissue has two
        timeout=60_000,
    )
    umap, tissue, tree, programs = (
        nb.widget(f".scaw-{name}") for name in ("embedding-view", "spatial-mapper", "tree-editor", "gene-programs")
    )
    expect(tissue).to_have_attribute("data-status", "done", timeout=60_000)
    expect(programs).to_have_attribute("data-status", "ready", timeout=60_000)

    nb.draw_over(umap.locator(".scaw-chart"), *LEFT)
    drawn, types = selected_everywhere(nb)
    assert 50 < len(drawn) < 250 and len(types) < 8
    expect(programs).to_have_attribute("data-selected", str(len(drawn)))
    expect(tissue.locator(".scaw-selected")).to_contain_text(f"{len(drawn)} of 300")

    nb.draw_over(tissue.locator(".scaw-chart").first, *LEFT)
    placed, types = selected_everywhere(nb, drawn)
    assert 50 < len(placed) < 250 and len(types) > 3, "half of the tissue has cells of most types"

    node = tree.locator("[role=treeitem][aria-level='2']").first
    name = node.get_attribute("aria-label").split(",")[0]
    node.click()
    of_type, types = selected_everywhere(nb, placed)
    assert list(types) == [name]
    expect(umap.locator(".scaw-selected")).to_contain_text(f"{len(of_type)} of 300")

    nb.draw_over(programs.locator(".scaw-chart"), *LEFT)
    active, _ = selected_everywhere(nb, of_type)
    assert active
    expect(tree.locator("[role=treeitem][aria-selected=true]")).to_have_count(0)

    nb.execute("session.selection = query.obs['region'] == 'Region 0'")
    region, _ = selected_everywhere(nb, active)
    assert region
