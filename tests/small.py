"""Settings under which a model trains in a second, and a way to compare two to the bit."""

import numpy as np

SMALL = {"n_hidden": 16, "n_latent": 4, "encode_covariates": True}
QUICK = {"max_epochs": 2, "batch_size": 64, "progress": False}


def fingerprint(model) -> dict[str, bytes]:
    """Every weight and buffer, to the bit."""
    return {name: np.ascontiguousarray(t.cpu().numpy()).tobytes() for name, t in model.module.state_dict().items()}
