"""A reference on disk, ready to be asked for neighbours by every process of a mapping in chunks.

coordinates.npy     (cells, dimensions), in the order of the cells' names; float64, for faiss float32
codes.npy           of each label key, each cell's label; (keys, cells)
index.faiss         if faiss searches
"""

from __future__ import annotations

import hashlib
import io
import os
from functools import lru_cache
from pathlib import Path

import numpy as np
import pandas as pd

from ..data.atomic import write_file
from ..data.container import DamagedFile
from .neighbors import ExactSearch, FaissSearch
from .transfer import KNNReference

COORDINATES, CODES, INDEX = "coordinates.npy", "codes.npy", "index.faiss"


def write_index(folder: Path, reference: KNNReference, codes: list[np.ndarray]) -> str:
    """Write a reference and its labels; returns the SHA-256 of what was written."""
    folder.mkdir(exist_ok=True)
    (folder / INDEX).unlink(missing_ok=True)
    for name, array in ((COORDINATES, reference.coordinates), (CODES, np.stack(codes))):
        buffer = io.BytesIO()
        np.save(buffer, array)
        write_file(folder / name, buffer.getvalue())
    if isinstance(reference.search, FaissSearch):
        write_file(folder / INDEX, reference.search.serialised())
    return _digest(folder)


@lru_cache(maxsize=1)
def read_index(
    folder: str | os.PathLike, digest: str, n_neighbors: int, n_probed: int | None
) -> tuple[KNNReference, list[np.ndarray]]:
    """The reference, and each label key's codes.

    Parameters
    ----------
    folder, digest
        Where it lies, and what `write_index` returned.
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
