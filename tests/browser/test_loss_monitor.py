"""The loss monitor in a real JupyterLab: live curves, reload, second view, buttons, keys, a lost kernel."""

import pytest

pytestmark = pytest.mark.browser

MODEL = """
import warnings; warnings.simplefilter("ignore")
import scarches_widgets as sca
adata = sca.datasets.atlas(n_obs=400, n_vars=60, seed=1)
model = sca.models.SCVI(adata, batch_key="batch", encode_covariates=True, n_hidden=16)
"""
SHOW = "monitor = sca.widgets.LossMonitor(model)\nmonitor"
TRAIN = "run = model.train(max_epochs=100_000, batch_size=64, background=True)"
MONITOR = ".scaw-loss-monitor"


def epochs(notebook, view=0) -> int:
    return int(notebook.widgets(MONITOR).nth(view).get_attribute("data-epochs"))


def wait_for_epochs(notebook, n, view=0):
    notebook.page.wait_for_function(
        "([css, view, n]) => Number(document.querySelectorAll(css)[view]?.dataset.epochs) >= n", arg=[MONITOR, view, n]
    )


def wait_for_status(notebook, status, timeout=60_000):
    notebook.page.wait_for_function(
        "([css, status]) => document.querySelector(css)?.dataset.status === status",
        arg=[MONITOR, status],
        timeout=timeout,
    )


def click(notebook, name):
    notebook.widget(MONITOR).get_by_role("button", name=name, exact=True).click()


@pytest.mark.parametrize("theme", ["light", pytest.param("dark", marks=pytest.mark.slow)])
def test_a_run_is_watched_paused_resumed_and_complete_after_a_reload_and_a_lost_kernel(notebook, theme):
    nb = notebook([MODEL, SHOW, TRAIN, "monitor"], theme=theme)
    nb.run_all()
    nb.wait_for(f"{MONITOR} .scaw-chart[data-ready]")
    wait_for_epochs(nb, 5)
    wait_for_epochs(nb, 5, view=1)  # the second view, made while training, is complete too
    assert nb.axe() == []

    click(nb, "Pause")
    wait_for_status(nb, "paused")
    held = int(nb.execute("print(len(run.epochs))"))
    click(nb, "Resume")
    wait_for_status(nb, "running")
    wait_for_epochs(nb, held + 2)

    before = epochs(nb)
    nb.reload(MONITOR)
    wait_for_epochs(nb, before + 3)  # all of the history, and it goes on
    wait_for_epochs(nb, before + 3, view=1)
    nb.wait_for(f"{MONITOR} .scaw-chart[data-ready]")

    click(nb, "Pause")  # after a reload too
    wait_for_status(nb, "paused")
    click(nb, "Stop now")
    wait_for_status(nb, "stopped")

    nb.restart_kernel()
    wait_for_status(nb, "detached")
    assert "picture is kept" in nb.widget(MONITOR).inner_text()
    assert nb.widget(f"{MONITOR} .scaw-chart").locator("canvas").count() > 0
    assert nb.axe() == []


def test_stop_now_ends_the_run_within_a_second_and_leaves_a_usable_model(notebook):
    nb = notebook([MODEL, SHOW, TRAIN])
    nb.run_all()
    wait_for_epochs(nb, 5)
    nb.execute("import time; heard = []; monitor.on_msg(lambda *_: heard.append(time.monotonic()))")
    nb.execute("run.subscribe(lambda event: type(event).__name__ == 'RunEnded' and heard.append(time.monotonic()))")
    click(nb, "Stop now")
    wait_for_status(nb, "stopped")
    assert float(nb.execute("print(heard[-1] - heard[0])")) < 1
    usable = nb.execute("import numpy as np; print(run.status, np.isfinite(model.get_latent_representation()).all())")
    assert usable == "stopped True\n"
    wait_for_epochs(nb, int(nb.execute("print(len(run.epochs))")))


def test_the_chart_is_read_by_keyboard_as_a_cursor_and_as_a_table(notebook):
    nb = notebook([MODEL, SHOW, "run = model.train(max_epochs=12, batch_size=64, background=True); run.wait()"])
    nb.run_all()
    nb.wait_for(f"{MONITOR} .scaw-chart[data-ready]")
    wait_for_epochs(nb, 12)
    nb.widget(f"{MONITOR} .scaw-chart").focus()
    nb.press("Home")
    assert "Epoch 0:" in nb.widget(f"{MONITOR} .scaw-readout").inner_text()
    nb.press("ArrowRight", "ArrowRight")
    assert "Epoch 2:" in nb.widget(f"{MONITOR} .scaw-readout").inner_text()
    nb.press("t")
    assert nb.widget(MONITOR).locator(".scaw-table tbody tr").count() == 12
    nb.press("l")
    nb.wait_for(f"{MONITOR} button[aria-pressed='true']")
    assert nb.execute("print(run.status)") == "done\n"
    assert nb.axe() == []


@pytest.mark.slow
def test_a_foreground_run_is_live_says_what_stops_it_and_one_interrupt_keeps_the_model(notebook):
    nb = notebook(
        [
            MODEL,
            SHOW,
            "model.train(max_epochs=100_000, batch_size=64)",
            "print(model.run.status, len(model.history) > 0)",
        ]
    )
    nb.run_cell(0)
    nb.run_cell(1)
    nb.wait_for(MONITOR)
    nb.run_cell(2, wait=False)
    wait_for_epochs(nb, 5)  # the curve is live while the kernel is busy
    nb.wait_for_text(MONITOR, "only the kernel's")
    assert nb.widget(MONITOR).get_by_role("button", name="Stop now").is_disabled()
    nb.interrupt()
    nb.wait_for_status("idle")
    assert "Traceback" not in str(nb.outputs(2))
    wait_for_status(nb, "stopped")
    nb.run_cell(3)
    assert "stopped True" in str(nb.outputs(3))
