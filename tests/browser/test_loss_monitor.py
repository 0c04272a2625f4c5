"""The loss monitor in a real JupyterLab: live curves, reload, second view, buttons, keys, a lost kernel, many runs."""

import json

import pytest
from playwright.sync_api import expect

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
    ends = "() => { const { start, end } = Bokeh.documents.at(-1).get_model_by_name('epochs'); return [start, end]; }"
    whole = nb.page.evaluate(ends)
    nb.draw_over(nb.widget(f"{MONITOR} .scaw-chart"), (0.3, 0.3), (0.6, 0.7))
    nb.page.wait_for_function(f"whole => ({ends})()[1] < 0.7 * whole[1]", arg=whole)
    nb.press("0")
    assert nb.page.evaluate(ends) == whole
    nb.press("t")
    assert nb.widget(MONITOR).locator(".scaw-table tbody tr").count() == 12
    nb.press("l")
    nb.wait_for(f"{MONITOR} button[aria-pressed='true']")
    assert nb.execute("print(run.status)") == "done\n"
    assert nb.axe() == []


@pytest.mark.slow
def test_a_loss_without_neighbours_is_a_point_in_the_first_epoch_and_where_it_comes_later(notebook):
    nb = notebook(
        ["import scarches_widgets as sca\nmonitor = sca.widgets.LossMonitor()\nmonitor.log(loss=3.0)\nmonitor"]
    )
    nb.run_all()
    nb.wait_for(f"{MONITOR} .scaw-chart[data-ready]")
    points = """(key) => {
        const chart = Bokeh.documents.at(-1);
        const { data } = chart.get_model_by_name("alone:0");
        if (!chart.get_model_by_name(`alone:0:${key}`)?.visible) return null;
        return data.epoch.flatMap((epoch, i) => (Number.isNaN(data[key][i]) ? [] : [[epoch, data[key][i]]]));
    }"""
    assert nb.page.evaluate(points, "train_loss") == [[0, 3]]
    nb.execute("for i in range(4): monitor.log({'loss': 2.0, **({'val_loss': 4.0} if i == 1 else {})})")
    wait_for_epochs(nb, 5)
    nb.page.wait_for_function(f"key => JSON.stringify(({points})(key)) === '[[2,4]]'", arg="val_loss")
    assert nb.page.evaluate(points, "train_loss") == []


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


RECORDED = """
import sys, numpy as np, scarches_widgets as sca

def course(n, rate, name, overfits=False):
    told = sca.widgets.LossMonitor(name=name)
    noise = np.random.default_rng(n).normal(0, 1, (n, 2))
    for i in told.wrap(range(n)):
        fall = 400 + 300 * np.exp(-i * rate)
        rise = max(0, i - n // 3) * 1.5 if overfits else 0
        told.log(loss=fall + noise[i, 0], val_loss=fall * 1.02 + rise + noise[i, 1], kl=20 - fall / 40, lr=0.01)
    told.run.wait()
    return told

slow = course(60, 0.05, "slow").record("slow.json")
fast = course(45, 0.2, "fast", overfits=True)
monitor = sca.widgets.LossMonitor(fast.run, name="lr=0.05, fast", compare={"lr=0.01": "slow.json"})
monitor
"""
REPLAYED = """
document = __import__("json").load(open("slow.json"))
document["epochs"]["seconds"] = [20.0] * 60
__import__("json").dump(document, open("slow.json", "w"))
replayed = sca.widgets.LossMonitor.replay("slow.json")
replayed
"""


@pytest.mark.slow
def test_runs_are_compared_smoothed_hidden_and_a_recorded_one_plays_without_torch(notebook):
    nb = notebook([RECORDED, REPLAYED])
    nb.run_all()
    nb.wait_for(f"{MONITOR} .scaw-chart[data-ready]")
    view = nb.widgets(MONITOR).nth(0)
    expect(view.locator(".scaw-runs")).to_contain_text("lr=0.01 done · 60 epochs · best")
    expect(view.locator(".scaw-remark-warning")).to_contain_text("Since epoch")
    assert view.get_by_role("radio", name="loss").is_checked()
    view.get_by_role("radio", name="kl", exact=True).check()
    view.get_by_role("button", name="Log scale").click()
    view.get_by_role("slider", name="Smoothing").fill("0.6")
    chosen = "import json; print(json.dumps([monitor.shown_terms, monitor.log_scale, monitor.smoothing]))"
    expect(view.locator("details pre")).to_contain_text("ewm(alpha=0.4)")
    assert json.loads(nb.execute(chosen)) == [["kl"], True, 0.6]
    view.locator(".scaw-chart").focus()
    nb.press("Home", "ArrowRight")
    expect(view.locator(".scaw-readout")).to_contain_text("Epoch 1: lr=0.05, fast, training")
    expect(view.locator(".scaw-readout")).to_contain_text("lr=0.01, training")
    view.get_by_role("checkbox", name="lr=0.01").uncheck()
    expect(view.locator(".scaw-readout")).not_to_contain_text("lr=0.01,")
    nb.press("t")  # the focus is still within the view, but not on the chart
    assert view.locator("table").count() == 0
    with nb.page.expect_download() as download:
        view.get_by_role("button", name="CSV").click()
    lines = download.value.path().read_text().splitlines()
    assert lines[0].startswith("run,epoch,") and len(lines) == 1 + 45 + 60

    replay = nb.widgets(MONITOR).nth(1)
    expect(replay.locator(".scaw-badge")).to_have_text("running")
    replay.get_by_role("button", name="Pause").click()
    expect(replay.locator(".scaw-badge")).to_have_text("paused")
    replay.get_by_label("Speed").select_option("all at once")
    replay.get_by_role("button", name="Resume").click()
    expect(replay.locator(".scaw-badge")).to_have_text("done")
    expect(replay).to_have_attribute("data-epochs", "60")
    replay.get_by_label("Speed").select_option("1 ×")
    replay.get_by_role("button", name="Play again").click()
    expect(replay.locator(".scaw-badge")).to_have_text("running")
    assert nb.execute("print('torch' in sys.modules)") == "False\n"

    nb.reload(MONITOR)
    nb.wait_for(f"{MONITOR} .scaw-chart[data-ready]")
    assert view.get_by_role("radio", name="kl", exact=True).is_checked(), "what was chosen is kept"
    assert not view.get_by_role("checkbox", name="lr=0.01").is_checked()
    nb.check_access(view, replay)
