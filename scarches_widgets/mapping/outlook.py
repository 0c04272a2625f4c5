"""What a mapping in chunks will cost: seconds, memory and disk, measured on the first cells of its files.

seconds = chunks × opening a file + cells × (reading + embedding + labelling + writing a cell)
memory  = a process with torch + the reference, ready to vote + what a chunk holds at its largest
"""

from __future__ import annotations

import math
import os
import time
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from scipy import sparse

from ..data.names import DataError, listed
from ..data.slices import FileCells
from ..models.base import Model
from ..training.limits import FLOOR, memory_limit
from ..training.run import cpu_threads
from . import chunk
from .encoding import CHUNK, MINIBATCH, beside, encoded
from .executors import Executor, executor_of
from .neighbors import N_MEASURED, Recall, check_search, tuned
from .reference_index import VotingReference, voting_reference
from .transfer import VOTES_AT_ONCE, finite

if TYPE_CHECKING:
    from anndata import AnnData

PROBED = 2048  # first cells of a file that are embedded before anything long begins
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
    memory, memory_limit
        Bytes that each process will hold at most, and that all of this machine may.
    n_processes
        Of this machine; None: others compute, as the executor has them.
    """

    n_cells: int
    seconds: float
    disk: int
    memory: int
    memory_limit: int
    n_processes: int | None

    @property
    def fits(self) -> bool:
        """Whether so much memory may be used here."""
        return self.n_processes is None or self.n_processes * self.memory <= self.memory_limit

    def __str__(self) -> str:
        each = "each process" if self.n_processes is None else f"each of {self.n_processes}"
        who = "this process" if self.n_processes == 1 else each
        text = (
            f"{self.n_cells:,} cells will take about {self.seconds:,.0f} s of one process and {self.disk / 1e6:,.1f} "
            f"MB of disk; {who} will hold about {self.memory / 1e9:.2g} GB of memory."
        )
        if not self.fits:
            mend = "a smaller chunk_size" if self.n_processes == 1 else "a smaller chunk_size, or fewer processes"
            text += f" Here {self.memory_limit / 1e9:.2g} GB may be used in all: take {mend}."
        return text


@dataclass(frozen=True)
class Probe:
    """What the first cells of a file have shown."""

    file: Path
    n_cells: int  # of the whole file
    names: pd.Index
    z: np.ndarray  # (first cells, n_latent)
    opening: float  # seconds
    encoding: float  # seconds per cell, with reading
    memory: float  # bytes per cell, as it is read


@dataclass(frozen=True)
class Outlook:
    """What is to be mapped onto what, seen to fit."""

    model: Model
    probes: list[Probe]
    reference: VotingReference | None  # None: embed only
    recall: Recall | None

    def cost(self, parts: Sequence[tuple[Path, int]], executor: Executor) -> MappingEstimate:
        """Of chunks, each given by its file and number of cells."""
        probes = {probe.file: probe for probe in self.probes}
        seconds_each, bytes_each = self._labelling(self.probes[0])
        seconds = sum(
            probes[file].opening + n_cells * (probes[file].encoding + seconds_each) for file, n_cells in parts
        )
        total = sum(n_cells for _, n_cells in parts)
        n_processes = getattr(executor, "n_processes", None)
        memory = round(self._memory(max(n_cells for _, n_cells in parts)))
        return MappingEstimate(total, seconds, math.ceil(total * bytes_each), memory, memory_limit(), n_processes)

    def _labelling(self, probe: Probe) -> tuple[float, float]:
        """Seconds and bytes of the results, per cell."""
        with cpu_threads(1):
            began = time.monotonic()
            data = chunk.part(probe.names, probe.z, self.reference, threshold=1.0)
            return (time.monotonic() - began) / len(probe.z), len(data) / len(probe.z)

    def _memory(self, n_cells: int) -> float:
        """Of one process that maps chunks of so many cells."""
        weights = sum(tensor.nbytes for tensor in self.model.module.state_dict().values())
        n_latent = self.probes[0].z.shape[1]
        held = n_cells * (2 * max(probe.memory for probe in self.probes) + 4 * 4 * n_latent + 200)
        if self.reference is None:
            return FLOOR + 2 * weights + held
        knn = self.reference.knn
        n_labels = max(map(len, self.reference.labels.values()))
        voting = min(n_cells, VOTES_AT_ONCE // max(knn.n_neighbors, n_labels))
        votes = voting * 8 * (6 * knn.n_neighbors + 3 * n_labels)
        return FLOOR + 2 * weights + self.reference.memory + held + votes


def estimate(
    source: Source | Sequence[Source],
    model: Model | Source,
    executor: Executor | int | None = None,
    *,
    reference: AnnData | Source | None = None,
    labels_key: str | Sequence[str] | None = None,
    n_neighbors: int = 50,
    search: str = "exact",
    chunk_size: int = CHUNK,
) -> MappingEstimate:
    """What `map_query` of the same will cost: it embeds the reference and the first cells of each file.

    Parameters
    ----------
    source, model, executor, reference, labels_key, n_neighbors, search, chunk_size
        As in `map_query`.

    Returns
    -------
    MappingEstimate
        `print` it, or see its `seconds`, `memory` and `disk`.

    Raises
    ------
    DataError, ImportError, TypeError, ValueError
        As `map_query` would.

    Examples
    --------
    >>> print(sca.mapping.estimate("cells.h5ad", "model", 2, reference="atlas.h5ad", labels_key="cell_type"))
    800,000 cells will take about 410 s of one process and 60.2 MB of disk; each of 2 will hold about 0.77 GB of memory.
    """
    executor, files, chunk_size = executor_of(executor), files_of(source), in_minibatches(chunk_size)
    check_search(search)
    if isinstance(model, Model):
        model._refuse_if_untrained()
    else:
        model = chunk.load_model(Path(model).expanduser())
    outlook = outlook_on(files, model, reference, labels_key, n_neighbors, search)
    return outlook.cost(list(grid(outlook.probes, chunk_size)), executor)


def outlook_on(
    files: list[Path],
    model: Model,
    reference: AnnData | Source | None,
    labels_key: str | Sequence[str] | None,
    n_neighbors: int,
    search: str,
) -> Outlook:
    """Look at a query's files and its reference; refuse now what would fail in every chunk."""
    probes = [_probed(file, model) for file in files]
    keys = [labels_key] if isinstance(labels_key, str) else list(labels_key or ())
    voting = voting_reference(reference, model, keys, n_neighbors)
    if voting is None or search == "exact":
        return Outlook(model, probes, voting, None)
    nearly = voting.by_faiss()
    recall = tuned(nearly.knn.search, voting.knn.search, _some_latents(probes, model), voting.knn.n_neighbors)
    return Outlook(model, probes, nearly, recall)


