"""Results of a mapping in chunks: parts on disk, that are one table."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from .chunk import LATENT
from .encoding import CHUNK
from .neighbors import IN_UNS, Recall


@dataclass(frozen=True)
class MappedFiles:
    """Results of `map_query`, on disk.

    Attributes
    ----------
    out
        The folder.
    report
        One row per chunk: `source`, `start` and `stop` (its cells), `seconds`, `peak_memory` of its process in bytes,
        `was_there` (from an earlier run).
    recall
        If faiss has searched: what share of the nearest cells it finds, and how that was measured.
    """

    out: Path
    report: pd.DataFrame
    recall: Recall | None = None

    @property
    def n_cells(self) -> int:
        return int((self.report["stop"] - self.report["start"]).sum())

    def labels(self) -> pd.DataFrame:
        """Per label key the transferred label, and `…_uncertainty`, 0 to 1 (0 = all neighbours agree); cells × these.
        In memory: some 20 bytes per cell and label, and the cells' names."""
        columns = [name for name in self._schema.names if not self._is_latent(name)]
        return pd.read_parquet(self.out / "cells", columns=columns).set_index("cell")

    def latent(self) -> np.ndarray:
        """Posterior means, float32 (cells, n_latent), in the order of the files' cells. In memory."""
        columns = [name for name in self._schema.names if self._is_latent(name)]
        return pd.read_parquet(self.out / "cells", columns=columns).to_numpy(dtype=np.float32)

    def tables(self) -> Iterator[pd.DataFrame]:
        """All results, a chunk at a time."""
        for path in sorted((self.out / "cells").glob("part-*.parquet")):
            yield pd.read_parquet(path).set_index("cell")

    def write_zarr(self, path: str | os.PathLike) -> Path:
        """Write labels as `obs` and latents as `obsm["X_mapped"]` to a folder that `anndata.read_zarr` reads; the
        latents a chunk at a time. How well faiss has searched stands in `uns`, and `LabelReview` shows it.

        Raises
        ------
        FileExistsError
            If `path` exists.
        """
        import anndata
        import zarr

        path = Path(path).expanduser()
        if path.exists():
            raise FileExistsError(f"'{path}' exists. Choose another name, or delete it.")
        uns = {} if self.recall is None else {IN_UNS: asdict(self.recall)}
        anndata.AnnData(obs=self.labels(), uns=uns).write_zarr(path)
        n_latent = sum(map(self._is_latent, self._schema.names))
        group = zarr.open_group(path, mode="r+", use_consolidated=False)["obsm"]
        shape = {"shape": (self.n_cells, n_latent), "chunks": (CHUNK, n_latent), "dtype": "float32"}
        latent, start = group.create_array("X_mapped", **shape), 0
        latent.attrs.update({"encoding-type": "array", "encoding-version": "0.2.0"})
        for table in self.tables():
            rows = table[[name for name in table if self._is_latent(name)]].to_numpy()
            latent[start : start + len(rows)] = rows
            start += len(rows)
        zarr.consolidate_metadata(path)
        return path

    @property
    def _schema(self) -> Any:
        import pyarrow.parquet

        return pyarrow.parquet.read_schema(next(iter(sorted((self.out / "cells").glob("part-*.parquet")))))

    @staticmethod
    def _is_latent(name: str) -> bool:
        return name.removeprefix(LATENT.format("")).isdigit()
