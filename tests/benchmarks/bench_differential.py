"""Differential expression: ours against scvi-tools 1.4.2, each by its own SCVI, on an atlas whose markers are known.

    python tests/benchmarks/bench_differential.py [--environment DIR] [--seeds 0 1 2]

`datasets.atlas` of 3,000 cells × 500 genes, 3 batches, 8 types; each type against the rest, mode "change", corrected
for batches. scvi-tools trains 100 epochs, ours as by default. Three seeds take 5 minutes of one core.

    markers     AUROC of the median log fold change for the type's own markers, mean over types
    Spearman    between the two packages' median log fold changes over all genes, mean over types
    sign        share of equal signs among the genes that either package calls different (FDR 0.05)
    itself      the same two between scvi-tools' first seed and its others: what its own training leaves open

Exit status 1 unless our markers ≥ 0.95, Spearman ≥ 0.9 and sign ≥ 0.95, in the mean over the seeds. scvi-tools lives in
an environment of its own, which the first run makes; see environment.py.
"""

import argparse
import sys
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from environment import DEFAULT_ENVIRONMENT, make_environment, run_in
from scipy.stats import spearmanr

import scarches_widgets as sca
from scarches_widgets.mapping import metrics

EPOCHS = 100  # of scvi-tools
LIMITS = {"markers": 0.95, "Spearman": 0.90, "sign": 0.95}


def by_ours(cells, seed: int) -> pd.DataFrame:
    model = sca.models.SCVI(cells, batch_key="batch", seed=seed)
    model.train(seed=seed, progress=False)
    return model.differential_expression(groupby="cell_type", batch_correction=True, seed=seed)


def by_scvi_tools(cells, seed: int, environment: Path) -> pd.DataFrame:
    with tempfile.TemporaryDirectory() as folder:
        cells_file, table_file = Path(folder) / "cells.h5ad", Path(folder) / "table.csv"
        cells.write_h5ad(cells_file)
        script = str(Path(__file__).with_name("upstream_differential.py"))
        run_in(environment, [script, str(cells_file), str(table_file), "--seed", str(seed), "--epochs", str(EPOCHS)])
        return pd.read_csv(table_file, index_col="gene")


def found_markers(table: pd.DataFrame, markers: dict) -> float:
    by_type = table.groupby("group1")
    scores = [metrics.auroc(part["lfc_median"].to_numpy(), part.index.isin(markers[name])) for name, part in by_type]
    return float(np.mean(scores))


def agreement(one: pd.DataFrame, other: pd.DataFrame) -> tuple[float, float]:
    """Spearman and share of equal signs."""
    ranks, signs = [], []
    for name, part in one.groupby("group1"):
        there = other[other["group1"] == name].loc[part.index]
        ranks.append(spearmanr(part["lfc_median"], there["lfc_median"]).statistic)
        different = part["is_de_fdr_0.05"].to_numpy(bool) | there["is_de_fdr_0.05"].to_numpy(bool)
        equal = np.sign(part["lfc_median"]).to_numpy() == np.sign(there["lfc_median"]).to_numpy()
        signs.append(equal[different].mean())
    return float(np.mean(ranks)), float(np.mean(signs))


def main() -> int:
    arguments = parse_arguments()
    torch.set_num_threads(1)
    make_environment(arguments.environment)
    cells = sca.datasets.atlas(n_obs=3000, n_vars=500, n_batches=3, n_types=8, seed=0)
    markers = cells.uns.pop("truth")["markers"]
    cells.obs["cell_type"] = cells.obs["cell_type"].astype(str)
    rows, first = [], None
    for seed in arguments.seeds:
        theirs, ours = by_scvi_tools(cells, seed, arguments.environment), by_ours(cells, seed)
        rank, sign = agreement(ours, theirs)
        row = {"seed": seed, "markers": found_markers(ours, markers), "Spearman": rank, "sign": sign}
        row["markers of scvi-tools"] = found_markers(theirs, markers)
        if first is not None:
            row["Spearman of itself"], row["sign of itself"] = agreement(first, theirs)
        first = theirs if first is None else first
        rows.append(row)
        print(
            "  ".join(f"{name} {value:.4f}" if name != "seed" else f"seed {value}" for name, value in row.items()),
            flush=True,
        )
    means = pd.DataFrame(rows).mean()
    verdicts = {name: means[name] >= limit for name, limit in LIMITS.items()}
    for name, met in verdicts.items():
        print(f"{name}: {means[name]:.4f} (at least {LIMITS[name]}): {'met' if met else 'NOT MET'}")
    return 0 if all(verdicts.values()) else 1


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--environment", type=Path, default=DEFAULT_ENVIRONMENT, help="scvi-tools' environment")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
