"""One SageNet for bench_spatial.py, ours or scArches 0.6.1's, in a process of its own; prints one line of JSON.

Runs in either environment and imports only the library that it is to measure; `--help` lists the options. Both files
hold log-normalised values, dense, of the same genes; the reference's partitions are the columns of obs that begin with
"class_". Both sides have a gene network by graphical lasso, a TransformerConv of 8 features per gene with dropout 0.2,
and a linear layer; minibatches of 32. scArches trains one such network per partition; ours has one convolution and a
linear layer per partition. CPU seconds are the process's, on one thread: of training, without what is done once before
it, and of mapping, which is scArches' `load_query_data` or our `map_query`.
"""

import argparse
import json
import resource
import time
import warnings

import anndata
import numpy as np
import torch
from scipy.sparse import csr_matrix

BATCH_SIZE = 32  # scArches' default


def scarches(arguments, reference, query, columns: list[str]) -> dict:
    from scarches.models.sagenet.sagenet import sagenet

    torch.manual_seed(0)
    np.random.seed(0)  # noqa: NPY002 - it draws from there
    reference.varm["adj"] = adjacency(reference.X, arguments.alpha)
    model = sagenet(device="cpu")
    started = time.process_time()
    model.train(reference, tag="ref", comm_columns=columns, epochs=arguments.epochs, batch_size=BATCH_SIZE)
    trained = time.process_time()
    model.load_query_data(query)
    mapped = time.process_time()
    if arguments.distances:
        np.save(arguments.distances, query.obsm["dist_map"])
    return {
        "n_edges": reference.varm["adj"].nnz // 2,
        "training": trained - started,
        "mapping": mapped - trained,
    }


def adjacency(X: np.ndarray, alpha: float) -> csr_matrix:
    """As its `glasso` writes it, for one penalty: cross-validation over one fails there."""
    from sklearn.covariance import graphical_lasso

    z = (X - X.mean(0)) / np.maximum(X.std(0), 1e-8)
    joined = graphical_lasso(z.T @ z / len(z) + 1e-6 * np.eye(z.shape[1]), alpha, max_iter=200, tol=1e-3)[1] != 0
    np.fill_diagonal(joined, False)
    return csr_matrix(joined.astype(float))


def ours(arguments, reference, query, columns: list[str]) -> dict:
    import scarches_widgets as sca

    options = {"classifier": "TransformerConv", "n_top_genes": reference.n_vars, "gene_network_alpha": arguments.alpha}
    model = sca.models.SageNet(reference, query, partition_keys=columns, **options)
    how = {"batch_size": BATCH_SIZE, "train_size": 1.0, "early_stopping": False, "progress": False}
    started = time.process_time()
    model.train(max_epochs=arguments.epochs, schedule="published", **how)
    trained = time.process_time()
    model.map_query(query)
    mapped = time.process_time()
    (network,) = model.gene_network.values()
    return {"n_edges": network.edges.shape[1] // 2, "training": trained - started, "mapping": mapped - trained}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("library", choices=("ours", "scarches"))
    parser.add_argument("reference")
    parser.add_argument("query")
    parser.add_argument("--epochs", type=int, required=True)
    parser.add_argument("--alpha", type=float, required=True, help="penalty of the graphical lasso")
    parser.add_argument("--distances", help="of scArches: a file for its distances between the query's cells, .npy")
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    reference, query = anndata.read_h5ad(arguments.reference), anndata.read_h5ad(arguments.query)
    columns = [name for name in reference.obs if name.startswith("class_")]
    found = {"ours": ours, "scarches": scarches}[arguments.library](arguments, reference, query, columns)
    found |= {"cells": reference.n_obs, "query_cells": query.n_obs, "partitions": len(columns)}
    found["peak"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps(found))


if __name__ == "__main__":
    main()
