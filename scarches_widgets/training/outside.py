"""Runs that others compute: any loop that tells its losses epoch by epoch, or a CSV file that grows. Needs no torch.

Names of losses are understood as Lightning, Keras and scvi-tools spell them: `val_`, `validation_` in front or behind
means cells held out, everything else training; `epoch` and `lr` are what they say.
"""

from __future__ import annotations

import csv
import io
import math
import os
import queue
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from numbers import Real
from pathlib import Path
from typing import Any

import pandas as pd

from ..data.names import DataError, listed, shown
from .events import EpochEnded, Event, RunEnded, RunStarted
from .watched import Run

HELD_OUT = ("val", "validation", "valid", "test")
TRAINING = ("train", "training")
RATES = ("lr", "learning_rate")
IGNORED = ("step", "time", "timestamp", "seconds", "wall_time")
MAIN = ("unweighted_loss", "loss", "elbo")  # by which epochs are compared: the first of these that there is
POLL = 0.2  # seconds between two looks at a file
SETTLED = 2.0  # seconds without a new line after which an epoch's lines are complete
LARGEST = 64 * 2**20  # bytes of a file


def main_term(epoch: EpochEnded) -> str:
    """The term by which epochs are compared."""
    terms = [*epoch.train, *(epoch.validation or {})]
    return next((name for name in MAIN if name in terms), terms[0])


def watched(epoch: EpochEnded) -> float:
    """What is to become small: the main term on held-out cells, or on training cells if none are held out."""
    term = main_term(epoch)
    return {**epoch.train, **(epoch.validation or {})}[term]


def is_better(epoch: EpochEnded, than: EpochEnded | None) -> bool:
    """Whether an epoch's loss is less than another's.

    Losses of held-out cells are compared where any are told: an epoch that has none, or none yet, is not better than
    one that has.
    """
    if not math.isfinite(watched(epoch)):
        return False
    if than is None:
        return True
    has, had = (main_term(one) in (one.validation or {}) for one in (epoch, than))
    return watched(epoch) < watched(than) if has == had else has


def parted(name: str) -> tuple[str, str]:
    """`"validation"` or `"train"`, and the term: `val_loss`, `loss/val` and `loss_validation` are one."""
    words = name.replace("/", "_").replace("-", "_").removesuffix("_epoch").split("_")
    for part, marks in (("validation", HELD_OUT), ("train", TRAINING)):
        for rest, mark in ((words[1:], words[0]), (words[:-1], words[-1])):
            if mark.casefold() in marks and rest:
                return part, "_".join(rest)
    return "train", "_".join(words)


class _Epochs:
    """Makes an `EpochEnded` of each epoch's values, and remembers the best one.

    What is told of an epoch in several pieces (training's losses, then those of cells held out) is put together: the
    same epoch comes again, with all of them.
    """

    def __init__(self):
        self._before: tuple[EpochEnded | None, int] = None, 0  # the best until the last epoch, and epochs since then
        self._last: EpochEnded | None = None
        self._told = time.monotonic()
        self.under_way: int | None = None  # the epoch of values that have no number; None: each has a new one

    def made(self, values: Mapping[str, Any], epoch: int | None = None) -> EpochEnded | None:
        """None if there is no loss among the values."""
        number, rate, kl_weight, parts = epoch, math.nan, math.nan, {"train": {}, "validation": {}}
        for name, value in values.items():
            plain = str(name).strip().casefold()
            value = as_number(value)
            if value is None or plain in IGNORED:
                continue
            if plain == "epoch":
                number = int(value) if number is None and math.isfinite(value) else number
            elif plain == "kl_weight":
                kl_weight = value
            elif plain in RATES or plain.startswith(("lr-", "lr_")):
                rate = value
            else:
                part, term = parted(str(name).strip())
                parts[part][term] = value
        if not parts["train"] and not parts["validation"]:
            return None
        now, last = time.monotonic(), self._last
        seconds, self._told = now - self._told, now
        if number is None:
            number = self._next if self.under_way is None else self.under_way
        if self.under_way is not None:
            self.under_way = number
        if last is not None and last.epoch == number:
            parts = {"train": last.train | parts["train"], "validation": (last.validation or {}) | parts["validation"]}
            rate = last.learning_rate if math.isnan(rate) else rate
            kl_weight = last.kl_weight if math.isnan(kl_weight) else kl_weight
            seconds += last.seconds
        elif last is not None:
            best = self._before[0]
            self._before = last if is_better(last, best) else best, last.n_without_improvement
        made = EpochEnded(number, parts["train"], parts["validation"] or None, rate, kl_weight, False, 0, seconds)
        best, since = self._before
        better = is_better(made, best)
        self._last = replace(made, is_best=better, n_without_improvement=0 if better else since + 1)
        return self._last

    @property
    def _next(self) -> int:
        return 0 if self._last is None else self._last.epoch + 1


def as_number(value: Any) -> float | None:
    """A number, or what holds one (a tensor, NumPy's scalars, text of a CSV file); None for anything else."""
    if isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            return None
    if isinstance(value, bool) or value is None:
        return None
    if not isinstance(value, Real) and hasattr(value, "item") and getattr(value, "ndim", 0) == 0:
        value = value.item()
    return float(value) if isinstance(value, Real) else None


class OutsideRun(Run):
    """A run that others compute, of which an epoch may come again, when more of it is told."""

    def _take(self, event: Event) -> None:
        if isinstance(event, EpochEnded) and self.epochs and self.epochs[-1].epoch == event.epoch:
            self.epochs[-1] = event
            self._tell(event)
        else:
            super()._take(event)


