"""Mapping millions of cells: a query's files in chunks, by one process, several, or a cluster.

    out/plan.json           what is mapped onto what: files, model, reference, options, chunks
    out/model/              the model, if it was given as an object
    out/reference/          the reference's latents and labels, as all processes read them (`reference_index`)
    out/cells/part-….parquet    results, a part per chunk; together one table: pd.read_parquet(out / "cells")
    out/notes/part-….json   of each part: its cells, SHA-256, seconds, warnings

Memory does not grow with the number of cells. Which cells stand in one chunk and in one minibatch is fixed by the plan,
so the results are the same to the bit whoever computes them. Parts are put in place whole, and those that are there and
match their SHA-256 are not computed again: after any interruption the same call goes on.
"""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import math
import os
import shutil
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from ..data.atomic import claimed, write_file
from ..data.findings import counted
from ..data.names import DataError, listed
from ..data.slices import FileCells
from ..models.base import Model
from . import chunk
from .chunk import CHUNK, MINIBATCH, ChunkReport, ChunkTask
from .executors import Executor, executor_of
from .mapped_files import MappedFiles
from .neighbors import N_MEASURED, FaissSearch, Recall, check_search, faiss_version, tuned
from .reference_index import write_index
from .transfer import reference_labels, weighted_knn_trainer

if TYPE_CHECKING:
    from anndata import AnnData

logger = logging.getLogger(__name__)
PLAN, FORMAT = "plan.json", 1
PROBED = 512  # cells that are embedded before anything long begins
Source = str | os.PathLike


@dataclass(frozen=True)
class MappingEstimate:
    """What a mapping will cost, from its first cells.

    Attributes
    ----------
    n_cells
        That are to be mapped.
    seconds
        Of one process; several share them.
    disk
        Bytes of the results.
    """

    n_cells: int
    seconds: float
    disk: int

    def __str__(self) -> str:
        return (
            f"{self.n_cells:,} cells will take about {self.seconds:,.0f} s of one process and {self.disk / 1e6:,.1f} "
            "MB of disk."
        )


class ChunksFailed(RuntimeError):
    """Some chunks could not be computed; all others are written.

    Attributes
    ----------
    errors
        Of each such chunk its task and what was raised.
    """

    def __init__(self, errors: dict[ChunkTask, Exception], n_chunks: int):
        self.errors = errors
        lines = [
            f"cells {task.start:,} to {task.stop - 1:,} of '{task.source}': {error}" for task, error in errors.items()
        ]
        more = [f"and {len(lines) - 5} more"] if len(lines) > 5 else []
        super().__init__(
            f"{len(errors)} of {counted(n_chunks, 'chunk')} failed, and the others are written. "
            + "; ".join([*lines[:5], *more]).rstrip(".")
            + ". When this is mended, call again with the same `out`: only what is missing is computed."
        )


