"""Training in several processes, as `torchrun` starts them: joining, agreeing, and who writes.

    torchrun --standalone --nproc-per-node 4 -m scarches_widgets.cli train job.toml

Each process has the whole model, and its part of every minibatch (`nn.ranks` says how the parts make the whole), so the
result is that of one process but for rounding: which cells a step has, their noise, early stopping and checkpoints are
those of the whole. Gradients are summed here, not by torch's DistributedDataParallel, which would average them.
Rank 0 alone writes, prints and shows. Processes talk by gloo (CPU) or nccl (GPU), which know no passwords: on one
machine over the loopback address, on several over a private network.
"""

from __future__ import annotations

import atexit
import contextlib
import datetime
import hashlib
import json
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

from ..data.minibatches import Part
from ..nn.ranks import Ranks

if TYPE_CHECKING:
    from .cells import TrainingCells
    from .plan import TrainingPlan
    from .progress import Progress

LONGEST_SILENCE = datetime.timedelta(minutes=10)  # of another process, before it is taken for lost
LAST_WAIT = datetime.timedelta(seconds=20)  # for the others, when this process has nothing more to do
STORE = "SCARCHES_WIDGETS_STORE"  # variable of the environment: a file by which the processes of one machine meet
COMPARED = 256  # cells whose counts are compared at the start


def ranks_of_this_run() -> Ranks | None:
    """The processes that were started together with this one, joined at the first call; None if it is alone."""
    if int(os.environ.get("WORLD_SIZE", "1")) < 2:
        return None
    if not dist.is_initialized():
        if STORE in os.environ or os.environ.get("MASTER_ADDR") in ("localhost", "127.0.0.1", "::1"):
            loopback = "lo0" if sys.platform == "darwin" else "lo"
            os.environ.setdefault("GLOO_SOCKET_IFNAME", loopback)  # else gloo listens where the host's name leads
        backend = "gloo"
        if torch.cuda.is_available() and dist.is_nccl_available():
            torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
            backend = "cpu:gloo,cuda:nccl"
        if STORE in os.environ:
            rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
            store = dist.FileStore(os.environ[STORE], size)
        else:
            store, rank, size = next(dist.rendezvous("env://", timeout=LONGEST_SILENCE))
        if os.environ.get("LOCAL_WORLD_SIZE") == str(size):  # torchrun keeps its store when it starts them again
            store = dist.PrefixStore(f"attempt {os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", store)
        dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=LONGEST_SILENCE)
        atexit.register(_leave)
    return Ranks(dist.get_rank(), dist.get_world_size())


def _leave() -> None:
    """End together, if the others are still there: rank 0 keeps the list of addresses, which their threads look at."""
    with contextlib.suppress(RuntimeError):
        dist.monitored_barrier(timeout=LAST_WAIT)
    dist.destroy_process_group()


def is_first() -> bool:
    """Whether this process is the one that writes, prints and shows."""
    return int(os.environ.get("RANK", "0")) == 0


def by_first(write: Callable[[], str]) -> str:
    """What `write` returns, which rank 0 alone calls; all go on when it is done, or raise what it raised."""
    ranks = ranks_of_this_run()
    if ranks is None:
        return write()
    result, error = "", None
    if ranks.is_first:
        try:
            result = write()
        except Exception as caught:  # noqa: BLE001 - the others wait, and are told first
            error = caught
    said = json.loads(ranks.texts(json.dumps({"result": result, "error": error and str(error)}))[0])
    if error is not None:
        raise error
    if said["error"] is not None:
        raise RuntimeError(f"The first of {ranks.size} processes could not write: {said['error']}")
    return said["result"]


def part_of(ranks: Ranks) -> Part:
    return Part(ranks.rank, ranks.size)


def refuse_unshared(module: nn.Module, ranks: Ranks) -> None:
    """Only modules whose loss is known to be divided exactly are trained by several processes."""
    if not getattr(module, "is_shared", False):
        raise RuntimeError(
            f"{type(module).__name__} cannot be trained by {ranks.size} processes: its loss looks at cells together in "
            "ways that are not divided among processes yet, and would silently be another one. Train it in one process "
            "(without torchrun); SCVI, SCANVI, TRVAE, EXPIMAP and TOTALVI can be trained by several."
        )


def sum_gradients(parameters: Iterable[Tensor], ranks: Ranks) -> None:
    """Replace each gradient by its sum over all ranks."""
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    whole = ranks.sum_(torch.cat([gradient.reshape(-1) for gradient in gradients]))
    for gradient, values in zip(gradients, whole.split([gradient.numel() for gradient in gradients])):
        gradient.copy_(values.view_as(gradient))


def check_agreement(
    ranks: Ranks, module: nn.Module, cells: TrainingCells, plan: TrainingPlan, progress: Progress
) -> None:
    """See that all processes are about to do the same.

    Raises
    ------
    RuntimeError
        If they differ in plan, cells, split, counts, weights or checkpoint; it says in what, and which.
    """
    ours = {
        "plan": repr(plan),
        "cells": _digest("\n".join(map(str, cells.cell_names)).encode()),
        "split": _digest(cells.train_rows.tobytes(), cells.validation_rows.tobytes()),
        "counts and keys": _digest(*cells.sample(COMPARED)),
        "weights": _digest(*(np.ascontiguousarray(t.cpu().numpy()).tobytes() for t in module.state_dict().values())),
        "place to go on from": f"epoch {progress.epoch}, step {progress.step}",
    }
    theirs = [json.loads(text) for text in ranks.texts(json.dumps(ours))]
    for what in ours:
        most_common, _ = Counter(one[what] for one in theirs).most_common(1)[0]
        if others := [rank for rank, one in enumerate(theirs) if one[what] != most_common]:
            raise RuntimeError(
                f"The {ranks.size} processes of this training do not have the same {what}: "
                f"{', '.join(map(str, others))} differ from the others, so the result would be no model of anything. "
                "Each process must read the same cells, in the same order, and use the same seeds: random choices of "
                "cells, or splits, need a seed."
            )


def _digest(*parts: bytes) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    return digest.hexdigest()
