"""Several AnnData files, or one in zarr, as one AnnData whose matrix stays where it is.

`obs`, `var` and `obsm` are in memory; X and layers are dask arrays of slices of the files, which the models take as any
other matrix, with the same result.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import sparse

from .names import DataError, listed
from .slices import FileCells

if TYPE_CHECKING:
    from anndata import AnnData

logger = logging.getLogger(__name__)
SLICE = 1024  # cells per chunk of the dask array
KEPT_OPEN = 64  # files


def read_files(paths: Sequence[str | os.PathLike]) -> AnnData:
    """One AnnData of all cells of `paths` (h5ad or zarr), file after file; see `sca.read`.

    Genes are those that all files have, in the first one's order; of `obs`, columns that all have.

    Raises
    ------
    DataError
        No gene is in all files, or a name of a cell is in several.
    """
    files = [Path(path).expanduser().resolve() for path in paths]
    if not files:
        raise ValueError("There is no file to read: the list is empty.")
    parts = [_open(str(file)).described() for file in files]
    genes = parts[0].var_names
    for part in parts[1:]:
        genes = genes[genes.isin(part.var_names)]
    if not len(genes):
        raise DataError(
            f"No gene is in all of the {len(files)} files. Use the same identifiers in all of them "
            f"({listed(part.var_names[0] for part in parts)})."
        )
    for file, part in zip(files, parts):
        if len(genes) < part.n_vars:
            logger.warning("%d of the %d genes of '%s' are not in all files, and are left out.",
                           part.n_vars - len(genes), part.n_vars, file.name)  # fmt: skip
    columns = [None if part.var_names.equals(genes) else part.var_names.get_indexer(genes) for part in parts]
    whole = put_together([part[:, genes] for part in parts])
    whole.X = _on_disk(files, [part.n_obs for part in parts], columns, None)
    for layer in set.intersection(*(set(_open(str(file)).layers) for file in files)):
        whole.layers[layer] = _on_disk(files, [part.n_obs for part in parts], columns, layer)
    return whole


def put_together(parts: Sequence[AnnData]) -> AnnData:
    """The cells of all parts, which have the same genes, and columns that all have.

    Raises
    ------
    DataError
        A name of a cell is there twice.
    """
    import anndata

    whole = parts[0].copy() if len(parts) == 1 else anndata.concat(parts, merge="first")
    if not whole.obs_names.is_unique:
        twice = whole.obs_names[whole.obs_names.duplicated()].unique()
        raise DataError(
            f"{len(twice):,} names of cells are in the files more than once ({listed(twice)}), so cells could not be "
            "told apart. Put the sample into the names: adata.obs_names = sample + adata.obs_names."
        )
    return whole


def _on_disk(files: list[Path], n_cells: list[int], columns: list[np.ndarray | None], layer: str | None) -> Any:
    """A dask array of the files' matrices, one over the other."""
    import dask.array as da
    from dask import delayed

    slices = []
    for file, n, wanted in zip(files, n_cells, columns):
        first = _slice(str(file), layer, 0, min(n, 1), wanted)
        for start in range(0, n, SLICE):
            stop = min(start + SLICE, n)
            lazy = delayed(_slice, pure=True)(str(file), layer, start, stop, wanted)
            meta = first[:0] if sparse.issparse(first) else np.empty((0, 0), first.dtype)
            slices.append(da.from_delayed(lazy, (stop - start, first.shape[1]), dtype=first.dtype, meta=meta))
    return da.concatenate(slices, allow_unknown_chunksizes=False)


def _slice(file: str, layer: str | None, start: int, stop: int, columns: np.ndarray | None) -> Any:
    matrix = _open(file).matrix(layer, start, stop)
    return matrix if columns is None else matrix[:, columns]


@lru_cache(maxsize=KEPT_OPEN)
def _open(file: str) -> FileCells:
    return FileCells(file, beside=None)
