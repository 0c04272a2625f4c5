"""Options are tried one after the other, watched, stopped, gone on with; the best model is kept."""

import json
import sys
import threading
import time

import pandas as pd
import pytest
from small import SMALL

import scarches_widgets as sca
from scarches_widgets.bridges.dask_executor import DaskExecutor, local_client
from scarches_widgets.bridges.search_space import checked_space
from scarches_widgets.bridges.sweep_study import SweepStudy
from scarches_widgets.bridges.sweeps import Sweep
from scarches_widgets.mapping.executors import SerialExecutor
from scarches_widgets.training.elsewhere import Teller, wish
from scarches_widgets.training.outside import run_of_history
from scarches_widgets.widgets import LossMonitor

SPACE = {"n_latent": [2, 4], "lr": (1e-4, 3e-2, "log")}
SAME = {"batch_key": "batch", "max_epochs": 3, "batch_size": 64, "n_hidden": SMALL["n_hidden"]}


@pytest.fixture(scope="module")
def cells():
    return sca.datasets.atlas(n_obs=150, n_vars=40, n_batches=2, n_types=3, seed=1)


def sweep_of(cells, folder, space=SPACE, model="SCVI", **options):
    return Sweep(model, cells, folder, space, **{"n_trials": 4, **SAME, **options})


@pytest.fixture(scope="module")
def unbroken(cells, tmp_path_factory):
    return sweep_of(cells, tmp_path_factory.mktemp("sweep") / "unbroken").run()


def test_each_trial_trains_by_its_own_options_and_the_best_one_is_kept_as_model_and_as_code(unbroken, cells):
    table = unbroken.table
    assert unbroken.status == "done" and list(table["status"]) == ["done"] * 4 and set(table["epochs"]) == {3}
    assert set(table["n_latent"]) <= {2, 4} and table["lr"].between(1e-4, 3e-2).all() and table["lr"].nunique() == 4
    for number, run in enumerate(unbroken.runs):
        assert table["value"][number] == run.history["val_unweighted_loss"].iloc[-1]
    best = table.loc[table["value"].idxmin()]
    assert unbroken.best == {"n_latent": best["n_latent"], "lr": best["lr"]}
    kept = unbroken.best_model(cells)
    assert kept.get_latent_representation().shape == (150, best["n_latent"])
    assert len(list(unbroken.folder.glob("trials/*/model"))) == 1
    found = {}
    exec(unbroken.code(), found)
    assert found["model"].history["val_unweighted_loss"].iloc[-1] == best["value"]


def test_a_sweep_that_was_stopped_in_mid_trial_goes_on_to_the_table_of_an_unbroken_one(
    unbroken, cells, tmp_path, monkeypatch
):
    def slowly(teller, run):
        """The second trial takes no further step before the click has reached it."""

        def pause(event):
            deadline = time.monotonic() + 120
            while teller.folder.name == "000001" and wish(teller.folder) is None and time.monotonic() < deadline:
                time.sleep(0.02)

        watch(teller, run)
        run.subscribe(pause)

    watch = Teller.watch
    monkeypatch.setattr(Teller, "watch", slowly)
    first = sweep_of(cells, tmp_path)
    monitor = LossMonitor(first)

    def stop_in_the_second(run):
        if run.number == 1:
            monitor._stop({"when": "batch"}, [])  # a click on Stop

    first.watch_trials(stop_in_the_second)
    assert first.start().wait(120) == "stopped" and list(first.table["status"]) == ["done", "stopped"]
    second = sweep_of(cells, tmp_path).run()
    assert (first.n_begun, second.n_begun) == (2, 4)
    assert list(second.table["status"]) == ["done", "stopped", "done", "done", "done"] and len(second.runs) == 3
    again = second.table[second.table["status"] == "done"].reset_index(drop=True)
    columns = ["n_latent", "lr", "value"]
    assert again[columns].equals(unbroken.table[columns].reset_index(drop=True))


def test_stop_pressed_when_one_trial_has_ended_and_the_next_has_not_begun_ends_the_sweep(cells, tmp_path):
    between, go_on = threading.Event(), threading.Event()

    class Held(SerialExecutor):
        def imap(self, function, tasks):
            for outcome in super().imap(function, tasks):
                yield outcome
                between.set()
                go_on.wait(60)

    sweep = sweep_of(cells, tmp_path, executor=Held())
    monitor = LossMonitor(sweep)
    assert monitor.status == "ready"
    sweep.start()
    assert between.wait(120) and [run.status for run in sweep.runs] == ["done"]
    monitor._publish()
    info = monitor._info()
    assert monitor.status == "running" and info["controls"] == ("stop",) and info["trials"] == [1, 4]
    monitor._stop({"when": "batch"}, [])  # a click on Stop
    monitor._publish()
    assert monitor.status == sweep.status == "stopping"
    go_on.set()
    assert sweep.wait(60) == "stopped" and list(sweep.table["status"]) == ["done"]
    deadline = time.monotonic() + 10
    while monitor.status != "stopped":  # told by the sweep, since no trial tells anything any more
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_sweep_that_holds_the_kernel_says_so_and_takes_no_click(cells, tmp_path):
    sweep = sweep_of(cells, tmp_path, n_trials=1)
    monitor, told = LossMonitor(sweep), []

    def press(run):
        told.append(monitor._info()["in_foreground"])
        monitor._stop({"when": "batch"}, [])

    sweep.watch_trials(press)
    assert sweep.run().status == "done" and told == [True]


