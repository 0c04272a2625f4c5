"""Several processes train the model that one would."""

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from small import fingerprint

import scarches_widgets as sca

HERE = Path(__file__).parent
EXACT = {"float64": 1e-12, "float32": 1e-5}
LOOSE = {"float64": 1e-9, "float32": 2e-4}  # of statistics, and of what a batch normalisation takes away again
BEFORE_NORM = "encoder.mean.bias"  # how their names end


def environment() -> dict[str, str]:
    paths = [str(HERE.parent), os.environ.get("PYTHONPATH", "")]
    return os.environ | {"PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"}


def started(task: str, out: Path, n_processes: int, *rest: str) -> list[tuple[int, str]]:
    """Run a task of `rank_worker` in so many processes; each one's exit status and what it said."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    env = environment() | {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    command = [sys.executable, str(HERE / "rank_worker.py"), task, str(out), *rest]
    processes = []
    for rank in range(n_processes):
        of_rank = {"RANK": str(rank), "WORLD_SIZE": str(n_processes)} if n_processes > 1 else {}
        options = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        processes.append(subprocess.Popen(command, env=env | of_rank, **options))
    said = [process.communicate(timeout=400)[0] for process in processes]
    return [(process.returncode, text) for process, text in zip(processes, said)]


Weights = dict[str, np.ndarray]


def trained(out: Path, n_processes: int, n_epochs: int, *precisions: str) -> dict[str, Weights]:
    """Per precision and model the weights, which all processes must have to the bit."""
    folder = out / str(n_processes)
    folder.mkdir()
    for status, said in started("train_all", folder, n_processes, str(n_epochs), *precisions):
        assert status == 0, said
    results = {}
    for path in sorted(folder.glob("* 0.npz")):
        name = path.name.removesuffix(" 0.npz")
        results[name] = dict(np.load(path))
        others = [np.load(folder / f"{name} {rank}.npz") for rank in range(1, n_processes)]
        for other in others:
            for key, values in results[name].items():
                np.testing.assert_array_equal(other[key], values, err_msg=f"{name}: {key}")
    return results


def apart(one: Weights, other: Weights) -> dict[str, float]:
    """The largest difference in each tensor, relative to its largest value or to 1, whichever is more."""
    return {
        key: float(np.abs(values - other[key]).max(initial=0) / max(1.0, np.abs(values).max(initial=0)))
        for key, values in one.items()
    }


def too_far(name: str, one: Weights, other: Weights, rounding: dict[str, float] | None = None) -> dict[str, float]:
    """The tensors that differ by more than rounding, and by more than twice what `rounding` says of each.

    A bias before a batch normalisation has a gradient of zero, or of the KL term alone, while that weighs little; Adam
    makes steps of its rounding. Statistics are not learned, but follow what is.
    """
    precision = name.split()[0]
    limits = {key: 2 * (rounding or {}).get(key, 0.0) for key in one}
    for key, limit in limits.items():
        is_loose = key.startswith("statistic") or key.endswith(BEFORE_NORM)
        limits[key] = max(limit, (LOOSE if is_loose else EXACT)[precision])
    return {key: d for key, d in apart(one, other).items() if not d < limits[key]}


def test_two_processes_train_what_one_does(tmp_path):
    alone, both = (trained(tmp_path, n, 2, "float64") for n in (1, 2))
    assert len(alone) == 8
    for name, weights in alone.items():
        assert not too_far(name, weights, both[name])


@pytest.mark.slow
def test_fifty_steps_in_one_two_or_three_processes_give_the_same_weights_and_histories(tmp_path):
    """trVAE's narrowest kernels have slopes of 1e6. On y, where units are zero, cells come so near each other (here in
    step 19) that a last bit of float32 decides how the training goes on, with one process too: there, several may end
    as far from one as the last bits of the initial weights take it."""
    alone, *others = (trained(tmp_path, n, 10, "float64", "float32") for n in (1, 2, 3))
    assert len(alone) == 16
    for name, weights in alone.items():
        rounding = rounding_of(name, weights, tmp_path) if name == "float32 TRVAE, on y" else None
        for several in others:
            assert not too_far(name, weights, several[name], rounding)


def rounding_of(name: str, weights: Weights, out: Path) -> dict[str, float]:
    """How far other last bits of the initial weights take each tensor, at most of eight tries, in one process."""
    for status, said in started("train_nudged", out, 1, "10", name.split(maxsplit=1)[1], "8"):
        assert status == 0, said
    courses = [apart(weights, np.load(path)) for path in out.glob("nudged *.npz")]
    assert len(courses) == 8
    return {key: max(course[key] for course in courses) for key in weights}


@pytest.mark.slow
def test_early_stopping_is_in_the_same_epoch_one_stops_all_and_what_would_differ_is_refused(tmp_path):
    epochs = []
    for n, task in ((1, "stop_early"), (2, "stop_and_refuse")):
        folder = tmp_path / str(n)
        folder.mkdir()
        for status, said in started(task, folder, n):
            assert status == 0, said
        epochs += [path.read_text() for path in sorted(folder.glob("epochs *"))]
        model = sca.models.SCVI.load(folder / "model")  # which rank 0 wrote
        assert len(model.history) == int(epochs[-1].split()[0]) < 60
    assert len(epochs) == 3 and len(set(epochs)) == 1
    for rank in (0, 1):
        stopped, other_cells, not_shared = (tmp_path / "2" / f"said {rank}").read_text().splitlines()
        assert stopped == "stopped after 1 epochs"
        assert "do not have the same cells" in other_cells and "need a seed" in other_cells
        assert "ScPoliModule cannot be trained by 2 processes" in not_shared


@pytest.mark.slow
def test_after_a_kill_the_others_end_in_time_and_all_go_on_to_the_weights_of_an_unbroken_run(tmp_path):
    unbroken, by_hand, by_torchrun = (tmp_path / name for name in ("unbroken", "by hand", "by torchrun"))
    for folder in (unbroken, by_hand, by_torchrun):
        folder.mkdir()
    (unbroken / "killed").touch()
    for status, said in started("killed_at_epoch_three", unbroken, 2):
        assert status == 0, said
    (survivor, said), (killed, _) = started("killed_at_epoch_three", by_hand, 2)
    assert killed == -signal.SIGKILL and survivor == 1
    assert "process 1 has ended, so process 0 cannot go on" in said and "resume=True" in said
    for status, said in started("killed_at_epoch_three", by_hand, 2):
        assert status == 0, said
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command += ["--max-restarts", "1", str(HERE / "rank_worker.py"), "killed_at_epoch_three", str(by_torchrun)]
    run = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=300)
    assert run.returncode == 0 and (by_torchrun / "killed").exists(), run.stderr
    expected = sca.models.SCVI.load(unbroken / "model")
    for folder in (by_hand, by_torchrun):
        resumed = sca.models.SCVI.load(folder / "model")
        assert fingerprint(resumed) == fingerprint(expected)
        pd.testing.assert_frame_equal(resumed.history.drop(columns="seconds"), expected.history.drop(columns="seconds"))
