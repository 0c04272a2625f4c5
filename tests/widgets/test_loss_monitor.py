"""The loss monitor without a browser: what it would tell a page, and what a page may tell it."""

import threading
import time
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from IPython.core.interactiveshell import InteractiveShell
from small import SMALL

import scarches_widgets as sca
from scarches_widgets.data.names import DataError
from scarches_widgets.mapping import pictures
from scarches_widgets.training.events import EpochEnded, RunEnded, RunStarted, StepEnded
from scarches_widgets.training.run import TrainingRun
from scarches_widgets.widgets import LossMonitor
from scarches_widgets.widgets.loss_tracks import lines_of


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
    n = len([one for one in monitor.series if one["run"] == "0"])
    return np.frombuffer(monitor.get_state("values")["values"]["0"], dtype=np.float32).reshape(-1, 3 + n)


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
            told.append((key, sum(len(track.rows) for track in self._tracks)))
            super().send_state(key)

    Listened(run)
    assert (["values", "info"], len(run.epochs)) in told  # a message alone would come before the page listens


def received_by(monitor) -> int:
    """Epochs that messages have told without a gap, after those that came with the chart."""
    received = None
    for _, content, buffers in monitor.sent:
        for part, rows in zip(content["parts"], buffers):
            assert part == {"key": "0", "start": part["start"] if received is None else received}
            received = part["start"] + len(rows) // (4 * (3 + len(monitor.series)))
    return received


def test_messages_are_few_small_and_without_gap():
    run = TrainingRun(script(10_000))
    monitor = Watched(run)
    start = time.monotonic()
    run.start().wait(60)
    wait_until(lambda: monitor.status == "done" and any(b for _, _, b in monitor.sent))
    wait_until(lambda: len(monitor.history) == 10_000 and received_by(monitor) == 10_000)
    elapsed = time.monotonic() - start
    assert len(monitor.sent) <= 10 * elapsed + 2
    assert sum(len(b"".join(buffers)) + 500 for _, _, buffers in monitor.sent) <= 1.5e6


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


# Several runs, recorded runs, others' loops


def trained(n_epochs=5):
    run = TrainingRun(script(n_epochs))
    run.start().wait(10)
    return run


def test_runs_are_drawn_together_by_name_each_in_a_colour_of_its_own(tmp_path):
    path = LossMonitor(trained(8)).record(tmp_path / "first.json", "a record")
    monitor = LossMonitor(trained(5), compare={"lr=0.1": trained(3)}, name="now")
    monitor.add(path)
    monitor.add(trained(4).history)
    assert [one["name"] for one in monitor.runs] == ["now", "lr=0.1", "a record", "run 4"]
    assert len({one["colour"] for one in monitor.runs}) == 4
    colours = {(one["run"], one["colour"]) for one in monitor.series}
    assert colours == {(one["key"], one["colour"]) for one in monitor.runs}, "by run, whatever the term"
    facts = monitor.get_state("info")["info"]["runs"]
    standing = [(facts[one["key"]]["n_epochs"], facts[one["key"]]["best_epoch"]) for one in monitor.runs]
    assert standing == [(5, 4), (3, 2), (8, 7), (4, 3)]
    values = monitor.get_state("values")["values"]
    for one in monitor.runs:
        keys = [line["key"] for line in monitor.series if line["run"] == one["key"]]
        rows = np.frombuffer(values[one["key"]], dtype=np.float32).reshape(-1, 3 + len(keys))
        expected = monitor.histories[one["name"]]["val_unweighted_loss"]
        np.testing.assert_allclose(rows[:, 3 + keys.index("val_unweighted_loss")], expected, rtol=1e-6)
    monitor.remove("a record")
    assert [one["name"] for one in monitor.runs] == ["now", "lr=0.1", "run 4"]


def test_a_run_that_cannot_be_compared_is_refused_with_the_reason(monkeypatch):
    monkeypatch.setattr("scarches_widgets.widgets.loss_monitor.figure_item", lambda figure: {})
    monitor = LossMonitor(trained())
    with pytest.raises(DataError, match="has no epochs yet"):
        monitor.add(TrainingRun(script(3)))
    with pytest.raises(DataError, match="called 'this run' already"):
        monitor.add(trained(), "this run")
    with pytest.raises(TypeError, match="was given a int"):
        monitor.add(3)
    monitor.add(trained())
    with pytest.raises(DataError, match=r"is called 'run 22'\. Did you mean 'run 2'\?"):
        monitor.remove("run 22")
    for _ in range(4):
        monitor.add(trained())
    with pytest.raises(DataError, match="6 runs are drawn already"):
        monitor.add(trained())


def test_a_model_that_is_trained_again_can_be_compared_with_its_earlier_runs_by_a_click():
    class Model:
        run = history = None

        def watch_runs(self, watcher):
            self.watcher = watcher

    model = Model()
    monitor = LossMonitor(model)
    for n in (3, 4):
        model.watcher(trained(n))
    assert monitor.get_state("info")["info"]["n_earlier"] == 1
    click(monitor, op="overlay")
    assert {name: len(history) for name, history in monitor.histories.items()} == {"this run": 4, "run 1": 3}
    assert monitor.get_state("info")["info"]["n_earlier"] == 0


