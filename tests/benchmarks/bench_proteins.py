"""totalVI: ours against scvi-tools 1.4.2, and against a regression. Two tables, one script; exit status 1 if a line is
NOT MET.

    python tests/benchmarks/bench_proteins.py [--tables speed imputation] [--seeds 0 1 2] [--epochs 400]
        [--data DIR] [--environment DIR] [--cache DIR]

speed       CPU seconds per epoch of 20,000 × 2,000 simulated cells with 14 proteins, one thread, minibatches of 256,
            the same network and schedule; ours and scvi-tools in turn, 4 epochs each, the median over all epochs but a
            run's first. 10 minutes.
imputation  cite_pbmc.h5ad: a reference of the PBMC10k cells; the 100 PBMC5k cells, their proteins hidden, mapped onto
            it by surgery, and their 14 proteins imputed. Mean over the proteins of Pearson's r of log(1 + value) and
            log(1 + count). Ours at the published schedule and by default; scvi-tools at the same epochs; ridge
            regression on 50 components of RNA. CPU seconds to the end of the query's training. An hour per seed; what
            scvi-tools has computed is kept in --cache and not done again.

"No worse" means: our mean over the seeds is not below theirs by more than twice the standard deviation of scvi-tools'
seeds, and at least 0.02, the standard error of such a mean over 100 cells.

scvi-tools lives in an environment of its own, which the first run makes; see environment.py.
"""

import argparse
import json
import os
import statistics
import sys
from pathlib import Path

import anndata
import numpy as np
from bench_mapping import DEFAULT_DATA
from bench_training import Verdict, no_worse
from environment import DEFAULT_ENVIRONMENT, make_environment, printed_by, python_of

import scarches_widgets as sca

WORKER = Path(__file__).with_name("proteins_worker.py")
DEFAULT_CACHE = Path.home() / ".cache" / "scarches_widgets" / "bench_proteins"
KEY = "protein_expression"
SPEED_LIMIT = 0.4  # of scvi-tools' CPU seconds per epoch
QUALITY_LIMIT = 0.15  # of its CPU seconds to the end of the published schedule
STANDARD_ERROR = 0.02
SPEED_EPOCHS = 4
SIDES = {"scvi-tools": ("scvi-tools", "published"), "ours, published": ("ours", "published"), "ours": ("ours", "auto")}


def work(library: str, environment: Path, *options: object) -> dict:
    """What proteins_worker.py prints."""
    python = [python_of(environment), "-I"] if library == "scvi-tools" else [sys.executable]
    return printed_by([*python, str(WORKER), library, *map(str, options)])


# ---- speed -----------------------------------------------------------------------------------------------------------


def measure_speed(arguments, verdict: Verdict):
    path = arguments.cache / "data" / "simulated.h5ad"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        cells = sca.datasets.cite_seq(n_obs=20_000, n_vars=2_000, n_proteins=14)
        cells.uns.clear()
        cells.write_h5ad(path)
    found = {library: [] for library in ("ours", "scvi-tools")}
    for seed in arguments.seeds:
        for library, runs in found.items():
            options = [path, "--epochs", SPEED_EPOCHS, "--schedule", "published", "--seed", seed]
            runs.append(work(library, arguments.environment, *options))
    epoch = {name: statistics.median(s for run in runs for s in run["epochs"][1:]) for name, runs in found.items()}
    print(f"\nCPU seconds per epoch: {epoch['ours']:.2f} ours, {epoch['scvi-tools']:.2f} scvi-tools")
    ratio = epoch["ours"] / epoch["scvi-tools"]
    verdict(f"CPU seconds, at most {SPEED_LIMIT} of scvi-tools'", f"{ratio:.3f}", ratio <= SPEED_LIMIT)


# ---- imputation ------------------------------------------------------------------------------------------------------


def measure_imputation(arguments, verdict: Verdict):
    paths, truth = files(arguments.data, arguments.cache)
    rows = {side: [journey(side, seed, paths, truth, arguments) for seed in arguments.seeds] for side in SIDES}
    by_ridge = mean_r(ridge(paths), truth)
    print(
        f"\nr: ridge {by_ridge:.3f}; epochs: "
        + ", ".join(f"{side} {runs[0]['n_epochs']}" for side, runs in rows.items())
    )
    cpu = {side: statistics.fmean(run["cpu"] + run["query_cpu"] for run in runs) for side, runs in rows.items()}
    ratio = cpu["ours"] / cpu["scvi-tools"]
    found = f"{ratio:.3f} ({cpu['ours']:.0f} s of {cpu['scvi-tools']:.0f})"
    verdict(f"CPU seconds, at most {QUALITY_LIMIT} of scvi-tools'", found, ratio <= QUALITY_LIMIT)
    theirs = [run["r"] for run in rows["scvi-tools"]]
    for side in ("ours, published", "ours"):
        ours = [run["r"] for run in rows[side]]
        no_worse(verdict, f"{side}: r", ours, theirs, least=STANDARD_ERROR)
        no_worse(verdict, f"{side}: r", ours, [by_ridge], least=STANDARD_ERROR, whose="ridge")


