"""A run that can be watched, paused, stopped and interrupted, in the foreground and on a thread of its own."""

import os
import signal
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from small import QUICK, SMALL, fingerprint
from tiny_runs import eventually, process, small_scvi

import scarches_widgets as sca
from scarches_widgets.training.events import EpochEnded, RunEnded, RunStarted, StepEnded
from scarches_widgets.training.run import TrainingRun

ENDLESS = {"max_epochs": 100_000, "batch_size": 16, "background": True}


def script(n_epochs=3, n_steps=4, before_step=lambda epoch, step: None):
    """The events of a run that does nothing; `before_step` may wait or fail."""
    yield RunStarted(10, 2, n_epochs, n_steps, first_epoch=0, schedule="in a test", patience=None)
    for epoch in range(n_epochs):
        for step in range(n_steps):
            before_step(epoch, step)
            yield StepEnded(epoch, step, n_steps, 1.0)
        yield EpochEnded(epoch, {"unweighted_loss": 1.0}, {"unweighted_loss": 2.0}, 0.1, 1.0, True, 0, 0.0)
    yield RunEnded("done", "all done", n_epochs, None)


def heard(run: TrainingRun) -> list:
    events = []
    run.subscribe(events.append)
    return events


def at_step(n: int, action):
    """A listener that does `action` once, at the n-th step (the first is 0)."""
    steps = []

    def listener(event):
        if isinstance(event, StepEnded):
            steps.append(event)
            if len(steps) == n + 1:
                action()

    return listener


@pytest.fixture
def model(reference_cells):
    return sca.models.SCVI(reference_cells, batch_key="batch", **SMALL)


@pytest.fixture
def endless(model):
    """A model that is being trained."""
    model.train(**ENDLESS)
    eventually(lambda: model.run.epochs)
    yield model
    model.run.stop()
    model.run.wait(60)


# Status


def test_a_run_is_ready_then_running_then_done():
    run = TrainingRun(script())
    assert (run.status, run.is_active) == ("ready", False)
    during = []
    run.subscribe(lambda event: during.append((run.status, run.is_active)))
    assert run.run() is run
    assert set(during[:-1]) == {("running", True)}
    assert during[-1] == (run.status, run.is_active) == ("done", False)  # when RunEnded is told, so it is
    assert run.ended == RunEnded("done", "all done", 3, None)
    assert len(run.history) == 3


def test_a_run_in_the_background_returns_at_once():
    gate = threading.Event()
    run = TrainingRun(script(before_step=lambda epoch, step: gate.wait(60)))
    assert run.start() is run
    assert run.status == "running"
    gate.set()
    assert run.wait(60) == "done"


def test_waiting_ends_with_the_timeout_and_tells_the_status():
    gate = threading.Event()
    run = TrainingRun(script(before_step=lambda epoch, step: gate.wait(60))).start()
    assert run.wait(timeout=0.01) == "running"
    gate.set()
    assert run.wait() == "done"


def test_a_run_starts_only_once():
    run = TrainingRun(script()).run()
    for again in (run.start, run.run):
        with pytest.raises(RuntimeError, match="This run is done; a run can be started once"):
            again()


def test_commands_to_a_run_that_is_not_active_change_nothing():
    run = TrainingRun(script())
    for _ in range(2):
        run.pause(), run.resume(), run.stop()
        assert run.status in ("ready", "done")
        if run.status == "ready":
            run.run()


def test_a_run_shows_how_far_it_is():
    run = TrainingRun(script())
    assert repr(run) == "TrainingRun(ready, epoch 0)"
    assert repr(run.run()) == "TrainingRun(done, epoch 3 of 3)"


# Failing


def failing(epoch, step):
    if (epoch, step) == (1, 2):
        raise ArithmeticError("no more numbers")


def test_a_failed_run_raises_its_error_in_the_foreground():
    run = TrainingRun(script(before_step=failing))
    events = heard(run)
    with pytest.raises(ArithmeticError, match="no more numbers"):
        run.run()
    assert run.status == "failed"
    assert events[-1] == RunEnded("failed", "no more numbers", 1, None)


def test_a_failed_run_in_the_background_raises_its_error_in_wait():
    run = TrainingRun(script(before_step=failing)).start()
    for _ in range(2):
        with pytest.raises(ArithmeticError, match="no more numbers"):
            run.wait(60)
    assert run.status == "failed"
    assert run.error is not None


