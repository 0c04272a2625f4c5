"""One trial of a sweep: what each process of an executor does. Needs no optuna."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from ..data.read import read
from ..training.elsewhere import Teller, wish

if TYPE_CHECKING:
    from anndata import AnnData

MODEL = "model"  # in a trial's folder


@dataclass(frozen=True)
class Trial:
    """A training, in plain values, so that it can be sent."""

    number: int
    model: str  # name in `sca.models`
    source: str  # file of the cells
    changed: int  # when it was written: which tells two states of one file apart
    backed: bool
    folder: str  # for its events and its model
    of_model: str  # options as JSON: of the class
    of_training: str  # and of `train()`


def run_trial(trial: Trial) -> int:
    """Train, save the model, and tell each event into the trial's folder; its number, when all is told."""
    from .. import models

    folder = Path(trial.folder)
    teller = Teller(folder)
    error = None
    try:
        if wish(folder) is None:  # else the sweep was stopped while this trial waited
            adata = _cells(trial.source, trial.changed, trial.backed)
            model = getattr(models, trial.model)(adata, **json.loads(trial.of_model))
            model.watch_runs(teller.watch)
            model.train(progress=False, **json.loads(trial.of_training))
            if model.is_trained:
                model.save(folder / MODEL, overwrite=True)
    except Exception as caught:
        error = caught
        raise
    finally:
        teller.end(error)
    return trial.number


@lru_cache(maxsize=1)
def _cells(source: str, changed: int, backed: bool) -> AnnData:
    return read(source, backed="r" if backed else None)
