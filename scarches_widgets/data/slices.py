"""Cells of an AnnData file by the slice: rows start to stop of all that has rows, and nothing else of the file.

A backed AnnData holds `obs` and `obsm` of all its cells in memory, which for ten million is more than the chunk that is
to be computed. Here a slice costs what it holds, in h5ad and zarr alike (formats of anndata 0.8 and later).
"""

from __future__ import annotations

import os
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from scipy import sparse

from .names import DataError, did_you_mean, listed, shown
from .read import opened

if TYPE_CHECKING:
    from anndata import AnnData


class FileCells:
    """The cells of one file, h5ad or zarr; to be used in a `with`.

    Parameters
    ----------
    path
        Looked through before it is opened, as by `sca.read`.
    layer
        The matrix to read; None: X.
    beside
        Keys of `obsm` and `uns` to read too, as far as there are any; None: all.

    Attributes
    ----------
    n_cells
        In the whole file.
    var
        The genes.

    Raises
    ------
    DataError
        The file is unsafe, damaged, older than anndata 0.8, has no such matrix, or has it gene by gene (CSC), so that
        a slice of cells would read all of it.
    """

    def __init__(self, path: str | os.PathLike, layer: str | None = None, beside: Collection[str] | None = ()):
        from anndata.io import read_elem

        self.path = Path(path).expanduser().resolve()
        self._store = opened(self.path)
        try:
            self._obs = self._store["obs"]
            if _kind(self._obs) != "dataframe":
                raise self._error("was written by an anndata before 0.8. Read it with sca.read, and write it again")
            wanted = {
                where: [k for k in self._keys(where) if beside is None or k in beside] for where in ("obsm", "uns")
            }
            self._obsm = {key: self._store["obsm"][key] for key in wanted["obsm"]}
            self._uns = {key: read_elem(self._store["uns"][key]) for key in wanted["uns"]}
            self._layer, self._matrix = layer, self._matrix_of(layer)
            self.var: pd.DataFrame = read_elem(self._store["var"])
            index = self._obs[self._obs.attrs["_index"]]
            self.n_cells = int((index if hasattr(index, "shape") else index["values"]).shape[0])
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> FileCells:
        return self

    def __exit__(self, *exception) -> None:
        self.close()

    def close(self) -> None:
        with suppress(AttributeError):  # a zarr group has nothing to close
            self._store.close()

    def read(self, start: int, stop: int) -> AnnData:
        """Cells `start` to `stop` in memory, with the matrix in X or its layer, `obs`, `var` and what is `beside`."""
        from anndata import AnnData

        rows = slice(start, min(stop, self.n_cells))
        matrix = self._rows(self._matrix, rows)
        obsm = {key: self._rows(element, rows) for key, element in self._obsm.items()}
        where = {"X": matrix} if self._layer is None else {"layers": {self._layer: matrix}}
        return AnnData(obs=self._rows(self._obs, rows), var=self.var, obsm=obsm, uns=self._uns, **where)

    def described(self) -> AnnData:
        """All cells without their matrix."""
        from anndata import AnnData

        rows = slice(0, self.n_cells)
        obsm = {key: self._rows(element, rows) for key, element in self._obsm.items()}
        return AnnData(obs=self._rows(self._obs, rows), var=self.var, obsm=obsm, uns=self._uns)

    @property
    def layers(self) -> list[str]:
        return self._keys("layers")

    def matrix(self, layer: str | None, start: int, stop: int) -> np.ndarray | sparse.csr_matrix:
        """X, or a layer, of cells `start` to `stop`."""
        return self._rows(self._matrix_of(layer), slice(start, stop))

    def names(self, start: int, stop: int) -> np.ndarray:
        """Of cells `start` to `stop`."""
        return np.asarray(self._rows(self._obs[self._obs.attrs["_index"]], slice(start, stop)), dtype=object)

    def column(self, name: str, start: int, stop: int) -> pd.Series:
        """A column of `obs` for cells `start` to `stop`."""
        columns = list(self._obs.attrs["column-order"])
        if name not in columns:
            raise self._error(f"has no column '{shown(name)}' in obs.{did_you_mean(name, columns)}")
        return pd.Series(self._rows(self._obs[name], slice(start, stop)), name=name)

    def _keys(self, group: str) -> list[str]:
        return list(self._store[group]) if group in self._store else []

    def _matrix_of(self, layer: str | None) -> Any:
        if layer is not None and layer not in self._keys("layers"):
            known = self._keys("layers")
            raise self._error(
                f"has no layer '{shown(layer)}'.{did_you_mean(layer, known)} It has: {listed(known) or 'none'}"
            )
        if layer is None and "X" not in self._store:
            raise self._error("has no X. Name the layer that holds the counts when the model is made")
        matrix = self._store["X"] if layer is None else self._store["layers"][layer]
        if _kind(matrix) == "csc_matrix":
            raise self._error(
                "holds its matrix gene by gene (CSC), so that each slice of cells would read all of it. Write it cell "
                "by cell once: adata.X = adata.X.tocsr()"
            )
        return matrix

    def _rows(self, element: Any, rows: slice) -> Any:
        """These rows of an array, a sparse matrix or a table, as anndata would read them."""
        kind = _kind(element)
        if kind == "csr_matrix":
            starts = np.asarray(element["indptr"][rows.start : rows.stop + 1]).astype(np.int64)
            if (np.diff(starts) < 0).any() or starts[-1] > element["data"].shape[0]:
                raise self._error("is damaged: the row pointers of its matrix fall or reach beyond its values")
            values, columns = (element[name][starts[0] : starts[-1]] for name in ("data", "indices"))
            shape = len(starts) - 1, int(element.attrs["shape"][1])
            if len(columns) and not (columns.min() >= 0 and columns.max() < shape[1]):
                raise self._error(f"is damaged: an entry of its matrix points beyond its {shape[1]:,} genes")
            return sparse.csr_matrix((values, columns, starts - starts[0]), shape=shape)
        if kind == "dataframe":
            index = pd.Index(np.asarray(self._rows(element[element.attrs["_index"]], rows)).astype(str))
            columns = {name: self._rows(element[name], rows) for name in element.attrs["column-order"]}
            return pd.DataFrame(columns, index=index)
        if kind == "categorical":
            from anndata.io import read_elem

            codes, ordered = element["codes"][rows], bool(element.attrs.get("ordered", False))
            return pd.Categorical.from_codes(codes, read_elem(element["categories"]), ordered=ordered)
        if kind.startswith("nullable-"):
            values = pd.array(self._rows(element["values"], rows))
            values[np.asarray(element["mask"][rows])] = pd.NA
            return values
        if kind in ("array", "string-array"):
            values = element.asstr()[rows] if hasattr(element, "asstr") and kind == "string-array" else element[rows]
            return np.asarray(values, dtype=object) if kind == "string-array" else np.asarray(values)
        raise self._error(f"has '{shown(element.name)}' as {kind or 'an unknown type'}, which is not read by the slice")

    def _error(self, what: str) -> DataError:
        return DataError(f"'{self.path}' {what}.")


def _kind(element: Any) -> str:
    return str(element.attrs.get("encoding-type", ""))
