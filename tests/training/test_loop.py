"""The training loop: its events, its bits, its best weights, and what it does when the loss is NaN."""

import itertools
import json
import math
import random

import numpy as np
import pytest
import torch
from small import QUICK, SMALL, fingerprint
from tiny_runs import Toy, bits, counts, of_kind, prepared, toy_events, trained_toy, validation_loss

import scarches_widgets as sca
from scarches_widgets.training.events import EpochEnded, StepEnded, Warned
from scarches_widgets.training.loop import NonFiniteLoss, training_events

STALLED = 1e9  # nats by which no epoch improves


def scvi(adata, **options):
    return sca.models.SCVI(adata, batch_key="batch", **{**SMALL, **options})


# Events and history


def test_events_come_in_order():
    _, events = trained_toy(counts(30), max_epochs=2, batch_size=8)  # 27 cells to train on: 4 steps
    epoch = ["StepEnded"] * 4 + ["EpochEnded"]
    assert [event.as_dict()["event"] for event in events] == ["RunStarted", *epoch, *epoch, "RunEnded"]
    assert [(e.epoch, e.step) for e in of_kind(StepEnded, events)] == [(e, s) for e in (0, 1) for s in range(4)]
    assert [e.epoch for e in of_kind(EpochEnded, events)] == [0, 1]
    started, ended = events[0], events[-1]
    assert (started.n_train, started.n_validation, started.steps_per_epoch, started.max_epochs) == (27, 3, 4, 2)
    assert (ended.status, ended.n_epochs, ended.best_epoch) == ("done", 2, None)


def test_events_are_plain_numbers_that_json_takes_and_gives_back(tmp_path):
    _, events = trained_toy(folder=tmp_path, early_stopping=True)
    for event in events:
        told = event.as_dict()
        assert json.loads(json.dumps(told, allow_nan=False)) == told


def test_the_history_has_one_row_per_epoch_and_one_column_per_named_term(reference_cells):
    model = scvi(reference_cells)
    model.train(**QUICK)
    history = model.history
    assert list(history.index) == [0, 1]
    terms = ["reconstruction", "kl_latent", "loss", "unweighted_loss"]
    columns = [f"{part}_{term}" for part in ("train", "val") for term in terms]
    assert list(history.columns) == [*columns, "learning_rate", "kl_weight", "seconds"]
    assert np.isfinite(history.to_numpy()).all()
    for part in ("train", "val"):
        reconstruction, kl, loss, unweighted = (history[f"{part}_{term}"] for term in terms)
        np.testing.assert_allclose(unweighted, reconstruction + kl)
        if part == "val":  # at one KL weight, that of the epoch's last step
            np.testing.assert_allclose(loss, reconstruction + history["kl_weight"] * kl, rtol=1e-6)


def test_an_epochs_losses_are_means_over_its_cells():
    adata = counts(20)  # 18 to train on: minibatches of 8, 8 and 2
    _, events = trained_toy(adata, max_epochs=1)
    (epoch,), steps = of_kind(EpochEnded, events), of_kind(StepEnded, events)
    assert epoch.train["loss"] == pytest.approx(np.average([step.loss for step in steps], weights=[8, 8, 2]))


def test_validation_sees_the_same_cells_under_the_same_noise_in_every_epoch():
    module = Toy()
    module.norm.momentum = 0  # this, and a tiny learning rate: nothing is learned
    epochs = of_kind(EpochEnded, toy_events(module, lr=1e-30, weight_decay=0, kl_warmup_epochs=0))
    assert epochs[0].validation == epochs[1].validation == epochs[2].validation
    assert epochs[0].train != epochs[1].train


# Bits


def test_each_step_of_a_run_draws_noise_of_its_own_and_the_same_in_each_run():
    def seeds(**options):
        found = []
        module = Toy()
        module.before_loss = lambda cells: found.append(cells.noise.generator.initial_seed())
        list(toy_events(module, train_size=0.8, max_epochs=2, **options))
        return found

    first = seeds()  # per epoch: 3 steps, and one minibatch of validation cells that always sees the same noise
    assert len(set(first)) == 3 + 3 + 1
    assert first[3] == first[7]
    assert first == seeds()
    assert not set(first) & set(seeds(seed=1))


def test_the_same_seed_gives_the_same_bits_and_another_seed_gives_others(reference_cells):
    def result(seed=0, weights=0):
        model = scvi(reference_cells, seed=weights)
        model.train(**QUICK, seed=seed)
        return fingerprint(model), model.history.drop(columns="seconds")

    (first, history), (second, same_history) = result(), result()
    assert first == second
    assert history.equals(same_history)
    assert first != result(seed=1)[0]
    assert first != result(weights=1)[0]


