"""A spatial mapper in a real JupyterLab: map by a click, lasso, threshold, layers, reload, keyboard, both themes."""

from __future__ import annotations

import json
import time

import pytest
from playwright.sync_api import expect

pytestmark = pytest.mark.browser
expect.set_options(timeout=30_000)  # a busy machine answers late

CELLS = """import scarches_widgets as sca
cells = sca.datasets.tissue(n_obs=600, n_vars=60, seed=0)
reference = cells[cells.obs["section"] == "section0"].copy()
query = cells[cells.obs["section"] == "section1"].copy()
del query.obsm["spatial"]
options = dict(region_key="region", n_top_genes=40, n_components=10, max_epochs=40, n_folds=0)
"""
MAPPER = "mapper = sca.widgets.SpatialMapper(reference, query, **options)\nmapper"
MAPPED = f"{MAPPER[: -len('mapper')]}mapper.map()\nmapper.wait()\nmapper"
VIEW = ".scaw-spatial-mapper"
LEFT = [(0.13, 0.03), (0.55, 0.03), (0.55, 0.88), (0.13, 0.88)]  # half of a chart, around


def opened(nb, status="ready"):
    """Run all, and wait until both charts are drawn; the mapper."""
    nb.run_all()
    return drawn(nb, status)


def drawn(nb, status):
    nb.wait_for(f"{VIEW}[data-status={status}]", timeout=60)
    script = f"() => document.querySelectorAll('{VIEW} .scaw-chart[data-ready]').length === 2"
    nb.page.wait_for_function(script, timeout=60_000)
    return nb.widget(VIEW)


def in_charts(nb, expression):
    """An expression of JavaScript in `doc`, for the tissue's document and for that of the other chart."""
    return nb.page.evaluate(
        f"""async () => {{
            const Bokeh = await Object.values(globalThis.__scarches_widgets_bokeh)[0].promise;
            const isTissue = (one) => one.get_model_by_name("drawn_graph") !== null;
            const both = [...Bokeh.documents].sort((a, b) => isTissue(b) - isTissue(a));
            return both.map((doc) => {expression});
        }}"""
    )


def chosen(nb):
    """How many cells each chart shows as selected."""
    return in_charts(nb, 'doc.get_model_by_name("cells").selected.indices.length')


def placed(nb):
    """How many cells have a place in each chart."""
    return in_charts(nb, '[...doc.get_model_by_name("cells").data.x].filter(Number.isFinite).length')


def wait_for(nb, look, expected, seconds=60):
    """Wait until `look(nb)` is what is expected: a page hears of a change some time after the kernel has made it."""
    end = time.monotonic() + seconds
    while (seen := look(nb)) != expected and time.monotonic() < end:
        nb.page.wait_for_timeout(50)
    assert seen == expected


def wait_for_cells(nb, condition):
    """Wait until the number of selected cells, `n`, is as the condition says; that number."""
    board = f"document.querySelector('{VIEW} .scaw-board')"
    script = f"() => {{ const n = Number({board}.dataset.selected); return {condition}; }}"
    nb.page.wait_for_function(script, timeout=20_000)
    return int(nb.widget(".scaw-board").get_attribute("data-selected"))


def in_python(nb, expression, until):
    """The expression's value once a condition holds in the kernel: it and a cell come by different threads."""
    waiting = f"import json, time\nend = time.time() + 20\nwhile not ({until}) and time.time() < end: time.sleep(0.02)"
    return json.loads(nb.execute(f"{waiting}\nprint(json.dumps({expression}))"))


