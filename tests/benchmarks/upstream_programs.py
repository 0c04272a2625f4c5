"""scArches' side of bench_programs.py: EXPIMAP of one simulation, one seed. In its own environment.

    <environment>/bin/python -E -s upstream_programs.py CELLS.h5ad RESULT.npz --seed 0 --epochs 40 --lasso 0.7

The file holds raw counts in X, obs["batch"], the mask in varm["I"] and its names in uns["terms"]. Its optimiser, KL
weight and KL warm-up are scArches' defaults; early stopping is off, so that all epochs are trained. This file imports
nothing of scarches_widgets, which that environment lacks.
"""

import argparse
import time

import anndata
import numpy as np
import torch

anndata.read = anndata.read_h5ad  # which scArches imports, and anndata 0.11 only warns of
import scarches  # noqa: E402


def main():
    arguments = parse_arguments()
    torch.set_num_threads(1)
    torch.manual_seed(arguments.seed)
    adata = anndata.read_h5ad(arguments.cells)
    adata.X = adata.X.toarray()  # its data set takes no other
    adata.uns["terms"] = list(adata.uns["terms"])

    start = time.process_time()
    model = scarches.models.EXPIMAP(adata, condition_key="batch", hidden_layer_sizes=[256, 256], recon_loss="nb")
    model.train(
        n_epochs=arguments.epochs, alpha=arguments.lasso, seed=arguments.seed, use_early_stopping=False, monitor=False
    )
    seconds = time.process_time() - start

    z = model.get_latent(mean=True)
    loadings = model.model.decoder.L0.expr_L.weight.detach().numpy()  # (genes, terms)
    np.savez(arguments.result, cpu_seconds=seconds, z=z, loadings=loadings)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("cells", "result"):
        parser.add_argument(name)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--epochs", type=int, required=True)
    parser.add_argument("--lasso", type=float, required=True)
    return parser.parse_args()


if __name__ == "__main__":
    main()
