"""Runs that are killed or stopped, and go on from a checkpoint to the very bits of the run that was not."""

import logging
import os
import random
import shutil
import signal
import time

import pandas as pd
import pytest
from small import QUICK, SMALL, fingerprint
from tiny_runs import (
    MANY_STEPS,
    Toy,
    bits,
    eventually,
    of_kind,
    process,
    small_scvi,
    toy_events,
    train_and_save,
    trained_toy,
)

import scarches_widgets as sca
from scarches_widgets.data.container import DamagedFile
from scarches_widgets.training.events import Checkpointed, EpochEnded, RunStarted, StepEnded, Warned

EARLY = {"early_stopping": True, "early_stopping_kwargs": {"patience": 2, "reduce_lr": True, "lr_patience": 1}}


def checkpoints(folder) -> list:
    """Oldest first."""
    return sorted(folder.glob("epoch-*-step-*"))


def stopped_after(n_events: int, folder, **options) -> Toy:
    """A toy whose run was ended after so many events; every step was kept."""
    module = Toy()
    events = toy_events(module, folder=folder, **options)
    for _ in range(n_events):
        next(events)
    events.close()
    return module


def learned(epochs) -> list[dict]:
    """All that an epoch's event says, but how long it took."""
    return [{**event.as_dict(), "seconds": 0} for event in epochs]


# Killed


def killed_and_resumed(folder, n_kills: int, pause: float) -> None:
    """`n_kills` processes, each killed in the midst of the same run, and one that may finish it."""
    for kill in range(n_kills):
        before = checkpoints(folder)[-1:]
        running = process(train_and_save, str(folder), str(folder.parent / "model"), pause=pause)
        eventually(lambda: checkpoints(folder)[-1:] != before or not running.is_alive())  # noqa: B023
        time.sleep(delay := random.uniform(0, 0.3))
        running.kill()
        running.join()
        assert running.exitcode == -signal.SIGKILL, f"kill {kill}, after {delay} s, came too late"
        assert not (folder.parent / "model").exists()
    finishing = process(train_and_save, str(folder), str(folder.parent / "model"), checkpoint_every=1)
    finishing.join(120)
    assert finishing.exitcode == 0


def assert_same_as_uninterrupted(folder) -> None:
    resumed = sca.models.SCVI.load(folder.parent / "model")
    uninterrupted = small_scvi()
    uninterrupted.train(**MANY_STEPS)
    assert fingerprint(resumed) == fingerprint(uninterrupted)
    columns = uninterrupted.history.columns.drop("seconds")
    pd.testing.assert_frame_equal(resumed.history[columns], uninterrupted.history[columns], check_exact=True)


def test_a_run_killed_three_times_at_random_moments_ends_with_the_bits_of_one_that_was_not(tmp_path):
    killed_and_resumed(tmp_path / "run", n_kills=3, pause=0.02)
    assert_same_as_uninterrupted(tmp_path / "run")


@pytest.mark.slow
def test_a_run_killed_fifteen_times_at_random_moments_ends_with_the_bits_of_one_that_was_not(tmp_path):
    killed_and_resumed(tmp_path / "run", n_kills=15, pause=0.1)
    assert_same_as_uninterrupted(tmp_path / "run")


def test_what_a_killed_process_had_begun_to_write_is_cleared_away(tmp_path):
    stopped_after(5, tmp_path)
    unfinished = tmp_path / ".epoch-000000-step-00000009.tmp-123-abcdef"
    unfinished.mkdir()
    (unfinished / "model.json").write_text("{")
    list(toy_events(Toy(), folder=tmp_path, resume=True))
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "epoch-000002-step-00000003",
        "epoch-000003-step-00000000",
        "lock",
    ]


# Stopped

N_EVENTS = 1 + 3 * (4 + 1 + 4) + 1  # of three epochs of four steps, a checkpoint after each step


@pytest.mark.parametrize("options", [{}, EARLY], ids=["all epochs", "early stopping"])
def test_a_run_stopped_after_any_event_and_resumed_ends_with_the_same_bits_and_history(tmp_path, options, monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)  # some 600 checkpoints; no power will fail
    whole, events = trained_toy(folder=tmp_path / "whole", **options)
    assert len(events) == N_EVENTS
    for n_events in range(1, N_EVENTS):
        folder = tmp_path / f"{n_events}"
        stopped_after(n_events, folder, **options)
        resumed, rest = trained_toy(folder=folder, resume=True, **options)
        assert bits(resumed) == bits(whole), n_events
        assert learned(of_kind(EpochEnded, rest)) == learned(of_kind(EpochEnded, events)), n_events
        assert rest[-1] == events[-1]
        shutil.rmtree(folder)