def test_a_query_is_mapped_by_a_click_and_a_lasso_in_either_pane_selects_in_the_other_and_in_python(notebook):
    nb = notebook([CELLS, MAPPER])
    view = opened(nb)
    expect(view.locator("[data-option=spatial_key] .scaw-change")).to_have_text("")  # keys of the data have no default
    wait_for(nb, placed, [0, 300])
    view.get_by_role("button", name="Map", exact=True).click()
    drawn(nb, "done")
    nb.page.wait_for_function(f"() => document.querySelector('{VIEW} .scaw-option-name')?.textContent === 'Region 0'")
    wait_for(nb, placed, [300, 300])
    nb.draw_over(view.locator(".scaw-chart").nth(0), *LEFT)
    n = wait_for_cells(nb, "n > 0 && n < 300")
    wait_for(nb, chosen, [n, n])
    left = in_python(nb, "mapper.locations['x'][mapper.selection].max()", f"len(mapper.selection) == {n}")
    assert left < in_python(nb, "mapper.locations['x'].max()", "True")
    nb.draw_over(view.locator(".scaw-chart").nth(1), *LEFT)
    other = wait_for_cells(nb, f"n > 0 && n !== {n}")
    wait_for(nb, chosen, [other, other])
    assert in_python(nb, "len(mapper.obs_names)", f"len(mapper.selection) == {other}") == other


def test_the_threshold_moves_the_share_of_unassigned_cells_and_takes_them_off_the_tissue(notebook):
    nb = notebook([CELLS, MAPPED])
    view = opened(nb, "done")
    words = view.locator(".scaw-unassigned")
    expect(words).to_have_text("0 of 300 cells unassigned (0 %)")
    slider = view.get_by_label("Keep cells of confidence at least")
    slider.focus()
    nb.press("End")
    expect(words).to_have_text("300 of 300 cells unassigned (100 %)")
    wait_for(nb, placed, [0, 300])
    median = in_python(nb, "float(mapper.locations['confidence'].median())", "mapper.threshold == 1")
    slider.fill(f"{median:.2f}")
    n = int(words.get_attribute("data-n"))
    assert 50 < n < 250
    wait_for(nb, placed, [300 - n, 300])
    assert in_python(nb, "int((~mapper.is_assigned).sum())", "0 < mapper.threshold < 1") == n


def test_layers_are_switched_in_the_list_and_in_python_and_a_reload_keeps_everything(notebook):
    nb = notebook([CELLS, MAPPED])
    view = opened(nb, "done")

    def shown(nb):
        names = "['graph', 'cells', 'regions']"
        return in_charts(nb, f"{names}.map((name) => doc.get_model_by_name('drawn_' + name)?.visible)")[0]

    wait_for(nb, shown, [False, True, False])
    view.get_by_label("Neighbour graph", exact=True).check()
    view.get_by_label("Region outlines", exact=True).check()
    view.get_by_label("Reference cells", exact=True).uncheck()
    expect(view.locator("[data-layer=graph]")).to_contain_text("edges, the 6 nearest")
    switched = "[mapper.layers[name].visible for name in ('graph', 'cells', 'regions')]"
    assert in_python(nb, switched, "not mapper.layers['cells'].visible") == [True, False, True]
    wait_for(nb, shown, [True, False, True])
    lines = 'doc.get_model_by_name("layer_graph")?.data.x0.length > 300'
    wait_for(nb, lambda nb: in_charts(nb, lines)[0], True)
    nb.execute("mapper.layers['graph'].visible = False; mapper.layers['predicted'].opacity = 0.5")
    expect(view.get_by_label("Neighbour graph", exact=True)).not_to_be_checked()
    expect(view.get_by_label("Opacity of Query, predicted")).to_have_value("0.5")
    nb.execute("mapper.threshold = 0.3; mapper.selection = range(20)")
    expect(view.locator(".scaw-selected")).to_contain_text("20 of 300")
    kept = ".scaw-unassigned", ".scaw-selected", ".scaw-legend", ".scaw-layers", ".scaw-results"
    threshold = "document.querySelector('.scaw-threshold-row output')?.textContent === '0.30'"
    nb.page.wait_for_function(f"() => {threshold}", timeout=60_000)
    before = [view.locator(css).text_content() for css in kept]
    nb.reload(VIEW)
    view = drawn(nb, "done")
    assert [view.locator(css).text_content() for css in kept] == before
    wait_for(nb, shown, [False, False, True])
    wait_for(nb, chosen, [20, 20])
    below = int(view.locator(".scaw-unassigned").get_attribute("data-n"))
    wait_for(nb, placed, [300 - below, 300])


