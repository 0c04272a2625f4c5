"""The nearest reference cells of query cells: all of them, by a k-d tree, or nearly all, by faiss.

    n_lists  = 4 √n                         cells are grouped around so many centres (k-means)
    n_probed = max(16, n_lists / 32)        lists that are looked through: those whose centres are nearest
    recall   = share of the k nearest cells that are found, of the very query's cells, beside the k-d tree's

n_probed is doubled until the recall is 0.999; with all lists it is 1. Of what faiss finds, distances are taken anew in
float64, and equal ones are in the order of the reference's cells. One thread groups and searches, so that the results
are the same to the bit whoever asks. Johnson, Douze & Jégou 2021, doi:10.1109/TBDATA.2019.2921572 (IVF-Flat).
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from types import ModuleType
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from scipy.spatial import cKDTree

from ..data.names import DataError

if TYPE_CHECKING:
    from anndata import AnnData

SEARCHES = ("exact", "faiss")
IN_UNS = "neighbor_search"  # key of uns: a `Recall` as a dict
WANTED_RECALL = 0.999
N_MEASURED = 200  # query cells
REFINED_AT_ONCE = 1_000_000  # differences between a cell and a neighbour: 8 MB


class NeighborSearch(Protocol):
    """What finds the neighbours of cells."""

    coordinates: np.ndarray  # (reference cells, dimensions)
    memory: int  # bytes, without what a query of it takes

    def nearest(self, z: np.ndarray, n_neighbors: int, threads: int) -> tuple[np.ndarray, np.ndarray]:
        """Distances in rising order, float64, and rows of the reference; both (cells, n_neighbors)."""


class ExactSearch:
    """All nearest cells, by a k-d tree: quick up to some 15 dimensions.

    Parameters
    ----------
    coordinates
        Of the reference, (cells, dimensions).
    """

    def __init__(self, coordinates: np.ndarray):
        self._tree = cKDTree(coordinates)
        self.coordinates = np.asarray(self._tree.data)  # float64
        self.memory = self.coordinates.nbytes + 24 * len(self.coordinates)  # rows, and some nodes of 70 bytes

    def nearest(self, z: np.ndarray, n_neighbors: int, threads: int) -> tuple[np.ndarray, np.ndarray]:
        ranks = np.arange(1, n_neighbors + 1)  # a list of ranks keeps the axis of neighbours even for one
        return self._tree.query(z, k=ranks, workers=threads)


class FaissSearch:
    """Nearly all nearest cells, by faiss' IVF-Flat.

    Parameters
    ----------
    coordinates
        Of the reference, float32 (cells, dimensions).
    index
        What `serialised` gave; None: made here.
    n_probed
        Lists that are looked through.

    Raises
    ------
    ImportError
        faiss is not installed.
    """

    def __init__(self, coordinates: np.ndarray, index: bytes | None = None, n_probed: int | None = None):
        faiss = _faiss()
        self.coordinates = coordinates
        self._index = self._made() if index is None else faiss.deserialize_index(np.frombuffer(index, dtype=np.uint8))
        self.memory = 3 * self.coordinates.nbytes + 8 * len(coordinates)  # its index, as bytes for a moment
        self.n_lists = int(self._index.nlist)
        self.n_probed = min(self.n_lists, n_probed or max(16, self.n_lists // 32))

    def _made(self) -> Any:
        faiss = _faiss()
        n_cells, n_dimensions = self.coordinates.shape
        values = np.ascontiguousarray(self.coordinates, dtype=np.float32)
        with _threads(1):
            n_lists = min(n_cells, round(4 * n_cells**0.5))
            index = faiss.IndexIVFFlat(faiss.IndexFlatL2(n_dimensions), n_dimensions, n_lists)
            index.cp.min_points_per_centroid = 1  # else it complains of few cells per list
            index.train(values)  # of a seed of its own
            index.add(values)
        return index

    def serialised(self) -> bytes:
        return _faiss().serialize_index(self._index).tobytes()

    def nearest(self, z: np.ndarray, n_neighbors: int, threads: int) -> tuple[np.ndarray, np.ndarray]:
        values = np.ascontiguousarray(z, dtype=np.float32)
        rows = self._found(values, n_neighbors, self.n_probed, threads)
        short = np.flatnonzero((rows < 0).any(axis=1))
        if len(short):  # their lists hold fewer cells than are asked for
            rows[short] = self._found(values[short], n_neighbors, self.n_lists, threads)
            if (rows < 0).any():
                raise DataError("Coordinates are so large that their squares are beyond float32. Search exactly.")
        return self._refined(z, rows)

    def _found(self, values: np.ndarray, n_neighbors: int, n_probed: int, threads: int) -> np.ndarray:
        parameters = _faiss().SearchParametersIVF(nprobe=n_probed)
        with _threads(threads):
            return self._index.search(values, n_neighbors, params=parameters)[1]

    def _refined(self, z: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Distances in float64, in rising order, then in that of the reference."""
        distances = np.empty(rows.shape)
        step = max(1, REFINED_AT_ONCE // (rows.shape[1] * z.shape[1]))
        for start in range(0, len(z), step):
            cells = slice(start, start + step)
            differences = self.coordinates[rows[cells]].astype(np.float64) - z[cells, None, :]
            distances[cells] = np.sqrt(np.einsum("ckd,ckd->ck", differences, differences))
        order = np.lexsort((rows, distances))
        return np.take_along_axis(distances, order, 1), np.take_along_axis(rows, order, 1)


@dataclass(frozen=True)
class Recall:
    """How well faiss finds the neighbours of a query.

    Attributes
    ----------
    n_lists, n_probed
        Lists that the reference's cells are in, and those of them that are looked through for a cell.
    recall
        Share of the nearest cells that are found, 0 to 1.
    n_measured
        Query cells on which that was measured.
    """

    n_lists: int
    n_probed: int
    recall: float
    n_measured: int

    def __str__(self) -> str:
        lists = f"{self.n_probed:,} of {self.n_lists:,} lists"
        if self.n_probed == self.n_lists:
            lists = "all lists, so that search='exact' is quicker"
        return (
            f"faiss finds {100 * self.recall:.2f} % of the nearest cells (measured on {self.n_measured:,} cells of the "
            f"query) by looking through {lists}."
        )


def noted_recall(adata: AnnData) -> Recall | None:
    """How well faiss has found the neighbours that labelled these cells, if `MappedFiles.write_zarr` says so."""
    noted = adata.uns.get(IN_UNS)
    try:
        whole = {name: int(noted[name]) for name in ("n_lists", "n_probed", "n_measured")}
        return Recall(**whole, recall=float(noted["recall"]))
    except (KeyError, TypeError, ValueError):  # not there, or somebody else's
        return None


def tuned(search: FaissSearch, exact: NeighborSearch, z: np.ndarray, n_neighbors: int) -> Recall:
    """Let a search look through as many lists as the recall wants.

    Parameters
    ----------
    search
        Its `n_probed` is set.
    exact
        Of the same cells.
    z
        Coordinates of some cells of the query, (cells, dimensions).
    n_neighbors
        As they will be searched.
    """
    farthest = exact.nearest(z, n_neighbors, 1)[0][:, -1:]
    farthest = farthest * (1 + 1e-12)  # two ways of rounding
    while True:
        recall = float((search.nearest(z, n_neighbors, 1)[0] <= farthest).mean())
        if recall >= WANTED_RECALL or search.n_probed == search.n_lists:
            return Recall(search.n_lists, search.n_probed, recall, len(z))
        search.n_probed = min(search.n_lists, 2 * search.n_probed)


def check_search(name: str) -> None:
    """Refuse now a search that does not exist, or is not installed."""
    if name not in SEARCHES:
        raise ValueError(f"search is 'exact' or 'faiss', not {name!r}.")
    if name == "faiss":
        _faiss()


def faiss_version() -> str:
    return _faiss().__version__


def _faiss() -> ModuleType:
    try:
        import faiss
    except ImportError as error:
        raise ImportError(
            f"search='faiss' needs faiss, which cannot be imported ({error}). Install it where the cells are mapped: "
            "pip install 'scarches-widgets[faiss]'. Or search exactly: search='exact'."
        ) from error
    return faiss


@contextlib.contextmanager
def _threads(n: int) -> Iterator[None]:
    """For this thread, which faiss' setting belongs to."""
    faiss = _faiss()
    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(n)
    try:
        yield
    finally:
        faiss.omp_set_num_threads(before)
