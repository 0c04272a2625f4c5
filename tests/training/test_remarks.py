"""What a course of losses says in plain words: each of the things looked for is found, and nothing in a good course."""

import numpy as np
import pytest

from scarches_widgets.training.remarks import remarks_on

N = 60
epochs = np.arange(N)
noise = np.random.default_rng(0).normal(0, 0.2, N)
falling = 100 * np.exp(-epochs / 15) + 50
GOOD = {"train": falling + noise, "held_out": falling * 1.02 + noise[::-1]}


def kinds(**course):
    return [one.kind for one in remarks_on(epochs[: len(course["train"])], **course)]


def test_of_a_run_that_goes_well_nothing_is_said():
    assert kinds(**GOOD) == []
    assert kinds(train=GOOD["train"][:5]) == [], "of few epochs neither"


def test_a_loss_that_is_not_a_number_is_an_error_with_its_epoch():
    train = falling.copy()
    train[40:] = np.nan
    first = remarks_on(epochs, train, falling)[0]
    assert (first.level, first.kind, first.epoch) == ("error", "nan", 40)
    assert "epoch 40" in first.text and "lower learning rate" in first.mend


def test_cells_held_out_that_are_measured_every_fifth_epoch_are_no_fault():
    held_out = np.where(epochs % 5 == 0, falling, np.nan)
    assert kinds(train=falling, held_out=held_out) == []


def test_a_held_out_loss_that_rises_while_training_falls_is_over_fitting_since_its_best_epoch():
    held_out = falling + np.clip(epochs - 25, 0, None) * 2.5
    best = int(held_out.argmin())
    [remark] = remarks_on(epochs, falling, held_out)
    assert (remark.level, remark.kind, remark.epoch) == ("warning", "overfitting", best)
    assert f"Since epoch {best}" in remark.text and "by heart" in remark.text


def test_a_loss_above_its_start_diverges():
    assert kinds(train=falling[::-1], held_out=falling[::-1]) == ["diverging"]


def test_a_flat_end_is_a_plateau():
    flat = np.where(epochs < 20, falling, falling[20]) + noise / 10
    [remark] = remarks_on(epochs, flat, flat)
    assert (remark.level, remark.kind) == ("note", "plateau") and "hardly changed" in remark.text


@pytest.mark.parametrize(("since", "said"), [(4, False), (5, True), (10, True)])
def test_half_of_the_patience_is_told(since, said):
    assert ("patience" in kinds(**GOOD, n_without_improvement=since, patience=10)) is said


def test_a_learning_rate_that_drops_is_told_and_one_that_follows_a_schedule_is_not():
    dropped = np.where(epochs < 30, 1e-2, 1e-3)
    [remark] = remarks_on(epochs, **GOOD, learning_rate=dropped)
    assert (remark.kind, remark.epoch) == ("learning-rate", 30) and "0.01 → 0.001" in remark.text
    assert kinds(**GOOD, learning_rate=np.cos(epochs / N * 1.5)) == []
    assert kinds(**GOOD, learning_rate=np.full(N, np.nan)) == []
