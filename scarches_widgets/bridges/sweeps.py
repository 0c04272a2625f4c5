"""Sweeps: which options of a model and of its training serve best, tried one after the other or several at once.

    folder/sweep.json       what is tried on what: model, cells, options, space, metric
    folder/study.log        optuna's journal: each trial's options, its metric by epoch, and how it ended
    folder/cells.h5ad       the cells, if they were given as an object
    folder/trials/000000/   of each trial its events; of the best one its model

A trial is a task of any executor, as a chunk of `mapping.map_query` is; workers need no optuna, but see the folder by
the same path. Options are chosen by optuna (Akiba et al. 2019, doi:10.1145/3292500.3330701), see `sweep_study`.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from scipy import sparse

from ..data.atomic import claimed, write_file
from ..data.matrix import layer_names
from ..data.names import did_you_mean, digest_of, listed
from ..mapping.executors import Executor, executor_of
from ..mapping.jobs import model_class
from ..models.base import Model
from ..training.elsewhere import ElsewhereRun
from ..training.events import EpochEnded, Event, RunStarted
from ..training.plan import METRICS
from .search_space import checked_options, checked_space, parted
from .sweep_study import SweepStudy, optuna
from .sweep_trial import MODEL, Trial, run_trial

if TYPE_CHECKING:
    from anndata import AnnData
    from optuna.trial import FrozenTrial

PLAN, JOURNAL, CELLS, TRIALS = "sweep.json", "study.log", "cells.h5ad", "trials"
FORMAT = 1


class TrialRun(ElsewhereRun):
    """A trial's training as it goes; Stop ends the sweep, since its next trial would begin at once."""

    def __init__(self, sweep: Sweep, number: int, folder: Path):
        super().__init__(folder, title=f"trial {number}")
        self.number, self.is_pruned = number, False
        self._sweep = sweep

    def stop(self, when: str = "batch") -> None:
        self._sweep.stop(when)

    def stop_alone(self, when: str) -> None:
        super().stop(when)

    def prune(self) -> None:
        """End this trial: it does worse than others did by this epoch."""
        self.is_pruned = True
        self.stop_alone("epoch")


