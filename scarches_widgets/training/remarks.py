"""What a course of losses says, in plain words: not a number, over-fitting, flat, patience, a lower learning rate.

Rules of thumb, each with the numbers that it rests on, so that readers can look for themselves. Losses fluctuate from
epoch to epoch; so medians of several epochs are compared, and a rise or fall counts against the whole fall so far.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

FEWEST = 8  # epochs before anything is said of a trend
FLAT = 0.005  # share of the whole fall that counts as none
RISE = 0.03  # share of the whole fall that counts as a rise of the held-out loss
STEADY = 3  # epochs of an unchanged learning rate after which a lower one is a drop, not a schedule


class Remark(NamedTuple):
    """One thing that a course of losses says."""

    level: str  # "error", "warning" or "note"
    kind: str  # short and stable: "nan", "diverging", "overfitting", "plateau", "patience", "learning-rate"
    epoch: int  # where it shows
    text: str
    mend: str = ""


def remarks_on(
    epochs: Sequence[int],
    train: Sequence[float],
    held_out: Sequence[float] | None = None,
    learning_rate: Sequence[float] = (),
    n_without_improvement: int = 0,
    patience: int | None = None,
) -> list[Remark]:
    """What the losses of a run say, gravest first.

    Parameters
    ----------
    epochs
        Their numbers.
    train, held_out
        The loss per epoch, on training cells and on cells held out; any unit.
    learning_rate
        Per epoch.
    n_without_improvement, patience
        Epochs since the best one as early stopping counts them, and how many it allows.
    """
    epochs, train = np.asarray(epochs), np.asarray(train, dtype=float)
    held_out = None if held_out is None else np.asarray(held_out, dtype=float)
    found = [
        *_not_numbers(epochs, train, held_out),
        *_trends(epochs, train, held_out),
        *_patience(epochs, n_without_improvement, patience),
        *_lower_rates(epochs, np.asarray(learning_rate, dtype=float)),
    ]
    return sorted(found, key=lambda one: ("error", "warning", "note").index(one.level))


def _not_numbers(epochs: np.ndarray, train: np.ndarray, held_out: np.ndarray | None) -> Iterator[Remark]:
    for values, where in ((train, "training"), (held_out, "held-out")):
        if values is None or np.isfinite(values).all():
            continue
        finite = np.flatnonzero(np.isfinite(values))
        wrong = np.flatnonzero(~np.isfinite(values))
        if where == "held-out" and len(values) - 1 - finite.max(initial=-1) <= np.diff(finite).max(initial=1) - 1:
            continue  # measured every few epochs only
        at = int(epochs[wrong[0]])
        yield Remark(
            "error",
            "nan",
            at,
            f"The loss on {where} cells is not a number in epoch {at:,}.",
            "Take a lower learning rate, and look for cells without counts or with extreme values.",
        )
        return


def _trends(epochs: np.ndarray, train: np.ndarray, held_out: np.ndarray | None) -> Iterator[Remark]:
    measured = np.flatnonzero(np.isfinite(held_out)) if held_out is not None else np.zeros(0, dtype=int)
    values = held_out[measured] if len(measured) else train[np.isfinite(train)]
    at = epochs[measured] if len(measured) else epochs[np.isfinite(train)]
    of = "held-out loss" if len(measured) else "training loss"
    if len(values) < FEWEST:
        return
    n = max(3, len(values) // 8)  # epochs at the end that are looked at together
    now, start, low = np.median(values[-n:]), np.median(values[:2]), values.min()
    fall = start - low
    if now > start + RISE * abs(start):
        text = f"The {of} is higher than at the start ({start:,.5g} → {now:,.5g})."
        yield Remark("warning", "diverging", int(at[-1]), text, "Take a lower learning rate.")
        return
    best = int(values.argmin())
    if len(measured) and len(values) - best > n and now - low > RISE * fall:
        then, last = train[measured[best]], np.median(train[measured[-n:]])
        if last < then:
            text = (
                f"Since epoch {at[best]:,} the held-out loss has risen ({low:,.5g} → {now:,.5g}) while the training "
                f"loss still falls ({then:,.5g} → {last:,.5g}): the model begins to learn its training cells by heart."
            )
            mend = "Stop and keep the best epoch (early_stopping=True does both); more dropout or fewer units help too."
            yield Remark("warning", "overfitting", int(at[best]), text, mend)
            return
    before = np.median(values[-2 * n : -n])
    if fall > 0 and abs(before - now) < FLAT * fall and len(values) > 3 * n:
        text = f"The {of} has hardly changed in the last {2 * n:,} measured epochs ({before:,.5g} → {now:,.5g})."
        yield Remark("note", "plateau", int(at[-2 * n]), text, "Further epochs will change little.")


def _patience(epochs: np.ndarray, n_without_improvement: int, patience: int | None) -> Iterator[Remark]:
    if patience and 2 * n_without_improvement >= patience and len(epochs):
        text = f"No improvement for {n_without_improvement:,} of the {patience:,} epochs that early stopping allows."
        yield Remark("note", "patience", int(epochs[-1]), text)


def _lower_rates(epochs: np.ndarray, rates: np.ndarray) -> Iterator[Remark]:
    for i in range(STEADY, len(rates)):
        before = rates[i - STEADY : i]
        if rates[i] < 0.9 * before[-1] and (before == before[-1]).all():
            text = f"From epoch {epochs[i]:,} on the learning rate is lower ({before[-1]:.3g} → {rates[i]:.3g})."
            yield Remark("note", "learning-rate", int(epochs[i]), text)
