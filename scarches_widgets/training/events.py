"""What a training run tells whoever listens: plain numbers and strings, ready for JSON."""

from __future__ import annotations

from dataclasses import asdict, dataclass


@dataclass(frozen=True)
class Event:
    def as_dict(self) -> dict[str, object]:
        """The event as a flat dict with its name under `event`."""
        return {"event": type(self).__name__, **asdict(self)}


@dataclass(frozen=True)
class RunStarted(Event):
    n_train: int
    n_validation: int
    max_epochs: int
    steps_per_epoch: int
    first_epoch: int  # 0, unless the run was resumed
    schedule: str  # how the learning rate and the number of epochs were chosen, in words
    patience: int | None  # epochs without improvement that early stopping allows; None: it is off, the best is not kept


@dataclass(frozen=True)
class StepEnded(Event):
    epoch: int
    step: int
    steps_per_epoch: int
    loss: float  # weighted total of this minibatch


@dataclass(frozen=True)
class EpochEnded(Event):
    epoch: int
    train: dict[str, float]  # each named term, and `loss` (weighted) and `unweighted_loss`; means over cells
    validation: dict[str, float] | None  # likewise; None if there are no validation cells
    learning_rate: float
    kl_weight: float
    is_best: bool
    n_without_improvement: int  # epochs since the best one, as early stopping counts them
    seconds: float


@dataclass(frozen=True)
class Checkpointed(Event):
    epoch: int
    step: int
    path: str


@dataclass(frozen=True)
class Warned(Event):
    message: str


@dataclass(frozen=True)
class RunEnded(Event):
    status: str  # "done", "stopped" or "failed"
    reason: str  # in words
    n_epochs: int  # epochs completed
    best_epoch: int | None  # epoch of the weights that the model has now, if the best ones were put back
