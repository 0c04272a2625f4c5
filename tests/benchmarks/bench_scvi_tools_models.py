"""Models that travel between scvi-tools 1.4.2 and this package, both ways; prints the greatest difference of latents.

    python tests/benchmarks/bench_scvi_tools_models.py

There and back: an SCVI and a SCANVI, with covariates, are trained here, written by `sca.hub.to_scvi_tools`, and loaded
by scvi-tools in its own environment (made on first use, see environment.py). And the other way: a reference that
scvi-tools trains there, also a TOTALVI, one of whose batches lacks proteins, is read here by
`sca.hub.from_scvi_tools`. Exits with 1 if any latent or class probability
differs by more than 1e-4.
"""

import sys
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
from environment import DEFAULT_ENVIRONMENT, make_environment, run_in

import scarches_widgets as sca

WORKER = Path(__file__).with_name("scvi_tools_models_worker.py")
KEYS = {
    "batch_key": "batch",
    "labels_key": "cell_type",
    "unlabeled_category": "Unknown",
    "categorical_covariate_keys": ["sex"],
    "continuous_covariate_keys": ["age"],
}
OPTIONS = {
    "defaults": {"encode_covariates": True},
    "scArches": {
        "n_layers": 2, "encode_covariates": True, "deeply_inject_covariates": False,
        "use_layer_norm": "both", "use_batch_norm": "none",
    },
    "per batch": {"encode_covariates": True, "dispersion": "gene-batch", "gene_likelihood": "nb"},
}  # fmt: skip
ALLOWED = 1e-4


def cells_with_covariates():
    cells, rng = sca.datasets.atlas(n_obs=600, n_vars=100, n_batches=3, n_types=4, seed=1), np.random.default_rng(0)
    cells.obs["sex"] = rng.choice(["f", "m", "x"], cells.n_obs)
    cells.obs["age"] = rng.normal(size=cells.n_obs)
    counts = rng.poisson(9, (cells.n_obs, 12)) * (cells.obs["batch"] != "batch1").to_numpy()[:, None]
    cells.obsm["proteins"] = pd.DataFrame(counts, cells.obs_names, [f"protein {i}" for i in range(12)])
    return cells


def said_by(model, cells) -> dict[str, np.ndarray]:
    said = {"latents": model.get_latent_representation(cells)}
    if hasattr(model, "predict"):
        said["probabilities"] = model.predict(cells, soft=True).to_numpy()
    return said


def main() -> int:
    make_environment(DEFAULT_ENVIRONMENT)
    cells, worst = cells_with_covariates(), 0.0
    with tempfile.TemporaryDirectory() as scratch:
        scratch = Path(scratch)
        cells.write_h5ad(scratch / "cells.h5ad")
        for name, options in OPTIONS.items():
            for cls in (sca.models.SCVI, sca.models.SCANVI):
                folder = scratch / f"{cls.__name__} {name}"
                model = cls(cells, **KEYS, **options)
                model.train(max_epochs=3, progress=False)
                sca.hub.to_scvi_tools(model, folder)
                run_in(DEFAULT_ENVIRONMENT, [str(WORKER), "load", str(folder), str(scratch)])
                worst = max(worst, difference("here -> there", folder, said_by(model, cells)))
                folder = scratch / f"{cls.__name__} {name} of theirs"
                run_in(
                    DEFAULT_ENVIRONMENT, [str(WORKER), "train", str(folder), str(scratch), cls.__name__, repr(options)]
                )
                worst = max(worst, difference("there -> here", folder, said_by(sca.hub.from_scvi_tools(folder), cells)))
        folder = scratch / "TOTALVI of theirs"
        run_in(DEFAULT_ENVIRONMENT, [str(WORKER), "train", str(folder), str(scratch), "TOTALVI", "{}"])
        worst = max(worst, difference("there -> here", folder, said_by(sca.hub.from_scvi_tools(folder), cells)))
    print(f"greatest difference {worst:.1e}; {ALLOWED:g} is allowed")
    return int(not worst <= ALLOWED)


def difference(way: str, folder: Path, ours: dict[str, np.ndarray]) -> float:
    theirs = np.load(folder.with_name(folder.name + ".npz"))
    found = {name: float(np.abs(theirs[name] - values).max()) for name, values in ours.items()}
    print(f"{way}  {folder.name:28}", *(f"{name} {value:.1e}" for name, value in found.items()), flush=True)
    return max(found.values())


if __name__ == "__main__":
    sys.exit(main())
