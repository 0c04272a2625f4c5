"""What a training will cost: measured on its first steps, which are then stopped."""

import time

import pytest
from small import SMALL

import scarches_widgets as sca
from scarches_widgets.training.estimate import Estimate, begun_by, probe
from scarches_widgets.training.events import EpochEnded, RunEnded, RunStarted, StepEnded
from scarches_widgets.training.watched import Run


def steps_of(seconds, n_epochs=1000, steps=10):
    yield RunStarted(900, 100, n_epochs, steps, 0, "in a test", None)
    for epoch in range(n_epochs):
        for step in range(steps):
            time.sleep(seconds)
            yield StepEnded(epoch, step, steps, 1.0)
        yield EpochEnded(epoch, {"loss": 1.0}, None, 0.01, 1.0, True, 0, 2 * seconds * steps)
    yield RunEnded("done", "all epochs done", n_epochs, None)


def begin(run):
    def begun(hear):
        run.subscribe(lambda event: hear(event, run))
        return run.start()

    return begun


def test_quick_epochs_are_measured_whole_and_slow_ones_by_their_steps():
    quick, slow = Run(steps_of(0.001)), Run(steps_of(0.3))
    cost = probe(begin(quick))
    assert cost.seconds_per_epoch == pytest.approx(0.02), "as the epoch says, with what it takes besides its steps"
    assert quick.status == "stopped" and len(quick.epochs) == 3 and cost.max_epochs == 1000
    assert cost.seconds == 1000 * cost.seconds_per_epoch
    assert 0 < cost.memory < cost.memory_limit
    begun = time.monotonic()
    assert probe(begin(slow)).seconds_per_epoch == pytest.approx(3, rel=0.5)
    assert time.monotonic() - begun < 6 and not slow.epochs


def test_a_run_without_steps_cannot_be_measured():
    with pytest.raises(RuntimeError, match="before a step could be measured"):
        probe(begin(Run(iter([RunEnded("done", "nothing to train", 0, None)]))))


@pytest.mark.parametrize(("seconds", "epochs"), [(50, 10), (1, 1), (1e6, 40)])
def test_as_many_epochs_as_fit_but_one_at_least_and_no_more_than_there_are(seconds, epochs):
    assert Estimate(9, 5.0, 40, 1, 2).epochs_within(seconds) == epochs


def test_the_disk_that_checkpoints_will_take_is_what_they_take(tmp_path):
    cells = sca.datasets.atlas(n_obs=300, n_vars=800, n_batches=2, n_types=3, seed=1)
    model, thrown_away = (sca.models.SCVI(cells, batch_key="batch", **SMALL) for _ in range(2))
    options = {"max_epochs": 3, "batch_size": 64, "early_stopping": True, "progress": False}
    cost = probe(begun_by(thrown_away, **options), kept=thrown_away.module)
    model.train(checkpoint_dir=tmp_path, checkpoint_every=0, **options)
    kept = sum(path.stat().st_size for path in tmp_path.rglob("*") if path.is_file())  # two, and a third comes and goes
    assert cost.disk == pytest.approx(1.5 * kept, rel=0.1)
    assert f"Checkpoints will take {cost.disk / 1e6:,.1f} MB of disk." in str(cost)
    assert probe(begun_by(sca.models.SCVI(cells, batch_key="batch", **SMALL), **options)).disk == 0