class Sweep:
    """Try options of a model and of its training, and keep the model that does best.

    Parameters
    ----------
    model
        A model's class, or its name in `sca.models`.
    cells
        An AnnData with the model's cells, or an h5ad or zarr file of them.
    folder
        Where the sweep is kept. If it holds the same one, unfinished or with fewer trials, that goes on.
    space
        Option → what to try: a list of choices, or a range as `(low, high)` or `(low, high, "log")`.
    n_trials
        How many in all, those of earlier sittings among them.
    executor
        Who computes: None (this process, a trial at a time), a number of processes, or e.g.
        `bridges.dask_executor.DaskExecutor(client)`.
    metric, mode
        By which trials are compared: a column of `model.history`, and whether "min" or "max" is best. What counts is
        its value in the epoch whose weights the model keeps. The default is the loss of held-out cells, in nats per
        cell, which compares models of the same counts under likelihoods of counts.
    prune
        Whether to end trials whose metric is worse than the median of earlier ones in the same epoch; None: where all
        trials have the same `max_epochs`, without which epochs cannot be compared.
    backed
        Leave the counts of a file on disk while training; pass `shuffle_block=1024` then.
    seed
        Of the choice of options.
    **options
        Of the model and of `train()`, the same in all trials: `batch_key="batch"`, `max_epochs=50`, …

    Attributes
    ----------
    status
        "ready", "running", "stopping", "stopped", "done" or "failed".
    runs
        The `TrialRun` of each trial of this sitting.
    n_begun
        How many of the `n_trials` have begun, in all sittings.

    Examples
    --------
    >>> space = {"n_latent": [10, 20, 30], "n_hidden": (64, 256), "lr": (1e-3, 3e-2, "log")}
    >>> sweep = Sweep("SCVI", adata, "sweep", space, n_trials=30, executor=2, batch_key="batch", max_epochs=40)
    >>> sca.widgets.LossMonitor(sweep.start())
    >>> sweep.wait(); sweep.table; print(sweep.code())
    """

    controls = ("stop",)  # as of a run, since it is steered in place of its trials

    def __init__(
        self,
        model: type[Model] | str,
        cells: AnnData | str | os.PathLike,
        folder: str | os.PathLike,
        space: Mapping[str, Any],
        *,
        n_trials: int = 20,
        executor: Executor | int | None = None,
        metric: str = "val_unweighted_loss",
        mode: str = "min",
        prune: bool | None = None,
        backed: bool = False,
        seed: int = 0,
        **options: Any,
    ):
        self._class = model_class(model)
        self.space = checked_space(space)
        checked_options(self._class, options, self.space)
        if n_trials < 1:
            raise ValueError(f"n_trials={n_trials} tries nothing; give 1 or more.")
        if mode not in ("min", "max"):
            raise ValueError(f"mode='{mode}' is neither 'min' nor 'max'.")
        max_epochs = parted(self._class, options)[1].get("max_epochs")
        if prune and max_epochs is None:
            raise ValueError(
                "Trials of unlike numbers of epochs cannot be compared by epoch, so they cannot be pruned. Give "
                "max_epochs=…, one number for all, or leave out prune=True."
            )
        self.folder = Path(folder).expanduser().resolve()
        self.n_trials, self.metric, self.mode, self.seed = n_trials, METRICS.get(metric, metric), mode, seed
        self.runs: list[TrialRun] = []
        self.status, self.error = "ready", None
        self._given, self._backed = cells, backed
        self._unpruned_epochs = None if prune is False or max_epochs is None else max_epochs // 3
        self._options, self._executor = dict(options), executor_of(executor)
        self._study: SweepStudy | None = None
        self._n_earlier = 0
        self._lock = threading.RLock()
        self._stop_wanted: str | None = None
        self._finished = threading.Event()
        self._watchers: list[Callable[[TrialRun], None]] = []
        self._status_watchers: list[Callable[[], None]] = []
        self.in_foreground = False  # whether a cell or script waits in `run`: then only an interrupt can end it

    def __repr__(self) -> str:
        return f"Sweep({self._class.__name__}, {self.status}, {self.n_begun} trials begun of {self.n_trials})"

    @property
    def n_begun(self) -> int:
        return self._n_earlier + len(self.runs)

    # Running

    def start(self) -> Sweep:
        """Begin, or go on, in the background.

        Raises
        ------
        ImportError
            If optuna is not installed.
        FileExistsError
            If the folder holds another sweep, or other files.
        RuntimeError
            If it was started, or another process works in the folder.
        """
        if self.status != "ready":
            raise RuntimeError(f"This sweep is {self.status}; it can be started once. Make a new one to go on.")
        optuna()
        self.folder.mkdir(parents=True, exist_ok=True)
        with contextlib.ExitStack() as held:
            held.enter_context(claimed(self.folder, ", which sweeps there. Wait for it, or choose another folder."))
            self._source = self._agree()
            journal = self.folder / JOURNAL
            self._study = SweepStudy(journal, self.space, self.mode, self.seed, self._unpruned_epochs)
            self._study.take_up()
            self._n_earlier = self._study.n_begun
            self._become("running")
            threading.Thread(target=self._drive, args=(held.pop_all(),), name="scarches-sweep", daemon=True).start()
        return self

    def run(self) -> Sweep:
        """`start`, and return when the sweep has ended; an interrupt stops it."""
        self.in_foreground = True
        try:
            self.start()
            try:
                self.wait()
            except KeyboardInterrupt:
                self.stop()
                self.wait()
        finally:
            self.in_foreground = False
        return self

    def stop(self, when: str = "batch") -> None:
        """End the trials under way after their step ("batch") or epoch ("epoch"), and begin no other. The same sweep
        goes on in the same folder: those that were broken off are tried again."""
        if when not in ("batch", "epoch"):
            raise ValueError(f"when='{when}' is neither 'batch' nor 'epoch'.")
        with self._lock:
            if self.status not in ("running", "stopping"):
                return
            self.status, self._stop_wanted = "stopping", when
            for run in self.runs:
                run.stop_alone(when)
        self._tell_status()

    def wait(self, timeout: float | None = None) -> str:
        """Wait until the sweep has ended, at most `timeout` seconds; the status then. Raises what it raised."""
        self._finished.wait(timeout)
        if self.error is not None:
            raise self.error
        return self.status

    def watch_trials(self, watcher: Callable[[TrialRun], None]) -> None:
        """Call `watcher` with each trial's run as it begins, from now on."""
        self._watchers.append(watcher)

    def watch_status(self, watcher: Callable[[], None]) -> None:
        """Call `watcher` whenever `status` has changed, from now on: between trials too, and when all have ended."""
        self._status_watchers.append(watcher)

    def _become(self, status: str) -> None:
        with self._lock:  # else a stop under way would put "stopping" over the end
            self.status = status
        self._tell_status()

    def _tell_status(self) -> None:
        for watcher in self._status_watchers:
            watcher()

    # Results

    @property
    def table(self) -> pd.DataFrame:
        """One row per trial, by its number: the options that were varied, `value` (of the metric), `status` ("done",
        "pruned", "running", "stopped" or "failed"), `epochs`, `seconds`, `error`."""
        if self._study is None:
            raise RuntimeError("The sweep has not been started. Call start() or run().")
        return self._study.table

    @property
    def best(self) -> dict[str, Any]:
        """The options that were varied, as the best trial had them.

        Raises
        ------
        RuntimeError
            If no trial has ended well; it says why the last one did not.
        """
        return dict(self._best().params)

    def best_model(self, adata: AnnData | None = None) -> Model:
        """The best trial's model, which is trained.

        Parameters
        ----------
        adata
            Cells for it to hold.
        """
        return self._class.load(self._folder_of(self._best().number) / MODEL, adata)

    def code(self) -> str:
        """Python that trains the best trial's model anew."""
        of_model, of_training = parted(self._class, {**self._options, **self.best})
        where = str(self._given) if isinstance(self._given, str | os.PathLike) else str(self.folder / CELLS)
        backed = ', backed="r"' if self._backed else ""
        arguments = "".join(f", {name}={value!r}" for name, value in of_model.items())
        return (
            "import scarches_widgets as sca\n\n"
            f"adata = sca.read({where!r}{backed})\n"
            f"model = sca.models.{self._class.__name__}(adata{arguments})\n"
            f"model.train({', '.join(f'{name}={value!r}' for name, value in of_training.items())})\n"
        )

    # The plan

    def _agree(self) -> Path:
        """Write down what is to be swept, or see that it is what was begun; the file of the cells."""
        ours = {"lock", PLAN, JOURNAL, JOURNAL + ".lock", CELLS, TRIALS}
        others = sorted({path.name for path in self.folder.iterdir() if not path.name.startswith(".")} - ours)
        if others:
            raise FileExistsError(
                f"'{self.folder}' also holds {listed(others)}, so it is not written into. Choose another folder."
            )
        is_file = isinstance(self._given, str | os.PathLike)
        source = Path(self._given).expanduser().resolve() if is_file else self.folder / CELLS
        plan = {
            "format": FORMAT,
            "model": self._class.__name__,
            "cells": str(source) if is_file else _digest_of_cells(self._given),
            "options": self._options,
            "space": {name: list(values) for name, values in self.space.items()},
            "metric": [self.metric, self.mode],
            "unpruned_epochs": self._unpruned_epochs,
            "seed": self.seed,
        }
        plan = json.loads(json.dumps(plan))
        path = self.folder / PLAN
        if path.exists():
            begun = json.loads(path.read_bytes())
            if differing := sorted(name for name in plan if begun.get(name) != plan[name]):
                raise FileExistsError(
                    f"'{self.folder}' holds another sweep: its {listed(differing, 6)} differ from what is asked for "
                    "now, so their trials cannot be compared. Choose another folder."
                )
        elif not is_file:
            self._given.write_h5ad(source, compression="gzip")
        write_file(path, json.dumps(plan, indent=1).encode())  # last: cells without it are written again
        return source

    # Trials, on the sweep's thread

    def _drive(self, held: contextlib.ExitStack) -> None:
        status = "failed"
        try:
            with held:
                remaining = _Remaining(self, self.n_trials - self._n_earlier)
                for position, outcome in self._executor.imap(run_trial, remaining):
                    self._take(remaining.runs[position], outcome)
            status = "done" if self._stop_wanted is None else "stopped"
        except BaseException as error:  # noqa: BLE001 - kept for wait(), which raises it
            self.error = error
        finally:
            try:
                self._become(status)
            finally:
                self._finished.set()

    def _ask(self) -> tuple[Trial, TrialRun]:
        """The next trial, chosen by what is known now."""
        number, chosen = self._study.ask()
        folder = self._folder_of(number)
        of_model, of_training = parted(self._class, {**self._options, **chosen})
        trial = Trial(
            number,
            self._class.__name__,
            str(self._source),
            self._source.stat().st_mtime_ns,
            self._backed,
            str(folder),
            json.dumps(of_model),
            json.dumps(of_training),
        )
        run = TrialRun(self, number, folder)
        run.subscribe(lambda event: self._hear(event, run))
        self.runs.append(run)
        run.start()
        return trial, run

    def _hear(self, event: Event, run: TrialRun) -> None:
        """On the run's thread."""
        if isinstance(event, RunStarted):
            for watcher in self._watchers:
                watcher(run)
        elif isinstance(event, EpochEnded):
            value = self._value(event)
            if value is not None and self._study.is_hopeless(run.number, event.epoch, value):
                run.prune()

    def _value(self, epoch: EpochEnded) -> float | None:
        """The metric in an epoch; None if that has none."""
        part, _, term = self.metric.partition("_")
        return ({"train": epoch.train, "val": epoch.validation}.get(part) or {}).get(term)

    def _take(self, run: TrialRun, outcome: Any) -> None:
        """Note how a trial has ended."""
        error = outcome if isinstance(outcome, Exception) else None
        run.lose(f"Its process told no end. {error or ''}".strip())
        with contextlib.suppress(Exception):  # which is its `error`
            run.wait()
        error, value = run.error or error, None
        if error is None and (run.status == "done" or run.is_pruned):
            kept = {epoch.epoch: epoch for epoch in run.epochs}.get(run.ended.best_epoch, run.epochs[-1])
            value = self._value(kept)
            error = self._no_metric(kept) if value is None else None
        seconds = sum(epoch.seconds for epoch in run.epochs)
        said = "" if error is None else str(error) or type(error).__name__
        self._study.end(run.number, value, seconds, is_pruned=run.is_pruned, error=said)
        best = self._study.best
        for trial in self._study.trials:
            if trial.state.is_finished() and trial.number != (best and best.number):
                shutil.rmtree(self._folder_of(trial.number) / MODEL, ignore_errors=True)

    def _no_metric(self, epoch: EpochEnded) -> str:
        columns = [f"train_{name}" for name in epoch.train] + [f"val_{name}" for name in epoch.validation or {}]
        return (
            f"The history has no column '{self.metric}'.{did_you_mean(self.metric, columns)} Give one of these as "
            f"metric: {listed(columns, 20)}."
        )

    def _best(self) -> FrozenTrial:
        best = None if self._study is None else self._study.best
        if best is None:
            errors = [] if self._study is None else [error for error in self.table["error"] if error]
            why = f" The last one that failed: {errors[-1]}" if errors else ""
            raise RuntimeError(f"No trial has ended well yet, so none is best.{why}")
        return best

    def _folder_of(self, number: int) -> Path:
        return self.folder / TRIALS / f"{number:06d}"


