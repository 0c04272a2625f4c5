"""A progress bar for a run in the foreground: text in a terminal, a widget in a notebook (tqdm decides)."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from .events import EpochEnded, Event, RunStarted
from .run import TrainingRun


@contextlib.contextmanager
def show_bar(run: TrainingRun) -> Iterator[None]:
    """Show the run's epochs and losses until the block ends."""
    from tqdm.auto import tqdm

    with tqdm(desc="Training", unit="epoch") as bar:

        def show(event: Event) -> None:
            if isinstance(event, RunStarted):
                bar.total = event.max_epochs
                bar.refresh()
            elif isinstance(event, EpochEnded):
                losses = {"train": f"{event.train['unweighted_loss']:.1f}"}
                if event.validation:
                    losses["validation"] = f"{event.validation['unweighted_loss']:.1f}"
                bar.set_postfix(losses, refresh=False)
                bar.update(1)

        unsubscribe = run.subscribe(show)
        try:
            yield
        finally:
            unsubscribe()
