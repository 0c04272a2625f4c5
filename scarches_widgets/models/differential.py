"""Differential expression by a model's posterior. Lopez et al. 2018, doi:10.1038/s41592-018-0229-2; Boyeau et al. 2019,
doi:10.1101/794289.

    for each of S pairs: a cell from each group, a draw of each one's z, expected shares ρ1 and ρ2 of each gene

    vanilla   P(ρ1 > ρ2) = share of the pairs;  bayes_factor = ln (P + ε) − ln (1 − P + ε),  ε = 1e-8
    change    lfc = log2(ρ1 + c) − log2(ρ2 + c);  P(up) = share of lfc ≥ δ;  P(down) = share of lfc < −δ
              P(de) = max(P(up), P(down)), or their sum;  bayes_factor as above
    fdr       the genes with the largest P(de), as many as keep the mean of 1 − P(de) among them below the target

All as scvi-tools 1.4.2 has it, with its choices where none is given:

- c: per group, each hardly seen gene's largest ρ over the draws (raw mean below 0.01), of these the 0.9-quantile; the
  larger of the groups, divided by the number of genes, at least 1e-10.
- δ = None: three normal components of all genes' mean lfc; 0.6 times the mean distance of the outer two from zero, at
  least 0.1.
- statistics of lfc (mean, median, …) are taken with a thousandth of c.

Differs from scvi-tools: "change" is the default. Draws have a seed. Neither draws nor shares of all genes are held in
memory: what is kept of a draw is the decoder's last hidden layer, and genes are gone through in blocks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor

from ..data.names import DataError, did_you_mean, listed
from ..data.schema import BATCH, as_text
from ..nn.expression import NOT_OF_COUNTS
from ..nn.noise import Noise, seed_of

if TYPE_CHECKING:
    from ..data.minibatches import Minibatch
    from .base import Model

Selection = str | Sequence[int] | Sequence[bool] | np.ndarray | pd.Series | None
EPSILON = 1e-8
HARDLY_SEEN = 0.01  # counts per cell
GENES_AT_ONCE = 256
DRAWS_AT_ONCE = 1024


@dataclass(frozen=True)
class Comparison:
    """Two groups of cells and their names."""

    name1: str
    name2: str
    cells1: np.ndarray  # mask, (cells,)
    cells2: np.ndarray


def compared(
    model: Model,
    adata,
    *,
    groups: dict,
    mode: str,
    delta: float | None,
    test_mode: str,
    pseudocount: float | None,
    batch_correction: bool,
    n_samples: int,
    fdr_target: float,
    all_stats: bool,
    seed: int,
    on_progress: Callable[[int, int], None] | None,
) -> pd.DataFrame:
    """One table of all comparisons; see `ExpressionVerbs.differential_expression`."""
    for name, value, known in (("mode", mode, ("change", "vanilla")), ("test_mode", test_mode, ("three", "two"))):
        if value not in known:
            raise ValueError(f"{name}='{value}' is none of {listed(known)}.{did_you_mean(value, known)}")
    if n_samples < 1 or not 0 < fdr_target < 1:
        raise ValueError(f"n_samples={n_samples} must be at least 1, and fdr_target={fdr_target} between 0 and 1.")
    if model.config.gene_likelihood in NOT_OF_COUNTS:
        raise ValueError(
            "Differential expression compares shares of counts, and this model "
            f"(gene_likelihood='{model.config.gene_likelihood}') has none. Train one on raw counts."
        )
    wanted = list(comparisons(adata.obs, **groups))
    draws = Draws(model, adata, n_samples, batch_correction, seed)
    raw = RawCounts(draws.cells, wanted) if all_stats or pseudocount is None else None
    tables = []
    for i, comparison in enumerate(wanted):
        pair = Pair(*(draws.of(mask, 2 * i + side) for side, mask in enumerate((comparison.cells1, comparison.cells2))))
        if mode == "vanilla":
            table = vanilla(pair)
        else:
            hardly_seen = None if raw is None else [raw.means(i, side) < HARDLY_SEEN for side in (0, 1)]
            table = change(pair, delta, test_mode, pseudocount, hardly_seen, seed)
            table[f"is_de_fdr_{fdr_target}"] = found_at(table["proba_de"].to_numpy(), fdr_target)
        if all_stats:
            for name, values in raw.statistics(i).items():
                table[name] = values
        table["comparison"] = f"{comparison.name1} vs {comparison.name2}"
        table["group1"], table["group2"] = comparison.name1, comparison.name2
        table.index = pd.Index(model.schema.genes)
        by = ["proba_de", "lfc_median"] if mode == "change" else ["bayes_factor"]
        tables.append(table.sort_values(by, ascending=False, kind="stable", key=np.abs if mode == "change" else None))
        if on_progress is not None:
            on_progress(i + 1, len(wanted))
    return pd.concat(tables)


# ---- groups ----------------------------------------------------------------------------------------------------------


def comparisons(
    obs: pd.DataFrame,
    groupby: str | None,
    group1: str | Sequence[str] | None,
    group2: str | None,
    idx1: Selection,
    idx2: Selection,
) -> Iterator[Comparison]:
    """The pairs of groups that the arguments of `differential_expression` name."""
    if (groupby is None) == (idx1 is None):
        raise ValueError("Name the groups in one way: groupby='cell_type' (and group1, group2), or idx1 (and idx2).")
    if idx1 is not None:
        cells1 = mask_of(idx1, obs, "idx1")
        cells2 = ~cells1 if idx2 is None else mask_of(idx2, obs, "idx2")
        yield _filled(Comparison("One", "Rest" if idx2 is None else "Two", cells1, cells2))
        return
    if groupby not in obs:
        near = did_you_mean(groupby, obs.columns)
        raise DataError(f"obs has no column '{groupby}' (groupby).{near} There are: {listed(obs.columns, 20)}.")
    values = as_text(obs[groupby])
    known = sorted({value for value in values if value == value})
    names = known if group1 is None else [group1] if isinstance(group1, str) else [str(name) for name in group1]
    for name in [*names, *([] if group2 is None else [group2])]:
        if name not in known:
            raise DataError(
                f"obs['{groupby}'] has no group '{name}'.{did_you_mean(name, known)} It has: {listed(known, 20)}."
            )
    for name in names:
        if name != group2:
            cells1 = values == name
            cells2 = ~cells1 if group2 is None else values == group2
            yield _filled(Comparison(name, "Rest" if group2 is None else group2, cells1, cells2))


def mask_of(selection: Selection, obs: pd.DataFrame, argument: str) -> np.ndarray:
    """A mask, (cells,), from a mask, positions, or a query on `obs`."""
    if isinstance(selection, str):
        try:
            selection = obs.eval(selection)
        except Exception as error:  # pandas raises whatever its parser meets
            raise ValueError(f"{argument}='{selection}' is no query on obs: {error}") from error
    values = np.asarray(selection)
    if values.dtype == bool:
        if values.shape != (len(obs),):
            raise ValueError(f"{argument} is a mask of {len(values):,} cells, and there are {len(obs):,}.")
        return values
    is_position = np.issubdtype(values.dtype, np.integer) and (-len(obs) <= values).all() and (values < len(obs)).all()
    if not is_position:
        raise ValueError(f"{argument} takes a mask, positions of the {len(obs):,} cells, or a query on obs.")
    mask = np.zeros(len(obs), dtype=bool)
    mask[values] = True
    return mask


def _filled(comparison: Comparison) -> Comparison:
    for name, cells in ((comparison.name1, comparison.cells1), (comparison.name2, comparison.cells2)):
        if not cells.any():
            raise DataError(f"Group '{name}' of the comparison has no cells. Choose another selection.")
    return comparison


# ---- draws -----------------------------------------------------------------------------------------------------------


class Draws:
    """Draws of cells, and of each one's latent, as the decoder's last hidden layer sees them."""

    def __init__(self, model: Model, adata, n: int, batch_correction: bool, seed: int):
        model._refuse_if_untrained()
        self.model, self.n, self.seed = model, n, seed
        self.cells = model._cells(adata)
        present = np.unique(model.schema.codes(adata)[BATCH])
        # pair i is decoded as of the same batch in both groups
        self._batches = present[np.arange(n) * len(present) // n] if batch_correction else None

    def of(self, mask: np.ndarray, place: int) -> ExpectedShares:
        """`n` draws from the cells of a group; `place` tells it from other groups."""
        rng = np.random.default_rng(seed_of(self.seed, "inference", place + 1))
        rows = rng.choice(np.flatnonzero(mask), self.n)
        module, device, hidden, start = self.model.module, self.model.device, [], 0
        with torch.no_grad():
            for step, cells in enumerate(self.cells.minibatches(rows, DRAWS_AT_ONCE)):
                cells = cells.to(device)
                noise = Noise(self.seed, "inference", place + 1, step, device=device)
                z = module.encode(cells).rsample(noise)
                if self._batches is not None:
                    codes = torch.from_numpy(self._batches[start : start + len(cells)]).to(device)
                    cells = replace(cells, categories={**cells.categories, BATCH: codes})
                hidden.append(self.kept(z, cells))
                start += len(cells)
        return self.expected(torch.cat(hidden))

    def kept(self, z: Tensor, cells: Minibatch) -> Tensor:
        """What is kept of drawn cells, (cells, any width)."""
        return self.model.module.decoder(z, cells)

    def expected(self, kept: Tensor) -> ExpectedShares:
        """What is compared, from what was kept."""
        return ExpectedShares(
            self.model.module.decoder.fraction_logits, kept, self.model.schema.size_factor_key is None
        )


class ExpectedShares:
    """Each draw's expected shares, gene block by gene block."""

    def __init__(self, last_layer, hidden: Tensor, is_softmax: bool):
        self._weight, self._bias = last_layer.weight.detach(), last_layer.bias
        self._hidden = hidden[:, : self._weight.shape[1]]
        self._is_softmax = is_softmax
        self.n_genes = len(self._bias)
        if is_softmax:
            with torch.no_grad():
                parts = [self._logits(genes).logsumexp(-1) for genes in blocks(self.n_genes)]
                self._log_total = torch.stack(parts).logsumexp(0).unsqueeze(1)

    def _logits(self, genes: slice) -> Tensor:
        return F.linear(self._hidden, self._weight[genes], self._bias[genes])

    def of(self, genes: slice) -> np.ndarray:
        """float64 (draws, genes of the block)."""
        with torch.no_grad():
            logits = self._logits(genes)
            shares = (logits - self._log_total).exp() if self._is_softmax else F.softplus(logits)
        return shares.cpu().numpy().astype(np.float64)


