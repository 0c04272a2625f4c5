"""The loss monitor without a browser: what it would tell a page, and what a page may tell it."""

import threading
import time

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from small import SMALL

import scarches_widgets as sca
from scarches_widgets.training.events import EpochEnded, RunEnded, RunStarted, StepEnded
from scarches_widgets.training.run import TrainingRun
from scarches_widgets.widgets import LossMonitor


def script(n_epochs, gate=None, seconds=0.0):
    """The events of a run that learns nothing; waits for `gate` before its first step."""
    yield RunStarted(90, 10, n_epochs, 1, 0, "in a test", patience=5)
    for epoch in range(n_epochs):
        if gate is not None:
            gate.wait()
        time.sleep(seconds)
        yield StepEnded(epoch, 0, 1, 1.0)
        train = {
            "reconstruction": 9.0 / (epoch + 1),
            "kl_latent": 1.0,
            "loss": 9.5,
            "unweighted_loss": 10.0 / (epoch + 1),
        }
        yield EpochEnded(epoch, train, dict(train), 0.01, min(1.0, epoch / 4), True, 0, 0.001)
    yield RunEnded("done", "all epochs done", n_epochs, None)


class Watched(LossMonitor):
    """Keeps what it sends."""

    def __init__(self, source):
        self.sent = []
        super().__init__(source)

    def send(self, content, buffers=None):
        self.sent.append((time.monotonic(), content, buffers))


def rows_of(monitor):
    """The history as a page would put it together from the state."""
    return np.frombuffer(monitor.get_state("values")["values"], dtype=np.float32).reshape(-1, 3 + len(monitor.series))


def wait_until(condition, seconds=10):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def click(monitor, **content):
    monitor._handle_msg({"content": {"data": {"method": "custom", "content": content}}, "buffers": []})


@pytest.fixture
def endless():
    """A run of many epochs, held at its first step until the test ends."""
    gate = threading.Event()
    run = TrainingRun(script(100_000, gate))
    yield run, gate
    run.stop()
    gate.set()


def test_the_state_holds_every_epoch_and_a_second_page_is_complete():
    run = TrainingRun(script(30))
    monitor = LossMonitor(run)
    run.start().wait(10)
    wait_until(lambda: monitor.status == "done")
    rows = rows_of(monitor)
    np.testing.assert_array_equal(rows[:, 0], np.arange(30))
    keys = [one["key"] for one in monitor.series]
    np.testing.assert_allclose(rows[:, 3 + keys.index("train_unweighted_loss")], 10 / np.arange(1, 31), rtol=1e-6)
    assert list(monitor.history.index) == list(range(30))


def test_a_monitor_attached_in_the_middle_shows_the_epochs_before():
    run = TrainingRun(script(200, seconds=0.005)).start()
    wait_until(lambda: len(run.epochs) > 20)
    monitor = LossMonitor(run)
    assert len(rows_of(monitor)) > 20
    run.wait(20)
    wait_until(lambda: monitor.status == "done")
    np.testing.assert_array_equal(rows_of(monitor)[:, 0], np.arange(200))


def test_a_monitor_of_a_paused_run_puts_what_there_was_into_its_state(endless):
    run, gate = endless
    gate.set()
    run.start()
    wait_until(lambda: len(run.epochs) > 3)
    run.pause()
    wait_until(lambda: run.status == "paused")
    told = []

    class Listened(LossMonitor):
        def send_state(self, key=None):
            told.append((key, len(self._rows)))
            super().send_state(key)

    Listened(run)
    assert (["values", "info"], len(run.epochs)) in told  # a message alone would come before the page listens


