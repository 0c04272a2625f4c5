"""Training and mapping from files: typed jobs, as the command line and TOML files give them."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

from ..data.container import check_target
from ..data.names import DataError, did_you_mean, listed
from ..data.read import read
from ..data.schema import as_text
from ..models.base import Model
from ..training.estimate import Estimate, NothingMeasured, begun_by, probe
from .chunks import map_query
from .encoding import CHUNK
from .journey import Mapped, map_onto
from .mapped_files import MappedFiles
from .neighbors import SEARCHES
from .report import write_report

if TYPE_CHECKING:
    from anndata import AnnData

logger = logging.getLogger(__name__)
Tell = Callable[[str, dict], None]  # name of an event and its content

# the setting published with scArches, under which a query can be mapped by surgery
PUBLISHED_FOR_SURGERY = {
    "n_layers": 2,
    "encode_covariates": True,
    "deeply_inject_covariates": False,
    "use_layer_norm": "both",
    "use_batch_norm": "none",
}
SURGERY_READY = {"SCVI": PUBLISHED_FOR_SURGERY, "SCANVI": PUBLISHED_FOR_SURGERY}
LABELS = (  # columns of labels.csv, as far as there are any
    "batch", "predicted", "uncertainty", "classified", "classified_uncertainty", "novelty", "named", "path_probability",
    "gate",
)  # fmt: skip


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class TrainJob:
    """Train a reference and save it."""

    reference: Path  # .h5ad with raw counts
    out: Path  # folder for the model
    model: str = "SCVI"
    batch_key: str | None = None
    labels_key: str | None = None
    layer: str | None = None
    leave_out: list[str] = field(default_factory=list)  # batches that are not part of the reference
    config: dict[str, Any] = field(default_factory=dict)  # options of the model; published with scArches by default
    train: dict[str, Any] = field(default_factory=dict)  # options of train()
    seed: int = 0
    overwrite: bool = False


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class MapJob:
    """Map a query onto a reference, label it, and write tables, embedding and report."""

    reference: Path  # .h5ad of the reference's cells
    out: Path  # folder for the results
    query: Path | None = None  # .h5ad; None: the `query_batches` of the reference's file
    query_batches: list[str] = field(default_factory=list)  # batches that are the query, and not the reference
    reference_batches: list[str] = field(default_factory=list)  # batches that are the reference; empty: all others
    model: str = "SCVI"  # trained here, unless `saved_model` is given
    saved_model: Path | None = None
    batch_key: str | None = None
    labels_key: str | None = None
    tree_key: str | None = None  # labels that may differ by batch: a tree is learned from them, and names the query
    layer: str | None = None
    n_neighbors: Annotated[int, Field(ge=1)] = 50
    threshold: Annotated[float, Field(ge=0, le=1)] = 1.0  # cells of larger uncertainty become "Unknown"
    surgery: dict[str, Any] = field(default_factory=dict)  # options of load_query_data
    config: dict[str, Any] = field(default_factory=dict)
    train: dict[str, Any] = field(default_factory=dict)  # options of both trainings
    query_train: dict[str, Any] = field(default_factory=dict)  # options of the query's training alone
    seed: int = 0
    overwrite: bool = False


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class MapFilesJob:
    """Map files of any size by a saved model, in chunks; see `chunks.map_query`."""

    source: list[Path]  # .h5ad or .zarr of the query
    saved_model: Path  # that knows the query's batches
    out: Path  # folder for the results; what it holds of the same mapping is not computed again
    reference: Path | None = None  # of the cells whose labels are transferred
    labels_key: list[str] = field(default_factory=list)
    n_neighbors: Annotated[int, Field(ge=1)] = 50
    search: Literal[SEARCHES] = "exact"  # for neighbours
    threshold: Annotated[float, Field(ge=0, le=1)] = 1.0
    chunk_size: Annotated[int, Field(ge=1)] = CHUNK  # cells
    workers: Annotated[int, Field(ge=1)] = 1  # processes of this machine
    overwrite: bool = False


def run_map_files_job(job: MapFilesJob, tell: Tell, progress: bool = True) -> MappedFiles:
    """Map in chunks; `tell` is given what became of each."""
    mapped = map_query(
        job.source,
        job.saved_model,
        job.out,
        None if job.workers == 1 else job.workers,
        reference=job.reference,
        labels_key=job.labels_key,
        n_neighbors=job.n_neighbors,
        search=job.search,
        threshold=job.threshold,
        chunk_size=job.chunk_size,
        overwrite=job.overwrite,
        progress=progress,
    )
    for chunk in json.loads(mapped.report.to_json(orient="records")):
        tell("ChunkMapped", chunk)
    n_there = int(mapped.report["was_there"].sum())
    told = {"cells": mapped.n_cells, "folder": str(job.out), "chunks": len(mapped.report), "was_there": n_there}
    tell("FilesMapped", told | ({} if mapped.recall is None else {"search": asdict(mapped.recall)}))
    return mapped


def run_train_job(job: TrainJob, tell: Tell, progress: bool = True) -> Model:
    """Train and save; `tell` is given what it will cost, measured on a few steps, and each event."""
    check_target(job.out, job.overwrite)
    adata = without_batches(read(job.reference), job.batch_key, job.leave_out)
    with suppress(NothingMeasured):  # it is as short as that
        cost = _estimated(job, adata)
        tell("Estimated", {"seconds": cost.seconds, **asdict(cost), "text": str(cost)})
    model = _trained(job, adata, tell, progress)
    tell("Saved", {"path": str(job.out), "digest": model.save(job.out, overwrite=job.overwrite)})
    return model


def run_map_job(job: MapJob, tell: Tell, progress: bool = True) -> Mapped:
    """Map, label, score and write; `tell` is given each event.

    Writes into `job.out`: `labels.csv`, `scores.csv`, `mapped.h5ad` (embedding and labels of reference and query),
    `reference_model/` (if it was trained here), `query_model/`, `report.html`; with a tree, `tree.json` and, in
    `labels.csv`, what it calls the cells.
    """
    if job.out.exists() and not job.overwrite:
        raise FileExistsError(f"'{job.out}' exists. Choose another folder, or pass overwrite.")
    reference_cells, query_cells = _split(job)
    if job.saved_model is not None:
        reference = model_class(job.model).load(job.saved_model, reference_cells)
    else:
        reference = _trained(job, reference_cells, tell, progress)
    return finish(job, reference, query_cells, tell, progress)


def finish(job: MapJob, reference: Model, query_cells: AnnData, tell: Tell, progress: bool) -> Mapped:
    """The part of a map job after the reference is there."""
    mapped = map_onto(
        reference,
        query_cells,
        labels_key=job.labels_key,
        tree_key=job.tree_key,
        n_neighbors=job.n_neighbors,
        threshold=job.threshold,
        surgery=job.surgery,
        train={"seed": job.seed, "progress": progress, **job.train, **job.query_train},
    )
    tell("Mapped", {"genes": str(mapped.model.gene_report), "query_cells": query_cells.n_obs})
    _write(job, reference, mapped)
    tell("Written", {"folder": str(job.out), "scores": _as_json(mapped.scores)})
    return mapped


def _estimated(job: TrainJob, adata: AnnData) -> Estimate:
    """By a model that is thrown away."""
    model = _made(job, adata)
    beside = {"checkpoint_dir", "checkpoint_every", "resume"}
    options = {name: value for name, value in job.train.items() if name not in beside}
    kept = model.module if "checkpoint_dir" in job.train else None
    return probe(begun_by(model, **{"seed": job.seed, **options}), kept)


def _trained(job: TrainJob | MapJob, adata: AnnData, tell: Tell, progress: bool) -> Model:
    model = _made(job, adata)
    run = model.train(**{"seed": job.seed, "progress": progress, **job.train})
    for event in (run.started, *run.epochs, run.ended):
        tell(type(event).__name__, event.as_dict())
    return model


def _made(job: TrainJob | MapJob, adata: AnnData) -> Model:
    config = SURGERY_READY.get(job.model, {}) | job.config
    keys = {"batch_key": job.batch_key, "layer": job.layer}
    cls = model_class(job.model)
    if isinstance(job, TrainJob) or hasattr(cls, "predict"):
        keys["labels_key"] = job.labels_key
    return cls(adata, seed=job.seed, **keys, **config)


def model_class(name: str | type[Model]) -> type[Model]:
    """Of a model's name; a class is itself."""
    from .. import models

    if not isinstance(name, str):
        return name
    if name not in models.__all__:
        raise ValueError(
            f"There is no model '{name}'.{did_you_mean(name, models.__all__)} There are: {listed(models.__all__, 20)}."
        )
    return getattr(models, name)