def test_two_runs_at_once_on_two_threads_give_the_bits_of_one(reference_cells):
    options = {**QUICK, "max_epochs": 8}
    alone, *both = (scvi(reference_cells, dropout_rate=0.3) for _ in range(3))
    alone.train(**options)
    runs = [model.train(**options, background=True) for model in both]
    assert [run.wait(60) for run in runs] == ["done", "done"]
    assert fingerprint(alone) == fingerprint(both[0]) == fingerprint(both[1])


def test_the_processs_random_generators_are_neither_moved_nor_read(reference_cells):
    def everything():
        model = scvi(reference_cells, dropout_rate=0.3)
        model.train(**QUICK)
        return model.get_latent_representation()

    before = torch.get_rng_state(), np.random.get_state()[1].tobytes(), np.random.get_state()[2], random.getstate()  # noqa: NPY002
    first = everything()
    after = torch.get_rng_state(), np.random.get_state()[1].tobytes(), np.random.get_state()[2], random.getstate()  # noqa: NPY002
    assert torch.equal(before[0], after[0])
    assert before[1:] == after[1:]
    torch.rand(1), np.random.rand(), random.random()  # noqa: NPY002
    np.testing.assert_array_equal(everything(), first)


def test_training_works_where_the_user_has_switched_gradients_off(reference_cells):
    expected = scvi(reference_cells)
    expected.train(**QUICK)
    torch.set_grad_enabled(False)
    try:
        model = scvi(reference_cells)
        model.train(**QUICK)
        assert not torch.is_grad_enabled()
    finally:
        torch.set_grad_enabled(True)
    assert fingerprint(model) == fingerprint(expected)


def test_training_works_where_the_user_has_set_float64_as_default(reference_cells):
    expected = scvi(reference_cells)
    expected.train(**QUICK)
    torch.set_default_dtype(torch.float64)
    try:
        model = scvi(reference_cells)
        model.train(**QUICK)
        latents = model.get_latent_representation()
        assert torch.get_default_dtype() == torch.float64
    finally:
        torch.set_default_dtype(torch.float32)
    assert latents.dtype == np.float32
    assert {weight.dtype for weight in model.module.parameters()} == {torch.float32}
    np.testing.assert_allclose(latents, expected.get_latent_representation(), atol=1e-3)


def test_the_users_anndata_is_not_changed(reference_cells):
    before = reference_cells.copy()
    model = scvi(reference_cells)
    model.train(**QUICK)
    model.get_latent_representation()
    assert (reference_cells.X != before.X).nnz == 0
    assert reference_cells.obs.equals(before.obs)
    assert (list(reference_cells.uns), list(reference_cells.obsm)) == (list(before.uns), list(before.obsm))


# Early stopping and the best weights


def overfitted(**options):
    """A run that gets worse on other cells, and has stopped for it."""
    options = {"max_epochs": 60, "schedule": "published", "lr": 0.3, "early_stopping": True, **options}
    module = Toy()
    last = {}
    events = []
    cells, plan = prepared(counts(30), early_stopping_kwargs={"patience": 4}, **options)
    for event in training_events(module, cells, plan):
        events.append(event)
        if isinstance(event, EpochEnded):
            last = bits(module)
    return module, events, last, cells, plan


def test_after_early_stopping_the_model_has_the_weights_of_its_best_epoch():  # trap T13
    module, events, last, cells, plan = overfitted()
    losses = [epoch.validation["unweighted_loss"] for epoch in of_kind(EpochEnded, events)]
    best = int(np.argmin(losses))
    assert events[-1].best_epoch == best
    assert len(losses) == best + 1 + 4 < 60
    assert validation_loss(module, cells, plan) == pytest.approx(losses[best], rel=1e-6)
    assert validation_loss(module, cells, plan) < losses[-1]
    assert bits(module) != last


def test_the_best_weights_come_back_when_the_run_is_stopped_by_hand_too():
    module = Toy()
    cells, plan = prepared(counts(30), max_epochs=60, schedule="published", lr=0.3, early_stopping=True)
    events = training_events(module, cells, plan)
    losses = []
    for event in events:
        if isinstance(event, EpochEnded):
            losses.append(event.validation["unweighted_loss"])
            if len(losses) > 1 and losses[-1] > min(losses):
                break
    events.close()
    assert validation_loss(module, cells, plan) == pytest.approx(min(losses), rel=1e-6)


def test_without_early_stopping_the_model_keeps_its_last_weights():
    module, events, last, *_ = overfitted(early_stopping=False, max_epochs=12)
    assert bits(module) == last
    assert events[-1].best_epoch is None
    assert len(of_kind(EpochEnded, events)) == 12