class ToldRun(OutsideRun):
    """A run that somebody else's loop tells epoch by epoch; `tell` never waits for whoever watches.

    Parameters
    ----------
    max_epochs
        How many epochs there will be; None: not known.
    title
        Its name.
    heeds_stop
        Whether the loop asks `stop_wanted` after each epoch. Only then can it be stopped: no other has a say in it.
    """

    def __init__(self, max_epochs: int | None = None, title: str = "", heeds_stop: bool = False):
        self.controls = ("stop",) if heeds_stop else ()
        self._told: queue.SimpleQueue[EpochEnded | RunEnded] = queue.SimpleQueue()
        self._epochs = _Epochs()
        self.title = title
        super().__init__(self._relay(max_epochs))

    def begin_epoch(self, number: int) -> None:
        """What is told from now on without a number is of this epoch, or of that which one with a number says."""
        self._epochs.under_way = number

    def tell(self, values: Mapping[str, Any], epoch: int | None = None) -> None:
        """An epoch has ended with these values; of one that was told last, they are put to what was told.

        Raises
        ------
        DataError
            If there is no loss among them.
        """
        made = self._epochs.made(values, epoch)
        if made is None:
            raise DataError(
                f"There is no loss among {listed(values, 5) or 'the values'}, so there is nothing to draw. "
                "Give numbers by name: {'loss': 1.2, 'val_loss': 1.4}."
            )
        self._told.put(made)

    @property
    def stop_wanted(self) -> bool:
        """Whether the loop shall go through no further epoch."""
        return self._stop_wanted is not None

    def end(self, reason: str, status: str = "done") -> None:
        """No further epoch will come; `status` "done", or "stopped" if the loop has heeded `stop_wanted`."""
        self._told.put(RunEnded(status, reason, 0, None))

    def _should_stop(self, event: Event) -> bool:
        """A loop that heeds the wish ends by itself: it may have more to tell of the epoch under way."""
        return not self.controls and super()._should_stop(event)

    def _end(self, status: str, reason: str) -> None:
        super()._end(self.ended.status if self.ended else status, reason)

    def _relay(self, max_epochs: int | None) -> Iterator[Event]:
        yield RunStarted(0, 0, max_epochs or 0, 0, 0, "told by a loop", None)
        while not isinstance(event := self._told.get(), RunEnded):
            yield event
        yield event


def run_of_history(history: pd.DataFrame) -> Run:
    """A table of losses, one row per epoch, as a run that has ended.

    Raises
    ------
    DataError
        If it has no rows, or no column of losses.
    """
    run = ToldRun(len(history))
    for epoch, row in history.iterrows():
        run.tell(row, int(epoch))
    run.end("from a table")
    run.start().wait()
    return run


class FollowedFile(OutsideRun):
    """A CSV file as a run: one line per epoch, or several that are put together (Lightning writes two).

    Parameters
    ----------
    path
        The file; with `follow` it may not exist yet.
    follow
        Go on reading as it grows, until `stop()`.
    """

    controls = ("stop",)

    def __init__(self, path: str | os.PathLike, follow: bool = True):
        self.path = Path(path)
        self.title = self.path.stem
        if not follow and not self.path.exists():
            raise DataError(f"There is no file {shown(self.path)}. Give the CSV file that your loop writes.")
        super().__init__(self._read(follow))

    def _read(self, follow: bool) -> Iterator[Event]:
        yield RunStarted(0, 0, 0, 0, 0, f"read from {self.path.name}", None)
        epochs, pending, number, last = _Epochs(), {}, None, time.monotonic()
        for row in self._rows(follow):
            if row is None:  # nothing new
                if pending and time.monotonic() - last > SETTLED:
                    yield from _made(epochs, pending)
                    pending = {}
                if self._stop_wanted:
                    break
                time.sleep(POLL)
                continue
            last = time.monotonic()
            its = as_number(row.get("epoch"))
            if pending and (its is None or its != number):
                yield from _made(epochs, pending)
                pending = {}
            number = its
            pending |= {name: value for name, value in row.items() if name and value not in ("", None)}
        yield from _made(epochs, pending)
        yield RunEnded("done", "read to its end" if not follow else "no longer followed", 0, None)

    def _rows(self, follow: bool) -> Iterator[dict[str, str] | None]:
        """The file's lines by column; None whenever it has no further whole line."""
        names, place = None, 0
        while True:
            text, place = self._further(place, to_end=not follow)
            for fields in csv.reader(io.StringIO(text)):
                if not fields:
                    continue
                if names is None:
                    names = [name.strip() for name in fields]
                else:
                    yield dict(zip(names, fields))
            if not follow:
                return
            yield None

    def _further(self, place: int, to_end: bool) -> tuple[str, int]:
        """Whole lines from `place` on, and where they end."""
        try:
            size = self.path.stat().st_size
        except FileNotFoundError:
            return "", place
        if size > LARGEST:
            raise DataError(f"{shown(self.path.name)} has {size:,} bytes, too many for a table of losses.")
        if size < place:
            raise DataError(f"{shown(self.path.name)} has become shorter: another run writes it. Follow it anew.")
        with self.path.open("rb") as file:
            file.seek(place)
            data = file.read()
        if not to_end:
            data = data[: data.rfind(b"\n") + 1]
        return data.decode("utf-8", "replace"), place + len(data)


def _made(epochs: _Epochs, values: Mapping[str, Any]) -> Iterable[EpochEnded]:
    made = epochs.made(values) if values else None
    return [] if made is None else [made]
