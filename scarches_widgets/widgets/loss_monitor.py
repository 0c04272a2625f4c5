"""Loss curves of a run while it runs, with pause and stop."""

from __future__ import annotations

import statistics
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import bokeh
import numpy as np
import traitlets

from .base import ENDED, HERE, Publisher, View, inlined
from .bokeh_bridge import ensure_loader, figure_item

if TYPE_CHECKING:
    from ..models.base import Model
    from ..training.events import EpochEnded, Event
    from ..training.run import TrainingRun

# name of a term -> in words; a term that is not listed keeps its name
IN_WORDS = {
    "unweighted_loss": "all terms",
    "loss": "all terms, weighted",
    "reconstruction": "reconstruction",
    "kl_latent": "KL of latents",
    "kl_library": "KL of library sizes",
    "kl_z1": "KL of latents, given labels",
    "kl_z2": "KL of latents within labels",
    "kl_labels": "KL of labels",
    "mmd": "MMD between batches",
    "mmd_latent": "MMD between groups",
    "mmd_marginal": "MMD of each modality's latents",
    "hsic": "dependence of new programs",
    "prototype": "distance from prototypes",
    "reconstruction_protein": "reconstruction of proteins",
    "reconstruction_tcr": "reconstruction of receptors",
    "kl_background": "KL of proteins' background",
    "penalty_protein": "penalty on proteins",
    "confusion": "confusion of batches",
    "adversary": "classifier of batches",
}
FIXED = ("epoch", "learning_rate", "kl_weight")
# Okabe & Ito's, in an order whose neighbours differ in lightness too
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
INTERVAL = 0.2  # seconds between two messages: the eye sees no less, and 10,000 short epochs stay below 1.5 MB
RECENT = 10  # epochs from which the time to go is told


@dataclass(frozen=True)
class Series:
    """One curve."""

    key: str  # column: train_… or val_…
    label: str
    term: str  # curves of one term share a colour; training is solid, validation dashed
    part: str  # "train" or "val"
    colour: str


