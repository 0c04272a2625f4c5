"""Runs as curves: each run's epochs as rows of numbers, how its curves are called and coloured, and their figure."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..training.outside import is_better, main_term, watched
from ..training.remarks import Remark, remarks_on
from .form import as_python

if TYPE_CHECKING:
    from ..training.events import EpochEnded
    from ..training.watched import Run

# name of a term -> in words; a term that is not listed keeps its name
IN_WORDS = {
    "unweighted_loss": "all terms",
    "loss": "loss",
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
RECENT = 10  # epochs from which the time to go is told
PARTS = {"train": "training", "val": "held out"}


class Track:
    """One run's curves.

    Parameters
    ----------
    key
        By which the page knows it; "0" is the run that is watched, others are compared with it.
    run, name, colour
        What to draw, what to call it, and its colour among others.

    Attributes
    ----------
    rows
        Epochs so far: FIXED, then one number per column; NaN where an epoch has none.
    columns
        "train" or "val", and the term.
    sent
        Rows that the page has been told.
    best
        The epoch whose main term is least; None before there is one.
    """

    def __init__(self, key: str, run: Run, name: str, colour: str):
        self.key, self.run, self.name, self.colour = key, run, name, colour
        self.rows: list[tuple[float, ...]] = []
        self.columns: list[tuple[str, str]] = []
        self._told: list[tuple[str, str]] = []  # every column, those too that are not drawn
        self.sent = 0
        self.best: EpochEnded | None = None
        self._last: EpochEnded | None = None  # of which there is a row
        self._is_amended = False

    def has_been_amended(self) -> bool:
        """Whether a row that the page has been told may be another one since the last time that this was asked."""
        was, self._is_amended = self._is_amended, False
        return was

    def collect(self) -> bool:
        """Make rows of the epochs that have ended since the last time; whether there are curves unknown until now."""
        if self.rows and self.run.epochs[len(self.rows) - 1] is not self._last:  # of which more was told meanwhile
            self.rows.pop()
            self.sent, self._is_amended = min(self.sent, len(self.rows)), True
            self.best = None
            for epoch in self.run.epochs[: len(self.rows)]:
                self._compare(epoch)
        fresh = self.run.epochs[len(self.rows) :]
        told = dict.fromkeys(column for epoch in fresh for column in _columns_of(epoch))
        unknown = [column for column in told if column not in self._told]
        if unknown:
            self._told += unknown
            self.columns = _in_order(self._told)
            fresh, self.rows, self.sent = [*self.run.epochs[: len(self.rows)], *fresh], [], 0
        for epoch in fresh:
            self._last = epoch
            parts = {"train": epoch.train, "val": epoch.validation or {}}
            fixed = (epoch.epoch, epoch.learning_rate, epoch.kl_weight)
            self.rows.append((*fixed, *(parts[part].get(term, math.nan) for part, term in self.columns)))
            self._compare(epoch)
        return bool(unknown)

    def _compare(self, epoch: EpochEnded) -> None:
        if is_better(epoch, self.best):
            self.best = epoch

    @property
    def term(self) -> str:
        """By which the run's epochs are compared."""
        return main_term(self.run.epochs[0]) if self.rows else "unweighted_loss"

    def series(self, alone: bool, mains: Sequence[str] = ()) -> list[dict[str, Any]]:
        """How its curves are called and coloured: by term if the run is drawn alone, else by run.

        Each is seen by the choice of its term. `mains` are the main terms of all runs: the choice of one that this run
        has not (others' loss may be called "loss", our models' is "unweighted_loss") shows its own main term.
        """
        terms = list(dict.fromkeys(term for _, term in self.columns))
        foreign = [term for term in mains if term not in terms]
        colour = {term: COLOURS[i % len(COLOURS)] if alone else self.colour for i, term in enumerate(terms)}
        return [
            {
                "run": self.key,
                "key": f"{part}_{term}",
                "label": f"{in_words(term)}, {PARTS[part]}",
                "term": term,
                "seen_by": [term, *(foreign if term == self.term else [])],
                "part": part,
                "colour": colour[term],
            }
            for part, term in self.columns
        ]

    def packed(self, start: int = 0) -> bytes:
        """Rows from `start` on as float32, (epochs, FIXED and columns)."""
        return np.array(self.rows[start:], dtype=np.float32).tobytes()

    def remarks(self) -> list[Remark]:
        """What the course of its main term says."""
        if not self.rows:
            return []
        rows, started = np.array(self.rows), self.run.started
        place = {column: len(FIXED) + i for i, column in enumerate(self.columns)}
        train, held_out = (rows[:, place[part, self.term]] if (part, self.term) in place else None for part in PARTS)
        if train is None:
            train, held_out = held_out, None
        return remarks_on(
            rows[:, 0].astype(int),
            train,
            held_out,
            rows[:, 1],
            self.run.epochs[-1].n_without_improvement,
            started.patience if started else None,
        )

    def facts(self) -> dict[str, Any]:
        """Where the run stands, in plain values."""
        return {
            "n_epochs": len(self.rows),
            "best_epoch": self.best.epoch if self.best else None,
            "best": watched(self.best) if self.best else None,
            "status": self.run.status,
        }

    def times(self) -> dict[str, Any]:
        """How far the run is, and how long it still takes, in seconds."""
        epochs, started = self.run.epochs, self.run.started
        seconds = [epoch.seconds for epoch in epochs[-RECENT:] if math.isfinite(epoch.seconds)]
        to_go = (started.max_epochs or len(epochs)) - len(epochs)
        pace = getattr(self.run, "speed", 1.0)
        told = bool(seconds and started.max_epochs and pace and self.run.is_active)
        last = epochs[-1] if epochs else None
        return {
            "max_epochs": started.max_epochs or None,
            "warm_up_until": _warm_up_until(epochs),
            "patience": [last.n_without_improvement, started.patience] if last and started.patience else None,
            "seconds_per_epoch": statistics.fmean(seconds) if seconds else None,
            "eta": statistics.fmean(seconds) * to_go / pace if told else None,
            "eta_spread": float(np.std(seconds, ddof=1)) * to_go**0.5 / pace if told and len(seconds) > 1 else None,
            "schedule": started.schedule,
        }