def test_a_run_that_is_resumed_tells_the_epochs_before_and_takes_only_the_steps_that_are_left(tmp_path):
    stopped_after(1 + 9 + 2, tmp_path)  # an epoch, and one step of the next with its checkpoint
    _, events = trained_toy(folder=tmp_path, resume=True)
    assert events[0].first_epoch == 1
    assert [type(event) for event in events[:3]] == [RunStarted, EpochEnded, StepEnded]
    assert (events[2].epoch, events[2].step) == (1, 1)
    assert len(of_kind(StepEnded, events)) == 3 + 4


def test_resuming_a_finished_run_gives_its_result_at_once(tmp_path):
    whole, _ = trained_toy(folder=tmp_path, **EARLY)
    resumed, events = trained_toy(folder=tmp_path, resume=True, **EARLY)
    assert bits(resumed) == bits(whole)
    assert not of_kind(StepEnded, events)


def test_resuming_where_nothing_was_kept_starts_anew(tmp_path):
    plain, _ = trained_toy()
    assert bits(trained_toy(folder=tmp_path / "new" / "folder", resume=True)[0]) == bits(plain)


def test_keeping_checkpoints_does_not_change_the_result(tmp_path):
    assert bits(trained_toy(folder=tmp_path)[0]) == bits(trained_toy()[0])


def test_a_model_stopped_by_hand_is_resumed_to_the_same_bits(reference_cells, tmp_path):
    def model():
        return sca.models.SCVI(reference_cells, batch_key="batch", **SMALL)

    options = {**QUICK, "max_epochs": 4, "checkpoint_dir": tmp_path, "checkpoint_every": 1000}
    whole, stopped, resumed = model(), model(), model()
    whole.train(**{**QUICK, "max_epochs": 4})
    run = stopped.train(**options, background=True)
    eventually(lambda: len(run.epochs) >= 1)
    run.stop()
    run.wait(60)
    (kept,) = checkpoints(tmp_path)  # at the moment of stopping, although a checkpoint was not due
    run = resumed.train(**options, resume=True)
    assert run.status == "done"
    assert kept.name.startswith(f"epoch-{run.started.first_epoch:06d}")
    assert run.started.first_epoch >= 1
    assert fingerprint(resumed) == fingerprint(whole)
    pd.testing.assert_frame_equal(
        resumed.history.drop(columns="seconds"), whole.history.drop(columns="seconds"), check_exact=True
    )


def test_the_two_newest_checkpoints_are_kept_and_their_events_say_where(tmp_path):
    _, events = trained_toy(folder=tmp_path)
    paths = [event.path for event in of_kind(Checkpointed, events)]
    assert paths == sorted(paths)
    assert len(paths) == 12
    assert [str(path) for path in checkpoints(tmp_path)] == paths[-2:]


def test_checkpoints_are_at_least_so_many_seconds_apart_but_the_end_is_always_kept(reference_cells, tmp_path):
    model = sca.models.SCVI(reference_cells, batch_key="batch", **SMALL)
    model.train(**QUICK, checkpoint_dir=tmp_path, checkpoint_every=1000)
    assert [path.name for path in checkpoints(tmp_path)] == ["epoch-000002-step-00000000"]


# Refused


def test_a_folder_with_checkpoints_is_not_used_for_a_new_run(tmp_path, reference_cells):
    model = sca.models.SCVI(reference_cells, batch_key="batch", **SMALL)
    model.train(**QUICK, checkpoint_dir=tmp_path)
    kept = checkpoints(tmp_path)
    with pytest.raises(FileExistsError, match=r"holds checkpoints of an earlier run\. Pass resume=True"):
        model.train(**QUICK, checkpoint_dir=tmp_path)
    assert checkpoints(tmp_path) == kept


def other_cells(atlas):
    renamed = atlas.copy()
    renamed.obs_names = "x" + renamed.obs_names
    return renamed


