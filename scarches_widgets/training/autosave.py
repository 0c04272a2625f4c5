"""A run's state on disk, so that it can be killed at any instant and resumed to the same bits.

A checkpoint holds weights and buffers, the optimiser's moments, the best weights so far, and `Progress`. Random
generators need no place in it: the noise of a step is a function of the seed and the step (`nn.noise`).
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import time
from collections.abc import Iterator
from numbers import Real
from pathlib import Path

import torch
from torch import Tensor, nn

from ..data.atomic import claimed
from ..data.container import Container, DamagedFile, read_document, write_container
from .adam import Adam
from .progress import Progress

KIND, VERSION = "training checkpoint", 1
KEPT = 2  # newest checkpoints that stay


class Autosave:
    """Checkpoints of one run in a folder of their own.

    Parameters
    ----------
    folder
        Made if it does not exist.
    identity
        What must be equal for a checkpoint to be resumed: plan, configuration, data. JSON.
    resume
        Whether to go on from the newest checkpoint in `folder`, if there is one.
    every
        Least seconds between two checkpoints.

    Attributes
    ----------
    warnings
        What `restore` had to say.

    Raises
    ------
    FileExistsError
        If the folder holds checkpoints and `resume` is False.
    ValueError
        If `every` is not a time.
    """

    def __init__(self, folder: str | os.PathLike, identity: dict, resume: bool = False, every: float = 10.0):
        if not (isinstance(every, Real) and every >= 0):
            raise ValueError(f"checkpoint_every={every!r} is not a number of seconds, 0 or more.")
        self.folder = Path(folder).expanduser()
        self.every = every
        self.warnings: list[str] = []
        self._identity = json.loads(json.dumps(identity))  # as it will come back: tuples as lists
        self._last = time.monotonic()
        self.folder.mkdir(parents=True, exist_ok=True)
        if self._checkpoints() and not resume:
            raise FileExistsError(
                f"{self.folder} holds checkpoints of an earlier run. Pass resume=True to go on with it, or another "
                "checkpoint_dir to start anew."
            )
        self._resume = resume

    @property
    def due(self) -> bool:
        return time.monotonic() - self._last >= self.every

    def save(self, progress: Progress, module: nn.Module, optimizer: Adam, best: dict | None) -> str:
        """Write a checkpoint and remove old ones; return its path."""
        path = self.folder / f"epoch-{progress.epoch:06d}-step-{progress.step:08d}"
        tensors = {f"module/{name}": tensor for name, tensor in module.state_dict().items()}
        tensors |= {f"best/{name}": tensor for name, tensor in (best or {}).items()}
        tensors |= {f"optimizer/{name}": tensor for name, tensor in optimizer.state_dict().items()}
        document = {"identity": self._identity, "progress": progress.as_dict(), "threads": torch.get_num_threads()}
        write_container(
            path,
            kind=KIND,
            format_version=VERSION,
            document=document,
            tensors={name: tensor.detach().cpu() for name, tensor in tensors.items()},
            overwrite=True,
        )
        for old in self._checkpoints()[:-KEPT]:
            shutil.rmtree(old)
        self._last = time.monotonic()
        return str(path)

    def restore(self, progress: Progress, module: nn.Module, optimizer: Adam) -> dict | None:
        """Put the newest checkpoint's state into the arguments; return its best weights, if it has any.

        Raises
        ------
        ValueError
            If the checkpoint belongs to another run; it says in what.
        DamagedFile
            If there are checkpoints, and each is damaged. While one is whole, a damaged newer one costs a warning and
            the steps since.
        """
        newest = self._newest_whole() if self._resume else None
        if newest is None:
            return None
        path, container, tensors = newest
        self._refuse_another_run(container.document["identity"], path)
        module.load_state_dict(_under("module/", tensors))
        optimizer.load_state_dict(_under("optimizer/", tensors))
        progress.restore(container.document["progress"])
        return _under("best/", tensors) or None

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Claim the folder for this run. However its process ends, the system then takes the lock away.

        Raises
        ------
        RuntimeError
            If another run holds it.
        """
        mend = (
            ", and two runs would overwrite each other's checkpoints. Wait for it, stop it, or pass another "
            "checkpoint_dir."
        )
        with claimed(self.folder, mend):
            for unfinished in self.folder.glob(".epoch-*.tmp-*"):  # by a process that was killed
                shutil.rmtree(unfinished)
            yield

    def _checkpoints(self) -> list[Path]:
        """Oldest first."""
        return sorted(self.folder.glob("epoch-*-step-*"))

    def _newest_whole(self) -> tuple[Path, Container, dict[str, Tensor]] | None:
        damaged: list[DamagedFile] = []
        for path in reversed(self._checkpoints()):
            try:
                container = read_document(path, kind=KIND, newest_version=VERSION)
                tensors = container.tensors()
            except DamagedFile as error:
                damaged.append(error)
                continue
            self.warnings += [f"{error} Until then, the run goes on from {path.name}." for error in damaged]
            return path, container, tensors
        if damaged:
            raise damaged[0]
        return None

    def _refuse_another_run(self, theirs: dict, path: Path) -> None:
        for name, ours in _leaves(self._identity).items():
            its = _leaves(theirs).get(name)
            if its != ours:
                raise ValueError(
                    f"{path} belongs to another run: its {name} is {_brief(its)}, this run's is {_brief(ours)}, so "
                    "going on would give neither's result. Use the same settings, or another checkpoint_dir."
                )


def disk_of_checkpoints(module: nn.Module, keeps_best: bool) -> int:
    """Bytes that the checkpoints of a run take at most: those that stay, and the next one while it is written."""
    weights = sum(tensor.nbytes for tensor in module.state_dict().values())
    moments = 2 * sum(parameter.nbytes for parameter in module.parameters() if parameter.requires_grad)
    return (KEPT + 1) * ((1 + keeps_best) * weights + moments)


def _leaves(tree: dict, under: str = "") -> dict[str, object]:
    """`{"plan": {"lr": 1}}` as `{"plan.lr": 1}`."""
    leaves: dict[str, object] = {}
    for name, value in tree.items():
        leaves |= _leaves(value, f"{under}{name}.") if isinstance(value, dict) else {under + name: value}
    return leaves


def _under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def _brief(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:79] + "…"
