"""MultiVAE on measured cells: RNA and chromatin of the mouse cortex, a query with one of the two or both. Exit status 1
if a line is NOT MET.

    python tests/benchmarks/bench_multiome.py [--data DIR] [--seeds 0 1 2]

multiome_snare_mouse_cortex.h5mu (SNARE-seq), without the cells of no type ("Mis"). Reference: batches 09A to 09C, RNA
and peaks. Query: 09D, mapped by surgery as RNA alone, as ATAC alone, and with both; its cells take the label of most of
their 15 nearest reference cells in the joint latent. Default options, one thread. Beside it, on the same cells and by
the same neighbours:

    PCA    30 components of log(1 + counts per 10,000) of RNA, fitted on the reference
    LSI    components 2 to 31 of the peaks' log(1 + 10,000 · tf-idf), fitted on the reference
    both   PCA and LSI side by side

CPU seconds are process time: the reference's training, and the query's with its surgery.
"""

import argparse
import statistics
import sys
import time
import warnings
from pathlib import Path

import mudata
import numpy as np
import scipy.sparse as sp
from bench_mapping import DEFAULT_DATA
from bench_training import Verdict
from sklearn.decomposition import PCA, TruncatedSVD
from sklearn.neighbors import KNeighborsClassifier

import scarches_widgets as sca

QUERY = "09D"
MODALITIES = {"RNA": ("rna",), "ATAC": ("atac",), "both": ("rna", "atac")}
CLEARLY = 0.05
TOLERANCE = 0.01


def read(data: Path) -> dict:
    """Reference and query as MuData."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        cells = mudata.read_h5mu(data / "multiome_snare_mouse_cortex.h5mu")
        cells = cells[cells.obs["cell_type"] != "Mis"].copy()
        is_query = (cells.obs["batch"] == QUERY).to_numpy()
        return {"reference": cells[~is_query].copy(), "query": cells[is_query].copy()}


def types(cells) -> np.ndarray:
    return cells["rna"].obs["cell_type"].astype(str).to_numpy()


def accuracy(reference_z: np.ndarray, query_z: np.ndarray, parts: dict) -> float:
    neighbours = KNeighborsClassifier(15).fit(reference_z, types(parts["reference"]))
    return neighbours.score(query_z, types(parts["query"]))


def baselines(parts: dict) -> dict[str, float]:
    logged = [np.asarray(np.log1p(1e4 * one["rna"].X.toarray() / one["rna"].X.sum(1))) for one in parts.values()]
    pca = PCA(30, random_state=0).fit(logged[0])
    peaks = [one["atac"].X for one in parts.values()]
    seen_in = np.asarray((peaks[0] > 0).sum(0)).ravel()
    weights = sp.diags_array(np.log1p(peaks[0].shape[0] / (1 + seen_in)))
    frequencies = [(sp.diags_array(1 / np.asarray(one.sum(1)).ravel()) @ one @ weights * 1e4).log1p() for one in peaks]
    svd = TruncatedSVD(31, random_state=0).fit(frequencies[0])
    of_rna, of_atac = [pca.transform(one) for one in logged], [svd.transform(one)[:, 1:] for one in frequencies]
    found = {"RNA": of_rna, "ATAC": of_atac, "both": [np.hstack(pair) for pair in zip(of_rna, of_atac)]}
    return {name: accuracy(*z, parts) for name, z in found.items()}


def journey(parts: dict, seed: int) -> dict[str, float]:
    """Accuracy of the query by each of its modalities, and CPU seconds."""
    start = time.process_time()
    reference = sca.models.MultiVAE(parts["reference"], batch_key="batch", seed=seed)
    reference.train(seed=seed, progress=False)
    row, z = {"CPU s": time.process_time() - start}, reference.get_latent_representation()
    for name, modalities in MODALITIES.items():
        start = time.process_time()
        cells = mudata.MuData({one: parts["query"][one].copy() for one in modalities})
        query = sca.models.MultiVAE.load_query_data(cells, reference)
        query.train(seed=seed, progress=False)
        row[name] = accuracy(z, query.get_latent_representation(), parts)
        row[f"CPU s, {name}"] = time.process_time() - start
    return row


def main() -> int:
    arguments = parse_arguments()
    warnings.simplefilter("ignore")
    parts = read(arguments.data)
    of_others = baselines(parts)
    print(f"{len(types(parts['reference'])):,} reference cells, {len(types(parts['query'])):,} query cells")
    print("PCA, LSI, both: " + ", ".join(f"{name} {value:.3f}" for name, value in of_others.items()), flush=True)
    rows = []
    for seed in arguments.seeds:
        rows.append(journey(parts, seed))
        print(
            f"MultiVAE seed {seed}: " + ", ".join(f"{name} {value:.3f}" for name, value in rows[-1].items()), flush=True
        )
    mean = {name: statistics.fmean(row[name] for row in rows) for name in rows[0]}
    verdict = Verdict()
    lines = [
        (f"RNA, at least PCA's ({of_others['RNA']:.3f})", "RNA", of_others["RNA"]),
        (f"ATAC, at least {CLEARLY} above LSI's ({of_others['ATAC']:.3f})", "ATAC", of_others["ATAC"] + CLEARLY),
        (f"both, at most {TOLERANCE} below RNA alone ({mean['RNA']:.3f})", "both", mean["RNA"] - TOLERANCE),
    ]
    for what, name, least in lines:
        verdict(what, f"{mean[name]:.3f}", mean[name] >= least)
    return 0 if verdict.met else 1


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=DEFAULT_DATA, help="folder of the .h5mu file")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
