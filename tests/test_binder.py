"""What a session on Binder begins with; `tests/benchmarks/binder_replay.py` replays a whole launch, by hand."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

from scarches_widgets.training.limits import memory_limit, usable_cpus

ROOT = Path(__file__).resolve().parents[1]
BINDER = ROOT / "binder"


def test_a_session_starts_with_the_containers_limits_and_opens_the_tour():
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    started = subprocess.run(
        [BINDER / "start", "printenv"], env={**os.environ, "PATH": path}, capture_output=True, text=True, check=True
    ).stdout
    assert "public and temporary: no private data, no tokens" in started
    said = dict(line.split("=", 1) for line in started.splitlines() if "=" in line)
    assert int(said["OMP_NUM_THREADS"]) == int(said["NUMBA_NUM_THREADS"]) == usable_cpus()
    assert int(said["MEM_LIMIT"]) == memory_limit()
    folder = Path(said["JUPYTER_CONFIG_PATH"].split(":")[0])
    config = json.loads((folder / "jupyter_server_config.json").read_text())
    _, tree, tour = config["LabApp"]["default_url"].partition("/lab/tree/")
    assert tree and (ROOT / tour).is_file()


def test_each_lesson_gets_the_note_once_and_is_otherwise_as_it_was(tmp_path):
    tour = tmp_path / "tour.ipynb"
    shutil.copyfile(ROOT / "notebooks" / "00_tour.ipynb", tour)
    before = json.loads(tour.read_text(encoding="utf-8"))
    for _ in range(2):
        subprocess.run([sys.executable, BINDER / "note.py", tour], check=True)
    after = json.loads(tour.read_text(encoding="utf-8"))
    assert "Upload no private data" in after["cells"].pop(0)["source"][0]
    assert after == before


def test_what_binder_installs_is_this_package_with_the_versions_that_are_tested():
    lines = (BINDER / "requirements.txt").read_text().splitlines()
    assert {"-e .", "-c constraints.txt"} <= set(lines)
    assert all(os.access(BINDER / name, os.X_OK) for name in ("start", "postBuild"))
