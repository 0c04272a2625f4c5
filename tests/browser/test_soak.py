"""A very long run before a page: how much it is told, what the telling costs the run, what stays behind in the page."""

from __future__ import annotations

import json
import statistics
from itertools import pairwise

import pytest

pytestmark = [pytest.mark.browser, pytest.mark.slow]

MONITOR = ".scaw-loss-monitor"
# Runs of small, known cost, one after the other in one monitor. What the monitor takes of the processor is the time of
# its own two doors, each by the clock of the thread that goes through it: `_take`, for which the run waits, and
# `_publish`, which makes the messages and hands them to the kernel.
RUNS = """
import time
from widgets.test_loss_monitor import script
import scarches_widgets as sca
from scarches_widgets.training.run import TrainingRun

class Source:
    run = None
    def watch_runs(self, watcher): self.watcher = watcher

def timed(function, name):
    def call(*arguments):
        start = time.thread_time()
        function(*arguments)
        spent[name] += time.thread_time() - start
    return call

def go(n_epochs, seconds):
    global run
    run = TrainingRun(script(n_epochs, seconds=seconds))
    source.watcher(run)
    run.start()

source, spent = Source(), {"take": 0.0, "publish": 0.0}
monitor = sca.widgets.LossMonitor(source)
monitor._take = timed(monitor._take, "take")
monitor._publisher._publish = timed(monitor._publisher._publish, "publish")
monitor
"""


@pytest.fixture
def soaked(notebook):
    """The notebook, and a function that counts what the page holds after its garbage has been collected."""
    nb = notebook([RUNS])
    nb.run_all()
    nb.wait_for(MONITOR)
    devtools = nb.page.context.new_cdp_session(nb.page)
    for domain in ("Performance", "HeapProfiler"):
        devtools.send(f"{domain}.enable")

    def held():
        devtools.send("HeapProfiler.collectGarbage")
        metrics = {one["name"]: one["value"] for one in devtools.send("Performance.getMetrics")["metrics"]}
        counters = devtools.send("Memory.getDOMCounters")
        return metrics["JSHeapUsedSize"], counters["jsEventListeners"], counters["nodes"]

    return nb, held


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
    assert len(received) <= 10 * duration
    assert nb.messages.size(received) <= 1.5e6
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
    heap, listeners, nodes = zip(*after[1:])  # the first makes the chart
    assert typical_growth(listeners) <= 1
    assert typical_growth(nodes) <= 20
    assert heap[-1] - heap[0] <= 1_000_000


def typical_growth(counts) -> float:
    """From one run to the next: what is left behind comes with every run, what JupyterLab lays out late comes once."""
    return statistics.median(after - before for before, after in pairwise(counts))
