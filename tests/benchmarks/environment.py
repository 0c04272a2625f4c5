"""scvi-tools, or scArches, in an environment of its own, outside the repository: made on first use (3 minutes, 1.9 GB),
then reused.

By hand, the same (torch first and in both lines, or pip brings another build of it):

    python3 -m venv ~/.cache/scarches_widgets/scvi-tools-1.4.2
    ~/.cache/scarches_widgets/scvi-tools-1.4.2/bin/python -m pip install torch==2.13.0
    ~/.cache/scarches_widgets/scvi-tools-1.4.2/bin/python -m pip install torch==2.13.0 scvi-tools==1.4.2 pandas==2.3.3
"""

import json
import os
import subprocess
import sys
from pathlib import Path

DEFAULT_ENVIRONMENT = Path.home() / ".cache" / "scarches_widgets" / "scvi-tools-1.4.2"
TORCH = "torch==2.13.0"
UPSTREAM = ("scvi-tools==1.4.2", "pandas==2.3.3")
SCARCHES_ENVIRONMENT = DEFAULT_ENVIRONMENT.with_name("scarches-0.6.1")
SCARCHES = ("scarches==0.6.1", "anndata==0.11.4", "zarr<3", "scipy<1.14", "numpy<2", "torch_geometric", "captum")


def python_of(environment: Path) -> str:
    return str(environment / "bin" / "python")


def run_in(environment: Path, arguments: list[str]):
    """Run that environment's python; -E and -s keep this process's PYTHONPATH and the user's packages out of it."""
    one_thread = {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run([python_of(environment), "-E", "-s", *arguments], check=True, env=one_thread)


def printed_by(command: list[str], one_thread: bool = True) -> dict:
    """The last line that a worker prints, which is JSON."""
    threads = {"OMP_NUM_THREADS": "1"} if one_thread else {}
    done = subprocess.run(command, env={**os.environ, **threads}, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{done.stderr[-3000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def make_environment(environment: Path, upstream: tuple[str, ...] = UPSTREAM):
    """Install scvi-tools (or scArches) there, unless the right versions are there already. Needs a package index the
    first time."""
    if has_packages(environment, tuple(pin.lower() for pin in (TORCH, *upstream) if "==" in pin)):
        return
    print(f"Installing {', '.join((TORCH, *upstream))} into {environment}", flush=True)
    subprocess.run([sys.executable, "-m", "venv", str(environment)], check=True)
    # Not in isolated mode: a machine's pip may be configured by environment variables or by a user's file.
    for packages in ([TORCH], [TORCH, *upstream]):
        subprocess.run([python_of(environment), "-m", "pip", "install", "--quiet", *packages], check=True)


def has_packages(environment: Path, pins: tuple[str, ...]) -> bool:
    if not Path(python_of(environment)).exists():
        return False
    freeze = [python_of(environment), "-m", "pip", "list", "--format=freeze"]
    lines = subprocess.run(freeze, check=True, capture_output=True, text=True).stdout.splitlines()
    installed = {line.split("+")[0].lower() for line in lines}  # torch==2.13.0+cpu is 2.13.0
    return set(pins) <= installed
