"""Cells in a real JupyterLab: lasso, keyboard, linked views, reload, hostile names, both themes, narrow panels."""

import json

import pytest

pytestmark = pytest.mark.browser

ADATA = """
import warnings; warnings.simplefilter("ignore")
import numpy as np, pandas as pd, anndata as ad
import scarches_widgets as sca

rng = np.random.default_rng(0)
types = ["B cell", "Monocyte", "NK", "T cell"]
codes = np.repeat(range(4), 100)
adata = ad.AnnData(rng.poisson(1.0, (400, 5)).astype("float32"))
adata.obs["type"] = pd.Categorical([types[code] for code in codes])
adata.obs["batch"] = pd.Categorical(["b1", "b2"] * 200)
adata.obs["depth"] = np.arange(400.0)
corners = np.array([[-4, -4], [-4, 4], [4, -4], [4, 4]])
adata.obsm["X_umap"] = corners[codes] + rng.normal(size=(400, 2)) * 0.5
adata.obsm["X_pca"] = corners[codes][:, ::-1] + rng.normal(size=(400, 2)) * 0.5
session = sca.widgets.Session()
"""
UMAP = "umap = sca.widgets.EmbeddingView(adata, 'umap', 'type', session)\numap"
PCA = "pca = sca.widgets.EmbeddingView(adata, 'pca', session=session)\npca"
VIEW = ".scaw-embedding-view"


def ready(notebook, n=1):
    """Wait until `n` charts are drawn; the views."""
    script = "([css, n]) => document.querySelectorAll(`${css} .scaw-chart[data-ready]`).length === n"
    notebook.page.wait_for_function(script, arg=[VIEW, n], timeout=60_000)
    return notebook.widgets(VIEW)


LEFT = [(0.12, 0.02), (0.5, 0.02), (0.5, 0.9), (0.12, 0.9)]  # B cells and monocytes, around
RIGHT_TOP, LEFT_TOP = [(0.55, 0.02), (0.97, 0.43)], [(0.12, 0.02), (0.5, 0.43)]  # corners of boxes


def wait_for_selected(notebook, n, views=1):
    """Wait until each of so many views says that `n` cells are selected."""
    script = "([css, n, views]) => document.querySelectorAll(`${css}[data-selected='${n}']`).length === views"
    notebook.page.wait_for_function(script, arg=[VIEW, n, views], timeout=20_000)


def in_python(notebook, expression):
    """The expression's value, after the kernel has heard of the selection: it and a cell come by different threads."""
    n = int(notebook.widget(VIEW).get_attribute("data-selected"))
    heard = (
        "import json, time\nend = time.time() + 20\n"
        f"while len(umap.selection) != {n} and time.time() < end: time.sleep(0.02)"
    )
    return json.loads(notebook.execute(f"{heard}\nprint(json.dumps({expression}))"))


def drawn(notebook):
    """How many cells each chart itself shows as selected."""
    return notebook.page.evaluate(
        """async () => {
            const Bokeh = await Object.values(globalThis.__scarches_widgets_bokeh)[0].promise;
            return Bokeh.documents.map((one) => one.get_model_by_name("cells").selected.indices.length);
        }"""
    )


def test_a_lasso_in_one_view_selects_in_the_other_and_in_python(notebook):
    nb = notebook([ADATA, UMAP, PCA])
    nb.run_all()
    umap = ready(nb, 2).first
    nb.draw_over(umap.locator(".scaw-chart"), *LEFT)
    wait_for_selected(nb, 200, views=2)
    assert umap.locator(".scaw-selected").text_content() == "200 of 400 cells selected (50 %)"
    assert drawn(nb) == [200, 200]
    assert in_python(nb, "sorted(set(adata.obs['type'][umap.selection]))") == ["B cell", "Monocyte"]
    assert in_python(nb, "pca.selection.tolist() == umap.selection.tolist() == list(range(200))")
    nb.execute("pca.selection = adata.obs['type'] == 'NK'")
    wait_for_selected(nb, 100, views=2)
    assert drawn(nb) == [100, 100]


