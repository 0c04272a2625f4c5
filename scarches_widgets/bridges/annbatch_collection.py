"""The cells of an annbatch collection: shards in zarr, in random order, that annbatch reads for a model.

    adata = read_collection("atlas.zarr")
    model = sca.models.SCVI(adata, batch_key="batch")
    model.train(shuffle_block=1024)

annbatch (arXiv:2604.01949) writes many files into one such collection and reads it fast. Here it does
the reading: a slice of cells is one request to its `Loader`. Which cells a step gets remains ours, so that
training is the same to the bit as in memory: each cell once per epoch, cells held out, resuming, several processes.
"""

from __future__ import annotations

import logging
import os
import sys
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import sparse

from ..data.files import SLICE, put_together
from ..data.names import DataError, listed
from ..data.read import opened

if TYPE_CHECKING:
    import zarr
    from annbatch import DatasetCollection
    from anndata import AnnData

logger = logging.getLogger(__name__)
FAST = {"codec_pipeline.path": "zarrs.ZarrsCodecPipeline"}  # unpacks chunks; zarr's own takes three times as long


def read_collection(source: str | os.PathLike | DatasetCollection) -> AnnData:
    """An annbatch collection as one AnnData whose matrices stay on disk, for any model that takes an AnnData.

    Parameters
    ----------
    source
        The collection's zarr folder, which is looked through as by `sca.read`, or a `DatasetCollection`, whose store
        you have opened yourself and which is taken as it is.

    Returns
    -------
    AnnData
        `obs`, `obsm` and genes in memory; X and layers are dask arrays that annbatch reads, 1,024 cells at a time.
        Train on it with `shuffle_block=1024`: a random cell alone costs as much as its neighbours with it.

    Raises
    ------
    ImportError
        annbatch is not installed, or this Python is older than 3.12, which annbatch needs.
    DataError
        It is no collection, is not safe to open, has a matrix gene by gene (CSC), or shards with other genes than the
        first, or has a name of a cell twice.
    TypeError
        It is a `Loader`, which deals cells in an order of its own.

    Examples
    --------
    >>> annbatch.DatasetCollection("atlas.zarr").add_adatas(["one.h5ad", "two.h5ad"])  # doctest: +SKIP
    >>> adata = sca.bridges.annbatch_collection.read_collection("atlas.zarr")  # doctest: +SKIP
    """
    shards = list(_collection_of(source))
    parts = [_without_matrices(shard) for shard in shards]
    genes = parts[0].var_names
    for number, part in enumerate(parts):
        if not part.var_names.equals(genes):
            raise DataError(
                f"Shard {number} of the collection has other genes than the first one, or in another order "
                f"({part.n_vars:,} and {len(genes):,}). annbatch gives all shards the same: write the collection anew."
            )
    adata = put_together(parts)
    if "X" in shards[0]:
        adata.X = _lazy([shard["X"] for shard in shards], "X")
    for layer in set.intersection(*(set(shard["layers"]) if "layers" in shard else set() for shard in shards)):
        adata.layers[layer] = _lazy([shard["layers"][layer] for shard in shards], f"layers['{layer}']")
    return adata


def _collection_of(source: Any) -> DatasetCollection:
    annbatch = _annbatch()
    if isinstance(source, annbatch.Loader):
        raise TypeError(
            "A Loader deals cells in an order of its own, in which none can be held out for validation and no run "
            "resumed. Pass the DatasetCollection that it reads, or its folder; the order is then the model's."
        )
    if isinstance(source, annbatch.DatasetCollection):
        collection, where = source, "The DatasetCollection"
    elif isinstance(source, str | os.PathLike):
        group, where = opened(source), f"'{source}'"
        if hasattr(group, "close"):
            group.close()
            raise DataError(f"{where} is an .h5ad file, not a collection. Read it with sca.read(…, backed='r').")
        collection = annbatch.DatasetCollection(group)
    else:
        raise TypeError(f"A collection is a folder or a DatasetCollection, not a {type(source).__name__}.")
    if collection.is_empty:
        raise DataError(
            f"{where} holds no shards that annbatch wrote. Read an AnnData in zarr with sca.read(…, backed='r'), or "
            "write a collection once: annbatch.DatasetCollection('cells.zarr').add_adatas(['one.h5ad', …])."
        )
    return collection