def blocks(n_genes: int) -> list[slice]:
    return [slice(start, start + GENES_AT_ONCE) for start in range(0, n_genes, GENES_AT_ONCE)]


@dataclass(frozen=True)
class Pair:
    """The draws of two groups, which belong together one by one."""

    first: ExpectedShares
    second: ExpectedShares

    def __iter__(self) -> Iterator[tuple[slice, np.ndarray, np.ndarray]]:
        for genes in blocks(self.first.n_genes):
            yield genes, self.first.of(genes), self.second.of(genes)


# ---- tests -----------------------------------------------------------------------------------------------------------


def vanilla(pair: Pair) -> pd.DataFrame:
    """P(ρ1 > ρ2) of each gene."""
    parts = []
    for _, rho1, rho2 in pair:
        p = (rho1 > rho2).mean(0)
        parts.append({"proba_m1": p, "proba_m2": 1 - p, "scale1": rho1.mean(0), "scale2": rho2.mean(0)})
    table = pd.concat([pd.DataFrame(part) for part in parts], ignore_index=True)
    table.insert(2, "bayes_factor", bayes_factor(table["proba_m1"]))
    return table


def change(
    pair: Pair,
    delta: float | None,
    test_mode: str,
    pseudocount: float | None,
    hardly_seen: list[np.ndarray] | None,
    seed: int,
) -> pd.DataFrame:
    """P(|log fold change| is large) of each gene, and the log fold change."""
    c = pseudocount_of(pair, hardly_seen) if pseudocount is None else float(pseudocount)
    parts = []
    for _, rho1, rho2 in pair:
        lfc = fold_change(rho1, rho2, 1e-3 * c)
        parts.append(
            {
                "scale1": rho1.mean(0),
                "scale2": rho2.mean(0),
                "lfc_mean": lfc.mean(0),
                "lfc_median": np.median(lfc, axis=0),
                "lfc_std": lfc.std(0),
                "lfc_min": lfc.min(0),
                "lfc_max": lfc.max(0),
            }
        )
    statistics = pd.concat([pd.DataFrame(part) for part in parts], ignore_index=True)
    delta = delta_of(statistics["lfc_mean"].to_numpy(), seed) if delta is None else float(delta)
    p_de = []
    for _, rho1, rho2 in pair:
        lfc = fold_change(rho1, rho2, c)
        up, down = (lfc >= delta).mean(0), (lfc < -delta).mean(0)
        p_de.append(np.maximum(up, down) if test_mode == "three" else up + down)
    p_de = np.concatenate(p_de)
    table = pd.DataFrame({"proba_de": p_de, "proba_not_de": 1 - p_de, "bayes_factor": bayes_factor(p_de)})
    table = pd.concat([table, statistics], axis=1)
    table.insert(5, "pseudocounts", c)
    table.insert(6, "delta", delta)
    return table


