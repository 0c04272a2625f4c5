"""trVAE, expiMap and scPoli: ours against scArches 0.6.1. Two tables, one script; exit status 1 if a line is NOT MET.

    python tests/benchmarks/bench_scarches.py [--tables speed quality] [--models trvae expimap scpoli]
        [--datasets kang celllines] [--seeds 0 1 2] [--data DIR] [--cache DIR]

speed    CPU seconds per epoch of 18,000 × 2,000 simulated cells, one thread, minibatches of 128, the same network and
         schedule; ours and scArches in turn, 10 epochs each (of scPoli's, five with prototypes), the median over all
         epochs but a run's first two, and over the seeds; peak memory. expiMap has 300 programs of 40 genes. An hour.
quality  The journeys of bench_mapping.py: a reference, and a query of other donors or plates mapped onto it. scArches'
         published schedule, ours at the same one, and ours by default: CPU seconds, kNN accuracy (scPoli: of its
         nearest prototypes), mixing within types and, where the query has types that the reference lacks, how well
         uncertainty tells them (AUROC). expiMap on kang alone, with Reactome's sets. An hour; what scArches has
         computed is kept in --cache and not done again.

"No worse" means: our mean over the seeds is not below scArches' by more than twice the standard deviation of its own
seeds (at least 0.005).
"""

import argparse
import json
import os
import statistics
import sys
from pathlib import Path

import anndata
import numpy as np
from bench_mapping import DEFAULT_DATA, TASKS, Mapped, load, scores
from bench_training import Verdict, no_worse
from environment import SCARCHES, SCARCHES_ENVIRONMENT, make_environment, printed_by, python_of

import scarches_widgets as sca
from scarches_widgets.mapping import metrics

WORKER = Path(__file__).with_name("scarches_worker.py")
DEFAULT_CACHE = SCARCHES_ENVIRONMENT.with_name("bench_scarches")
GENE_SETS = "genesets/reactome_msigdb_v7.5.1.symbols.gmt"
SPEED_LIMITS = {"trvae": 1 / 3, "expimap": 1 / 3, "scpoli": 1 / 4}  # of scArches' CPU seconds per epoch
QUALITY_LIMIT = 0.2  # of its CPU seconds to the end of the published schedule
SPEED_EPOCHS = 10
SIDES = {"scarches": ("scarches", "published"), "ours, published": ("ours", "published"), "ours": ("ours", "auto")}


# ---- data ------------------------------------------------------------------------------------------------------------


def atlas(cache: Path) -> Path:
    """18,000 simulated cells with 300 programs of 40 genes."""
    path = cache / "data" / "atlas.h5ad"
    if not path.exists():
        cells = sca.datasets.atlas(n_obs=18_000, n_vars=2_000)
        rng, mask = np.random.default_rng(0), np.zeros((cells.n_vars, 300), dtype=int)
        for column in mask.T:
            column[rng.choice(cells.n_vars, 40, replace=False)] = 1
        write(cells, path, mask, [f"program {number}" for number in range(300)])
    return path


def journey(name: str, data: Path, cache: Path) -> dict[str, Path]:
    """Reference and query, on the same genes; with Reactome's sets if the genes are symbols of theirs."""
    paths = {part: cache / "data" / f"{name}-{part}.h5ad" for part in ("reference", "query")}
    if not all(path.exists() for path in paths.values()):
        for part, cells in zip(paths, load(TASKS[name], data)):
            if name == "kang":
                sca.utils.add_annotations(cells, data / GENE_SETS, min_genes=12, clean=False)
                write(cells, paths[part], cells.varm["I"], list(cells.uns["terms"]))
            else:
                write(cells, paths[part])
    return paths


def write(cells: anndata.AnnData, path: Path, mask: np.ndarray | None = None, terms: list[str] | None = None):
    """Counts, batch and label, gene programs if there are any, and nothing else."""
    obs = cells.obs[["batch", "cell_type"]].astype(str)
    plain = anndata.AnnData(cells.X.astype(np.float32).copy(), obs=obs, var=cells.var[[]].copy())
    if mask is not None:
        plain.varm["I"], plain.uns["terms"] = mask, terms
    path.parent.mkdir(parents=True, exist_ok=True)
    plain.write_h5ad(path)


def work(library: str, *options: object) -> dict:
    """What scarches_worker.py prints."""
    python = [python_of(SCARCHES_ENVIRONMENT), "-I"] if library == "scarches" else [sys.executable]
    return printed_by([*python, str(WORKER), library, *map(str, options)])


# ---- speed -----------------------------------------------------------------------------------------------------------


def measure_speed(arguments, verdict: Verdict):
    for model in arguments.models:
        options = [atlas(arguments.cache), "--model", model, "--epochs", SPEED_EPOCHS, "--schedule", "published"]
        found = {library: [] for library in ("ours", "scarches")}
        for seed in arguments.seeds:
            for library, runs in found.items():
                runs.append(work(library, *options, "--seed", seed))
        epoch = {name: statistics.median(typical_epoch(run) for run in runs) for name, runs in found.items()}
        peak = {name: max(run["peak"] for run in runs) for name, runs in found.items()}
        print(f"\n{model}, CPU seconds per epoch: {epoch['ours']:.2f} ours, {epoch['scarches']:.2f} scArches")
        ratio, limit = epoch["ours"] / epoch["scarches"], SPEED_LIMITS[model]
        verdict(f"CPU seconds, at most {limit:.2f} of scArches'", f"{ratio:.3f}", ratio <= limit)
        found = f"{peak['ours']:.0f} MB (scArches {peak['scarches']:.0f})"
        verdict("peak memory, lower", found, peak["ours"] < peak["scarches"])


