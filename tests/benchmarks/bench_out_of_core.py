"""Training from a file: peak memory of 50,000 and of 200,000 cells, and how fast minibatches come beside how fast a
network takes them. By hand: `python tests/benchmarks/bench_out_of_core.py [FOLDER]`; some minutes, 400 MB of disk.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
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


def measure(path: str) -> None:
    """In a process of its own: peak memory, and cells per CPU-second of loader and training."""
    import scarches_widgets as sca
    from scarches_widgets.training.limits import peak_memory
    from scarches_widgets.training.plan import TrainingPlan

    adata = sca.read(path, backed="r")
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
        path = folder / f"{n_cells}.h5ad"
        write(path, n_cells)
        command = [sys.executable, __file__, "--measure", str(path)]
        rows[n_cells] = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    table = pd.DataFrame(rows).T.rename_axis("cells")
    table["loader / training"] = table["loader"] / table["training"]
    print(table.round(1).to_string())
    print(f"Peak memory of 200,000 cells in that of 50,000: {table['peak_mb'].iloc[1] / table['peak_mb'].iloc[0]:.3f}")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--measure"]:
        measure(sys.argv[2])
    else:
        with tempfile.TemporaryDirectory(dir=sys.argv[1] if len(sys.argv) > 1 else None) as scratch:
            main(Path(scratch))
