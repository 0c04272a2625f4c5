"""The shell's `scarches-widgets`: demo, lab, doctor, train, map. Reads options, calls the package, prints."""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import logging
import os
import platform
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Sequence
from dataclasses import MISSING, fields
from functools import partial
from pathlib import Path
from typing import Any

LISTED = (
    "scarches-widgets", "torch", "anndata", "scanpy", "squidpy", "numpy", "scipy", "pandas", "bokeh", "anywidget",
    "ipywidgets", "jupyterlab", "faiss-cpu", "napari",
)  # fmt: skip
HERE = Path(__file__).parent
TOURS = [folder / "notebooks" / "00_tour.ipynb" for folder in (HERE, HERE.parent)]  # in a wheel, in a checkout
BINDER_NOTE = """
This is a session on Binder: public and temporary. Upload no private data, type no passwords or tokens, and download
what you want to keep. The limits above are the container's: beyond its memory the kernel is ended without a message.
"""
DEMO = {"n_obs": 4000, "n_vars": 600, "n_batches": 4, "n_types": 8}
JOB_OPTIONS = (
    "query", "query_batches", "reference_batches", "model", "batch_key", "tree_key", "layer", "seed", "config", "train",
    "query_train", "surgery", "workers", "chunk_size", "search",
)  # fmt: skip
TISSUE_DEMO = {"n_obs": 2000, "n_vars": 80, "n_sections": 2}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; the exit status is 0, 2 for a mistake in options or data, 130 after an interrupt."""
    options = _parser().parse_args(arguments)
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    try:
        options.run(options)
    except (ValueError, TypeError, OSError, RuntimeError, ArithmeticError, ImportError) as error:
        if options.json:
            print(json.dumps({"event": "Failed", "error": str(error)}), flush=True)
        print(f"scarches-widgets: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("scarches-widgets: interrupted", file=sys.stderr)
        return 130
    return 0


def demo(options: argparse.Namespace) -> None:
    """The whole journey on simulated cells: train a reference, map a query of an unseen batch, write a report."""
    from . import datasets, models
    from .mapping.jobs import MapJob, run_map_job

    options.out.mkdir(parents=True, exist_ok=True)
    if options.model == "SageNet":
        return _demo_in_tissue(options)
    model = getattr(models, options.model, None)
    simulated = datasets.cite_seq if hasattr(model, "obsm_keys") else datasets.atlas
    if hasattr(model, "var_keys"):
        simulated = partial(datasets.multiome, n_peaks=1000)
    atlas = simulated(**DEMO, seed=options.seed)
    # the laboratory of one batch names families only: what belongs below them, a tree learns from the others
    is_coarse = atlas.obs["batch"] == atlas.obs["batch"].unique()[1]
    atlas.obs["lab_label"] = atlas.obs["cell_type"].astype(str).mask(is_coarse, atlas.obs["type_level2"].astype(str))
    path = options.out / "simulated_atlas.h5ad"
    atlas.write_h5ad(path, compression="gzip")
    job = MapJob(
        reference=path,
        out=options.out,
        model=options.model,
        config=_gene_sets_for(options.model, atlas, options.out),
        query_batches=[atlas.obs["batch"].unique().tolist()[-1]],
        batch_key="batch",
        labels_key="cell_type",
        tree_key="lab_label",
        n_neighbors=30,
        seed=options.seed,
        overwrite=True,
    )
    _say(options, "Simulated", {"cells": atlas.n_obs, "genes": atlas.n_vars, "query": job.query_batches})
    mapped = run_map_job(job, _teller(options), progress=not options.json)
    _show_result(options, mapped, options.out)


def _demo_in_tissue(options: argparse.Namespace) -> None:
    """Place the cells of one section in another one, beside nearest neighbours."""
    import numpy as np
    import pandas as pd

    from . import datasets
    from .mapping import spatial
    from .models import SageNet
    from .widgets import SpatialMapper

    tissue = datasets.tissue(**TISSUE_DEMO, seed=options.seed)
    tissue.write_h5ad(options.out / "simulated_tissue.h5ad", compression="gzip")
    section = tissue.obs["section"].cat.categories[-1]
    is_query = tissue.obs["section"] == section
    reference, query = tissue[~is_query].copy(), tissue[is_query].copy()
    truth = query.obsm.pop("spatial")
    _say(options, "Simulated", {"cells": tissue.n_obs, "genes": tissue.n_vars, "query": [section]})
    model = SageNet(reference, query, seed=options.seed)
    model.train(seed=options.seed, progress=not options.json)
    model.save(options.out / "model", overwrite=True)
    placed = {"SageNet": model.predict_locations()}
    for method, features in spatial.BASELINES.items():
        placed[method] = spatial.knn_locations(reference, query, features=features)
    scores = {
        method: {
            "distance_correlation": spatial.distance_correlation(places, truth),
            "median_error": float(np.median(spatial.location_errors(places, truth))),
        }
        for method, places in placed.items()
    }
    table = pd.DataFrame(scores).T.rename_axis("method")
    table.to_csv(options.out / "scores.csv")
    placed["SageNet"].rename_axis("cell").to_csv(options.out / "places.csv")
    mapper = SpatialMapper(reference, query, model, region_key="region", n_folds=0)
    mapper.map()
    if mapper.wait() == "failed":
        raise RuntimeError(mapper.error["what"])
    mapper.export_html(options.out / "report.html")
    if options.json:
        _say(options, "Placed", scores)
        return
    print("\n" + table.round(3).rename(columns=lambda name: name.replace("_", " ")).to_string() + "\n")
    print(f"Report: {options.out / 'report.html'}")


def _gene_sets_for(model: str, atlas, folder: Path) -> dict[str, Any]:
    """For a model of gene programs, the options that name them: the simulation's programs and markers, as a file."""
    from . import models

    if not hasattr(getattr(models, model, None), "get_gene_program_scores"):
        return {}
    truth = atlas.uns["truth"]
    sets = truth["programs"] | {f"markers of {name}": genes for name, genes in truth["markers"].items()}
    path = folder / "simulated_programs.gmt"
    path.write_text("\n".join("\t".join([name, "simulated", *genes]) for name, genes in sets.items()), encoding="utf-8")
    return {"gene_sets": str(path), "min_genes": 1}


