"""Runs that other processes compute, perhaps on other machines: all that is shared is a folder.

    folder/events.jsonl     what the run tells, an event per line, as its process comes to it
    folder/stop             "epoch" or "batch", once the run is to end

The process that computes has a `Teller`, those who watch an `ElsewhereRun`. Needs no torch.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from . import events
from .events import EpochEnded, Event, RunEnded, RunStarted, StepEnded
from .watched import Run

EVENTS, STOP = "events.jsonl", "stop"
INTERVAL = 0.2  # seconds between two steps that are told, and between two looks at the folder


class ProcessLost(RuntimeError):
    """The process that computed a run has ended, and the run had not."""


class Teller:
    """Writes what a run tells into a folder, and ends it when the folder says so.

    Parameters
    ----------
    folder
        Made if it is not there. What an earlier attempt has told stays, and this one goes on behind it.
    """

    def __init__(self, folder: str | os.PathLike):
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self._file = open(self.folder / EVENTS, "a", encoding="utf-8")  # noqa: SIM115 - closed by `end`
        if self._file.tell():
            self._file.write("\n")  # an earlier attempt may have been killed in mid-line
        self._looked = 0.0
        self._ended: RunEnded | None = None

    def watch(self, run: Run) -> None:
        """Tell of this run, from before its first step on; its end is told by `end`, when its weights are safe."""
        run.subscribe(lambda event: self._hear(event, run))

    def end(self, error: BaseException | None = None) -> None:
        """Tell how the run has ended; with an `error`, that this is why."""
        ended = self._ended or RunEnded("stopped", "stopped before its first step", 0, None)
        self._write(RunEnded("failed", str(error) or type(error).__name__, 0, None) if error is not None else ended)
        self._file.close()

    def _hear(self, event: Event, run: Run) -> None:
        if isinstance(event, RunEnded):
            self._ended = event
            return
        if isinstance(event, StepEnded):
            now = time.monotonic()
            if now - self._looked < INTERVAL:
                return
            self._looked = now
        if isinstance(event, StepEnded | EpochEnded) and (when := wish(self.folder)):
            run.stop(when)
        self._write(event)

    def _write(self, event: Event) -> None:
        self._file.write(json.dumps(event.as_dict()) + "\n")
        self._file.flush()


class ElsewhereRun(Run):
    """What a `Teller` tells of, as a run: its epochs as they come, and a stop that reaches it.

    Parameters
    ----------
    folder
        The teller's.
    title
        Its name.
    lost
        Why its process can tell no more, in words; None while it can. By default it is taken to live until `lose`.
    at_end
        Called before the run has ended, if it has weights: to fetch them.
    """

    controls = ("stop",)

    def __init__(
        self,
        folder: str | os.PathLike,
        title: str = "",
        lost: Callable[[], str | None] = lambda: None,
        at_end: Callable[[], Any] = lambda: None,
    ):
        self.folder, self.title = Path(folder), title
        self._lost, self._at_end = lost, at_end
        super().__init__(self._read())

    def stop(self, when: str = "batch") -> None:
        super().stop(when)
        if self._stop_wanted is not None:
            wish_to_stop(self.folder, self._stop_wanted)

    def pause(self) -> None:
        raise RuntimeError("This run is computed by other processes, which cannot be paused. Stop it, or let it run.")

    def lose(self, reason: str) -> None:
        """No further event will come; if the run has not ended by then, this is why."""
        self._lost = lambda: reason

    def _should_stop(self, event: Event) -> bool:
        return False  # it is told to, and then tells that it has

    def _read(self) -> Iterator[Event]:
        place, rest = 0, b""
        while True:
            lost = self._lost()  # asked before reading: what was written before is read first
            data = self._further(place)
            place += len(data)
            *lines, rest = (rest + data).split(b"\n")
            for event in filter(None, map(event_of, lines)):
                if not isinstance(event, RunEnded):
                    if not self._is_known(event):
                        yield event
                    continue
                if event.status == "failed":
                    raise RuntimeError(event.reason)
                self._at_end()
                if event.status != "stopped":  # else Run says so itself
                    yield event
                return
            if lost is not None and not data:
                raise ProcessLost(lost)
            if not data:
                time.sleep(INTERVAL)

    def _is_known(self, event: Event) -> bool:
        """Whether an attempt before this one has told it: epochs are the same then, to the bit."""
        if isinstance(event, EpochEnded):
            return bool(self.epochs) and event.epoch <= self.epochs[-1].epoch
        return isinstance(event, RunStarted) and self.started is not None

    def _further(self, place: int) -> bytes:
        try:
            with open(self.folder / EVENTS, "rb") as file:
                file.seek(place)
                return file.read()
        except FileNotFoundError:
            return b""


def event_of(line: bytes) -> Event | None:
    """The event that a line of JSON stands for; None for a line whose writer was killed before its end."""
    try:
        values = json.loads(line)
    except ValueError:
        return None
    return getattr(events, values.pop("event"))(**values)


def wish(folder: Path) -> str | None:
    """Whether the run that is computed here is to stop: "epoch", "batch" or None."""
    try:
        return "epoch" if (folder / STOP).read_text() == "epoch" else "batch"
    except FileNotFoundError:
        return None


def wish_to_stop(folder: Path, when: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / STOP).write_text(when)
