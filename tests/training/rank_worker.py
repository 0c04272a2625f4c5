"""What each process of a test of several does: `python rank_worker.py TASK OUT`, with torchrun's variables set."""

from __future__ import annotations

import os
import signal
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from small import SMALL

import scarches_widgets as sca
from scarches_widgets.data.minibatches import CELL_BY_CELL, Minibatch

SEVERAL = {"batch_size": 64, "progress": False, "seed": 3}
HIDDEN = {"hidden_layer_sizes": (16, 12), "use_batch_norm": True, "use_layer_norm": False}


def cells(n_obs: int = 286, seed: int = 1):
    """258 to train on: the fifth step of an epoch is of 2 cells, fewer than 3 processes."""
    atlas = sca.datasets.cite_seq(n_obs=n_obs, n_vars=40, n_proteins=12, n_batches=3, n_types=4, seed=seed)
    atlas.obsm["protein_expression"][atlas.obs["batch"] == "batch2"] = 0  # so that an adversary learns beside
    atlas.obs["partly"] = atlas.obs["cell_type"].astype(str)
    atlas.obs.loc[atlas.obs_names[::3], "partly"] = "Unknown"
    return atlas


def gene_sets(adata) -> dict[str, list[str]]:
    return {f"program {i}": list(adata.var_names[5 * i : 5 * i + 12]) for i in range(6)}


def new_models(adata) -> dict[str, sca.models.base.Model]:
    key = {"batch_key": "batch"}
    labels = {"labels_key": "partly", "unlabeled_category": "Unknown"}
    small = {"n_hidden": 16, "n_latent": 4, "dropout_rate": 0.1}
    sets = {"gene_sets": gene_sets(adata), "min_genes": 3}
    return {
        "SCVI": sca.models.SCVI(adata, **key, **SMALL, dropout_rate=0.2),
        "SCVI, inferred library": sca.models.SCVI(adata, **key, **small, use_observed_lib_size=False),
        "SCANVI": sca.models.SCANVI(adata, **key, **labels, **small),
        "TRVAE": sca.models.TRVAE(adata, **key, **HIDDEN, n_latent=4),
        "TRVAE, on y": sca.models.TRVAE(adata, **key, **HIDDEN, n_latent=4, mmd_on="y"),
        "EXPIMAP": sca.models.EXPIMAP(adata, **key, **HIDDEN, **sets),
        "TOTALVI": sca.models.TOTALVI(adata, **key, protein_key="protein_expression", **small),
    }


def train_all(out: Path, max_epochs: str, *precisions: str) -> None:
    """Every model that can be shared, and an expiMap query with its HSIC; weights and histories to `out`.

    In float32 by the published schedule, whose Adam divides by the gradient's size + 0.01. Ours adds 1e-8, so that
    gradients that are zero but for rounding move weights by whole steps, with one process and with several.
    """
    adata = cells()
    reference = sca.models.EXPIMAP(adata[adata.obs["batch"] != "batch2"].copy(), batch_key="batch",
                                   gene_sets=gene_sets(adata), min_genes=3, **HIDDEN)  # fmt: skip
    reference._is_trained = True
    query = adata[adata.obs["batch"] == "batch2"].copy()
    for precision in precisions:
        models = new_models(adata)
        models["EXPIMAP, query"] = sca.models.EXPIMAP.load_query_data(query, reference, n_new_terms=2, use_hsic=True)
        is_double = precision == "float64"
        Minibatch.to = to_double if is_double else to_device
        for name, model in models.items():
            if is_double:
                model.module.double()
            model.train(int(max_epochs), **SEVERAL, **({} if is_double else {"schedule": "published"}))
            np.savez(out / f"{precision} {name} {os.environ.get('RANK', '0')}.npz", **result_of(model))


to_device = Minibatch.to


def to_double(cells: Minibatch, device) -> Minibatch:
    moved = to_device(cells, device)
    wide = {
        name: value.double()
        for name in CELL_BY_CELL
        if torch.is_tensor(value := getattr(moved, name)) and value.is_floating_point()
    }
    return replace(moved, **wide)


def train_nudged(out: Path, max_epochs: str, name: str, n: str) -> None:
    """One model so many times, each with other last bits of its initial weights; weights to `out`."""
    adata = cells()
    for seed in range(int(n)):
        model = new_models(adata)[name]
        nudge(model.module, seed)
        model.train(int(max_epochs), **SEVERAL, schedule="published")
        np.savez(out / f"nudged {seed}.npz", **result_of(model))


def result_of(model: sca.models.base.Model) -> dict[str, np.ndarray]:
    weights = {key: tensor.detach().numpy() for key, tensor in model.module.named_parameters()}
    weights |= {f"statistic {key}": tensor.numpy() for key, tensor in model.module.named_buffers()}
    return weights | {"history": model.history.drop(columns="seconds").to_numpy()}


@torch.no_grad()
def nudge(module: torch.nn.Module, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for parameter in module.parameters():
        ups = torch.randint(0, 2, parameter.shape, generator=generator)
        parameter.mul_(1 + (2 * ups - 1) * torch.finfo(parameter.dtype).eps / 2)


def stop_early(out: Path) -> None:
    """A rate so high that the loss soon gets no better."""
    model = new_models(cells())["SCVI"]
    model.train(60, **SEVERAL, early_stopping=True, early_stopping_kwargs={"patience": 2}, lr=0.3)
    model.save(out / "model")
    (out / f"epochs {os.environ.get('RANK', '0')}").write_text(f"{len(model.history)} {model.run.ended.best_epoch}")


def stop_and_refuse(out: Path) -> None:
    """One process stops a run; each draws cells for itself, the fault that users make; a model cannot be shared."""
    stop_early(out)
    rank, adata, said = os.environ["RANK"], cells(), []
    model = sca.models.SCVI(adata, batch_key="batch", **SMALL)
    if rank == "1":
        model.watch_runs(lambda run: run.subscribe(lambda event: run.stop("batch") if run.epochs else None))
    model.train(1000, **SEVERAL)
    said.append(f"{model.run.status} after {len(model.history)} epochs")
    rows = np.random.default_rng(int(rank)).permutation(adata.n_obs)[:200]
    for unfit in (
        sca.models.SCVI(adata[rows].copy(), batch_key="batch", **SMALL),
        sca.models.scPoli(adata, batch_key="batch", labels_key="cell_type"),
    ):
        try:
            unfit.train(2, **SEVERAL)
        except RuntimeError as error:
            said.append(str(error))
    (out / f"said {rank}").write_text("\n".join(said))


def killed_at_epoch_three(out: Path) -> None:
    """Process 1 is killed at its first attempt; with `resume`, the next goes on."""
    model = new_models(cells())["SCVI"]

    def kill(event) -> None:
        if len(model.run.epochs) == 3 and os.environ["RANK"] == "1" and not (out / "killed").exists():
            (out / "killed").touch()
            os.kill(os.getpid(), signal.SIGKILL)

    model.watch_runs(lambda run: run.subscribe(kill))
    model.train(6, **SEVERAL, checkpoint_dir=out / "checkpoints", resume=True, checkpoint_every=0)
    model.save(out / "model", overwrite=True)


if __name__ == "__main__":
    torch.set_num_threads(1)
    task, folder, *rest = sys.argv[1:]
    globals()[task](Path(folder), *rest)
