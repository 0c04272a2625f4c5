"""One mvTCR for bench_receptors.py, by ours or by mvtcr, in a process of its own; prints one line of JSON.

Runs in either environment and imports only the library that it is to measure; `--help` lists the options. CPU seconds
are the process's, between the ends of two epochs. The latents of all cells, at posterior means, go to `--latents`.
"""

import argparse
import json
import sys
import tempfile
import time
import warnings

import anndata
import numpy as np
import torch

CHAINS = {"alpha": "TRA_cdr3", "beta": "TRB_cdr3"}


class Ours:
    def __init__(self, arguments, params):
        import scarches_widgets as sca

        modules = sca.models.mvTCR.models.mixture_modules
        self.make = {"moe": modules.moe.MoEModel, "poe": modules.poe.PoEModel}[arguments.combine]
        self.params, self.how = params, {"seed": arguments.seed, "progress": False, "background": True}
        self.how |= {"schedule": arguments.schedule, "train_size": arguments.train_size}
        if arguments.epochs:
            self.how["n_epochs"] = arguments.epochs
        self.seed = arguments.seed

    def fit(self, adata, ends):
        model = self.make(adata, self.params, balanced_sampling="clonotype", seed=self.seed)

        def note(event):
            if type(event).__name__ == "EpochEnded":
                ends.append(time.process_time())

        model.watch_runs(lambda run: run.subscribe(note))
        model.train(**self.how).wait()
        return model

    def latents(self, model, adata):
        return dict(zip(("joint", "rna", "tcr"), model.get_latent_representation(modality=("joint", "rna", "tcr"))))


class MvTCR:
    def __init__(self, arguments, params):
        import os
        import random

        os.environ["COMET_LOGGING_FILE_LEVEL"] = "ERROR"
        from mvtcr.models.mixture_modules.moe import MoEModel
        from mvtcr.models.mixture_modules.poe import PoEModel

        self.make, self.params = {"moe": MoEModel, "poe": PoEModel}[arguments.combine], params
        self.epochs = arguments.epochs
        random.seed(arguments.seed)
        torch.manual_seed(arguments.seed)

    def fit(self, adata, ends):
        adata = prepared(adata)
        model = self.make(adata, self.params, balanced_sampling="clonotype", metadata=[], device=torch.device("cpu"))
        model.additional_evaluation = lambda epoch, path: ends.append(time.process_time())
        with tempfile.TemporaryDirectory() as folder:
            keys = {"batch_size": "batch_size", "learning_rate": "learning_rate", "loss_weights": "loss_weights"}
            model.train(
                n_epochs=self.epochs, save_path=folder, **{key: self.params[name] for key, name in keys.items()}
            )
        return model

    def latents(self, model, adata):
        adata = prepared(adata)
        found = {"joint": model.get_latent(adata, [])}
        found |= {key: model.get_latent_unimodal(adata, [], name) for key, name in (("rna", "RNA"), ("tcr", "TCR"))}
        return {key: np.asarray(one.X) for key, one in found.items()}


def prepared(adata):
    """Log-normalised, with tokens as mvtcr's own preparation makes them."""
    letters = "_ACDEFGHIKLMNPQRSTVWY+<>"
    adata = adata.copy()
    counts = adata.X.toarray()
    adata.X = np.log1p(1e4 * counts / np.maximum(counts.sum(1, keepdims=True), 1)).astype(np.float32)
    adata.uns["aa_to_id"] = {letter: i for i, letter in enumerate(letters)}
    sequences = {chain: adata.obs[column].astype(str) for chain, column in CHAINS.items()}
    longest = max(len(text) for column in sequences.values() for text in column)
    for chain, column in sequences.items():
        tokens = [[letters.index(letter) for letter in text.ljust(longest, "_")] for text in column]
        adata.obsm[f"{chain}_seq"] = np.array(tokens)
        adata.obs[f"{chain}_len"] = column.str.len().to_numpy()
    return adata


def main():
    arguments = parse_arguments()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    with open(arguments.params, encoding="utf-8") as file:
        params = json.load(file)
    library = {"ours": Ours, "mvtcr": MvTCR}[arguments.library](arguments, params)
    adata = anndata.read_h5ad(arguments.train)
    start, ends = time.process_time(), []
    model = library.fit(adata, ends)
    found = {"cpu": ends[-1] - start, "n_epochs": len(ends), "epochs": np.diff([start, *ends]).tolist()}
    if arguments.latents:
        np.savez(arguments.latents, **library.latents(model, adata))
    sys.stdout.flush()
    print("\n" + json.dumps(found))


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("library", choices=["ours", "mvtcr"])
    parser.add_argument("train", help="h5ad with raw counts in X, the CDR3 of both chains, clonotype and set in obs")
    parser.add_argument("params", help="JSON of mvtcr's params_architecture")
    parser.add_argument("--combine", choices=["moe", "poe"], default="moe")
    parser.add_argument("--latents", help="npz to write the latents to")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--epochs", type=int)
    parser.add_argument("--schedule", choices=["auto", "published"], default="auto", help="ours")
    parser.add_argument("--train-size", type=float, default=0.9, help="ours; mvtcr reads obs['set']")
    return parser.parse_args()


if __name__ == "__main__":
    main()