def map_query(
    source: Source | Sequence[Source],
    model: Model | Source,
    out: Source,
    executor: Executor | int | None = None,
    *,
    reference: AnnData | Source | None = None,
    labels_key: str | Sequence[str] | None = None,
    n_neighbors: int = 50,
    search: str = "exact",
    threshold: float = 1.0,
    chunk_size: int = CHUNK,
    overwrite: bool = False,
    progress: bool = True,
) -> MappedFiles:
    """Embed a query of any size by a fitted model, and label its cells by their nearest reference cells.

    The query's batches must be known to the model: adapt the reference to some of the query's cells first, of every new
    batch some thousands (`load_query_data`, `train`), and map all of them with the adapted model.

    Parameters
    ----------
    source
        One or several AnnData files (h5ad or zarr), read by the slice.
    model
        A trained model, or the folder of a saved one.
    out
        Folder for results. If it holds a mapping of the same, what is missing there is computed.
    executor
        Who computes: None (this process), a number of processes, or e.g. `bridges.dask_executor.DaskExecutor(client)`.
    reference
        Cells with labels: an AnnData, or its file; None: the model's own cells. Needed with `labels_key`.
    labels_key
        Columns of the reference's `obs` to transfer; None: embed only.
    n_neighbors
        How many reference cells vote on a query cell.
    search
        How they are found: "exact", or "faiss" (extra `[faiss]`): nearly all of them, several times faster in a large
        reference. What share it finds is measured on 200 of the query's cells, and more is looked through until that
        is 0.999; see `recall` of the result.
    threshold
        As in `weighted_knn_transfer`.
    chunk_size
        Cells at a time; rounded up to a multiple of 256.
    overwrite
        Whether to begin anew where `out` holds another mapping.
    progress
        Whether to show a bar.

    Returns
    -------
    MappedFiles

    Raises
    ------
    DataError
        The first cells of a file do not fit the model: too few of its genes, batches that it has not seen, …
    ChunksFailed
        Chunks could not be computed; it names their cells. All others are written.
    FileExistsError
        `out` holds another mapping, or other files.
    ImportError
        faiss is to search, and is not installed.
    OSError
        The results would not fit on the disk, by what the first cells take.
    RuntimeError
        Another process is mapping into `out`.

    References
    ----------
    Lotfollahi et al. 2022, doi:10.1038/s41587-021-01001-7. Votes: Sikkema et al. 2023, doi:10.1038/s41591-023-02327-2.

    Examples
    --------
    >>> some = sca.read("cells.h5ad", backed="r")[::500].to_memory()
    >>> model = SCVI.load_query_data(some, "reference_model")
    >>> model.train()
    >>> mapped = sca.mapping.map_query("cells.h5ad", model, "mapped", 4, reference=atlas, labels_key="cell_type")
    >>> mapped.labels()
    """
    executor = executor_of(executor)
    files = _files(source)
    keys = [labels_key] if isinstance(labels_key, str) else list(labels_key or ())
    check_search(search)
    if not 0 <= threshold <= 1:
        raise ValueError(f"threshold is an uncertainty, from 0 to 1, not {threshold!r}.")
    if chunk_size < 1:
        raise ValueError(f"chunk_size={chunk_size} holds no cell; give some thousands.")
    chunk_size = -(-chunk_size // MINIBATCH) * MINIBATCH
    out = Path(out).expanduser().resolve()
    out.mkdir(parents=True, exist_ok=True)
    with claimed(out, ", which maps into it. Wait for it, or choose another folder."):
        _begin(out)
        folder, fitted = _saved(model, out)
        n_cells = [_probed(file, fitted) for file in files]
        some = partial(_some_latents, files, n_cells, fitted) if search == "faiss" else None
        index, recall = _index(reference, fitted, keys, n_neighbors, out, some)
        plan = {
            "format": FORMAT,
            "sources": [_fingerprint(file) | {"n_cells": n} for file, n in zip(files, n_cells)],
            "model": chunk.digest_of(folder),
            **index,
            "threshold": float(threshold),
            "chunk_size": chunk_size,
        }
        _agree(out, plan, overwrite)
        tasks = list(_tasks(out, folder, plan))
        return MappedFiles(out, _computed(tasks, executor, progress), recall)


def _files(source: Source | Sequence[Source]) -> list[Path]:
    several = [source] if isinstance(source, str | os.PathLike) else list(source)
    files = [Path(path).expanduser().resolve() for path in several]
    if not files:
        raise ValueError("source names no file. Give one or several h5ad or zarr files.")
    if len(set(files)) < len(files):
        twice = sorted({path.name for path in files if files.count(path) > 1})
        raise ValueError(f"source names {listed(twice)} more than once. Name each file once.")
    return files


def _begin(out: Path) -> None:
    ours = {"lock", PLAN, "model", "reference", "cells", "notes"}
    others = sorted({path.name for path in out.iterdir() if not path.name.startswith(".")} - ours)
    if others:
        raise FileExistsError(f"'{out}' also holds {listed(others)}, so it is not written into. Choose another folder.")
    for path in out.rglob(".*.tmp-*"):  # by a process that was killed
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    for name in ("cells", "notes"):
        (out / name).mkdir(exist_ok=True)


def _forget(out: Path) -> None:
    for name in ("cells", "notes"):
        shutil.rmtree(out / name)
        (out / name).mkdir()


def _saved(model: Model | Source, out: Path) -> tuple[Path, Model]:
    """The model's folder, from which all processes load it, and the model."""
    if not isinstance(model, Model):
        folder = Path(model).expanduser().resolve()
        return folder, chunk.load_model(folder)
    model._refuse_if_untrained()
    model.save(out / "model", overwrite=True)
    return out / "model", model


def _probed(file: Path, model: Model) -> int:
    """How many cells a file has; refuses now what would fail in every chunk."""
    with FileCells(file, model.schema.layer, chunk.beside(model)) as cells:
        if cells.n_cells == 0:
            raise DataError(f"'{file}' has no cells.")
        _quietly_encoded(model, cells.read(0, PROBED))
        return cells.n_cells


def _index(
    reference: AnnData | Source | None,
    model: Model,
    keys: list[str],
    n_neighbors: int,
    out: Path,
    some_latents: Callable[[], np.ndarray] | None,
) -> tuple[dict[str, Any], Recall | None]:
    """Embed the reference and write its index; what the plan says of it. For faiss, latents of the query to tune by."""
    if not keys:
        if reference is not None:
            raise TypeError("A reference is given, but not which of its labels to transfer: name them in labels_key.")
        return {"reference": None, "labels": {}, "n_neighbors": n_neighbors, "search": None}, None
    reference = model.adata if reference is None else reference
    if reference is None:
        raise TypeError(f"Whose {listed(keys)} are to be transferred? Give the reference's cells: reference=….")
    obs, z = _embedded(reference, model, keys)
    from anndata import AnnData

    knn = weighted_knn_trainer(AnnData(obs=obs, obsm={"latent": z}), "latent", n_neighbors)
    labels = reference_labels(knn, obs, keys)
    searched, recall = {"by": "exact"}, None
    if some_latents is not None:
        exact, fast = knn.search, FaissSearch(knn.coordinates.astype(np.float32))
        recall = tuned(fast, exact, some_latents(), knn.n_neighbors)
        logger.info("%s", recall)
        searched = {"by": f"faiss {faiss_version()}", **asdict(recall)}
        knn = replace(knn, search=fast)
    told = {
        "reference": write_index(out / "reference", knn, [codes for _, codes in labels.values()]),
        "labels": {key: names.tolist() for key, (names, _) in labels.items()},
        "n_neighbors": knn.n_neighbors,
        "search": searched,
    }
    return told, recall


def _some_latents(files: list[Path], n_cells: list[int], model: Model) -> np.ndarray:
    """Of some of the query's cells, from all over its files."""
    starts = np.arange(0, sum(n_cells), max(10, sum(n_cells) // (N_MEASURED // 10)))[: N_MEASURED // 10]
    latents, before = [], 0
    for file, n in zip(files, n_cells):
        with FileCells(file, model.schema.layer, chunk.beside(model)) as cells:
            for start in starts[(starts >= before) & (starts < before + n)] - before:
                latents.append(_quietly_encoded(model, cells.read(start, start + 10)))
        before += n
    return np.concatenate(latents)


def _quietly_encoded(model: Model, cells: AnnData) -> np.ndarray:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # the chunks tell, with their cells
        return chunk.encoded(model, cells)


def _embedded(reference: AnnData | Source, model: Model, keys: Iterable[str]) -> tuple[pd.DataFrame, np.ndarray]:
    """Labels and latents of the reference; of a file, a chunk at a time."""
    if not isinstance(reference, str | os.PathLike):
        return reference.obs, chunk.encoded(model, reference)
    names, labels, latents = [], [], []
    with FileCells(reference, model.schema.layer, chunk.beside(model)) as cells:
        for start in range(0, cells.n_cells, CHUNK):
            stop = start + CHUNK
            latents.append(chunk.encoded(model, cells.read(start, stop)))
            labels.append(pd.DataFrame({key: cells.column(key, start, stop).astype(object) for key in keys}))
            names.append(cells.names(start, stop))
    return pd.concat(labels).set_axis(np.concatenate(names).astype(str)), np.concatenate(latents)


def _fingerprint(file: Path) -> dict[str, Any]:
    """Of a file, or of all files of a zarr folder: enough to see that it has changed."""
    if file.is_file():
        state = file.stat()
        return {"path": str(file), "size": state.st_size, "changed": state.st_mtime_ns}
    digest, size, newest = hashlib.sha256(), 0, 0
    for path in sorted(path for path in file.rglob("*") if path.is_file()):
        state = path.stat()
        digest.update(f"{path.relative_to(file)} {state.st_size} {state.st_mtime_ns}\n".encode())
        size, newest = size + state.st_size, max(newest, state.st_mtime_ns)
    return {"path": str(file), "size": size, "changed": newest, "files": digest.hexdigest()}


def _agree(out: Path, plan: dict[str, Any], overwrite: bool) -> None:
    """Write the plan, or see that it is the one that was begun."""
    path = out / PLAN
    if path.exists():
        begun = json.loads(path.read_bytes())
        differing = sorted(name for name in plan if begun.get(name) != plan[name])
        if differing and not overwrite:
            raise FileExistsError(
                f"'{out}' holds another mapping: its {listed(differing, 6)} differ from what is asked for now, so "
                "going on would mix the two. Choose another folder, or begin anew with overwrite=True."
            )
        if not differing and not overwrite:
            return
        _forget(out)
    write_file(path, json.dumps(plan, indent=1).encode())


def _tasks(out: Path, folder: Path, plan: dict[str, Any]) -> Iterator[ChunkTask]:
    number = 0
    for source in plan["sources"]:
        for start in range(0, source["n_cells"], plan["chunk_size"]):
            yield ChunkTask(
                number,
                source["path"],
                start,
                min(start + plan["chunk_size"], source["n_cells"]),
                out=str(out),
                model=str(folder),
                model_digest=plan["model"],
                reference=str(out / "reference") if plan["reference"] else None,
                reference_digest=plan["reference"],
                labels=plan["labels"],
                n_neighbors=plan["n_neighbors"],
                n_probed=(plan["search"] or {}).get("n_probed"),
                threshold=plan["threshold"],
            )
            number += 1


def estimated(tasks: Sequence[ChunkTask]) -> MappingEstimate:
    """What these chunks will cost, measured on the first cells of the first one."""
    first = tasks[0]
    few = replace(first, stop=min(first.stop, first.start + PROBED))
    seconds, disk = chunk.cost_of(few)
    share = sum(task.stop - task.start for task in tasks) / (few.stop - few.start)
    return MappingEstimate(round(share * (few.stop - few.start)), share * seconds, math.ceil(share * disk))


def _refuse_if_disk_is_full(missing: Sequence[ChunkTask]) -> None:
    cost, out = estimated(missing), missing[0].out
    logger.info("%s", cost)
    free = shutil.disk_usage(out).free
    if cost.disk > free:
        raise OSError(
            errno.ENOSPC,
            f"'{out}' will take about {cost.disk / 1e6:,.1f} MB more for {cost.n_cells:,} cells, and "
            f"{free / 1e6:,.1f} MB are free, so nothing was computed. Free some space, or choose another disk",
        )


def _computed(tasks: list[ChunkTask], executor: Executor, progress: bool) -> pd.DataFrame:
    """Compute what is missing; one row per chunk."""
    from tqdm.auto import tqdm

    there = {task.number: report for task in tasks if (report := chunk.written(task)) is not None}
    missing = [task for task in tasks if task.number not in there]
    reports: dict[int, ChunkReport] = dict(there)
    errors: dict[ChunkTask, Exception] = {}
    if missing:
        _refuse_if_disk_is_full(missing)
    n_cells = sum(task.stop - task.start for task in tasks)
    said: set[str] = set()
    with tqdm(total=n_cells, unit="cells", unit_scale=True, disable=not progress, desc="Mapping") as bar:
        bar.update(sum(report.stop - report.start for report in there.values()))
        for position, outcome in executor.imap(chunk.map_chunk, missing):
            task = missing[position]
            bar.update(task.stop - task.start)
            if isinstance(outcome, Exception):
                errors[task] = outcome
                continue
            reports[task.number] = outcome
            for text in set(outcome.warnings) - said:
                warnings.warn(f"{text} (cells {task.start:,} to {task.stop - 1:,})", stacklevel=3)
                said.add(text)
    if errors:
        raise ChunksFailed(errors, len(tasks))
    rows = [asdict(reports[task.number]) | {"was_there": task.number in there} for task in tasks]
    columns = ["source", "start", "stop", "seconds", "peak_memory", "was_there"]
    return pd.DataFrame(rows)[columns]
