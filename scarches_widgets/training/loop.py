"""The training loop: a generator of events that knows a model only as something with a loss.

`module(minibatch, kl_weight=…)` gives a `Loss`. A module may have `after_step(rate, …)`, `undecayed` (parameters that
weight decay spares), `paces(plan)` (pairs of a parameter and the multiple of the learning rate at which it learns) and
`before_epoch(epoch, cells, plan)`, which says whether the loss is another one from then on. Nothing here prints, shows
or decides when to stop early for the user's sake: whoever iterates does, by asking for no further event. Clean-up
stands in a `finally`.
"""

from __future__ import annotations

import contextlib
import copy
import json
import math
import time
from collections.abc import Iterator

import torch
from torch import nn

from ..data.minibatches import Minibatch
from ..data.names import did_you_mean, listed
from ..nn.loss import Loss
from ..nn.noise import Noise
from ..nn.ranks import Ranks, step_of
from . import distributed
from .adam import Adam
from .autosave import Autosave
from .cells import TrainingCells
from .events import Checkpointed, EpochEnded, Event, RunEnded, RunStarted, StepEnded, Warned
from .plan import METRICS, TrainingPlan
from .progress import Progress, Sums, Watch

TOTALS = ("loss", "unweighted_loss")  # which every loss has besides its terms


class NonFiniteLoss(ArithmeticError):
    """The loss became NaN or infinite; the weights are those of the last epoch in which it was not."""


def training_events(
    module: nn.Module,
    cells: TrainingCells,
    plan: TrainingPlan,
    autosave: Autosave | None = None,
    ranks: Ranks | None = None,
) -> Iterator[Event]:
    """Fit `module` in place, one event after the other.

    Parameters
    ----------
    module
        Its trainable parameters are changed. On the plan's device.
    cells, plan
        The plan must be `resolved`.
    autosave
        Where to keep checkpoints, and whether to go on from one.
    ranks
        Processes that train this module together, each on its part of every minibatch; the first writes checkpoints.

    Yields
    ------
    Event
        `RunStarted`, then per epoch `StepEnded` for each minibatch and `EpochEnded`; `Checkpointed` and `Warned` as
        they happen; `RunEnded` if nobody stopped before.

    Raises
    ------
    NonFiniteLoss
        If the loss is not finite. The weights go back to the end of the last good epoch.
    ValueError
        If early stopping is to watch a metric that this module does not have; before the first step.
    RuntimeError
        If another run is using the autosave's folder; if the `ranks` are not about to do the same.
    RankLost
        If another of the `ranks` has ended.
    """
    if ranks is not None:
        distributed.refuse_unshared(module, ranks)
        cells.divide(distributed.part_of(ranks))
    writes = autosave is not None and (ranks is None or ranks.is_first)
    with autosave.locked() if writes else contextlib.nullcontext():
        yield from _events(module, cells, plan, autosave, ranks)