class _Remaining(Sequence):
    """The trials to come, each of which is chosen when an executor is ready for it."""

    def __init__(self, sweep: Sweep, n: int):
        self._sweep, self._n = sweep, max(0, n)
        self.runs: list[TrialRun] = []

    def __len__(self) -> int:
        return self._n

    def __getitem__(self, position: int) -> Trial:
        raise TypeError("Trials are chosen one after the other; go through them.")

    def __iter__(self) -> Iterator[Trial]:
        for _ in range(self._n):
            with self._sweep._lock:
                if self._sweep._stop_wanted is not None:
                    return
                trial, run = self._sweep._ask()
                self.runs.append(run)
            yield trial


def _digest_of_cells(adata: AnnData) -> str:
    """Whether other cells are the same: by names, counts and keys."""
    digest = hashlib.sha256(digest_of([*adata.obs_names, *adata.var_names]).encode())
    for matrix in (adata.X, *(adata.layers[name] for name in layer_names(adata))):
        if not (sparse.issparse(matrix) or isinstance(matrix, np.ndarray)):
            raise TypeError(
                f"The cells' counts are a {type(matrix).__name__}, not in memory. Give the name of their file, and "
                "backed=True if they are to stay there."
            )
        for part in (matrix.data, matrix.indices, matrix.indptr) if sparse.issparse(matrix) else (matrix,):
            digest.update(np.ascontiguousarray(part).view(np.uint8))
    digest.update(pd.util.hash_pandas_object(adata.obs.astype(str)).to_numpy().tobytes())
    return digest.hexdigest()