def test_the_marked_epochs_are_those_that_were_the_best_so_far():
    epochs = of_kind(EpochEnded, overfitted()[1])
    losses = [epoch.validation["unweighted_loss"] for epoch in epochs]
    best = [int(np.argmin(losses[: i + 1])) for i in range(len(losses))]
    assert [epoch.is_best for epoch in epochs] == [best[i] == i for i in range(len(losses))]
    assert [epoch.n_without_improvement for epoch in epochs] == [i - best[i] for i in range(len(losses))]


@pytest.mark.parametrize(("patience", "warmup_epochs", "n_epochs"), [(1, 0, 2), (3, 0, 4), (2, 3, 5)])
def test_the_run_stops_after_as_many_epochs_without_improvement_as_it_has_patience(patience, warmup_epochs, n_epochs):
    stopping = {"patience": patience, "threshold": STALLED, "warmup_epochs": warmup_epochs}
    _, events = trained_toy(max_epochs=20, early_stopping=True, early_stopping_kwargs=stopping)
    assert len(of_kind(EpochEnded, events)) == n_epochs
    assert events[-1].reason == f"no better val_unweighted_loss in {patience} epochs"


def test_a_module_is_told_of_each_epoch_and_the_best_one_is_sought_anew_once_its_loss_is_another():
    module, told = Toy(), []

    def before_epoch(epoch, cells, plan):
        told.append(epoch)
        return epoch == 2

    module.before_epoch = before_epoch
    module.before_loss = lambda cells: module.outward.bias.data.add_(100 * (told[-1] == 2))  # a higher loss
    ended = of_kind(EpochEnded, toy_events(module, max_epochs=4, early_stopping=True))
    assert told == [0, 1, 2, 3]
    assert ended[2].is_best and ended[2].validation["loss"] > ended[1].validation["loss"]


def test_a_metric_that_should_grow_is_watched_the_other_way_round():
    stopping = {"mode": "max", "metric": "val_reconstruction", "patience": 1}
    _, events = trained_toy(max_epochs=20, lr=0.05, early_stopping=True, early_stopping_kwargs=stopping)
    values = [epoch.validation["reconstruction"] for epoch in of_kind(EpochEnded, events)]
    assert values[-1] < values[-2]
    assert len(values) < 20


def test_without_validation_cells_the_training_loss_is_watched_and_the_user_is_told():
    stopping = {"patience": 1, "threshold": STALLED}
    _, events = trained_toy(max_epochs=9, train_size=1.0, early_stopping=True, early_stopping_kwargs=stopping)
    (warning,) = of_kind(Warned, events)
    assert "train_unweighted_loss instead of val_unweighted_loss: train_size=1" in warning.message
    assert events[-1].reason == "no better train_unweighted_loss in 1 epochs"
    assert {epoch.validation for epoch in of_kind(EpochEnded, events)} == {None}


def test_nobody_is_warned_who_did_not_ask_for_early_stopping():
    assert not of_kind(Warned, trained_toy(train_size=1.0)[1])


@pytest.mark.parametrize("train_size", [0.9, 1.0])
@pytest.mark.parametrize("metric", ["val_recons", "accuracy", "loss"])
def test_a_metric_that_the_run_does_not_have_is_refused_before_the_first_step(metric, train_size):
    module = Toy()
    before = bits(module)
    events = toy_events(module, early_stopping=True, early_stopping_kwargs={"metric": metric}, train_size=train_size)
    with pytest.raises(ValueError, match=f"'{metric}', which this run does not have.* It has: .*train_reconstruction"):
        next(events)
    assert bits(module) == before


# Few cells


@pytest.mark.parametrize("train_size", [0.9, 1.0])
@pytest.mark.parametrize("batch_size", [2, 3, 8])
def test_any_number_of_cells_from_2_to_40_trains_under_batch_normalisation(batch_size, train_size):
    for n_cells in range(2, 41):  # among them all that leave a tail of one cell
        _, events = trained_toy(counts(n_cells), max_epochs=1, batch_size=batch_size, train_size=train_size)
        assert events[-1].status == "done"
        assert math.isfinite(events[-2].train["loss"])


@pytest.mark.parametrize("n_cells", [2, 3, 9, 10, 17, 18, 19])
def test_scvi_trains_on_a_handful_of_cells(atlas, n_cells):
    model = sca.models.SCVI(atlas[:n_cells].copy(), **SMALL)
    model.train(max_epochs=2, batch_size=8, progress=False)
    assert np.isfinite(model.get_latent_representation()).all()


# NaN


