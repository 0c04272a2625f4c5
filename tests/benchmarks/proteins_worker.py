"""One totalVI for bench_proteins.py, by ours or by scvi-tools, in a process of its own; prints one line of JSON.

Runs in either environment and imports only the library that it is to measure; `--help` lists the options. CPU seconds
are the process's: per epoch, between the ends of two; `cpu` from the model's construction to the end of its training;
`query_cpu` from the surgery to the end of the query's. Proteins are imputed after the clock has been read.
"""

import argparse
import json
import logging
import time
import warnings

import anndata
import numpy as np
import pandas as pd
import torch

KEY = "protein_expression"


class Ours:
    def __init__(self, arguments):
        import scarches_widgets as sca

        self.cls, self.seed = sca.models.TOTALVI, arguments.seed
        self.how = {"schedule": arguments.schedule, "seed": arguments.seed, "progress": False, "background": True}

    def fit(self, adata, epochs, ends):
        model = self.cls(adata, batch_key="batch", protein_key=KEY, seed=self.seed)

        def note(event):
            if type(event).__name__ == "EpochEnded":
                ends.append(time.process_time())

        model.watch_runs(lambda run: run.subscribe(note))
        model.train(max_epochs=epochs, **self.how).wait()
        return model

    def fit_query(self, adata, model, epochs):
        query = self.cls.load_query_data(adata, model)
        query.train(max_epochs=epochs, **self.how).wait()
        return query

    def imputed(self, query, reference_batch):
        return query.get_normalized_expression(include_protein_background=True)[1]


class ScviTools:
    def __init__(self, arguments):
        import scvi

        warnings.simplefilter("ignore")
        for name in ("lightning.pytorch", "lightning.fabric", "scvi"):
            logging.getLogger(name).setLevel(logging.ERROR)
        scvi.settings.seed = arguments.seed
        self.cls = scvi.model.TOTALVI
        self.how = {"accelerator": "cpu", "enable_progress_bar": False}

    def fit(self, adata, epochs, ends):
        from lightning.pytorch.callbacks import Callback

        class Clock(Callback):
            def on_train_epoch_end(self, trainer, module):
                ends.append(time.process_time())

        self.cls.setup_anndata(adata, batch_key="batch", protein_expression_obsm_key=KEY)
        model = self.cls(adata)
        model.train(max_epochs=epochs, callbacks=[Clock()], **self.how)
        return model

    def fit_query(self, adata, model, epochs):
        names = list(model.adata.obsm[KEY])
        adata.obsm[KEY] = pd.DataFrame(0, adata.obs_names, names)  # its sign for cells without proteins
        query = self.cls.load_query_data(adata, model)
        # as its tutorials do: any decay would move the frozen reference weights
        query.train(max_epochs=epochs, plan_kwargs={"weight_decay": 0.0}, **self.how)
        return query

    def imputed(self, query, reference_batch):
        options = {"n_samples": 10, "return_mean": True, "include_protein_background": True}
        return query.get_normalized_expression(transform_batch=reference_batch, **options)[1]


def main():
    arguments = parse_arguments()
    torch.set_num_threads(1)
    library = {"ours": Ours, "scvi-tools": ScviTools}[arguments.library](arguments)
    adata = anndata.read_h5ad(arguments.train)
    start, ends = time.process_time(), []
    model = library.fit(adata, arguments.epochs, ends)
    found = {"cpu": time.process_time() - start, "n_epochs": len(ends)}
    found["epochs"] = np.diff([start, *ends]).tolist()
    if arguments.query:
        cells = anndata.read_h5ad(arguments.query)
        start = time.process_time()
        query = library.fit_query(cells, model, arguments.query_epochs)
        found["query_cpu"] = time.process_time() - start
        imputed = library.imputed(query, str(adata.obs["batch"].iloc[0]))
        np.savez(arguments.imputed, proteins=np.array(list(imputed), dtype=str), values=imputed.to_numpy())
    print(json.dumps(found))


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("library", choices=["ours", "scvi-tools"])
    parser.add_argument("train", help="h5ad with raw counts in X, proteins in obsm, and obs['batch']")
    parser.add_argument("--query", help="h5ad of cells with RNA alone, of another batch")
    parser.add_argument("--imputed", help="npz to write the query's proteins to")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--epochs", type=int)
    parser.add_argument("--query-epochs", type=int)
    parser.add_argument("--schedule", choices=["auto", "published"], default="auto", help="ours")
    return parser.parse_args()


if __name__ == "__main__":
    main()
