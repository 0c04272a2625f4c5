"""The hub of models in a real JupyterLab, against a server like Zenodo's: fetch and load, edit, upload, publish."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from playwright.sync_api import expect

pytestmark = pytest.mark.browser
expect.set_options(timeout=20_000)

TOKEN = "CANARY-c3d1f0-not-a-word"
EVIL = "<img src=x onerror=hacked=1>"
DATA = f"""
import warnings; warnings.simplefilter("ignore")
import os, tempfile
from unittest import mock
import scarches_widgets as sca
from scarches_widgets.hub import transfer, zenodo
from zenodo_server import running

os.chdir(tempfile.mkdtemp())
adata = sca.datasets.atlas(n_obs=300, n_vars=60, seed=1)
query = adata[adata.obs["batch"] == "batch2"].copy()
model = sca.models.SCVI(adata[adata.obs["batch"] != "batch2"].copy(), batch_key="batch", encode_covariates=True)
fake = running()
server = fake.__enter__()
zenodo.configure(base_url=f"{{server.address}}/api")
draft = server.add(title="A lung atlas", description={EVIL!r}, creators=[{{"name": {EVIL!r}}}])
zenodo.upload_model(model, draft, server.token, "lung", progress=False)
server.drafts[draft]["submitted"] = True
"""
SHOWN = "hub = sca.widgets.ModelHub('models', query)\nhub"
VIEW = ".scaw-model-hub"


def in_python(nb, expression):
    return json.loads(nb.execute(f"import json; hub.wait(30); print(json.dumps({expression}))"))


def ready(nb):
    nb.wait_for(f"{VIEW}[data-status]", timeout=60)
    return nb.widget(VIEW)


def search(nb, view):
    view.get_by_label("Search", exact=True).fill("lung")
    nb.press("Enter")
    card = view.get_by_role("article", name="A lung atlas").last
    expect(card).to_contain_text("fits your cells, 100 % of its genes")
    return card


def test_a_model_is_found_compared_fetched_loaded_edited_uploaded_and_published(notebook):
    nb = notebook([DATA, SHOWN])
    nb.run_all()
    view = ready(nb)
    expect(view.locator(".scaw-badge").first).to_have_text("empty")
    card = search(nb, view)
    expect(card.locator(".scaw-hub-file")).to_contain_text("MD5 ")
    assert in_python(nb, r"server.count(r'\.zip')") == 1, "only the upload before: nothing is fetched unasked"
    card.get_by_text("About this model").click()
    expect(card).to_contain_text("SHA-256 of the model")
    assert view.locator("img").count() == 0 and not nb.page.evaluate("'hacked' in window")

    # a download that takes its time is cancelled; the kernel answers meanwhile, and the next one goes on
    nb.execute(
        "import time; transfer.BLOCK = 4096\n"
        "fetch = zenodo.download_model\n"
        "def slow(*a, progress, **o):\n"
        "    def tell(done, total):\n"
        "        progress(done, total)\n"
        "        for _ in range(500):\n"
        "            if done < total / 2 or hub.status == 'stopping': break\n"
        "            time.sleep(0.1)\n"
        "    return fetch(*a, progress=tell, **o)\n"
        "patch = mock.patch.object(zenodo, 'download_model', slow); patch.start()"
    )
    card.get_by_role("button", name="Download").click()
    expect(view).to_have_attribute("data-status", "running")
    expect(card.get_by_role("progressbar")).to_be_visible()
    assert nb.execute("print(6 * 7)") == "42\n"
    card.get_by_role("button", name="Cancel").click()
    expect(card.locator(".scaw-outcome")).to_contain_text("which are kept")
    nb.execute("patch.stop()")
    card.get_by_role("button", name="Go on with the download").click()
    expect(card.locator(".scaw-outcome")).to_contain_text("Downloaded and checked")
    expect(card).to_contain_text("This model is on this machine: scarches-lung.")
    card.get_by_role("button", name="Load", exact=True).click()
    expect(view.get_by_role("article").first.locator(".scaw-badge").first).to_have_text("loaded")
    assert in_python(nb, "[type(hub.model).__name__, hub.session.model is hub.model]") == ["SCVI", True]

    # the card is edited, and uploaded into a draft
    mine = view.get_by_role("list", name="Models on this machine")
    mine.get_by_role("button", name="Share").click()
    title = view.get_by_label("Title of the card")
    expect(title).to_have_value("SCVI of 60 genes")
    title.fill("Our lung atlas")
    view.get_by_label("Text of the card").fill("Please cite us.")
    view.get_by_role("button", name="Save card").click()
    expect(mine.get_by_role("article", name="Our lung atlas")).to_be_visible()
    upload = view.get_by_role("button", name="Create the draft")
    expect(upload).to_have_accessible_description("A record needs at least one author.")
    view.get_by_label("Authors").fill("Last, First; Other, An")
    expect(upload).to_have_accessible_description("The token is missing.")
    token = view.get_by_label("Zenodo token").first
    token.fill(TOKEN)
    nb.messages.clear()
    upload.click()
    expect(token).to_have_value("")
    nb.wait_for_text(f"{VIEW} .scaw-notice", "Not public yet")
    (sent,) = [m for m in nb.messages.to_kernel("custom") if m.content["data"]["content"]["op"] == "upload"]
    assert TOKEN not in json.dumps(sent.content), "it travels beside the message, not in its text"
    identifier = in_python(nb, "hub.draft['id']")
    link = view.get_by_role("link", name=f"/deposit/{identifier}")
    assert (link.get_attribute("target"), link.get_attribute("rel")) == ("_blank", "noopener noreferrer")
    assert not in_python(nb, f"server.drafts['{identifier}']['submitted']")

    # publishing is another step, which asks for the title; it is not made public by mistake
    publish = view.get_by_role("button", name="Publish for ever")
    view.get_by_label("Zenodo token").nth(1).fill(TOKEN)
    expect(publish).to_have_accessible_description("Type the title first.")
    expect(publish).to_be_disabled()
    view.get_by_label("Title, typed again").fill("Our lung atlas")
    nb.set_theme("dark")
    assert nb.axe() == []
    publish.click()
    nb.wait_for_text(f"{VIEW} .scaw-notice", "can be found and fetched by everybody")
    assert in_python(nb, f"server.drafts['{identifier}']['submitted']")

    # the page, its saved notebook and the widget's state hold no token; the code does the same without it
    code = view.locator(".scaw-code")
    view.locator(".scaw-code-details > summary").click()
    expect(code).to_contain_text("zenodo.publish_deposition(draft, title='Our lung atlas')")
    nb.reload(VIEW)
    view = ready(nb)
    nb.wait_for_text(f"{VIEW} .scaw-hub-part", "On this machine")
    saved = Path(nb._path).read_text()
    assert "Model hub: " in saved and TOKEN not in saved and TOKEN not in view.evaluate("root => root.outerHTML")
    assert view.locator("input").evaluate_all("all => all.map((one) => one.value)").count(TOKEN) == 0
    assert not in_python(nb, f"{TOKEN!r} in json.dumps(hub.get_manager_state(), default=repr)")


@pytest.mark.slow
def test_by_keyboard_alone_narrow_and_after_the_kernel_is_gone(notebook):
    nb = notebook([DATA, SHOWN])
    nb.run_all()
    view = ready(nb)
    card = search(nb, view)
    nb.tab_to("Download .*")
    nb.press("Enter")
    expect(card.locator(".scaw-outcome")).to_contain_text("Downloaded and checked")
    nb.tab_to("Share …|Load")
    assert nb.focused() == "button Load"
    nb.press("Enter")
    expect(card.locator(".scaw-outcome")).to_have_count(0, timeout=20_000)
    expect(view.locator(".scaw-outcome")).to_contain_text("Loaded: SCVI of 60 genes.")
    assert nb.focused() == "button Load", "the focus stays where it was"
    view.get_by_role("button", name="Share").focus()
    nb.press("Enter")
    expect(view.get_by_label("Title of the card")).to_have_value("SCVI of 60 genes")
    assert view.get_by_label("Model", exact=True).evaluate("one => one === document.activeElement")
    nb.tab_to("Authors")
    nb.page.keyboard.type("dd, x")  # keys that mean something to the notebook
    nb.tab_to("Zenodo token")
    nb.page.keyboard.type(TOKEN)
    nb.tab_to("Create the draft")
    nb.press("Enter")
    nb.wait_for_text(f"{VIEW} .scaw-notice", "Not public yet")
    assert nb.page.evaluate("() => scawPanel.content.model.cells.length") == 2, "a key reached the notebook"
    view.locator("details").evaluate_all("all => all.forEach((one) => { one.open = true; })")
    nb.check_access(view)
    assert nb.axe() == []
    view.get_by_label("Zenodo token").nth(1).fill(TOKEN)
    nb.shut_down_kernel()
    nb.wait_for_text(f"{VIEW} .scaw-badge", "kernel gone")
    expect(view).to_contain_text("what is shown is kept")
    expect(view.get_by_label("Zenodo token").nth(1)).to_have_value("")
    expect(card).to_contain_text("A lung atlas")
    for name in ("Search", "Look again", "Upload again into the draft", "Publish for ever"):
        expect(view.get_by_role("button", name=name, exact=True)).to_be_disabled()
    assert nb.axe() == []
