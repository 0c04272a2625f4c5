"""Mapping a query by surgery + kNN: ours against scvi-tools 1.4.2, PCA 50 + kNN beside both. Measured data, one thread.

    python tests/benchmarks/bench_mapping.py [--data DIR] [--environment DIR] [--seeds 0 1 2] [--tasks kang celllines]
                                             [--methods pca scvi-tools published auto]

A reference is fitted, a query (its labels unseen) is mapped by surgery, and each query cell takes the label of its 50
weighted nearest reference cells. All methods see the same cells and genes and are scored by the same lines, below.
Three seeds take 7 minutes of one core on kang, 22 more on celllines.

    kang        blood of six donors; reference five of them, query donor1015; 1287 genes. Decides the verdict.
    celllines   reference three lung lines by two technologies; query five lines on three plates, so two are unknown:
                the AUROC says how well the kNN's uncertainty finds them. Extra information.

    accuracy, macro-F1   of the transferred labels, over the query's cells whose label the reference knows
    mixing               `metrics.batch_mixing_within_types` of reference and query together; 1 = as by shuffling
    ASW                  `metrics.silhouette_of_labels` of reference and query together
    CPU s                process time of both trainings and the surgery between them, on one thread

The verdict (exit status 1 if any line says WORSE) compares means over the seeds, on kang: ours may be lower than
scvi-tools' by no more than the tolerance. PCA is there because labels alone do not separate the methods on these data.

scvi-tools lives in an environment of its own, which the first run makes; see environment.py.
"""

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import scanpy
import torch
from anndata import AnnData
from environment import DEFAULT_ENVIRONMENT, make_environment, run_in
from sklearn.decomposition import PCA

import scarches_widgets as sca
from scarches_widgets.mapping import metrics
from scarches_widgets.mapping.transfer import weighted_knn_trainer, weighted_knn_transfer

REPOSITORY = Path(__file__).resolve().parents[2]
DEFAULT_DATA = Path(os.environ.get("SCARCHES_WIDGETS_DATA", REPOSITORY.parent / "shared" / "data"))

SCORES = ("accuracy", "macro-F1", "mixing", "ASW", "AUROC", "CPU s")
METHODS = ("pca", "scvi-tools", "published", "auto")  # the last two are ours, by schedule
TOLERANCES = {"accuracy": 0.01, "macro-F1": 0.02, "mixing": 0.03, "ASW": 0.02}


@dataclass(frozen=True)
class Task:
    file: str
    query_batches: tuple[str, ...]
    reference_epochs: int
    query_epochs: int
    n_top_genes: int | None = None  # None: all genes of the file


TASKS = {
    "kang": Task("pbmc_kang_donors.h5ad", ("donor1015",), reference_epochs=20, query_epochs=20),
    "celllines": Task(
        "celllines_5batches.h5ad",
        ("sc_celseq2_5cl_p1", "sc_celseq2_5cl_p2", "sc_celseq2_5cl_p3"),
        reference_epochs=400,  # what scvi-tools itself takes for so few cells
        query_epochs=200,
        n_top_genes=3000,
    ),
}


@dataclass(frozen=True)
class Mapped:
    """One method's posterior means (or scores), reference and query in the same space, and what they cost."""

    reference_z: np.ndarray  # (reference cells, dimensions)
    query_z: np.ndarray  # (query cells, dimensions)
    cpu_seconds: float


# ---- data ------------------------------------------------------------------------------------------------------------


def load(task: Task, data: Path) -> tuple[AnnData, AnnData]:
    """Reference and query with raw counts, obs["batch"] and obs["cell_type"], on the same genes."""
    adata = anndata.read_h5ad(data / task.file)
    is_query = adata.obs["batch"].isin(task.query_batches).to_numpy()
    reference, query = adata[~is_query].copy(), adata[is_query].copy()
    if task.n_top_genes is not None:
        genes = most_variable_genes(reference, task.n_top_genes)
        reference, query = reference[:, genes].copy(), query[:, genes].copy()
    return reference, query


def without_labels(adata: AnnData) -> AnnData:
    """The same counts with obs["batch"] alone, so that no method can see a label."""
    return AnnData(adata.X.copy(), obs=adata.obs[["batch"]].astype(str), var=pd.DataFrame(index=adata.var_names))


