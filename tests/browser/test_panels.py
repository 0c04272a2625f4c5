"""Training and mapping panels in a real JupyterLab: by keyboard, by mouse, across a reload, with hostile names."""

from __future__ import annotations

import re

import pytest
from playwright.sync_api import expect

pytestmark = pytest.mark.browser

EVIL = "<img src=x onerror='window.hacked = 1'>"
CELLS = f"""import scarches_widgets as sca
adata = sca.datasets.atlas(n_obs=400, n_vars=60)
adata.layers["log"] = adata.X.log1p()
adata.obs[{EVIL!r}] = {EVIL!r}
"""
TRAINING = "panel = sca.widgets.TrainingPanel(adata, n_hidden=16, {})\npanel"
MAPPING = """reference = adata[adata.obs["batch"] != "batch2"].copy()
query = adata[adata.obs["batch"] == "batch2"].copy()
model = sca.models.SCVI(reference, batch_key="batch", labels_key="cell_type", encode_covariates=True, n_hidden=16)
model.train(max_epochs=3, progress=False)
panel = sca.widgets.MappingPanel(model, query, max_epochs=5)
panel"""
PANEL = ".scaw-training-panel"
MAPPER = ".scaw-mapping-panel"


def wait_for_status(nb, css, status):
    """Wait, then the panel, whatever its status becomes."""
    nb.wait_for(f"{css}[data-status={status}]", timeout=60)
    return nb.widget(css)


def ready(nb, css=PANEL):
    """The panel, when it has looked at its data."""
    nb.run_all()
    panel = wait_for_status(nb, css, "ready")
    expect(panel.locator(".scaw-primary")).to_have_attribute("aria-disabled", "false")
    return panel


def fits(view):
    return view.evaluate("e => e.scrollWidth <= e.clientWidth")


def wait_for_epochs(nb, n):
    """Wait until the panel shows more than `n` epochs."""
    nb.page.wait_for_function(
        f"n => Number(document.querySelector('{PANEL}').dataset.epochs) > n", arg=n, timeout=60000
    )


def test_a_model_is_trained_by_keyboard_alone(notebook):
    nb = notebook([CELLS, TRAINING.format("max_epochs=500")])
    panel = ready(nb)
    panel.locator("select").first.focus()
    nb.tab_to("Batch")
    nb.press("b")  # the first choice that begins with it
    nb.tab_to("Latent dimensions")
    nb.press("Control+a", "5", "Tab", "ArrowUp")  # and one more hidden layer
    nb.tab_to("Encoder sees batches")
    nb.press("Space")
    nb.tab_to("Epochs")
    nb.press("Control+a", "3")
    nb.press("Control+Enter")
    wait_for_status(nb, PANEL, "done")
    assert nb.focused() == "button Train anew"
    code = 'SCVI(adata, batch_key="batch", n_latent=5, n_hidden=16, n_layers=2, encode_covariates=True)'
    assert code in nb.execute("print(panel.code())")
    assert nb.execute("print(len(panel.run.epochs), panel.model.config.n_latent)") == "3 5\n"
    assert nb.page.evaluate("() => scawPanel.content.model.cells.length") == 2, "a key reached the notebook"
    nb.tab_to("Code")
    nb.press("Enter")
    expect(panel.locator(".scaw-code")).to_contain_text("model.train(max_epochs=3)")
    nb.tab_to("Copy")
    nb.press("Enter")
    expect(panel.locator(".scaw-code-details")).to_contain_text(re.compile("Copied|Selected"))

    panel.get_by_label("Latent dimensions").fill("77")  # and the field is not left
    nb.execute("panel.set(n_layers=3)")
    expect(panel.get_by_label("Hidden layers")).to_have_value("3")
    expect(panel.get_by_label("Latent dimensions")).to_have_value("77")
    expect(panel.locator(".scaw-code")).to_contain_text("n_latent=77, n_hidden=16, n_layers=3")

    panel.get_by_label("Model", exact=True).select_option("TRVAE")
    expect(panel.get_by_role("heading")).to_have_text("Train TRVAE")
    expect(panel.get_by_label("Hidden layers", exact=True)).to_have_value("256, 64")
    expect(panel.get_by_label("Latent dimensions")).to_have_value("77")
    panel.get_by_label("Latent dimensions").fill("10")  # the default, so a line goes and what is below moves up
    panel.locator(".scaw-advanced > summary").click()
    expect(panel.locator(".scaw-advanced")).to_have_attribute("open", "")