@pytest.mark.parametrize("several", [False, True])
def test_the_code_draws_what_the_page_shows(several, monkeypatch):
    drawn = []
    monkeypatch.setattr(pd.DataFrame, "plot", lambda frame, **options: drawn.append((frame, options)))
    run = trained(30)
    monitor = LossMonitor(run, compare={'an "other"': trained(20)} if several else None)
    monitor.set_state({"log_scale": True, "smoothing": 0.6, "shown_terms": ["kl_latent"], "hidden_runs": ["7", []]})
    assert monitor.script == monitor.code() and monitor.hidden_runs == []
    exec(monitor.code(), {"monitor": monitor})
    [(frame, options)] = drawn
    assert options == {"logy": True} and len(frame) == 30
    ours = frame["this run"] if several else frame
    np.testing.assert_allclose(ours["val_kl_latent"], run.history["val_kl_latent"].ewm(alpha=0.4).mean())
    assert list(ours) == ["train_kl_latent", "val_kl_latent"]
    if several:
        monitor.set_state({"hidden_runs": ["0"]})
        exec(monitor.code(), {"monitor": monitor})
        assert list(drawn[1][0].columns.get_level_values(0).unique()) == ['an "other"']


def test_runs_whose_losses_have_other_names_are_drawn_each_by_its_main_term(monkeypatch):
    frames = []
    monkeypatch.setattr(pd.DataFrame, "plot", lambda frame, **options: frames.append(frame))
    theirs = pd.DataFrame({"train_elbo": [3.0, 2.0], "val_elbo": [4.0, 3.0], "kl_latent_train": [1.0, 1.0]})
    monitor = LossMonitor(trained(5), compare={"theirs": theirs}, name="ours")
    drawn = {
        "unweighted_loss": {
            "ours": ["train_unweighted_loss", "val_unweighted_loss"],
            "theirs": ["train_elbo", "val_elbo"],
        },
        "kl_latent": {"ours": ["train_kl_latent", "val_kl_latent"], "theirs": ["train_kl_latent"]},
        "reconstruction": {"ours": ["train_reconstruction", "val_reconstruction"]},
    }
    assert monitor.shown_terms == ["unweighted_loss"]
    for term, columns in (drawn | {"elbo": drawn["unweighted_loss"]}).items():
        monitor.set_state({"shown_terms": [term]})
        exec(monitor.code(), {"monitor": monitor})
        assert list(frames[-1]) == [(name, key) for name, keys in columns.items() for key in keys]
    monitor.set_state({"shown_terms": ["elbo"], "hidden_runs": ["0"]})
    assert "theirs, held out" in monitor.snapshot("svg").data and "ours" not in monitor.snapshot("svg").data


def test_what_a_page_would_not_send_is_not_taken():
    monitor = LossMonitor(trained())
    before = monitor.smoothing, monitor.log_scale, monitor.shown_terms, monitor.speed
    unfit = {"smoothing": [1.0, "x", None, True], "log_scale": [1], "shown_terms": [3, None], "speed": [2, None]}
    for name, values in unfit.items():
        for value in values:
            monitor.set_state({name: value})
    assert (monitor.smoothing, monitor.log_scale, monitor.shown_terms, monitor.speed) == before


def test_a_recorded_run_is_played_paused_made_faster_and_played_again(tmp_path):
    run = trained(20)
    run.epochs[:] = [replace(epoch, seconds=30) for epoch in run.epochs]
    path = LossMonitor(run).record(tmp_path / "run.json")
    monitor = LossMonitor.replay(path, speed=2)
    wait_until(lambda: monitor.run.started is not None)
    assert monitor.speed == 2 and monitor.get_state("info")["info"]["controls"] == ("pause", "speed")
    click(monitor, op="pause")
    wait_until(lambda: monitor.status == "paused")
    monitor.set_state({"speed": 0})
    click(monitor, op="stop", when="batch")
    assert monitor.status == "paused", "a record is not stopped"
    click(monitor, op="resume")
    wait_until(lambda: monitor.status == "done" and len(rows_of(monitor)) == 20)
    first = monitor.run
    click(monitor, op="again")
    wait_until(lambda: monitor.run is not first and monitor.status == "done" and len(rows_of(monitor)) == 20)
    assert monitor.get_state("info")["info"]["n_earlier"] == 0


def test_any_loop_is_watched_and_one_that_is_left_ends():
    monitor = LossMonitor(name="my loop")
    for i in monitor.wrap(range(4)):
        monitor.log({"train_loss": 4.0 - i}, val_loss=5.0 - i)
    wait_until(lambda: monitor.status == "done" and len(rows_of(monitor)) == 4)
    assert [one["key"] for one in monitor.series] == ["train_loss", "val_loss"]
    assert monitor.get_state("info")["info"]["max_epochs"] == 4
    for _ in monitor.wrap(iter("abc")):
        monitor.log(loss=1.0)
        break
    wait_until(lambda: monitor.status == "done" and len(rows_of(monitor)) == 1)
    assert monitor.run.ended.reason == "the loop was left"
    monitor.log(loss=2.0)  # a callback, which knows no loop
    wait_until(lambda: monitor.status == "running" and len(rows_of(monitor)) == 1)


