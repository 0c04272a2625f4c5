"""What panels share: a form whose entries are checked here, and one work at a time that it starts, in the background.

The browser writes one trait, `values`, and sends commands. Entries are never trusted: `remarks` says at each field what
is wrong with it, and while anything is, `blocked` says why no work can start. Work runs on a thread of its own; what it
tells is published by the widget's one publisher.
"""

from __future__ import annotations

import contextlib
import html
import logging
import math
import statistics
import threading
import warnings
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import traitlets

from ..data.findings import Finding
from ..training.options import respelled
from .base import HERE, Publisher, View
from .form import Form

if TYPE_CHECKING:
    from ..training.events import Event
    from ..training.run import TrainingRun

logger = logging.getLogger(__name__)
RECENT = 10  # epochs from which the time to go is told
NOTES = 20  # at most, the last ones


class Panel(View):
    """A form, and the work that it starts.

    Attributes
    ----------
    values
        Option → what is entered; read it, and change it with `set`.
    run
        The `TrainingRun` of the last work; None before there is one.
    """

    _css = View._css + (HERE / "js" / "form.css").read_text(encoding="utf-8")
    facts = traitlets.Unicode().tag(sync=True)  # the data, in words
    fields = traitlets.List().tag(sync=True)  # one dict per option, as in form.Field
    values = traitlets.Dict().tag(sync=True)  # option -> entry, as someone left it: it may be wrong
    meanings = traitlets.Dict().tag(sync=True)  # option -> what an empty entry stands for here
    remarks = traitlets.Dict().tag(
        sync=True
    )  # option -> dicts of level, text, more; "": what concerns no single option
    blocked = traitlets.Unicode().tag(sync=True)  # why no work can start; empty if it can
    script = traitlets.Unicode().tag(sync=True)  # what code() returns; empty while an entry is wrong
    progress = traitlets.Dict().tag(sync=True)  # how far the work is, in plain values

    work = "work"  # what is done here, in one word

    def __init__(self, form: Form, preset: dict[str, Any], options: dict[str, Any], **traits: Any):
        values = {**form.defaults, **preset, **form.checked(respelled(options))}
        self._lock = threading.RLock()
        self._changed = threading.Condition(self._lock)
        self._form = form
        self._busy = False
        self._outcome: str | None = None  # how the last work ended; None once an option has changed since
        self._cancelled = threading.Event()
        self._looks: dict[Any, Any] = {}
        self._stage = ""
        self._step = (0, 0)
        self._notes: list[str] = []
        self.run: TrainingRun | None = None
        self._publisher = Publisher(self._publish)
        self.writable = {"values": self._entered}
        super().__init__(fields=form.as_json(), values=values, **traits)
        self.observe(self._take_entries, "values")
        self._review()

    # Options

    def set(self, **options: Any) -> None:
        """Fill in options.

        Raises
        ------
        TypeError, ValueError
            If there is no such option, or it does not take the value; then nothing is changed.
        RuntimeError
            While work is under way.
        """
        entries = self._form.checked(respelled(options))
        with self._lock:
            if self._busy:
                raise RuntimeError(
                    f"Options cannot change while the {self.work} is under way. Wait for it, or stop it."
                )
            self.values = {**self.values, **entries}

    def set_state(self, sync_data: dict[str, Any]) -> None:
        with self._lock:
            super().set_state(sync_data)

    def _entered(self, entries: Any) -> dict[str, Any]:
        """What the browser has entered, as far as there are fields for it."""
        if not isinstance(entries, dict):
            raise TypeError("The entries are no dict.")
        if self._busy:
            raise ValueError("Options cannot change now.")
        return {**self.values, **self._form.known(entries)}

    def _take_entries(self, change: Any) -> None:
        with self._lock:
            self._outcome = self.error = None
            self._review()

    def refresh(self) -> None:
        """Look at the data again, after they were changed."""
        with self._lock:
            self._looks = {}
            self._review()

    def _review(self) -> None:
        """Say at each option what is to be said, and whether work can start."""
        with self._lock, self.hold_sync():
            wrong = self._form.problems(self.values)
            remarks = {name: [remark("error", sentence)] for name, sentence in wrong.items()}
            for name, one in self._seen():
                remarks.setdefault(name, []).append(one)
            self.remarks = remarks
            self.meanings = self._meant()
            self.script = "" if wrong else self.code()
            self._show()

    def _seen(self) -> Iterator[tuple[str, dict[str, str]]]:
        """Remarks on the data as they are now chosen, except on what cannot be used."""
        try:
            yield from self._findings(self._form.usable(self.values))
        except Exception as error:
            logger.debug("The data could not be looked at.", exc_info=True)
            yield "", remark("error", f"The data could not be looked at: {error}")

    def _findings(self, options: dict[str, Any]) -> Iterator[tuple[str, dict[str, str]]]:
        """Pairs of an option (or "") and a remark."""
        yield from ()

    def _meant(self) -> dict[str, str]:
        return {}

    def _missing(self) -> str:
        """What must be given before there is anything to do; empty if nothing is missing."""
        return ""

    def _look(self, key: Any, function: Callable[[], Any]) -> Any:
        """What `function` returns, found out once on a thread; None until it is known, an exception if it failed."""
        if key not in self._looks:
            self._looks[key] = None
            arguments = (self._looks, key, function)
            threading.Thread(target=self._looking, args=arguments, name="scarches-look", daemon=True).start()
        return self._looks[key]

    def _looking(self, looks: dict[Any, Any], key: Any, function: Callable[[], Any]) -> None:
        try:
            found = function()
        except Exception as error:  # noqa: BLE001 - becomes a remark
            found = error
        with self._changed:
            looks[key] = found  # which nobody asks any more after a refresh
            self._review()
            self._changed.notify_all()

    @property
    def _is_looking(self) -> bool:
        with self._lock:  # what was found and what is said of it change together
            return any(found is None for found in self._looks.values())

    @property
    def _errors(self) -> list[str]:
        return [one["text"] for found in self.remarks.values() for one in found if one["level"] == "error"]

    # Status

    def _why_not(self) -> str:
        """Why no work can start, as a sentence; empty if it can."""
        if missing := self._missing():
            return missing
        if self._busy:
            return f"The {self.work} is under way."
        if errors := self._errors:
            return errors[0] + (f" And {len(errors) - 1} more to mend." if errors[1:] else "")
        return "The data are being looked at." if self._is_looking else ""

    def _status(self) -> str:
        if self._busy:
            if self.run is not None and self.run.is_active:
                return self.run.status
            return "stopping" if self._cancelled.is_set() else "running"
        if self._missing():
            return "empty"
        return self._outcome or ("invalid" if self._errors else "ready")

    def _show(self) -> None:
        """Bring status and progress up to date."""
        with self._lock, self.hold_sync():
            self.blocked = self._why_not()
            self.status = self._status()
            self.progress = self._how_far()

    def _publish(self) -> None:
        self._show()
        if self.run is not None and self.run.status in ("pausing", "stopping"):
            self._publisher.touch()  # a run does not tell when it has paused

    def _how_far(self) -> dict[str, Any]:
        run = self.run
        notes = [*self._notes, *(run.warnings if run else ())][-NOTES:]
        if run is None or run.started is None:
            return {"stage": self._stage, "notes": notes}
        seconds = [epoch.seconds for epoch in run.epochs[-RECENT:]]
        last = run.epochs[-1] if run.epochs else None
        return {
            "stage": self._stage,
            "notes": notes,
            "n_epochs": len(run.epochs),
            "max_epochs": run.started.max_epochs,
            "step": self._step[0],
            "steps_per_epoch": self._step[1],
            "loss": _finite(last.train) if last else None,
            "held_out": _finite(last.validation) if last else None,
            "eta": statistics.fmean(seconds) * (run.started.max_epochs - len(run.epochs)) if seconds else None,
            "in_foreground": run.in_foreground,
            "controls": run.controls,
            "reason": run.ended.reason if run.ended else "",
        }

    def wait(self, timeout: float | None = None) -> str:
        """Wait until no work is under way, at most `timeout` seconds; the status then."""
        with self._changed:
            self._changed.wait_for(lambda: not self._busy, timeout)
            return self.status

    # Work

    def _begin(self) -> None:
        """Take the one place there is for work.

        Raises
        ------
        RuntimeError
            If it is taken, or the options are not fit.
        """
        with self._lock:
            if reason := self._why_not():
                raise RuntimeError(reason)
            self._busy, self._outcome, self.error, self.run = True, None, None, None
            self._notes, self._step = [], (0, 0)
            self._cancelled.clear()
            self._show()

    def _accept(self, content: dict[str, Any]) -> None:
        """Take the entries that come with a click: it may overtake those which the page still holds back."""
        with self._lock:
            if "values" in content and not self._busy:
                self.values = self._entered(content["values"])

    def _in_background(self, function: Callable[[], Any]) -> None:
        """Carry out the work for which `_begin` has made room; what goes wrong is on the screen."""

        def carry_out() -> None:
            with contextlib.suppress(Exception):
                function()

        threading.Thread(target=carry_out, name="scarches-panel", daemon=True).start()

    def _end(self, outcome: str, error: BaseException | None = None) -> None:
        with self._changed:
            self._busy, self._outcome, self._stage = False, outcome, ""
            if error is not None:
                self.show_error(error)
            self._review()
            self._changed.notify_all()

    def _enter(self, stage: str) -> None:
        """Tell what is being done."""
        with self._lock:
            self._stage = stage
            self._show()

    def _follow(self, run: TrainingRun) -> None:
        """Show a run, from before its first step on."""
        with self._lock:
            if not self._busy:  # begun by hand, from Python
                self._cancelled.clear()
                self._notes, self.error = [], None
            self.run, self._busy, self._outcome, self._stage = run, True, None, ""
            run.subscribe(self._hear)
            self._show()

    def _hear(self, event: Event) -> None:
        """On the run's thread."""
        match type(event).__name__:
            case "RunStarted" if self._cancelled.is_set():
                self.run.stop()
            case "StepEnded":
                self._step = (event.step + 1, event.steps_per_epoch)
            case "RunEnded":
                self._run_ended(self.run)
        self._publisher.touch()

    def _run_ended(self, run: TrainingRun) -> None:
        self._end(run.status, run.error)

    def show_error(self, error: BaseException, field: str | None = None) -> None:
        with self._lock:
            super().show_error(error, field)

    # From the browser, and the same in Python

    def pause(self) -> None:
        """Hold on after the step under way."""
        self._steer("pause")

    def resume(self) -> None:
        """Go on after `pause`."""
        self._steer("resume")

    def stop(self, when: str = "batch") -> None:
        """End the run after the step ("batch") or the epoch ("epoch") under way; the model stays usable."""
        if when not in ("batch", "epoch"):
            raise ValueError(f"when='{when}' is neither 'batch' nor 'epoch'.")
        with self._lock:
            if self._busy and (self.run is None or not self.run.is_active):
                self._cancelled.set()  # before the first step
        self._steer("stop", when)

    def _steer(self, verb: str, *arguments: str) -> None:
        with self._lock:
            control = "stop" if verb == "stop" else "pause"
            if self.run is not None and not self.run.in_foreground and control in self.run.controls:
                getattr(self.run, verb)(*arguments)
            self._show()
        self._publisher.touch()

    def _click_pause(self, content: dict, buffers: list) -> None:
        self.pause()

    def _click_resume(self, content: dict, buffers: list) -> None:
        self.resume()

    def _click_stop(self, content: dict, buffers: list) -> None:
        self.stop("epoch" if content.get("when") == "epoch" else "batch")

    # Without a kernel

    @property
    def _has_picture(self) -> bool:
        """Whether there is anything to draw yet."""
        return self.run is not None and bool(self.run.epochs)

    def _static_html(self) -> str:
        picture = super()._static_html() if self._has_picture else f"<p>{html.escape(self._summary())}</p>"
        return f"{picture}<pre><code>{html.escape(self.script)}</code></pre>"


