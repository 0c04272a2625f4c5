"""Review predicted labels: thresholds, marker genes, models that differ, a queue of doubtful cells, and the trail."""

from __future__ import annotations

import html
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import traitlets

from ..data.names import DataError, did_you_mean, listed, shown
from ..mapping.neighbors import noted_recall
from ..mapping.predictions import CONSENSUS, UNANIMOUS, Models
from ..mapping.review import IN_UNS, WHICH, Review, kept_reviews
from ..mapping.transfer import UNKNOWN
from .base import HERE, View, inlined
from .cell_view import CellView
from .contrasts import groupings_of
from .panel import collected_warnings
from .review_markers import MarkerDots
from .session import CellIndices, CellsSelected, Session

if TYPE_CHECKING:
    from anndata import AnnData

    from ..mapping.review import Entry

PAGE = 12  # cells of the queue that a page is sent
STEPS = 100  # of the slider
MOST_TYPES = 500  # rows of the table
MOST_CROSSED = 40  # rows and columns of the confusion table
MOST_ENTRIES = 50  # of the trail that a page is sent
ROWS = 40  # of the static table
BARS = 20


class LabelReview(CellsSelected, View):
    """Review predicted labels, by a threshold and by hand; what is decided is written only by Apply.

    Parameters
    ----------
    query
        Cells with predicted labels; or a `mapping.review.Review`, for example `Review.resume(query)`.
    models, by, threshold, unknown, reviewer
        As of `mapping.review.Review`: columns of labels and uncertainties (None: all that are found), by which of them
        labels are decided, above which uncertainty they are Unknown, and who decides. A `Review` has all of these.
    against
        Column of `obs` to compare the labels with; None: another model's labels if there are any.
    markers
        Genes to show for a label, in place of those that tell its cells from all others: label -> genes.
    layer
        Where expression is read from; None: X. Counts are normalised and log-transformed, other values are not.
    session
        Views of one session show the same selection.

    Attributes
    ----------
    review
        The `Review`: `labels`, `table`, `trail`, `accept`, `relabel`, `reject`, `comment`, `undo`, `apply`, …; the view
        follows what is done with it in Python.
    of, which
        Whose cells are listed: of one predicted label, or (None) of all; and which, see `Review.cells`. Can be set.
    against
        Can be set.
    selection
        As in `EmbeddingView`.

    Raises
    ------
    DataError
        If there are no cells, no labels with uncertainties, or they are unfit.

    Notes
    -----
    Keys: in the table of types and in the list of cells the arrows, Home and End move; A accepts, R relabels, X
    rejects, C comments: on the cell, or on a type's cells above the threshold; Enter opens a type. Page Up and Page
    Down turn the list's pages. Ctrl+Z undoes, Ctrl+Shift+Z does again.

    Examples
    --------
    >>> view = LabelReview(query, threshold=0.3)
    >>> view.review.reject(which="differing", of="B cell")
    >>> view.review.apply("cell_type")
    """

    _esm = inlined(Path(__file__).with_suffix(".js"))
    _css = CellView._css + "".join(
        (HERE / "js" / name).read_text() for name in ("form.css", "programs.css", "review.css")
    )
    selection = CellIndices()
    of = traitlets.Unicode(None, allow_none=True)
    which = traitlets.Enum(WHICH, "unknown")
    against = traitlets.Unicode(None, allow_none=True)
    facts = traitlets.Unicode().tag(sync=True)  # cells and models, in words
    notes = traitlets.List().tag(sync=True)  # what to know of the data, in sentences
    models = traitlets.List(traitlets.Unicode()).tag(sync=True)  # names
    ways = traitlets.List().tag(sync=True)  # by what labels can be decided: [value, words]
    labels = traitlets.List(traitlets.Unicode()).tag(sync=True)  # that a cell can be given
    unknown = traitlets.Unicode(UNKNOWN).tag(sync=True)
    rule = traitlets.Dict().tag(sync=True)  # by, threshold, counts of cells
    types = traitlets.List().tag(sync=True)  # a row for each predicted label
    above = traitlets.Bytes().tag(sync=True)  # int32, types × 101: undecided cells above k / 100
    opened = traitlets.Dict().tag(sync=True)  # the predicted label that is looked at
    dots = traitlets.Dict().tag(sync=True)  # what MarkerDots draws
    queue = traitlets.Dict().tag(sync=True)  # a page of cells, and the current one
    columns = traitlets.List(traitlets.Unicode()).tag(sync=True)  # of obs, to compare with
    confusion = traitlets.Dict().tag(sync=True)  # labels now × a column
    agreement = traitlets.List().tag(sync=True)  # models × models, shares
    history = traitlets.Dict().tag(sync=True)  # the last entries of the trail, and what can be undone
    n_selected = traitlets.Int().tag(sync=True)
    target = traitlets.Dict().tag(sync=True)  # the column to write: key, problem, whether it can be replaced
    written = traitlets.List().tag(sync=True)  # what was written into the AnnData
    script = traitlets.Unicode().tag(sync=True)  # what code() returns

    commands = {  # noqa: RUF012
        "rule": "_click_rule",
        "threshold": "_click_threshold",
        "list": "_click_list",
        "look": "_click_look",
        "decide": "_click_decide",
        "select": "_click_select",
        "against": "_click_against",
        "undo": "_click_undo",
        "redo": "_click_redo",
        "target": "_click_target",
        "apply": "_click_apply",
        "keep": "_click_keep",
        "csv": "_click_csv",
        "retry": "_click_retry",
    }

    def __init__(
        self,
        query: AnnData | Review,
        models: str | list[str] | Models | None = None,
        *,
        by: str | None = None,
        threshold: float = 0.5,
        against: str | None = None,
        markers: Mapping[str, Sequence[str]] | None = None,
        layer: str | None = None,
        unknown: str = UNKNOWN,
        reviewer: str = "",
        session: Session | None = None,
    ):
        self.review = _review_of(query, models, by, threshold, unknown, reviewer)
        self.adata = self.review.adata
        self._lock = threading.RLock()
        self._start = 0  # of the page of the queue
        self._current: int | None = None  # position of the cell looked at
        self._key = self.review.suggested_key
        self._dots = MarkerDots(self.review, layer, markers or {}, self._show_dots)
        self.session = Session() if session is None else session
        self.session.adopt(self.adata)
        columns = list(groupings_of(self.adata))
        first = next(iter(self.review.predictions.models.values()))[0]
        others = [labels for labels, _ in self.review.predictions.models.values() if labels != first]
        if against is None:
            against = next((column for column in others if column in columns), None)
        super().__init__(
            models=list(self.review.predictions.models),
            ways=[[way, _in_words(way)] for way in self.review.predictions.ways],
            columns=columns,
            unknown=self.review.unknown,
            facts=_facts(self.review),
            notes=_notes(self.review, self._key),
            agreement=self.review.predictions.agreement().to_numpy().round(4).tolist(),
            against=against,
            selection=self.session.selection,
        )
        self.observe(self._listed, ["of", "which"])
        self.observe(self._compare, "against")
        self.session.observe(self._hear_session, "selection")
        self._end_subscription = self.review.subscribe(self._hear)
        self._show()

    def close(self) -> None:
        """Take the view from the screen and out of its session."""
        if self.comm is not None:
            self._end_subscription()
            self._dots.close()
            self.session.unobserve(self._hear_session, "selection")
        super().close()

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until the dot plot is drawn, at most `timeout` seconds; whether it is."""
        return self._dots.wait(timeout)

    def refresh(self) -> None:
        """Read the columns to compare with again, after the AnnData has got new ones."""
        with self._lock:
            self.columns = list(groupings_of(self.adata))
            self._show()

    # What is shown

    def _hear(self, entry: Entry) -> None:
        with self._lock:
            self._show()

    def _show(self) -> None:
        """Bring to the page what the review says now."""
        with self._lock, self.hold_sync():
            review = self.review
            self._show_types()
            self._show_queue()
            self._show_opened()
            self._compare()
            trail = review.trail
            self.labels = list(review.names)
            n = review.adata.n_obs
            self.rule = {
                "by": review.rule.by,
                "threshold": review.rule.threshold,
                "n": n,
                "n_unknown": int((review.codes < 0).sum()),
                "n_by_hand": int(review.cells("decided").sum()),
                "n_differ": int(review.cells("differing").sum()),
            }
            last = trail.tail(MOST_ENTRIES).iloc[::-1]
            self.history = {
                "undo": review.can_undo,
                "redo": review.can_redo,
                "n": len(trail),
                "rows": last.astype(object).where(last.notna(), None).to_dict("records"),
            }
            self._show_target()
            self.script = self.code()

    def _show_types(self) -> None:
        review, table = self.review, self.review.table.head(MOST_TYPES)
        codes, uncertainty = review.predicted
        undecided = review.cells("undecided")
        order = np.array([review.names.index(label) if label != review.unknown else -1 for label in table.index])
        place = np.full(len(review.names) + 1, -1)
        place[order] = np.arange(len(order))
        at = place[codes]
        steps = np.searchsorted(np.arange(STEPS + 1) / STEPS, uncertainty)  # how many marks of the slider are below
        steps[codes < 0] = STEPS + 1  # however high the threshold
        if review.rule.by == UNANIMOUS:
            steps[review.predictions.differ] = STEPS + 1
        counted = undecided & (at >= 0)
        width = STEPS + 2
        histogram = np.bincount(at[counted] * width + steps[counted], minlength=len(order) * width)
        above = histogram.reshape(-1, width)[:, ::-1].cumsum(axis=1)[:, ::-1][:, 1:]
        by_rule = np.bincount(at[counted & review.cells("unknown")], minlength=len(order))
        own = review.rule.thresholds
        self.above = above.astype("<i4").tobytes()
        self.types = [
            {
                "label": label,
                "n": int(row["cells"]),
                "unknown": int(row["unknown"]),
                "rejected": int(row["unknown"] - of_rule),  # by hand, whatever the threshold is
                "mean": float(row["mean_uncertainty"]),
                "by_hand": int(row["by_hand"]),
                "differ": int(row["differ"]),
                "own": own.get(label),
            }
            for (label, row), of_rule in zip(table.iterrows(), by_rule)
        ]
        if self.of is not None and self.of not in table.index:
            self.of = None

    def _show_queue(self) -> None:
        """A page of the list; the current cell stays, or the one in its place is the current one."""
        chosen = self.review.queue(self.which, self.of)
        before = self.queue.get("cells", [])
        if self._current not in chosen:
            place = self._start + (before.index(self._current) if self._current in before else 0)
            self._current = int(chosen[min(place, len(chosen) - 1)]) if len(chosen) else None
        self._start = min(self._start, max(0, len(chosen) - 1)) // PAGE * PAGE
        if self._current is not None and self._current not in chosen[self._start : self._start + PAGE]:
            self._start = int(np.flatnonzero(chosen == self._current)[0]) // PAGE * PAGE
        cells = chosen[self._start : self._start + PAGE].tolist()
        self.queue = {
            "which": self.which,
            "of": self.of,
            "n": len(chosen),
            "start": self._start,
            "page": PAGE,
            "cells": cells,
            "rows": [self._row(cell) for cell in cells],
            "current": self._current,
        }

    def _row(self, cell: int) -> dict[str, Any]:
        review = self.review
        codes, uncertainty = review.predicted
        names = [*review.names, review.unknown]
        predictions = review.predictions
        says = [
            {"label": names[code], "uncertainty": float(value)}
            for code, value in zip(predictions.codes[:, cell], predictions.uncertainties[:, cell])
        ]
        return {
            "name": str(self.adata.obs_names[cell]),
            "label": names[codes[cell]],
            "uncertainty": float(uncertainty[cell]),
            "says": says,
            "kind": review.kind_of(cell),
            "now": str(names[review.codes[cell]]) if review.kind_of(cell) else "",
            "comment": review.comment_on(cell),
        }

    @property
    def _open_label(self) -> str | None:
        """The predicted label that is looked at: the one listed, else that of the current cell."""
        if self.of is not None:
            return self.of
        if self._current is None:
            return self.types[0]["label"] if self.types else None
        code = self.review.predicted[0][self._current]
        return self.review.names[code] if code >= 0 else self.review.unknown

    def _show_opened(self) -> None:
        review, label = self.review, self._open_label
        if label is None:
            self.opened = {}
            return
        codes, uncertainty = review.predicted
        here = codes == (review.names.index(label) if label != review.unknown else -1)
        bars, _ = np.histogram(uncertainty[here], bins=BARS, range=(0, 1))
        self.opened = {
            "label": label,
            "n": int(here.sum()),
            "n_unknown": int(review.cells("unknown", label).sum()),
            "n_kept": int(review.cells("kept", label).sum()),
            "n_differing": int(review.cells("differing", label).sum()),
            "threshold": review.threshold_of(label),
            "own": label in review.rule.thresholds,
            "histogram": bars.tolist(),
        }
        self._dots.ask(label, self._current)

    def _show_dots(self, dots: dict[str, Any]) -> None:
        self.dots = dots

    def _compare(self, change: dict | None = None) -> None:
        if self.against is None:
            self.confusion = {}
            return
        with self._lock:
            table = self.review.confusion(self.against)
            rows = table.sum(axis=1).sort_values(ascending=False, kind="stable").index
            sums = table.sum(axis=0).sort_values(ascending=False, kind="stable")
            same = [label for label in rows if label in sums.index]  # the diagonal first
            columns = [*same, *(name for name in sums.index if name not in set(same))]
            shown_ = table.loc[rows[:MOST_CROSSED], columns[:MOST_CROSSED]]
            self.confusion = {
                "column": self.against,
                "rows": shown_.index.tolist(),
                "columns": shown_.columns.tolist(),
                "sums": table.loc[shown_.index].sum(axis=1).tolist(),
                "counts": shown_.to_numpy().tolist(),
                "n_rows": len(rows),
                "n_columns": len(columns),
                "agree": int(sum(table.loc[label, label] for label in same if label != self.review.unknown)),
            }

    @traitlets.validate("against")
    def _check_against(self, proposal: dict) -> str | None:
        column = proposal["value"]
        if column is not None and column not in self.columns:
            near = did_you_mean(column, self.columns)
            raise DataError(
                f"obs has no column '{shown(column)}' of 2 to 500 groups to compare with.{near} There is: "
                f"{listed(self.columns, 20) or 'none'}."
            )
        return column

    @traitlets.validate("of")
    def _check_of(self, proposal: dict) -> str | None:
        if proposal["value"] is not None:
            self.review.cells("all", proposal["value"])
        return proposal["value"]

    def _listed(self, change: dict) -> None:
        with self._lock, self.hold_sync():
            self._start, self._current = 0, None
            self._show_queue()
            self._show_opened()

    def _show_target(self, key: str | None = None) -> None:
        self._key = self._key if key is None else key
        problem = self.review.problem(self._key)
        replaceable = bool(problem) and not self.review.problem(self._key, overwrite=True)
        self.target = {"key": self._key, "problem": problem, "replaceable": replaceable}

    # Between this view and its session

    def _hear_session(self, change: dict) -> None:
        self.selection = change["new"]

    @traitlets.observe("selection")
    def _show_selection(self, change: dict) -> None:
        self.n_selected = len(self.selection)
        self.session.selection = self.selection

    # From the browser

    def _obey(self, view: View, content: Any, buffers: list) -> None:
        """One command after another: they may come on several threads."""
        with self._lock:
            super()._obey(view, content, buffers)

    def _click_rule(self, content: dict, buffers: list) -> None:
        self.error = None
        self.review.set_rule(content["by"])

    def _click_threshold(self, content: dict, buffers: list) -> None:
        self.error = None
        of = content.get("of")
        self.review.set_threshold(content["value"], of=of)

    def _click_list(self, content: dict, buffers: list) -> None:
        """Which cells to list, and which page of them."""
        self.error = None
        with self.hold_sync():
            match content:
                case {"start": int(start)} if not isinstance(start, bool):
                    self._start, self._current = max(0, start), None
                    self._show_queue()
                    self._show_opened()
                case {"which": str(which)}:
                    self.which = which
                case {"of": str() | None as of}:
                    self.of = of

    def _click_look(self, content: dict, buffers: list) -> None:
        """Make a listed cell the current one."""
        with self.hold_sync():
            if content["cell"] in self.queue["cells"]:
                self._current = int(content["cell"])
                self.queue = {**self.queue, "current": self._current}
                self._show_opened()

    def _click_decide(self, content: dict, buffers: list) -> None:
        """Decide on some cells; the page that asked is told whether it went well."""
        answer = {"op": "decided", "id": str(content.get("id"))[:60], "problem": ""}
        self.error = None
        try:
            n = self._decide(content)
        except (ValueError, TypeError, LookupError) as error:
            answer["problem"] = str(error)
        else:
            answer["n"] = n
        self.send(answer)

    def _decide(self, content: dict) -> int:
        cells, comment = self._cells_of(content), content.get("comment", "")
        if not isinstance(comment, str):
            raise TypeError("A comment is text.")
        match content["action"]:
            case "accept":
                return self.review.accept(**cells, comment=comment)
            case "reject":
                return self.review.reject(**cells, comment=comment)
            case "relabel":
                return self.review.relabel(content["label"], **cells, comment=comment, new=content.get("new") is True)
            case "comment":
                return self.review.comment(comment, **cells)
        raise ValueError("There is no such decision.")

    def _cells_of(self, content: dict) -> dict[str, Any]:
        """As arguments of the review: a listed cell, a group, or the selection."""
        match content:
            case {"cell": int(cell)} if not isinstance(cell, bool):
                return {"cells": [cell]}
            case {"which": str(which), "of": str() | None as of}:
                return {"which": which, "of": of}
            case {"selected": True}:
                return {"cells": self.selection}
        raise ValueError("It is not clear which cells are meant.")

    def _click_select(self, content: dict, buffers: list) -> None:
        """Select cells, here and in linked views: a group, a cell, or those behind a number of the confusion."""
        self.error = None
        match content:
            case {"row": str(row), "column": str(column)} if self.against is not None:
                self.selection = self.review.crossing(row, self.against, column)
            case {"clear": True}:
                self.selection = []
            case _:
                cells = self._cells_of(content)
                self.selection = cells["cells"] if "cells" in cells else self.review.cells(**cells)

    def _click_against(self, content: dict, buffers: list) -> None:
        self.error = None
        self.against = content["column"]

    def _click_undo(self, content: dict, buffers: list) -> None:
        """A cell whose decision is undone is the current one again."""
        with self.hold_sync():
            if self.review.can_undo:
                entry = self.review.undo()
                if len(entry.cells) == 1:
                    self._current = int(entry.cells[0])
                    self._show_queue()
                    self._show_opened()

    def _click_redo(self, content: dict, buffers: list) -> None:
        if self.review.can_redo:
            self.review.redo()

    def _click_target(self, content: dict, buffers: list) -> None:
        if isinstance(content["key"], str):
            self._show_target(content["key"][:200])

    def _click_apply(self, content: dict, buffers: list) -> None:
        self._click_target(content, buffers)
        self.apply(self._key, overwrite=content.get("overwrite") is True)

    def apply(self, key: str | None = None, overwrite: bool = False) -> str:
        """Write the labels, as `Review.apply` does; the key."""
        self.error = None
        with self._lock, collected_warnings():  # a view becomes an AnnData of its own
            replaced = " (replaced)" if (key or self._key) in self.adata.obs else ""
            applied = self.review.apply(self._key if key is None else key, overwrite)
            self.columns = list(groupings_of(self.adata))
            self._show_target(applied)
            self.written = [
                f"obs['{shown(self._key)}']{replaced}",
                f"obs['{shown(self._key)}_reason']{replaced}",
                f"uns['{IN_UNS}']['{shown(self._key)}']",
            ]
            self.script = self.code()
        return applied

    def _click_keep(self, content: dict, buffers: list) -> None:
        self.error = None
        with collected_warnings():
            self._key = self.review.keep(self._key)
            self.written = [f"uns['{IN_UNS}']['{shown(self._key)}'] (the trail; no labels)"]

    def _click_csv(self, content: dict, buffers: list) -> None:
        self.send({"op": "csv", "id": str(content.get("id"))[:60], "text": self.review.trail_csv()})

    def _click_retry(self, content: dict, buffers: list) -> None:
        self._dots.ask(self._open_label, self._current, anew=True)

    # Code and pictures

    def code(self) -> str:
        """Python that decides the same again, for the cells in `query`."""
        return self.review.code(self.review.applied_key)

    def _summary(self) -> str:
        review, n = self.review, self.adata.n_obs
        n_unknown, n_by_hand = int((review.codes < 0).sum()), int(review.cells("decided").sum())
        text = f"Review of {n:,} predicted labels by {_in_words(review.rule.by)}: {n_unknown:,} {review.unknown} "
        text += f"({n_unknown / n:.1%}) at a threshold of {review.rule.threshold:g}, {n_by_hand:,} decided by hand"
        return text + (f"; written: {', '.join(self.written)}." if self.written else "; nothing written yet.")

    def _picture(self, format: str) -> bytes:
        from .review_picture import review_picture

        return review_picture(self.review, self.confusion, format)

    def _static_html(self) -> str:
        table = self.review.table
        parts = [super()._static_html()]
        shown_ = table.head(ROWS).reset_index().drop(columns="differ" if len(self.models) < 2 else [])
        parts.append(shown_.to_html(index=False, escape=True, float_format="{:.3g}".format, border=0))
        if len(table) > ROWS:
            parts.append(f"<p>The first {ROWS} of {len(table):,} labels.</p>")
        return "".join([*parts, f"<pre><code>{html.escape(self.code())}</code></pre>"])


def _review_of(query: Any, models: Any, by: str | None, threshold: float, unknown: str, reviewer: str) -> Review:
    from anndata import AnnData

    if isinstance(query, Review):
        if models is not None or by is not None:
            raise TypeError("A Review has its models and its rule: leave `models` and `by` out, or call `set_rule`.")
        return query
    if not isinstance(query, AnnData):
        raise TypeError(
            f"LabelReview takes an AnnData, or a Review of one, and was given a {type(query).__name__}. Read a file "
            "first."
        )
    return Review(query, models, by=by, threshold=threshold, unknown=unknown, reviewer=reviewer)


def _in_words(way: str) -> str:
    return {CONSENSUS: "consensus of the models", UNANIMOUS: "consensus, where all models agree"}.get(way, way)


def _facts(review: Review) -> str:
    models = review.predictions.models
    n = len(review.predictions.names)
    return f"{review.adata.n_obs:,} cells · {n} {'type' if n == 1 else 'types'} · " + (
        f"{len(models)} models: {listed(models, 6)}" if len(models) > 1 else f"labels of {listed(models)}"
    )


def _notes(review: Review, key: str) -> list[str]:
    recall = noted_recall(review.adata)
    notes = [] if recall is None else [f"Labels are votes of the nearest reference cells: {recall}"]
    for name, codes, values in zip(
        review.predictions.models, review.predictions.codes, review.predictions.uncertainties
    ):
        n = int(((codes < 0) & (values < 1)).sum())
        if n:
            notes.append(
                f"{n:,} cells are '{review.unknown}' in {shown(name)} already, so no threshold brings their labels "
                "back. Map with threshold=1 to decide here."
            )
    if len(review.entries) == 1 and key in kept_reviews(review.adata):
        notes.append(
            f"uns['{IN_UNS}'] holds an earlier review '{shown(key)}', which this one would replace. To take that up: "
            f"LabelReview(sca.mapping.review.Review.resume(query, {key!r}))."
        )
    return notes