def _split(job: MapJob) -> tuple[AnnData, AnnData]:
    """The reference's and the query's cells."""
    adata = read(job.reference)
    if job.query is not None:
        query = only_batches(read(job.query), job.batch_key, job.query_batches)
    elif job.query_batches:
        query = only_batches(adata, job.batch_key, job.query_batches)
    else:
        raise ValueError(
            "There is no query. Give a file (query=…) or batches of the reference's file (query_batches=…)."
        )
    outside = job.query_batches if job.query is None else []
    reference = without_batches(only_batches(adata, job.batch_key, job.reference_batches), job.batch_key, outside)
    return reference, query


def only_batches(adata: AnnData, batch_key: str | None, batches: list[str]) -> AnnData:
    return adata[_is_in(adata, batch_key, batches)].copy() if batches else adata


def without_batches(adata: AnnData, batch_key: str | None, batches: list[str]) -> AnnData:
    return adata[~_is_in(adata, batch_key, batches)].copy() if batches else adata


def _is_in(adata: AnnData, batch_key: str | None, batches: list[str]):
    import pandas as pd

    if batch_key is None or batch_key not in adata.obs:
        raise DataError(
            f"To choose batches by name, batch_key must be a column of obs; it is {batch_key!r}."
            f"{did_you_mean(batch_key, adata.obs.columns)} There are: {listed(adata.obs.columns, 20)}."
        )
    found = as_text(adata.obs[batch_key])
    for batch in batches:
        if batch not in set(found):
            raise DataError(f"obs['{batch_key}'] has no batch '{batch}'.{did_you_mean(batch, set(found))}")
    return pd.Index(found).isin(batches)


def _write(job: MapJob, reference: Model, mapped: Mapped) -> None:
    job.out.mkdir(parents=True, exist_ok=True)
    if job.saved_model is None:
        reference.save(job.out / "reference_model", overwrite=job.overwrite)
    mapped.model.save(job.out / "query_model", overwrite=job.overwrite)
    mapped.cells.write_h5ad(job.out / "mapped.h5ad", compression="gzip")
    is_query = mapped.cells.obs["role"] == "query"
    labels = mapped.cells.obs.loc[is_query, [column for column in LABELS if column in mapped.cells.obs]]
    if mapped.tree is not None:
        (job.out / "tree.json").write_text(mapped.tree.to_json(), encoding="utf-8")
    if mapped.scores is not None or mapped.tree is not None:
        labels.to_csv(job.out / "labels.csv", index_label="cell")
    if mapped.scores is not None:
        mapped.scores.to_csv(job.out / "scores.csv", index_label="method")
    title = f"{job.query.name if job.query else ', '.join(job.query_batches)} on {job.reference.name}"
    write_report(job.out / "report.html", title, mapped, reference)


def _as_json(scores) -> dict | None:
    return None if scores is None else json.loads(scores.to_json(orient="index"))
