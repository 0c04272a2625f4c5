"""Trees of cell types: ours against scHPL 1.0.5. Measured data, one thread; 5 minutes of one core, mostly `large`.

    python tests/benchmarks/bench_hierarchy.py [--data DIR] [--environment DIR] [--cache DIR]
                                               [--parts agreement unseen large]

    agreement    blood of six donors (pbmc_kang_donors.h5ad) in the latent space of our SCVI. Trees are trained on
                 donor1015, or learned from donor1015 and then donor1244; 1,500 cells of the other donors are named.
                 Both donors have the same eight labels, or one of them has T cells (CD4 and CD8) and monocytes (CD14+
                 and FCGR3A+) in one label each.
    unseen       a type that the tree does not know must be rejected, or be a new node: A549 and H838, which only the
                 plates of celllines_5batches.h5ad have, and B cells, left out of donor1015. Other types of blood, left
                 out in their turn, are extra information.
    large        100,000 cells named by a tree of 40 nodes with 100,000 cells in 30 dimensions: CPU seconds and memory

The verdict (exit status 1 if any line says FAILED) is the acceptance of treeArches. scHPL lives in an environment of
its own, which the first run makes; its results and all latents are kept in the cache.
"""

import argparse
import json
import resource
import subprocess
import sys
import time
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import torch
from bench_mapping import DEFAULT_DATA, most_variable_genes
from environment import has_packages, python_of, run_in

import scarches_widgets as sca

CACHE = Path.home() / ".cache" / "scarches_widgets"
SCHPL, ITS_PINS = "scHPL==1.0.5", ("numpy==1.26.4", "pandas==1.5.3", "anndata==0.11.4")
FIRST, SECOND = "donor1015", "donor1244"
COARSE = {
    "CD4 T cells": "T cells",
    "CD8 T cells": "T cells",
    "CD14+ Monocytes": "Monocytes",
    "FCGR3A+ Monocytes": "Monocytes",
}
TASKS = ("same", "coarse first", "coarse second")
N_NAMED = 1500
PARTS = ("agreement", "unseen", "large")


def main() -> int:
    arguments = parse_arguments()
    torch.set_num_threads(1)
    parts = {"agreement": agreement, "unseen": unseen, "large": large}
    return 0 if all([parts[part](arguments) for part in arguments.parts]) else 1


def check(is_met: bool, sentence: str) -> bool:
    print(f"{'ok' if is_met else 'FAILED':8}{sentence}", flush=True)
    return is_met


# --- agreement with scHPL --------------------------------------------------------------------------------------------


def agreement(arguments: argparse.Namespace) -> bool:
    cells = blood(arguments)
    theirs = by_schpl(cells, arguments)
    z, batch, test = cells["z"], cells["batch"], cells["test"]
    train = batch == FIRST
    tree = trained_flat(z[train], cells["labels same"][train])
    seconds = min(cpu_seconds(lambda: sca.hierarchy.predict_labels(z[test], tree)) for _ in range(20))
    labels = sca.hierarchy.predict_labels(z[test], tree).labels
    is_same = labels == np.array(theirs["predict"]["labels"])
    rates = test.sum() / seconds, test.sum() / theirs["predict"]["seconds"]
    print(f"\n{train.sum()} cells train, {test.sum()} are named")
    met = [
        check(is_same.mean() >= 0.99, f"kNN calls equal for {is_same.mean():.2%} of cells"),
        check(
            rates[0] >= 100 * rates[1], f"predict_labels: {rates[0]:,.0f} cells per CPU second, scHPL {rates[1]:,.0f}"
        ),
    ]
    for task in TASKS:
        adata = as_adata(z, batch, cells[f"labels {task}"])
        start = time.process_time()
        learned, missing = sca.hierarchy.learn_tree(adata, "batch", [FIRST, SECOND], "label")
        seconds = time.process_time() - start
        print(f"\n{task}\nours:    {shown(nested(learned.root))}, missing: {missing}")
        print(f"scHPL's: {shown(theirs[task]['tree'])}, missing: {theirs[task]['missing']}")
        is_same = sca.hierarchy.predict_labels(z[test], learned).labels == np.array(theirs[task]["labels"])
        print(f"calls by the two learned trees equal for {is_same.mean():.2%} of cells")
        truth = true_relations(task)
        ours_found, theirs_found = relations_in(nested(learned.root)), relations_in(theirs[task]["tree"])
        right, their_right = len(ours_found & truth), len(theirs_found & truth)
        sentence = (
            f"{right} of {len(truth)} relations right, {len(ours_found - truth)} wrong; scHPL {their_right} right, "
        )
        sentence += f"{len(theirs_found - truth)} wrong"
        is_coarse = {relation for relation in truth if relation[1] != "is"}
        met.append(check(right >= their_right and is_coarse <= ours_found, sentence))
        their_seconds = theirs[task]["seconds"]
        met.append(check(10 * seconds <= their_seconds, f"learn_tree: {seconds:.2f} CPU s, scHPL {their_seconds:.2f}"))
    return all(met)


