"""A network that trains in milliseconds, simulated cells for it, and processes that can be killed."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable

import anndata as ad
import numpy as np
import torch
from small import SMALL
from torch import nn

import scarches_widgets as sca
from scarches_widgets.data.minibatches import Cells, Minibatch
from scarches_widgets.data.schema import DataSchema
from scarches_widgets.nn.layers import BatchNorm, ConditionalLinear, Dropout, initialize
from scarches_widgets.nn.loss import Loss
from scarches_widgets.nn.noise import Noise, generator_of
from scarches_widgets.training.autosave import Autosave
from scarches_widgets.training.cells import TrainingCells
from scarches_widgets.training.events import Event
from scarches_widgets.training.loop import training_events
from scarches_widgets.training.options import typed
from scarches_widgets.training.plan import TrainingPlan

N_GENES = 6


class Toy(nn.Module):
    """Something with a loss: log counts through a narrow layer, with batch normalisation and dropout."""

    def __init__(self):
        super().__init__()
        self.inward = ConditionalLinear(N_GENES, 3)
        self.norm = BatchNorm(3)
        self.dropout = Dropout(0.2)
        self.outward = ConditionalLinear(3, N_GENES)
        self.before_loss: Callable[[Minibatch], object] = lambda cells: None  # a test's way in
        self.float()
        initialize(self, generator_of(0, "weights"))

    def forward(self, cells: Minibatch, kl_weight: float = 1.0) -> Loss:
        self.before_loss(cells)
        features = torch.log1p(cells.counts)
        hidden = self.norm(self.inward(features))
        outward = self.outward(self.dropout(hidden, cells.noise))
        terms = {
            "reconstruction": (outward - features).square().sum(-1).mean(),
            "kl_latent": hidden.square().sum(-1).mean(),
        }
        return Loss(terms, weights={"kl_latent": kl_weight})


def counts(n_cells: int = 30, seed: int = 0) -> ad.AnnData:
    """`n_cells` cells called cell0, cell1, …"""
    rng = np.random.default_rng(seed)
    adata = ad.AnnData(rng.poisson(3, (n_cells, N_GENES)).astype(np.float32))
    adata.obs_names = [f"cell{i}" for i in range(n_cells)]
    return adata


def prepared(adata: ad.AnnData, **options) -> tuple[TrainingCells, TrainingPlan]:
    plan = typed(TrainingPlan, {"batch_size": 8, "max_epochs": 3, **options}, of="train()")
    cells = TrainingCells(Cells(adata, DataSchema.of(adata)), plan)
    return cells, plan.resolved(cells.n_train, cells.n_validation)


def toy_events(module: nn.Module, adata: ad.AnnData | None = None, folder=None, *, resume=False, **options):
    """The generator; with a `folder`, every step is kept there."""
    cells, plan = prepared(counts() if adata is None else adata, **options)
    autosave = Autosave(folder, {"plan": str(plan)}, resume, every=0) if folder else None
    return training_events(module, cells, plan, autosave)


def trained_toy(adata: ad.AnnData | None = None, folder=None, **options) -> tuple[Toy, list[Event]]:
    module = Toy()
    return module, list(toy_events(module, adata, folder, **options))


def of_kind(kind: type, events) -> list:
    return [event for event in events if isinstance(event, kind)]


def bits(module: nn.Module) -> dict[str, bytes]:
    """Every weight and buffer, to the bit."""
    return {name: tensor.numpy().tobytes() for name, tensor in module.state_dict().items()}


def validation_loss(module: nn.Module, cells: TrainingCells, plan: TrainingPlan) -> float:
    """The unweighted loss of the validation cells, computed anew."""
    module.eval()
    total = 0.0
    with torch.no_grad():
        for step, minibatch in enumerate(cells.validation()):
            terms = module(minibatch.with_noise(Noise(plan.seed, "validation", step))).terms
            total += len(minibatch) * sum(term.double().item() for term in terms.values())
    return total / cells.n_validation


def eventually(condition: Callable[[], object], seconds: float = 120) -> None:
    """Wait until `condition` holds."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "This should have happened long ago."
        time.sleep(0.002)


# A whole model, in a process of its own

MANY_STEPS = {"max_epochs": 8, "batch_size": 12, "early_stopping": True, "progress": False}  # 8 epochs of 15 steps


def small_scvi():
    """Dropout and batch normalisation are on."""
    atlas = sca.datasets.atlas(n_obs=200, n_vars=40, n_batches=2, n_types=4, seed=1)
    return sca.models.SCVI(atlas, batch_key="batch", dropout_rate=0.2, **SMALL)


def train_and_save(folder: str, target: str, pause: float = 0.0, **options) -> None:
    """Go on from the checkpoints in `folder`, keep one after each step, save the model; `pause` seconds per event."""
    model = small_scvi()
    options = {**MANY_STEPS, "checkpoint_dir": folder, "checkpoint_every": 0, "resume": True, **options}
    run = model.train(background=True, **options)
    run.subscribe(lambda event: time.sleep(pause))
    run.wait()
    model.save(target, overwrite=True)


def process(function: Callable, *arguments, **options) -> multiprocessing.Process:
    """`function` in a process of its own, forked from one that has done no more than import what takes long."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(
        ["anndata", "torch._dynamo", "scarches_widgets.models.scvi", "scarches_widgets.datasets"]
    )
    started = context.Process(target=function, args=arguments, kwargs=options, daemon=True)
    started.start()
    return started