def lab(options: argparse.Namespace) -> None:
    """Open the tour in JupyterLab: the same journey by clicks, on a copy of the notebook that is yours to change."""
    tour = next((path for path in TOURS if path.is_file()), None)
    if tour is None:
        raise FileNotFoundError(f"{TOURS[-1].name} is not among the package's files. Install scarches-widgets again.")
    copy = options.folder / tour.name
    options.folder.mkdir(parents=True, exist_ok=True)
    if not copy.exists():
        shutil.copyfile(tour, copy)
    command = [sys.executable, "-m", "jupyterlab", str(copy), *(["--no-browser"] if options.no_browser else [])]
    _say(options, "Lab", {"command": command})
    if not options.dry_run:
        raise SystemExit(subprocess.call(command))


def train(options: argparse.Namespace) -> None:
    """Train a reference and save it."""
    from .mapping.jobs import TrainJob, run_train_job

    job = _job(TrainJob, options)
    run_train_job(job, _teller(options), progress=not options.json)
    _say(options, None, {"model": str(job.out)})


def map_(options: argparse.Namespace) -> None:
    """Map a query onto a reference, label its cells, write tables and a report."""
    from .mapping.jobs import MapFilesJob, MapJob, run_map_files_job, run_map_job

    given = _given(options)
    if "source" in given:
        logging.getLogger("scarches_widgets.mapping.chunks").setLevel(logging.INFO)  # which says what it will cost
        run_map_files_job(_job(MapFilesJob, options), _teller(options), progress=not options.json)
        return
    job = _job(MapJob, options)
    _show_result(options, run_map_job(job, _teller(options), progress=not options.json), job.out)