@pytest.mark.slow
def test_boxes_replace_add_and_take_away_and_so_do_keys_during_a_drag(notebook):
    nb = notebook([ADATA, UMAP])
    nb.run_all()
    view = ready(nb).first
    view.get_by_role("button", name="Box").click()
    nb.draw_over(view.locator(".scaw-chart"), *RIGHT_TOP)
    wait_for_selected(nb, 100)
    assert in_python(nb, "umap.obs_names.tolist() == adata.obs_names[300:].tolist()")
    view.get_by_role("button", name="Add").click()
    nb.draw_over(view.locator(".scaw-chart"), *LEFT_TOP)
    wait_for_selected(nb, 200)
    view.get_by_role("button", name="Subtract").click()
    nb.draw_over(view.locator(".scaw-chart"), *RIGHT_TOP)
    wait_for_selected(nb, 100)
    nb.draw_over(view.locator(".scaw-chart"), *RIGHT_TOP, key="Shift")
    wait_for_selected(nb, 200)
    view.get_by_role("button", name="Replace").click()
    nb.draw_over(view.locator(".scaw-chart"), *RIGHT_TOP, key="Alt")
    wait_for_selected(nb, 100)
    assert in_python(nb, "sorted(set(adata.obs['type'][umap.selection]))") == ["Monocyte"]
    view.get_by_role("button", name="Invert").click()
    wait_for_selected(nb, 300)
    view.get_by_role("button", name="Clear").click()
    wait_for_selected(nb, 0)


def test_groups_and_ranges_are_selected_by_the_keyboard_alone(notebook):
    nb = notebook([ADATA, UMAP])
    nb.run_all()
    view = ready(nb).first
    view.locator(".scaw-chart").focus()
    nb.press("Tab")
    assert nb.focused().startswith("ul")
    nb.press("ArrowDown", "Enter")
    wait_for_selected(nb, 100)
    assert in_python(nb, "umap.selection.tolist() == list(range(100, 200))")
    nb.press("t", "Shift+Enter")
    wait_for_selected(nb, 200)
    options = view.locator(".scaw-option")
    assert [option.get_attribute("aria-selected") for option in options.all()] == ["false", "true", "false", "true"]
    assert options.nth(3).get_attribute("aria-label") == "T cell: 100 cells, 100 selected"
    nb.press("Home", "ArrowDown", "Alt+Enter")
    wait_for_selected(nb, 100)
    nb.press("Control+a")
    wait_for_selected(nb, 400)
    nb.press("Escape")
    wait_for_selected(nb, 0)
    cells = nb.page.evaluate("() => scawPanel.content.model.cells.length")
    nb.press("d", "d", "a", "b")
    assert nb.page.evaluate("() => scawPanel.content.model.cells.length") == cells, "no key reaches the notebook"
    view.locator("select").focus()
    nb.press("d")
    nb.page.keyboard.press("Enter")
    view.get_by_label("From", exact=True).focus()
    nb.press("Control+a", "1", "0", "Tab", "Control+a", "1", "9", ".", "5", "Enter")
    wait_for_selected(nb, 10)
    assert in_python(nb, "[umap.color, umap.selection.tolist()]") == ["depth", list(range(10, 20))]
    view.get_by_role("button", name="Table").click()
    assert "14.5" in view.locator(".scaw-table").text_content(), "the median of the selected"


@pytest.mark.slow
def test_a_recolour_sends_the_codes_and_not_the_positions(notebook):
    nb = notebook([ADATA, UMAP, PCA])
    nb.run_all()
    umap, pca = ready(nb, 2).all()
    nb.messages.clear()
    umap.locator("select").select_option(label="batch")
    for view in (umap, pca):
        view.locator(".scaw-option", has_text="b2").wait_for()
        assert view.locator(".scaw-option-count").all_text_contents() == ["200", "200"]
    received = nb.messages.to_browser("update")
    assert len(received) == 2, "one for each view"
    assert nb.messages.size(received) < 2 * 2500
    nb.execute("umap.color = adata.var_names[0]")
    pca.locator(".scaw-scale").wait_for()
    assert (
        pca.locator("select").input_value() == "column:0"
        and pca.locator(".scaw-legend-title").text_content() == "0, as in X"
    )


