"""Gene programs in a real JupyterLab: open, lasso, compare, rename, copy the code; by keyboard, reloaded, narrow."""

from __future__ import annotations

import json
import re

import pytest
from playwright.sync_api import expect

pytestmark = pytest.mark.browser
expect.set_options(timeout=20_000)

EVIL = "<img src=x onerror=hacked=1>"
DATA = f"""
import warnings; warnings.simplefilter("ignore")
import numpy as np, scarches_widgets as sca

adata = sca.datasets.atlas(n_obs=400, n_vars=100, n_types=4, n_programs=4, seed=3)
truth = adata.uns["truth"]
sets = dict(truth["programs"]) | {{f"markers of {{name}}": genes for name, genes in truth["markers"].items()}}
sets[{EVIL!r}] = adata.var_names[:8].tolist()
model = sca.models.EXPIMAP(adata, gene_sets=sets, min_genes=3, hidden_layer_sizes=[16], batch_key="batch")
corners = np.array([[-4, -4], [-4, 4], [4, -4], [4, 4]])
codes = adata.obs["cell_type"].cat.codes.to_numpy()
adata.obsm["X_umap"] = corners[codes] + np.random.default_rng(0).normal(size=(400, 2)) * 0.4
"""
TRAINED = DATA + "model.train(max_epochs=10, batch_size=64, progress=False)\n"
SHOWN = "view = sca.widgets.GenePrograms(model)\nview"
VIEW = ".scaw-gene-programs"
LEFT = [(0.12, 0.02), (0.5, 0.02), (0.5, 0.9), (0.12, 0.9)]
RIGHT = [(0.55, 0.02), (0.97, 0.02), (0.97, 0.9), (0.55, 0.9)]


def ready(nb):
    """The view, when it has ranked its programs and drawn its cells."""
    nb.wait_for(f"{VIEW}[data-status=ready]", timeout=60)
    nb.wait_for(f"{VIEW} .scaw-chart[data-ready]", timeout=60)
    return nb.widget(VIEW)


def in_python(nb, expression):
    return json.loads(nb.execute(f"import json; view.wait(30); print(json.dumps({expression}))"))


def program(view, name):
    """The button that opens a program."""
    return view.locator(".scaw-program-list").get_by_role("button", name=re.compile(f"^{re.escape(name)}"))


