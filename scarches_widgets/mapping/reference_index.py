"""The reference of a mapping in chunks: embedded, and on disk as every process reads it.

coordinates.npy     (cells, dimensions), in the order of the cells' names; float64, for faiss float32
codes.npy           of each label key, each cell's label; (keys, cells)
index.faiss         if faiss searches
"""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from ..data.atomic import write_file
from ..data.container import DamagedFile
from ..data.names import listed
from ..data.slices import FileCells
from ..models.base import Model
from .encoding import CHUNK, beside, encoded
from .neighbors import ExactSearch, FaissSearch
from .transfer import KNNReference, reference_labels, weighted_knn_trainer

if TYPE_CHECKING:
    from anndata import AnnData

COORDINATES, CODES, INDEX = "coordinates.npy", "codes.npy", "index.faiss"


@dataclass(frozen=True, eq=False)
class VotingReference:
    """Reference cells and their labels, ready to vote."""

    knn: KNNReference
    labels: dict[str, list[str]]  # per label key the names
    codes: list[np.ndarray]  # of each label key, each cell's label

    def by_faiss(self) -> VotingReference:
        """The same, searched by faiss."""
        return replace(self, knn=replace(self.knn, search=FaissSearch(self.knn.coordinates.astype(np.float32))))

    @property
    def memory(self) -> int:
        """Bytes that a process holds to ask it."""
        return self.knn.search.memory + sum(codes.nbytes for codes in self.codes)

    def write(self, folder: Path) -> str:
        """Write it for `read_index`; returns the SHA-256 of what was written."""
        folder.mkdir(exist_ok=True)
        (folder / INDEX).unlink(missing_ok=True)
        for name, array in ((COORDINATES, self.knn.coordinates), (CODES, np.stack(self.codes))):
            buffer = io.BytesIO()
            np.save(buffer, array)
            write_file(folder / name, buffer.getvalue())
        if isinstance(self.knn.search, FaissSearch):
            write_file(folder / INDEX, self.knn.search.serialised())
        return _digest(folder)


def voting_reference(
    reference: AnnData | str | os.PathLike | None, model: Model, keys: list[str], n_neighbors: int
) -> VotingReference | None:
    """Embed a reference, or the model's own cells, to be searched exactly; None if no labels are wanted.

    Raises
    ------
    DataError
        As `weighted_knn_trainer` and `weighted_knn_transfer`.
    TypeError
        Labels without a reference, or a reference without labels.
    """
    if not keys:
        if reference is not None:
            raise TypeError("A reference is given, but not which of its labels to transfer: name them in labels_key.")
        return None
    reference = model.adata if reference is None else reference
    if reference is None:
        raise TypeError(f"Whose {listed(keys)} are to be transferred? Give the reference's cells: reference=….")
    from anndata import AnnData

    obs, z = _embedded(reference, model, keys)
    knn = weighted_knn_trainer(AnnData(obs=obs, obsm={"latent": z}), "latent", n_neighbors)
    labels = reference_labels(knn, obs, keys)
    names = {key: names.tolist() for key, (names, _) in labels.items()}
    return VotingReference(knn, names, [codes for _, codes in labels.values()])


def _embedded(
    reference: AnnData | str | os.PathLike, model: Model, keys: Iterable[str]
) -> tuple[pd.DataFrame, np.ndarray]:
    """Labels and latents of the reference; of a file, a chunk at a time."""
    if not isinstance(reference, str | os.PathLike):
        return reference.obs, encoded(model, reference)
    names, labels, latents = [], [], []
    with FileCells(reference, model.schema.layer, beside(model)) as cells:
        for start in range(0, cells.n_cells, CHUNK):
            stop = start + CHUNK
            latents.append(encoded(model, cells.read(start, stop)))
            labels.append(pd.DataFrame({key: cells.column(key, start, stop).astype(object) for key in keys}))
            names.append(cells.names(start, stop))
    return pd.concat(labels).set_axis(np.concatenate(names).astype(str)), np.concatenate(latents)


@lru_cache(maxsize=1)
def read_index(
    folder: str | os.PathLike, digest: str, n_neighbors: int, n_probed: int | None
) -> tuple[KNNReference, list[np.ndarray]]:
    """The reference, and each label key's codes.

    Parameters
    ----------
    folder, digest
        Where it lies, and what `VotingReference.write` returned.
    n_neighbors
        That are asked for.
    n_probed
        Lists of faiss that are looked through; None: the search is exact.

    Raises
    ------
    DamagedFile
        If the files are not those that were written.
    ImportError
        If faiss is asked for and not installed.
    """
    folder = Path(folder)
    if _digest(folder) != digest:
        raise DamagedFile(f"The reference in '{folder}' is damaged. Delete the folder, and map again.")
    if n_probed is None:
        search = ExactSearch(np.load(folder / COORDINATES))
    else:  # coordinates stay on disk, of which all processes share what is in memory
        search = FaissSearch(np.load(folder / COORDINATES, mmap_mode="r"), (folder / INDEX).read_bytes(), n_probed)
    reference = KNNReference(pd.RangeIndex(len(search.coordinates)), "latent", n_neighbors, search)
    return reference, list(np.load(folder / CODES))


def _digest(folder: Path) -> str:
    digest = hashlib.sha256()
    for name in (COORDINATES, CODES, INDEX):
        if name != INDEX or (folder / name).exists():
            with open(folder / name, "rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()