def grid(probes: Iterable[Probe], chunk_size: int) -> Iterable[tuple[Path, int]]:
    """Of each chunk its file and its number of cells."""
    for probe in probes:
        for start in range(0, probe.n_cells, chunk_size):
            yield probe.file, min(chunk_size, probe.n_cells - start)


def files_of(source: Source | Sequence[Source]) -> list[Path]:
    several = [source] if isinstance(source, str | os.PathLike) else list(source)
    files = [Path(path).expanduser().resolve() for path in several]
    if not files:
        raise ValueError("source names no file. Give one or several h5ad or zarr files.")
    if len(set(files)) < len(files):
        twice = sorted({path.name for path in files if files.count(path) > 1})
        raise ValueError(f"source names {listed(twice)} more than once. Name each file once.")
    return files


def in_minibatches(chunk_size: int) -> int:
    """A chunk's cells, rounded up to whole minibatches."""
    if chunk_size < 1:
        raise ValueError(f"chunk_size={chunk_size} holds no cell; give some thousands.")
    return -(-chunk_size // MINIBATCH) * MINIBATCH


def _probed(file: Path, model: Model) -> Probe:
    began = time.monotonic()
    with FileCells(file, model.schema.layer, beside(model)) as store, cpu_threads(1):
        if store.n_cells == 0:
            raise DataError(f"'{file}' has no cells.")
        opening, began = time.monotonic() - began, time.monotonic()
        cells = store.read(0, PROBED)
        reading, began = (time.monotonic() - began) / cells.n_obs, time.monotonic()
        latents = [_quietly_encoded(model, cells[:MINIBATCH])]  # slower than all others: torch begins
        encoding = (time.monotonic() - began) / len(latents[0])
        if cells.n_obs > MINIBATCH:
            began = time.monotonic()
            latents.append(_quietly_encoded(model, cells[MINIBATCH:]))
            encoding = (time.monotonic() - began) / len(latents[1])
        matrix = cells.X if model.schema.layer is None else cells.layers[model.schema.layer]
        size = matrix.data.nbytes + matrix.indices.nbytes if sparse.issparse(matrix) else matrix.nbytes
        return Probe(
            file,
            store.n_cells,
            cells.obs_names,
            finite(np.concatenate(latents), cells.obs_names, f"{file}'s latents"),
            opening,
            reading + encoding,
            size / cells.n_obs + cells.obs.memory_usage(deep=True).sum() / cells.n_obs,
        )


def _some_latents(probes: list[Probe], model: Model) -> np.ndarray:
    """Of some of the query's cells, from all over its files."""
    total = sum(probe.n_cells for probe in probes)
    starts = np.arange(0, total, max(10, total // (N_MEASURED // 10)))[: N_MEASURED // 10]
    latents, before = [], 0
    for probe in probes:
        with FileCells(probe.file, model.schema.layer, beside(model)) as cells:
            for start in starts[(starts >= before) & (starts < before + probe.n_cells)] - before:
                latents.append(_quietly_encoded(model, cells.read(start, start + 10)))
        before += probe.n_cells
    return np.concatenate(latents)


def _quietly_encoded(model: Model, cells: AnnData) -> np.ndarray:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # the chunks tell, with their cells
        return encoded(model, cells)