def log_normalised(adata: AnnData) -> AnnData:
    normalised = AnnData(adata.X.copy(), obs=adata.obs, var=adata.var)
    scanpy.pp.normalize_total(normalised, target_sum=1e4)
    scanpy.pp.log1p(normalised)
    return normalised


def most_variable_genes(reference: AnnData, n_genes: int) -> np.ndarray:
    """Which genes vary most in the reference (the query has no say: in practice it comes later)."""
    table = scanpy.pp.highly_variable_genes(
        log_normalised(reference), flavor="cell_ranger", n_top_genes=n_genes, inplace=False
    )
    return table["highly_variable"].to_numpy()


# ---- methods ---------------------------------------------------------------------------------------------------------


def map_by_pca(reference: AnnData, query: AnnData, task: Task, seed: int) -> Mapped:
    """50 components of the reference's log counts per 10,000; the query is projected, nothing corrects for batch."""
    start = time.process_time()
    pca = PCA(n_components=50, svd_solver="covariance_eigh").fit(log_normalised(reference).X.toarray())
    reference_z, query_z = (pca.transform(log_normalised(part).X.toarray()) for part in (reference, query))
    return Mapped(reference_z, query_z, time.process_time() - start)


def map_by_ours(reference_adata: AnnData, query_adata: AnnData, task: Task, seed: int, schedule: str) -> Mapped:
    SCVI = sca.models.SCVI  # imported before the clock starts, as scvi-tools is
    start = time.process_time()
    reference = SCVI(
        reference_adata,
        batch_key="batch",
        n_layers=2,
        use_layer_norm="both",
        use_batch_norm="none",
        encode_covariates=True,
        deeply_inject_covariates=False,
        seed=seed,
    )
    reference.train(max_epochs=task.reference_epochs, schedule=schedule, seed=seed, progress=False)
    query = SCVI.load_query_data(query_adata, reference)
    query.train(max_epochs=task.query_epochs, schedule=schedule, weight_decay=0.0, seed=seed, progress=False)
    cpu_seconds = time.process_time() - start
    return Mapped(reference.get_latent_representation(), query.get_latent_representation(), cpu_seconds)


def map_by_scvi_tools(reference: AnnData, query: AnnData, task: Task, seed: int, environment: Path) -> Mapped:
    """The same course in scvi-tools, by upstream_mapping.py in its own environment; files carry data there and back."""
    with tempfile.TemporaryDirectory() as folder:
        reference_file, query_file, latents_file = (
            str(Path(folder) / name) for name in ("reference.h5ad", "query.h5ad", "latents.npz")
        )
        reference.write_h5ad(reference_file)
        query.write_h5ad(query_file)
        script = str(Path(__file__).with_name("upstream_mapping.py"))
        epochs = ["--reference-epochs", str(task.reference_epochs), "--query-epochs", str(task.query_epochs)]
        run_in(environment, [script, reference_file, query_file, latents_file, "--seed", str(seed), *epochs])
        with np.load(latents_file) as latents:
            return Mapped(latents["reference_z"], latents["query_z"], float(latents["cpu_seconds"]))


def methods(environment: Path) -> dict[str, Callable[..., Mapped]]:
    return {
        "pca": map_by_pca,
        "scvi-tools": lambda *task: map_by_scvi_tools(*task, environment),
        "published": lambda *task: map_by_ours(*task, schedule="published"),
        "auto": lambda *task: map_by_ours(*task, schedule="auto"),
    }


# ---- scores ----------------------------------------------------------------------------------------------------------


def scores(mapped: Mapped, reference_obs: pd.DataFrame, query_obs: pd.DataFrame) -> dict[str, float]:
    """Every method's figures by the same lines; NaN where a figure does not apply."""
    predicted, uncertainty = transfer_labels(mapped, reference_obs)
    truth = query_obs["cell_type"].astype(str).to_numpy()
    known = np.isin(truth, reference_obs["cell_type"].astype(str))
    joint_z = np.concatenate([mapped.reference_z, mapped.query_z])  # (reference + query cells, dimensions)
    joint = pd.concat([reference_obs, query_obs])[["batch", "cell_type"]].astype(str)
    values = (
        (predicted == truth)[known].mean(),
        metrics.macro_f1(truth[known], predicted[known]),
        metrics.batch_mixing_within_types(joint_z, joint["cell_type"], joint["batch"]),
        metrics.silhouette_of_labels(joint_z, joint["cell_type"], max_cells=len(joint)),
        np.nan if known.all() else metrics.auroc(uncertainty, ~known),
        mapped.cpu_seconds,
    )
    return dict(zip(SCORES, values))