def typical_epoch(run) -> float:
    """The mean of the two halves' medians, for scPoli's second has prototypes; without a run's first two epochs, where
    libraries load and compile what they need."""
    half = SPEED_EPOCHS // 2
    return statistics.fmean(statistics.median(epochs) for epochs in (run["epochs"][2:half], run["epochs"][half:]))


# ---- quality ---------------------------------------------------------------------------------------------------------


def measure_quality(arguments, verdict: Verdict):
    for name in arguments.datasets:
        paths = journey(name, arguments.data, arguments.cache)
        for model in arguments.models:
            if model == "expimap" and name != "kang":
                continue
            rows = {}
            for side in SIDES:
                rows[side] = [quality(side, name, model, seed, paths, arguments.cache) for seed in arguments.seeds]
            judge(name, model, rows, verdict)


def quality(side: str, name: str, model: str, seed: int, paths: dict[str, Path], cache: Path) -> dict[str, float]:
    """CPU seconds and scores of one journey; scArches' are kept."""
    kept = cache / "scarches" / f"{name}-{model}-{seed}.json"
    library, schedule = SIDES[side]
    if library == "scarches" and kept.exists():
        return json.loads(kept.read_text(encoding="utf-8"))
    latents = cache / f"latents-{os.getpid()}.npz"
    options = [paths["reference"], "--query", paths["query"], "--model", model, "--schedule", schedule]
    row = work(library, *options, "--seed", seed, "--latents", latents)
    del row["epochs"]  # their seconds one by one, of no use here
    with np.load(latents) as arrays:
        row |= scored(dict(arrays), *(anndata.read_h5ad(path, backed="r").obs for path in paths.values()))
    latents.unlink()
    if library == "scarches":
        kept.parent.mkdir(parents=True, exist_ok=True)
        kept.write_text(json.dumps(row), encoding="utf-8")
    print(f"{name} {model} {side} seed {seed}: " + ", ".join(f"{k} {v:.4g}" for k, v in row.items()), flush=True)
    return row


def scored(arrays: dict[str, np.ndarray], reference, query) -> dict[str, float]:
    """By the lines of bench_mapping.py; scPoli's labels and uncertainties are its own."""
    found = scores(Mapped(arrays["reference"], arrays["query"], 0.0), reference, query)
    row = {score: float(found[score]) for score in ("accuracy", "mixing", "ASW", "AUROC")}
    if "labels" in arrays:
        truth = query["cell_type"].astype(str).to_numpy()
        known = np.isin(truth, reference["cell_type"].astype(str))
        row["accuracy"] = float((arrays["labels"] == truth)[known].mean())
        if not known.all():
            row["AUROC"] = float(metrics.auroc(arrays["uncertainty"], ~known))
    return {score: value for score, value in row.items() if not np.isnan(value)}


def judge(name: str, model: str, rows: dict[str, list[dict[str, float]]], verdict: Verdict):
    cpu = {side: statistics.fmean(run["cpu"] + run["query_cpu"] for run in runs) for side, runs in rows.items()}
    epochs = {side: f"{runs[0]['n_epochs']} + {runs[0]['query_n_epochs']}" for side, runs in rows.items()}
    print(f"\n{name}, {model}, epochs: " + ", ".join(f"{side} {n}" for side, n in epochs.items()))
    ratio = cpu["ours"] / cpu["scarches"]
    found = f"{ratio:.3f} ({cpu['ours']:.1f} s of {cpu['scarches']:.1f})"
    verdict(f"CPU seconds, at most {QUALITY_LIMIT} of scArches'", found, ratio <= QUALITY_LIMIT)
    for side in ("ours, published", "ours"):
        for score in ("accuracy", "mixing", "ASW", "AUROC"):
            if score in rows["scarches"][0]:
                ours, theirs = ([run[score] for run in rows[which]] for which in (side, "scarches"))
                no_worse(verdict, f"{side}: {score}", ours, theirs, least=0.005, whose="scArches")


TABLES = {"speed": measure_speed, "quality": measure_quality}


def main() -> int:
    arguments = parse_arguments()
    make_environment(SCARCHES_ENVIRONMENT, SCARCHES)
    verdict = Verdict()
    for table in arguments.tables:
        print(f"\n== {table}", flush=True)
        TABLES[table](arguments, verdict)
    return 0 if verdict.met else 1


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tables", nargs="+", choices=list(TABLES), default=list(TABLES))
    parser.add_argument("--data", type=Path, default=DEFAULT_DATA, help="folder of the .h5ad files")
    parser.add_argument("--cache", type=Path, default=DEFAULT_CACHE, help="where data and scArches' results are kept")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--models", nargs="+", choices=list(SPEED_LIMITS), default=list(SPEED_LIMITS))
    parser.add_argument("--datasets", nargs="+", choices=["kang", "celllines"], default=["kang", "celllines"])
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