class LossMonitor(View):
    """Loss curves of a run while it runs, with pause and stop.

    Parameters
    ----------
    source
        A `TrainingRun`, or a model: then its latest run is shown, and each run that it begins from now on.

    Attributes
    ----------
    run
        The `TrainingRun` that is shown; None before a model's first.
    history
        DataFrame, one row per epoch.

    Notes
    -----
    Keys, when the chart has the focus: left and right move the cursor by an epoch (with Shift by ten), Home and End
    jump, L switches the logarithmic scale, T the table. Escape goes back to the notebook's cell, as in every view.
    """

    _esm = inlined(HERE / "loss_monitor.js")
    bokeh_version = traitlets.Unicode(bokeh.__version__).tag(sync=True)
    figure = traitlets.Dict().tag(sync=True)  # Bokeh's JSON, with the first epoch only
    series = traitlets.List().tag(sync=True)  # one dict per column of `values` after FIXED
    values = traitlets.Any().tag(sync=True, to_json=lambda _, view: view._packed(), from_json=lambda *_: None)
    info = traitlets.Any().tag(sync=True, to_json=lambda _, view: view._info(), from_json=lambda *_: None)

    commands = {"pause": "_pause", "resume": "_resume", "stop": "_stop", "resend": "_resend"}  # noqa: RUF012

    def __init__(self, source: TrainingRun | Model):
        self._lock = threading.RLock()
        self.run: TrainingRun | None = None
        self._rows: list[tuple[float, ...]] = []
        self._columns: list[tuple[str, str]] = []  # "train" or "val", and the term
        self._notes: list[str] = []
        self._sent = 0
        self._best: EpochEnded | None = None
        self._n_runs = 0
        self._step = (0, 0)
        self._publisher = Publisher(self._publish, INTERVAL)
        ensure_loader()
        super().__init__(status="empty")
        if hasattr(source, "watch_runs"):
            source.watch_runs(self._attach)
            source = source.run
        if source is not None:
            self._attach(source)

    @property
    def history(self):
        """One row per epoch, one column per named loss term."""
        from ..training.run import history_frame

        return history_frame(self.run.epochs if self.run else [])

    # From the run, on its thread

    def _attach(self, run: TrainingRun) -> None:
        """Show another run from its first epoch on."""
        with self._lock:
            self.run = run
            self._n_runs += 1
            self._rows, self._notes, self._sent, self._best = [], [], 0, None
            run.subscribe(self._take)
            self._collect()
            self._sent = len(self._rows)
            self.error = None
            self._show_status()
            self.send_state(["values", "info"])  # not as a message: a page that is not ready yet would miss it
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

    def _collect(self) -> None:
        """Make rows of the epochs that have ended since the last time."""
        fresh = self.run.epochs[len(self._rows) :] if self.run else []
        if fresh and not self._rows:
            self._begin(fresh[0])
        for epoch in fresh:
            parts = {"train": epoch.train, "val": epoch.validation or {}}
            fixed = (epoch.epoch, epoch.learning_rate, epoch.kl_weight)
            self._rows.append((*fixed, *(parts[part].get(term, np.nan) for part, term in self._columns)))
            if self._best is None or _watched(epoch) < _watched(self._best):
                self._best = epoch

    def _begin(self, epoch: EpochEnded) -> None:
        """Find the curves that a run has; the page keeps its chart if they are those of the run before."""
        series = [vars(one) for one in _series_of(epoch)]
        self._columns = [(one["part"], one["term"]) for one in series]
        if series != self.series:
            first = [{"train": epoch.train, "val": epoch.validation or {}}[part][term] for part, term in self._columns]
            self.series = series
            self.figure = figure_item(_figure(series, (epoch.epoch, epoch.learning_rate, epoch.kl_weight, *first)))

    # To the screen, on the publisher's thread

    def _publish(self) -> None:
        with self._lock:
            self._show_status()
            self._collect()
            rows = self._rows[self._sent :]
            message = {"op": "append", "start": self._sent, "info": self._info()}
            self._sent = len(self._rows)
        self.send(message, buffers=[np.array(rows, dtype=np.float32).tobytes()])
        if self.run is not None and self.run.status in (*ENDED, "paused"):
            self.send_state(["values", "info"])  # complete, for views and files to come, and for who missed a message

    def _show_status(self) -> None:
        if self.run is not None:
            self.status = self.run.status

    def _packed(self) -> bytes:
        """All rows as float32, (epochs, FIXED and series)."""
        with self._lock:
            return np.array(self._rows, dtype=np.float32).tobytes()

    def _info(self) -> dict[str, Any]:
        """Everything beside the curves, in plain values."""
        run = self.run
        if run is None or run.started is None:
            return {"run": self._n_runs, "n_epochs": 0, "max_epochs": None, "notes": []}
        last = run.epochs[-1] if run.epochs else None
        seconds = [epoch.seconds for epoch in run.epochs[-RECENT:]]
        to_go = run.started.max_epochs - len(run.epochs)
        return {
            "run": self._n_runs,
            "n_epochs": len(run.epochs),
            "max_epochs": run.started.max_epochs,
            "step": self._step[0],
            "steps_per_epoch": self._step[1],
            "best_epoch": self._best.epoch if self._best else None,
            "warm_up_until": _warm_up_until(run.epochs),
            "patience": [last.n_without_improvement, run.started.patience] if last and run.started.patience else None,
            "seconds_per_epoch": statistics.fmean(seconds) if seconds else None,
            "eta": statistics.fmean(seconds) * to_go if seconds else None,
            "eta_spread": float(np.std(seconds, ddof=1)) * to_go**0.5 if len(seconds) > 1 else None,
            "schedule": run.started.schedule,
            "in_foreground": run.in_foreground,
            "notes": self._notes[-20:],
        }

    # From the browser

    def _pause(self, content: dict, buffers: list) -> None:
        if self.run is not None and not self.run.in_foreground:
            self.run.pause()
            self._publisher.touch()

    def _resume(self, content: dict, buffers: list) -> None:
        if self.run is not None and not self.run.in_foreground:
            self.run.resume()
            self._publisher.touch()

    def _stop(self, content: dict, buffers: list) -> None:
        if self.run is not None and not self.run.in_foreground:
            self.run.stop("epoch" if content.get("when") == "epoch" else "batch")
            self._publisher.touch()

    def _resend(self, content: dict, buffers: list) -> None:
        """A view has missed a message."""
        self.send_state(["series", "figure", "values", "info"])

    # Pictures and code

    def code(self) -> str:
        """Python for the same curves without a screen."""
        return "model.history.filter(like='loss').plot()"

    def _summary(self) -> str:
        if self.run is None or not self.run.epochs:
            return "Loss monitor: no epoch has ended yet."
        last = self.run.epochs[-1]
        text = f"Loss monitor: {self.run.status} after {len(self.run.epochs)} epochs; "
        text += f"loss {last.train['unweighted_loss']:.1f} nats per cell on training cells"
        return text + (f", {last.validation['unweighted_loss']:.1f} on held-out cells." if last.validation else ".")

    def _picture(self, format: str) -> bytes:
        from ..mapping.pictures import curves

        return curves(self.history, self.series, format)