def test_whatever_ends_the_runs_thread_nobody_waits_for_ever():
    def leave(epoch, step):
        raise SystemExit("a library wanted to end the process")

    run = TrainingRun(script(before_step=leave)).start()
    with pytest.raises(SystemExit):
        run.wait(60)
    assert run.status == "failed"


def test_a_failing_listener_does_not_cost_the_run_and_is_not_called_again(caplog):
    run = TrainingRun(script())
    calls = []

    def failing_listener(event):
        calls.append(event)
        raise ZeroDivisionError

    def unsubscribes_and_fails(event):
        unsubscribe()
        raise ZeroDivisionError

    run.subscribe(failing_listener)
    unsubscribe = run.subscribe(unsubscribes_and_fails)
    events = heard(run)
    assert run.run().status == "done"
    assert len(calls) == 1
    assert len(events) == 1 + 3 * 5 + 1
    assert caplog.text.count("A listener of the training run failed") == 2


def test_who_unsubscribes_hears_no_more():
    run = TrainingRun(script())
    events = []
    unsubscribe = run.subscribe(events.append)
    run.subscribe(at_step(1, unsubscribe))
    run.run()
    assert len(events) == 3  # RunStarted and two steps
    unsubscribe()  # twice is harmless


def test_a_query_without_new_batches_has_nothing_to_train_and_its_run_is_done(trained, reference_cells):
    query = sca.models.SCVI.load_query_data(reference_cells.copy(), trained)
    with pytest.warns(UserWarning, match="nothing to train"):
        run = query.train(**QUICK)
    assert (run.status, run.ended.reason) == ("done", "nothing to train")
    np.testing.assert_array_equal(query.get_latent_representation(), trained.get_latent_representation())


# Pausing


def test_pausing_holds_the_run_after_the_step_and_resuming_goes_on():
    run = TrainingRun(script())
    events = heard(run)
    told = []
    run.subscribe(at_step(1, lambda: (run.pause(), told.append(run.status))))
    run.start()
    eventually(lambda: run.status == "paused")
    assert told == ["pausing"]
    n = len(events)
    assert run.wait(0.05) == "paused"
    assert len(events) == n == 3
    run.resume()
    assert run.wait(60) == "done"
    assert len(events) == 17


def test_a_pause_that_is_taken_back_at_once_is_none():
    run = TrainingRun(script())
    run.subscribe(at_step(1, lambda: (run.pause(), run.resume())))
    assert run.run().status == "done"


def test_who_pauses_again_at_once_finds_the_run_paused():
    run = TrainingRun(script())
    run.subscribe(at_step(1, run.pause))
    run.start()
    for _ in range(20):
        eventually(lambda: run.status == "paused")
        run.resume()
        run.pause()
    run.stop()
    assert run.wait(60) == "stopped"


def test_a_paused_run_gives_the_bits_of_one_that_was_not(reference_cells):
    options = {**QUICK, "max_epochs": 3, "batch_size": 32}
    plain, paused = (sca.models.SCVI(reference_cells, batch_key="batch", dropout_rate=0.3, **SMALL) for _ in range(2))
    plain.train(**options)
    run = paused.train(**options, background=True)
    for _ in range(4):
        run.pause()
        eventually(lambda: run.status in ("paused", "done"))
        run.resume()
        time.sleep(0.003)
    assert run.wait(60) == "done"
    assert fingerprint(paused) == fingerprint(plain)


def test_a_paused_run_can_be_stopped(endless):
    endless.run.pause()
    eventually(lambda: endless.run.status == "paused")
    endless.run.stop()
    assert endless.run.wait(60) == "stopped"


# Stopping


def test_stopping_after_the_batch_ends_the_run_with_that_step():
    run = TrainingRun(script())
    events = heard(run)
    run.subscribe(at_step(5, run.stop))
    assert run.run().status == "stopped"
    assert events[-2] == StepEnded(1, 1, 4, 1.0)
    assert events[-1] == RunEnded("stopped", "stopped after the batch", 1, None)


def test_stopping_after_the_epoch_completes_it():
    run = TrainingRun(script())
    events = heard(run)
    run.subscribe(at_step(5, lambda: run.stop("epoch")))
    assert run.run().status == "stopped"
    assert isinstance(events[-2], EpochEnded)
    assert events[-1] == RunEnded("stopped", "stopped after the epoch", 2, None)