def test_open_a_program_lasso_two_groups_compare_rename_and_copy_code_that_makes_the_table(notebook):
    nb = notebook([TRAINED, SHOWN])
    nb.run_all()
    view = ready(nb)
    program(view, "Hypoxia").click()
    detail = view.locator(".scaw-detail")
    expect(detail.locator("h4")).to_have_text("Hypoxia")
    expect(detail).to_contain_text("genes of this set are in the model.")
    assert detail.locator("tbody tr").count() == in_python(nb, "len(view.genes)")
    expect(view.locator(".scaw-legend-title")).to_have_text("Activity of Hypoxia")

    view.get_by_label("difference between selections").check()
    compare = view.get_by_role("button", name="Compare")
    expect(compare).to_be_disabled()
    sizes = [0]
    for which, points in (("A", LEFT), ("B", RIGHT)):
        nb.draw_over(view.locator(".scaw-chart"), *points)
        nb.wait_for(f"{VIEW}:not([data-selected='{sizes[-1]}'])")
        sizes.append(int(view.get_attribute("data-selected")))
        view.get_by_role("button", name=f"Keep selection as {which}").click()
        nb.wait_for_text(f"{VIEW} .scaw-mark", f"{which}: {sizes[-1]} cells")
    expect(compare).to_be_enabled()
    compare.click()
    expect(view.locator(".scaw-program-table caption").first).to_have_text("Gene programs by Bayes factor, A against B")
    assert in_python(nb, "view.ranking['n']") == sizes[1:] and sum(sizes) > 390
    view.locator("select").filter(has_text="the groups compared").select_option(label="the groups compared")
    expect(view.locator(".scaw-option-name")).to_have_text(["A", "B", "neither"][: 2 + (sum(sizes) < 400)])

    program(view, "Hypoxia").focus()
    nb.press("F2")
    field = view.get_by_label("New name of the program")
    field.fill(in_python(nb, "[term for term in model.terms if term != 'Hypoxia'][0]"))
    nb.press("Enter")
    expect(field).to_have_accessible_description("Another program has this name already. Choose another name.")
    field.fill("low oxygen")
    nb.press("Enter")
    expect(program(view, "low oxygen")).to_be_focused()
    expect(detail.locator("h4")).to_have_text("low oxygen")
    assert in_python(nb, "'low oxygen' in model.terms and 'Hypoxia' not in model.terms")

    view.get_by_label("Search").fill("markers")
    listed = view.locator(".scaw-program-list tbody th").all_text_contents()
    assert listed and all("markers" in name for name in listed)
    view.get_by_role("button", name="This program to obs", exact=True).click()
    expect(view).to_contain_text("Written: obs['program_low oxygen'].")
    view.locator(".scaw-code-details > summary").click()
    expect(view.locator(".scaw-code")).to_contain_text("str.contains('markers'")
    code = view.locator(".scaw-code").text_content()
    same = f"names = dict(model=model, adata=adata.copy()); exec({code!r}, names); import pandas as pd\n"
    nb.execute(same + "pd.testing.assert_frame_equal(names['table'], view.table)")
    assert [name.split("direction")[0] for name in listed] == in_python(nb, "view.table['term'].tolist()")


@pytest.mark.slow
def test_no_serious_fault_before_axe_and_nothing_is_cut_off_when_narrow(notebook):
    long = "REACTOME_IMMUNOREGULATORY_INTERACTIONS_BETWEEN_A_LYMPHOID_AND_A_NON_LYMPHOID_CELL"
    nb = notebook([TRAINED, SHOWN])
    nb.run_all()
    view = ready(nb)
    nb.execute(f"view.rename('Hypoxia', {long!r}); view.term = {long!r}")
    nb.execute("view.compare('cell_type', view.groupings['cell_type'][0])")
    expect(view.locator(".scaw-detail h4")).to_have_text(long)
    nb.execute("view.wait(); view.write_obs(); view.with_switched_off = True; view.basis = None; view.paint = 'groups'")
    expect(view.locator(".scaw-axis-x")).to_contain_text(long)
    nb.check_access(view)


@pytest.mark.slow
def test_everything_by_keyboard_alone(notebook):
    nb = notebook([TRAINED, SHOWN])
    nb.run_all()
    view = ready(nb)
    view.get_by_label("activity", exact=True).focus()
    nb.press("ArrowRight")  # to "difference between groups"
    nb.tab_to("Column")
    nb.press("c")  # cell_type
    nb.tab_to("Group")
    nb.press("ArrowDown")
    nb.tab_to("Compare")
    nb.press("Enter")
    second = in_python(nb, "view.groupings['cell_type'][1]")
    expect(view.locator(".scaw-program-table caption").first).to_contain_text(f"{second} against all others")
    assert nb.focused() == "button Compare"
    nb.tab_to("Search")
    nb.page.keyboard.type("markers")
    nb.tab_to("Switched-off ones too")
    nb.press("Tab", "Home")
    nb.execute("import time\nwhile view.search != 'markers': time.sleep(0.02)")
    first, other = in_python(nb, "view.table['term'].tolist()")[:2]
    assert nb.focused().startswith(f"button {first}")
    nb.press("ArrowDown", "Enter")
    expect(view.locator(".scaw-detail h4")).to_have_text(other)
    nb.press("F2")
    nb.page.keyboard.type("never")
    nb.press("Escape")
    assert nb.focused().startswith(f"button {other}"), "Escape keeps the old name, and the focus its place"
    nb.press("End", "Home", "F2")
    nb.page.keyboard.type("mine: markers")
    nb.press("Enter")
    expect(program(view, "mine: markers")).to_be_focused()
    nb.tab_to("Rename")
    nb.press("Tab", "Tab", "ArrowDown", "Enter")
    gene = nb.focused().removeprefix("button ")
    expect(view.locator(".scaw-legend-title")).to_have_text(f"{gene}, as in X")
    nb.tab_to("This program to obs")
    nb.press("Enter")
    expect(view).to_contain_text(f"Written: obs['program_{other}']")
    assert nb.page.evaluate("() => scawPanel.content.model.cells.length") == 2, "a key reached the notebook"