def series_of(tracks: Sequence[Track], alone: bool) -> list[dict[str, Any]]:
    """How the curves of these runs are called and coloured, and by the choice of which terms each is seen."""
    mains = list(dict.fromkeys(track.term for track in tracks))
    return [one for track in tracks for one in track.series(alone, mains)]


def in_words(term: str) -> str:
    return IN_WORDS.get(term, term.replace("_", " "))


def unit_of(tracks: Iterable[Track]) -> str:
    """What the axis of losses is called: our models' are nats per cell, others' are their own affair."""
    return "loss per cell (nats)" if all(track.term == "unweighted_loss" for track in tracks) else "loss"


def lines_of(tracks: Sequence[Track], drawn: Iterable[dict[str, str]], smoothing: float) -> list[dict[str, Any]]:
    """The series that are drawn with their values, for a static picture."""
    frames = {track.key: (track.name, track.run.history) for track in tracks}
    lines = []
    for one in drawn:
        name, frame = frames[one["run"]]
        values = frame[one["key"]].ewm(alpha=1 - smoothing).mean() if smoothing else frame[one["key"]]
        label = f"{name}, {PARTS[one['part']]}" if len(frames) > 1 else one["label"]
        lines.append({**one, "values": values, "label": label})
    return lines


def plotting(variable: str, columns: Mapping[str, Sequence[str]], several: bool, smoothing: float, log: bool) -> str:
    """Python that draws columns of a history, given as run → columns; with `several`, of these runs of a monitor."""
    smooth = f".ewm(alpha={1 - smoothing:.3g}).mean()" if smoothing else ""
    plot = f"{smooth}.plot({'logy=True' if log else ''})"
    lists = {name: f"[{', '.join(map(as_python, keys))}]" for name, keys in columns.items()}
    if not columns:  # before there are curves
        return f"{variable}.history.filter(like='loss'){plot}\n"
    if not several:
        return f"{variable}.history[{next(iter(lists.values()))}]{plot}\n"
    lines = "".join(f"    {as_python(name)}: {keys},\n" for name, keys in lists.items())
    return (
        "import pandas as pd\n\n"
        f"columns = {{\n{lines}}}\n"
        "histories = {name: monitor.histories[name][keys] for name, keys in columns.items()}\n"
        f"pd.concat(histories, axis=1){plot}\n"
    )


