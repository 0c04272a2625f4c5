"""A review of predicted labels: a rule with thresholds, decisions by hand, and the trail of both.

    label_i = the decision on cell i, if there is one (accepted, relabelled, rejected)
              else Unknown, if its uncertainty is above the threshold of its predicted label
              else its predicted label

Every change is an entry of the trail, also what is undone. The trail stands in `uns` (see `review_trail`), from where
`Review.resume` takes it up again; labels stand in `obs` only after `apply`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from ..data.names import DataError, did_you_mean, digest_of, listed, shown
from ..data.schema import as_text
from .predictions import UNANIMOUS, Models, Predictions, models_of
from .review_trail import COLUMNS, NO_CELLS, Entry, as_json, from_json, line_of, restored, saved
from .transfer import UNKNOWN

if TYPE_CHECKING:
    from anndata import AnnData

IN_UNS = "label_reviews"  # key of uns: name of the written column -> its trail
UNDECIDED, ACCEPTED, RELABELLED, REJECTED = range(4)
BY_HAND = {"accept": ACCEPTED, "relabel": RELABELLED, "reject": REJECTED}
REASONS = ("by rule", "accepted", "relabelled", "rejected", "uncertain", "disagreement", "not labelled")
WHICH = ("unknown", "kept", "differing", "undecided", "decided", "all")
LONGEST_LABEL, LONGEST_COMMENT = 200, 2000
UNREADABLE = (ArithmeticError, AttributeError, LookupError, TypeError, ValueError)


@dataclass(frozen=True)
class Rule:
    """What becomes of cells that nobody has decided on: `by` whom, and above which uncertainty they are Unknown."""

    by: str
    threshold: float
    thresholds: Mapping[str, float] = field(default_factory=dict)  # of labels that have their own


class Review:
    """Predicted labels, what is decided of them, and how it came about.

    Parameters
    ----------
    adata
        The query; only `apply` and `keep` write to it. Cell names must be unique.
    models
        Columns of obs with labels and uncertainties; see `predictions.models_of`.
    by
        By what labels are decided at first: a model's name, "consensus" (the label with most support; see
        `predictions`) or "unanimous" (Unknown where the models differ). None: the only model, else the consensus.
    threshold
        Cells of a larger uncertainty, 0 to 1, are Unknown.
    unknown
        The label of cells without one, in the columns read as in the one written.
    reviewer
        Who decides; written into the trail.

    Attributes
    ----------
    predictions, rule
        What the models say, and the rule in force.

    Raises
    ------
    DataError
        If there are no cells, names are not unique, or columns are unfit.

    Examples
    --------
    >>> review = Review(query, threshold=0.3)
    >>> review.table
    >>> review.relabel("Plasma", which="unknown", of="B cell", comment="JCHAIN, no MS4A1")
    >>> review.apply("reviewed_cell_type")
    """

    def __init__(
        self,
        adata: AnnData,
        models: str | list[str] | Models | None = None,
        *,
        by: str | None = None,
        threshold: float = 0.5,
        unknown: str = UNKNOWN,
        reviewer: str = "",
    ):
        self._read(adata, models_of(adata, models), unknown)
        by = self.predictions.ways[0 if len(self.predictions.models) == 1 else -2] if by is None else by
        self._check_way(by)
        self.reviewer = str(reviewer)
        self.rule = Rule(by, _fraction(threshold))
        self._enter("begin")

    def _read(self, adata: AnnData, models: Models, unknown: str) -> None:
        if adata.n_obs == 0:
            raise DataError("The query has no cells, so there is nothing to review. Was a filter too strict?")
        if not adata.obs_names.is_unique:
            raise DataError(
                "Cell names occur more than once, but decisions are kept by name. Call `query.obs_names_make_unique()` "
                "first."
            )
        self.adata, self.unknown = adata, unknown
        self.predictions = Predictions.of(adata, models, unknown)
        self._predicted: dict[str, tuple[np.ndarray, np.ndarray]] = {}  # by a way of deciding
        self._names = list(self.predictions.names)  # labels added by hand stand at the end
        self._kind = np.zeros(adata.n_obs, dtype=np.int8)  # what was decided by hand
        self._label = np.full(adata.n_obs, -1, dtype=np.int32)  # and with what label
        self._entries: list[Entry] = []
        self._done: list[tuple[Entry, Callable[[], None]]] = []  # what counts, and how to take it back
        self._undone: list[Entry] = []
        self._applied: dict[str, pd.Series] = {}
        self._subscribers: list[Callable[[Entry], None]] = []

    def subscribe(self, callback: Callable[[Entry], None]) -> Callable[[], None]:
        """Have a function called with each new entry of the trail; returns one that ends it."""
        self._subscribers = [*self._subscribers, callback]

        def end() -> None:
            self._subscribers = [one for one in self._subscribers if one is not callback]

        return end

    def _tell(self) -> None:
        for callback in self._subscribers:
            callback(self._entries[-1])

    # What is so now

    @property
    def names(self) -> tuple[str, ...]:
        """Labels that a cell can be given: those predicted, then those added by hand."""
        return tuple(self._names)

    @property
    def predicted(self) -> tuple[np.ndarray, np.ndarray]:
        """By the rule, before its threshold: codes in `names`, int32 (cells,), −1 for Unknown; uncertainties."""
        if self.rule.by not in self._predicted:
            self._predicted[self.rule.by] = self.predictions.decided(self.rule.by)
        return self._predicted[self.rule.by]

    @property
    def codes(self) -> np.ndarray:
        """The labels as they would be applied: positions in `names`, int32 (cells,), −1 for Unknown."""
        codes, _ = self.predicted
        codes = np.where(self._is_unknown(), -1, codes)
        return np.where(self._kind == UNDECIDED, codes, self._label)

    @property
    def labels(self) -> pd.Series:
        """The labels as they would be applied: categories over the cells."""
        names = [*self._names, self.unknown]
        text = pd.Categorical.from_codes(np.where(self.codes < 0, len(self._names), self.codes), names)
        return pd.Series(text.remove_unused_categories(), index=self.adata.obs_names)

    @property
    def reasons(self) -> pd.Series:
        """Why each cell has its label: "by rule"; "accepted", "relabelled" or "rejected" by hand; or why it is Unknown:
        "uncertain", "disagreement" of the models, or "not labelled" by them."""
        codes, uncertainty = self.predicted
        reason = np.where(uncertainty > self._thresholds()[codes], 4, 0)
        if self.rule.by == UNANIMOUS:
            reason[self.predictions.differ] = 5
        reason[codes < 0] = 6
        reason = np.where(self._kind == UNDECIDED, reason, self._kind)
        text = pd.Categorical.from_codes(reason, REASONS)
        return pd.Series(text.remove_unused_categories(), index=self.adata.obs_names)

    @property
    def comments(self) -> pd.Series:
        """Comments on each cell, object (cells,); empty where there are none, several joined by "; "."""
        text = np.full(self.adata.n_obs, "", dtype=object)
        for entry in self._in_force:
            if entry.comment:
                text[entry.cells] = [f"{one}; {entry.comment}" if one else entry.comment for one in text[entry.cells]]
        return pd.Series(text, index=self.adata.obs_names)

    def comment_on(self, cell: int) -> str:
        """The comments on the cell at one position."""
        said = [entry.comment for entry in self._in_force if entry.comment and _has(entry.cells, cell)]
        return "; ".join(said)

    @property
    def table(self) -> pd.DataFrame:
        """A row per predicted label, most cells first: `cells`; of these `unknown` now, as `share` too, and decided
        `by_hand`; their `mean_uncertainty`; and how many of them the models `differ` on."""
        codes, uncertainty = self.predicted
        n = len(self._names) + 1  # code −1 is counted at the end

        def counted(which: np.ndarray | None = None, weights: np.ndarray | None = None) -> np.ndarray:
            chosen = codes if which is None else codes[which]
            return np.bincount(np.where(chosen < 0, n - 1, chosen), weights, minlength=n)

        cells, unknown = counted(), counted(self.codes < 0)
        with np.errstate(invalid="ignore"):
            columns = {
                "cells": cells,
                "unknown": unknown,
                "share": unknown / cells,
                "mean_uncertainty": counted(weights=uncertainty) / cells,
                "by_hand": counted(self._kind != UNDECIDED),
                "differ": counted(self.predictions.differ),
            }
        table = pd.DataFrame(columns, index=pd.Index([*self._names, self.unknown], name="label", dtype=object))
        return table[table["cells"] > 0].sort_values("cells", ascending=False, kind="stable")

    def confusion(self, column: str) -> pd.DataFrame:
        """How many cells have which label now (rows), and which value of a column of obs; cells without one are "".

        Raises
        ------
        DataError
            If there is no such column.
        """
        codes, values = self._values_of(column)
        mine, n = np.where(self.codes < 0, len(self._names), self.codes), len(self._names) + 1
        counts = np.bincount(mine * len(values) + codes, minlength=n * len(values)).reshape(n, len(values))
        rows = pd.Index([*self._names, self.unknown], name="label", dtype=object)
        table = pd.DataFrame(counts, index=rows, columns=pd.Index(values, name=column, dtype=object))
        return table[table.sum(axis=1) > 0]

    def crossing(self, label: str, column: str, value: str) -> np.ndarray:
        """The cells behind one number of `confusion`, bool (cells,)."""
        codes, values = self._values_of(column)
        if value not in values:
            raise DataError(f"obs['{shown(column)}'] has no value '{shown(value)}'.{did_you_mean(value, values)}")
        return (self.codes == self._code_of(label)) & (codes == values.index(value))

    def _values_of(self, column: str) -> tuple[np.ndarray, list[str]]:
        """A column of obs as codes, int (cells,), and its values as text, sorted; "" where there is none."""
        if column not in self.adata.obs:
            raise DataError(f"obs has no column '{shown(column)}'.{did_you_mean(column, self.adata.obs.columns)}")
        codes, levels = pd.factorize(self.adata.obs[column])
        names = [*as_text(pd.Series(levels)), ""]  # the last is that of code −1
        values, places = np.unique(np.array(names, dtype=object), return_inverse=True)
        there = np.isin(np.arange(len(values)), places[codes])
        return (np.cumsum(there) - 1)[places[codes]], values[there].tolist()

    def cells(self, which: str = "unknown", of: str | None = None) -> np.ndarray:
        """A group of cells, bool (cells,).

        Parameters
        ----------
        which
            "unknown", "kept": those that the rule makes Unknown, or not; "differing": the models do not agree on them;
            "undecided" by hand, which these three are too; "decided" by hand; "all".
        of
            Only cells with this predicted label.
        """
        if which not in WHICH:
            raise ValueError(f"which='{which}' is none of {', '.join(WHICH)}.{did_you_mean(which, WHICH)}")
        undecided = self._kind == UNDECIDED
        masks = {
            "unknown": lambda: undecided & self._is_unknown(),
            "kept": lambda: undecided & ~self._is_unknown(),
            "differing": lambda: undecided & self.predictions.differ,
            "undecided": lambda: undecided,
            "decided": lambda: ~undecided,
            "all": lambda: np.ones(len(undecided), dtype=bool),
        }
        mask = masks[which]()
        return mask if of is None else mask & (self.predicted[0] == self._code_of(of))

    def queue(self, which: str = "unknown", of: str | None = None) -> np.ndarray:
        """Positions of a group's cells, the most uncertain first; see `cells`."""
        chosen = np.flatnonzero(self.cells(which, of))
        return chosen[np.argsort(-self.predicted[1][chosen], kind="stable")]

    def kind_of(self, cell: int) -> str:
        """What was decided on the cell at one position: "accepted", "relabelled", "rejected", or empty."""
        return REASONS[self._kind[cell]] if self._kind[cell] else ""

    def _is_unknown(self) -> np.ndarray:
        """By the rule alone, bool (cells,)."""
        codes, uncertainty = self.predicted
        unknown = (codes < 0) | (uncertainty > self._thresholds()[codes])
        return unknown | self.predictions.differ if self.rule.by == UNANIMOUS else unknown

    def threshold_of(self, label: str) -> float:
        return self.rule.thresholds.get(label, self.rule.threshold)

    def _thresholds(self) -> np.ndarray:
        """By code; the last is that of −1."""
        return np.array([*map(self.threshold_of, self._names), self.rule.threshold])

    def _code_of(self, label: str) -> int:
        if label == self.unknown:
            return -1
        if label not in self._names:
            raise DataError(
                f"'{shown(label)}' is none of the {len(self._names):,} labels here.{did_you_mean(label, self._names)}"
            )
        return self._names.index(label)

    # Decisions

    def set_rule(self, by: str) -> None:
        """Decide labels by a model, by "consensus" or by "unanimous". Decisions by hand stay."""
        self._check_way(by)
        if by != self.rule.by:
            self._enter("by", rule=replace(self.rule, by=by))

    def set_threshold(self, threshold: float | None, of: str | None = None) -> None:
        """Above which uncertainty cells are Unknown: all, or those predicted to be `of` one label (None: as all).

        Several changes in a row are one entry, and undone at once.
        """
        before = self.rule
        if of is None:
            rule = replace(before, threshold=_fraction(threshold))
        else:
            self._code_of(of)
            own = {label: value for label, value in before.thresholds.items() if label != of}
            rule = replace(before, thresholds=own if threshold is None else {**own, of: _fraction(threshold)})
        if rule == before:
            return
        last = self._entries[-1]
        if last.action == "threshold" and last.of == of:
            _, take_back = self._done.pop()
            self._entries.pop()
            self.rule = before
            self._enter("threshold", of=of, rule=rule, take_back=take_back)
        else:
            self._enter("threshold", of=of, rule=rule)

    def accept(self, cells: Any = None, *, which: str | None = None, of: str | None = None, comment: str = "") -> int:
        """Keep the predicted label of some cells, however uncertain it is.

        Parameters
        ----------
        cells
            Positions, a boolean mask, or names.
        which, of
            In place of `cells`: a group, as in `cells`.
        comment
            Why.

        Returns
        -------
        How many cells it concerns.

        Raises
        ------
        DataError
            If there are no such cells, or some were not labelled by the models.
        """
        chosen = self._chosen(cells, which, of)
        n_bare = int((self.predicted[0][chosen] < 0).sum())
        if n_bare:
            raise DataError(
                f"{n_bare:,} of {len(chosen):,} cells have no predicted label that could be accepted. Relabel them."
            )
        return self._decide("accept", chosen, which, of, None, comment)

    def relabel(
        self,
        label: str,
        cells: Any = None,
        *,
        which: str | None = None,
        of: str | None = None,
        comment: str = "",
        new: bool = False,
    ) -> int:
        """Give some cells another label; `new` says that none of the models knows it. Otherwise as `accept`."""
        label = _fit(label, LONGEST_LABEL, "A label")
        if label == self.unknown:
            raise DataError(f"'{shown(label)}' is what rejected cells are called. Reject them.")
        if label not in self._names and not new:
            raise DataError(
                f"'{shown(label)}' is not yet a label here.{did_you_mean(label, self._names)} If it is meant, add it: "
                "new=True."
            )
        return self._decide("relabel", self._chosen(cells, which, of), which, of, label, comment)

    def reject(self, cells: Any = None, *, which: str | None = None, of: str | None = None, comment: str = "") -> int:
        """Make some cells Unknown, however certain their label is. Otherwise as `accept`."""
        return self._decide("reject", self._chosen(cells, which, of), which, of, None, comment)

    def comment(self, text: str, cells: Any = None, *, which: str | None = None, of: str | None = None) -> int:
        """Say something of some cells, and decide nothing. Otherwise as `accept`."""
        if not text.strip():
            raise DataError("The comment is empty. Say something.")
        return self._decide("comment", self._chosen(cells, which, of), which, of, None, text)

    @property
    def can_undo(self) -> bool:
        return len(self._done) > 0

    @property
    def can_redo(self) -> bool:
        return len(self._undone) > 0

    def undo(self) -> Entry:
        """Take the last decision or change of the rule back; the trail keeps it, and that it was undone."""
        if not self._done:
            raise DataError("There is nothing to undo.")
        entry, take_back = self._done.pop()
        take_back()
        self._undone.append(entry)
        self._record("undo", refers=entry.number)
        self._tell()
        return entry

    def redo(self) -> Entry:
        """Do again what was undone last."""
        if not self._undone:
            raise DataError("There is nothing to do again.")
        entry = self._undone.pop()
        self._perform(entry)
        self._record("redo", refers=entry.number)
        self._tell()
        return entry

    def _decide(
        self, action: str, cells: np.ndarray, which: str | None, of: str | None, label: str | None, comment: str
    ) -> int:
        comment = _fit(comment, LONGEST_COMMENT, "A comment") if comment else ""
        self._enter(action, cells=cells, which=which, of=of, label=label, comment=comment)
        return len(cells)

    def _enter(self, action: str, rule: Rule | None = None, take_back: Callable | None = None, **facts: Any) -> None:
        """Do something new, and write it down."""
        rule = self.rule if rule is None else rule
        if action == "threshold":
            threshold = rule.threshold if facts["of"] is None else rule.thresholds.get(facts["of"])
        else:
            threshold = rule.threshold
        number = self._entries[-1].number + 1 if self._entries else 0
        entry = Entry(number, _now(), action, by=rule.by, threshold=threshold, reviewer=self.reviewer, **facts)
        self._entries.append(entry)
        if action != "begin":
            self._perform(entry, take_back)
            self._undone = []
            self._tell()

    def _record(self, action: str, **facts: Any) -> None:
        facts = {"by": self.rule.by, "threshold": self.rule.threshold, "reviewer": self.reviewer, **facts}
        self._entries.append(Entry(self._entries[-1].number + 1, _now(), action, **facts))

    def _perform(self, entry: Entry, take_back: Callable | None = None) -> None:
        rule, kinds, labels = self.rule, self._kind[entry.cells], self._label[entry.cells]
        if entry.action == "by":
            self.rule = replace(rule, by=entry.by)
        elif entry.action == "threshold" and entry.of is None:
            self.rule = replace(rule, threshold=entry.threshold)
        elif entry.action == "threshold":
            own = {label: value for label, value in rule.thresholds.items() if label != entry.of}
            self.rule = replace(rule, thresholds=own if entry.threshold is None else {**own, entry.of: entry.threshold})
        elif entry.action in BY_HAND:
            if entry.action == "relabel":
                if entry.label not in self._names:
                    self._names.append(entry.label)
                given = self._names.index(entry.label)
            else:
                given = self.predicted[0][entry.cells] if entry.action == "accept" else -1
            self._kind[entry.cells], self._label[entry.cells] = BY_HAND[entry.action], given

        def undone() -> None:
            self.rule = rule
            self._kind[entry.cells], self._label[entry.cells] = kinds, labels

        self._done.append((entry, take_back or undone))

    def _chosen(self, cells: Any, which: str | None, of: str | None) -> np.ndarray:
        if (cells is None) == (which is None):
            raise TypeError("Say which cells: either `cells` or `which`.")
        chosen = np.flatnonzero(self.cells(which, of)) if cells is None else self._positions(cells)
        if not len(chosen):
            raise DataError("No cells are meant, so there is nothing to decide.")
        return chosen.astype(np.int32)

    def _positions(self, cells: Any) -> np.ndarray:
        """Ascending, without repeats."""
        values, n = np.atleast_1d(np.asarray(cells)), self.adata.n_obs
        if values.dtype == bool:
            if values.shape != (n,):
                raise DataError(f"The mask has {values.size:,} values, and there are {n:,} cells. Give one for each.")
            return np.flatnonzero(values)
        if values.size and values.dtype.kind not in "iu":
            names, values = values.astype(str), self.adata.obs_names.get_indexer(values.astype(str))
            if (values < 0).any():
                raise DataError(
                    f"{int((values < 0).sum()):,} of {len(names):,} names are not in obs_names "
                    f"({listed(names[values < 0])})."
                )
        if values.size and not (values.min() >= 0 and values.max() < n):
            raise DataError(f"Positions count from 0 to {n - 1:,}; some are beyond ({listed(values[values >= n])}).")
        return np.unique(values)

    def _check_way(self, by: str) -> None:
        if by not in (ways := self.predictions.ways):
            raise DataError(
                f"Labels cannot be decided by '{shown(by)}'.{did_you_mean(by, ways)} There is: {listed(ways, 20)}."
            )

    # The trail

    @property
    def _in_force(self) -> list[Entry]:
        """What was entered and not undone."""
        return [entry for entry, _ in self._done]

    @property
    def entries(self) -> tuple[Entry, ...]:
        return tuple(self._entries)

    @property
    def trail(self) -> pd.DataFrame:
        """A row per entry: `number`, `time` (UTC), `action`, `scope` and `n_cells`, `label`, the rule (`by`) and its
        `threshold` after it, `comment`, `reviewer`, and whether it is `undone`."""
        counts = {entry.number for entry in self._in_force}
        rows = [
            {
                **{name: getattr(entry, name, None) for name in COLUMNS},
                "n_cells": len(entry.cells),
                "label": entry.of if entry.action == "threshold" else entry.label,
                "action": entry.action if entry.refers is None else f"{entry.action} {entry.refers}",
                "undone": entry.action in (*BY_HAND, "by", "threshold", "comment") and entry.number not in counts,
            }
            for entry in self._entries
        ]
        return pd.DataFrame(rows, columns=list(COLUMNS))

    def trail_csv(self) -> str:
        """The trail as CSV, with the names of an entry's cells in a last column, as a JSON list."""
        names = self.adata.obs_names.to_numpy(dtype=object)
        cells = [json.dumps(names[entry.cells].tolist(), ensure_ascii=False) for entry in self._entries]
        return self.trail.assign(cells=cells).to_csv(index=False, lineterminator="\n")

    def save_trail(self, path: str | Path) -> Path:
        """Write `trail_csv` to a file."""
        path = Path(path)
        path.write_text(self.trail_csv(), encoding="utf-8")
        return path

    @property
    def applied_key(self) -> str | None:
        """The column that was applied to last; None before."""
        return next((entry.label for entry in reversed(self._entries) if entry.action == "apply"), None)

    @property
    def suggested_key(self) -> str:
        """A name for the column of reviewed labels."""
        name = next(iter(self.predictions.models.values()))[0]
        for begin in ("predicted", "classified"):
            if name == begin or name.startswith(f"{begin}_"):
                return "reviewed" + name.removeprefix(begin)
        return f"reviewed_{name}"

    def problem(self, key: str, overwrite: bool = False) -> str:
        """Why labels cannot be applied as column `key`; empty if they can."""
        if not key.strip() or not key.isprintable() or "/" in key:
            return "A column needs a name of characters that can be seen, without a slash."
        if any(name in columns for columns in self.predictions.models.values() for name in self._columns(key)):
            return f"obs['{shown(key)}'] holds what is reviewed here. Choose another name."
        taken = [name for name in self._columns(key) if name in self.adata.obs and not self._is_own(name)]
        if taken and not overwrite:
            return f"obs['{shown(taken[0])}'] exists already. Choose another name, or replace it."
        return ""

    @staticmethod
    def _columns(key: str) -> tuple[str, str]:
        return key, f"{key}_reason"

    def _is_own(self, name: str) -> bool:
        """Whether a column is as this review has written it."""
        return name in self._applied and self.adata.obs[name].equals(self._applied[name])

    def apply(self, key: str | None = None, overwrite: bool = False) -> str:
        """Write the labels into `obs`, with the reasons beside them (`<key>_reason`), and the trail into `uns`.

        Parameters
        ----------
        key
            Name of the column; None: "reviewed_" and what was predicted.
        overwrite
            Whether to replace columns that exist; those that this review has written itself are replaced anyway.

        Returns
        -------
        The key.

        Raises
        ------
        DataError
            If a column exists; then nothing is written.
        """
        key = self.suggested_key if key is None else key
        if problem := self.problem(key, overwrite):
            raise DataError(problem)
        written = dict(zip(self._columns(key), (self.labels, self.reasons)))
        self.adata.obs = self.adata.obs.assign(**written)  # both, or none
        self._applied |= {name: self.adata.obs[name].copy() for name in written}
        self._record("apply", label=key)
        self._write(key)
        self._tell()
        return key

    def keep(self, key: str | None = None) -> str:
        """Write only the trail into `uns`, so that `resume` can take the review up again; the key."""
        key = self.suggested_key if key is None else key
        if not key.strip() or "/" in key:
            raise DataError("The review needs a name without a slash.")
        self._write(key)
        return key

    def _write(self, key: str) -> None:
        record = saved(self._facts, self._entries, self.adata.obs_names.to_numpy(dtype=object))
        self.adata.uns[IN_UNS] = {**self.adata.uns.get(IN_UNS, {}), key: record}

    @property
    def _facts(self) -> dict[str, Any]:
        return {
            "models": {name: list(columns) for name, columns in self.predictions.models.items()},
            "unknown": self.unknown,
            "digest": self.predictions.digest(self.adata.obs_names.to_numpy(dtype=object)),
        }

    def to_json(self) -> dict[str, Any]:
        """The trail as plain values without names of cells, for `from_json`; `keep` writes it with names."""
        facts = self._facts | {"cells": digest_of(self.adata.obs_names)}
        return as_json(facts, self._entries, self.adata.n_obs)

    @classmethod
    def from_json(cls, adata: AnnData, record: Mapping[str, Any]) -> Review:
        """Take up a review from what `to_json` gave, of the same cells in the same order, and the same predictions.

        Raises
        ------
        DataError
            If cells or predictions are others than they were, or this is no such record.
        """
        try:
            if record["cells"] != digest_of(adata.obs_names):
                raise DataError("The review is of other cells than these, or in another order. Give it its own.")
            parts = from_json(record, adata.n_obs)
        except DataError:
            raise
        except UNREADABLE as error:
            raise DataError(f"The review cannot be read: {error}. Start a new one.") from error
        return cls._taken_up(adata, "The review", *parts)

    @classmethod
    def resume(cls, adata: AnnData, key: str | None = None) -> Review:
        """Take up a review from `uns`, where `keep` or `apply` wrote it.

        Raises
        ------
        DataError
            If there is none, or cells or predictions are others than they were.
        """
        kept = adata.uns.get(IN_UNS, {})
        if key is None and len(kept) == 1:
            (key,) = kept
        if key not in kept:
            there = f"There are: {listed(kept, 20)}." if len(kept) else "No review was kept in this AnnData."
            raise DataError(f"uns['{IN_UNS}'] has no review '{shown(key)}'. {there}")
        what = f"The review '{shown(key)}' in uns"
        try:
            parts = restored(kept[key])
        except UNREADABLE as error:
            raise DataError(f"{what} cannot be read: {error}. Start a new one.") from error
        return cls._taken_up(adata, what, *parts)

    @classmethod
    def _taken_up(
        cls, adata: AnnData, what: str, facts: Mapping[str, Any], entries: list[Entry], cells: list[np.ndarray]
    ) -> Review:
        """A review in the state in which its entries left it; `cells` are the names or positions of each entry."""
        review = cls.__new__(cls)
        try:
            digest, unknown = str(facts["digest"]), str(facts["unknown"])
            models = {str(name): (str(pair[0]), str(pair[1])) for name, pair in facts["models"].items()}
        except UNREADABLE as error:
            raise DataError(f"{what} cannot be read: {error}. Start a new one.") from error
        review._read(adata, models, unknown)
        if review.predictions.digest(adata.obs_names) != digest:
            raise DataError(
                f"{what} is of other cells or predictions than these, so its decisions may be wrong for them. Review "
                "the AnnData as it was, or start a new review."
            )
        try:
            review._replay(entries, cells)
        except UNREADABLE as error:
            raise DataError(f"{what} cannot be read: {error}. Start a new one.") from error
        if entries[-1].action == "apply":
            columns = [name for name in cls._columns(entries[-1].label) if name in adata.obs]
            now = dict(zip(cls._columns(entries[-1].label), (review.labels, review.reasons)))
            same = [name for name in columns if list(adata.obs[name].astype(str)) == list(now[name].astype(str))]
            review._applied = {name: adata.obs[name].copy() for name in same}
        return review

    def _replay(self, entries: list[Entry], cells: list[np.ndarray]) -> None:
        """Do again what the entries say, at the times and in the words in which they stand there."""
        if not entries or entries[0].action != "begin":
            raise ValueError("it has no beginning")
        self._check_way(entries[0].by)
        self.rule, self.reviewer = Rule(entries[0].by, _fraction(entries[0].threshold)), str(entries[0].reviewer)
        for entry, names in zip(entries, cells, strict=True):
            entry = replace(entry, cells=self._positions(names).astype(np.int32) if len(names) else NO_CELLS)
            if entry.action == "undo":
                undone, take_back = self._done.pop()
                take_back()
                self._undone.append(undone)
            elif entry.action == "redo":
                self._perform(self._undone.pop())
            elif entry.action in (*BY_HAND, "comment", "by", "threshold"):
                self._check_entry(entry)
                self._perform(entry)
                self._undone = []
            elif entry.action not in ("begin", "apply"):
                raise ValueError(f"'{shown(entry.action)}' is no action")
            self._entries.append(entry)

    def _check_entry(self, entry: Entry) -> None:
        if entry.action == "by":
            self._check_way(entry.by)
        elif entry.action == "threshold":
            if entry.of is not None:
                self._code_of(entry.of)
            if entry.of is None or entry.threshold is not None:
                _fraction(entry.threshold)
        elif entry.action == "relabel":
            _fit(entry.label, LONGEST_LABEL, "A label")

    # Code

    def code(self, key: str | None = None) -> str:
        """Python that decides the same again, for the cells in `query`; with `key`, also the line that applies it."""
        models, begin = self.predictions.models, self._entries[0]
        given = "".join(f", {name}={value!r}" for name, value in (("by", begin.by), ("threshold", begin.threshold)))
        given += f", unknown={self.unknown!r}" if self.unknown != UNKNOWN else ""
        given += f", reviewer={self.reviewer!r}" if self.reviewer else ""
        names = self.adata.obs_names.to_numpy(dtype=object)
        body = [f"review = Review(query, {dict(models)!r}{given})"]
        body += [line_of(entry, names, entry.label not in self.predictions.names) for entry in self._in_force]
        if key is not None:
            body.append(f"review.apply({key!r})")
        body.append("labels = review.labels")
        lines = ["from scarches_widgets.mapping.review import Review", "", *body]
        if any("b85decode" in line for line in body):
            lines = ["import base64", "import zlib", "", "import numpy as np", *lines]
        return "\n".join(lines) + "\n"


def kept_reviews(adata: AnnData) -> list[str]:
    """Names under which reviews stand in `uns`."""
    kept = adata.uns.get(IN_UNS, {})
    return [str(name) for name in kept] if isinstance(kept, Mapping) else []


def _has(cells: np.ndarray, cell: int) -> bool:
    place = np.searchsorted(cells, cell)
    return place < len(cells) and cells[place] == cell


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _fraction(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float | np.number) or not 0 <= value <= 1:
        raise ValueError(f"threshold is an uncertainty, from 0 to 1, not {value!r}.")
    return float(value)


def _fit(text: Any, longest: int, what: str) -> str:
    """A text without blanks around it, if it is one line of a fit length."""
    text = text.strip() if isinstance(text, str) else ""
    if not text or not text.isprintable():
        raise DataError(f"{what} needs at least one character, and only such as can be seen.")
    if len(text) > longest:
        raise DataError(f"{what} of {len(text):,} characters is too long; {longest:,} are the most.")
    return text
