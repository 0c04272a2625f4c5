"""What a training plan says: how many epochs, which learning rate, how fast the KL term comes in."""

import numpy as np
import pytest
import torch

from scarches_widgets.models.scpoli import ScPoliPlan
from scarches_widgets.training.adam import BETAS
from scarches_widgets.training.options import typed
from scarches_widgets.training.plan import BriskPlan, MappablePlan, TrainingPlan


def plan(**options) -> TrainingPlan:
    return typed(TrainingPlan, options, of="train()")


def rates(plan: TrainingPlan, n_steps: int) -> np.ndarray:
    return np.array([plan.learning_rate(step, n_steps) for step in range(n_steps)])


# Epochs


@pytest.mark.parametrize(
    ("n_cells", "expected"),
    [(2, 400), (20_000, 400), (20_001, 400), (20_100, 398), (40_000, 200), (1_000_000, 8), (10_000_000, 1), (10**9, 1)],
)
def test_published_epochs_shrink_with_the_number_of_cells_from_400_to_1(n_cells, expected):
    n_train = int(np.ceil(0.9 * n_cells))
    assert plan(schedule="published").resolved(n_train, n_cells - n_train).max_epochs == expected
    assert expected == np.clip(np.round(20_000 / n_cells * 400), 1, 400)  # scvi-tools' heuristic, over all cells


@pytest.mark.parametrize(
    ("n_train", "batch_size", "expected"),
    [(128 * 10, 128, 100), (128 * 20, 128, 50), (128 * 20, 256, 100), (128 * 10_000, 128, 8), (100, 128, 400)],
)
def test_automatic_epochs_give_about_1000_steps_but_at_least_8_and_at_most_400_epochs(n_train, batch_size, expected):
    assert plan(batch_size=batch_size).resolved(n_train).max_epochs == expected


@pytest.mark.parametrize(("n_train", "expected"), [(12_800, 10), (1280, 100), (1000, 100), (800, 112), (640, 140)])
def test_what_is_to_be_mapped_onto_learns_few_cells_in_100_epochs_or_700_steps(n_train, expected):
    assert typed(MappablePlan, {}, of="train()").resolved(n_train).max_epochs == expected


def test_the_brisk_pace_takes_600_steps_at_a_higher_rate_and_has_none_in_surgery():
    brisk = typed(BriskPlan, {}, of="train()")
    reference, query = brisk.resolved(128 * 20), brisk.resolved(128 * 20, of_query=True)
    assert (reference.max_epochs, reference.lr) == (30, 0.0175)
    assert (query.max_epochs, query.lr) == (20, 0.01)
    assert reference.kl_weight_at(step=315, steps_per_epoch=30) == pytest.approx(0.5), "at 35 % of 900 steps"
    published = typed(BriskPlan, {"schedule": "published"}, of="train()").resolved(1000)
    assert (published.max_epochs, published.lr, published.kl_weight_at(300, 3)) == (400, 1e-3, 0.25)


@pytest.mark.parametrize(
    ("n_train", "epochs", "lr"),
    [(12_800, 8, 1e-2), (896, 100, 1e-2), (640, 100, 6.5e-3), (384, 100, 3e-3), (192, 200, 3e-3)],
)
def test_scpoli_learns_few_cells_in_fewer_steps_at_a_lower_rate(n_train, epochs, lr):
    resolved = typed(ScPoliPlan, {}, of="train()").resolved(n_train)
    assert (resolved.max_epochs, resolved.lr) == (epochs, pytest.approx(lr))
    assert typed(ScPoliPlan, {}, of="train()").resolved(n_train, of_query=True).lr == 1e-2


def test_a_users_learning_rate_holds_at_either_pace_and_in_surgery():
    for kind in (TrainingPlan, BriskPlan):
        assert {typed(kind, {"lr": 0.5}, of="train()").resolved(1000, of_query=query).lr for query in (0, 1)} == {0.5}


@pytest.mark.parametrize("schedule", ["auto", "published"])
def test_what_the_user_says_is_not_replaced(schedule):
    resolved = plan(schedule=schedule, max_epochs=7, lr=0.123).resolved(1000)
    assert (resolved.max_epochs, resolved.lr) == (7, 0.123)