def _events(
    module: nn.Module, cells: TrainingCells, plan: TrainingPlan, autosave: Autosave | None, ranks: Ranks | None
) -> Iterator[Event]:
    parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
    optimizer = plan.optimizer(parameters, getattr(module, "undecayed", ()))
    if hasattr(module, "paces"):
        optimizer.paces = {id(parameter): pace for parameter, pace in module.paces(plan)}
    optimizer.anchors = plan.anchors(module, cells.n_train)
    watch_column, warnings = _watched(module, cells, plan)
    warnings += [note for note in (cells.shuffling_note(),) if note is not None]
    progress = Progress(Watch(plan.early_stopping_kwargs))
    best = None
    if autosave:
        best = autosave.restore(progress, module, optimizer)
        warnings += autosave.warnings
    if ranks is not None:
        distributed.check_agreement(ranks, module, cells, plan, progress)
        autosave = autosave if ranks.is_first else None
    n_steps = cells.steps_per_epoch
    reason = f"all {plan.max_epochs:,} epochs done"
    last_good = _copy_of(module)
    try:
        yield RunStarted(
            n_train=cells.n_train,
            n_validation=cells.n_validation,
            max_epochs=plan.max_epochs,
            steps_per_epoch=n_steps,
            first_epoch=progress.epoch,
            schedule=plan.in_words(),
            patience=plan.early_stopping_kwargs.patience if plan.early_stopping else None,
        )
        yield from map(Warned, warnings)
        yield from progress.epochs  # of the run that is resumed
        while progress.epoch < plan.max_epochs and not (plan.early_stopping and progress.watch.exhausted):
            epoch, started = progress.epoch, time.monotonic()
            if progress.step == 0 and hasattr(module, "before_epoch") and module.before_epoch(epoch, cells, plan):
                progress.watch, best = Watch(plan.early_stopping_kwargs), None  # another loss: not to be compared
            for minibatch in cells.train(epoch, progress.step):
                rate, kl_weight = _rate_and_kl_weight(plan, progress, cells, progress.step)
                noise = Noise(plan.seed, "training", epoch, progress.step, device=_device(module))
                weights = {"kl_weight": kl_weight} | plan.loss_weights(epoch)
                values = _train_step(module, optimizer, minibatch, noise, rate, weights, ranks)
                if hasattr(module, "after_step"):
                    module.after_step(rate, **plan.step_weights(epoch))
                progress.sums.add(values, minibatch.n_cells)
                progress.step += 1
                yield StepEnded(epoch, progress.step - 1, n_steps, values["loss"])
                if autosave and autosave.due and progress.step < n_steps:
                    yield Checkpointed(epoch, progress.step, autosave.save(progress, module, optimizer, best))
            # anew, for an epoch that was stopped after its last step
            rate, kl_weight = _rate_and_kl_weight(plan, progress, cells, n_steps - 1)
            train = progress.sums.means()
            validation = _evaluate(module, cells, plan, epoch, kl_weight, ranks)
            last_good = _copy_of(module)
            is_best = progress.watch.update(epoch, _metrics(train, validation)[watch_column])
            if is_best and plan.early_stopping:
                best = last_good
            waited = progress.watch.n_without_improvement
            seconds = time.monotonic() - started
            ended = EpochEnded(epoch, train, validation, rate, kl_weight, is_best, waited, seconds)
            progress.epochs.append(ended)
            progress.epoch, progress.step, progress.sums = epoch + 1, 0, Sums()
            yield ended
            if autosave and (autosave.due or progress.epoch == plan.max_epochs):
                yield Checkpointed(epoch, n_steps, autosave.save(progress, module, optimizer, best))
        if plan.early_stopping and progress.watch.exhausted:
            reason = f"no better {watch_column} in {plan.early_stopping_kwargs.patience:,} epochs"
    except _NotFinite as found:
        module.load_state_dict(last_good)
        raise NonFiniteLoss(_diagnosis(module, cells, found, progress, rate, best is not None, ranks)) from None
    except GeneratorExit:  # stopped between two steps
        if autosave:
            autosave.save(progress, module, optimizer, best)
        raise
    finally:
        if best is not None:
            module.load_state_dict(best)
        module.eval()
    yield RunEnded("done", reason, progress.epoch, progress.watch.best_epoch if best is not None else None)


class _NotFinite(ArithmeticError):
    """These cells' loss is NaN or infinite."""

    def __init__(self, values: dict[str, float], minibatch: Minibatch):
        super().__init__()
        self.values, self.minibatch = values, minibatch


def _rate_and_kl_weight(plan: TrainingPlan, progress: Progress, cells: TrainingCells, step: int) -> tuple[float, float]:
    """At a step of the epoch under way."""
    n_steps = cells.steps_per_epoch
    overall = progress.epoch * n_steps + step
    rate = plan.learning_rate(overall, plan.max_epochs * n_steps) * progress.watch.lr_scale
    return rate, plan.kl_weight_at(overall, n_steps)


def _train_step(
    module: nn.Module,
    optimizer: Adam,
    minibatch: Minibatch,
    noise: Noise,
    rate: float,
    weights: dict[str, float],
    ranks: Ranks | None,
) -> dict[str, float]:
    """One step of the optimiser, unless the loss is not finite; the loss's values before it."""
    if not module.training:  # to ask is a thousand times faster than to tell all its parts
        module.train()
    optimizer.lr = rate
    with torch.enable_grad(), step_of(ranks, minibatch):
        loss = module(minibatch.to(_device(module)).with_noise(noise), **weights)
        total = loss.total
        values = _finite_values(loss, total, minibatch, ranks)
        optimizer.zero_grad()
        total.backward()
        if ranks is not None:
            distributed.sum_gradients(optimizer.parameters, ranks)
        optimizer.step()
    return values


def _evaluate(
    module: nn.Module, cells: TrainingCells, plan: TrainingPlan, epoch: int, kl_weight: float, ranks: Ranks | None
) -> dict[str, float] | None:
    """Means over the validation cells, with the same noise in every epoch, so that epochs can be compared.

    Without validation cells there are none, but the last step's cells are looked at all the same: the step may have
    made the weights NaN.
    """
    module.eval()
    sums = Sums()
    minibatches = cells.validation() if cells.n_validation else cells.train(epoch, cells.steps_per_epoch - 1)
    with torch.no_grad():
        for step, minibatch in enumerate(minibatches):
            noise = Noise(plan.seed, "validation", step, device=_device(module))
            weights = {"kl_weight": kl_weight} | plan.loss_weights(epoch)
            with step_of(ranks, minibatch):
                loss = module(minibatch.to(_device(module)).with_noise(noise), **weights)
                sums.add(_finite_values(loss, loss.total, minibatch, ranks), minibatch.n_cells)
    return sums.means() if cells.n_validation else None


