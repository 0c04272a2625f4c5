"""What repo2docker does with this repository, without Docker; by hand, some ten minutes:

    PYTHONPATH=tests python tests/benchmarks/binder_replay.py

A clone of HEAD, a fresh environment from `binder/requirements.txt`, `binder/postBuild`, then `binder/start` before the
server, as repo2docker's image starts it. In a real browser the address without a path must open the tour, which then
runs from top to bottom. Printed are seconds, the environment's size, and the peak memory of server and kernels, which
must stay below 2 GB (the browser is not counted). PyTorch's own index is left out, for pip's settings here may name
others; so the torch that this replay installs may be larger than Binder's.
"""

from __future__ import annotations

import argparse
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path
from types import SimpleNamespace

import psutil
from browser.chromium import chromium
from browser.conftest import FLAGS
from browser.lab import TOKEN, Notebook
from playwright.sync_api import sync_playwright
from process_memory import held_by

ROOT = Path(__file__).resolve().parents[2]
TOUR = "notebooks/00_tour.ipynb"
MOST_MEMORY = 2e9  # bytes
PATIENCE = 600  # seconds, for what takes some on an idle machine


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition(";")[0] + ".")
    parser.add_argument("--folder", type=Path, help="where it is made; an environment that is there is taken as it is")
    folder = parser.parse_args().folder or Path(tempfile.mkdtemp(prefix="binder-"))
    folder.mkdir(parents=True, exist_ok=True)
    took: dict[str, float] = {}

    def timed(name, work, *arguments):
        start = time.monotonic()
        result = work(*arguments)
        took[name] = time.monotonic() - start
        return result

    repository = timed("clone", cloned, folder)
    environment = {**os.environ, "HOME": str(folder / "home"), "VIRTUAL_ENV": str(folder / "venv")}
    for name in ("PYTHONPATH", "JUPYTER_CONFIG_DIR"):
        environment.pop(name, None)
    environment["PATH"] = f"{folder / 'venv' / 'bin'}:{environment['PATH']}"
    (folder / "home").mkdir(exist_ok=True)
    timed("install", install, repository, folder / "venv", environment)
    timed("postBuild", lambda: subprocess.run(["binder/postBuild"], cwd=repository, env=environment, check=True))
    server, url = timed("start", started, repository, environment)
    try:
        with Memory(server.pid) as memory:
            timed("tour in the browser", tour_runs, url, repository)
    finally:
        server.terminate()
        server.wait(30)
    size = sum(path.stat().st_size for path in (folder / "venv").rglob("*") if path.is_file() and not path.is_symlink())
    print("\n".join(f"{name:20} {seconds:8.1f} s" for name, seconds in took.items()))
    print(f"{'environment':20} {size / 1e9:8.2f} GB\n{'server and kernels':20} {memory.peak / 1e9:8.2f} GB at most")
    assert memory.peak <= MOST_MEMORY, "Server and kernels took more than 2 GB."


def cloned(folder: Path) -> Path:
    """A fresh clone of HEAD: what is not committed is not on Binder."""
    repository = folder / "repository"
    subprocess.run(["rm", "-rf", repository], check=True)
    subprocess.run(["git", "clone", "-q", "--depth=1", ROOT.as_uri(), repository], check=True)
    return repository


def install(repository: Path, venv: Path, environment: dict[str, str]) -> None:
    """As repo2docker's Python build pack: the version of `runtime.txt`, then `pip install -r`."""
    asked = (repository / "binder" / "runtime.txt").read_text().strip()
    here = f"python-{sys.version_info.major}.{sys.version_info.minor}"
    assert asked == here, f"binder/runtime.txt asks for {asked}; run this script by it, not by {here}"
    if venv.exists():
        return
    subprocess.run([sys.executable, "-m", "venv", venv], check=True)
    lines = (repository / "binder" / "requirements.txt").read_text().splitlines()
    replayed = repository / "binder" / "replayed.txt"
    replayed.write_text("\n".join(line for line in lines if not line.startswith("--extra-index-url")))
    pip = [venv / "bin" / "pip", "install", "-q", "--no-cache-dir", "-r", replayed]
    subprocess.run(pip, cwd=repository, env=environment, check=True)


def started(repository: Path, environment: dict[str, str]) -> tuple[subprocess.Popen, str]:
    """The server as the image's command starts it, and its address; one CPU, as Binder gives."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    options = ["--no-browser", "--allow-root", "--ip=127.0.0.1", f"--port={port}", f"--IdentityProvider.token={TOKEN}"]
    options += ["--LabApp.expose_app_in_browser=True"]  # through which the test gives commands
    command = ["taskset", "-c", "1", "binder/start", "jupyter", "lab", *options]
    server = subprocess.Popen(command, cwd=repository, env=environment)
    url, end = f"http://127.0.0.1:{port}", time.monotonic() + PATIENCE
    while time.monotonic() < end and server.poll() is None:
        try:
            urllib.request.urlopen(f"{url}/api/status?token={TOKEN}", timeout=10).close()
            return server, url
        except (urllib.error.URLError, ConnectionError):
            time.sleep(0.2)
    raise RuntimeError(f"The server did not start within {PATIENCE} s.")


def tour_runs(url: str, repository: Path) -> None:
    """The address without a path opens the tour with Binder's note; all of its cells run."""
    with sync_playwright() as playwright:
        path = chromium(playwrights_own=Path(playwright.chromium.executable_path))
        browser = playwright.chromium.launch(executable_path=path, headless=True, args=FLAGS)
        context = browser.new_context(viewport={"width": 1280, "height": 1600})
        nb = Notebook(SimpleNamespace(url=url, root=repository), context, repository / TOUR, repository)
        nb.page.goto(f"{url}/?token={TOKEN}")
        nb.page.locator(".jp-NotebookPanel").first.wait_for(timeout=1000 * PATIENCE)
        assert nb.page.url.split("?")[0].endswith(f"/lab/tree/{TOUR}"), f"{nb.page.url} was opened, not the tour"
        note = nb.page.locator(".jp-RenderedMarkdown").filter(has_text="This session is public and temporary")
        note.first.wait_for(timeout=1000 * PATIENCE)
        nb.open(PATIENCE)
        nb.run_all(timeout=PATIENCE)  # raises the error of a cell
        nb.wait_for(".scaw-embedding-view .scaw-chart[data-ready]", timeout=PATIENCE)
        print("Picture of the tour:", nb.screenshot("tour"))
        nb.check()
        browser.close()


class Memory:
    """The most memory that a process and its children held together while this was open: the sum of their RSS."""

    def __init__(self, pid: int):
        self.peak = 0
        self._root = psutil.Process(pid)
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._ended.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._ended.wait(0.2):
            self.peak = max(self.peak, held_by(self._root))


if __name__ == "__main__":
    main()
