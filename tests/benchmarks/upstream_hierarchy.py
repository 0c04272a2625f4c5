"""scHPL's side of bench_hierarchy.py. In its own environment, which lacks scarches_widgets.

    <environment>/bin/python -E -s upstream_hierarchy.py CELLS.npz RESULT.json

CELLS.npz holds z (cells, dimensions), batch, "labels " + task for each task, the two batches to learn from ("order")
and which cells to name ("test"). Pictures are replaced by nothing, so that only scHPL's work is timed.
"""

import contextlib
import io
import json
import sys
import time
import warnings

import matplotlib

matplotlib.use("Agg")
import numpy as np
import scHPL
import scHPL.learn
from anndata import AnnData


def nested(node) -> list:
    """A tree as [names, children], for JSON."""
    return [list(node.name), [nested(child) for child in node.descendants]]


def main():
    warnings.simplefilter("ignore")
    scHPL.learn.print_tree = lambda *args, **kwargs: None
    with np.load(sys.argv[1]) as file:
        cells = dict(file)
    z, batch, first, second = cells["z"], cells["batch"], *cells["order"]
    result = {}

    train, test = batch == first, cells["test"]
    start = time.process_time()
    tree = scHPL.create_tree(f"({','.join(np.unique(cells['labels same'][train]))})root")
    tree = scHPL.train_tree(z[train], cells["labels same"][train], tree)
    trained = time.process_time()
    labels, probabilities = scHPL.predict_labels(z[test], tree)
    predicted = time.process_time()
    result["predict"] = {
        "labels": labels.tolist(),
        "probabilities": probabilities.ravel().tolist(),
        "train_seconds": trained - start,
        "seconds": predicted - trained,
    }

    for task in ("same", "coarse first", "coarse second"):
        adata = AnnData(z, obs={"batch": batch, "label": cells[f"labels {task}"]})
        start = time.process_time()
        with contextlib.redirect_stdout(io.StringIO()):
            tree, missing = scHPL.learn_tree(adata, "batch", [first, second], "label")
        seconds = time.process_time() - start
        calls, _ = scHPL.predict_labels(z[test], tree)
        result[task] = {
            "tree": nested(tree[0]),
            "missing": [str(name) for name in missing],
            "seconds": seconds,
            "labels": calls.tolist(),
        }
    with open(sys.argv[2], "w") as file:
        json.dump(result, file)


if __name__ == "__main__":
    main()