def doctor(options: argparse.Namespace) -> None:
    """What is installed, what this process may use, and what will fit."""
    from .hub.zenodo import on_binder
    from .training.limits import cells_that_fit, memory_limit, usable_cpus

    versions = {name: _version(name) for name in LISTED}
    memory = memory_limit()
    facts = {
        "python": platform.python_version(),
        **versions,
        "cpus": usable_cpus(),
        "memory_gb": round(memory / 1e9, 1),
        "devices": _devices(),
        "cells_that_fit": {f"{n_genes} genes": cells_that_fit(n_genes, memory) for n_genes in (2000, 5000, 20000)},
    }
    if options.json:
        print(json.dumps(facts))
        return
    for name in ("python", *LISTED):
        print(f"{name:18} {facts[name] or 'not installed'}")
    print(
        f"\n{facts['cpus']} CPUs and {facts['memory_gb']} GB of memory may be used; torch runs on {facts['devices']}."
    )
    if on_binder():
        print(BINDER_NOTE)
    print("Cells that can be trained on in memory (counts, one in ten above zero):")
    for genes, cells in facts["cells_that_fit"].items():
        print(f"  {genes:>12}  {cells:>12,}")
    missing = [name for name in ("torch", "anndata", "scanpy") if versions[name] is None]
    if missing:
        raise RuntimeError(f"{', '.join(missing)} missing: install with pip install scarches-widgets.")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="scarches-widgets", description=__doc__.partition(". Reads")[0] + ".")
    parser.set_defaults(json=False)
    commands = parser.add_subparsers(required=True, metavar="command")

    def command(name, function):
        child = commands.add_parser(name, help=function.__doc__, description=function.__doc__)
        child.add_argument("--json", action="store_true", help="print one JSON object per line instead of text")
        child.set_defaults(run=function)
        return child

    child = command("demo", demo)
    child.add_argument("--out", type=Path, default=Path("demo"), help="folder for the results (default: demo)")
    child.add_argument("--model", default="SCVI", help="model to train (default: SCVI)")
    child.add_argument("--seed", type=int, default=0)
    child = command("lab", lab)
    child.add_argument(
        "--folder", type=Path, default=Path("."), help="where your copy of the tour goes (default: here)"
    )
    child.add_argument("--no-browser", action="store_true", help="start the server only, as on a remote machine")
    child.add_argument(
        "--dry-run", action="store_true", help="copy the tour and print the command, but do not start it"
    )
    command("doctor", doctor)
    for name, function in (("train", train), ("map", map_)):
        child = command(name, function)
        child.add_argument("job", nargs="?", type=Path, help="TOML file with any of the options; options win")
        child.add_argument("--reference", help="h5ad file of the reference, with raw counts")
        child.add_argument("--out", help="folder for the results")
        child.add_argument("--model", help="model to train (default: SCVI)")
        child.add_argument("--batch-key", help="column of obs with the batches")
        child.add_argument("--labels-key", help="column of obs with the labels")
        child.add_argument("--layer", help="layer with the raw counts (default: X)")
        child.add_argument("--seed", type=int)
        child.add_argument("--overwrite", action="store_true", default=None)
        for table, what in (("config", "of the model: n_layers=2"), ("train", "of training: max_epochs=20")):
            child.add_argument(f"--{table}", action="append", metavar="NAME=VALUE", help=f"an option {what}")
        if name == "train":
            child.add_argument("--leave-out", nargs="+", metavar="BATCH", help="batches to leave out of the reference")
            continue
        child.add_argument("--query", help="h5ad file of the query")
        child.add_argument(
            "--source", nargs="+", metavar="FILE", help="files of any size, to be mapped in chunks by --saved-model"
        )
        child.add_argument("--workers", type=int, help="processes that map the chunks of --source (default: 1)")
        child.add_argument("--chunk-size", type=int, help="cells of --source at a time (default: 51,200)")
        child.add_argument(
            "--tree-key", help="column of obs with labels that may differ by batch: learn a tree from them"
        )
        child.add_argument("--query-batches", nargs="+", metavar="BATCH", help="batches that are the query")
        child.add_argument("--reference-batches", nargs="+", metavar="BATCH", help="batches that are the reference")
        child.add_argument("--saved-model", help="folder of a saved reference model, instead of training one")
        child.add_argument("--search", help="how --source finds neighbours: exact (default), or faiss (extra [faiss])")
        child.add_argument("--n-neighbors", type=int, help="reference cells that vote on a label (default: 50)")
        child.add_argument(
            "--threshold", type=float, help="label cells of larger uncertainty Unknown (default: 1, none)"
        )
        child.add_argument(
            "--query-train", action="append", metavar="NAME=VALUE", help="an option of the query's training"
        )
        child.add_argument("--surgery", action="append", metavar="NAME=VALUE", help="min_gene_overlap=0.4, gene_map=…")
    return parser