def test_a_query_is_mapped_selected_and_named_by_keyboard_alone(notebook):
    nb = notebook([CELLS, MAPPER])
    view = opened(nb)
    view.locator("select").first.focus()
    nb.tab_to("Held-out parts")
    nb.press("Control+Enter")
    drawn(nb, "done")
    view.locator(".scaw-chart").nth(1).focus()
    counts = [int(text) for text in view.locator(".scaw-option-count").all_inner_texts()]
    below = next(i for i, n in enumerate(counts) if n)
    nb.press("Tab", "Home", *["ArrowDown"] * below, "Enter")
    n = wait_for_cells(nb, "n > 0 && n < 300")
    nb.tab_to("Column of obs")
    nb.press("Control+a", *"zone", "Tab", *"rim", "Enter")
    expect(view.locator(".scaw-written")).to_contain_text(f"obs['zone'] = 'rim' for {n} cells")
    nb.tab_to("Write to the query")
    nb.press("Enter")
    expect(view.locator(".scaw-written")).to_contain_text("obs['sagenet_confidence']")
    assert in_python(nb, "int((query.obs['zone'] == 'rim').sum())", "'X_sagenet' in query.obsm") == n
    assert nb.page.evaluate("() => scawPanel.content.model.cells.length") == 2, "no key reaches the notebook"


@pytest.mark.slow
def test_without_coordinates_the_keys_there_are_named_and_chosen_and_a_long_training_is_stopped(notebook):
    nb = notebook(
        [CELLS, "reference.obsm['places'] = reference.obsm.pop('spatial')\noptions['max_epochs'] = 100_000", MAPPER]
    )
    view = opened(nb, "invalid")
    expect(view.locator(".scaw-board .scaw-notice").first).to_contain_text("Its obsm has: X_truth, places.")
    expect(view.get_by_role("button", name="Map", exact=True)).to_be_disabled()
    view.get_by_label("Coordinates").select_option(label="obsm['places']")
    drawn(nb, "ready")
    expect(view.locator(".scaw-board .scaw-notice").first).to_be_hidden()
    view.get_by_role("button", name="Map", exact=True).click()
    nb.page.wait_for_function(f"() => Number(document.querySelector('{VIEW}').dataset.epochs) > 2", timeout=60_000)
    view.get_by_role("button", name="Stop").click()
    drawn(nb, "stopped")
    wait_for(nb, placed, [0, 300])


@pytest.mark.slow
def test_no_serious_fault_in_either_theme_and_nothing_is_cut_off_when_narrow(notebook):
    nb = notebook([CELLS, MAPPED, "sca.widgets.SpatialMapper(reference, color='library_size')"])
    nb.run_all()
    nb.page.wait_for_function(
        f"() => document.querySelectorAll('{VIEW} .scaw-chart[data-ready]').length === 4", timeout=60_000
    )
    nb.execute("for layer in mapper.layers.values(): layer.visible = True")
    nb.execute("mapper.threshold = 0.3; mapper.selection = range(20)")
    nb.widgets("details").evaluate_all("all => all.forEach((one) => { one.open = true; })")
    for theme in ("light", "dark"):
        nb.set_theme(theme)
        assert nb.axe() == [], theme
    for width, zoom in ((1280, 1), (640, 1), (1280, 2)):
        nb.resize(width)
        nb.zoom(zoom)
        nb.page.wait_for_function(
            f"() => [...document.querySelectorAll('{VIEW}')].every((one) => one.scrollWidth <= one.clientWidth)"
        )


