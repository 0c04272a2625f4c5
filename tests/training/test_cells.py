"""Which cells a step gets: two streams, each a function of the seed, the epoch and the step."""

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scarches_widgets.data.minibatches import Cells
from scarches_widgets.data.schema import DataSchema
from scarches_widgets.training.cells import TrainingCells, at_most
from scarches_widgets.training.plan import TrainingPlan

LABELS = np.array([-1] * 60 + [0] * 25 + [1] * 12 + [2] * 3)


@pytest.fixture(scope="module")
def cells():
    X = np.random.default_rng(0).poisson(1.0, (100, 5)).astype(np.float32)
    names = np.array(["Unknown", "A", "B", "C"])[LABELS + 1]
    adata = ad.AnnData(X, obs=pd.DataFrame({"label": names}, index=[f"c{i}" for i in range(100)]))
    return Cells(adata, DataSchema.of(adata, labels_key="label", unlabeled_category="Unknown"))


def dealt(training, epoch, first_step=0):
    return [
        (cells.rows.tolist(), None if cells.labelled is None else cells.labelled.rows.tolist())
        for cells in training.train(epoch, first_step)
    ]


def test_without_labels_there_is_one_stream(cells):
    training = TrainingCells(cells, TrainingPlan(batch_size=16))
    assert all(labelled is None for _, labelled in dealt(training, 0))


def test_every_step_has_all_kinds_of_cells_and_labelled_ones_beside(cells):
    training = TrainingCells(cells, TrainingPlan(batch_size=16), LABELS)
    steps = dealt(training, 0)
    assert len(steps) == training.steps_per_epoch == 6
    assert sorted(row for rows, _ in steps for row in rows) == training.train_rows.tolist()
    beside = [row for _, rows in steps for row in rows]
    assert (LABELS[beside] >= 0).all() and set(beside) <= set(training.train_rows)
    n_labelled = (LABELS[training.train_rows] >= 0).sum()
    counts = np.bincount(beside, minlength=100)[training.train_rows[LABELS[training.train_rows] >= 0]]
    assert len(beside) == 6 * 16 and counts.min() >= 96 // n_labelled and counts.max() <= -(-96 // n_labelled)
    minibatch = next(training.train(0))
    np.testing.assert_array_equal(minibatch.labelled.labels.numpy(), LABELS[minibatch.labelled.rows])
    np.testing.assert_array_equal(minibatch.labelled.counts.sum(1, keepdim=True), minibatch.labelled.library_size)


@pytest.mark.parametrize("n_samples_per_label", [None, 5])
def test_an_epoch_taken_up_in_the_middle_deals_out_what_it_would_have(cells, n_samples_per_label):
    training = TrainingCells(cells, TrainingPlan(batch_size=16), LABELS, n_samples_per_label)
    whole = dealt(training, 3)
    for first in range(1, 6):
        assert dealt(training, 3, first) == whole[first:]
    assert dealt(training, 4) != whole
    again = TrainingCells(cells, TrainingPlan(batch_size=16), LABELS, n_samples_per_label)
    assert dealt(again, 3) == whole


def test_labelled_and_unlabelled_cells_are_split_apart(cells):
    for seed in range(5):
        training = TrainingCells(cells, TrainingPlan(seed=seed, train_size=0.8), LABELS)
        assert (LABELS[training.train_rows] >= 0).sum() == 32 and training.n_train == 80
        assert set(training.train_rows).isdisjoint(training.validation_rows)
        assert training.n_train + training.n_validation == 100
    for minibatch in training.validation():
        assert set(minibatch.labelled.rows) <= set(training.validation_rows)


def test_at_most_so_many_cells_of_each_label_are_in_an_epoch_and_others_in_the_next(cells):
    training = TrainingCells(cells, TrainingPlan(batch_size=8), LABELS, n_samples_per_label=5)
    epochs = []
    for epoch in range(2):
        beside = {row for _, rows in dealt(training, epoch) for row in rows}
        by_label = np.bincount(LABELS[list(beside)], minlength=3)
        assert by_label[:2].tolist() == [5, 5] and 1 <= by_label[2] <= 3
        epochs.append(beside)
    assert epochs[0] != epochs[1]


def test_a_single_labelled_cell_is_dealt_out_twice_a_step(cells):  # batch normalisation takes no variance of one
    labels = np.where(np.arange(100) == 70, 0, -1)
    training = TrainingCells(cells, TrainingPlan(batch_size=16), labels)
    assert all(rows == [70, 70] for _, rows in dealt(training, 0))


@settings(deadline=None)
@given(st.lists(st.integers(0, 4), max_size=60), st.integers(1, 6), st.integers(0, 2**32))
def test_the_first_so_many_of_each_label_are_kept_in_their_order(labels, n, seed):
    labels = np.array(labels, dtype=int)
    rows = np.random.default_rng(seed).permutation(len(labels))
    kept = at_most(n, rows, labels)
    seen, expected = {}, []
    for row in rows:
        seen[labels[row]] = seen.get(labels[row], 0) + 1
        if seen[labels[row]] <= n:
            expected.append(row)
    np.testing.assert_array_equal(kept, np.array(expected, dtype=int))