def test_a_wrong_entry_is_told_at_its_field_and_train_is_off_until_it_is_mended(notebook):
    nb = notebook([CELLS, TRAINING.format("max_epochs=2")])
    panel = ready(nb)
    train, latent = panel.locator(".scaw-primary"), panel.get_by_label("Latent dimensions")
    latent.fill("-3")
    latent.press("Tab")
    wait_for_status(nb, PANEL, "invalid")
    sentence = "Latent dimensions must be a whole number from 1 to 4,096, not -3."
    expect(latent).to_have_attribute("aria-invalid", "true")
    expect(latent).to_have_accessible_description(re.compile(re.escape(sentence)))
    expect(train).to_be_disabled()
    expect(train).to_have_accessible_description(sentence)
    train.click(force=True)
    assert latent.evaluate("e => e === document.activeElement")
    assert nb.execute("print(panel.run, panel.status)") == "None invalid\n"

    panel.get_by_label("Counts", exact=True).select_option(label="layers['log'], float32")
    expect(panel.locator("[data-option=layer]")).to_contain_text("with a fraction")
    panel.locator(".scaw-advanced > summary").click()
    dropout = panel.get_by_label("Dropout")
    dropout.press_sequentially("e")  # 0.1e: no number, and the browser does not tell what it is
    dropout.press("Tab")
    expect(panel.locator("[data-option=dropout_rate]")).to_contain_text("must be a number")
    expect(panel.locator(".scaw-advanced > summary")).to_contain_text("2 changed")

    panel.get_by_label("Batch", exact=True).select_option(label=f"{EVIL}, 1 level")
    expect(panel.locator("[data-option=batch_key]")).to_contain_text(f"has the same batch for all cells, '{EVIL}'")
    assert panel.locator("img").count() == 0 and not nb.page.evaluate("'hacked' in window")

    for theme in ("light", "dark"):
        nb.set_theme(theme)
        assert nb.axe() == []
    nb.resize(600)
    assert fits(panel)
    nb.resize(1280)
    nb.zoom(2)
    assert fits(panel)
    nb.zoom(1)

    dropout.fill("0.2")
    panel.get_by_label("Counts", exact=True).select_option(label="X, float32")
    expect(panel.locator("[data-option=layer]")).to_contain_text("X holds raw counts.")
    latent.fill("4")
    train.click()  # at once, before the kernel can say that all is mended
    wait_for_status(nb, PANEL, "done")
    assert nb.execute("print(panel.model.config.n_latent, panel.model.config.dropout_rate)") == "4 0.2\n"
    panel.locator(".scaw-code-details > summary").click()
    expect(panel.locator(".scaw-code")).to_contain_text(f'batch_key="{EVIL}"')
    assert nb.axe() == []


def test_a_run_outlives_a_reload_pauses_and_stops_within_a_second_and_a_lost_kernel_is_told(notebook):
    nb = notebook([CELLS, TRAINING.format("max_epochs=100_000, n_latent=7")])
    panel = ready(nb)
    panel.get_by_label("Batch", exact=True).select_option(label="batch, 3 levels")
    panel.get_by_role("button", name="Train").click()
    wait_for_epochs(nb, 3)
    nb.reload(PANEL)
    panel = wait_for_status(nb, PANEL, "running")
    latent = panel.get_by_label("Latent dimensions")
    expect(latent).to_have_value("7")
    expect(latent).to_be_disabled()
    assert (
        panel.get_by_label("Batch", exact=True).evaluate("e => e.selectedOptions[0].textContent") == "batch, 3 levels"
    )
    expect(panel.locator(".scaw-primary")).to_be_disabled()
    expect(panel.locator(".scaw-primary")).to_have_accessible_description("The training is under way.")
    wait_for_epochs(nb, int(panel.get_attribute("data-epochs")))
    assert nb.axe() == []
    nb.messages.clear()
    nb.page.wait_for_timeout(2000)
    assert len(nb.messages.to_browser()) <= 2 * 10 + 3

    panel.get_by_role("button", name="Pause").click()
    wait_for_status(nb, PANEL, "paused")
    held = int(nb.execute("print(len(panel.run.epochs))"))
    panel.get_by_role("button", name="Resume").click()
    wait_for_epochs(nb, held)
    milliseconds = nb.page.evaluate(
        """async (css) => {
            const panel = document.querySelector(css);
            const start = performance.now();
            [...panel.querySelectorAll("button")].find((one) => one.textContent === "Stop now").click();
            while (panel.dataset.status !== "stopped" && performance.now() - start < 10000) {
                await new Promise((resolve) => setTimeout(resolve, 2));
            }
            return performance.now() - start;
        }""",
        f".jp-OutputArea {PANEL}",
    )
    assert milliseconds < 1000
    assert nb.execute("print(panel.model.get_latent_representation().shape)") == "(400, 7)\n"
    expect(panel.locator(".scaw-outcome")).to_contain_text("Stopped; the model is usable")
    expect(latent).to_be_enabled()

    nb.restart_kernel()
    panel = wait_for_status(nb, PANEL, "detached")
    expect(panel).to_contain_text("The kernel was restarted or has died; what is shown is kept.")
    expect(panel.locator(".scaw-primary")).to_be_disabled()
    expect(panel.locator(".scaw-progress-words")).to_contain_text("of 100,000")