@pytest.mark.slow
def test_a_reload_a_second_view_and_a_lost_kernel_keep_what_is_shown(notebook):
    nb = notebook([TRAINED, SHOWN])
    nb.run_all()
    view = ready(nb)
    nb.draw_over(view.locator(".scaw-chart"), *LEFT)
    nb.wait_for(f"{VIEW}:not([data-selected='0'])")
    n = view.get_attribute("data-selected")
    view.get_by_label("difference between selections").check()
    view.get_by_role("button", name="Keep selection as A").click()
    view.get_by_role("button", name="Compare").click()
    nb.wait_for_text(f"{VIEW} .scaw-part-title", "A against all others")
    view.get_by_label("Search").fill("markers")
    nb.wait_for_text(f"{VIEW} .scaw-hint", "4 of 9 programs listed")
    in_python(nb, "1")
    nb.reload(VIEW)
    view = ready(nb)
    expect(view).to_have_attribute("data-selected", n)
    expect(view.get_by_label("Search")).to_have_value("markers")
    expect(view.locator(".scaw-mark").first).to_contain_text(f"A: {n} cells")
    nb.wait_for_text(f"{VIEW} .scaw-part-title", "A against all others")
    second = nb.new_view(1, VIEW)
    expect(second.locator(".scaw-program-list tbody tr")).to_have_count(4)
    name = in_python(nb, "[term for term in view.table['term'] if term != view.term][0]")
    program(second, name).click()
    for one in (view, second):
        expect(one.locator(".scaw-detail h4")).to_have_text(name)
    nb.shut_down_kernel()
    nb.wait_for_text(f"{VIEW} .scaw-badge", "kernel gone")
    expect(view.get_by_role("button", name="Rename")).to_be_disabled()
    view.get_by_label("Search").fill("")
    expect(view.locator(".scaw-program-list tbody tr")).to_have_count(9)
    program(view, "Hypoxia").click(force=True)
    expect(view.locator(".scaw-detail h4")).to_have_text(name)
    assert nb.axe() == []


@pytest.mark.slow
def test_an_untrained_model_is_trained_by_a_click_and_hostile_names_are_only_text(notebook):
    nb = notebook([DATA, SHOWN])
    nb.run_all()
    nb.wait_for(f"{VIEW}[data-status=empty]", timeout=60)
    view = nb.widget(VIEW)
    expect(view).to_contain_text("This model has not been trained")
    for theme in ("light", "dark"):
        nb.set_theme(theme)
        assert nb.axe() == []
    view.get_by_role("button", name="Train with the defaults").click()
    nb.wait_for_text(f"{VIEW} .scaw-progress", "The model is being trained")
    ready(nb)
    program(view, EVIL).click()
    expect(view.locator(".scaw-detail h4")).to_have_text(EVIL)
    view.get_by_role("button", name="… and colour linked views by it").click()
    expect(view.locator(".scaw-legend-title")).to_have_text(f"program_{EVIL}")
    assert view.locator("img").count() == 0 and not nb.page.evaluate("'hacked' in window")
    nb.execute("view.compare('batch', 'batch0', 'batch1')")
    nb.wait_for_text(f"{VIEW} .scaw-remark", "cannot be read from this model")
