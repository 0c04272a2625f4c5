"""scvi-tools' side of bench_labels.py: SCVI, SCANVI from it, surgery, predict, for one seed. In its own environment.

    <environment>/bin/python -E -s upstream_labels.py REFERENCE.h5ad QUERY.h5ad RESULT.npz --seed 0 \
        --reference-epochs 20 --scanvi-epochs 10 --query-epochs 20

Both files hold raw counts in X, obs["batch"] and obs["cell_type"], in the query "Unknown" for all. This file imports
nothing of scarches_widgets, which that environment lacks.
"""

import argparse
import time

import anndata
import numpy as np
import scvi
from upstream import ARCHITECTURE, ON_ONE_CPU, prepare


def main():
    arguments = parse_arguments()
    prepare(arguments.seed)
    reference_adata, query_adata = anndata.read_h5ad(arguments.reference), anndata.read_h5ad(arguments.query)

    start = time.process_time()
    scvi.model.SCVI.setup_anndata(reference_adata, batch_key="batch", labels_key="cell_type")
    pretrained = scvi.model.SCVI(reference_adata, **ARCHITECTURE)
    pretrained.train(max_epochs=arguments.reference_epochs, **ON_ONE_CPU)
    reference = scvi.model.SCANVI.from_scvi_model(pretrained, unlabeled_category="Unknown", labels_key="cell_type")
    reference.train(max_epochs=arguments.scanvi_epochs, **ON_ONE_CPU)
    query = scvi.model.SCANVI.load_query_data(query_adata, reference)
    query.train(max_epochs=arguments.query_epochs, plan_kwargs={"weight_decay": 0.0}, **ON_ONE_CPU)
    seconds = time.process_time() - start

    soft = query.predict(soft=True)
    np.savez(arguments.result, cpu_seconds=seconds, soft=soft.to_numpy(), labels=np.array(soft.columns, dtype=str))


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("reference", "query", "result"):
        parser.add_argument(name)
    for name in ("--seed", "--reference-epochs", "--scanvi-epochs", "--query-epochs"):
        parser.add_argument(name, type=int, required=True)
    return parser.parse_args()


if __name__ == "__main__":
    main()