def test_a_query_is_mapped_by_a_click_and_a_panel_without_cells_says_how_to_give_some(notebook):
    nb = notebook([CELLS, MAPPING, "sca.widgets.TrainingPanel()"])
    panel = ready(nb, MAPPER)
    expect(panel.locator(".scaw-overview")).to_contain_text("60 of the reference's 60 genes found (100 %)")
    expect(panel.locator(".scaw-overview")).to_contain_text("Adds 1 new batch: batch2.")
    empty = wait_for_status(nb, PANEL, "empty")
    expect(empty).to_contain_text("call TrainingPanel(adata)")
    expect(empty.locator(".scaw-primary")).to_be_hidden()
    panel.get_by_label("Unknown above").fill("0.4")
    panel.get_by_role("button", name="Map").click()
    wait_for_status(nb, MAPPER, "done")
    results = panel.locator(".scaw-results")
    expect(results).to_contain_text(
        "Written to the query: obsm['X_scvi'], obs['predicted_cell_type'], obs['uncertainty_cell_type']."
    )
    cells = [int(text) for text in results.locator("tbody td:nth-child(2)").all_inner_texts()]
    assert sum(cells) == int(nb.execute("print(query.n_obs)"))
    assert results.locator("svg rect").count() == 20
    unknown = int(nb.execute("print((panel.labels == 'Unknown').sum())"))
    expect(results).to_contain_text(f"{unknown} cell")
    nb.check_access(panel)
    nb.resize(600)
    assert all(fits(view) for view in nb.widgets().all())
    assert fits(results.locator(".scaw-table-host")), "the last column is seen without scrolling"
    nb.reload(MAPPER)
    expect(wait_for_status(nb, MAPPER, "done").locator(".scaw-results tbody tr")).to_have_count(len(cells))


@pytest.mark.slow
def test_presets_an_estimate_and_settings_as_a_file_and_what_is_changed_is_marked(notebook, tmp_path):
    nb = notebook([CELLS, TRAINING.format("batch_key='batch', max_epochs=7")])
    panel = ready(nb)
    epochs = panel.locator("[data-option=max_epochs]")
    expect(epochs.locator(".scaw-change")).to_have_text("changed; default: automatic")
    expect(panel.locator("[data-option=batch_key]")).not_to_contain_text("changed")
    with nb.page.expect_download() as download:
        panel.get_by_role("button", name="Save settings").click()
    expect(panel.locator(".scaw-settings [role=status]")).to_contain_text("fingerprint")
    noted = "print(panel.settings.sha256 == adata.uns['scarches_widgets']['training']['sha256'])"
    assert nb.execute(noted) == "True\n"
    panel.get_by_role("button", name="Published").click()
    expect(panel.locator("[data-option=schedule] .scaw-change")).to_contain_text("changed; default:")
    expect(epochs.locator(".scaw-change")).to_be_hidden()
    panel.get_by_role("button", name="Teaching").click()
    expect(panel.locator(".scaw-estimate")).to_contain_text("Training will take about", timeout=60_000)
    expect(panel.locator("[data-option=schedule] .scaw-change")).to_be_hidden()
    path = tmp_path / "settings.json"
    download.value.save_as(path)
    panel.get_by_label("File of settings").set_input_files(path)
    expect(epochs.locator("input")).to_have_value("7")
    expect(panel.locator(".scaw-estimate")).to_be_hidden()
    panel.get_by_role("button", name="Estimate time").click()
    expect(panel.locator(".scaw-estimate")).to_contain_text("7 epochs", timeout=60_000)
    path.write_text("{}")
    panel.get_by_label("File of settings").set_input_files(path)
    expect(panel.get_by_role("alert").first).to_contain_text("holds no settings of a training")
    nb.check_access(panel)