def _job(job_class: type, options: argparse.Namespace):
    """The job of the TOML file, with the options given on the command line put over it."""
    from .data.names import listed
    from .training.options import field_names, typed

    given = _given(options)
    beyond = [
        name for name in JOB_OPTIONS if getattr(options, name, None) is not None and name not in field_names(job_class)
    ]
    if beyond:
        why = "with --source, a saved model maps files as it is. Leave it out."
        if "source" not in given:
            why = "it is about files that are mapped in chunks. Name them: --source FILE, --saved-model FOLDER."
        raise ValueError(f"{listed(['--' + name.replace('_', '-') for name in beyond])} has no effect here: {why}")
    for name in field_names(job_class):
        value = getattr(options, name, None)
        if isinstance(value, list) and name in ("config", "train", "query_train", "surgery"):
            given[name] = {**given.get(name, {}), **dict(map(_assignment, value))}
        elif value is not None:
            given[name] = value
    needed = [
        field.name for field in fields(job_class) if field.default is MISSING and field.default_factory is MISSING
    ]
    missing = [name for name in needed if name not in given]
    if missing:
        raise ValueError(f"{' and '.join(missing)} must be given, as options or in a job file.")
    if isinstance(given.get("labels_key"), str) and "source" in given:
        given["labels_key"] = [given["labels_key"]]
    return typed(job_class, given, of="the job")


def _given(options: argparse.Namespace) -> dict[str, Any]:
    """What the job file says, and whether the options ask for files to be mapped in chunks."""
    given = {} if options.job is None else tomllib.loads(options.job.read_text(encoding="utf-8"))
    return given if getattr(options, "source", None) is None else given | {"source": options.source}


def _assignment(text: str) -> tuple[str, Any]:
    """`n_layers=2` as a name and a value; what is no TOML value is text."""
    name, sign, value = text.partition("=")
    if not sign:
        raise ValueError(f"'{text}' is not of the form NAME=VALUE.")
    try:
        return name, tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        return name, value


def _teller(options: argparse.Namespace):
    return lambda event, content: _say(options, event, content)


def _say(options: argparse.Namespace, event: str | None, content: dict) -> None:
    """An event, as a JSON line or as a line to read; epochs are left to the progress bar. Of several processes, the
    first speaks."""
    if os.environ.get("RANK", "0") != "0":
        return
    if options.json:
        print(json.dumps({"event": event or "Done", **content}), flush=True)
    elif event == "Simulated":
        print(f"Simulated {content['cells']:,} cells × {content['genes']} genes; {content['query'][0]} is the query.")
    elif event == "Estimated":
        print(content["text"], flush=True)
    elif event == "Mapped":
        print(f"{content['query_cells']:,} query cells mapped. {content['genes']}")
    elif event == "FilesMapped":
        there = f", {content['was_there']} of them earlier" if content["was_there"] else ""
        print(f"{content['cells']:,} cells mapped in {content['chunks']} chunks{there}: {content['folder']}")
    elif event == "Lab":
        print(" ".join(content["command"]))
    elif event is None:
        print(f"Model saved in {content['model']}")


def _show_result(options: argparse.Namespace, mapped, out: Path) -> None:
    if options.json:
        return
    if mapped.scores is not None:
        print("\n" + mapped.scores.round(3).rename(columns=lambda name: name.replace("_", " ")).to_string() + "\n")
    print(f"Report: {out / 'report.html'}")


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _devices() -> str:
    if _version("torch") is None:
        return "nothing"
    import torch

    devices = ["cpu"] + [f"cuda:{i} ({torch.cuda.get_device_name(i)})" for i in range(torch.cuda.device_count())]
    devices += ["mps"] if torch.backends.mps.is_available() else []
    return ", ".join(devices)


if __name__ == "__main__":
    sys.exit(main())
