"""What TrainingPanel does beside training: presets, settings as a file, an estimate of the cost, runs to go on with."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..data.names import DataError, did_you_mean, shown
from ..training.estimate import Estimate, begun_by, probe
from .panel import collected_warnings
from .training_config import Settings, settings_of

if TYPE_CHECKING:
    from ..training.run import TrainingRun

PRESETS: dict[str, dict[str, Any]] = {"teaching": {}, "default": {}, "published": {"schedule": "published"}}
TEACHING_SECONDS = 50.0  # of training; the minute has preparation too
NOTED = "scarches_widgets"  # key of adata.uns, where setup_anndata notes its keys, and settings that were saved theirs


class WithSettings:
    """For a Panel with a model's class, `_class`; its cells, `adata`; and the folder of its runs, `_runs`, or None."""

    @property
    def settings(self) -> Settings:
        """What the form holds besides its defaults."""
        return Settings(self._class.__name__, self._form.chosen(self.values, self._form.defaults))

    def save_settings(self, path: str | os.PathLike) -> Path:
        """Write what the form holds as JSON, and note its fingerprint in `adata.uns["scarches_widgets"]["training"]`.

        Parameters
        ----------
        path
            Where; a file that is there is replaced.

        Raises
        ------
        ValueError
            While an entry is wrong.
        """
        path = Path(path)
        path.write_text(self._noted_settings().as_json(), encoding="utf-8")
        return path

    def _noted_settings(self) -> Settings:
        with self._lock:
            for problem in self._form.problems(self.values).values():
                raise ValueError(f"{problem} Mend it before the settings are saved.")
            settings = self.settings
        if self.adata is not None:
            note = {"model": settings.model, "sha256": settings.sha256}
            self.adata.uns[NOTED] = {**self.adata.uns.get(NOTED, {}), "training": note}
        return settings

    def load_settings(self, path: str | os.PathLike) -> None:
        """Fill in what `save_settings` has written; what it does not name goes back to its default.

        Raises
        ------
        DataError
            If the file is none of its, or of another model.
        TypeError, ValueError
            If an option does not exist, or does not take the value with these cells; then nothing is changed.
        """
        self._fill_in(settings_of(Path(path).read_text(encoding="utf-8"), str(path)))

    def _fill_in(self, settings: Settings) -> None:
        if settings.model != self._class.__name__:
            raise DataError(
                f"These are settings of {shown(settings.model)}, and this panel trains {self._class.__name__}. Choose "
                f'that model first, in the panel or with TrainingPanel(adata, "{shown(settings.model)}").'
            )
        self.set(**{**self._form.defaults, **settings.options})

    def preset(self, name: str) -> None:
        """Fill in a whole schedule; the data's keys stay as they are.

        Parameters
        ----------
        name
            "default": ours. "published": the paper's. "teaching": ours, with as many epochs as take a minute here,
            measured on a few steps.

        Raises
        ------
        RuntimeError
            If the training cannot be measured because something is to be mended first, or is under way.
        """
        if name not in PRESETS:
            raise ValueError(f"There is no preset '{shown(name)}'.{did_you_mean(name, PRESETS)}")
        data = self._form.chosen(self.values, self._form.names("Data"))
        with self._lock:
            before = self.values
            self.set(**{**self._form.defaults, **data, **PRESETS[name]})
        if name == "teaching":
            try:
                cost = self.measure()
            except Exception:
                self.values = before
                raise
            self.set(max_epochs=cost.epochs_within(TEACHING_SECONDS))
            self.estimate = str(replace(cost, max_epochs=self.values["max_epochs"]))

    def measure(self) -> Estimate:
        """Train a few steps of a model that is thrown away, to see what the training will cost.

        Raises
        ------
        RuntimeError
            If something is to be mended first, or a training is under way.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._busy or not self._is_looking)
            before = self._begin_measuring()
        return self._measure(*before)

    def _begin_measuring(self) -> tuple[TrainingRun | None, str | None]:
        """Take the place for work; the last training and how it ended, which are shown again afterwards."""
        before = self.run, self._outcome
        self._begin()
        return before

    def _measure(self, run: TrainingRun | None, outcome: str | None) -> Estimate:
        try:
            self._enter("Measuring a few steps.")
            with collected_warnings():
                model = self._class(self.adata, **self._options_of_model())
            kept = None if self._runs is None else model.module
            cost = probe(begun_by(model, **self._options_of_training()), kept)
        finally:
            self.run = run
            self._end(outcome)
        self.estimate = str(cost)
        return cost

    def _take_entries(self, change: Any) -> None:
        self.estimate = ""
        super()._take_entries(change)

    def _offer_to_go_on(self, fill_in: bool) -> None:
        """Say whether the last run in the folder was left unfinished, and fill in its settings."""
        left = self._runs.unfinished
        if left is None:
            return
        self.resumable = f"{left} was left in epoch {self._runs.epoch_of(left):,}: its kernel has ended."
        try:
            settings = self._runs.settings_of(left)
            if fill_in:
                self._fill_in(settings)
        except (TypeError, ValueError) as error:  # of another model or other cells, or damaged
            self.resumable = ""
            self.show_error(error)

    def _take_up(self) -> None:
        """Take the unfinished run's folder and settings."""
        left = None if self._runs is None else self._runs.unfinished
        if left is None:
            why = f"{self._runs.folder} holds no unfinished run" if self._runs else "no checkpoint_dir was given"
            raise RuntimeError(f"There is nothing to go on with: {why}. Train anew.")
        settings = self._runs.settings_of(left)
        self._fill_in(settings)
        self._folder, self._kept = left, settings

    def _click_preset(self, content: dict, buffers: list) -> None:
        if content.get("name") in PRESETS and not self._busy:
            self._in_background(lambda: self._telling(lambda: self.preset(content["name"])))

    def _click_estimate(self, content: dict, buffers: list) -> None:
        with self._lock:
            self._accept(content)
            before = self._begin_measuring()
        self._in_background(lambda: self._telling(lambda: self._measure(*before)))

    def _click_save(self, content: dict, buffers: list) -> None:
        settings = self._noted_settings()
        self.send({"op": "saved", "text": settings.as_json(), "sha256": settings.sha256})

    def _click_load(self, content: dict, buffers: list) -> None:
        if isinstance(content.get("text"), str):
            self._fill_in(settings_of(content["text"], "The file"))
            self.error = None

    def _click_go_on(self, content: dict, buffers: list) -> None:
        with self._lock:
            self._take_up()
            self._begin()
        self._in_background(lambda: self._train(resume=True))

    def _telling(self, work: Callable[[], Any]) -> None:
        """What goes wrong is on the screen."""
        try:
            work()
        except Exception as error:  # noqa: BLE001 - becomes words
            self.show_error(error)
