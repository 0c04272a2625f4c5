"""A Chromium to test with: one that is there, else one that is brought, else a failure that says how to bring it."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

ON_PATH = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
APT = ("apt-get update", "apt-get install -y --no-install-recommends chromium")
PLAYWRIGHT = "python -m playwright install chromium"
BRINGING = 600  # seconds one command may take


def chromium(playwrights_own: Path) -> Path:
    """Path of a browser that starts; brings one where none is found, and fails the test where that does not work."""
    if browser := _found(playwrights_own):
        return browser
    with _one_at_a_time():
        tried = []
        for commands in _ways():
            if browser := _found(playwrights_own):  # another pytest worker brought it meanwhile
                return browser
            tried += [reason for command in commands if (reason := _failure(command))]
    if browser := _found(playwrights_own):
        return browser
    pytest.fail(
        "No Chromium was found and none could be brought, so the browser tests cannot run.\n"
        + "\n".join(tried)
        + f"\nInstall one by hand: `{' && '.join(APT)}` as root, or `{PLAYWRIGHT}`.",
        pytrace=False,
    )


def _found(playwrights_own: Path) -> Path | None:
    candidates = [Path(path) for name in ON_PATH if (path := shutil.which(name))]
    if playwrights_own.is_file():
        candidates.append(playwrights_own)
    return next((path for path in candidates if not _failure(f"{path} --version")), None)  # Ubuntu's may be a stub


def _ways() -> list[tuple[str, ...]]:
    root = hasattr(os, "geteuid") and os.geteuid() == 0
    with_apt = [APT] if root and shutil.which("apt-get") else []
    return [*with_apt, (PLAYWRIGHT.replace("python", sys.executable, 1),)]


def _failure(command: str) -> str | None:
    """Run a command; None if it worked, else one line that says how it failed."""
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    try:
        run = subprocess.run(command.split(), capture_output=True, text=True, timeout=BRINGING, env=environment)
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"  {command}: {error}"
    last = (run.stderr or run.stdout).strip().splitlines()[-1:] or ["(no message)"]
    return f"  {command}: exit status {run.returncode}: {last[0]}" if run.returncode else None


@contextmanager
def _one_at_a_time() -> Iterator[None]:
    """Parallel pytest workers take turns: apt-get has one lock."""
    with open(Path(tempfile.gettempdir()) / "scarches-widgets-chromium.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
