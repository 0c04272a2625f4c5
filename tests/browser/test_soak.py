"""A very long run before a page: how much it is told, what the telling costs the run, what stays behind in the page."""

from __future__ import annotations

import json
import statistics
from itertools import pairwise

import pytest

from .test_embedding_view import ADATA, UMAP, wait_for_selected

pytestmark = [pytest.mark.browser, pytest.mark.slow]

MONITOR, CELLS = ".scaw-loss-monitor", ".scaw-embedding-view"
MOST_MESSAGES = 10  # a second, of one widget
# Runs of small, known cost, one after the other in one panel and its monitor. What the monitor takes of the processor
# is the time of its own two doors, each by the clock of the thread that goes through it: `_take`, for which the run
# waits, and `_publish`, which makes the messages and hands them to the kernel.
RUNS = """
import time
from widgets.test_loss_monitor import script
import scarches_widgets as sca
from scarches_widgets.training.run import TrainingRun

def timed(function, name):
    def call(*arguments):
        start = time.thread_time()
        function(*arguments)
        spent[name] += time.thread_time() - start
    return call

def go(n_epochs, seconds):
    global run
    run = TrainingRun(script(n_epochs, seconds=seconds))
    panel._attach(panel.model, run)
    run.start()

panel = sca.widgets.TrainingPanel(sca.datasets.atlas(n_obs=200, n_vars=50, n_batches=2, n_types=2, seed=0))
spent = {"take": 0.0, "publish": 0.0}
monitor = panel.monitor
monitor._take = timed(monitor._take, "take")
monitor._publisher._publish = timed(monitor._publisher._publish, "publish")
panel
"""
# Ticks of a session: cells are chosen, and coloured anew, faster than anybody looks.
TICKS = """
import time

def tick(n, chosen):
    for i in range(n):
        umap.selection = [i % 400, 7 * i % 400]
        if i % 25 == 0:
            session.color = ("type", "depth", "batch", "3", None)[i // 25 % 5]
        time.sleep(0.001)
    umap.selection = range(chosen)
"""


def counter(nb):
    """A function that counts what the page holds after its garbage has been collected: bytes, listeners, nodes."""
    devtools = nb.page.context.new_cdp_session(nb.page)
    for domain in ("Performance", "HeapProfiler"):
        devtools.send(f"{domain}.enable")

    def held():
        devtools.send("HeapProfiler.collectGarbage")
        metrics = {one["name"]: one["value"] for one in devtools.send("Performance.getMetrics")["metrics"]}
        counters = devtools.send("Memory.getDOMCounters")
        return metrics["JSHeapUsedSize"], counters["jsEventListeners"], counters["nodes"]

    return held


@pytest.fixture
def soaked(notebook):
    """The notebook with a panel and its monitor, and its `counter`."""
    nb = notebook([RUNS, "monitor"])
    nb.run_all()
    nb.wait_for(MONITOR)
    return nb, counter(nb)


def wait_for_epochs(nb, n, status):
    nb.page.wait_for_function(
        "([css, n, status]) => { const { epochs, status: is } = document.querySelector(css).dataset;"
        " return Number(epochs) >= n && status.includes(is); }",
        arg=[MONITOR, n, status],
        timeout=600_000,
    )


def test_ten_thousand_epochs_are_few_messages_small_and_cost_the_run_next_to_nothing(soaked, record_property):
    nb, held = soaked
    nb.execute("go(10, 0)")  # Bokeh is imported and the chart made once in a kernel's life, however long its runs
    wait_for_epochs(nb, 10, ["done"])
    nb.execute("run.wait(); spent.update(take=0.0, publish=0.0)")
    nb.messages.clear()
    nb.execute("start = time.monotonic(); go(10_000, 0.005)")
    wait_for_epochs(nb, 2_500, ["running"])
    _, listeners, _ = held()
    wait_for_epochs(nb, 10_000, ["done"])
    duration, spent = json.loads(nb.execute("import json; print(json.dumps([time.monotonic() - start, spent]))"))
    received = nb.messages.to_browser()
    told = f"{duration:.1f} s, {len(received)} messages, {nb.messages.size(received):,} bytes, processor: {spent}"
    record_property("measured", told)
    of_widgets = [[one for one in received if one.comm == comm] for comm in {message.comm for message in received}]
    assert max(map(len, of_widgets)) <= MOST_MESSAGES * duration
    assert max(map(nb.messages.size, of_widgets)) <= 1.5e6
    assert sum(spent.values()) <= 0.02 * duration
    assert held()[1] <= listeners


def test_run_after_run_nothing_stays_behind_in_the_page(soaked, record_property):
    nb, held = soaked
    after = []
    for _ in range(6):
        nb.execute("go(1000, 0.0003)")
        wait_for_epochs(nb, 1000, ["done"])
        nb.execute("run.wait()")
        after.append(held())
    record_property("held", after)
    check_flat(after[1:])  # the first makes the chart


def test_ten_thousand_selections_and_colours_leave_nothing_behind_in_the_page(notebook, record_property):
    nb = notebook([ADATA, UMAP, TICKS])
    nb.run_all()
    nb.wait_for(f"{CELLS} .scaw-chart[data-ready]")
    held, after = counter(nb), []
    for chosen in range(11, 16):
        nb.execute(f"tick(2000, {chosen})", timeout=300)
        wait_for_selected(nb, chosen)
        after.append(held())
    record_property("held", after)
    check_flat(after)


def check_flat(held):
    heap, listeners, nodes = zip(*held)
    assert typical_growth(listeners) <= 1, listeners
    assert typical_growth(nodes) <= 20, nodes
    assert heap[-1] - heap[0] <= 1_000_000, heap


def typical_growth(counts) -> float:
    """From one run to the next: what is left behind comes with every run, what JupyterLab lays out late comes once."""
    return statistics.median(after - before for before, after in pairwise(counts))
