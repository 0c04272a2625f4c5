"""Which genes depend on each other given all others: a network by the graphical lasso.

    precision = argmax log det Θ − trace(S Θ) − α Σ_(i≠j) |Θ_ij|          S: the genes' correlations

Two genes are joined where Θ_ij ≠ 0. Friedman et al. 2008, doi:10.1093/biostatistics/kxm045. Genes fall apart into the
connected parts of |S_ij| > α first, and each part is solved alone, which is exact (Witten et al. 2011,
doi:10.1198/jcgs.2011.11051a). α is given, or that of the least eBIC (Foygel & Drton 2010, arXiv:1011.6640):

    eBIC = −n (log det Θ − trace(S Θ)) + E log n + 4 γ E log p            E edges, n cells, p genes, γ = 0.5
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np
import pandas as pd

ALPHAS = (0.5, 0.4, 0.3, 0.25, 0.2, 0.15, 0.1)  # that eBIC chooses from, the strictest first
GAMMA = 0.5
MOST_GENES = 800  # for which a lasso is solved; for more, the strongest partial correlations
EDGES_PER_GENE = 10  # of these


@dataclass(frozen=True)
class GeneNetwork:
    """Edges between genes, and how they were found.

    Attributes
    ----------
    edges
        Int64 (2, edges), from and to, each edge in both directions, sorted by where it arrives.
    alpha
        Penalty; None if partial correlations were taken.
    report
        One row per penalty that was tried: `alpha`, `n_edges` (undirected), `n_isolated` genes, `mean_degree`, `ebic`
        (NaN where the solver failed), `is_chosen`.
    """

    edges: np.ndarray
    alpha: float | None
    report: pd.DataFrame

    def __str__(self) -> str:
        row = self.report[self.report["is_chosen"]].iloc[0]
        how = "partial correlations" if self.alpha is None else f"graphical lasso, alpha={self.alpha:g}"
        return (
            f"Gene network ({how}): {int(row['n_edges']):,} edges, {row['mean_degree']:.1f} per gene, "
            f"{int(row['n_isolated'])} genes without any."
        )


def gene_network(z: np.ndarray, alpha: float | None = None) -> GeneNetwork:
    """The network of the genes of `z`, (cells, genes).

    Parameters
    ----------
    z
        Standardised expression. A constant gene has no edges.
    alpha
        Penalty, 0 to 1: the larger, the fewer edges. None: chosen by eBIC. Of more than 800 genes no lasso is solved:
        the 10 strongest partial correlations of each gene, from a covariance that is shrunk as by Ledoit & Wolf 2004.

    Raises
    ------
    ValueError
        If the solver fails for every `alpha`.
    """
    n_cells, n_genes = z.shape
    z = z - z.mean(0)
    z = z / np.where(z.std(0) > 1e-6, z.std(0), np.inf)
    if n_genes > MOST_GENES:
        joined = _strongest_partial_correlations(z)
        return _network(joined, None, [_row(None, joined, np.nan)])
    correlation = (z.T @ z / n_cells).astype(np.float64)
    np.fill_diagonal(correlation, 1.0)
    rows, found = [], {}
    for penalty in ALPHAS if alpha is None else (alpha,):
        precision = _precision(correlation, penalty)
        joined = np.zeros((n_genes, n_genes), bool) if precision is None else precision != 0
        np.fill_diagonal(joined, False)
        ebic = np.nan if precision is None else _ebic(precision, correlation, n_cells)
        rows.append(_row(penalty, joined, ebic))
        if precision is not None:
            found[penalty] = (ebic, joined)
    if not found:
        raise ValueError(
            f"The graphical lasso found no gene network at alpha={alpha if alpha is not None else ALPHAS}: genes are "
            "too nearly copies of one another. Raise gene_network_alpha, or take a classifier without a network."
        )
    best = min(found, key=lambda penalty: found[penalty][0])
    return _network(found[best][1], best, rows)


def _precision(correlation: np.ndarray, alpha: float) -> np.ndarray | None:
    """Θ, of each connected part of the genes alone; None if the solver fails."""
    from scipy.sparse.csgraph import connected_components
    from sklearn.covariance import graphical_lasso
    from sklearn.exceptions import ConvergenceWarning

    n_parts, part = connected_components(np.abs(correlation) > alpha)
    precision = np.zeros_like(correlation)
    for genes in (np.flatnonzero(part == number) for number in range(n_parts)):
        square = np.ix_(genes, genes)
        if len(genes) == 1:
            precision[square] = 1.0
            continue
        with warnings.catch_warnings():
            warnings.simplefilter("error", ConvergenceWarning)
            try:
                precision[square] = graphical_lasso(correlation[square], alpha, max_iter=200, tol=1e-3)[1]
            except (FloatingPointError, ConvergenceWarning):
                return None
    return precision


def _ebic(precision: np.ndarray, correlation: np.ndarray, n_cells: int) -> float:
    n_genes = len(precision)
    n_edges = (np.count_nonzero(precision) - np.count_nonzero(np.diag(precision))) / 2
    fit = np.linalg.slogdet(precision)[1] - (correlation * precision).sum()
    return float(-n_cells * fit + n_edges * np.log(n_cells) + 4 * GAMMA * n_edges * np.log(n_genes))


def _strongest_partial_correlations(z: np.ndarray) -> np.ndarray:
    from sklearn.covariance import ledoit_wolf

    precision = np.linalg.inv(ledoit_wolf(z)[0])
    scale = np.sqrt(np.diag(precision))
    strength = np.abs(precision / np.outer(scale, scale))
    np.fill_diagonal(strength, 0)
    strongest = np.argpartition(-strength, EDGES_PER_GENE, axis=1)[:, :EDGES_PER_GENE]
    joined = np.zeros(strength.shape, bool)
    np.put_along_axis(joined, strongest, True, axis=1)
    return (joined | joined.T) & (strength > 0)


def _row(alpha: float | None, joined: np.ndarray, ebic: float) -> dict[str, float]:
    degree = joined.sum(1)
    n_edges, n_isolated = int(degree.sum()) // 2, int((degree == 0).sum())
    alpha = np.nan if alpha is None else alpha
    return {
        "alpha": alpha, "n_edges": n_edges, "n_isolated": n_isolated, "mean_degree": degree.mean(), "ebic": ebic
    }  # fmt: skip


def _network(joined: np.ndarray, alpha: float | None, rows: list[dict[str, float]]) -> GeneNetwork:
    to, origin = np.nonzero(joined)
    report = pd.DataFrame(rows)
    report["is_chosen"] = True if alpha is None else report["alpha"] == alpha
    return GeneNetwork(np.stack([origin, to]).astype(np.int64), alpha, report)
