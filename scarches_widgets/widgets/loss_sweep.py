"""A sweep's trials in a LossMonitor: the newest one is watched, with those under way and the best ones beside it.

Status and Stop are the sweep's, which goes on where one trial has ended and the next has not begun.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

from ..training.outside import watched
from .loss_tracks import COLOURS, Track

if TYPE_CHECKING:
    from ..training.watched import Run
    from .loss_monitor import LossMonitor


class Trials(Protocol):
    """What trains many models: `bridges.sweeps.Sweep`. Their runs have a `title`."""

    runs: list[Run]
    status: str
    error: BaseException | None
    n_begun: int
    n_trials: int
    controls: tuple[str, ...]
    in_foreground: bool

    def stop(self, when: str) -> None: ...

    def watch_trials(self, watcher: Callable[[Run], None]) -> None: ...

    def watch_status(self, watcher: Callable[[], None]) -> None: ...


def follow_trials(monitor: LossMonitor, sweep: Trials) -> None:
    """Draw each trial of a sweep as it begins; no more than can be told apart."""
    monitor._sweep = sweep
    for run in sweep.runs:
        if run.started is not None:
            show_trial(monitor, run)
    sweep.watch_trials(lambda run: show_trial(monitor, run))
    sweep.watch_status(monitor._publisher.touch)
    monitor._show_status()


def show_trial(monitor: LossMonitor, run: Run) -> None:
    """Watch this trial from now on, and compare it with the one that was watched until now."""
    with monitor._lock:
        before = monitor.run
        if run in [track.run for track in monitor._tracks]:
            return
        monitor._name = run.title
        monitor._attach(run)
        monitor._earlier = []  # which would be offered for comparison, as they are already
        if before is None or not (before.epochs or before.is_active):
            return
        compared = [track for track in monitor._tracks if track.run is not run]
        if len(compared) >= len(COLOURS) - 1:
            monitor.remove(max(compared, key=_dispensability).name)
        monitor.add(before, before.title)


def _dispensability(track: Track) -> tuple[bool, float]:
    """Ended trials before those under way, and the worst first."""
    return not track.run.is_active, math.inf if track.best is None else watched(track.best)
