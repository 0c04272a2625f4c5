"""A sweep's trials as optuna knows them: the next one's options, what became of each, on disk after every word.

Options are chosen at random at first, then by a tree-structured Parzen estimator. The choice depends on the seed, on
how many trials there have been, and on their results alone: not on how often the sweep was broken off.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from ..data.atomic import write_file

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial

BROKEN_OFF, ERROR, SECONDS = "broken off", "error", "seconds"  # what is noted of a trial
AGAIN = "again"  # of a trial: the number of the broken-off one whose options it has
FAIR = 5  # trials that end by themselves before any is compared with them
STATES = {"COMPLETE": "done", "PRUNED": "pruned", "FAIL": "failed", "RUNNING": "running", "WAITING": "waiting"}
DIRECTIONS = {"min": "minimize", "max": "maximize"}


def optuna() -> Any:
    try:
        import optuna
    except ImportError as error:
        raise ImportError(
            "Sweeps need optuna, which is not installed. Install it: pip install 'scarches-widgets[sweeps]'."
        ) from error
    optuna.logging.get_logger("optuna").setLevel(logging.WARNING)
    return optuna


class SweepStudy:
    """Trials in a journal, which no other process writes.

    Parameters
    ----------
    path
        The journal; made if it is not there.
    space
        As `search_space.checked_space` returns it.
    mode
        "min" or "max".
    seed
        Of the choice of options.
    unpruned_epochs
        Epochs that each trial may have before it is compared with earlier ones; None: no trial is ended for them.
    """

    def __init__(
        self, path: Path, space: Mapping[str, list | tuple], mode: str, seed: int, unpruned_epochs: int | None
    ):
        path.with_name(path.name + ".lock").unlink(missing_ok=True)  # of a process that was killed
        if path.exists() and not (data := path.read_bytes()).endswith(b"\n"):
            write_file(path, data[: data.rfind(b"\n") + 1])  # a line that was cut
        pruners = optuna().pruners
        never = unpruned_epochs is None
        self._study = optuna().create_study(
            study_name="sweep",
            storage=optuna().storages.JournalStorage(optuna().storages.journal.JournalFileBackend(str(path))),
            direction=DIRECTIONS[mode],
            pruner=pruners.NopPruner() if never else pruners.MedianPruner(FAIR, n_warmup_steps=unpruned_epochs),
            load_if_exists=True,
        )
        self._space, self._mode, self._seed = space, mode, seed
        self._under_way: dict[int, Any] = {}

    def ask(self) -> tuple[int, dict[str, Any]]:
        """The next trial's number and options."""
        seed = np.random.SeedSequence([self._seed, self.n_begun]).generate_state(1)[0]
        self._study.sampler = optuna().samplers.TPESampler(seed=int(seed))
        asked = self._study.ask({name: _distribution(values) for name, values in self._space.items()})
        self._under_way[asked.number] = asked
        return asked.number, asked.params

    def is_hopeless(self, number: int, epoch: int, value: float) -> bool:
        """Note a trial's metric in an epoch; whether it is worse there than the median of earlier trials."""
        if not math.isfinite(value):
            return False
        self._under_way[number].report(value, epoch)
        return self._under_way[number].should_prune()

    def end(
        self, number: int, value: float | None, seconds: float, *, is_pruned: bool = False, error: str = ""
    ) -> None:
        """Note how a trial has ended: with a value, with an error, or else it was broken off."""
        state = optuna().trial.TrialState
        notes = {SECONDS: seconds, ERROR: error, BROKEN_OFF: value is None and not error}
        for name, note in notes.items():
            if note:
                self._note(number, name, note)
        if value is None or not math.isfinite(value):
            self._study.tell(number, state=state.FAIL)
        elif is_pruned:
            self._study.tell(number, state=state.PRUNED)
        else:
            self._study.tell(number, value)
        self._under_way.pop(number, None)

    def take_up(self) -> None:
        """Let trials that a kill or a stop has broken off be tried again, with the same options."""
        for trial in self.trials:
            if trial.state.name == "RUNNING":
                self.end(trial.number, None, 0.0)
        for trial in self.trials:
            if trial.user_attrs.get(BROKEN_OFF) and trial.number not in self._tried_again:
                self._study.enqueue_trial(trial.params, user_attrs={AGAIN: trial.number})

    @property
    def n_begun(self) -> int:
        """Trials that count: none that is tried again, and none that waits for it."""
        again = self._tried_again
        return sum(trial.state.name != "WAITING" and trial.number not in again for trial in self.trials)

    @property
    def _tried_again(self) -> set[int]:
        return {trial.user_attrs[AGAIN] for trial in self.trials if AGAIN in trial.user_attrs}

    @property
    def trials(self) -> list[FrozenTrial]:
        return self._study.get_trials(deepcopy=False)

    @property
    def best(self) -> FrozenTrial | None:
        """The first of those with the best value; None while none has ended well."""
        ended = [trial for trial in self.trials if trial.state.name == "COMPLETE"]
        sign = 1 if self._mode == "min" else -1
        return min(ended, key=lambda trial: (sign * trial.value, trial.number), default=None)

    @property
    def table(self) -> pd.DataFrame:
        """See `Sweep.table`."""
        rows = {}
        for trial in self.trials:
            notes = trial.user_attrs
            rows[trial.number] = {
                **trial.params,
                "value": trial.value if trial.state.name == "COMPLETE" else math.nan,
                "status": "stopped" if notes.get(BROKEN_OFF) else STATES[trial.state.name],
                "epochs": len(trial.intermediate_values),
                "seconds": notes.get(SECONDS, math.nan),
                "error": notes.get(ERROR, ""),
            }
        columns = [*self._space, "value", "status", "epochs", "seconds", "error"]
        return pd.DataFrame.from_dict(rows, orient="index", columns=columns).rename_axis("trial")

    def _note(self, number: int, name: str, value: Any) -> None:
        """Also of a trial that an earlier process began, of which there is no `optuna.Trial` to be had."""
        self._study._storage.set_trial_user_attr(self.trials[number]._trial_id, name, value)


def _distribution(values: list | tuple) -> Any:
    kinds = optuna().distributions
    if isinstance(values, list):
        return kinds.CategoricalDistribution(values)
    low, high = values[:2]
    is_whole = isinstance(low, int) and isinstance(high, int)
    return (kinds.IntDistribution if is_whole else kinds.FloatDistribution)(low, high, log=len(values) == 3)
