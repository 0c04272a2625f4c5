"""scvi-tools' side of bench_mapping.py: reference, surgery, query, for one seed. Runs in scvi-tools' own environment.

    <environment>/bin/python -E -s upstream_mapping.py REFERENCE.h5ad QUERY.h5ad LATENTS.npz --seed 0 \
        --reference-epochs 20 --query-epochs 20

Both files hold raw counts in X and obs["batch"], with the same genes in the same order; labels are neither needed nor
read. The latents are posterior means. This file imports nothing of scarches_widgets, which that environment lacks.
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

    scvi.model.SCVI.setup_anndata(reference_adata, batch_key="batch")
    reference = scvi.model.SCVI(reference_adata, **ARCHITECTURE)
    cpu_start, wall_start = time.process_time(), time.perf_counter()
    reference.train(max_epochs=arguments.reference_epochs, **ON_ONE_CPU)

    query = scvi.model.SCVI.load_query_data(query_adata, reference)
    no_decay = {"weight_decay": 0.0}  # as its tutorials do: any decay would move the frozen reference weights
    query.train(max_epochs=arguments.query_epochs, plan_kwargs=no_decay, **ON_ONE_CPU)

    np.savez(
        arguments.latents,
        cpu_seconds=time.process_time() - cpu_start,
        wall_seconds=time.perf_counter() - wall_start,
        reference_z=reference.get_latent_representation(),
        query_z=query.get_latent_representation(),
    )


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("reference")
    parser.add_argument("query")
    parser.add_argument("latents")
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--reference-epochs", type=int, required=True)
    parser.add_argument("--query-epochs", type=int, required=True)
    return parser.parse_args()


if __name__ == "__main__":
    main()
