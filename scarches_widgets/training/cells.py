"""The cells of a run: which train, which validate, and in which order each epoch deals them out."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np

from ..data.minibatches import Cells, Minibatch, Part, rows_per_read, step_bounds
from ..nn.noise import seed_of
from .plan import TrainingPlan

NOTED_STEPS, FEW_SEEN = 200, 0.7  # steps that are looked at; share of the batches that a good shuffle would show


class TrainingCells:
    """A split of `cells` into training and validation, by the plan's seed.

    With `labels`, there are two streams: beside the cells of each step (all cells, in the order of the epoch) stand
    `minibatch.labelled` ones, and labelled and unlabelled cells are split apart, each by `train_size`. An epoch is as
    long as the stream of all cells; the other one starts anew, in another order, as often as it takes. Which cells a
    step gets is a function of the seed, the epoch and the step, in both.

    Parameters
    ----------
    cells, plan
        What to deal out, and by which seed, share and minibatch size.
    labels
        Code of each cell's label, int (cells,), −1 = unlabelled; None for one stream.
    n_samples_per_label
        At most so many cells of each label are in an epoch's stream of labelled ones, other ones in each epoch; None
        for all.

    Raises
    ------
    ValueError
        If fewer than two cells are left to train on.
    """

    def __init__(
        self,
        cells: Cells,
        plan: TrainingPlan,
        labels: np.ndarray | None = None,
        n_samples_per_label: int | None = None,
    ):
        self._cells = cells
        self._plan = plan
        self._part: Part | None = None
        self._labels = np.full(cells.n_cells, -1) if labels is None else labels
        self._n_samples_per_label = n_samples_per_label
        order = np.random.default_rng(seed_of(plan.seed, "split")).permutation(cells.n_cells)
        is_labelled = self._labels[order] >= 0
        parts = [self._split(rows) for rows in (order[is_labelled], order[~is_labelled])]
        self.train_rows, self.validation_rows = (np.sort(np.concatenate(rows)) for rows in zip(*parts))
        if self.n_train < 2:
            raise ValueError(
                f"Training needs at least 2 cells, and there are {self.n_train} (train_size={plan.train_size:g} of "
                f"{cells.n_cells}). Give more cells or a larger train_size."
            )

    def _split(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        n_train = math.ceil(self._plan.train_size * len(rows))
        return rows[:n_train], rows[n_train:]

    def divide(self, part: Part) -> None:
        """From now on, deal out this part of every minibatch; other processes have the others.

        Raises
        ------
        ValueError
            If there are fewer labelled cells beside a step than parts.
        """
        self._part = part
        for rows in (self.train_rows, self.validation_rows):
            n_labelled = len(self._labelled(rows))
            if 0 < min(n_labelled, self._plan.batch_size) < part.size:
                raise ValueError(
                    f"{n_labelled} labelled cells cannot be divided among {part.size} processes. Start fewer."
                )

    @property
    def cell_names(self) -> Sequence[object]:
        """Of all cells."""
        return self._cells.names

    def sample(self, n: int) -> Iterator[bytes]:
        """What is known of `n` cells, evenly spread: for comparisons."""
        rows = np.unique(np.linspace(0, self._cells.n_cells - 1, n).astype(np.int64))
        for minibatch in self._cells.minibatches(rows, n):
            for values in (minibatch.counts, minibatch.labels, minibatch.proteins, *minibatch.categories.values()):
                if values is not None:
                    yield values.numpy().tobytes()

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
        order = self._order(epoch)
        rng = np.random.default_rng(seed_of(self._plan.seed, "labels", epoch))
        labelled = self._labelled(self.train_rows)
        if self._n_samples_per_label is not None:
            labelled = at_most(self._n_samples_per_label, rng.permutation(labelled), self._labels)
        return self._dealt(order, labelled, rng, first_step)

    def _order(self, epoch: int) -> np.ndarray:
        """The training cells, shuffled; by blocks if the plan says so, which a file is read by ten times as fast.

        Blocks of neighbours are shuffled, and then the cells of as many blocks as are read at a time.
        """
        rng = np.random.default_rng(seed_of(self._plan.seed, "order", epoch))
        block = self._plan.shuffle_block
        if block is None:
            return rng.permutation(self.train_rows)
        blocks = np.split(self.train_rows, np.arange(block, self.n_train, block))
        order = np.concatenate([blocks[i] for i in rng.permutation(len(blocks))])
        read_at_once = rows_per_read(self._plan.batch_size)
        for start in range(0, self.n_train, read_at_once):
            rng.shuffle(order[start : start + read_at_once])
        return order

    def shuffling_note(self) -> str | None:
        """What must be said if minibatches, for the order of the cells in a file, see few of the batches."""
        block = self._plan.shuffle_block
        if block is None:
            return None
        codes = self._cells.batch_codes
        steps = step_bounds(self.n_train, self._plan.batch_size)

        def seen(order: np.ndarray) -> float:
            return float(np.mean([len(np.unique(codes[order[start:stop]])) for start, stop in steps[:NOTED_STEPS]]))

        ideal_order = np.random.default_rng(seed_of(self._plan.seed, "order", 0)).permutation(self.train_rows)
        sees, would_see = seen(self._order(0)), seen(ideal_order)
        if sees > FEW_SEEN * would_see:
            return None
        return (
            f"The cells are shuffled in blocks of {block:,}, and the file is sorted by batch: a minibatch sees "
            f"{sees:.1f} of {len(np.unique(codes))} batches, where it would see {would_see:.1f} if each cell were "
            "shuffled, so training may be unsteady. Pass a smaller shuffle_block, or write the cells in random order "
            "once: adata[numpy.random.default_rng(0).permutation(adata.n_obs)].copy().write_h5ad(…)."
        )

    def validation(self) -> Iterator[Minibatch]:
        """The validation cells, always in the same order."""
        rng = np.random.default_rng(seed_of(self._plan.seed, "labels"))
        return self._dealt(self.validation_rows, self._labelled(self.validation_rows), rng, 0)

    def _labelled(self, rows: np.ndarray) -> np.ndarray:
        return rows[self._labels[rows] >= 0]

    def _dealt(
        self, rows: np.ndarray, labelled: np.ndarray, rng: np.random.Generator, first_step: int
    ) -> Iterator[Minibatch]:
        batch_size = self._plan.batch_size
        steps = step_bounds(len(rows), batch_size)
        n_steps, divided = len(steps), {}
        if self._part is not None:  # a last step of fewer cells than parts is everybody's
            is_short = bool(steps) and steps[-1][1] - steps[-1][0] < self._part.size
            divided = {"part": self._part, "whole_from": n_steps - 1 if is_short else None}
        minibatches = self._cells.minibatches(rows, batch_size, first_step, **divided)
        if not len(labelled):
            return minibatches
        size = max(2, min(batch_size, len(labelled)))  # batch normalisation takes no single cell
        rounds = [rng.permutation(labelled) for _ in range(math.ceil(n_steps * size / len(labelled)))]
        beside = self._cells.minibatches(np.concatenate(rounds)[: n_steps * size], size, first_step, **divided)
        return (replace(cells, labelled=others) for cells, others in zip(minibatches, beside))

    def names(self, rows: np.ndarray) -> list[str]:
        """What the AnnData calls these cells."""
        return [str(name) for name in self._cells.names[rows]]


def at_most(n: int, rows: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """The first `n` of `rows` of each label, in their order."""
    by_label = np.argsort(labels[rows], kind="stable")
    codes = labels[rows][by_label]
    rank = np.arange(len(rows)) - np.searchsorted(codes, codes)  # of a row among those of its label
    return rows[np.sort(by_label[rank < n])]
