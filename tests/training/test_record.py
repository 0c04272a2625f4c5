"""Recorded runs: small files, the same epochs again, at another speed, and nothing but records is played."""

import json
import math
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pytest

from scarches_widgets.data.names import DataError
from scarches_widgets.training.events import EpochEnded, RunEnded, RunStarted, Warned
from scarches_widgets.training.record import Replay, finished, read_record, record_of, write_record
from scarches_widgets.training.watched import Run


def told(n_epochs=20, seconds=0.01):
    yield RunStarted(90, 10, n_epochs, 1, 0, "in a test", patience=5)
    yield Warned("Batch 'P7' has one cell.")
    for epoch in range(n_epochs):
        train = {"kl_latent": math.nan if epoch == 3 else 1.0, "unweighted_loss": 100 / 3 / (epoch + 1)}
        yield EpochEnded(epoch, train, dict(train), 0.01, 1.0, epoch == 7, epoch % 3, seconds)
    yield RunEnded("done", "all epochs done", n_epochs, None)


@pytest.fixture
def run():
    run = Run(told())
    run.start().wait(10)
    return run


@pytest.fixture
def path(run, tmp_path):
    return write_record(record_of(run, "A run"), tmp_path / "run.json")


def test_a_record_that_is_read_has_the_same_epochs_to_seven_digits(run, path):
    record = read_record(path)
    assert record.title == "A run" and record.started == run.started and record.ended == run.ended
    assert record.warnings == ("Batch 'P7' has one cell.",)
    np.testing.assert_allclose(finished(record).history, run.history, rtol=1e-6, equal_nan=True)
    for ours, theirs in zip(record.epochs, run.epochs, strict=True):
        assert (ours.is_best, ours.n_without_improvement) == (theirs.is_best, theirs.n_without_improvement)
    assert math.isnan(record.epochs[3].train["kl_latent"])


def test_a_thousand_epochs_take_less_than_150_kilobytes_of_strict_json(tmp_path):
    run = Run(told(1000))
    run.start().wait(10)
    path = write_record(record_of(run), tmp_path / "long.json")
    assert path.stat().st_size < 150_000
    json.loads(path.read_text(), parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))


def test_a_replay_takes_the_recorded_time_divided_by_its_speed(run):
    record = record_of(run)
    slow = replace(record, epochs=tuple(replace(epoch, seconds=0.1) for epoch in record.epochs))  # 2 s in all
    begun = time.monotonic()
    replay = Replay(slow, speed=4)
    replay.start().wait(10)
    assert 0.5 <= time.monotonic() - begun < 1.5
    assert replay.status == "done" and replay.epochs == run.epochs[:0] + list(slow.epochs)


def test_a_replay_is_paused_goes_on_and_can_be_made_faster_while_it_plays(run):
    record = record_of(run)
    endless = replace(record, epochs=tuple(replace(epoch, seconds=3600) for epoch in record.epochs))
    replay = Replay(endless).start()
    replay.pause()
    deadline = time.monotonic() + 5
    while replay.status != "paused":
        assert time.monotonic() < deadline
        time.sleep(0.01)
    replay.speed = 0
    time.sleep(0.2)
    assert not replay.epochs, "it is paused"
    replay.resume()
    assert replay.wait(5) == "done" and len(replay.epochs) == 20


@pytest.mark.parametrize("speed", [-1, math.nan, math.inf, "2", True, None])
def test_a_speed_that_is_none_is_refused(run, speed):
    with pytest.raises(ValueError, match="times as fast"):
        Replay(record_of(run), speed)


def test_a_run_without_an_epoch_is_not_recorded():
    with pytest.raises(ValueError, match="No epoch has ended yet"):
        record_of(Run(told()))


SPOILT = {
    "another kind": lambda d: d.update(kind="x"),
    "a later version": lambda d: d.update(version=2),
    "columns of different length": lambda d: d["epochs"]["epoch"].pop(),
    "a text among numbers": lambda d: d["epochs"]["train"]["kl_latent"].__setitem__(0, "1"),
    "no losses": lambda d: d["epochs"].update(train={}),
    "no epochs": lambda d: d["epochs"].update(epoch=[]),
    "a missing part": lambda d: d.pop("started"),
    "a field of another type": lambda d: d["started"].update(max_epochs="many"),
    "an epoch without a number": lambda d: d["epochs"]["epoch"].__setitem__(0, None),
}


@pytest.mark.parametrize("how", SPOILT)
def test_a_spoilt_file_is_refused_with_what_is_wrong(path, how):
    document = json.loads(path.read_text())
    SPOILT[how](document)
    path.write_text(json.dumps(document))
    with pytest.raises(DataError, match=r"no training record that can be played: .+ Make one with"):
        read_record(path)


@pytest.mark.parametrize("text", ["", "{", "[1]", '"x"', "[" * 100_000, "\udcff"])
def test_what_is_no_json_object_is_refused(tmp_path, text):
    path = tmp_path / "x.json"
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(DataError, match=r"x\.json is no training record"):
        read_record(path)


def test_a_record_is_played_and_drawn_without_torch(path):
    code = (
        "import sys, scarches_widgets as sca\n"
        f"monitor = sca.widgets.LossMonitor.replay({str(path)!r}, speed=0)\n"
        "assert monitor.run.wait(10) == 'done' and len(monitor.history) == 20\n"
        "assert '20 epochs' in monitor._repr_mimebundle_()[0]['text/plain']\n"
        "assert 'torch' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
