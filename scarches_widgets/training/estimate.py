"""What a training will cost, from a few steps of it: seconds, memory beside what this process may use, and disk."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from .events import EpochEnded, Event, RunStarted, StepEnded
from .limits import memory_limit
from .watched import Run

if TYPE_CHECKING:
    from torch import nn

LONGEST = 2.0  # seconds of a probe
FIRST = 1  # steps that are not counted: caches are cold
ENOUGH = 2  # epochs after which a probe ends sooner


@dataclass(frozen=True)
class Estimate:
    """What a run will take.

    Attributes
    ----------
    n_steps
        Steps that were measured.
    seconds_per_epoch, max_epochs
        Of the whole run; early stopping may end it sooner.
    memory, memory_limit
        Bytes that the process held at the end of the probe, and that it may use.
    disk
        Bytes of its checkpoints, if it keeps any.
    """

    n_steps: int
    seconds_per_epoch: float
    max_epochs: int
    memory: int
    memory_limit: int
    disk: int = 0

    @property
    def seconds(self) -> float:
        return self.seconds_per_epoch * self.max_epochs

    def epochs_within(self, seconds: float) -> int:
        """As many epochs as `seconds` allow, but one at least and no more than there are."""
        return max(1, min(self.max_epochs, int(seconds / self.seconds_per_epoch)))

    def __str__(self) -> str:
        epochs = f"{self.max_epochs:,} {'epoch' if self.max_epochs == 1 else 'epochs'}"
        time = f"about {_duration(self.seconds)}: {epochs} of {_duration(self.seconds_per_epoch)}"
        held, limit = f"{self.memory / 1e9:.2g} GB", f"{self.memory_limit / 1e9:.2g} GB"
        warning = ", which is nearly all: take fewer cells or genes" if self.memory > 0.85 * self.memory_limit else ""
        disk = f" Checkpoints will take {self.disk / 1e6:,.1f} MB of disk." if self.disk else ""
        return (
            f"Training will take {time}, measured on {self.n_steps:,} steps. This process holds {held} of the {limit} "
            f"that it may use{warning}.{disk}"
        )


class NothingMeasured(RuntimeError):
    """A run ended before a step could be measured."""


def probe(begin: Callable[[Callable[[Event, Run], None]], Run], kept: nn.Module | None = None) -> Estimate:
    """Measure the first steps of a run, which is then stopped.

    Parameters
    ----------
    begin
        Begins a run in the background that nobody needs, of a model that nobody needs; it is given what wants to hear
        each event from the run's beginning on. See `begun_by`.
    kept
        The network, if the training that is estimated will keep checkpoints of it.

    Raises
    ------
    NothingMeasured
        If the run ends before a step could be measured.
    """
    import psutil

    listener = _Listener()
    run = begin(listener.hear)
    run.wait()
    if run.started is None or len(listener.ends) <= FIRST:
        raise NothingMeasured("The run ended before a step could be measured. Train without an estimate.")
    steps = [after - before for before, after in pairwise(listener.ends)]
    per_epoch = statistics.median(steps) * run.started.steps_per_epoch
    if len(run.epochs) > FIRST:  # what a whole epoch takes: cells held out are looked at besides
        per_epoch = statistics.median(epoch.seconds for epoch in run.epochs[FIRST:])
    memory = psutil.Process().memory_info().rss
    disk = 0
    if kept is not None:
        from .autosave import disk_of_checkpoints

        disk = disk_of_checkpoints(kept, keeps_best=run.started.patience is not None)
    return Estimate(len(steps), per_epoch, run.started.max_epochs, memory, memory_limit(), disk)


def begun_by(model: Any, **options: Any) -> Callable[[Callable[[Event, Run], None]], Run]:
    """For `probe`: the training of a model that nobody needs, with these options of `train`."""

    def begin(hear: Callable[[Event, Run], None]) -> Run:
        model.watch_runs(lambda run: run.subscribe(lambda event: hear(event, run)))
        return model.train(background=True, **options)

    return begin


class _Listener:
    def __init__(self):
        self.begun = time.monotonic()
        self.ends: list[float] = []

    def hear(self, event: Event, run: Run) -> None:
        now = time.monotonic()
        if isinstance(event, RunStarted):
            self.begun = now
        elif isinstance(event, StepEnded):
            self.ends.append(now)
        if len(self.ends) > FIRST + 1 and (now - self.begun > LONGEST or _has(run, ENOUGH + FIRST, event)):
            run.stop()


def _has(run: Run, n_epochs: int, event: Event) -> bool:
    return isinstance(event, EpochEnded) and len(run.epochs) >= n_epochs


def _duration(seconds: float) -> str:
    for size, unit in ((3600, "h"), (60, "min"), (1, "s")):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.2g} s"