def test_messages_are_few_small_and_without_gap():
    run = TrainingRun(script(10_000))
    monitor = Watched(run)
    start = time.monotonic()
    run.start().wait(60)
    wait_until(lambda: monitor.status == "done" and sum(len(b[0]) for _, _, b in monitor.sent) > 0)
    wait_until(lambda: monitor._sent == 10_000)
    elapsed = time.monotonic() - start
    assert len(monitor.sent) <= 10 * elapsed + 2
    assert sum(len(buffers[0]) + 500 for _, _, buffers in monitor.sent) <= 1.5e6
    received = 0
    for _, content, buffers in monitor.sent:
        assert content["start"] == received
        received += len(buffers[0]) // (4 * (3 + len(monitor.series)))
    assert received == 10_000


def test_pause_resume_and_stop_are_what_the_buttons_send(endless):
    run, gate = endless
    monitor = LossMonitor(run)
    gate.set()
    run.start()
    click(monitor, op="pause")
    wait_until(lambda: run.status == "paused")
    wait_until(lambda: monitor.status == "paused")
    click(monitor, op="resume")
    wait_until(lambda: run.status == "running")
    click(monitor, op="stop", when="epoch")
    assert run.wait(10) == "stopped"
    wait_until(lambda: monitor.status == "stopped")


def test_a_monitor_of_a_model_follows_its_next_run(reference_cells):
    model = sca.models.SCVI(reference_cells, batch_key="batch", **SMALL)
    monitor = LossMonitor(model)
    assert monitor.status == "empty" and monitor.run is None
    model.train(max_epochs=3, batch_size=64, progress=False)
    wait_until(lambda: monitor.status == "done")
    assert monitor.run is model.run
    model.train(max_epochs=2, batch_size=64, progress=False)
    wait_until(lambda: monitor.status == "done" and len(rows_of(monitor)) == 2)


def test_in_the_foreground_its_buttons_do_nothing_and_it_says_why(reference_cells):
    model = sca.models.SCVI(reference_cells, batch_key="batch", **SMALL)
    monitor = LossMonitor(model)
    model.watch_runs(lambda run: run.subscribe(lambda event: click(monitor, op="stop")))
    run = model.train(max_epochs=3, batch_size=64, progress=False)
    assert run.status == "done" and len(run.epochs) == 3
    assert monitor.get_state("info")["info"]["in_foreground"] is True


def test_a_failed_run_is_told_in_sentences():
    def failing():
        yield from script(2)
        raise ArithmeticError("The loss became NaN in epoch 2. Try lr=0.001.")

    run = TrainingRun(failing())
    monitor = LossMonitor(run)
    run.start()
    wait_until(lambda: monitor.status == "failed")
    assert monitor.error["what"] == "The loss became NaN in epoch 2."
    assert "lr=0.001" in monitor.error["mend"]


def test_the_saved_notebook_has_a_picture_and_its_text():
    run = TrainingRun(script(5))
    monitor = LossMonitor(run)
    run.start().wait(10)
    wait_until(lambda: monitor.status == "done")
    data, _ = monitor._repr_mimebundle_()
    assert "data:image/png;base64," in data["text/html"]
    assert "5 epochs" in data["text/plain"]
    assert monitor.snapshot("svg").data.lstrip().startswith("<")


def test_the_page_can_write_no_trait_of_the_monitor(endless):
    monitor = LossMonitor(endless[0])
    monitor.set_state({"status": "done", "series": [], "figure": {}, "values": None, "error": {}, "_esm": "forged"})
    assert monitor.status == "ready" and monitor.error is None and monitor._esm != "forged"


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=500, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=json_values, method=st.sampled_from(["update", "custom", "request_state", "x"]), op=st.text(max_size=6))
def test_forged_messages_start_nothing_and_break_nothing(content, method, op):
    run = TrainingRun(script(1))
    monitor = getattr(test_forged_messages_start_nothing_and_break_nothing, "monitor", None) or LossMonitor(run)
    test_forged_messages_start_nothing_and_break_nothing.monitor = monitor
    for body in (content, {"op": op}, {"op": "stop", "when": content}, {"op": "pause", "extra": content}):
        monitor._handle_msg({"content": {"data": {"method": method, "content": body, "state": content}}, "buffers": []})
    assert monitor.status == "ready" and monitor.run.status == "ready"
