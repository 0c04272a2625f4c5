"""Loss curves of a run while it runs, with pause and stop; of several runs, of recorded ones, of anybody's loop."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import bokeh
import pandas as pd
import traitlets

from ..data.findings import counted
from ..data.names import DataError, did_you_mean, shown
from ..training.outside import FollowedFile, ToldRun, main_term
from ..training.record import Replay, read_record, record_of, write_record
from ..training.remarks import Remark
from ..training.watched import Run, history_frame
from .base import ENDED, HERE, Publisher, View, in_a_cell, inlined
from .bokeh_bridge import ensure_loader, figure_item
from .loss_sources import run_of
from .loss_sweep import Trials, follow_trials
from .loss_tracks import COLOURS, Track, curves_figure, in_words, lines_of, plotting, series_of, unit_of

if TYPE_CHECKING:
    from ..models.base import Model
    from ..training.events import Event

T = TypeVar("T")
INTERVAL = 0.2  # seconds between two messages: the eye sees no less, and 10,000 short epochs stay below 1.5 MB
REMARKED = 2.0  # seconds between two looks at the whole course
NOTES = 20  # at most, the last ones
MAIN = "0"  # the run that is watched, among those compared
MOST_SMOOTHING = 0.99
CURVES = ("runs", "series", "figure")


class LossMonitor(View):
    """Loss curves of a run while it runs, with pause and stop.

    Parameters
    ----------
    source
        A `TrainingRun`; a model: then its latest run is shown, and each run that it begins from now on; a file that
        `record` has written; a `history`, a DataFrame with one row per epoch; or a `bridges.sweeps.Sweep`: then its
        newest trial is shown beside others under way and the best ones. None: somebody else's loop, see `wrap`, `log`
        and `from_csv`.
    compare
        Name → further runs, models, files or histories, drawn with it.
    name
        What the run that is watched is called among others.

    Attributes
    ----------
    run
        The run that is shown; None before a model's first.
    history
        DataFrame, one row per epoch.
    histories
        Name → history of each run, if there are several.
    log_scale, smoothing, shown_terms, hidden_runs
        What the page shows: the loss on a logarithmic scale; the weight of the epochs before (0 to 0.99, as in
        TensorBoard: an exponential mean that is not biased towards the first epoch); which terms; keys of the runs
        that are left out.

    Examples
    --------
    A run while it runs, beside an earlier one:

    >>> monitor = sca.widgets.LossMonitor(model, compare={"lr=0.001": "first.json"})  # doctest: +SKIP
    >>> monitor.record("second.json")  # doctest: +SKIP

    A recorded run, ten times as fast, without torch:

    >>> sca.widgets.LossMonitor.replay("second.json", speed=10)  # doctest: +SKIP

    Any loop; Lightning and Keras by their own `LambdaCallback`; a file that grows:

    >>> monitor = sca.widgets.LossMonitor()
    >>> for epoch in monitor.wrap(range(3)):
    ...     monitor.log(loss=1 / (epoch + 1), val_loss=1.1 / (epoch + 1))
    >>> LambdaCallback(on_train_epoch_end=lambda trainer, _: monitor.log(trainer.callback_metrics))  # doctest: +SKIP
    >>> LambdaCallback(on_epoch_end=lambda epoch, logs: monitor.log(logs))  # doctest: +SKIP
    >>> sca.widgets.LossMonitor.from_csv("lightning_logs/version_0/metrics.csv")  # doctest: +SKIP

    Notes
    -----
    Keys, when the chart has the focus: left and right move the cursor by an epoch (with Shift by ten), Home and End
    jump, L switches the logarithmic scale, T the table, 0 shows all again after a zoom. Escape goes back to the
    notebook's cell, as in every view.
    """

    _esm = inlined(HERE / "loss_monitor.js")
    bokeh_version = traitlets.Unicode(bokeh.__version__).tag(sync=True)
    runs = traitlets.List().tag(sync=True)  # dicts of key, name, colour; the first is watched, others are compared
    figure = traitlets.Dict().tag(sync=True)  # Bokeh's JSON, with the first epochs only
    series = traitlets.List().tag(sync=True)  # one dict per run and column of `values` after FIXED
    values = traitlets.Any().tag(sync=True, to_json=lambda _, view: view._packed(), from_json=lambda *_: None)
    info = traitlets.Any().tag(sync=True, to_json=lambda _, view: view._info(), from_json=lambda *_: None)
    script = traitlets.Unicode().tag(sync=True)  # what code() returns
    log_scale = traitlets.Bool(False).tag(sync=True)
    smoothing = traitlets.Float(0.0, min=0.0, max=MOST_SMOOTHING).tag(sync=True)
    shown_terms = traitlets.List(traitlets.Unicode()).tag(sync=True)  # of several runs only the first one counts
    hidden_runs = traitlets.List(traitlets.Unicode()).tag(sync=True)
    speed = traitlets.Float(None, allow_none=True).tag(sync=True)  # of a replay; 0: all at once

    commands = {  # noqa: RUF012
        "pause": "_pause",
        "resume": "_resume",
        "stop": "_stop",
        "resend": "_resend",
        "again": "_again",
        "overlay": "_overlay",
    }

    def __init__(
        self,
        source: Run | Model | str | os.PathLike | pd.DataFrame | None = None,
        *,
        compare: Mapping[str, Any] | None = None,
        name: str = "this run",
    ):
        self._lock = threading.RLock()
        self.run: Run | None = None
        self._sweep: Trials | None = None
        self._name = name
        self._of_model = hasattr(source, "watch_runs")
        self._tracks: list[Track] = []
        self._earlier: list[tuple[str, Run]] = []
        self._n_runs = self._n_compared = 0
        self._notes: list[str] = []
        self._remarks: list[Remark] = []
        self._remarked = 0.0
        self._forget_main = lambda: None
        self._step = (0, 0)
        self._publisher = Publisher(self._publish, INTERVAL)
        self.writable = {
            "log_scale": _a_bool,
            "smoothing": _a_share,
            "shown_terms": self._terms_that_exist,
            "hidden_runs": lambda keys: [key for key in (track.key for track in self._tracks) if key in keys],
            "speed": self._a_speed,
        }
        ensure_loader()
        super().__init__(status="empty")
        self.observe(self._show_script, ["log_scale", "smoothing", "shown_terms", "hidden_runs"])
        self.observe(self._set_speed, "speed")
        self._show_script()
        if self._of_model:
            source.watch_runs(self._attach)
        if hasattr(source, "watch_trials"):
            follow_trials(self, source)
        elif (run := run_of(source)) is not None:
            self._attach(run)
        for other, its in (compare or {}).items():
            self.add(its, other)

    # Other sources

    @classmethod
    def replay(cls, path: str | os.PathLike, speed: float = 1.0) -> LossMonitor:
        """Play a recorded run as if it ran now. Needs no torch.

        Parameters
        ----------
        path
            A file that `record` has written.
        speed
            How many times faster than it was recorded; 0: all at once. The page can change it, pause, and play again.
        """
        record = read_record(path)
        return cls(Replay(record, speed).start(), name=record.title)

    @classmethod
    def from_csv(cls, path: str | os.PathLike, follow: bool = True) -> LossMonitor:
        """Show a CSV file of losses, one line per epoch or several of one `epoch`, as it grows.

        Parameters
        ----------
        path
            Such as Lightning's `metrics.csv`, Keras' `CSVLogger`'s file, or `history.to_csv()` of any library.
        follow
            Go on reading as it grows, until Stop is pressed.
        """
        run = FollowedFile(path, follow)
        return cls(run.start(), name=run.title)

    def wrap(self, epochs: Iterable[T]) -> Iterator[T]:
        """Go through a loop's epochs and show what it logs. Stop ends the loop after the epoch under way.

        Parameters
        ----------
        epochs
            What the loop goes through; its length, if it has one, is the number of epochs.

        Notes
        -----
        While a cell runs, no click reaches the kernel: there only the kernel's Interrupt ends the loop. Run it in a
        thread to have the button.
        """
        run = self._begin_told(len(epochs) if hasattr(epochs, "__len__") else None, heeds_stop=True)
        reason, status = "the loop was left", "done"
        try:
            for number, epoch in enumerate(epochs):
                run.begin_epoch(number)
                yield epoch
                if run.stop_wanted:
                    reason, status = "stopped after the epoch", "stopped"
                    return
            reason = "the loop has ended"
        finally:
            run.end(reason, status)

    def log(self, values: Mapping[str, Any] | None = None, epoch: int | None = None, **more: Any) -> None:
        """Note the losses of an epoch that somebody else's loop has computed, all at once or in several calls.

        Parameters
        ----------
        values, more
            Numbers by name: `{"loss": 1.2, "val_loss": 1.4, "lr": 0.01}`. `val_` in front (or behind, as scvi-tools
            spells it) means cells held out.
        epoch
            Its number; None: that among the values, else that of the epoch that `wrap` goes through, else one more
            than the last. Values of the last epoch are put to those that it has, in place of those of the same name.

        Raises
        ------
        DataError
            If there is no loss among the values.
        """
        run = self.run if isinstance(self.run, ToldRun) and self.run.is_active else self._begin_told(None)
        run.tell({**(values or {}), **more}, epoch)

    def _begin_told(self, max_epochs: int | None, heeds_stop: bool = False) -> ToldRun:
        run = ToldRun(max_epochs, self._name, heeds_stop).start()
        run.in_foreground = heeds_stop and in_a_cell()
        self._attach(run)
        return run

    # Several runs

    def add(self, source: Any, name: str | None = None) -> None:
        """Draw another run with this one, by its name and in a colour of its own.

        Parameters
        ----------
        source
            A run, a model that has been trained, a file of `record`, or a history.
        name
            What it is called; None: the record's title, else "run 2" and so on.

        Raises
        ------
        DataError
            If it has no epochs, the name is taken, or there are six runs already.
        """
        run = run_of(source)
        if run is None or not (run.epochs or run.is_active):
            raise DataError("The run that is to be compared has no epochs yet. Train it first.")
        if self.run is None and not self._of_model:
            self._name = str(name or getattr(run, "title", "") or self._name)
            self._attach(run)
            return
        with self._lock:
            taken = [track.name for track in self._tracks] or [self._name]
            if len(self._tracks) >= len(COLOURS):
                raise DataError(f"{len(COLOURS)} runs are drawn already: no more can be told apart. Remove one.")
            name = str(name or getattr(run, "title", "") or f"run {self._n_compared + 2}")
            if name in taken:
                raise DataError(f"A run is called '{shown(name)}' already. Give another name: add(source, name=…).")
            self._n_compared += 1
            used = {track.colour for track in self._tracks} | {COLOURS[0]}
            colour = next((one for one in COLOURS if one not in used), COLOURS[0])
            track = Track(str(self._n_compared), run, name, colour)
            self._tracks.append(track)
            run.subscribe(lambda event: self._publisher.touch())
            self._draw_anew()
        self._publisher.touch()

    def remove(self, name: str) -> None:
        """Draw a run no more that was compared."""
        with self._lock:
            found = [track for track in self._tracks if track.name == name and track.key != MAIN]
            if not found:
                others = [track.name for track in self._tracks if track.key != MAIN]
                raise DataError(f"No run that is compared is called '{shown(name)}'.{did_you_mean(name, others)}")
            self._tracks.remove(found[0])
            self._draw_anew()

    @property
    def history(self) -> pd.DataFrame:
        """One row per epoch, one column per named loss term."""
        return self.run.history if self.run else history_frame([])

    @property
    def histories(self) -> dict[str, pd.DataFrame]:
        """Name → history, of every run that is drawn."""
        with self._lock:
            return {track.name: track.run.history for track in self._tracks}

    def record(self, path: str | os.PathLike, title: str = "") -> Path:
        """Write the run that is shown as a small JSON file, which `replay` plays.

        Parameters
        ----------
        path
            Where; a file that is there is replaced.
        title
            What the record is called; empty: the run's name.

        Raises
        ------
        ValueError
            If no epoch has ended yet.
        """
        if self.run is None:
            raise ValueError("There is no run yet, so there is nothing to record. Train first.")
        return write_record(record_of(self.run, title or ("" if self._name == "this run" else self._name)), path)

    # From the run, on its thread

    def _attach(self, run: Run) -> None:
        """Show another run from its first epoch on."""
        with self._lock:
            self._forget_main()
            if self.run is not None and self.run.epochs:
                self._earlier = [*self._earlier, (f"run {self._n_runs}", self.run)][1 - len(COLOURS) :]
            self.run = run
            self._n_runs += 1
            self._notes, self._remarks, self._remarked = [], [], 0.0
            self._tracks = [Track(MAIN, run, self._name, COLOURS[0]), *(t for t in self._tracks if t.key != MAIN)]
            self._forget_main = run.subscribe(self._take)
            self.speed = getattr(run, "speed", None)
            self._draw_anew(only_if_changed=True)
            self.error = None
            self._show_status()
            if run.error is not None:
                self.show_error(run.error)
        self._publisher.touch()

    def _take(self, event: Event) -> None:
        """Next to nothing, because the run waits for it: the publisher collects the epochs."""
        match type(event).__name__:
            case "StepEnded":
                self._step = (event.step + 1, event.steps_per_epoch)
            case "Warned":
                self._notes.append(event.message)
            case "RunEnded":
                self._notes.append(f"Run {event.status}: {event.reason}.")
                if event.status == "failed":
                    self.show_error(self.run.error)
        self._publisher.touch()

    def _collect(self) -> bool:
        """Make rows of the epochs that have ended since the last time; whether there are curves unknown until now."""
        return any([track.collect() for track in self._tracks])

    def _catch_up(self) -> None:
        if self._collect():
            self._draw_anew()

    def _draw_anew(self, only_if_changed: bool = False) -> None:
        """Bring chart and state up to date; the page keeps its chart if the curves are those that it has."""
        self._collect()
        drawn = [track for track in self._tracks if track.rows]
        series = series_of(drawn, alone=len(self._tracks) == 1)
        runs = [{"key": track.key, "name": track.name, "colour": track.colour} for track in self._tracks]
        if not (only_if_changed and not drawn) and (series, runs) != (self.series, self.runs):
            with self.hold_sync():
                self.runs, self.series = runs, series
                self.figure = figure_item(curves_figure(drawn, series)) if drawn else {}
                terms = list(dict.fromkeys(one["term"] for one in series))
                kept = [term for term in self.shown_terms if term in terms]
                self.shown_terms = kept or [main_term(drawn[0].run.epochs[0])] if drawn else []
                self.hidden_runs = [key for key in self.hidden_runs if key in [track.key for track in self._tracks]]
        for track in self._tracks:
            track.sent = len(track.rows)
        self._show_script()
        self.send_state(["values", "info"])  # not as a message: a page that is not ready yet would miss it

    # To the screen, on the publisher's thread

    def _publish(self) -> None:
        with self._lock:
            self._show_status()
            self._catch_up()
            amended = any([track.has_been_amended() for track in self._tracks])
            fresh = [track for track in self._tracks if track.sent < len(track.rows)]
            parts = [{"key": track.key, "start": track.sent} for track in fresh]
            buffers = [track.packed(track.sent) for track in fresh]
            for track in fresh:
                track.sent = len(track.rows)
            message = {"op": "append", "parts": parts, "info": self._info()}
        self.send(message, buffers=buffers)
        if amended or (self.run is not None and self.run.status in (*ENDED, "paused")):
            self.send_state(["values", "info"])  # complete, for views and files to come, and for who missed a message

    @property
    def _steered(self) -> Run | Trials | None:
        """Whose status is shown, and what the buttons steer: the run, or the sweep that it is a trial of."""
        return self._sweep or self.run

    def _show_status(self) -> None:
        if self._steered is None:
            return
        self.status = self._steered.status
        if self._sweep is not None and self._sweep.error is not None:
            self.show_error(self._sweep.error)

    def _packed(self) -> dict[str, bytes]:
        """Key → all rows of a run as float32, (epochs, FIXED and series)."""
        with self._lock:
            return {track.key: track.packed() for track in self._tracks}

    def _info(self) -> dict[str, Any]:
        """Everything beside the curves, in plain values."""
        with self._lock:
            run = self.run
            facts = {track.key: track.facts() for track in self._tracks}
            steering = {} if self._sweep is None else {"trials": [self._sweep.n_begun, self._sweep.n_trials]}
            if self._steered is not None:
                steering |= {"in_foreground": self._steered.in_foreground, "controls": self._steered.controls}
            if run is None or run.started is None:
                return {"run": self._n_runs, "n_epochs": 0, "max_epochs": None, "notes": [], "runs": facts, **steering}
            main = next(track for track in self._tracks if track.key == MAIN)
            if run.status in ENDED or time.monotonic() - self._remarked > REMARKED:
                self._remarks, self._remarked = main.remarks(), time.monotonic()
            told = [{"level": "note", "text": text, "more": ""} for text in self._notes[-NOTES:]]
            seen = [{"level": one.level, "text": one.text, "more": one.mend} for one in self._remarks[:NOTES]]
            return {
                **facts[MAIN],
                **main.times(),
                "run": self._n_runs,
                "step": self._step[0],
                "steps_per_epoch": self._step[1],
                **steering,
                "notes": [*seen, *told],
                "runs": facts,
                "n_earlier": len(self._not_drawn()),
            }

    # From the browser

    def _pause(self, content: dict, buffers: list) -> None:
        self._steer("pause", "pause")

    def _resume(self, content: dict, buffers: list) -> None:
        self._steer("pause", "resume")

    def _stop(self, content: dict, buffers: list) -> None:
        self._steer("stop", "stop", "epoch" if content.get("when") == "epoch" else "batch")

    def _steer(self, control: str, verb: str, *arguments: str) -> None:
        steered = self._steered
        if steered is not None and control in steered.controls and not steered.in_foreground:
            getattr(steered, verb)(*arguments)
            self._publisher.touch()

    def _again(self, content: dict, buffers: list) -> None:
        """Play a record from its beginning."""
        if isinstance(self.run, Replay):
            old = self.run
            old.stop()
            self._attach(Replay(old.record, old.speed).start())
            self._earlier = []  # the same run, so there is nothing to compare

    def _overlay(self, content: dict, buffers: list) -> None:
        """Draw the model's earlier runs too."""
        for name, run in self._not_drawn():
            self.add(run, name)

    def _not_drawn(self) -> list[tuple[str, Run]]:
        """Earlier runs that are not compared yet."""
        drawn = [track.run for track in self._tracks]
        return [(name, run) for name, run in self._earlier if run not in drawn]

    def _resend(self, content: dict, buffers: list) -> None:
        """A view has missed a message."""
        self.send_state([*CURVES, "values", "info"])

    def _terms_that_exist(self, terms: list[str]) -> list[str]:
        return [term for term in dict.fromkeys(one["term"] for one in self.series) if term in terms]

    def _a_speed(self, value: float) -> float:
        if not isinstance(self.run, Replay):
            raise ValueError("Only a replay has a speed.")
        self.run.speed = value  # which checks it
        return float(value)

    def _set_speed(self, change: Any) -> None:
        if isinstance(self.run, Replay) and change["new"] is not None:
            self.run.speed = change["new"]

    # Pictures and code

    def code(self) -> str:
        """Python for the same curves without a screen."""
        names = {track.key: track.name for track in self._tracks}
        columns: dict[str, list[str]] = {}
        for one in self._drawn():
            columns.setdefault(names[one["run"]], []).append(one["key"])
        of = "model" if self._of_model else "monitor"
        return plotting(of, columns, len(names) > 1, self.smoothing, self.log_scale)

    def _show_script(self, change: Any = None) -> None:
        self.script = self.code()

    def _drawn(self) -> list[dict[str, str]]:
        """The series that are seen now."""
        terms = self.shown_terms[:1] if len(self._tracks) > 1 else self.shown_terms
        seen = [one for one in self.series if one["run"] not in self.hidden_runs]
        return [one for one in seen if not set(terms).isdisjoint(one["seen_by"])]

    def _summary(self) -> str:
        if self.run is None or not self.run.epochs:
            return "Loss monitor: no epoch has ended yet."
        last = self.run.epochs[-1]
        term = main_term(last)
        unit = " nats per cell" if term == "unweighted_loss" else ""
        text = f"Loss monitor: {self.run.status} after {counted(len(self.run.epochs), 'epoch')}"
        for part, values in (("training", last.train), ("held-out", last.validation or {})):
            if term in values:
                text += f"; {in_words(term)} {values[term]:,.5g}{unit} on {part} cells"
        others = [track.name for track in self._tracks if track.key != MAIN]
        text += f"; compared with {', '.join(map(shown, others))}" if others else ""
        return text + "."

    def _picture(self, format: str) -> bytes:
        from ..mapping.pictures import curves

        with self._lock:
            self._catch_up()
            lines = lines_of(self._tracks, self._drawn(), self.smoothing)
            return curves(lines, format, unit_of(self._tracks), self.log_scale)


def _a_bool(value: Any) -> bool:
    if not isinstance(value, bool):
        raise TypeError("This is neither true nor false.")
    return value


def _a_share(value: Any) -> float:
    if isinstance(value, bool) or not 0 <= value <= MOST_SMOOTHING:
        raise ValueError("This is no weight of a mean.")
    return float(value)