def _columns_of(epoch: EpochEnded) -> list[tuple[str, str]]:
    return [*(("train", term) for term in epoch.train), *(("val", term) for term in epoch.validation or {})]


def _in_order(columns: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """Term by term, the sum of all terms first; the weighted one is left out where that stands."""
    terms = list(dict.fromkeys(term for _, term in columns))
    if "unweighted_loss" in terms:
        terms = ["unweighted_loss", *(term for term in terms if term not in ("loss", "unweighted_loss"))]
    return [(part, term) for term in terms for part in PARTS if (part, term) in columns]


def _warm_up_until(epochs: list[EpochEnded]) -> int | None:
    """The first epoch with the full KL weight, if the weight has been rising."""
    if not epochs or math.isnan(epochs[-1].kl_weight) or epochs[0].kl_weight == epochs[-1].kl_weight:
        return None
    full = epochs[-1].kl_weight
    return next(epoch.epoch for epoch in epochs if epoch.kl_weight == full)


def curves_figure(tracks: Sequence[Track], series: Sequence[dict]):
    """Axes, and per run sources with its first epoch, and per curve two lines, raw and smooth, and points for what no
    line shows; the page fills them."""
    from bokeh.models import (
        BasicTicker,
        BoxAnnotation,
        BoxZoomTool,
        ColumnDataSource,
        DataRange1d,
        NumeralTickFormatter,
        Range1d,
        Span,
        WheelZoomTool,
    )
    from bokeh.plotting import figure

    chart = figure(
        name="chart",
        height=300,
        sizing_mode="stretch_width",
        x_axis_label="epoch",
        y_axis_label=unit_of(tracks),
        x_range=Range1d(0, 1, name="epochs"),
        y_range=DataRange1d(only_visible=True, range_padding=0.08),
        tools=[BoxZoomTool(), WheelZoomTool(dimensions="width", name="wheel")],
        toolbar_location=None,
        output_backend="canvas",
    )
    chart.toolbar.active_scroll = None  # a page is scrolled over its charts; see the .js
    chart.xaxis.ticker = BasicTicker(min_interval=1)
    chart.xaxis.formatter = NumeralTickFormatter(format="0,0")
    for track in tracks:
        mine = [one for one in series if one["run"] == track.key]
        first = dict(zip((*FIXED, *(one["key"] for one in mine)), ([value] for value in track.rows[0])))
        for kind in ("raw", "smooth"):
            source = ColumnDataSource(dict(first), name=f"{kind}:{track.key}")
            for one in mine:
                chart.line(
                    "epoch",
                    one["key"],
                    source=source,
                    color=one["colour"],
                    line_width=2,
                    line_dash="solid" if one["part"] == "train" else [6, 3],
                    name=f"{kind}:{track.key}:{one['key']}",
                    visible=False,
                )
        source = ColumnDataSource(dict(first), name=f"alone:{track.key}")
        for one in mine:
            chart.scatter(
                "epoch",
                one["key"],
                source=source,
                color=one["colour"],
                size=7,
                fill_alpha=float(one["part"] == "train"),  # as their lines are solid and dashed
                name=f"alone:{track.key}:{one['key']}",
                visible=False,
            )
    warm_up = {"fill_color": "#E69F00", "fill_alpha": 0.08, "line_color": None, "name": "warm-up"}
    chart.add_layout(BoxAnnotation(left=0, right=0, **warm_up))
    chart.add_layout(Span(dimension="height", location=None, line_color="#009E73", line_dash="dotted", name="best"))
    chart.add_layout(Span(dimension="height", location=None, line_color="#777777", name="cursor"))
    return chart