def _finite_values(loss: Loss, total: torch.Tensor, minibatch: Minibatch, ranks: Ranks | None) -> dict[str, float]:
    """The terms, their weighted sum `loss` and their plain sum `unweighted_loss`; of all ranks."""
    names = [*loss.terms, "loss"]
    shares = torch.stack([*loss.terms.values(), total]).detach().cpu().double()  # one transfer
    numbers = (shares if ranks is None else ranks.sum_(shares)).tolist()
    values = dict(zip(names, numbers)) | {"unweighted_loss": sum(numbers[:-1])}
    if not math.isfinite(values["loss"]):
        raise _NotFinite(values, minibatch)
    return values


def _watched(module: nn.Module, cells: TrainingCells, plan: TrainingPlan) -> tuple[str, list[str]]:
    """The history's column to watch, and what must be said about it."""
    column, warnings = plan.early_stopping_kwargs.column, []
    if column.startswith("val_") and not cells.n_validation:
        instead = "train_" + column.removeprefix("val_")
        if plan.early_stopping:
            warnings.append(
                f"Early stopping watches {instead} instead of {column}: train_size={plan.train_size:g} leaves no cells "
                "for validation. The training loss hardly rises when a model over-fits; pass train_size=0.9 to watch "
                "it on other cells."
            )
        column = instead
    if not column.endswith("_unweighted_loss"):  # every run has that one
        _refuse_unknown_metric(column, module, cells, plan)
    return column, warnings


def _refuse_unknown_metric(column: str, module: nn.Module, cells: TrainingCells, plan: TrainingPlan) -> None:
    """Which terms the loss has, one cell tells: so nobody waits an epoch for this."""
    module.eval()
    with torch.no_grad():
        terms = module(next(cells.train(0)).only(0).to(_device(module))).terms
    values = dict.fromkeys([*terms, *TOTALS], 0.0)
    known = _metrics(values, values if cells.n_validation else None)
    if column not in known:
        metric = plan.early_stopping_kwargs.metric
        raise ValueError(
            f"early_stopping_kwargs asks for the metric '{metric}', which this run does not have."
            f"{did_you_mean(metric, [*known, *METRICS])} It has: {listed(known, 20)}."
        )


def _metrics(train: dict[str, float], validation: dict[str, float] | None) -> dict[str, float]:
    """By the history's names."""
    values = {f"train_{name}": value for name, value in train.items()}
    return values | {f"val_{name}": value for name, value in (validation or {}).items()}


def _diagnosis(
    module: nn.Module,
    cells: TrainingCells,
    found: _NotFinite,
    progress: Progress,
    rate: float,
    has_best: bool,
    ranks: Ranks | None,
) -> str:
    """Which term, which cells, and what to do; `module` holds the last good weights."""
    minibatch = found.minibatch
    terms = [name for name, value in found.values.items() if name not in TOTALS and not math.isfinite(value)]
    module.eval()
    with torch.no_grad():
        losses = [float(module(minibatch.only(i).to(_device(module))).total) for i in range(len(minibatch))]
    of_cells = list(zip(cells.names(minibatch.rows), losses))
    if ranks is not None:
        of_cells = [tuple(one) for said in ranks.texts(json.dumps(of_cells)) for one in json.loads(said)]
    bad = [name for name, loss in of_cells if not math.isfinite(loss)]
    step = f"step {progress.step:,}" if progress.step < cells.steps_per_epoch else "after the last step"
    where = f"The loss became NaN or infinite in epoch {progress.epoch:,}, {step} (term: {listed(terms) or 'the sum'})"
    if bad:
        why = f"the cells {listed(bad)} give it by themselves. Look at their counts, or drop them"
    else:
        largest = [name for name, _ in sorted(of_cells, key=lambda one: -one[1])[:3]]
        why = (
            f"no single cell gives it (largest loss: {listed(largest)}), so the weights "
            f"ran away. The learning rate was {rate:g}; try lr={rate / 10:g}"
        )
    good = "best" if has_best else "last good"
    return f"{where}: {why}. The model has the weights of the {good} epoch and can be used."


def _copy_of(module: nn.Module) -> dict[str, torch.Tensor]:
    """A copy: `state_dict()` alone shares the live memory, and would follow the weights."""
    return copy.deepcopy(module.state_dict())


def _device(module: nn.Module) -> torch.device:
    return next(module.parameters()).device
