"""scvi-tools' side of bench_differential.py: SCVI and its differential expression. In its own environment.

    <environment>/bin/python -E -s upstream_differential.py CELLS.h5ad TABLE.csv --seed 0 --epochs 100

The file holds raw counts in X, obs["batch"] and obs["cell_type"]. This file imports nothing of scarches_widgets, which
that environment lacks.
"""

import argparse

import anndata
import scvi
from upstream import ON_ONE_CPU, prepare


def main():
    arguments = parse_arguments()
    prepare(arguments.seed)
    cells = anndata.read_h5ad(arguments.cells)
    scvi.model.SCVI.setup_anndata(cells, batch_key="batch")
    model = scvi.model.SCVI(cells)
    model.train(max_epochs=arguments.epochs, **ON_ONE_CPU)
    table = model.differential_expression(groupby="cell_type", mode="change", batch_correction=True, silent=True)
    table.to_csv(arguments.table, index_label="gene")


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cells")
    parser.add_argument("table")
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--epochs", type=int, required=True)
    return parser.parse_args()


if __name__ == "__main__":
    main()