def fold_change(rho1: np.ndarray, rho2: np.ndarray, pseudocount: float) -> np.ndarray:
    return np.log2(rho1 + pseudocount) - np.log2(rho2 + pseudocount)


def bayes_factor(p):
    return np.log(p + EPSILON) - np.log(1 - p + EPSILON)


def pseudocount_of(pair: Pair, hardly_seen: list[np.ndarray]) -> float:
    """What a gene that is hardly seen has at most, a thousandfold below what others have."""
    largest = [np.concatenate(rho) for rho in zip(*((rho1.max(0), rho2.max(0)) for _, rho1, rho2 in pair))]
    found = [np.quantile(rho[rare], 0.9) for rho, rare in zip(largest, hardly_seen) if rare.any()]
    return max([1e-10, *(value / pair.first.n_genes for value in found)])


def delta_of(lfc: np.ndarray, seed: int) -> float:
    """What separates the genes that change from those that do not."""
    from sklearn.mixture import GaussianMixture

    if len(lfc) < 3:
        return 0.25
    outer = np.sort(GaussianMixture(3, random_state=seed % 2**32).fit(lfc[:, None]).means_[:, 0])[[0, -1]]
    return max(0.1, 0.6 * float(np.abs(outer).mean()))


def found_at(p_de: np.ndarray, target: float) -> np.ndarray:
    """Which genes to call different so that the expected share of false ones stays below `target`, (genes,)."""
    order = np.argsort(-p_de, kind="stable")
    expected = np.cumsum(1 - p_de[order]) / np.arange(1, len(order) + 1)
    found = np.zeros(len(order), dtype=bool)
    found[order] = expected <= target
    return found


