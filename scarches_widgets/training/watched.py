"""A run as those see it who watch it: status, epochs, pause and stop. Needs no torch, so that records play without."""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Callable, Iterator

import pandas as pd

from .events import EpochEnded, Event, RunEnded, RunStarted, StepEnded, Warned

logger = logging.getLogger(__name__)
Listener = Callable[[Event], None]
ENDED = ("stopped", "done", "failed")


class Run:
    """Drives a generator of events.

    Parameters
    ----------
    events
        Begins with `RunStarted` and ends with `RunEnded`.

    Attributes
    ----------
    status
        "ready", "running", "pausing", "paused", "stopping", "stopped", "done" or "failed".
    error
        What went wrong, if the run failed.
    epochs
        `EpochEnded` of each epoch so far.
    started, ended
        The run's `RunStarted` and `RunEnded`, once they have come.
    warnings
        Texts of the run's `Warned`.
    n_steps
        Steps taken so far.
    """

    controls: tuple[str, ...] = ("pause", "stop")  # what can be done with it from outside

    def __init__(self, events: Iterator[Event]):
        self._events = _relayed(events)
        self._changed = threading.Condition()
        self._finished = threading.Event()
        self._listeners: list[Listener] = []
        self._pause_wanted = False
        self._stop_wanted: str | None = None
        self._last: tuple[int, int] | None = None  # steps and epochs after which the run is to end
        self.in_foreground = False  # whether the thread that began it drives it: then only an interrupt can end it
        self.status = "ready"
        self.error: BaseException | None = None
        self.epochs: list[EpochEnded] = []
        self.n_steps = 0
        self.started: RunStarted | None = None
        self.ended: RunEnded | None = None
        self.warnings: list[str] = []

    def __repr__(self) -> str:
        of = f" of {self.started.max_epochs}" if self.started and self.started.max_epochs else ""
        return f"{type(self).__name__}({self.status}, epoch {len(self.epochs)}{of})"

    @property
    def history(self) -> pd.DataFrame:
        """One row per epoch, one column per named loss term (`train_…`, `val_…`), learning rate and KL weight."""
        return history_frame(self.epochs)

    @property
    def is_active(self) -> bool:
        return self.status not in ("ready", *ENDED)

    def subscribe(self, listener: Listener) -> Callable[[], None]:
        """Call `listener` with each event from now on, on the run's thread; the returned function ends that."""
        self._listeners.append(listener)
        return lambda: self._forget(listener)

    def start(self) -> Run:
        """Run on a thread of its own; returns at once."""
        self._begin()
        threading.Thread(target=self._drive, name="scarches-training", daemon=True).start()
        return self

    def pause(self) -> None:
        """Hold on after the step under way."""
        with self._changed:
            if self.status == "running":
                self._pause_wanted = True
                self._become("pausing")

    def resume(self) -> None:
        """Go on after `pause`."""
        with self._changed:
            if self.status in ("pausing", "paused"):
                self._pause_wanted = False
                self._become("running")

    def stop(self, when: str = "batch") -> None:
        """End the run after the step ("batch") or the epoch ("epoch") under way; the model stays usable."""
        if when not in ("batch", "epoch"):
            raise ValueError(f"when='{when}' is neither 'batch' nor 'epoch'.")
        with self._changed:
            if self.is_active:
                self._stop_wanted = "batch" if self._stop_wanted == "batch" else when
                self._pause_wanted = False
                self._become("stopping")

    def stop_after(self, steps: int, epochs: int = 0) -> None:
        """End the run once it has taken so many steps and ended so many epochs.

        A run that was stopped by hand is repeated to the bit by `stop_after(run.n_steps, len(run.epochs))`, called
        before the first step of a run of the same options; see `Model.watch_runs`.
        """
        self._last = steps, epochs

    def wait(self, timeout: float | None = None) -> str:
        """Wait until the run has ended, at most `timeout` seconds; the status then. Raises what the run raised."""
        self._finished.wait(timeout)
        if self.error is not None:
            raise self.error
        return self.status

    def _begin(self) -> None:
        with self._changed:
            if self.status != "ready":
                raise RuntimeError(f"This run is {self.status}; a run can be started once. Begin a new one.")
            self._become("running")

    def _become(self, status: str) -> None:
        with self._changed:
            self.status = status
            self._changed.notify_all()

    def _drive(self) -> None:
        try:
            with self._surroundings(), contextlib.closing(self._events):
                for event in self._events:
                    self._take(event)
                    if self._should_stop(event):
                        break
            if self.ended is None:
                self._end("stopped", f"stopped after the {self._stop_wanted}")
            else:
                self._end("done", self.ended.reason)
        except KeyboardInterrupt:
            self._end("stopped", "interrupted")
            raise
        except BaseException as error:  # noqa: BLE001 - kept for wait() and run(), which raise it
            self.error = error
            self._end("failed", str(error))
        finally:
            self._finished.set()  # only now: who waits may rely on what the listeners do

    def _surroundings(self) -> contextlib.AbstractContextManager:
        """What holds while events are driven, on the thread that drives them."""
        return contextlib.nullcontext()

    def _take(self, event: Event) -> None:
        if isinstance(event, EpochEnded):
            self.epochs.append(event)
        elif isinstance(event, StepEnded):
            self.n_steps += 1
        elif isinstance(event, RunStarted):
            self.started = event
            logger.info(event.schedule)
        elif isinstance(event, Warned):
            self.warnings.append(event.message)
            logger.warning(event.message)
        elif isinstance(event, RunEnded):
            self.ended = event
            return  # told by _end, when the status is right
        self._tell(event)

    def _tell(self, event: Event) -> None:
        for listener in list(self._listeners):
            try:
                listener(event)
            except Exception:  # a listener's fault must not cost the user the run
                logger.exception("A listener of the training run failed and is not called again.")
                self._forget(listener)

    def _forget(self, listener: Listener) -> None:
        with contextlib.suppress(ValueError):  # forgotten already
            self._listeners.remove(listener)

    def _should_stop(self, event: Event) -> bool:
        with self._changed:
            while self._pause_wanted:  # not wait_for: who pauses again at once is told "paused" again
                self._become("paused")
                self._changed.wait()
            if self._last is not None and (self.n_steps, len(self.epochs)) >= self._last:
                self._stop_wanted = "batch"
            return self._stop_wanted == "batch" or (self._stop_wanted == "epoch" and isinstance(event, EpochEnded))

    def _end(self, status: str, reason: str) -> None:
        keeps_best = self.started is not None and self.started.patience is not None
        best = [epoch.epoch for epoch in self.epochs if epoch.is_best and keeps_best]
        self.ended = RunEnded(status, reason, len(self.epochs), best[-1] if best else None)
        self._become(status)
        self._tell(self.ended)


def history_frame(epochs: list[EpochEnded]) -> pd.DataFrame:
    """Epochs as a table: `train_…` and `val_…` columns per term, `learning_rate`, `kl_weight`, `seconds`."""
    rows = [
        {
            **{f"train_{name}": value for name, value in epoch.train.items()},
            **{f"val_{name}": value for name, value in (epoch.validation or {}).items()},
            "learning_rate": epoch.learning_rate,
            "kl_weight": epoch.kl_weight,
            "seconds": epoch.seconds,
        }
        for epoch in epochs
    ]
    return pd.DataFrame(rows, index=pd.Index([epoch.epoch for epoch in epochs], name="epoch"))


def _relayed(events: Iterator[Event]) -> Iterator[Event]:
    """A generator, which can be closed, whatever `events` is."""
    yield from events
