"""The dot plot beside a decision: how cells predicted to be one type, sure and doubtful ones, express its markers."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from ..data.names import listed
from ..mapping.marker_genes import Expression, GroupedExpression, dots
from ..mapping.review import Review

N_GENES = 8
MOST_OTHERS = 30  # types beside the opened one
MOST_KEPT = 16  # opened types whose values are remembered


class MarkerDots:
    """Computes dot plots on a thread, the last one asked for, and calls `show` with each.

    Parameters
    ----------
    layer
        Where expression is read from; None: X.
    markers
        Label -> genes to show for it; for others those that tell its cells from all others.
    """

    def __init__(
        self,
        review: Review,
        layer: str | None,
        markers: Mapping[str, Sequence[str]],
        show: Callable[[dict[str, Any]], None],
    ):
        self._review, self._layer, self._show = review, layer, show
        self._markers = {str(label): [str(gene) for gene in genes] for label, genes in markers.items()}
        self._changed = threading.Condition()
        self._wanted: tuple[str | None, int | None] | None = None
        self._busy = self._closed = False
        self._expression: Expression | None = None
        self._grouped: dict[str, GroupedExpression] = {}  # by a way of deciding
        self._values: dict[tuple[str, ...], np.ndarray] = {}  # of genes

    def ask(self, label: str | None, cell: int | None, anew: bool = False) -> None:
        """Draw the markers of a predicted label, with one cell beside it; soon."""
        with self._changed:
            if anew:
                self._expression, self._grouped, self._values = None, {}, {}
            self._wanted = label, cell
            if not self._busy and not self._closed:
                self._busy = True
                threading.Thread(target=self._work, name="scarches-markers", daemon=True).start()

    def wait(self, timeout: float | None = None) -> bool:
        with self._changed:
            return self._changed.wait_for(lambda: not self._busy, timeout)

    def close(self) -> None:
        with self._changed:
            self._closed = True

    def _work(self) -> None:
        while True:
            with self._changed:
                wanted, self._wanted = self._wanted, None
                if wanted is None or self._closed:
                    self._busy = False
                    self._changed.notify_all()
                    return
            try:
                drawn = self._drawn(*wanted)
            except Exception as error:  # noqa: BLE001 - shown
                drawn = {"label": wanted[0], "problem": str(error) or type(error).__name__}
            if self._wanted is None and not self._closed:
                self._show(drawn)

    def _drawn(self, label: str | None, cell: int | None) -> dict[str, Any]:
        review = self._review
        if label is None or label == review.unknown:
            return {"label": label, "genes": [], "note": "Cells without a label have no markers."}
        expression = self._expression or Expression(review.adata, self._layer)
        self._expression = expression
        codes, names = review.predicted[0], review.names
        mine = names.index(label)
        grouped = self._grouped_by(expression, review.rule.by, codes)
        genes, note = self._genes_of(label, mine, grouped)
        if not genes:
            return {"label": label, "genes": [], "note": note or "No gene tells these cells from all others."}
        values = self._values_of(expression, tuple(genes))
        doubtful = review.cells("unknown", label)
        here = {"here": codes == mine}
        if 0 < doubtful.sum() < here["here"].sum():
            here = {"sure": (codes == mine) & ~doubtful, "doubtful": doubtful}
        if cell is not None:
            here["cell"] = np.arange(len(codes)) == cell
        table = dots(values, here, genes)
        rows = [_row(kind, label, of) for kind, of in table.groupby("group", sort=False)]
        others = [i for i in np.argsort(-grouped.n[:-1], kind="stable").tolist() if i != mine and grouped.n[i]]
        at = grouped.genes.get_indexer(genes)
        for i in others[:MOST_OTHERS]:
            mean, share = grouped.mean[i, at].round(4).tolist(), grouped.share[i, at].round(4).tolist()
            rows.append({"kind": "other", "label": names[i], "n": int(grouped.n[i]), "mean": mean, "share": share})
        unit = "log-normalised counts" if expression.are_counts else "values as they stand"
        return {
            "label": label,
            "genes": genes,
            "rows": rows,
            "note": note,
            "unit": unit,
            "n_more": max(0, len(others) - MOST_OTHERS),
        }

    def _grouped_by(self, expression: Expression, by: str, codes: np.ndarray) -> GroupedExpression:
        """The last group is of cells without a label."""
        if by not in self._grouped:
            n = len(self._review.predictions.names)
            self._grouped[by] = expression.by_group(np.where(codes < 0, n, codes), n + 1)
        return self._grouped[by]

    def _genes_of(self, label: str, group: int, grouped: GroupedExpression) -> tuple[list[str], str]:
        if label not in self._markers:
            return grouped.top(group, N_GENES), ""
        given = self._markers[label]
        there = [gene for gene in given if gene in grouped.genes]
        missing = [gene for gene in given if gene not in grouped.genes]
        return there, f"Not in these cells' data: {listed(missing, 10)}." if missing else ""

    def _values_of(self, expression: Expression, genes: tuple[str, ...]) -> np.ndarray:
        if genes not in self._values:
            while len(self._values) >= MOST_KEPT:
                del self._values[next(iter(self._values))]
            self._values[genes] = expression.of_genes(genes)
        return self._values[genes]


def _row(kind: str, label: str, table) -> dict[str, Any]:
    mean, share = (table[name].round(4).tolist() for name in ("mean", "share"))
    return {"kind": kind, "label": label, "n": int(table["n"].iloc[0]), "mean": mean, "share": share}
