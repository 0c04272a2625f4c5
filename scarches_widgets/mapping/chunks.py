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
import shutil
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from ..data.atomic import claimed, write_file
from ..data.findings import counted
from ..data.names import listed
from ..models.base import Model
from . import chunk
from .chunk import ChunkReport, ChunkTask
from .encoding import CHUNK
from .executors import Executor, executor_of
from .mapped_files import MappedFiles
from .neighbors import check_search, faiss_version
from .outlook import MappingEstimate, Outlook, Source, files_of, in_minibatches, outlook_on

if TYPE_CHECKING:
    from anndata import AnnData

logger = logging.getLogger(__name__)
PLAN, FORMAT = "plan.json", 1


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
    executor, files, chunk_size = executor_of(executor), files_of(source), in_minibatches(chunk_size)
    check_search(search)
    if not 0 <= threshold <= 1:
        raise ValueError(f"threshold is an uncertainty, from 0 to 1, not {threshold!r}.")
    out = Path(out).expanduser().resolve()
    out.mkdir(parents=True, exist_ok=True)
    with claimed(out, ", which maps into it. Wait for it, or choose another folder."):
        _begin(out)
        folder, fitted = _saved(model, out)
        outlook = outlook_on(files, fitted, reference, labels_key, n_neighbors, search)
        plan = {
            "format": FORMAT,
            "sources": [_fingerprint(probe.file) | {"n_cells": probe.n_cells} for probe in outlook.probes],
            "model": chunk.digest_of(folder),
            **_voters(outlook, out),
            "threshold": float(threshold),
            "chunk_size": chunk_size,
        }
        _agree(out, plan, overwrite)
        tasks = list(_tasks(out, folder, plan))
        there = {task.number: report for task in tasks if (report := chunk.written(task)) is not None}
        if missing := [task for task in tasks if task.number not in there]:
            parts = [(Path(task.source), task.stop - task.start) for task in missing]
            _see_that_it_fits(outlook.cost(parts, executor), out)
        recall = outlook.recall
        del outlook  # its reference is on disk now, where this process too will read it
        return MappedFiles(out, _computed(tasks, there, executor, progress), recall)


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


def _voters(outlook: Outlook, out: Path) -> dict[str, Any]:
    """Write the reference; what the plan says of it."""
    voting, recall = outlook.reference, outlook.recall
    if voting is None:
        return {"reference": None, "labels": {}, "n_neighbors": None, "search": None}
    searched = {"by": "exact"} if recall is None else {"by": f"faiss {faiss_version()}", **asdict(recall)}
    if recall is not None:
        logger.info("%s", recall)
    return {
        "reference": voting.write(out / "reference"),
        "labels": voting.labels,
        "n_neighbors": voting.knn.n_neighbors,
        "search": searched,
    }


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


def _see_that_it_fits(cost: MappingEstimate, out: Path) -> None:
    """Tell what it will cost; refuse it if the disk is too small, and warn if memory is."""
    logger.info("%s", cost)
    free = shutil.disk_usage(out).free
    if cost.disk > free:
        raise OSError(
            errno.ENOSPC,
            f"'{out}' will take about {cost.disk / 1e6:,.1f} MB more for {cost.n_cells:,} cells, and "
            f"{free / 1e6:,.1f} MB are free, so nothing was computed. Free some space, or choose another disk",
        )
    if not cost.fits:
        warnings.warn(str(cost), stacklevel=3)


def _computed(
    tasks: list[ChunkTask], there: dict[int, ChunkReport], executor: Executor, progress: bool
) -> pd.DataFrame:
    """Compute what is missing; one row per chunk."""
    from tqdm.auto import tqdm

    missing = [task for task in tasks if task.number not in there]
    reports = dict(there)
    errors: dict[ChunkTask, Exception] = {}
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
