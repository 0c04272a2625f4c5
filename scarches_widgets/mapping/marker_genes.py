"""Genes that tell a group of cells from all others, and how groups express them: what a dot plot shows.

    value = log(1 + 10,000 count / total of the cell)     if the matrix holds counts, else as it stands
    t     = (mean − mean of the others) / √(variance / n + variance of the others / n of the others)      Welch's

Two passes over the matrix in blocks, as it is stored: nothing is densified, and all groups come out of one pass.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from ..data.matrix import Block, Unreadable, layer_names, matrix_of
from ..data.names import DataError, did_you_mean, listed, shown

if TYPE_CHECKING:
    from anndata import AnnData

TARGET_SUM = 10_000
LEAST_SHARE = 0.1  # of a group's cells that express one of its markers


@dataclass(frozen=True, eq=False)
class GroupedExpression:
    """Every gene in every group of cells.

    Attributes
    ----------
    n
        Cells, int (groups,).
    mean, variance
        Of the values, float64 (groups, genes).
    share
        Of cells with a value above 0, float64 (groups, genes).
    """

    genes: pd.Index
    n: np.ndarray
    mean: np.ndarray = field(repr=False)
    variance: np.ndarray = field(repr=False)
    share: np.ndarray = field(repr=False)

    def top(self, group: int, n_genes: int = 8) -> list[str]:
        """Genes that are higher in a group than in all other cells, by Welch's t; fewer if there are no more."""
        inside, outside = self.n[group], self.n.sum() - self.n[group]
        if not inside or not outside:
            return []
        weights = np.delete(self.n, group)[:, None] / outside
        mean = (np.delete(self.mean, group, axis=0) * weights).sum(axis=0)
        squares = np.delete(self.variance + self.mean**2, group, axis=0) * weights
        variance = np.clip(squares.sum(axis=0) - mean**2, 0, None)
        difference = self.mean[group] - mean
        error = np.sqrt(self.variance[group] / inside + variance / outside)
        t = difference / (error + 1e-9)  # a gene that is constant in both has a difference, but no error
        usable = np.flatnonzero((difference > 0) & (self.share[group] >= LEAST_SHARE))
        return self.genes[usable[np.argsort(-t[usable], kind="stable")][:n_genes]].tolist()


class Expression:
    """The values of a matrix for means and shares: normalised if they are counts.

    Parameters
    ----------
    layer
        Of the AnnData; None: X.

    Attributes
    ----------
    are_counts
        Whether all values are whole numbers, and not negative.
    """

    def __init__(self, adata: AnnData, layer: str | None = None):
        if layer is not None and layer not in adata.layers:
            raise DataError(f"There is no layers['{shown(layer)}'].{did_you_mean(layer, layer_names(adata))}")
        if layer is None and adata.X is None:
            raise DataError("The AnnData has no X, so there is no expression to show. Name a layer.")
        self.adata, self.layer = adata, layer
        totals, self.are_counts = np.zeros(adata.n_obs), True
        for block in self._blocks():
            values, cells, _ = _flat(block)
            self.are_counts &= bool((values >= 0).all() and (values == np.rint(values)).all())
            totals += np.bincount(cells, values, minlength=adata.n_obs)
        self._factors = TARGET_SUM / np.where(totals > 0, totals, 1) if self.are_counts else None

    def by_group(self, codes: np.ndarray, n_groups: int) -> GroupedExpression:
        """Means, variances and shares of each group; `codes` are from 0 to n_groups − 1, int (cells,)."""
        n_genes = self.adata.n_vars
        sums, squares, expressing = (np.zeros(n_groups * n_genes) for _ in range(3))
        for block in self._blocks():
            values, cells, genes = self._values(block)
            at = codes[cells].astype(np.int64) * n_genes + genes
            np.add.at(sums, at, values)
            np.add.at(squares, at, values**2)
            np.add.at(expressing, at[values > 0], 1.0)
        n = np.bincount(codes, minlength=n_groups)
        size = np.maximum(n, 1)[:, None]
        mean, square, share = (one.reshape(n_groups, n_genes) / size for one in (sums, squares, expressing))
        return GroupedExpression(self.adata.var_names, n, mean, np.clip(square - mean**2, 0, None), share)

    def of_genes(self, genes: Sequence[str]) -> np.ndarray:
        """The values of some genes, float32 (cells, genes)."""
        check_genes(self.adata, genes)
        place = np.full(self.adata.n_vars, -1)
        place[self.adata.var_names.get_indexer(pd.Index(genes))] = np.arange(len(genes))
        found = np.zeros((self.adata.n_obs, len(genes)), dtype=np.float32)
        for block in self._blocks():
            values, cells, columns = self._values(block)
            wanted = place[columns] >= 0
            found[cells[wanted], place[columns[wanted]]] = values[wanted]
        return found

    def _values(self, block: Block) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        values, cells, genes = _flat(block)
        values = values.astype(np.float64)
        return (np.log1p(values * self._factors[cells]) if self.are_counts else values), cells, genes

    def _blocks(self) -> Iterator[Block]:
        try:
            yield from matrix_of(self.adata, self.layer).blocks()
        except Unreadable as error:
            raise DataError(str(error.args[0])) from error


def dots(values: np.ndarray, groups: Mapping[str, np.ndarray], genes: Sequence[str]) -> pd.DataFrame:
    """What a dot plot shows of some groups of cells: a row per group and gene, `n`, `mean`, `share`.

    Parameters
    ----------
    values
        Of the genes, (cells, genes).
    groups
        Name -> its cells, bool (cells,).
    """
    rows = []
    for name, mask in groups.items():
        chosen = values[mask]
        means = chosen.mean(axis=0, dtype=np.float64) if len(chosen) else np.zeros(len(genes))
        shares = (chosen > 0).mean(axis=0) if len(chosen) else np.zeros(len(genes))
        rows += [
            {"group": name, "gene": gene, "n": len(chosen), "mean": mean, "share": share}
            for gene, mean, share in zip(genes, means, shares)
        ]
    return pd.DataFrame(rows, columns=["group", "gene", "n", "mean", "share"])


def check_genes(adata: AnnData, genes: Sequence[str]) -> None:
    missing = [gene for gene in genes if gene not in adata.var_names]
    if missing:
        near = did_you_mean(missing[0], adata.var_names)
        raise DataError(f"{len(missing):,} of {len(genes):,} genes are not in var_names ({listed(missing)}).{near}")


def _flat(block: Block) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Values, cells and genes as three arrays of one length; zeros of a dense block are left out."""
    if block.is_sparse:
        return block.values, block.cells, block.genes
    rows, columns = np.nonzero(block.values)
    cells, genes = np.broadcast_arrays(block.cells, block.genes)
    return block.values[rows, columns], cells[rows, columns], genes[rows, columns]
