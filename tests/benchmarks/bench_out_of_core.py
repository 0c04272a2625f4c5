"""Training from a file: peak memory of 50,000 and of 200,000 cells, and how fast minibatches come beside how fast a
network takes them. By hand: `python tests/benchmarks/bench_out_of_core.py [FOLDER]`; some minutes, 400 MB of disk.

Where annbatch is installed (Python 3.12), the same cells are also read from a collection that it wrote: by annbatch
(`read_collection`), and by our own reader of zarr. `loader` and `training` are cells per CPU second.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
from scipy import sparse

N_GENES, SEEN = 2000, 190  # genes, and those of them that a cell has
STEPS = 150


def write(path: Path, n_cells: int) -> None:
    rng = np.random.default_rng(0)
    indices = np.arange(SEEN, dtype=np.int32) * (N_GENES // SEEN)
    indices = indices + rng.integers(0, N_GENES // SEEN, (n_cells, SEEN), dtype=np.int32)
    data = (1 + rng.poisson(1, n_cells * SEEN)).astype(np.float32)
    counts = sparse.csr_matrix((data, indices.ravel(), np.arange(0, n_cells * SEEN + 1, SEEN)), (n_cells, N_GENES))
    obs = pd.DataFrame({"batch": pd.Categorical(rng.choice(["a", "b", "c"], n_cells))}, index=map(str, range(n_cells)))
    ad.AnnData(counts, obs=obs, var=pd.DataFrame(index=[f"gene{i}" for i in range(N_GENES)])).write_h5ad(path)


def write_collection(path: Path, source: Path) -> None:
    """In a process of its own, whose memory does not count."""
    code = (
        "import sys, numpy, annbatch\n"
        "collection = annbatch.DatasetCollection(sys.argv[1])\n"
        "collection.add_adatas([sys.argv[2]], dataset_size=25_000, rng=numpy.random.default_rng(0))"
    )
    subprocess.run([sys.executable, "-c", code, str(path), str(source)], check=True, capture_output=True)


def measure(reader: str, path: str) -> None:
    """In a process of its own: peak memory, and cells per CPU-second of loader and training."""
    import scarches_widgets as sca
    from scarches_widgets.training.limits import peak_memory
    from scarches_widgets.training.plan import TrainingPlan

    if reader == "annbatch":
        adata = sca.bridges.annbatch_collection.read_collection(path)
    else:
        adata = sca.read(sorted(Path(path).glob("dataset_*")) if reader == "zarr" else path, backed="r")
    model = sca.models.SCVI(adata, batch_key="batch")
    cells = model._training_cells(TrainingPlan(shuffle_block=1024))
    began, n = time.process_time(), 0
    for step, minibatch in enumerate(cells.train(0)):
        n += len(minibatch)
        if step == 2 * STEPS:
            break
    loader = n / (time.process_time() - began)
    began = time.process_time()
    model.watch_runs(lambda run: run.subscribe(lambda event: run.stop() if getattr(event, "step", 0) == STEPS else 0))
    model.train(1, shuffle_block=1024, progress=False)
    training = STEPS * 128 / (time.process_time() - began)
    print(json.dumps({"peak_mb": peak_memory() / 1e6, "loader": loader, "training": training}))


def main(folder: Path) -> None:
    rows = {}
    for n_cells in (50_000, 200_000):
        path, collection = folder / f"{n_cells}.h5ad", folder / f"{n_cells}.zarr"
        write(path, n_cells)
        sources = {"h5ad": path}
        if find_spec("annbatch") is not None:
            write_collection(collection, path)
            sources |= {"zarr": collection, "annbatch": collection}
        for reader, source in sources.items():
            command = [sys.executable, __file__, "--measure", reader, str(source)]
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            rows[reader, n_cells] = json.loads(done.stdout.splitlines()[-1])
    table = pd.DataFrame(rows).T.rename_axis(["reader", "cells"]).sort_index()
    table["loader / training"] = table["loader"] / table["training"]
    print(table.round(1).to_string())
    peaks = table["peak_mb"].unstack()
    print(f"Peak memory of 200,000 cells in that of 50,000: {(peaks[200_000] / peaks[50_000]).round(3).to_dict()}")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--measure"]:
        measure(*sys.argv[2:])
    else:
        with tempfile.TemporaryDirectory(dir=sys.argv[1] if len(sys.argv) > 1 else None) as scratch:
            main(Path(scratch))