def trained_flat(z: np.ndarray, labels: np.ndarray) -> sca.hierarchy.Hierarchy:
    edges = pd.DataFrame({"parent": "root", "child": np.unique(labels)})
    return sca.hierarchy.train_tree(z, labels, sca.hierarchy.Hierarchy.from_edges(edges))


def as_adata(z: np.ndarray, batch: np.ndarray, labels: np.ndarray) -> anndata.AnnData:
    return anndata.AnnData(
        z, obs=pd.DataFrame({"batch": batch, "label": labels}, index=[str(i) for i in range(len(z))])
    )


def cpu_seconds(call) -> float:
    start = time.process_time()
    call()
    return time.process_time() - start


def blood(arguments: argparse.Namespace) -> dict[str, np.ndarray]:
    """Latent coordinates of all cells, and labels for each task, told apart as p_… and q_…, which scHPL needs."""
    adata = anndata.read_h5ad(arguments.data / "pbmc_kang_donors.h5ad")
    z = latents(adata, "donor", arguments.cache / "bench_hierarchy" / "kang_latents.npz")
    batch, fine = (adata.obs[key].astype(str).to_numpy(str) for key in ("donor", "cell_type"))
    coarse = np.array([COARSE.get(label, label) for label in fine])
    labels = {}
    for task, (of_first, of_second) in zip(TASKS, ((fine, fine), (coarse, fine), (fine, coarse))):
        labels[f"labels {task}"] = np.where(batch == FIRST, np.char.add("p_", of_first), np.char.add("q_", of_second))
    others = np.flatnonzero(~np.isin(batch, [FIRST, SECOND]))
    test = np.zeros(len(batch), dtype=bool)
    test[np.random.default_rng(0).choice(others, N_NAMED, replace=False)] = True
    return {"z": z, "batch": batch, "fine": fine, "test": test, "order": np.array([FIRST, SECOND]), **labels}


def latents(adata: anndata.AnnData, batch_key: str, path: Path) -> np.ndarray:
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        model = sca.models.SCVI(adata, batch_key=batch_key, seed=0)
        model.train(seed=0, progress=False)
        np.savez(path, z=model.get_latent_representation())
    with np.load(path) as file:
        return file["z"].astype(np.float64)


def by_schpl(cells: dict[str, np.ndarray], arguments: argparse.Namespace) -> dict:
    folder = arguments.cache / "bench_hierarchy"
    if not (folder / "schpl.json").exists():
        make_environment(arguments.environment)
        np.savez(folder / "cells.npz", **cells)
        script = str(Path(__file__).with_name("upstream_hierarchy.py"))
        run_in(arguments.environment, [script, str(folder / "cells.npz"), str(folder / "schpl.json")])
    return json.loads((folder / "schpl.json").read_text())


def make_environment(environment: Path):
    if has_packages(environment, ITS_PINS):  # which are installed together with it
        return
    print(f"Installing {', '.join([SCHPL, *ITS_PINS])} into {environment}", flush=True)
    subprocess.run([sys.executable, "-m", "venv", str(environment)], check=True)
    subprocess.run([python_of(environment), "-m", "pip", "install", "--quiet", SCHPL, *ITS_PINS], check=True)


def true_relations(task: str) -> set[tuple[str, str, str]]:
    """(label of the first, is / above / below, label of the second), of each label of the finer side."""
    fine = ["B cells", "CD14+ Monocytes", "CD4 T cells", "CD8 T cells", "Dendritic cells", "FCGR3A+ Monocytes",
            "Megakaryocytes", "NK cells"]  # fmt: skip
    relations = set()
    for label in fine:
        coarse = COARSE.get(label, label)
        if task == "same" or coarse == label:
            relations.add((f"p_{label}", "is", f"q_{label}"))
        elif task == "coarse first":
            relations.add((f"p_{coarse}", "above", f"q_{label}"))
        else:
            relations.add((f"p_{label}", "below", f"q_{coarse}"))
    return relations


def nested(node: sca.hierarchy.Node) -> list:
    return [node.names, [nested(child) for child in node.children]]


def relations_in(tree: list, above: tuple[str, ...] = ()) -> set[tuple[str, str, str]]:
    """The relations between the labels of the two donors that a tree states."""
    names, children = tree
    found = {(p, "is", q) for p in names for q in names if p[0] == "p" and q[0] == "q"}
    for name in names:
        for upper in above:
            if (upper[:2], name[:2]) == ("p_", "q_"):
                found.add((upper, "above", name))
            if (upper[:2], name[:2]) == ("q_", "p_"):
                found.add((name, "below", upper))
    for child in children:
        found |= relations_in(child, (*above, *names))
    return found