def _annbatch() -> Any:
    if sys.version_info < (3, 12):
        raise ImportError(
            f"annbatch needs Python 3.12 or later, and this is {sys.version.split()[0]}. Without it, the same "
            "collection is read, more slowly, by sca.read([*pathlib.Path('cells.zarr').glob('dataset_*')], backed='r')."
        )
    if find_spec("annbatch") is None:
        raise ImportError("annbatch is not installed. Install it: pip install 'scarches-widgets[annbatch]'.")
    import annbatch

    return annbatch


def _without_matrices(shard: zarr.Group) -> AnnData:
    from anndata import AnnData
    from anndata.io import read_elem

    beside = {where: read_elem(shard[where]) for where in ("obsm", "uns") if where in shard}
    return AnnData(obs=read_elem(shard["obs"]), var=read_elem(shard["var"]), **beside)


def _lazy(matrices: list[zarr.Group | zarr.Array], where: str) -> Any:
    import dask.array as da

    reader = ShardedMatrix(matrices, where)
    chunks = (SLICE, reader.shape[1])
    return da.from_array(reader, chunks, name=False, lock=True, asarray=False, fancy=False, meta=reader[:0, :])


class ShardedMatrix:
    """The same matrix of all shards, one over the other, of which annbatch's `Loader` reads slices.

    Parameters
    ----------
    matrices
        Each shard's, cells × genes: CSR or dense.
    where
        What messages call it.
    """

    ndim = 2

    def __init__(self, matrices: list[zarr.Group | zarr.Array], where: str):
        import zarr
        from annbatch import Loader
        from anndata.io import sparse_dataset

        kinds = {str(matrix.attrs.get("encoding-type")) for matrix in matrices}
        if len(kinds) > 1 or not kinds <= {"csr_matrix", "array"}:
            raise DataError(
                f"{where} of the collection is stored as {listed(sorted(kinds))}. annbatch reads CSR or dense, the "
                "same in all shards: convert it (adata.X = adata.X.tocsr()), and write the collection anew."
            )
        self._asked = _sampler_of_slices()
        self._loader = Loader(batch_sampler=self._asked, preload_to_gpu=False)
        has_zarrs = find_spec("zarrs") is not None
        if not has_zarrs:
            logger.warning("annbatch reads several times faster with zarrs: `pip install zarrs`.")
        is_local = isinstance(matrices[0].store, zarr.storage.LocalStore)
        with zarr.config.set(FAST if has_zarrs and is_local else {}):  # while its arrays are opened, not for others
            arrays = [zarr.open(one.store, path=one.path, mode="r", use_consolidated=False) for one in matrices]
            self._loader.add_datasets([sparse_dataset(one) if "csr_matrix" in kinds else one for one in arrays])
            self.shape = (self._loader.n_obs, self._loader.n_var)
            self.dtype = self._rows(0, 1).dtype

    def __getitem__(self, key: tuple[slice, slice]) -> np.ndarray | sparse.csr_matrix:
        cells, genes = range(self.shape[0])[key[0]], key[1]
        if not cells:
            return self._rows(0, 1)[:0, genes]
        low, high = min(cells), max(cells) + 1
        rows = self._rows(low, high)
        return rows[:, genes] if len(cells) == high - low and cells.step > 0 else rows[np.array(cells) - low][:, genes]

    def _rows(self, start: int, stop: int) -> np.ndarray | sparse.csr_matrix:
        self._asked.rows = np.arange(start, stop)
        (answer,) = self._loader
        return answer["X"]


def _sampler_of_slices() -> Any:
    from annbatch.abc import Sampler

    class Slices(Sampler):
        """Has a `Loader` read `rows`, in their order, at once."""

        rows: np.ndarray
        batch_size = None
        shuffle = False

        def n_batches(self, n_obs: int) -> int:
            return 1

        def validate(self, n_obs: int) -> None:
            pass

        def _sample(self, n_obs: int):
            yield {"requests": self.rows, "splits": [np.arange(len(self.rows))]}

    return Slices()
