"""How models of scArches are fitted: the trainer of trVAE and expiMap, as options of a plan.

``"published"`` here is scArches 0.6.1's trainer: Adam with lr 1e-3, eps 0.01 and weight decay 0.04; 400 epochs; early
stopping after 20 epochs without gain, with the learning rate reduced after 13; the KL term at its full weight from the
first step. Differs from it: validation cells are drawn at random, not the last ones of each batch's in the file; each
cell comes once in an epoch, where scArches draws with replacement so that batches are balanced; and the best epoch's
weights do come back. ``"auto"`` is that of `plan`.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

from .plan import EarlyStopping, NotNegative, TrainingPlan

PUBLISHED_EPOCHS, PUBLISHED_WEIGHT_DECAY = 400, 0.04
AUTO_WEIGHT_DECAY = 1e-6


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class ScArchesPlan(TrainingPlan):
    weight_decay: NotNegative | None = None  # None: 1e-6 for auto, 0.04 as published
    early_stopping: bool | None = None  # None: no for auto, yes as published
    early_stopping_kwargs: EarlyStopping = EarlyStopping(patience=20, reduce_lr=True)
    kl_warmup_epochs: Annotated[int, Field(ge=0)] | None = None  # None: 90 % of the steps for auto, 0 as published
    kl_warmup_steps: Annotated[int, Field(ge=1)] | None = None  # in place of kl_warmup_epochs

    def __post_init__(self):
        if self.kl_warmup_steps is not None and self.kl_warmup_epochs is not None:
            raise ValueError(
                f"kl_warmup_steps={self.kl_warmup_steps} and kl_warmup_epochs={self.kl_warmup_epochs} both say how "
                "long the KL weight rises; give one of them"
            )

    def resolved(self, n_train: int, n_validation: int = 0, of_query: bool = False) -> TrainingPlan:
        published, meant = self.schedule == "published", {}
        if self.weight_decay is None:
            meant["weight_decay"] = PUBLISHED_WEIGHT_DECAY if published else AUTO_WEIGHT_DECAY
        if self.early_stopping is None:
            meant["early_stopping"] = published
        if published:
            meant["max_epochs"] = self.max_epochs or PUBLISHED_EPOCHS
            if self.kl_warmup_epochs is None and self.kl_warmup_steps is None:
                meant["kl_warmup_epochs"] = 0
        return TrainingPlan.resolved(replace(self, **meant), n_train, n_validation, of_query)

    def kl_weight_at(self, step: int, steps_per_epoch: int) -> float:
        if self.kl_warmup_steps is not None:
            return self.kl_weight * min(1.0, step / self.kl_warmup_steps)
        return TrainingPlan.kl_weight_at(self, step, steps_per_epoch)