def test_stop_ends_anybodys_loop_after_its_epoch():
    monitor, gone_through, stopped = LossMonitor(), [], threading.Event()

    def loop():
        for i in monitor.wrap(range(1000)):
            monitor.log(loss=1000.0 - i)
            if i == 2:
                click(monitor, op="stop", when="batch")
                stopped.set()
            monitor.log({"loss": 500.0 - i, "val_loss": 1.0}, epoch=i)  # of the same epoch still
            gone_through.append(i)

    thread = threading.Thread(target=loop)
    thread.start()
    thread.join(10)
    wait_until(lambda: monitor.status == "stopped")
    assert gone_through == [0, 1, 2] and stopped.is_set()
    assert monitor.run.ended.reason == "stopped after the epoch"
    assert list(monitor.history["train_loss"]) == [500, 499, 498]
    assert monitor.get_state("info")["info"]["controls"] == ("stop",)


def test_a_loop_that_nobody_can_stop_has_no_stop_and_one_in_a_cell_only_the_kernels():
    monitor = LossMonitor()
    monitor.log(loss=1.0)
    wait_until(lambda: monitor.status == "running")
    click(monitor, op="stop", when="batch")
    assert monitor.status == "running" and monitor.get_state("info")["info"]["controls"] == ()
    cell = InteractiveShell()
    cell.push({"monitor": LossMonitor()})
    cell.run_cell("for i in monitor.wrap(range(2)): monitor.log(loss=1.0)").raise_error()
    assert cell.user_ns["monitor"].run.in_foreground
    cell.run_cell("import threading\nthread = threading.Thread(target=lambda: list(monitor.wrap('ab')))").raise_error()
    cell.user_ns["thread"].start()
    cell.user_ns["thread"].join(10)
    assert not cell.user_ns["monitor"].run.in_foreground


def test_an_epoch_that_is_told_in_several_calls_is_one_row_of_all_on_the_page_too():
    monitor, told = LossMonitor(), []
    monitor.send_state = lambda key=None: told.append(key)
    for i in monitor.wrap(range(3)):
        monitor.log(loss=9.0 - i, lr=0.1)
        wait_until(lambda n=i + 1: len(monitor.run.epochs) == n)
        monitor._publish()
        assert monitor._info()["best_epoch"] == [0, 0, 1][i], "training's loss is not compared with held-out ones"
        assert [epoch.is_best for epoch in monitor.run.epochs] == [[True], [True, False], [True, True, False]][i]
        told.clear()
        monitor.log(val_loss=[8.0, 2.0, 5.0][i])
        wait_until(lambda: ["values", "info"] in told)  # for what the page had is another one
    np.testing.assert_allclose(rows_of(monitor)[:, [0, 1, 3, 4]], [[0, 0.1, 9, 8], [1, 0.1, 8, 2], [2, 0.1, 7, 5]])
    assert monitor.get_state("info")["info"]["best_epoch"] == 1


def test_losses_that_come_later_than_the_first_epoch_get_a_curve_of_their_own(tmp_path):
    monitor = LossMonitor()
    for epoch in range(6):
        monitor.log({"loss": 1.0, **({"val_loss": 2.0} if epoch % 2 else {})})
    wait_until(lambda: len(monitor.series) == 2 and len(rows_of(monitor)) == 6)
    np.testing.assert_array_equal(rows_of(monitor)[:, 4], [np.nan, 2] * 3)
    assert monitor._info()["best_epoch"] == 1, "of those that have a held-out loss"
    drawn = pictures.curves(lines_of(monitor._tracks, monitor._drawn(), 0.0), "svg").decode()
    alone = pictures.curves(lines_of(monitor._tracks, monitor._drawn()[:1], 0.0), "svg").decode()
    assert drawn.count("<use") - alone.count("<use") >= 3, "each held-out loss stands between epochs without one"


def test_a_csv_file_is_shown_as_a_run(tmp_path):
    path = tmp_path / "metrics.csv"
    path.write_text("epoch,elbo_train,elbo_validation\n0,3,4\n1,2,3\n")
    monitor = LossMonitor.from_csv(path, follow=False)
    wait_until(lambda: monitor.status == "done" and len(rows_of(monitor)) == 2)
    assert monitor.runs[0]["name"] == "metrics" and monitor.shown_terms == ["elbo"]


def test_what_the_course_says_stands_among_the_notes():
    run = TrainingRun(spoilt(script(30)))
    monitor = LossMonitor(run)
    run.start().wait(10)
    wait_until(lambda: monitor.status == "done")
    notes = monitor.get_state("info")["info"]["notes"]
    assert notes[0]["level"] == "error" and "is not a number in epoch 20" in notes[0]["text"]
    assert notes[-1]["text"] == "Run done: all epochs done."


def spoilt(events):
    for event in events:
        if type(event).__name__ == "EpochEnded" and event.epoch >= 20:
            yield replace(event, train={**event.train, "unweighted_loss": np.nan})
        else:
            yield event


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
