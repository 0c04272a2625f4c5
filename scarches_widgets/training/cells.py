"""The cells of a run: which train, which validate, and in which order each epoch deals them out."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from ..data.minibatches import Cells, Minibatch, step_bounds
from ..nn.noise import seed_of
from .plan import TrainingPlan


class TrainingCells:
    """A split of `cells` into training and validation, by the plan's seed.

    Raises
    ------
    ValueError
        If fewer than two cells are left to train on.
    """

    def __init__(self, cells: Cells, plan: TrainingPlan):
        self._cells = cells
        self._plan = plan
        n_train = math.ceil(plan.train_size * cells.n_cells)
        order = np.random.default_rng(seed_of(plan.seed, "split")).permutation(cells.n_cells)
        self.train_rows, self.validation_rows = np.sort(order[:n_train]), np.sort(order[n_train:])
        if n_train < 2:
            raise ValueError(
                f"Training needs at least 2 cells, and there are {n_train} (train_size={plan.train_size:g} of "
                f"{cells.n_cells}). Give more cells or a larger train_size."
            )

    @property
    def n_train(self) -> int:
        return len(self.train_rows)

    @property
    def n_validation(self) -> int:
        return len(self.validation_rows)

    @property
    def steps_per_epoch(self) -> int:
        return len(step_bounds(self.n_train, self._plan.batch_size))

    def train(self, epoch: int, first_step: int = 0) -> Iterator[Minibatch]:
        """The training cells in the order of `epoch`, from minibatch `first_step` on."""
        order = np.random.default_rng(seed_of(self._plan.seed, "order", epoch)).permutation(self.train_rows)
        return self._cells.minibatches(order, self._plan.batch_size, first_step)

    def validation(self) -> Iterator[Minibatch]:
        """The validation cells, always in the same order."""
        return self._cells.minibatches(self.validation_rows, self._plan.batch_size)

    def names(self, rows: np.ndarray) -> list[str]:
        """What the AnnData calls these cells."""
        return [str(name) for name in self._cells.names[rows]]
