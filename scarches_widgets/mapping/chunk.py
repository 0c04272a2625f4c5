"""One chunk of cells, read, embedded, labelled and written: what each process of `chunks.map_query` does.

A task is text and numbers, and what it computes lies on disk when it is done: beside its part, a note with the part's
SHA-256. What a process reads again and again (the model, the index of the reference) it keeps.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import threading
import time
import warnings
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import pandas as pd

from ..data.atomic import write_file
from ..data.container import DamagedFile, read_document
from ..data.names import shown
from ..data.slices import FileCells
from ..models.base import Model
from ..models.checkpoint import KIND, VERSION
from ..training.limits import peak_memory
from ..training.run import cpu_threads
from .encoding import beside, encoded
from .reference_index import VotingReference, read_index
from .transfer import UNKNOWN, elected, finite

LATENT = "latent_{}"  # column of a part
_ONE_AT_A_TIME = threading.Lock()


@dataclass(frozen=True, eq=False)
class ChunkTask:
    """Cells `start` to `stop` of a file, to be written as one part."""

    number: int  # of the part
    source: str
    start: int
    stop: int
    out: str
    model: str
    model_digest: str
    reference: str | None  # folder of the index; None: no labels
    reference_digest: str | None
    labels: dict[str, list[str]]  # per label key the names
    n_neighbors: int | None
    n_probed: int | None  # lists of faiss that are looked through; None: the search is exact
    threshold: float

    @property
    def part(self) -> Path:
        return Path(self.out, "cells", f"part-{self.number:06d}.parquet")

    @property
    def note(self) -> Path:
        return Path(self.out, "notes", f"part-{self.number:06d}.json")


@dataclass(frozen=True)
class ChunkReport:
    """What became of a chunk."""

    number: int
    source: str
    start: int
    stop: int
    sha256: str  # of the part
    seconds: float
    peak_memory: int  # bytes, of the process so far
    warnings: tuple[str, ...]


def map_chunk(task: ChunkTask) -> ChunkReport:
    """Compute and write one part."""
    began = time.monotonic()
    # a worker of dask may have several threads; threads of torch, memory and warnings belong to the whole process
    with _ONE_AT_A_TIME, warnings.catch_warnings(record=True) as caught, cpu_threads(1):
        warnings.simplefilter("always", UserWarning)
        data = _part_of(task)
    write_file(task.part, data)
    report = ChunkReport(
        task.number,
        task.source,
        task.start,
        task.stop,
        hashlib.sha256(data).hexdigest(),
        time.monotonic() - began,
        peak_memory(),
        tuple(dict.fromkeys(str(one.message) for one in caught if issubclass(one.category, UserWarning))),
    )
    write_file(task.note, json.dumps(asdict(report)).encode())  # last: a part without its note is computed again
    return report


def _part_of(task: ChunkTask) -> bytes:
    model = _model(task.model, task.model_digest)
    with FileCells(task.source, model.schema.layer, beside(model)) as file:
        cells = file.read(task.start, task.stop)
    z = finite(encoded(model, cells), cells.obs_names, f"{task.source}'s latents")
    reference = None
    if task.reference is not None:
        knn, codes = read_index(task.reference, task.reference_digest, task.n_neighbors, task.n_probed)
        reference = VotingReference(knn, task.labels, codes)
    return part(cells.obs_names, z, reference, task.threshold)


def part(names: pd.Index, z: np.ndarray, reference: VotingReference | None, threshold: float) -> bytes:
    """Labels and latents of cells, as a Parquet file.

    Parameters
    ----------
    names, z
        Of the cells, and their latents, (cells, n_latent).
    reference
        Whose labels they get; None: none.
    threshold
        Uncertainty, 0 to 1, above which a cell is "Unknown".
    """
    columns = {} if reference is None else _labels(reference, z, threshold)
    columns |= {LATENT.format(i): z[:, i] for i in range(z.shape[1])}
    buffer = io.BytesIO()
    table = pd.DataFrame({"cell": names.to_numpy(dtype=object), **columns})
    table.to_parquet(buffer, index=False, engine="pyarrow")
    return buffer.getvalue()


def written(task: ChunkTask) -> ChunkReport | None:
    """The report of a part that lies there whole, from this run or an earlier one; None if it is to be computed."""
    try:
        noted = json.loads(task.note.read_bytes())
        report = ChunkReport(**noted | {"warnings": tuple(noted["warnings"])})
        data = task.part.read_bytes()
    except (OSError, ValueError, TypeError, KeyError):
        return None
    is_it = (report.source, report.start, report.stop) == (task.source, task.start, task.stop)
    return report if is_it and report.sha256 == hashlib.sha256(data).hexdigest() else None


def load_model(folder: str | os.PathLike) -> Model:
    """A saved model of any class of this package."""
    from .. import models

    family = read_document(folder, kind=KIND, newest_version=VERSION).document.get("family")
    if family not in models.__all__:
        raise DamagedFile(f"'{folder}' holds a model that this release does not know ('{shown(family)}').")
    return getattr(models, family).load(folder)


def digest_of(folder: str | os.PathLike) -> str:
    """Of a saved model, all of it."""
    return read_document(folder, kind=KIND, newest_version=VERSION).digest


@lru_cache(maxsize=2)
def _model(folder: str, digest: str) -> Model:
    if digest_of(folder) != digest:
        raise DamagedFile(
            f"The model in '{folder}' is another than when the mapping began. Map again, into another out."
        )
    return load_model(folder)


def _labels(reference: VotingReference, z: np.ndarray, threshold: float) -> dict[str, object]:
    """Per label key its column and that of its uncertainty."""
    names = {key: np.array(labels, dtype=object) for key, labels in reference.labels.items()}
    winners, uncertainties = elected(reference.knn, dict(zip(names, zip(names.values(), reference.codes))), z, 1)
    columns = {}
    for key, labels in names.items():
        unknown = uncertainties[key] > threshold
        levels = [*labels, *([] if UNKNOWN in labels else [UNKNOWN])]
        found = np.where(unknown, levels.index(UNKNOWN), winners[key])
        columns[key] = pd.Categorical.from_codes(found, levels)  # the same levels in every part
        columns[f"{key}_uncertainty"] = uncertainties[key]
    return columns