def files(data: Path, cache: Path) -> tuple[dict[str, Path], dict[str, np.ndarray]]:
    """Reference and query without proteins, and the query's log(1 + count) of each protein."""
    paths = {part: cache / "data" / f"{part}.h5ad" for part in ("reference", "query")}
    cells = anndata.read_h5ad(data / "cite_pbmc.h5ad")
    reference, query = (cells[cells.obs["batch"] == batch].copy() for batch in ("PBMC10k", "PBMC5k"))
    truth = {name: np.log1p(column.to_numpy()) for name, column in query.obsm[KEY].items()}
    del query.obsm[KEY]
    for part, one in (("reference", reference), ("query", query)):
        paths[part].parent.mkdir(parents=True, exist_ok=True)
        one.write_h5ad(paths[part])
    return paths, truth


def journey(side: str, seed: int, paths: dict[str, Path], truth: dict[str, np.ndarray], arguments) -> dict[str, float]:
    """CPU seconds and mean r; scvi-tools' are kept."""
    library, schedule = SIDES[side]
    kept = arguments.cache / "scvi-tools" / f"{arguments.epochs}-{seed}.json"
    if library == "scvi-tools" and kept.exists():
        return json.loads(kept.read_text(encoding="utf-8"))
    imputed = arguments.cache / f"imputed-{os.getpid()}.npz"
    options = [paths["reference"], "--query", paths["query"], "--imputed", imputed, "--schedule", schedule]
    if schedule == "published":
        options += ["--epochs", arguments.epochs, "--query-epochs", arguments.query_epochs]
    row = work(library, arguments.environment, *options, "--seed", seed)
    with np.load(imputed) as arrays:
        row["r"] = mean_r(dict(zip(arrays["proteins"], np.log1p(arrays["values"]).T)), truth)
    imputed.unlink()
    del row["epochs"]
    if library == "scvi-tools":
        kept.parent.mkdir(parents=True, exist_ok=True)
        kept.write_text(json.dumps(row), encoding="utf-8")
    print(f"{side} seed {seed}: " + ", ".join(f"{name} {value:.4g}" for name, value in row.items()), flush=True)
    return row


def ridge(paths: dict[str, Path]) -> dict[str, np.ndarray]:
    """log(1 + count) of proteins by ridge regression on 50 principal components of log counts per 10,000."""
    from sklearn.decomposition import PCA
    from sklearn.linear_model import Ridge

    reference, query = (anndata.read_h5ad(path) for path in paths.values())
    logged = [np.log1p(1e4 * one.X.toarray() / one.X.sum(1)) for one in (reference, query)]
    pca = PCA(50, random_state=0).fit(np.asarray(logged[0]))
    components = [pca.transform(np.asarray(one)) for one in logged]
    proteins = reference.obsm[KEY]
    predicted = Ridge(1.0).fit(components[0], np.log1p(proteins.to_numpy())).predict(components[1])
    return dict(zip(proteins, predicted.T))


def mean_r(imputed: dict[str, np.ndarray], truth: dict[str, np.ndarray]) -> float:
    """Mean over proteins of Pearson's r, both in logarithms."""
    return float(np.mean([np.corrcoef(imputed[name], counts)[0, 1] for name, counts in truth.items()]))


TABLES = {"speed": measure_speed, "imputation": measure_imputation}


def main() -> int:
    arguments = parse_arguments()
    make_environment(arguments.environment)
    verdict = Verdict()
    for table in arguments.tables:
        print(f"\n== {table}", flush=True)
        TABLES[table](arguments, verdict)
    return 0 if verdict.met else 1


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tables", nargs="+", choices=list(TABLES), default=list(TABLES))
    parser.add_argument("--data", type=Path, default=DEFAULT_DATA, help="folder of the .h5ad files")
    parser.add_argument("--environment", type=Path, default=DEFAULT_ENVIRONMENT, help="where scvi-tools is, or goes")
    parser.add_argument("--cache", type=Path, default=DEFAULT_CACHE, help="where data and scvi-tools' results are kept")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--epochs", type=int, default=400, help="of the published schedule, at most")
    parser.add_argument("--query-epochs", type=int, default=200, help="likewise, of the query")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