@pytest.mark.parametrize(
    ("what", "cells", "config", "options"),
    [
        (r"plan.lr is 0\.01, this run's is 0\.5", None, {}, {"lr": 0.5}),
        (r"plan.max_epochs is 2, this run's is 3", None, {}, {"max_epochs": 3}),
        (r"plan.seed is 0, this run's is 1", None, {}, {"seed": 1}),
        (r"plan.early_stopping_kwargs.patience is 45, this run's is 7", None, {}, {"patience": 7}),
        (r"config.dropout_rate is 0\.1, this run's is 0\.2", None, {"dropout_rate": 0.2}, {}),
        (r"config.n_latent is 4, this run's is 5", None, {"n_latent": 5}, {}),
        (r"cells is '208 cells", other_cells, {}, {}),
        (r"cells is '208 cells.* is '100 cells", lambda cells: cells[:100].copy(), {}, {}),
        (r"data is", lambda cells: cells[:, ::-1].copy(), {}, {}),
    ],
    ids=["lr", "epochs", "seed", "patience", "dropout", "latent", "cell names", "fewer cells", "genes"],
)
def test_checkpoints_of_another_plan_network_or_data_are_refused_and_told_apart(
    tmp_path, reference_cells, what, cells, config, options
):
    model = sca.models.SCVI(reference_cells, batch_key="batch", **SMALL)
    model.train(**QUICK, checkpoint_dir=tmp_path)
    other = sca.models.SCVI(
        cells(reference_cells) if cells else reference_cells, batch_key="batch", **{**SMALL, **config}
    )
    before = fingerprint(other)
    with pytest.raises(ValueError, match=f"belongs to another run: its {what}"):
        other.train(**{**QUICK, **options}, checkpoint_dir=tmp_path, resume=True)
    assert fingerprint(other) == before


# Damaged


def flip_a_bit(path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def cut(path) -> None:
    path.write_bytes(path.read_bytes()[:-7])


@pytest.mark.parametrize("member", ["model.safetensors", "model.json", "manifest.json"])
@pytest.mark.parametrize("damage", [flip_a_bit, cut, os.remove], ids=["flipped bit", "cut short", "missing"])
def test_if_the_newest_checkpoint_is_damaged_the_one_before_is_used_and_the_user_is_told(tmp_path, member, damage):
    whole, _ = trained_toy()
    stopped_after(8, tmp_path)
    older, newest = checkpoints(tmp_path)
    damage(newest / member)
    resumed, events = trained_toy(folder=tmp_path, resume=True)
    (warning,) = of_kind(Warned, events)
    assert newest.name in warning.message
    assert f"goes on from {older.name}" in warning.message
    assert bits(resumed) == bits(whole)


def test_if_every_checkpoint_is_damaged_the_run_says_so_and_does_not_start(tmp_path):
    stopped_after(8, tmp_path)
    for path in checkpoints(tmp_path):
        flip_a_bit(path / "model.safetensors")
    module = Toy()
    before = bits(module)
    with pytest.raises(DamagedFile, match="SHA-256 differs"):
        next(toy_events(module, folder=tmp_path, resume=True))
    assert bits(module) == before


# Locked


def test_two_processes_cannot_use_one_folder_and_a_dead_one_holds_nothing(tmp_path):
    folder = tmp_path / "run"
    running = process(train_and_save, str(folder), str(tmp_path / "model"), pause=600)
    try:
        eventually(lambda: (folder / "lock").exists() and (folder / "lock").read_text())
        with pytest.raises(RuntimeError, match=f"is in use by process {running.pid} on .*pass another checkpoint_dir"):
            small_scvi().train(**MANY_STEPS, checkpoint_dir=folder, resume=True)
    finally:
        running.kill()
        running.join()
    assert small_scvi().train(**MANY_STEPS, checkpoint_dir=folder, resume=True).status == "done"


def test_two_runs_of_one_process_cannot_use_one_folder(tmp_path):
    first = toy_events(Toy(), folder=tmp_path)
    next(first)
    with pytest.raises(RuntimeError, match=f"is in use by process {os.getpid()} "):
        next(toy_events(Toy(), folder=tmp_path, resume=True))
    first.close()
    next(toy_events(Toy(), folder=tmp_path, resume=True))


@pytest.mark.parametrize("end", ["done", "stopped", "failed"])
def test_the_folder_is_free_again_when_the_run_has_ended(tmp_path, end):
    module = Toy()
    events = toy_events(module, folder=tmp_path)
    next(events)
    if end == "done":
        list(events)
    elif end == "stopped":
        events.close()
    else:
        module.before_loss = lambda cells: 1 / 0
        with pytest.raises(ZeroDivisionError):
            next(events)
    assert isinstance(next(toy_events(Toy(), folder=tmp_path, resume=True)), RunStarted)


def test_a_lock_that_a_dead_process_left_behind_is_ignored(tmp_path):
    (tmp_path / "lock").write_text(f"process {os.getppid()} on elsewhere")
    trained_toy(folder=tmp_path)
    assert (tmp_path / "lock").read_text().startswith(f"process {os.getpid()} on ")


def test_a_file_system_without_locks_costs_a_warning_not_the_run(tmp_path, monkeypatch, caplog):
    fcntl = pytest.importorskip("fcntl")

    def refuse(*arguments):
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(fcntl, "flock", refuse)
    with caplog.at_level(logging.WARNING):
        trained_toy(folder=tmp_path)
    assert "cannot be locked (Function not implemented)" in caplog.text
