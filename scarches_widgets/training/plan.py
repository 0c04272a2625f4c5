"""How a model is to be fitted: epochs, learning rate, KL warm-up, early stopping. Says what, does nothing.

Two schedules:

``"published"``
    Adam with lr 1e-3, eps 0.01 and weight decay 1e-6; clip(round(20,000 / cells · 400), 1, 400) epochs; the KL term
    warms up linearly over 400 epochs (scvi-tools 1.4.2).
``"auto"``
    One cycle of the learning rate (Smith & Topin 2018, arXiv:1708.07120): a rise over the first 15 % of the steps, then
    a cosine down to zero. The number of epochs follows the number of steps, not of cells. How many steps, how high a
    rate, and in which share of the steps the KL term warms up, is a `Pace`. scVI's default network takes `BRISK`, and
    scANVI's nearly, whose validation ELBO is no worse than the published schedule's in a tenth of its time (see
    `tests/benchmarks/bench_training.py`). Their networks that are to be adapted to queries map an unseen batch less
    well if hurried (accuracy in `demo` 0.86 instead of 0.96, mean of three seeds), and deep ones with layer
    normalisation, if the KL term is at its full weight early, give up latent dimensions and merge cell types; so scVI's
    take `MAPPABLE`, which is steady but takes fewer steps for few cells. All others take `STEADY`, or a pace that their
    model names.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Annotated, ClassVar, Literal, NamedTuple

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from .adam import Adam

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]

MOST_EPOCHS = 400
OFTEN = 100  # epochs
SURGERY_STEPS = 400  # of a query's run: its new batches' rows are few weights, and start as an average batch's
SURGERY_EPOCHS = (3, 40)
SURGERY_RATE = 1e-2
PRIOR_VARIANCE = 20.0  # of a new batch's weights around an average batch's, in squared bounds of their initial weights
WARM_UP = 0.15  # share of the steps in which the learning rate rises
FIRST_SHARE = 1 / 25  # learning rate of the first step, as a share of the highest

METRICS = {  # as both upstreams spell them -> as they stand in EpochEnded
    "elbo_train": "train_unweighted_loss",
    "elbo_validation": "val_unweighted_loss",
    "validation_loss": "val_loss",
    "reconstruction_loss_train": "train_reconstruction",
    "reconstruction_loss_validation": "val_reconstruction",
    "epoch_loss": "train_loss",
    "epoch_unweighted_loss": "train_unweighted_loss",
    "train_loss_epoch": "train_loss",
    "val_recon_loss": "val_reconstruction",
    "val_kl_loss": "val_kl_latent",
    "val_mmd_loss": "val_mmd",
    "val_prototype_loss": "val_prototype",
}


class Pace(NamedTuple):
    """What the automatic schedule does where the user leaves it open, for a kind of network."""

    steps: int = 1000  # optimisation steps of a run whose epochs follow from the data
    lr: float = 1e-2  # highest learning rate
    kl_warm_up: float = 0.9  # share of the steps in which the KL weight rises
    batch_rate: float = 1.0  # of what a decoder knows of batches alone, in multiples of lr; for models that ask
    fewest_steps: int | None = None  # of few cells; None: `steps`
    fewest_epochs: int = 8  # of many cells
    fewest_lr: float | None = None  # highest learning rate of `fewest_steps`; None: lr

    def steps_for(self, n_train: int, batch_size: int) -> float:
        """At most 100 epochs' worth, since few cells would be learned by heart, but no fewer than `fewest_steps`."""
        return min(self.steps, max(self.fewest_steps or self.steps, OFTEN * n_train / batch_size))

    def lr_for(self, n_train: int, batch_size: int) -> float:
        """Between `fewest_lr` and `lr` as the steps are between the fewest and all."""
        if self.fewest_lr is None:
            return self.lr
        share = (self.steps_for(n_train, batch_size) - self.fewest_steps) / (self.steps - self.fewest_steps)
        return self.fewest_lr + share * (self.lr - self.fewest_lr)