def transfer_labels(mapped: Mapped, reference_obs: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """Label and uncertainty of each query cell, by its 50 weighted nearest reference cells."""
    reference = AnnData(mapped.reference_z, obs=pd.DataFrame(index=reference_obs.index))
    labels, uncertainties = weighted_knn_transfer(
        AnnData(mapped.query_z),
        "X",
        ref_adata_obs=reference_obs,
        label_keys="cell_type",
        knn_model=weighted_knn_trainer(reference, "X", n_neighbors=50),
    )
    return labels["cell_type"].to_numpy(), uncertainties["cell_type"].to_numpy()


# ---- tables ----------------------------------------------------------------------------------------------------------


def run_task(task: Task, data: Path, seeds: list[int], chosen: dict[str, Callable[..., Mapped]]) -> pd.DataFrame:
    """One row of scores per method and seed, printed as it comes."""
    reference, query = load(task, data)
    unlabelled = without_labels(reference), without_labels(query)
    print(f"{reference.n_obs} reference cells, {query.n_obs} query cells, {reference.n_vars} genes; ", end="")
    print(f"{task.reference_epochs} + {task.query_epochs} epochs\n")
    print_row("", SCORES)
    rows = {}
    for method, map_query in chosen.items():
        for seed in seeds:
            mapped = map_query(*unlabelled, task, seed)
            row = rows[method, seed] = scores(mapped, reference.obs, query.obs)
            print_row(f"{method:12}seed {seed}", (number(score, value) for score, value in row.items()))
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis(["method", "seed"])


def print_means(table: pd.DataFrame):
    by_method = table.groupby(level="method", sort=False)
    means, deviations = by_method.mean(), by_method.std()
    print()
    for method in means.index:
        both = (tuple(number(score, part.at[method, score]) for part in (means, deviations)) for score in SCORES)
        print_row(f"{method:12}mean", (f"{mean} ± {deviation}" for mean, deviation in both))
    print()


def print_row(title: str, cells: Iterable[str]):
    print(f"{title:18}" + "".join(f"{cell:>17}" for cell in cells), flush=True)


def number(score: str, value: float) -> str:
    if np.isnan(value):
        return "-"
    return f"{value:.1f}" if score == "CPU s" else f"{value:.4f}"


def print_verdict(table: pd.DataFrame) -> bool:
    """Whether ours is no worse than scvi-tools by more than the tolerances; one line per schedule and score."""
    means = table.groupby(level="method").mean()
    passed = True
    for schedule in means.index.intersection(["published", "auto"]):
        for score, tolerance in TOLERANCES.items():
            difference = means.at[schedule, score] - means.at["scvi-tools", score]
            is_worse = not difference >= -tolerance  # NaN counts as worse
            passed = passed and not is_worse
            verdict = "WORSE" if is_worse else "no worse"
            print(f"{schedule:12}{score:10}{difference:+.4f} against scvi-tools (tolerance {tolerance}): {verdict}")
    return passed


def main() -> int:
    arguments = parse_arguments()
    torch.set_num_threads(1)
    chosen = {
        name: map_query for name, map_query in methods(arguments.environment).items() if name in arguments.methods
    }
    if "scvi-tools" in chosen:
        make_environment(arguments.environment)
    passed = True
    for name in arguments.tasks:
        print(f"\n== {name}: ", end="")
        table = run_task(TASKS[name], arguments.data, arguments.seeds, chosen)
        print_means(table)
        if name == "kang" and "scvi-tools" in chosen:
            passed = print_verdict(table)
    return 0 if passed else 1


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=DEFAULT_DATA, help="folder of the .h5ad files")
    parser.add_argument("--environment", type=Path, default=DEFAULT_ENVIRONMENT, help="scvi-tools' environment")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--tasks", nargs="+", choices=list(TASKS), default=list(TASKS))
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