def test_trials_are_drawn_as_they_begin_but_no_more_than_can_be_told_apart():
    """The newest one, and the best of the others."""

    class Trials:
        runs, status, error, controls, in_foreground = (), "running", None, ("stop",), False
        n_begun, n_trials = 7, 9

        def watch_trials(self, watcher):
            self.show = watcher

        def watch_status(self, watcher):
            pass

    sweep = Trials()
    monitor = LossMonitor(sweep)
    for number, loss in enumerate([5.0, 9.0, 3.0, 4.0, 8.0, 1.0, 2.0]):
        run = run_of_history(pd.DataFrame({"val_unweighted_loss": [loss]}))
        run.title = f"trial {number}"
        sweep.show(run)
    assert monitor.run is run
    assert set(monitor.histories) == {f"trial {number}" for number in (6, 0, 2, 3, 4, 5)}


def test_hopeless_trials_are_pruned_and_failing_ones_say_why_while_others_go_on(cells, tmp_path):
    sweep = sweep_of(cells, tmp_path, {"lr": [1e-2, 1e-7]}, n_trials=9, max_epochs=2).run()
    table = sweep.table
    assert set(table["status"]) == {"done", "pruned"} and set(table["lr"][table["status"] == "pruned"]) == {1e-7}
    failing = sweep_of(cells, tmp_path / "failing", metric="val_unweightedloss", n_trials=1).run()
    assert list(failing.table["status"]) == ["failed"]
    assert "Did you mean 'val_unweighted_loss'" in failing.table["error"][0]
    with pytest.raises(RuntimeError, match="No trial has ended well"):
        failing.code()


REFUSED = {
    "n_latnt": ({"n_latnt": [2]}, TypeError, "Did you mean 'n_latent'"),
    "too small": ({"n_latent": [2, 0]}, ValueError, "n_latent=0"),
    "below": ({"lr": (-1.0, 0.1)}, ValueError, "lr=-1.0"),
    "no range": ({"lr": (0.1, 0.01)}, TypeError, "says not what to try"),
    "log of zero": ({"lr": (0, 0.1, "log")}, TypeError, "says not what to try"),
    "twice": ({"max_epochs": [1, 2]}, TypeError, "given twice"),
    "nothing": ({}, ValueError, "space is empty"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_tried_is_refused_before_any_trial(case, cells, tmp_path):
    space, kind, text = REFUSED[case]
    with pytest.raises(kind, match=text):
        sweep_of(cells, tmp_path, space)
    assert not list(tmp_path.iterdir())


def test_another_sweep_is_not_mixed_in_and_a_missing_optuna_is_named(unbroken, cells, tmp_path, monkeypatch):
    with pytest.raises(FileExistsError, match="holds another sweep: its space differ"):
        sweep_of(cells, unbroken.folder, {"n_latent": [2]}).start()
    other = cells.copy()
    other.X = other.X * 2
    with pytest.raises(FileExistsError, match="its cells differ"):
        sweep_of(other, unbroken.folder).start()
    with pytest.raises(ValueError, match="max_epochs"):
        sweep_of(cells, tmp_path, max_epochs=None, prune=True)
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(ImportError, match=r"scarches-widgets\[sweeps\]"):
        sweep_of(cells, tmp_path).start()


def test_a_trial_whose_process_and_journal_were_cut_is_tried_again_with_the_same_options(tmp_path):
    space, path = checked_space(SPACE), tmp_path / "study.log"
    number, chosen = SweepStudy(path, space, "min", 0, None).ask()
    with path.open("ab") as file:
        file.write(b'{"op_code": 8, "wor')
    study = SweepStudy(path, space, "min", 0, None)
    study.take_up()
    assert study.n_begun == 0
    again, same = study.ask()
    assert (number, again) == (0, 1) and same == chosen and study.n_begun == 1
    study.end(again, 1.5, 2.0)
    assert list(study.table["status"]) == ["stopped", "done"] and study.best.number == 1
    study.take_up()
    assert study.n_begun == 1 and study.ask()[1] != chosen


def test_trials_are_plain_text_that_any_executor_can_send(cells, tmp_path):
    sent = []

    class Sending(SerialExecutor):
        def imap(self, function, tasks):
            sending = (sent.append(task) or task for task in tasks)
            yield from super().imap(function, sending)

    sweep = sweep_of(cells, tmp_path, n_trials=1, executor=Sending()).run()
    assert sweep.status == "done" and all(isinstance(value, str | int) for value in vars(sent[0]).values())
    assert json.loads(sent[0].of_model).keys() == {"batch_key", "n_hidden", "n_latent"}


@pytest.mark.slow
def test_workers_of_dask_try_what_one_process_would_and_their_runs_are_watched(unbroken, cells, tmp_path):
    with local_client(2) as client:
        sweep = sweep_of(cells, tmp_path, executor=DaskExecutor(client)).run()
    columns = ["status", "epochs", "n_latent", "lr", "value"]
    assert sweep.status == "done" and sweep.table[columns].equals(unbroken.table[columns])
    for run, alone in zip(sweep.runs, unbroken.runs, strict=True):
        same = [history.drop(columns="seconds") for history in (run.history, alone.history)]
        pd.testing.assert_frame_equal(*same)
