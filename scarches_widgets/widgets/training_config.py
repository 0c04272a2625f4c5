"""Settings of a training as JSON, and the folder in which a panel's runs keep them beside their checkpoints."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..data.names import DataError, shown

KIND, VERSION = "scarches_widgets training settings", 1
LARGEST = 1_000_000  # characters
SETTINGS, ENDED = "settings.json", "ended"  # in the folder of a run


@dataclass(frozen=True)
class Settings:
    """What a form holds besides its defaults."""

    model: str
    options: dict[str, Any]

    @property
    def sha256(self) -> str:
        """The same for the same model and options, in whatever order."""
        return hashlib.sha256(_canonical({"model": self.model, "options": self.options})).hexdigest()

    def as_json(self) -> str:
        content = {"kind": KIND, "version": VERSION, "model": self.model, "options": self.options}
        text = json.dumps({**content, "sha256": self.sha256}, indent=1, ensure_ascii=False, allow_nan=False)
        return text + "\n"


def settings_of(text: str, where: str) -> Settings:
    """Read what `as_json` gave.

    Raises
    ------
    DataError
        If it is something else, or was changed since by hand.
    """
    try:
        if len(text) > LARGEST:
            raise ValueError("it is too long")
        document = json.loads(text)
        if document.get("kind") != KIND or document["version"] != VERSION:
            raise ValueError("it does not say that it is one of this version")
        model, options = document["model"], document["options"]
        if not isinstance(model, str) or not isinstance(options, dict):
            raise ValueError("it names no model and options")
        settings = Settings(model, options)
        changed = document["sha256"] != settings.sha256
    except (AttributeError, KeyError, TypeError, ValueError, RecursionError) as fault:
        raise DataError(
            f"{shown(where)} holds no settings of a training: {fault}. Save some from a TrainingPanel."
        ) from fault
    if changed:
        raise DataError(
            f"The settings in {shown(where)} were changed after they were saved: they do not agree with their "
            "fingerprint. Save them anew from a panel."
        )
    return settings


def _canonical(content: dict) -> bytes:
    return json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


class Runs:
    """The folder of a panel's runs: `run-001`, `run-002`, … each with its settings and checkpoints.

    Parameters
    ----------
    folder
        Made when the first run begins.
    """

    def __init__(self, folder: str | os.PathLike):
        self.folder = Path(folder).expanduser()

    def _all(self) -> list[Path]:
        return sorted(path for path in self.folder.glob("run-[0-9]*") if path.is_dir())

    @property
    def unfinished(self) -> Path | None:
        """The newest run, if its process ended before it did and it left a checkpoint."""
        runs = self._all()
        if not runs or (runs[-1] / ENDED).exists() or not (runs[-1] / SETTINGS).exists():
            return None
        return runs[-1] if list(runs[-1].glob("epoch-*-step-*")) else None

    @staticmethod
    def epoch_of(run: Path) -> int:
        """The epoch that the newest checkpoint of a run stands in."""
        return int(max(run.glob("epoch-*-step-*")).name.split("-")[1])

    def begin(self, settings: Settings) -> Path:
        """A new folder for a run with these settings."""
        last = max((int(run.name.removeprefix("run-")) for run in self._all()), default=0)
        path = self.folder / f"run-{last + 1:03d}"
        path.mkdir(parents=True)
        (path / SETTINGS).write_text(settings.as_json(), encoding="utf-8")
        return path

    @staticmethod
    def settings_of(run: Path) -> Settings:
        return settings_of((run / SETTINGS).read_text(encoding="utf-8"), str(run / SETTINGS))

    @staticmethod
    def end(run: Path, status: str) -> None:
        """Note that a run has ended by itself, so that nobody need resume it."""
        (run / ENDED).write_text(status + "\n", encoding="utf-8")
