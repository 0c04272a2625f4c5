"""What LossMonitor shows: a run, a model's latest one, a file of a run, a table of losses."""

from __future__ import annotations

import os
from typing import Any

import pandas as pd

from ..training.outside import run_of_history
from ..training.record import finished, read_record
from ..training.watched import Run


def run_of(source: Any) -> Run | None:
    """The run that somebody means: one that has ended, if it is a file or a table; None for nothing, or nothing yet."""
    if source is None or isinstance(source, Run):
        return source
    if isinstance(source, str | os.PathLike):
        return finished(read_record(source))
    if isinstance(source, pd.DataFrame):
        return run_of_history(source)
    if hasattr(source, "watch_runs"):
        if source.run is not None:
            return source.run
        if isinstance(getattr(source, "history", None), pd.DataFrame) and len(source.history):
            return run_of_history(source.history)  # of a model that was loaded
        return None
    raise TypeError(
        f"LossMonitor takes a run, a model, a file of `record` or a history, and was given a {type(source).__name__}."
    )