def shown(tree: list) -> str:
    names, children = tree
    return "|".join(names) + (f"({', '.join(shown(child) for child in children)})" if children else "")


# --- types that the tree does not know -------------------------------------------------------------------------------


def unseen(arguments: argparse.Namespace) -> bool:
    adata = anndata.read_h5ad(arguments.data / "celllines_5batches.h5ad")
    adata = adata[:, most_variable_genes(adata, 3000)].copy()
    z = latents(adata, "batch", arguments.cache / "bench_hierarchy" / "celllines_latents.npz")
    batch, lines = (adata.obs[key].astype(str).to_numpy(str) for key in ("batch", "cell_type"))
    first = ["sc_celseq2", "sc_dropseq"]
    plates = sorted(set(batch) - set(first))
    known = np.isin(batch, first)
    rejected = rejection(z, lines, known, ~known)
    tree, _ = sca.hierarchy.learn_tree(as_adata(z, batch, lines), "batch", [*first, *plates], "label")
    print(f"\ncell lines: {shown(nested(tree.root))}")
    met = [placed_or_rejected(tree, line, rejected[line]) for line in ("A549", "H838")]

    cells = blood(arguments)
    z, batch, fine = cells["z"], cells["batch"], cells["fine"]
    for left_out in np.unique(fine):
        known = (batch == FIRST) & (fine != left_out)
        rejected = rejection(z, fine, known, (batch != FIRST) & (fine == left_out))
        used = known | (batch == SECOND)
        adata = as_adata(z[used], batch[used], cells["labels same"][used])
        tree, _ = sca.hierarchy.learn_tree(adata, "batch", [FIRST, SECOND], "label")
        if left_out == "B cells":
            met.append(placed_or_rejected(tree, "q_B cells", rejected[left_out]))
        else:
            node = tree.find(f"q_{left_out}")
            print(
                f"        {left_out}: {rejected[left_out]:.0%} rejected, {'no place' if node is None else place(node)}"
            )
    return all(met)


def rejection(z: np.ndarray, labels: np.ndarray, known: np.ndarray, query: np.ndarray) -> pd.Series:
    """Of each label's cells in the query, the share that a flat tree of the known cells rejects."""
    frame = sca.hierarchy.predict_labels(z[query], trained_flat(z[known], labels[known])).frame
    return (frame["gate"] != "").groupby(labels[query]).mean()


def placed_or_rejected(tree: sca.hierarchy.Hierarchy, label: str, rejected: float) -> bool:
    node = tree.find(label)
    is_new = node is not None and node.parent.is_root and node.names == [label]
    where = "no place" if node is None else place(node)
    return check(is_new or rejected >= 0.9, f"{label}: {rejected:.0%} of cells rejected; in the learned tree {where}")


def place(node: sca.hierarchy.Node) -> str:
    return f"{' = '.join(node.names)} below {node.parent.name}"


# --- size ------------------------------------------------------------------------------------------------------------


def large(arguments: argparse.Namespace) -> bool:
    n_cells, n_dimensions = 100_000, 30
    tree = sca.hierarchy.Hierarchy("root")
    for group in range(8):  # 1 + 8 + 31 = 40 nodes
        tree.add(f"group {group}")
        for number in range(3 + (group < 7)):
            tree.add(f"type {group}.{number}", f"group {group}")
    leaves = [node.name for node in tree.leaves()]
    rng = np.random.default_rng(0)
    groups = np.array([int(name.split()[1][0]) for name in leaves])
    centres = rng.normal(0, 2, (8, n_dimensions))[groups] + rng.normal(0, 1, (len(leaves), n_dimensions))
    codes = rng.integers(len(leaves), size=(2, n_cells))
    reference, query = (centres[part] + rng.normal(0, 1, (n_cells, n_dimensions)) for part in codes)
    start, before = time.process_time(), memory()
    trained = sca.hierarchy.train_tree(reference, np.array(leaves)[codes[0]], tree)
    middle = time.process_time()
    predictions = sca.hierarchy.predict_labels(query, trained)
    end = time.process_time()
    right = np.mean(predictions.labels == np.array(leaves)[codes[1]])
    seconds = f"training {middle - start:.0f}, naming {end - middle:.0f} CPU seconds"
    print(f"\n{len(tree)} nodes; {right:.1%} of cells called right; {seconds}; {before / 1e9:.2f} GB before")
    return all(
        [
            check(end - start <= 120, f"{end - start:.0f} CPU seconds for both"),
            check(memory() <= 1.5e9, f"{memory() / 1e9:.2f} GB at the most"),
        ]
    )


def memory() -> int:
    """The largest resident size of this process so far, bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=DEFAULT_DATA, help="folder of the .h5ad files")
    parser.add_argument("--environment", type=Path, default=CACHE / "schpl-1.0.5", help="scHPL's environment")
    parser.add_argument("--cache", type=Path, default=CACHE, help="where latents and scHPL's results are kept")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
