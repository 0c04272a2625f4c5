"""Training by several processes of this machine, begun by one that goes on meanwhile, such as a notebook's kernel.

    folder/model, cells.h5ad, job.json      what is to be trained
    folder/events.jsonl, stop               see `training.elsewhere`
    folder/store                            how the processes find each other
    folder/log                              what they said
    folder/trained                          the model, before its end is told

They are what `torchrun` would start, and `training.distributed` makes them one; but torchrun listens on all addresses
of the machine, and these on the loopback address alone. They end by themselves if the process that began them does, for
they hold the other end of a pipe.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..data.read import read
from ..models.base import Model
from ..nn.ranks import Ranks
from ..training.distributed import STORE, is_first, refuse_unshared
from ..training.elsewhere import ElsewhereRun, Teller
from ..training.events import Event
from ..training.options import planned
from ..training.watched import Run

CELLS, JOB, LOG, TRAINED, UNTRAINED = "cells.h5ad", "job.json", "log", "trained", "model"
OF_TRAIN = ("checkpoint_dir", "checkpoint_every", "resume", "early_stopping_kwargs")  # options beside the plan's
LAST_WAIT = 30.0  # seconds for processes to end, once their run has


class ProcessesRun(ElsewhereRun):
    """A training by several processes, as a run: `status`, `history`, `stop()`, `wait()`."""

    def __init__(self, model: Model, folder: Path, n_processes: int):
        super().__init__(folder, lost=self._ended_early, at_end=self._fetch)
        self._model, self._n_processes = model, n_processes
        self.processes: list[subprocess.Popen] = []

    def start(self) -> Run:
        size = str(self._n_processes)
        shared = os.environ | {"OMP_NUM_THREADS": "1", "WORLD_SIZE": size, STORE: str(self.folder / "store")}
        with open(self.folder / LOG, "wb") as log:
            for rank in map(str, range(self._n_processes)):
                process = subprocess.Popen(
                    [sys.executable, "-m", "scarches_widgets.mapping.processes", str(self.folder)],
                    stdin=subprocess.PIPE,  # closed when this process ends, however it does
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    env=shared | {"RANK": rank, "LOCAL_RANK": rank},
                    start_new_session=True,  # an interrupt of the kernel is not theirs
                )
                self.processes.append(process)
        return super().start()

    def _read(self) -> Iterator[Event]:
        try:
            yield from super()._read()
        except Exception as error:
            if not (killed := self._who_was_killed()):
                raise
            kept = "What was saved last in a checkpoint_dir is kept: train again with resume=True."
            raise RuntimeError(f"{killed} {kept}") from error
        finally:
            self._end_processes()
            shutil.rmtree(self.folder, ignore_errors=True)

    def _end_processes(self) -> None:
        """All of them: those that wait for one that has failed, at once."""
        deadline = time.monotonic() + (0 if any(process.poll() for process in self.processes) else LAST_WAIT)
        for process in self.processes:
            try:
                process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            process.stdin.close()

    def _ended_early(self) -> str | None:
        codes = [process.poll() for process in self.processes]
        if None in codes and not any(codes):
            return None
        last = " ".join((self.folder / LOG).read_text(encoding="utf-8", errors="replace").split())[-400:] or "nothing"
        return f"The {self._n_processes} processes have ended before the training did. The last that they said: {last}"

    def _who_was_killed(self) -> str:
        """Empty if none was."""
        for number, process in enumerate(self.processes, 1):
            if (process.poll() or 0) < 0:
                how = signal.Signals(-process.returncode).name
                mend = " Perhaps memory was short: start fewer." if how == "SIGKILL" else ""
                return f"Process {number} of {self._n_processes} was killed by {how}.{mend}"
        return ""

    def _fetch(self) -> None:
        """Give the model what the processes have learned."""
        if (self.folder / TRAINED).exists():  # else it was stopped before its first step
            self._model._learn_from(type(self._model).load(self.folder / TRAINED))


def train_in_processes(model: Model, n_processes: int, **options: Any) -> ProcessesRun:
    """Train a model by several processes of this machine, in the background.

    The result is that of `model.train` but for rounding (see `training.distributed`). The cells are written to a
    temporary file for the processes to read, unless they are backed by one.

    Parameters
    ----------
    model
        With cells. While the run lasts it is not to be used; then it has the weights.
    n_processes
        Two or more; more than there are CPUs slow one another down.
    **options
        Of `model.train`, `checkpoint_dir` and `resume` among them.

    Returns
    -------
    ProcessesRun
        Which `LossMonitor` shows; `stop()` ends it with a usable model.

    Raises
    ------
    RuntimeError
        If the model's loss cannot be divided among processes, or it is being trained.
    ValueError
        If there are fewer than two processes, or an option is wrong.
    """
    model._refuse_while_training()
    if n_processes < 2:
        raise ValueError(f"n_processes={n_processes} is not several. Call model.train, which is one process.")
    refuse_unshared(model.module, Ranks(0, n_processes))
    if model.adata is None:
        raise RuntimeError("The model has no cells to train on. Load it with some: load(…, adata=…).")
    of_plan = {name: value for name, value in options.items() if name not in OF_TRAIN}
    planned(model.plan_class_for(model.config), of_plan, options.get("early_stopping_kwargs"))
    folder = Path(tempfile.mkdtemp(prefix="scarches-processes-"))
    try:
        cells = _written(model, folder)
        model.save(folder / UNTRAINED)
        options = {name: str(value) if isinstance(value, Path) else value for name, value in options.items()}
        job = {"model": type(model).__name__, "cells": cells, "backed": model.adata.isbacked, "options": options}
        (folder / JOB).write_text(json.dumps(job), encoding="utf-8")
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    model.run = ProcessesRun(model, folder, n_processes)
    for watcher in model._watchers:
        watcher(model.run)
    return model.run.start()


def _written(model: Model, folder: Path) -> str:
    """A file of the model's cells."""
    if not model.adata.isbacked:
        model.adata.write_h5ad(folder / CELLS)
        return str(folder / CELLS)
    if model.adata.is_view:
        raise ValueError(
            "The cells are a part of a file, which other processes cannot be given. Write the part to a file of its "
            "own: adata.copy(filename='part.h5ad')."
        )
    return str(Path(model.adata.filename).resolve())


def work(folder: Path) -> None:
    """What each of the processes does; the first one tells."""
    from .. import models

    job = json.loads((folder / JOB).read_bytes())
    teller, error = Teller(folder) if is_first() else None, None
    try:
        adata = read(job["cells"], backed="r" if job["backed"] else None)
        model = getattr(models, job["model"]).load(folder / UNTRAINED, adata)
        if teller is not None:
            model.watch_runs(teller.watch)
            model.watch_runs(_stop_with_parent)
        model.train(progress=False, **job["options"])
        if model.is_trained:
            model.save(folder / TRAINED)
    except Exception as caught:
        error = caught
        raise
    finally:
        if teller is not None:
            teller.end(error)


def _stop_with_parent(run: Run) -> None:
    """The pipe ends when the process that began this training has."""

    def watch() -> None:
        sys.stdin.buffer.read()
        run.stop("batch")

    threading.Thread(target=watch, daemon=True).start()


if __name__ == "__main__":
    work(Path(sys.argv[1]))
