"""What scvi-tools' sides of the benchmarks share. Runs in scvi-tools' environment, and imports nothing of ours."""

import logging
import warnings

import scvi
import torch

ARCHITECTURE = {  # as published with scArches
    "n_layers": 2,
    "encode_covariates": True,
    "deeply_inject_covariates": False,
    "use_layer_norm": "both",
    "use_batch_norm": "none",
}
ON_ONE_CPU = {"accelerator": "cpu", "enable_progress_bar": False}


def prepare(seed: int):
    """One thread, a seed, and errors only: lightning advises on loaders and devices at each run."""
    warnings.simplefilter("ignore")
    for name in ("lightning.pytorch", "lightning.fabric", "scvi"):
        logging.getLogger(name).setLevel(logging.ERROR)
    torch.set_num_threads(1)
    scvi.settings.seed = seed