# ---- raw counts ------------------------------------------------------------------------------------------------------


class RawCounts:
    """Statistics of the counts of each comparison's groups, by one pass over all cells."""

    def __init__(self, cells, wanted: list[Comparison]):
        masks = np.stack([mask for one in wanted for mask in (one.cells1, one.cells2)]).astype(np.float32)
        self._n_cells = masks.sum(1, dtype=np.float64)[:, None]
        sums = np.zeros((3, len(masks), cells.schema.n_genes))
        for minibatch in cells.in_order(DRAWS_AT_ONCE):
            counts, here = minibatch.counts.numpy(), masks[:, minibatch.rows]
            normalized = counts * (1e4 / minibatch.library_size.numpy())
            for total, values in zip(sums, (counts, (counts != 0).astype(np.float32), normalized)):
                total += here @ values
        self._means = sums / self._n_cells

    def means(self, comparison: int, side: int) -> np.ndarray:
        """Counts per cell, (genes,)."""
        return self._means[0, 2 * comparison + side]

    def statistics(self, comparison: int) -> dict[str, np.ndarray]:
        names, row = ("raw_mean", "non_zeros_proportion", "raw_normalized_mean"), 2 * comparison
        return {f"{name}{side + 1}": self._means[i, row + side] for i, name in enumerate(names) for side in (0, 1)}
