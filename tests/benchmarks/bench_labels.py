"""A query's labels by SCANVI: ours against scvi-tools 1.4.2, logistic regression beside. Measured data, one thread.

    python tests/benchmarks/bench_labels.py [--data DIR] [--environment DIR] [--seeds 0 1 2]
                                            [--methods logistic scvi-tools published auto]

Blood of six donors (pbmc_kang_donors.h5ad, 1287 genes); reference five of them, query donor1015, its labels unseen.
SCVI is fitted, SCANVI goes on from it, the query is mapped by surgery and labelled by `predict`. Three seeds take 6
minutes of one core.

    published    the same epochs as scvi-tools: 20 + 10 + 20, its learning rate and KL warm-up
    auto         our default schedule throughout
    logistic     logistic regression on the reference's log counts per 10,000; what labels need no model for

The verdict (exit status 1 if any line says WORSE) compares means over the seeds: ours may be lower than scvi-tools' by
no more than 0.01. scvi-tools lives in an environment of its own, which the first run makes; see environment.py.
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from anndata import AnnData
from bench_mapping import DEFAULT_DATA, TASKS, load, log_normalised
from environment import DEFAULT_ENVIRONMENT, make_environment, run_in
from sklearn.linear_model import LogisticRegression
from training_worker import MAPPABLE

import scarches_widgets as sca
from scarches_widgets.mapping import metrics

TOLERANCE = 0.01
EPOCHS = {"reference": 20, "scanvi": 10, "query": 20}
KEYS = {"labels_key": "cell_type", "unlabeled_category": "Unknown"}
METHODS = ("logistic", "scvi-tools", "published", "auto")
SCORES = ("accuracy", "macro-F1", "CPU s")


def by_logistic_regression(reference: AnnData, query: AnnData, seed: int) -> np.ndarray:
    model = LogisticRegression(max_iter=300, random_state=seed)
    model.fit(log_normalised(reference).X, reference.obs["cell_type"].astype(str))
    return model.predict(log_normalised(query).X)


def by_ours(reference_adata: AnnData, query_adata: AnnData, seed: int, schedule: str) -> np.ndarray:
    epochs = EPOCHS if schedule == "published" else dict.fromkeys(EPOCHS)
    options = {"schedule": schedule, "seed": seed, "progress": False}
    pretrained = sca.models.SCVI(reference_adata, batch_key="batch", seed=seed, **MAPPABLE)
    pretrained.train(epochs["reference"], **options)
    reference = sca.models.SCANVI.from_scvi_model(pretrained, seed=seed, **KEYS)
    reference.train(epochs["scanvi"], **options)
    query = sca.models.SCANVI.load_query_data(query_adata, reference)
    query.train(epochs["query"], weight_decay=0.0, **options)
    return query.predict()


def by_scvi_tools(reference: AnnData, query: AnnData, seed: int, environment: Path) -> tuple[np.ndarray, float]:
    """Labels and CPU seconds, by upstream_labels.py in its own environment; files carry data there and back."""
    with tempfile.TemporaryDirectory() as folder:
        paths = [str(Path(folder) / name) for name in ("reference.h5ad", "query.h5ad", "result.npz")]
        reference.write_h5ad(paths[0])
        query.write_h5ad(paths[1])
        script = str(Path(__file__).with_name("upstream_labels.py"))
        epochs = [word for name, n in EPOCHS.items() for word in (f"--{name}-epochs", str(n))]
        run_in(environment, [script, *paths, "--seed", str(seed), *epochs])
        with np.load(paths[2]) as result:
            return result["labels"][result["soft"].argmax(1)], float(result["cpu_seconds"])


def main() -> int:
    arguments = parse_arguments()
    torch.set_num_threads(1)
    reference, query = load(TASKS["kang"], arguments.data)
    truth = query.obs["cell_type"].astype(str).to_numpy()
    reference, query = (
        AnnData(part.X, obs=part.obs[["batch", "cell_type"]].astype(str), var=pd.DataFrame(index=part.var_names))
        for part in (reference, query)
    )
    query.obs["cell_type"] = "Unknown"
    print(f"{reference.n_obs} reference cells, {query.n_obs} query cells, {query.n_vars} genes\n")
    print(f"{'':18}" + "".join(f"{score:>12}" for score in SCORES))
    if "scvi-tools" in arguments.methods:
        make_environment(arguments.environment)
    rows = {}
    for method in arguments.methods:
        for seed in arguments.seeds if method != "logistic" else arguments.seeds[:1]:
            start = time.process_time()
            if method == "logistic":
                labels = by_logistic_regression(reference, query, seed)
            elif method == "scvi-tools":
                labels, seconds = by_scvi_tools(reference, query, seed, arguments.environment)
            else:
                labels = by_ours(reference, query, seed, method)
            if method != "scvi-tools":
                seconds = time.process_time() - start
            values = (labels == truth).mean(), metrics.macro_f1(truth, labels), seconds
            rows[method, seed] = dict(zip(SCORES, values))
            print(f"{method:12}seed {seed}" + "".join(f"{value:12.4f}" for value in values), flush=True)
    table = pd.DataFrame.from_dict(rows, orient="index").rename_axis(["method", "seed"])
    means = table.groupby(level="method", sort=False).mean()
    print(f"\nMeans\n{means.round(4).to_string()}\n")
    return 0 if "scvi-tools" not in means.index or passed(means) else 1


def passed(means: pd.DataFrame) -> bool:
    """Whether ours is no worse than scvi-tools by more than the tolerance; one line per schedule and score."""
    verdicts = []
    for schedule in means.index.intersection(["published", "auto"]):
        for score in ("accuracy", "macro-F1"):
            difference = means.at[schedule, score] - means.at["scvi-tools", score]
            verdicts.append(difference >= -TOLERANCE)
            verdict = "no worse" if verdicts[-1] else "WORSE"
            print(f"{schedule:12}{score:10}{difference:+.4f} against scvi-tools (tolerance {TOLERANCE}): {verdict}")
    return all(verdicts)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=DEFAULT_DATA, help="folder of the .h5ad files")
    parser.add_argument("--environment", type=Path, default=DEFAULT_ENVIRONMENT, help="scvi-tools' environment")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
