"""Where a run stands: all that changes during training except the weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from .events import EpochEnded
from .plan import EarlyStopping


@dataclass
class Sums:
    """Sums over the cells of an epoch, from which its means follow."""

    totals: dict[str, float] = field(default_factory=dict)
    n_cells: int = 0

    def add(self, means: Mapping[str, float], n_cells: int) -> None:
        for name, mean in means.items():
            self.totals[name] = self.totals.get(name, 0.0) + mean * n_cells
        self.n_cells += n_cells

    def means(self) -> dict[str, float]:
        return {name: total / self.n_cells for name, total in self.totals.items()}


@dataclass
class Watch:
    """Early stopping's memory. `update` is called once an epoch."""

    rule: EarlyStopping
    best: float | None = None
    best_epoch: int | None = None
    n_without_improvement: int = 0
    n_since_reduction: int = 0
    lr_scale: float = 1.0  # product of the learning rate's reductions

    def update(self, epoch: int, value: float) -> bool:
        """Take note of an epoch's metric; return whether it is the best so far."""
        better = self.best is None or (self.best - value if self.rule.mode == "min" else value - self.best) > (
            self.rule.threshold
        )
        if better:
            self.best, self.best_epoch = value, epoch
        if epoch < self.rule.warmup_epochs:
            return better
        self.n_without_improvement = 0 if better else self.n_without_improvement + 1
        self.n_since_reduction = 0 if better else self.n_since_reduction + 1
        if self.rule.reduce_lr and self.n_since_reduction >= self.rule.lr_patience:
            self.lr_scale *= self.rule.lr_factor
            self.n_since_reduction = 0
        return better

    @property
    def exhausted(self) -> bool:
        return self.n_without_improvement >= self.rule.patience


@dataclass
class Progress:
    """The next step to take, the sums of the epoch under way, early stopping's memory, and the epochs so far."""

    watch: Watch
    epoch: int = 0
    step: int = 0  # within the epoch
    sums: Sums = field(default_factory=Sums)
    epochs: list[EpochEnded] = field(default_factory=list)

    def as_dict(self) -> dict[str, object]:
        """For JSON; `restore` takes it back."""
        watch = {name: value for name, value in vars(self.watch).items() if name != "rule"}
        return {
            "epoch": self.epoch,
            "step": self.step,
            "sums": vars(self.sums),
            "watch": watch,
            "epochs": [vars(epoch) for epoch in self.epochs],
        }

    def restore(self, saved: Mapping) -> None:
        self.epoch, self.step = saved["epoch"], saved["step"]
        self.sums = Sums(**saved["sums"])
        self.watch = Watch(self.watch.rule, **saved["watch"])
        self.epochs = [EpochEnded(**epoch) for epoch in saved["epochs"]]