def poisoned(module: Toy, when) -> None:
    """Make the weights of `module` NaN just before the loss of a minibatch for which `when` holds."""

    def poison(cells):
        if when(cells):
            with torch.no_grad():
                module.outward.bias.fill_(math.nan)

    module.before_loss = poison


def training_step(n: int):
    """Holds at the n-th training step; the first is 0."""
    count = itertools.count()
    return lambda cells: torch.is_grad_enabled() and next(count) == n


@pytest.mark.parametrize("train_size", [0.9, 1.0])
def test_after_a_nan_the_model_has_the_weights_of_the_last_good_epoch(train_size):
    module = Toy()
    poisoned(module, training_step(6))  # 27 or 30 cells to train on, 4 steps an epoch: epoch 1, step 2
    good, seen = {}, []
    with pytest.raises(NonFiniteLoss, match=r"epoch 1, step 2 \(term: reconstruction\)") as raised:
        for event in toy_events(module, train_size=train_size):
            seen.append(event)
            if isinstance(event, EpochEnded):
                good = bits(module)
    assert len(of_kind(EpochEnded, seen)) == 1
    assert bits(module) == good
    assert not module.training
    assert "ran away" in str(raised.value)
    assert "try lr=" in str(raised.value)
    assert "can be used" in str(raised.value)


def test_a_nan_in_the_first_epoch_gives_back_the_weights_from_before():
    module = Toy()
    before = bits(module)
    poisoned(module, training_step(1))
    with pytest.raises(NonFiniteLoss, match="epoch 0, step 1"):
        list(toy_events(module))
    assert bits(module) == before


@pytest.mark.parametrize("train_size", [0.9, 1.0])
@pytest.mark.parametrize("max_epochs", [2, 5])
def test_weights_that_an_epochs_last_step_made_nan_are_not_taken_for_good_ones(train_size, max_epochs):
    module = Toy()
    step = itertools.count()
    module.inward.weight.register_hook(lambda gradient: gradient * (math.nan if next(step) == 7 else 1))
    good = {}
    with pytest.raises(NonFiniteLoss, match="epoch 1, after the last step"):
        for event in toy_events(module, train_size=train_size, max_epochs=max_epochs):
            if isinstance(event, EpochEnded):
                good = bits(module)
    assert bits(module) == good
    assert all(torch.isfinite(weight).all() for weight in module.state_dict().values())


def test_after_a_nan_under_early_stopping_the_model_has_the_weights_of_the_best_epoch():
    module = Toy()
    poisoned(module, training_step(9))
    cells, plan = prepared(counts(30), early_stopping=True)
    losses = []
    with pytest.raises(NonFiniteLoss, match="best epoch"):
        for event in training_events(module, cells, plan):
            if isinstance(event, EpochEnded):
                losses.append(event.validation["unweighted_loss"])
    assert len(losses) == 2
    assert validation_loss(module, cells, plan) == pytest.approx(min(losses), rel=1e-6)


def test_the_cell_whose_counts_give_nan_is_named(reference_cells):
    reference_cells.X = reference_cells.X.toarray()
    model = scvi(reference_cells)
    model.train(**QUICK)
    before = fingerprint(model)
    reference_cells.X[7, 3] = np.inf
    with pytest.raises(NonFiniteLoss) as raised:
        model.train(**QUICK, train_size=1.0)
    name = reference_cells.obs_names[7]
    assert f"the cells {name} give it by themselves" in str(raised.value)
    assert fingerprint(model) == before
    assert model.run.status == "failed"
    assert model.run.ended.reason == str(raised.value)


def test_a_validation_cell_that_gives_nan_is_named_too():
    adata = counts(30)
    cells, _ = prepared(adata)
    row = cells.validation_rows[1]
    adata.X[row, 0] = np.inf
    with pytest.raises(NonFiniteLoss, match=f"epoch 0, after the last step .*cell{row} give it by themselves"):
        trained_toy(adata)


def test_a_learning_rate_far_too_high_fails_with_advice_and_leaves_a_usable_model(reference_cells):
    model = scvi(reference_cells, use_batch_norm="none")
    with pytest.raises(NonFiniteLoss, match=r"try lr="):
        model.train(**{**QUICK, "max_epochs": 30}, lr=1e6, schedule="published")
    assert model.run.status == "failed"
    assert all(torch.isfinite(weight).all() for weight in model.module.parameters())
    model.train(**QUICK)
    assert np.isfinite(model.get_latent_representation()).all()


def test_a_loop_that_nobody_asks_for_more_leaves_the_model_in_eval_mode():
    module = Toy()
    events = toy_events(module)
    for event in events:
        if isinstance(event, StepEnded):
            break
    assert module.training
    events.close()
    assert not module.training
