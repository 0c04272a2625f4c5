"""One training for bench_training.py, by ours or by scvi-tools, in a process of its own; prints one line of JSON.

Runs in either environment and imports only the library that it is to measure; `--help` lists the options. A model is
trained on one file and, with --query, adapted to another by surgery. CPU seconds are the process's: per epoch, between
the ends of two; `cpu` from the model's construction to the end of its training; `query_cpu` from the surgery to the
end of the query's. Posterior means and ELBOs come after the clock has been read.
"""

import argparse
import json
import logging
import time
import warnings
from pathlib import Path

import anndata
import numpy as np
import torch

LABELS, UNLABELED = "cell_type", "Unknown"
MAPPABLE = {
    "n_layers": 2,
    "encode_covariates": True,
    "deeply_inject_covariates": False,
    "use_layer_norm": "both",
    "use_batch_norm": "none",
}


class Ours:
    def __init__(self, arguments):
        import scarches_widgets as sca

        self.arguments = arguments
        self.cls = sca.models.SCANVI if arguments.model == "scanvi" else sca.models.SCVI
        self.how = {"schedule": arguments.schedule, "train_size": arguments.train_size, "seed": arguments.seed}
        self.how |= {"progress": False, "background": True}
        if arguments.threads:
            self.how["threads"] = arguments.threads

    def fit(self, adata, ends):
        options = {"labels_key": LABELS, "unlabeled_category": UNLABELED} if self.arguments.model == "scanvi" else {}
        options |= {"gene_likelihood": self.arguments.likelihood, "seed": self.arguments.seed}
        model = self.cls(adata, batch_key="batch", **options, **(MAPPABLE if self.arguments.mappable else {}))

        def note(event):
            if type(event).__name__ == "EpochEnded":
                ends.append(time.process_time())

        model.watch_runs(lambda run: run.subscribe(note))
        model.train(max_epochs=self.arguments.epochs, **self.how).wait()
        return model

    def fit_query(self, adata, model):
        query = self.cls.load_query_data(adata, model)
        query.train(max_epochs=self.arguments.query_epochs, weight_decay=0.0, **self.how).wait()
        return query

    def elbo(self, model, adata):
        return model.get_elbo(adata)


class ScviTools:
    def __init__(self, arguments):
        import scvi

        warnings.simplefilter("ignore")
        for name in ("lightning.pytorch", "lightning.fabric", "scvi"):
            logging.getLogger(name).setLevel(logging.ERROR)
        scvi.settings.seed = arguments.seed
        self.arguments = arguments
        self.cls = scvi.model.SCANVI if arguments.model == "scanvi" else scvi.model.SCVI
        self.how = {"accelerator": "cpu", "enable_progress_bar": False, "train_size": arguments.train_size}

    def fit(self, adata, ends):
        from lightning.pytorch.callbacks import Callback

        class Clock(Callback):
            def on_train_epoch_end(self, trainer, module):
                ends.append(time.process_time())

        options = {"labels_key": LABELS, "unlabeled_category": UNLABELED} if self.arguments.model == "scanvi" else {}
        self.cls.setup_anndata(adata, batch_key="batch", **options)
        options = {"gene_likelihood": self.arguments.likelihood}
        model = self.cls(adata, **options, **(MAPPABLE if self.arguments.mappable else {}))
        model.train(max_epochs=self.arguments.epochs, callbacks=[Clock()], **self.how)
        return model

    def fit_query(self, adata, model):
        query = self.cls.load_query_data(adata, model)
        # as its tutorials do: any decay would move the frozen reference weights
        query.train(max_epochs=self.arguments.query_epochs, plan_kwargs={"weight_decay": 0.0}, **self.how)
        return query

    def elbo(self, model, adata):
        return -abs(float(model.get_elbo(adata)))  # the sign has changed over its versions; an ELBO of counts is < 0


def main():
    arguments = parse_arguments()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    library = {"ours": Ours, "scvi-tools": ScviTools}[arguments.library](arguments)
    adata = anndata.read_h5ad(arguments.train)
    start, wall, ends = time.process_time(), time.perf_counter(), []
    model = library.fit(adata, ends)
    found = {"cpu": time.process_time() - start, "wall": time.perf_counter() - wall, "resident": memory("VmRSS")}
    found["epochs"] = np.diff([start, *ends]).tolist()
    latents = {"reference": model.get_latent_representation()}
    if arguments.held_out:
        held_out = anndata.read_h5ad(arguments.held_out)
        found["elbo"] = library.elbo(model, held_out)
        latents["held_out"] = model.get_latent_representation(held_out)
    if arguments.query:
        query_adata = anndata.read_h5ad(arguments.query)
        if arguments.model == "scanvi":
            query_adata.obs[LABELS] = UNLABELED
        start = time.process_time()
        query = library.fit_query(query_adata, model)
        found["query_cpu"] = time.process_time() - start
        found["query_elbo"] = library.elbo(query, query_adata)
        latents["query"] = query.get_latent_representation()
    if arguments.latents:
        np.savez(arguments.latents, **latents)
    found["peak"] = memory("VmHWM")
    print(json.dumps(found))


def memory(what: str) -> float:
    """Megabytes: VmRSS, resident now, or VmHWM, at most so far. (getrusage's peak may be that of the parent.)"""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(status.split(f"{what}:")[1].split()[0]) * 1024 / 1e6


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("library", choices=["ours", "scvi-tools"])
    parser.add_argument("train", help="h5ad with raw counts in X, obs['batch'] and, for scanvi, obs['cell_type']")
    parser.add_argument("--held-out", help="h5ad of other cells, for ELBO and latents")
    parser.add_argument("--query", help="h5ad of cells to adapt the model to")
    parser.add_argument("--latents", help="npz to write the posterior means to")
    parser.add_argument("--model", choices=["scvi", "scanvi"], default="scvi")
    parser.add_argument("--likelihood", choices=["zinb", "nb"], default="zinb")
    parser.add_argument("--mappable", action="store_true", help="scArches' architecture instead of scvi-tools' default")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--epochs", type=int)
    parser.add_argument("--query-epochs", type=int)
    parser.add_argument("--train-size", type=float, default=0.9)
    parser.add_argument("--schedule", choices=["auto", "published"], default="auto", help="ours")
    parser.add_argument("--threads", type=int, help="of torch; without it, the library's default")
    return parser.parse_args()


if __name__ == "__main__":
    main()
