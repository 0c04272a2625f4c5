"""scvi-tools' side of bench_scvi_tools_models.py: loads a model that was written for it, or trains one, and keeps its
latents beside the folder. Runs in scvi-tools' environment, and imports nothing of ours.

    load <folder> <data>                     train <folder> <data> <class> <options>
"""

import ast
import sys
from pathlib import Path

import anndata
import numpy as np
import scvi
from upstream import ON_ONE_CPU, prepare


def main(what: str, folder: str, data: str, name: str = "", options: str = "{}"):
    prepare(seed=0)
    cells = anndata.read_h5ad(Path(data) / "cells.h5ad")
    if what == "load":
        cls = scvi.model.SCANVI if Path(folder).name.startswith("SCANVI") else scvi.model.SCVI
        model = cls.load(folder, cells, accelerator="cpu")
    else:
        cls = getattr(scvi.model, name)
        keys = {"batch_key": "batch", "categorical_covariate_keys": ["sex"], "continuous_covariate_keys": ["age"]}
        keys |= {
            "SCVI": {"labels_key": "cell_type"},
            "SCANVI": {"labels_key": "cell_type", "unlabeled_category": "Unknown"},
            "TOTALVI": {"protein_expression_obsm_key": "proteins"},
        }[name]
        cls.setup_anndata(cells, **keys)
        model = cls(cells, **ast.literal_eval(options))
        model.train(max_epochs=3, **ON_ONE_CPU)
        model.save(folder)
    said = {"latents": model.get_latent_representation()}
    if cls is scvi.model.SCANVI:
        said["probabilities"] = model.predict(soft=True).to_numpy()
    np.savez(f"{folder}.npz", **said)


if __name__ == "__main__":
    main(*sys.argv[1:])