# Learning rate


@pytest.mark.parametrize(("n_train", "expected"), [(50, 40), (2_738, 19), (100_000, 3)])
def test_a_query_after_surgery_gets_about_400_steps_in_3_to_40_epochs(n_train, expected):
    assert plan().resolved(n_train, of_query=True).max_epochs == expected
    assert plan(max_epochs=7).resolved(n_train, of_query=True).max_epochs == 7
    published = plan(schedule="published")
    assert published.resolved(n_train, of_query=True) == published.resolved(n_train)


@pytest.mark.parametrize("n_steps", [20, 700, 12_345])
def test_one_cycle_rises_over_the_first_15_percent_of_the_steps_and_falls_to_zero(n_steps):
    rate = rates(plan(lr=1.0, max_epochs=1), n_steps)
    top = round(0.15 * n_steps)
    assert rate.argmax() == top
    assert rate[top] == 1.0
    assert rate[0] == pytest.approx(1 / 25)
    assert (np.diff(rate[: top + 1]) > 0).all()
    assert (np.diff(rate[top:]) < 0).all()
    assert 0 < rate[-1] < 0.01


@pytest.mark.parametrize("n_steps", [1, 2, 3, 7])
def test_one_cycle_of_very_few_steps_stays_between_zero_and_its_highest_rate(n_steps):
    rate = rates(plan(lr=1.0, max_epochs=1), n_steps)
    assert ((rate > 0) & (rate <= 1)).all()


def test_the_published_learning_rate_is_constant_at_a_thousandth():
    assert set(rates(plan(schedule="published").resolved(1000), 500)) == {1e-3}


def test_the_published_optimizer_is_adam_with_the_constants_of_scvi_tools():
    weights = [torch.nn.Parameter(torch.zeros(1))]
    optimizer = plan(schedule="published").resolved(1000).optimizer(weights)
    assert (optimizer.lr, optimizer.eps, optimizer.weight_decay, BETAS) == (1e-3, 0.01, 1e-6, (0.9, 0.999))


# KL warm-up


def test_the_automatic_kl_warm_up_takes_90_percent_of_the_steps():
    whole = plan(max_epochs=10).resolved(1000)
    weights = [whole.kl_weight_at(step, steps_per_epoch=10) for step in range(100)]
    assert weights[0] == 0
    assert weights[45] == pytest.approx(0.5)
    assert (np.diff(weights[:91]) > 0).all()
    assert set(weights[90:]) == {1.0}


def test_the_published_kl_warm_up_takes_400_epochs_and_the_first_epoch_has_none():
    published = plan(schedule="published", max_epochs=500).resolved(1000)
    weights = [published.kl_weight_at(step, steps_per_epoch=3) for step in range(1500)]
    assert weights[:3] == [0, 0, 0]
    assert weights[3:6] == [1 / 400] * 3
    assert weights[3 * 399] == pytest.approx(399 / 400)
    assert set(weights[3 * 400 :]) == {1.0}


@pytest.mark.parametrize("schedule", ["auto", "published"])
def test_a_given_kl_warm_up_counts_in_epochs_up_to_the_kl_weight(schedule):
    given = plan(schedule=schedule, max_epochs=10, kl_warmup_epochs=4, kl_weight=0.5)
    assert [given.kl_weight_at(3 * epoch, 3) for epoch in range(6)] == [0, 0.125, 0.25, 0.375, 0.5, 0.5]


@pytest.mark.parametrize("schedule", ["auto", "published"])
def test_no_kl_warm_up_means_the_full_weight_from_the_first_step(schedule):
    none = plan(schedule=schedule, max_epochs=10, kl_warmup_epochs=0).resolved(1000)
    assert none.kl_weight_at(0, 3) == 1


def test_the_plan_says_in_words_what_it_does():
    assert plan().resolved(1280).in_words() == "one cycle: 100 epochs, learning rate up to 0.01"
    assert plan(schedule="published").resolved(80_000).in_words() == (
        "published schedule: 100 epochs, learning rate 0.001"
    )