STEADY = Pace()
BRISK = Pace(steps=600, lr=1.75e-2, kl_warm_up=0.7)
MAPPABLE = Pace(fewest_steps=700)


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class EarlyStopping:
    """When to stop for want of improvement, and when to lower the learning rate first.

    An epoch improves if its metric is better than the best so far by more than `threshold`.
    """

    metric: str = "val_unweighted_loss"  # a column of the history, or an upstream's name for one
    mode: Literal["min", "max"] = "min"
    threshold: NotNegative = 0.0  # in the metric's unit
    patience: Annotated[int, Field(ge=1)] = 45  # epochs without improvement before the run stops
    warmup_epochs: Annotated[int, Field(ge=0)] = 0  # epochs before anything is counted
    reduce_lr: bool = False  # lower the learning rate when the metric stalls
    lr_patience: Annotated[int, Field(ge=1)] = 13  # epochs without improvement before each reduction
    lr_factor: Annotated[float, Field(gt=0, lt=1)] = 0.1

    @property
    def column(self) -> str:
        """The history's column that is watched."""
        return METRICS.get(self.metric, self.metric)


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class TrainingPlan:
    """Everything about a run except the model and the cells; the same class draws the form of TrainingPanel."""

    schedule: Literal["auto", "published"] = "auto"
    max_epochs: Annotated[int, Field(ge=1, le=100_000)] | None = None  # None: from the number of cells
    batch_size: Annotated[int, Field(ge=2, le=1_000_000)] = 128  # cells per step
    lr: Positive | None = None  # highest learning rate; None: as the network's pace for auto, 1e-3 as published
    weight_decay: NotNegative = 1e-6
    shuffle_block: Annotated[int, Field(ge=1)] | None = None  # cells that stay together, for files; None: each its own
    train_size: Annotated[float, Field(gt=0, le=1)] = 0.9  # share of the cells; the rest are for validation
    kl_weight: NotNegative | None = None  # after the warm-up; None: 1, and of a query by auto, that of its reference
    kl_warmup_epochs: Annotated[int, Field(ge=0)] | None = None  # None: most steps for auto, 400 as published
    early_stopping: bool = False
    early_stopping_kwargs: EarlyStopping = EarlyStopping()
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    device: str = "auto"  # "auto" takes a CUDA device if there is one
    threads: Annotated[int, Field(ge=1, le=1024)] = 1  # CPU threads; small models are fastest with one

    pace: ClassVar[Pace] = STEADY  # of the automatic schedule

    def resolved(self, n_train: int, n_validation: int = 0, of_query: bool = False) -> TrainingPlan:
        """This plan with every None replaced by what it means for so many cells, or for a query after surgery."""
        if self.schedule == "published":
            n_epochs, lr = _published_epochs(n_train + n_validation), 1e-3
        else:
            n_epochs = self._auto_epochs(n_train, of_query)
            lr = SURGERY_RATE if of_query else self.pace.lr_for(n_train, self.batch_size)
        kl_weight = 1.0 if self.kl_weight is None else self.kl_weight
        return replace(self, max_epochs=self.max_epochs or n_epochs, lr=self.lr or lr, kl_weight=kl_weight)

    def _auto_epochs(self, n_train: int, of_query: bool) -> int:
        n_steps = SURGERY_STEPS if of_query else self.pace.steps_for(n_train, self.batch_size)
        lowest, highest = SURGERY_EPOCHS if of_query else (self.pace.fewest_epochs, MOST_EPOCHS)
        return min(highest, max(lowest, math.ceil(n_steps * self.batch_size / n_train)))

    def optimizer(self, parameters, undecayed=()) -> Adam:
        """Adam over the trainable `parameters`, of which those in `undecayed` have no weight decay."""
        eps = 0.01 if self.schedule == "published" else 1e-8
        return Adam(parameters, lr=self.lr, eps=eps, weight_decay=self.weight_decay, undecayed=undecayed)

    def anchors(self, module: nn.Module, n_train: int) -> dict[int, tuple[Tensor, float]]:
        """What draws the rows that a surgery added, by id, as `Adam` takes it: the gradient, per cell, of a normal
        prior around an average batch. Without it, rows learned from few cells move these away from the reference's, for
        a gain of tenths of a nat."""
        if self.schedule == "published":
            return {}
        found = {}
        for layer in module.modules():
            for table in getattr(layer, "offsets", ()):
                if len(table.blocks) > 1:
                    strength = 1 / (PRIOR_VARIANCE * layer.bound**2 * n_train)
                    found[id(table.blocks[-1])] = table.start(), strength
        return found

    def learning_rate(self, step: int, n_steps: int) -> float:
        """At `step` of `n_steps` in the whole run, before any reduction for want of improvement."""
        if self.schedule == "published":
            return self.lr
        rise = max(1, round(WARM_UP * n_steps))
        if step < rise:
            return self.lr * (FIRST_SHARE + (1 - FIRST_SHARE) * _cosine_rise(step / rise))
        return self.lr * (1 - _cosine_rise((step - rise) / max(1, n_steps - rise)))

    @property
    def batch_rate(self) -> float:
        """See `Pace`."""
        return 1.0 if self.schedule == "published" else self.pace.batch_rate

    def kl_weight_at(self, step: int, steps_per_epoch: int) -> float:
        """Weight of the KL terms at `step` of the whole run."""
        if self.kl_warmup_epochs is None and self.schedule == "auto":
            n_warm_up = self.pace.kl_warm_up * self.max_epochs * steps_per_epoch
            return self.kl_weight * min(1.0, step / n_warm_up)
        n_epochs = 400 if self.kl_warmup_epochs is None else self.kl_warmup_epochs
        epoch = step // steps_per_epoch
        return self.kl_weight * (min(1.0, epoch / n_epochs) if n_epochs else 1.0)

    def loss_weights(self, epoch: int) -> dict[str, float]:
        """What a module's loss is called with besides the KL weight; a model whose loss has more weights extends this
        class (see `Model.plan_class`)."""
        return {}

    def step_weights(self, epoch: int) -> dict[str, float]:
        """What a module's `after_step` is called with besides the learning rate; a model that has one extends this."""
        return {}

    def in_words(self) -> str:
        """The schedule, for a log line."""
        if self.schedule == "published":
            return f"published schedule: {self.max_epochs:,} epochs, learning rate {self.lr:g}"
        return f"one cycle: {self.max_epochs:,} epochs, learning rate up to {self.lr:g}"


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class BriskPlan(TrainingPlan):
    pace: ClassVar[Pace] = BRISK


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class MappablePlan(TrainingPlan):
    pace: ClassVar[Pace] = MAPPABLE


def _published_epochs(n_cells: int) -> int:
    return min(400, max(1, round(20_000 / n_cells * 400)))


def _cosine_rise(share: float) -> float:
    return (1 - math.cos(math.pi * share)) / 2
