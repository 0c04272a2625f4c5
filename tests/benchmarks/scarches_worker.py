"""One journey for bench_scarches.py, by ours or by scArches 0.6.1, in a process of its own; prints one line of JSON.

Runs in either environment and imports only the library that it is to measure; `--help` lists the options. A model is
trained on one file and, with --query, adapted to another by surgery, whose labels it does not see. CPU seconds are the
process's, from the model's construction to the end of its training, and those of each epoch, on one thread. Latents,
and scPoli's labels of the query, come after the clock has been read.
"""

import argparse
import json
import time
import warnings
from pathlib import Path

import anndata
import numpy as np
import torch

LABELS, UNLABELED = "cell_type", "Unknown"
CLASSES = {"trvae": "TRVAE", "expimap": "EXPIMAP", "scpoli": "scPoli"}


class Ours:
    def __init__(self, arguments):
        import scarches_widgets as sca

        warnings.simplefilter("ignore")
        self.cls = getattr(sca.models, CLASSES[arguments.model])
        self.is_poli, self.seed = arguments.model == "scpoli", arguments.seed
        self.ends = []
        self.how = {"schedule": arguments.schedule, "seed": arguments.seed, "progress": False, "background": True}

    def train(self, model, epochs, options=()):
        stopping = {} if epochs is None else {"max_epochs": epochs, "early_stopping": False}
        if self.is_poli and epochs is not None:
            stopping["pretraining_epochs"] = epochs // 2
        model.watch_runs(lambda run: run.subscribe(self.note))
        model.train(**stopping, **self.how, **dict(options)).wait()
        return model

    def note(self, event):
        if type(event).__name__ == "EpochEnded":
            self.ends.append(time.process_time())

    def fit(self, adata, epochs):
        options = {"labels_key": LABELS, "unlabeled_category": UNLABELED} if self.is_poli else {}
        return self.train(self.cls(adata, batch_key="batch", seed=self.seed, **options), epochs)

    def fit_query(self, adata, model, epochs):
        return self.train(self.cls.load_query_data(adata, model), epochs, {"weight_decay": 0.0})

    def latent(self, model):
        return model.get_latent_representation()

    def n_epochs(self, model):
        return len(model.history)


class ScArches:
    def __init__(self, arguments):
        warnings.simplefilter("ignore")
        anndata.read = anndata.read_h5ad  # which it imports, and anndata 0.11 only warns of
        import scarches

        torch.manual_seed(arguments.seed)
        np.random.seed(arguments.seed)  # noqa: NPY002 - its split of labelled cells and its clusters draw from there
        self.cls = getattr(scarches.models, CLASSES[arguments.model])
        self.is_poli, self.ends = arguments.model == "scpoli", []
        for trainer in (scarches.trainers.trvae.trainer.Trainer, scarches.trainers.scpoli.trainer.scPoliTrainer):
            trainer.on_epoch_end = self.noting(trainer.on_epoch_end)
        self.how = {"seed": arguments.seed, "monitor": False}
        if arguments.model == "expimap":
            self.how["alpha"] = 0.7

    def noting(self, on_epoch_end):
        def noted(trainer):
            on_epoch_end(trainer)
            self.ends.append(time.process_time())

        return noted

    def train(self, model, epochs, options=()):
        stopping = {} if epochs is None else {"n_epochs": epochs, "use_early_stopping": False}
        if self.is_poli and epochs is not None:
            stopping["pretraining_epochs"] = epochs // 2
        model.train(**stopping, **self.how, **dict(options))
        return model

    def fit(self, adata, epochs):
        adata.X = adata.X.toarray()  # it fetches cells one by one: rows of a dense matrix are its faster ones
        if self.is_poli:
            model = self.cls(adata, condition_keys="batch", cell_type_keys=LABELS, unknown_ct_names=[UNLABELED])
        else:
            model = self.cls(adata, condition_key="batch")
        return self.train(model, epochs)

    def fit_query(self, adata, model, epochs):
        adata.X = adata.X.toarray()
        options = {"labeled_indices": []} if self.is_poli else {}
        query = self.cls.load_query_data(adata, model, **options)
        return self.train(query, epochs, {"weight_decay": 0.0})  # as its tutorials do

    def latent(self, model):
        return model.get_latent(model.adata, mean=True) if self.is_poli else model.get_latent(mean=True)

    def n_epochs(self, model):
        return model.trainer.epoch + 1


def main():
    arguments = parse_arguments()
    torch.set_num_threads(1)
    library = {"ours": Ours, "scarches": ScArches}[arguments.library](arguments)
    adata = read(arguments.train)
    start = time.process_time()
    model = library.fit(adata, arguments.epochs)
    found = {"cpu": time.process_time() - start, "n_epochs": library.n_epochs(model), "peak": peak_memory()}
    found["epochs"] = np.diff([start, *library.ends]).tolist()
    arrays = {}
    if arguments.latents:
        arrays["reference"] = library.latent(model)
    if arguments.query:
        query_adata = read(arguments.query)
        query_adata.obs[LABELS] = UNLABELED
        start = time.process_time()
        query = library.fit_query(query_adata, model, arguments.query_epochs)
        found |= {"query_cpu": time.process_time() - start, "query_n_epochs": library.n_epochs(query)}
        arrays["query"] = library.latent(query)
        if library.is_poli:
            called = query.classify(query_adata, scale_uncertainties=True)[LABELS]
            arrays |= {"labels": np.asarray(called["preds"], dtype=str), "uncertainty": np.asarray(called["uncert"])}
    if arguments.latents:
        np.savez(arguments.latents, **arrays)
    print(json.dumps(found))


def read(path: str) -> anndata.AnnData:
    adata = anndata.read_h5ad(path)
    if "terms" in adata.uns:
        adata.uns["terms"] = list(adata.uns["terms"])
    return adata


def peak_memory() -> float:
    """Megabytes resident at most so far. (getrusage's peak may be that of the parent.)"""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(status.split("VmHWM:")[1].split()[0]) * 1024 / 1e6


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("library", choices=["ours", "scarches"])
    parser.add_argument(
        "train", help="h5ad with raw counts in X, obs['batch'], obs['cell_type'], varm['I'], uns['terms']"
    )
    parser.add_argument("--model", choices=list(CLASSES), required=True)
    parser.add_argument("--query", help="h5ad of cells to adapt the model to")
    parser.add_argument("--latents", help="npz to write the posterior means to")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--epochs", type=int, help="no more and no fewer; without it, the library's schedule")
    parser.add_argument("--query-epochs", type=int)
    parser.add_argument("--schedule", choices=["auto", "published"], default="auto", help="ours")
    return parser.parse_args()


if __name__ == "__main__":
    main()
