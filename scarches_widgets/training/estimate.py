"""What a training will cost, from a few steps of it: seconds and memory, beside what this process may use."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

from .events import EpochEnded, Event, RunStarted, StepEnded
from .limits import memory_limit
from .watched import Run

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
    """

    n_steps: int
    seconds_per_epoch: float
    max_epochs: int
    memory: int
    memory_limit: int

    @property
    def seconds(self) -> float:
        return self.seconds_per_epoch * self.max_epochs

    def epochs_within(self, seconds: float) -> int:
        """As many epochs as `seconds` allow, but one at least and no more than there are."""
        return max(1, min(self.max_epochs, int(seconds / self.seconds_per_epoch)))


def probe(begin: Callable[[Callable[[Event, Run], None]], Run]) -> Estimate:
    """Measure the first steps of a run, which is then stopped.

    Parameters
    ----------
    begin
        Begins a run in the background that nobody needs, of a model that nobody needs; it is given what wants to hear
        each event from the run's beginning on.

    Raises
    ------
    RuntimeError
        If the run ends before a step could be measured.
    """
    import psutil

    listener = _Listener()
    run = begin(listener.hear)
    run.wait()
    if run.started is None or len(listener.ends) <= FIRST:
        raise RuntimeError("The run ended before a step could be measured. Train without an estimate.")
    steps = [after - before for before, after in pairwise(listener.ends)]
    per_epoch = statistics.median(steps) * run.started.steps_per_epoch
    if len(run.epochs) > FIRST:  # what a whole epoch takes: cells held out are looked at besides
        per_epoch = statistics.median(epoch.seconds for epoch in run.epochs[FIRST:])
    memory = psutil.Process().memory_info().rss
    return Estimate(len(steps), per_epoch, run.started.max_epochs, memory, memory_limit())


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