def _series_of(epoch: EpochEnded) -> list[Series]:
    """The curves that an epoch's terms make: the sum of all terms first, the weighted sum left out."""
    terms = ["unweighted_loss"] + [name for name in epoch.train if name not in ("loss", "unweighted_loss")]
    parts = {"train": epoch.train, "val": epoch.validation or {}}
    return [
        Series(f"{part}_{term}", _label(term, part), term, part, COLOURS[i % len(COLOURS)])
        for i, term in enumerate(terms)
        for part, values in parts.items()
        if term in values
    ]


def _watched(epoch: EpochEnded) -> float:
    return (epoch.validation or epoch.train)["unweighted_loss"]


def _label(term: str, part: str) -> str:
    return f"{IN_WORDS.get(term, term.replace('_', ' '))}, {'training' if part == 'train' else 'held out'}"


def _warm_up_until(epochs: list[EpochEnded]) -> int | None:
    """The first epoch with the full KL weight, if the weight has been rising."""
    if not epochs or epochs[0].kl_weight == epochs[-1].kl_weight:
        return None
    full = epochs[-1].kl_weight
    return next(epoch.epoch for epoch in epochs if epoch.kl_weight == full)


def _figure(series: list[dict], first: tuple[float, ...]):
    """Axes and one line per series over a source with the first epoch, which the page completes."""
    from bokeh.models import (
        BasicTicker,
        BoxAnnotation,
        ColumnDataSource,
        DataRange1d,
        HoverTool,
        NumeralTickFormatter,
        Range1d,
        Span,
    )
    from bokeh.plotting import figure

    names = (*FIXED, *(one["key"] for one in series))
    source = ColumnDataSource({name: [value] for name, value in zip(names, first)}, name="curves")
    chart = figure(
        name="chart",
        height=300,
        sizing_mode="stretch_width",
        x_axis_label="epoch",
        y_axis_label="loss per cell (nats)",
        x_range=Range1d(0, 1, name="epochs"),
        y_range=DataRange1d(only_visible=True, range_padding=0.08),
        tools="box_zoom,xwheel_zoom,reset",
        toolbar_location="above",
        output_backend="canvas",
    )
    chart.toolbar.logo = None
    chart.xaxis.ticker = BasicTicker(min_interval=1)
    chart.xaxis.formatter = NumeralTickFormatter(format="0,0")
    for one in series:
        chart.line(
            "epoch",
            one["key"],
            source=source,
            color=one["colour"],
            line_width=2,
            line_dash="solid" if one["part"] == "train" else [6, 3],
            name=one["key"],
            visible=one["term"] == "unweighted_loss",
        )
    tips = [("epoch", "@epoch"), *((one["label"], f"@{{{one['key']}}}{{0,0.00}}") for one in series)]
    chart.add_tools(HoverTool(tooltips=tips, mode="vline", renderers=chart.renderers[:1]))
    chart.add_layout(BoxAnnotation(left=0, right=0, fill_color="#E69F00", fill_alpha=0.08, name="warm-up"))
    chart.add_layout(Span(dimension="height", location=None, line_color="#009E73", line_dash="dotted", name="best"))
    chart.add_layout(Span(dimension="height", location=None, line_color="#777777", name="cursor"))
    return chart
