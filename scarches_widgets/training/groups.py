"""Cells that belong together: split together, and dealt out in balance."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import pandas as pd
from scipy.sparse import coo_matrix

from ..data.minibatches import Cells, Minibatch
from ..data.receptors import grouped_split
from ..nn.noise import seed_of
from .cells import TrainingCells
from .plan import TrainingPlan


class GroupedCells(TrainingCells):
    """A split that leaves each group on one side, so that validation tells what the model says of groups it has not
    seen; the share of validation cells is at most the plan's.

    Parameters
    ----------
    cells, plan
        As of `TrainingCells`.
    groups
        Of each cell.
    balanced_by
        Of each cell; None: each cell comes once per epoch. Otherwise an epoch is as many draws with replacement, in
        which a cell of a group of n training cells has the weight 1 / log(n / 10 + 1), which is mvTCR's.
    """

    def __init__(
        self, cells: Cells, plan: TrainingPlan, groups: Sequence[object], balanced_by: Sequence[object] | None = None
    ):
        self._groups = np.asarray(groups, dtype=object)
        super().__init__(cells, plan)
        self._shares = None if balanced_by is None else balanced_shares(np.asarray(balanced_by)[self.train_rows])

    def _split(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        rng = np.random.default_rng(seed_of(self._plan.seed, "split", 1))
        kept, drawn = grouped_split(self._groups[rows], 1 - self._plan.train_size, rng)
        return rows[kept], rows[drawn]

    def train(self, epoch: int, first_step: int = 0) -> Iterator[Minibatch]:
        if self._shares is None:
            return super().train(epoch, first_step)
        rng = np.random.default_rng(seed_of(self._plan.seed, "order", epoch))
        rows = rng.choice(self.train_rows, self.n_train, p=self._shares)
        return self._cells.minibatches(rows, self._plan.batch_size, first_step)


def balanced_shares(groups: Sequence[object]) -> np.ndarray:
    """How often each cell is drawn, float64 (cells,), in sum 1: less often, the larger its group is."""
    codes, _ = pd.factorize(np.asarray(groups, dtype=object), use_na_sentinel=False)
    weights = 1 / np.log1p(np.bincount(codes)[codes] / 10)
    return weights / weights.sum()


def connected_groups(a: Sequence[object], b: Sequence[object]) -> np.ndarray:
    """The finest groups that neither `a` nor `b` cuts, int (cells,): cells of one `a` or of one `b` share one."""
    from scipy.sparse.csgraph import connected_components

    of_a, of_b = (pd.factorize(np.asarray(names, dtype=object), use_na_sentinel=False)[0] for names in (a, b))
    n_a, n = of_a.max(initial=-1) + 1, of_a.max(initial=-1) + of_b.max(initial=-1) + 2
    _, groups = connected_components(coo_matrix((np.ones(len(of_a)), (of_a, n_a + of_b)), shape=(n, n)), directed=False)
    return groups[of_a]
