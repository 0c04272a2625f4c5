"""100,000 cells, mapped while processes are killed: the same bytes, and only what is missing is computed again."""

import os
import re
import signal
import subprocess
import sys
import time

import anndata as ad
import numpy as np
import pandas as pd
import psutil
import pytest
from benchmarks.process_memory import held_by
from scipy import sparse
from small import QUICK, SMALL

import scarches_widgets as sca
from scarches_widgets.bridges.dask_executor import DaskExecutor, local_client
from scarches_widgets.mapping.chunks import MappedFiles, map_query

pytestmark = pytest.mark.slow
N_CELLS, N_GENES, SEEN, N_TYPES = 100_000, 300, 30, 6
CHUNKS, CHUNK_SIZE = 20, 5120
MOST_MEMORY = 2e9  # bytes, of all processes of a mapping


def cells(n_cells: int, seed: int) -> ad.AnnData:
    """Of each 10 genes a cell has one, which its type prefers."""
    rng = np.random.default_rng(seed)
    preferred = np.random.default_rng(0).integers(0, 10, (N_TYPES, SEEN))
    types = rng.integers(0, N_TYPES, n_cells)
    within = np.where(rng.random((n_cells, SEEN)) < 0.5, preferred[types], rng.integers(0, 10, (n_cells, SEEN)))
    indices = (within + np.arange(SEEN) * 10).astype(np.int32)
    counts = (1 + rng.poisson(1, n_cells * SEEN)).astype(np.float32)
    starts = np.arange(0, n_cells * SEEN + 1, SEEN)
    obs = {"batch": rng.choice(["a", "b"], n_cells), "cell_type": np.char.add("type ", types.astype(str))}
    return ad.AnnData(
        sparse.csr_matrix((counts, indices.ravel(), starts), (n_cells, N_GENES)),
        obs=pd.DataFrame(obs, index=[f"cell{i}" for i in range(n_cells)]),
        var=pd.DataFrame(index=[f"gene{i}" for i in range(N_GENES)]),
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A query, a reference, a model, and what mapping without any accident gives."""
    folder = tmp_path_factory.mktemp("killed")
    cells(N_CELLS, seed=1).write_h5ad(folder / "query.h5ad")
    reference = cells(3000, seed=2)
    reference.write_h5ad(folder / "reference.h5ad")
    model = sca.models.SCVI(reference, batch_key="batch", **SMALL)
    model.train(**QUICK | {"max_epochs": 4})
    model.save(folder / "model")
    mapped_into(folder / "whole", folder)
    return folder


def mapped_into(out, folder, executor=None) -> MappedFiles:
    options = {"labels_key": "cell_type", "search": "faiss", "chunk_size": CHUNK_SIZE, "progress": False}
    return map_query(
        folder / "query.h5ad", folder / "model", out, executor, reference=folder / "reference.h5ad", **options
    )


def parts(out) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (out / "cells").iterdir()}


def test_cells_are_named_rightly(folder):
    table = mapped_into(folder / "whole", folder).labels()
    truth = ad.read_h5ad(folder / "query.h5ad", backed="r").obs["cell_type"].astype(str)
    assert len(parts(folder / "whole")) == CHUNKS and (table["cell_type"].astype(str) == truth).mean() > 0.95


def test_a_worker_of_dask_is_killed_and_all_listen_on_loopback_alone(folder, tmp_path):
    with local_client(2) as client:
        listening = [
            connection.laddr.ip
            for process in [psutil.Process(), *psutil.Process().children(recursive=True)]
            for connection in process.net_connections("inet")
            if connection.status == "LISTEN"
        ]
        assert listening and set(listening) == {"127.0.0.1"}
        killed = []

        def kill_one(executor):
            for outcome in executor:
                if not killed:
                    killed.append(client.submit(os.getpid, pure=False).result())
                    os.kill(killed[0], signal.SIGKILL)
                yield outcome

        executor = DaskExecutor(client)
        imap = executor.imap
        executor.imap = lambda function, tasks: kill_one(imap(function, tasks))
        mapped_into(tmp_path / "out", folder, executor)
    assert killed and parts(tmp_path / "out") == parts(folder / "whole")


def test_the_parent_is_killed_half_way_its_processes_end_and_the_rest_is_mapped_later(folder, tmp_path):
    out = tmp_path / "out"
    command = [sys.executable, "-m", "scarches_widgets.cli", "map", "--source", folder / "query.h5ad", "--saved-model"]
    command += [folder / "model", "--reference", folder / "reference.h5ad", "--labels-key", "cell_type", "--out", out]
    command += ["--chunk-size", CHUNK_SIZE, "--search", "faiss", "--workers", "2"]
    run = subprocess.Popen([*map(str, command)], stderr=subprocess.PIPE)
    most = 0
    while len(list((out / "notes").glob("*.json")) if out.exists() else []) < CHUNKS // 2:
        assert run.poll() is None, run.stderr.read()
        most = max(most, held_by(psutil.Process(run.pid)))
        time.sleep(0.01)
    children = psutil.Process(run.pid).children(recursive=True)
    run.kill()
    run.wait()
    _, alive = psutil.wait_procs(children, timeout=20)
    assert not alive, [re.sub(r"\s+", " ", " ".join(process.cmdline())) for process in alive]
    n_there = len(list((out / "notes").glob("*.json")))
    assert CHUNKS // 2 <= n_there < CHUNKS
    untouched = {path: path.stat().st_mtime_ns for path in (out / "notes").glob("*.json")}
    mapped = mapped_into(out, folder)
    assert mapped.report["was_there"].sum() == n_there
    assert untouched == {path: path.stat().st_mtime_ns for path in untouched}
    assert parts(out) == parts(folder / "whole")
    assert 3e8 < most < MOST_MEMORY
