"""A training run that can be watched, paused and stopped, in the foreground or on a thread of its own."""

from __future__ import annotations

import contextlib
import logging
import signal
import threading
from collections.abc import Iterator

import torch

from ..nn.ranks import Ranks
from .events import EpochEnded, Event, StepEnded
from .malloc import freed_memory_kept
from .watched import Run

logger = logging.getLogger(__name__)
STOPS = (None, "epoch", "batch")  # what can be wanted, the more urgent last


class TrainingRun(Run):
    """Drives the training of a model.

    Parameters
    ----------
    events
        What `training_events` returns.
    threads
        CPU threads of torch while the run computes.
    ranks
        Processes that compute it together: they stop together, at the wish of any.
    """

    def __init__(self, events: Iterator[Event], threads: int = 1, ranks: Ranks | None = None):
        super().__init__(events)
        self._threads, self._ranks = threads, ranks

    def run(self) -> TrainingRun:
        """Run here and return when the run has ended.

        The first interrupt (Ctrl-C, or the kernel's stop button) finishes the step and leaves a usable model; the
        second raises KeyboardInterrupt.
        """
        self.in_foreground = True
        self._begin()
        with self._obeying_interrupts():
            self._drive()
        if self.error is not None:
            raise self.error
        return self

    def _begin(self) -> None:
        super()._begin()
        self._threads_before = torch.get_num_threads()  # of the thread that starts the run

    def _should_stop(self, event: Event) -> bool:
        alone = super()._should_stop(event)
        if self._ranks is None:
            return alone
        if not isinstance(event, StepEnded | EpochEnded):  # the others do not all come to such
            return False
        self._stop_wanted = STOPS[self._ranks.largest(STOPS.index(self._stop_wanted))]
        return self._stop_wanted == "batch" or (self._stop_wanted == "epoch" and isinstance(event, EpochEnded))

    @contextlib.contextmanager
    def _surroundings(self) -> Iterator[None]:
        with cpu_threads(self._threads, self._threads_before), freed_memory_kept():
            yield

    @contextlib.contextmanager
    def _obeying_interrupts(self) -> Iterator[None]:
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = signal.getsignal(signal.SIGINT)

        def interrupt(signal_number, frame):
            if self._stop_wanted == "batch":
                raise KeyboardInterrupt
            logger.warning("Interrupted: finishing this step. The model stays usable; interrupt again to stop at once.")
            self.stop("batch")

        signal.signal(signal.SIGINT, interrupt)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, before)


@contextlib.contextmanager
def cpu_threads(n: int, before: int | None = None) -> Iterator[None]:
    """For this thread; also, while it lasts, for new ones, hence `before`: a second run would read the first one's."""
    before = torch.get_num_threads() if before is None else before
    torch.set_num_threads(n)
    try:
        yield
    finally:
        torch.set_num_threads(before)
