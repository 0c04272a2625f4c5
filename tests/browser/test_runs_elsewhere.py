"""Runs that the kernel itself does not compute, in a real JupyterLab: several processes, a sweep, somebody's loop."""

from __future__ import annotations

import pytest
from playwright.sync_api import expect

pytestmark = [pytest.mark.browser, pytest.mark.slow]

PANEL, MONITOR = ".scaw-training-panel", ".scaw-loss-monitor"
CELLS = """import warnings; warnings.simplefilter("ignore")
import scarches_widgets as sca
adata = sca.datasets.atlas(n_obs=400, n_vars=60, seed=1)
"""
TRAINING = """panel = sca.widgets.TrainingPanel(adata, batch_key="batch", n_hidden=16, max_epochs=100_000)
display(panel, panel.monitor)"""
SWEEP = """sweep = sca.bridges.sweeps.Sweep(
    "SCVI", adata, "sweep", {"n_latent": [2, 4]}, n_trials=1000, batch_key="batch", n_hidden=16, max_epochs=20,
)
trials = sca.widgets.LossMonitor(sweep.start())
trials"""
HELD = """import threading
from scarches_widgets.mapping.executors import SerialExecutor

class Held(SerialExecutor):
    def imap(self, function, tasks):
        for outcome in super().imap(function, tasks):
            yield outcome
            between.set()
            go_on.wait(300)

between, go_on = threading.Event(), threading.Event()
sweep = sca.bridges.sweeps.Sweep(
    "SCVI", adata, "held", {"n_latent": [2, 4]}, n_trials=9, executor=Held(), batch_key="batch", max_epochs=3,
)
sca.widgets.LossMonitor(sweep.start())"""
LOOP = """import threading, time

def loop():
    for i in mine.wrap(range(100_000)):
        mine.log(loss=100 + 50 / (1 + i))
        time.sleep(0.02)
        mine.log(val_loss=105 + 50 / (1 + i))

mine = sca.widgets.LossMonitor(name="my loop")
thread = threading.Thread(target=loop)
thread.start()
mine"""


def wait_for_epochs(nb, css, n):
    """Wait until the first view of this kind shows more than `n` epochs."""
    nb.page.wait_for_function(
        "([css, n]) => Number(document.querySelector(css)?.dataset.epochs) > n", arg=[css, n], timeout=90_000
    )


def test_two_processes_train_from_the_panel_are_found_again_after_a_reload_and_stopped(notebook):
    nb = notebook([CELLS, TRAINING], theme="dark")
    nb.run_all()
    nb.wait_for(f"{PANEL}[data-status=ready]")
    panel = nb.widget(PANEL)
    panel.locator(".scaw-advanced > summary").click()
    panel.get_by_label("Processes").fill("2")
    panel.get_by_role("button", name="Train", exact=True).click()
    wait_for_epochs(nb, PANEL, 2)
    wait_for_epochs(nb, MONITOR, 2)
    nb.wait_for(f"{MONITOR} .scaw-chart[data-ready]")
    [rows] = nb.page.evaluate("Bokeh.documents.map((one) => one.get_model_by_name('raw:0').data.epoch)")
    assert rows == list(range(len(rows))), "each epoch is drawn once"
    expect(panel).to_contain_text("Several processes train, which cannot be paused.")
    assert (
        nb.execute("print(len(panel.run.processes), [one.poll() for one in panel.run.processes])") == "2 [None, None]\n"
    )
    before = int(nb.widget(MONITOR).get_attribute("data-epochs"))
    nb.reload(PANEL)
    nb.wait_for(f"{PANEL}[data-status=running]")
    wait_for_epochs(nb, PANEL, before)
    wait_for_epochs(nb, MONITOR, before)
    for theme in ("light", "dark"):
        nb.set_theme(theme)
        assert nb.axe() == [], theme
    panel.get_by_role("button", name="Stop now").click()
    nb.wait_for(f"{PANEL}[data-status=stopped]", timeout=60)
    nb.wait_for(f"{MONITOR}[data-status=stopped]")
    assert nb.execute("print(panel.model.get_latent_representation().shape)") == "(400, 10)\n"
    assert nb.execute("print(sum(one.poll() is None for one in panel.run.processes))") == "0\n"


def test_one_press_of_stop_between_two_trials_ends_the_sweep_after_a_reload_too(notebook):
    nb = notebook([CELLS, HELD])
    nb.run_all()
    assert nb.execute("print(between.wait(60), [run.status for run in sweep.runs])") == "True ['done']\n"
    wait_for_epochs(nb, MONITOR, 2)
    nb.reload(MONITOR)
    trials = nb.widget(MONITOR)
    expect(trials).to_have_attribute("data-status", "running")
    expect(trials.locator(".scaw-facts")).to_contain_text("1 of 9 trials begun · epoch 3 of 3")
    expect(trials.get_by_role("button", name="Pause")).to_be_hidden()
    trials.get_by_role("button", name="Stop", exact=True).click()
    expect(trials).to_have_attribute("data-status", "stopping")
    assert nb.execute("go_on.set(); print(sweep.wait(60), list(sweep.table['status']))") == "stopped ['done']\n"
    expect(trials).to_have_attribute("data-status", "stopped")
    expect(trials.get_by_role("button", name="Stop", exact=True)).to_be_disabled()


def test_a_sweep_and_somebodys_loop_are_live_and_each_is_stopped_by_its_button(notebook):
    nb = notebook([CELLS, SWEEP, LOOP], theme="dark")
    nb.run_all()
    trials, mine = nb.widgets(MONITOR).nth(0), nb.widgets(MONITOR).nth(1)
    expect(trials.locator(".scaw-runs")).to_contain_text("trial 2", timeout=60_000)
    expect(trials.locator(".scaw-runs")).to_contain_text("trial 0 done · 20 epochs · best")
    nb.page.wait_for_function(
        "css => [...document.querySelectorAll(css)].every((one) => one.dataset.ready)", arg=f"{MONITOR} .scaw-chart"
    )
    assert nb.axe() == []
    trials.get_by_role("button", name="Stop", exact=True).click()
    assert nb.execute("print(sweep.wait(60), len(sweep.table) >= 3)") == "stopped True\n"
    expect(trials).to_have_attribute("data-status", "stopped")
    expect(trials.get_by_role("button", name="Stop", exact=True)).to_be_disabled()

    expect(mine).to_have_attribute("data-status", "running")
    expect(mine.get_by_role("button", name="Pause")).to_be_hidden()
    mine.get_by_role("button", name="Stop", exact=True).click()
    expect(mine).to_have_attribute("data-status", "stopped", timeout=20_000)
    whole = "mine.history[['train_loss', 'val_loss']].notna().all(axis=None)"
    assert (
        nb.execute(f"thread.join(10); print(thread.is_alive(), len(mine.history) > 5, {whole})") == "False True True\n"
    )
