"""The node that Playwright's wheel brings, so that JavaScript is tested without another installation."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import playwright

NODE = Path(playwright.__file__).parent / "driver" / ("node.exe" if os.name == "nt" else "node")


def node(*arguments: str | Path, timeout: float = 120) -> subprocess.CompletedProcess:
    """Run node; its exit status and what it wrote, as text."""
    command = [NODE, "--disable-warning=MODULE_TYPELESS_PACKAGE_JSON", *arguments]
    return subprocess.run(command, capture_output=True, text=True, encoding="utf-8", timeout=timeout)