def test_who_cannot_wait_for_the_epoch_may_still_stop_after_the_batch_but_not_the_other_way_round():
    for first, second in [("epoch", "batch"), ("batch", "epoch")]:
        run = TrainingRun(script())
        run.subscribe(at_step(5, lambda: (run.stop(first), run.stop(second))))  # noqa: B023 - called at once
        run.run()
        assert len(run.epochs) == 1


@pytest.mark.parametrize("when", ["batch", "epoch"])
def test_a_run_that_was_stopped_by_hand_can_be_repeated_to_the_bit(when):
    stopped, repeated = small_scvi(), small_scvi()
    stopped.watch_runs(lambda run: run.subscribe(at_step(14, lambda: run.stop(when))))
    run = stopped.train(max_epochs=4, batch_size=16, progress=False)
    assert run.status == "stopped" and 0 < len(run.epochs) < 4
    repeated.watch_runs(lambda other: other.stop_after(run.n_steps, len(run.epochs)))
    again = repeated.train(max_epochs=4, batch_size=16, progress=False)
    assert (again.n_steps, len(again.epochs)) == (run.n_steps, len(run.epochs))
    assert fingerprint(repeated) == fingerprint(stopped)


def test_stopping_when_nobody_knows_is_refused():
    with pytest.raises(ValueError, match="when='now' is neither 'batch' nor 'epoch'"):
        TrainingRun(script()).stop("now")


def test_a_stopped_model_is_usable(endless, tmp_path):
    endless.run.stop()
    assert endless.run.wait(60) == "stopped"
    assert not endless.module.training
    assert np.isfinite(endless.get_latent_representation()).all()
    assert len(endless.history) >= 1
    endless.save(tmp_path / "model")
    assert endless.train(**QUICK).status == "done"


def test_a_run_stopped_under_early_stopping_says_which_epoch_its_weights_are_of(model):
    run = model.train(**ENDLESS, early_stopping=True, early_stopping_kwargs={"patience": 90_000})
    eventually(lambda: len(run.epochs) > 3)
    run.stop("epoch")
    run.wait(60)
    assert run.ended.best_epoch == model.history["val_unweighted_loss"].idxmin()


def test_a_model_that_was_stopped_within_its_first_epoch_is_usable(model):
    run = model.train(max_epochs=1, batch_size=2, background=True)
    run.subscribe(lambda event: isinstance(event, StepEnded) and run.stop())
    run.wait(60)
    assert run.status == "stopped"
    assert np.isfinite(model.get_latent_representation()).all()


def test_a_trained_model_stays_trained_when_its_next_training_is_refused(trained):
    with pytest.raises(ValueError, match="metric"):
        trained.train(**QUICK, early_stopping_kwargs={"metric": "no such metric"})
    assert np.isfinite(trained.get_latent_representation()).all()


# One run at a time


def test_a_model_that_is_being_trained_refuses_all_else(endless, query_cells, tmp_path):
    refused = [
        lambda: endless.train(**QUICK),
        lambda: endless.get_latent_representation(),
        lambda: endless.get_normalized_expression(),
        lambda: endless.get_elbo(),
        lambda: endless.save(tmp_path / "model"),
        lambda: sca.models.SCVI.load_query_data(query_cells, endless),
    ]
    for call in refused:
        with pytest.raises(RuntimeError, match=r"is being trained \(epoch \d+\).*model.run.wait\(\)"):
            call()
    assert not (tmp_path / "model").exists()
    endless.run.pause()
    eventually(lambda: endless.run.status == "paused")
    with pytest.raises(RuntimeError, match="is being trained"):
        endless.get_latent_representation()


def test_the_history_grows_while_the_model_is_trained(endless):
    n = len(endless.history)
    eventually(lambda: len(endless.history) > n)


