"""A review of labels in a real JupyterLab: threshold, markers, decisions by keyboard, Apply; reloaded, narrow."""

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

adata = sca.datasets.atlas(n_obs=400, n_vars=60, n_types=4, seed=3)
rng = np.random.default_rng(0)
kinds = np.array(["B cell", "T cell", "Monocyte", {EVIL!r}], dtype=object)
truth = kinds[adata.obs["cell_type"].cat.codes]
adata.obs["truth"] = truth
for label, name in (("predicted", "uncertainty"), ("classified", "classified_uncertainty")):
    uncertainty = rng.beta(1.2, 4, 400).round(3)
    adata.obs[f"{{label}}_x"] = np.where(rng.random(400) < uncertainty, rng.choice(kinds, 400), truth)
    adata.obs[f"{{name}}_x"] = uncertainty
adata.obsm["X_umap"] = adata.obsm["X_truth"][:, :2]
session = sca.widgets.Session()
"""
SHOWN = "view = sca.widgets.LabelReview(adata, threshold=0.4, against='truth', session=session)\nview"
# keys and a cell reach the kernel by different threads, so the cell waits for the keys
SETTLED = """import time
end = time.time() + 20
while (round(view.review.rule.threshold, 2), view.review.rule.by) != (0.35, "unanimous") and time.time() < end:
    time.sleep(0.05)"""
LINKED = "umap = sca.widgets.EmbeddingView(adata, session=session)\numap"
VIEW = ".scaw-label-review"
APPLIED = "Written: obs['reviewed_x'], obs['reviewed_x_reason'], uns['label_reviews']['reviewed_x']."


def ready(nb):
    """The view, when its dot plot is drawn."""
    nb.wait_for(f"{VIEW} .scaw-dots", timeout=60)
    return nb.widget(VIEW)


def in_python(nb, expression):
    return json.loads(nb.execute(f"import json; view.wait(30); print(json.dumps({expression}))"))


def type_button(view, name):
    return view.locator(".scaw-types").get_by_role("button", name=re.compile(f"^{re.escape(name)}"))


def cell_button(view, i):
    return view.locator(".scaw-queue tbody button").nth(i)


def test_a_threshold_a_type_a_few_cells_and_a_selection_are_reviewed_and_applied(notebook):
    nb = notebook([DATA, SHOWN, LINKED])
    nb.run_all()
    view = ready(nb)
    slider = view.get_by_role("slider", name="Threshold of the uncertainty")
    slider.fill("0.2")
    n = in_python(nb, "int((view.review.codes < 0).sum())")
    expect(view.locator(".scaw-result")).to_contain_text(f"{n} of 400 cells")
    assert in_python(nb, "view.review.rule.threshold") == 0.2

    type_button(view, "T cell").click()
    expect(view.locator(".scaw-opened h4")).to_have_text("T cell")
    expect(view.locator(".scaw-dots caption")).to_have_text("Marker genes of T cell")
    genes = in_python(nb, "view.dots['genes']")
    assert genes and view.locator(".scaw-dots th.scaw-gene").all_text_contents() == genes
    n_unknown = in_python(nb, "len(view.review.queue('unknown', 'T cell'))")
    view.get_by_role("button", name="Accept these cells of the type").click()
    expect(view.locator(".scaw-trail li").first).to_contain_text(f"Accepted {n_unknown} cells, Unknown T cell")

    view.get_by_label("Of which type").select_option(label="all types")
    first, second, third = in_python(nb, "[row['name'] for row in view.queue['rows'][:3]]")
    cell_button(view, 0).focus()
    nb.press("x")
    expect(cell_button(view, 0)).to_have_text(second)
    expect(cell_button(view, 0)).to_be_focused()
    nb.press("r")
    nb.page.keyboard.type("Plasma")
    nb.press("Enter")
    expect(view.get_by_label("New label of this cell")).to_have_accessible_description(
        re.compile("not yet a label here")
    )
    view.get_by_label("it is a new label").check()
    nb.press("Shift+Tab", "Enter")
    expect(cell_button(view, 0)).to_have_text(third)
    expect(cell_button(view, 0)).to_be_focused()
    nb.press("Control+z")
    expect(cell_button(view, 0)).to_have_text(second)
    nb.press("Control+Shift+z")
    expect(cell_button(view, 0)).to_have_text(third)
    reasons = in_python(nb, f"view.review.reasons[[{first!r}, {second!r}]].tolist()")
    assert reasons == ["rejected", "relabelled"] and in_python(nb, f"view.review.labels[{second!r}]") == "Plasma"

    nb.execute("umap.selection = range(7)")  # what a lasso does, see test_embedding_view
    selection = view.get_by_role("region", name="Selected cells")
    expect(selection).to_contain_text("7 cells")
    selection.get_by_role("button", name="Comment the selected cells").click()
    nb.page.keyboard.type("near the edge")
    nb.press("Enter")
    expect(view.locator(".scaw-trail li").first).to_contain_text("Commented on 7 cells: “near the edge”")
    view.locator(".scaw-confusion").get_by_role("button", name=re.compile("^Unknown, T cell:")).click()
    row = in_python(nb, "int(view.review.confusion('truth').loc['Unknown', 'T cell'])")
    expect(selection).to_contain_text(f"{row} cell")
    assert in_python(nb, "len(umap.selection)") == row > 0

    assert in_python(nb, "'reviewed_x' in adata.obs") is False, "nothing is written before Apply"
    view.get_by_role("button", name="Apply", exact=True).click()
    expect(view).to_contain_text(APPLIED)
    code = view.locator(".scaw-code").text_content()
    same = f"query = adata.copy(); del query.obs['reviewed_x'], query.obs['reviewed_x_reason']; exec({code!r})\n"
    nb.execute(same + "assert query.obs['reviewed_x'].equals(adata.obs['reviewed_x'])")
    view.get_by_label("Column of obs").fill("truth")
    expect(view).to_contain_text("obs['truth'] exists already.")
    expect(view.get_by_role("button", name="Apply", exact=True)).to_be_disabled()
    assert view.locator("img").count() == 0 and not nb.page.evaluate("'hacked' in window")


@pytest.mark.slow
def test_everything_by_keyboard_and_a_key_reaches_no_notebook(notebook):
    nb = notebook([DATA, SHOWN])
    nb.run_all()
    view = ready(nb)
    view.get_by_label("Labels of the").focus()
    nb.press("ArrowDown")
    nb.tab_to("Threshold of the uncertainty")
    for _ in range(5):
        nb.press("ArrowLeft")
    nb.tab_to("Order of the types")
    nb.press("Tab", "ArrowDown")
    nb.execute(SETTLED)
    expect(view.locator(".scaw-result")).to_contain_text(str(in_python(nb, "int((view.review.codes < 0).sum())")))
    assert in_python(nb, "view.review.rule.threshold") == pytest.approx(0.35)
    expect(view.get_by_role("slider", name="Threshold of the uncertainty")).to_have_value("0.35")
    assert in_python(nb, "view.review.rule.by") == "unanimous"
    name = in_python(nb, "view.types[1]['label']")
    n = in_python(nb, f"int(view.review.cells('unknown', {name!r}).sum())")
    nb.press("a")
    expect(view.locator(".scaw-trail li").first).to_contain_text(f"Accepted {n} cells")
    expect(type_button(view, name)).to_be_focused()
    nb.press("c")
    nb.page.keyboard.type("anything")
    nb.press("Escape")
    expect(type_button(view, name)).to_be_focused()  # Escape gives the comment up
    nb.press("Control+z", "Enter")
    expect(view.locator(".scaw-opened h4")).to_have_text(name)
    nb.tab_to("Which cells")
    nb.tab_to(r"Cell\d+")
    nb.press("ArrowDown", "ArrowDown", "PageDown")
    expect(view.get_by_role("region", name="Cells to review").first).to_contain_text("13 to 24 of")
    expect(cell_button(view, 0)).to_have_text(in_python(nb, "view.queue['rows'][0]['name']"))
    expect(cell_button(view, 0)).to_be_focused()
    nb.press("x")
    expect(view.locator(".scaw-trail li").first).to_contain_text("Rejected 1 cell")
    nb.tab_to("Compare with.*")
    nb.press("Tab", "ArrowRight", "Enter")
    expect(view.get_by_role("region", name="Selected cells").locator("strong")).not_to_have_text("0 cells")
    nb.tab_to("Apply")
    nb.press("Enter")
    expect(view).to_contain_text(APPLIED)
    assert nb.page.evaluate("() => scawPanel.content.model.cells.length") == 2, "a key reached the notebook"


@pytest.mark.slow
def test_reload_second_view_lost_kernel_narrow_and_axe(notebook):
    nb = notebook([DATA, SHOWN])
    nb.run_all()
    ready(nb)
    nb.execute("view.review.reject(which='unknown', of='B cell'); view.review.set_threshold(0.25, of='T cell')")
    nb.execute("view.of = 'T cell'; view.wait()")
    nb.reload(VIEW)
    view = ready(nb)
    expect(view.locator(".scaw-opened h4")).to_have_text("T cell")
    expect(view.locator(".scaw-trail li").first).to_contain_text("Threshold of T cell: 0.25")
    second = nb.new_view(1, VIEW)
    second.get_by_role("button", name="Undo").click()
    for one in (view, second):
        expect(one.locator(".scaw-trail li").first).to_contain_text("Undid entry 2")
    with nb.page.expect_download() as download:
        second.get_by_role("button", name="Trail as CSV").click()
    assert download.value.path().read_text().startswith("number,time,action")
    nb.run_cell(1)
    view = ready(nb)
    nb.widgets("details").evaluate_all("all => all.forEach((one) => { one.open = true; })")
    nb.check_access(view)
    nb.shut_down_kernel()
    nb.wait_for_text(f"{VIEW} .scaw-badge", "kernel gone")
    expect(view.get_by_role("slider", name="Threshold of the uncertainty")).to_be_disabled()
    expect(view.get_by_role("button", name="Apply", exact=True)).to_be_disabled()
    assert view.locator(".scaw-dot").count() > 10, "what was shown is kept"
    assert nb.axe() == []