@pytest.mark.slow
def test_groups_and_outlined_regions_are_filled_with_a_name_and_what_was_written_is_taken_back(notebook):
    nb = notebook([CELLS, "mapper = sca.widgets.SpatialMapper(reference, color='region')\nmapper"])
    view = opened(nb)
    nb.execute("mapper.layers['regions'].visible = True; mapper.layers['regions'].color = 'region'")
    column, name = view.get_by_label("Column of obs"), view.get_by_label("Name for the selected cells")
    column.fill("zone")
    name.fill("rim")
    fill = view.get_by_role("button", name="Fill")
    fill.click()
    view.locator(".scaw-option").first.click()
    written = view.locator(".scaw-written li")
    expect(written).to_have_count(1)
    group = json.loads(
        nb.execute(
            "import json; print(json.dumps(sorted(reference.obs['region'][reference.obs['zone'] == 'rim'].unique())))"
        )
    )
    assert group == [view.locator(".scaw-option-name").first.inner_text()]
    name.fill("core")
    chart = view.locator(".scaw-chart").first
    chart.scroll_into_view_if_needed()
    box = chart.bounding_box()
    nb.page.mouse.click(box["x"] + 0.84 * box["width"], box["y"] + 0.3 * box["height"])  # within a region
    expect(written).to_have_count(2)
    counts = "reference.obs['zone'].value_counts().to_dict()"
    both = in_python(nb, counts, "'core' in set(reference.obs['zone'])")
    assert both["core"] > 0 and both["rim"] > 0
    view.locator(".scaw-option").first.focus()
    nb.press("Escape")
    expect(fill).to_have_attribute("aria-pressed", "false")
    view.get_by_role("button", name="Undo").click()
    expect(written).to_have_count(3)
    assert set(in_python(nb, counts, "'core' not in set(reference.obs['zone'].dropna())")) == {"rim"}
    nb.press("Control+z")
    expect(written).to_have_count(4)
    assert in_python(nb, "list(reference.obs)", "'zone' not in reference.obs").count("zone") == 0


@pytest.mark.slow
def test_squidpys_view_of_the_reference_is_shown_with_its_code(notebook):
    nb = notebook([CELLS, MAPPED])
    view = opened(nb, "done")
    view.locator(".scaw-statistics > summary").click()
    view.locator(".scaw-statistics select").nth(2).select_option(label="cell_type")
    view.get_by_role("button", name="Show", exact=True).click()
    picture = view.locator(".scaw-statistic img")
    picture.wait_for(timeout=120_000)
    assert picture.get_attribute("alt") == "Neighbourhood enrichment of the reference by cell_type"
    expect(view.locator(".scaw-statistic .scaw-code")).to_contain_text("sq.gr.nhood_enrichment(adata")
    assert nb.axe() == []


@pytest.mark.slow
def test_where_neighbours_are_better_a_click_takes_them_and_the_image_lies_upright_under_its_spots(notebook):
    made = """
import numpy as np
from unittest.mock import patch
from scarches_widgets.mapping.spatial import HeldOut
import pandas as pd
image = np.zeros((100, 100, 3), dtype=np.uint8); image[:50, :, 0] = 255
reference.uns["spatial"] = {"slide": {"images": {"hires": image}, "scalefactors": {"tissue_hires_scalef": 0.1}}}
table = pd.DataFrame({"distance_correlation": [0.5, 0.2], "median_error": [90.0, 140.0]}, index=["kNN, PCA", "SageNet"])
found = HeldOut(table, table, table, 0.6, 1.0, is_better=False)
options["n_folds"] = 2
with patch("scarches_widgets.widgets.spatial_mapper.held_out", return_value=found):
    mapper = sca.widgets.SpatialMapper(reference, query, **options)
    mapper.map(); mapper.wait()
mapper"""
    nb = notebook([CELLS, made])
    view = opened(nb, "done")
    expect(view.locator(".scaw-verdict")).to_contain_text("kNN, PCA places better than SageNet")
    sides = "['w', 'h', 'x'].map((name) => doc.get_model_by_name('layer_image')?.data[name][0])"
    wait_for(nb, lambda nb: in_charts(nb, sides)[0], [1000, 1000, 500])
    top_left = '[doc.get_model_by_name("y").start > doc.get_model_by_name("y").end]'
    assert in_charts(nb, top_left) == [[True], [False]], "y runs downwards as the image's rows do"
    view.get_by_role("button", name="Place by nearest neighbours instead").click()
    expect(view.locator(".scaw-results")).to_contain_text("300 cells placed by nearest neighbours")
    expect(view.get_by_label("Method")).to_have_value("1")