def test_a_reload_and_a_second_view_show_the_same(notebook):
    nb = notebook([ADATA, UMAP])
    nb.run_all()
    view = ready(nb).first
    nb.draw_over(view.locator(".scaw-chart"), *LEFT)
    view.locator("select").select_option(label="batch")
    wait_for_selected(nb, 200)
    view.locator(".scaw-option", has_text="b2").wait_for()
    nb.reload()
    view = ready(nb).first
    wait_for_selected(nb, 200)
    assert drawn(nb) == [200] and view.locator("select").input_value() == "column:batch"
    second = nb.new_view(1, VIEW)
    ready(nb, 2)
    wait_for_selected(nb, 200, views=2)
    first_legend, second_legend = (one.locator(".scaw-legend").text_content() for one in (view, second))
    assert first_legend == second_legend
    nb.draw_over(view.locator(".scaw-chart"), *RIGHT_TOP, (0.97, 0.02))
    nb.page.wait_for_function(
        f"() => new Set([...document.querySelectorAll('{VIEW}')].map((one) => one.dataset.selected)).size === 1"
    )


@pytest.mark.slow
def test_hostile_names_are_only_text(notebook):
    evil = "<img src=x onerror='window.hacked = 1'> @value{0} $index"
    nb = notebook(
        [
            f"{ADATA}\nevil = {evil!r}",
            "adata.obs_names = [f'{evil} {i}' for i in range(400)]\n"
            "adata.obs[evil] = pd.Categorical([f'{evil} {c}' for c in codes])\n"
            "adata.obsm['X_' + evil] = adata.obsm['X_umap'] * 0 + [[0, 0]]\n"
            "view = sca.widgets.EmbeddingView(adata, evil, evil)\nview",
        ]
    )
    nb.run_all()
    view = ready(nb).first
    box = view.locator(".scaw-chart").bounding_box()
    middle = view.page.evaluate(
        """async () => {
            const Bokeh = await Object.values(globalThis.__scarches_widgets_bokeh)[0].promise;
            const plot = Bokeh.documents[0].get_model_by_name("chart");
            return [plot.inner_width, plot.outer_width, plot.inner_height];
        }"""
    )
    nb.page.mouse.move(box["x"] + middle[1] - middle[0] / 2 - 5, box["y"] + middle[2] / 2 + 5)
    tip = view.locator(".scaw-tip")
    tip.wait_for()
    assert tip.text_content().count(evil) == 3, "the cell, the column and its value"
    view.get_by_role("button", name="Table").click()
    assert view.locator(".scaw-table th", has_text=evil).count() == 5
    assert nb.page.evaluate("() => window.hacked") is None and view.locator("img").count() == 0


@pytest.mark.slow
def test_no_serious_accessibility_fault_in_either_theme(notebook):
    nb = notebook([ADATA, UMAP, PCA])
    nb.run_all()
    umap, pca = ready(nb, 2).all()
    umap.get_by_role("button", name="Table").click()
    for theme, color, mark in (("light", "type", ".scaw-options"), ("dark", "depth", ".scaw-scale")):
        nb.set_theme(theme)
        nb.execute(f"umap.selection = range(50); umap.color = {color!r}")
        wait_for_selected(nb, 50, views=2)
        pca.locator(mark).wait_for()
        assert nb.axe() == []
    label = umap.locator(".scaw-chart").get_attribute("aria-label")
    assert label == "UMAP of 400 cells, coloured by depth. 50 of 400 cells selected (12.5 %)."


@pytest.mark.slow
def test_in_a_narrow_panel_and_at_200_percent_nothing_is_cut_off(notebook):
    nb = notebook([ADATA, UMAP])
    nb.run_all()
    view = ready(nb).first
    view.get_by_role("button", name="Zoom in").click()
    for width, zoom in ((800, 1), (1280, 2)):
        nb.resize(width)
        nb.zoom(zoom)
        nb.page.wait_for_function(
            f"""() => {{
                const root = document.querySelector("{VIEW}");
                const legend = root.querySelector(".scaw-legend").getBoundingClientRect();
                const chart = root.querySelector(".scaw-chart").getBoundingClientRect();
                return legend.top >= chart.bottom && root.scrollWidth <= root.clientWidth
                    && chart.right <= root.getBoundingClientRect().right;
            }}"""
        )
    view.locator(".scaw-option").nth(2).click()
    wait_for_selected(nb, 100)


@pytest.mark.slow
def test_without_a_kernel_the_picture_stays_and_cells_can_still_be_looked_at(notebook):
    nb = notebook([ADATA, UMAP])
    nb.run_all()
    view = ready(nb).first
    nb.shut_down_kernel()
    nb.wait_for_text(f"{VIEW} .scaw-badge", "kernel gone")
    assert view.locator("select").is_disabled()
    view.locator(".scaw-option").nth(2).click()
    wait_for_selected(nb, 100)
    assert drawn(nb) == [100]