def test_a_model_can_be_trained_again_after_a_failure(model, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(type(model.module), "forward", lambda *args, **kwargs: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            model.train(**QUICK)
    assert model.train(**QUICK).status == "done"


# CPU threads


def test_the_runs_own_number_of_cpu_threads_ends_with_it(model):
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        seen = []
        for background in (False, True):
            run = TrainingRun(script(), threads=1)
            run.subscribe(lambda event: seen.append(torch.get_num_threads()) if not run.ended else None)  # noqa: B023
            (run.start() if background else run.run()).wait(60)
            assert torch.get_num_threads() == 2
        assert set(seen) == {1}
    finally:
        torch.set_num_threads(before)


def test_runs_that_overlap_leave_the_number_of_cpu_threads_as_it_was():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        gates = [threading.Event(), threading.Event()]
        runs = [TrainingRun(script(before_step=lambda *step, gate=gate: gate.wait(60))).start() for gate in gates]
        for run in runs:
            eventually(lambda: run.started)  # noqa: B023
        for run, gate in zip(runs, gates):
            gate.set()
            run.wait(60)
        found = []
        new_thread = threading.Thread(target=lambda: found.append(torch.get_num_threads()))
        new_thread.start()
        new_thread.join()
        assert found == [torch.get_num_threads()] == [2]
    finally:
        torch.set_num_threads(before)


# Ctrl-C


def interrupted_once(folder: str) -> None:
    """Runs in a process of its own: train in the foreground until the interrupt comes, then use the model."""
    model, before = small_scvi(), signal.getsignal(signal.SIGINT)
    model.train(max_epochs=100_000, batch_size=16, progress=False, checkpoint_dir=folder, checkpoint_every=0.01)
    assert (model.run.status, model.is_trained) == ("stopped", True)
    assert len(model.history) >= 1
    assert np.isfinite(model.get_latent_representation()).all()
    assert signal.getsignal(signal.SIGINT) is before


def interrupted_twice(folder: str) -> None:
    """As above, but the step that the interrupts hit takes long."""
    model, before = small_scvi(), signal.getsignal(signal.SIGINT)

    def slow_second_epoch(module, inputs):
        if len(model.history) >= 1:
            Path(folder, "slow").touch()
            eventually(lambda: model.run.status == "stopping")
            Path(folder, "stopping").touch()
            time.sleep(600)

    model.module.register_forward_pre_hook(slow_second_epoch)
    try:
        model.train(max_epochs=100_000, batch_size=16, progress=False)
    except KeyboardInterrupt:
        assert model.run.status == "stopped"
        assert signal.getsignal(signal.SIGINT) is before
        raise SystemExit(130) from None


def test_one_ctrl_c_finishes_the_step_and_leaves_a_usable_model(tmp_path):
    running = process(interrupted_once, str(tmp_path))
    eventually(lambda: list(tmp_path.glob("epoch-000001*")))  # the first epoch is over
    os.kill(running.pid, signal.SIGINT)
    running.join(60)
    assert running.exitcode == 0


def test_a_second_ctrl_c_raises_keyboard_interrupt(tmp_path):
    running = process(interrupted_twice, str(tmp_path))
    eventually((tmp_path / "slow").exists)
    os.kill(running.pid, signal.SIGINT)
    eventually((tmp_path / "stopping").exists)  # it wants to finish the step
    os.kill(running.pid, signal.SIGINT)
    running.join(60)
    assert running.exitcode == 130


def test_ctrl_c_in_the_foreground_stops_after_the_very_step(model, caplog):
    before = signal.getsignal(signal.SIGINT)
    run = TrainingRun(script())
    run.subscribe(at_step(6, lambda: signal.raise_signal(signal.SIGINT)))
    assert run.run().status == "stopped"
    assert run.ended == RunEnded("stopped", "stopped after the batch", 1, None)
    assert "interrupt again to stop at once" in caplog.text
    assert signal.getsignal(signal.SIGINT) is before


def test_a_run_outside_the_main_thread_leaves_interrupts_alone():
    before = signal.getsignal(signal.SIGINT)
    seen = []
    run = TrainingRun(script())
    run.subscribe(lambda event: seen.append(signal.getsignal(signal.SIGINT)))
    thread = threading.Thread(target=run.run)
    thread.start()
    thread.join(60)
    assert run.status == "done"
    assert set(seen) == {before}


# The bar


def test_a_bar_shows_epochs_and_losses_in_a_terminal(model, capsys):
    model.train(**{**QUICK, "progress": True})
    out, err = capsys.readouterr()
    assert out == ""
    assert "Training: 100%" in err
    assert "2/2" in err
    last = model.history.iloc[-1]
    assert f"train={last['train_unweighted_loss']:.1f}, validation={last['val_unweighted_loss']:.1f}" in err


def test_without_progress_and_in_the_background_nothing_is_printed(model, capfd):
    model.train(**QUICK)
    model.train(**{**QUICK, "progress": True}, background=True).wait(60)
    assert capfd.readouterr() == ("", "")


def test_the_bar_ends_with_a_run_that_fails(model, capsys):
    with pytest.raises(ValueError, match="metric"):
        model.train(max_epochs=2, early_stopping_kwargs={"metric": "no such metric"})
    capsys.readouterr()
    print("next", flush=True)  # noqa: T201
    assert capsys.readouterr() == ("next\n", "")