def remark(level: str, text: str, more: str = "") -> dict[str, str]:
    """Something to say at an option: "error", "warning", "note" or "ok"."""
    return {"level": level, "text": text, "more": more}


def remark_of(finding: Finding) -> dict[str, str]:
    return remark(finding.level, finding.what, " ".join(text for text in (finding.why, finding.mend) if text))


@contextlib.contextmanager
def collected_warnings() -> Iterator[list[str]]:
    """The texts of what this thread warns of or logs as a warning, in place of printing it.

    Other threads' warnings go where they would have gone: the filters belong to the whole process.
    """
    mine = threading.get_ident()
    shown = warnings.showwarning

    def show(message, *where, **options):
        if threading.get_ident() == mine:
            texts.append(str(message))
        else:
            shown(message, *where, **options)

    with warnings.catch_warnings(), collected_logs() as texts:
        warnings.simplefilter("always")
        warnings.showwarning = show
        yield texts


@contextlib.contextmanager
def collected_logs() -> Iterator[list[str]]:
    """The texts of what this thread logs as a warning, in place of printing it."""
    mine, texts = threading.get_ident(), []
    handler = logging.Handler(logging.WARNING)
    handler.addFilter(lambda record: record.thread == mine)
    handler.emit = lambda record: texts.append(record.getMessage())
    ours = logging.getLogger("scarches_widgets")
    ours.addHandler(handler)
    try:
        yield texts
    finally:
        ours.removeHandler(handler)


def _finite(losses: dict[str, float] | None) -> float | None:
    """The sum of all terms, in nats per cell, if JSON can carry it."""
    value = (losses or {}).get("unweighted_loss", math.nan)
    return value if math.isfinite(value) else None
