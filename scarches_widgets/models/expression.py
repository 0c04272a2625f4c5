"""What models that decode counts have in common: expression, its differences, and how well counts are explained."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Literal

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from ..data.minibatches import Minibatch
from ..data.names import DataError, did_you_mean, listed
from ..data.schema import BATCH
from ..nn.expression import NOT_OF_COUNTS
from .differential import Selection, compared

Batches = str | Sequence[str] | None


class ExpressionVerbs:
    """Verbs of a model whose module has `encode(cells)`, a `decoder` (an `ExpressionDecoder`) and a `library` (a
    `LibrarySize`, or None)."""

    @property
    def expects(self) -> str:
        """The kind of values this model takes: "counts", "normalized" or "any"."""
        return {"normal": "any", "mse": "normalized"}.get(self.config.gene_likelihood, "counts")

    def _count_in(self, adata, new_levels: Mapping[str, int]) -> None:
        if self.module.library is None or not new_levels.get(BATCH):
            return
        sizes, codes = [], []
        for cells in self._cells(adata).in_order(256):
            sizes.append(cells.library_size.squeeze(1).double().log().numpy())
            codes.append(cells.batch.numpy())
        self.module.library.prior.count(np.concatenate(sizes), np.concatenate(codes))

    # Expression

    def get_normalized_expression(
        self,
        adata=None,
        *,
        transform_batch: Batches = None,
        library_size: float | str = 1.0,
        gene_list: Sequence[str] | None = None,
        n_samples: int | None = None,
        return_mean: bool = True,
        seed: int = 0,
        batch_size: int = 256,
    ) -> pd.DataFrame | np.ndarray:
        """Expression as the decoder sees it, without the noise of counting.

        Parameters
        ----------
        adata
            Cells; None for the model's own.
        transform_batch
            Name of the batch as of which all cells are decoded, or several names, whose mean is taken; None: each
            cell's own. The encoder sees the cell's own in any case.
        library_size
            What each cell's values sum to over all genes; "latent" for its own total count (or the inferred one).
        gene_list
            Genes to return; None for all.
        n_samples
            Draws from each cell's posterior; None: its mean is decoded.
        return_mean
            Whether to average over the draws.
        seed
            Of the draws, which also depend on `batch_size`.
        batch_size
            Cells at a time.

        Returns
        -------
        DataFrame, cells × genes; or without `return_mean`, an array (n_samples, cells, genes).
        """
        columns = self._positions(gene_list)
        batches = self._batch_codes(transform_batch)
        if n_samples is None and not return_mean:
            raise ValueError("return_mean=False returns each draw, and there are none. Give n_samples.")

        def normalized(cells: Minibatch) -> Tensor:
            posterior, cells = self.module.encode(cells), self._sized(cells)
            draws = [self._decoded(posterior.rsample(cells.noise), cells, batches, library_size)[:, columns]]
            for _ in range(1, n_samples or 1):
                draws.append(self._decoded(posterior.rsample(cells.noise), cells, batches, library_size)[:, columns])
            return sum(draws) / len(draws) if return_mean else torch.stack(draws, dim=1)

        adata = self._adata_or_own(adata)
        values = self._per_cell(adata, normalized, batch_size, None if n_samples is None else seed)
        if not return_mean:
            return values.transpose(1, 0, 2)
        return pd.DataFrame(values, index=adata.obs_names, columns=pd.Index(self.schema.genes)[columns])

    def _decoded(self, z: Tensor, cells: Minibatch, batches: list[int], library_size: float | str) -> Tensor:
        """(cells, genes), the mean over `batches` (none: each cell's own)."""
        decoder, values = self.module.decoder, []
        for code in batches or [None]:
            there = cells if code is None else _in_batch(cells, torch.full_like(cells.batch, code))
            hidden = decoder(z, there)
            of_counts = self.config.gene_likelihood not in NOT_OF_COUNTS
            if not of_counts or cells.size_factor is not None or library_size == "latent":
                values.append(decoder.expected_counts(hidden, there))
            else:
                values.append(library_size * decoder.expected_fractions(hidden))
        return sum(values) / len(values)

    def _sized(self, cells: Minibatch) -> Minibatch:
        """The cells with their inferred library sizes, if this model infers any."""
        return cells if self.module.library is None else self.module.library(cells)[0]

    def _batch_codes(self, transform_batch: Batches) -> list[int]:
        if transform_batch is None:
            return []
        names = [transform_batch] if isinstance(transform_batch, str) else [str(name) for name in transform_batch]
        codes = pd.Index(self.schema.batches).get_indexer(names)
        if not names or (codes < 0).any():
            unknown = [name for name, code in zip(names, codes) if code < 0]
            raise DataError(
                f"transform_batch names no batch of the model ({listed(unknown) or 'empty'})."
                f"{did_you_mean(unknown[0], self.schema.batches) if unknown else ''} It knows: "
                f"{listed(self.schema.batches, 20)}."
            )
        return codes.tolist()

    def _positions(self, gene_list) -> np.ndarray:
        if gene_list is None:
            return np.arange(self.schema.n_genes)
        return self._known_genes(gene_list)

    def get_latent_library_size(self, adata=None, *, batch_size: int = 256) -> np.ndarray:
        """Each cell's library size, float32 (cells, 1): its total count, or the median of the inferred one."""
        return self._per_cell(adata, lambda cells: self._sized(cells).library_size, batch_size)

    # The distribution of counts

    def get_likelihood_parameters(self, adata=None, *, batch_size: int = 256) -> dict[str, np.ndarray]:
        """Parameters of each count's distribution at the posterior mean, each (cells, genes).

        Returns
        -------
        `mean` of the counts before zero inflation; `inverse_dispersion` (variance = mean + mean² / it; none for a
        Poisson and for "mse"); `zero_inflation`, the probability of an additional zero (zinb only); `variance` (normal
        only).
        """
        names: list[str] = []

        def parameters(cells: Minibatch) -> Tensor:
            found = self._parameters(self.module.encode(cells).mean, self._sized(cells))
            names[:] = found
            return torch.stack(list(found.values()), dim=1)

        values = self._per_cell(adata, parameters, batch_size)
        return {name: values[:, i] for i, name in enumerate(names)}

    def _parameters(self, z: Tensor, cells: Minibatch) -> dict[str, Tensor]:
        decoder, likelihood = self.module.decoder, self.config.gene_likelihood
        hidden = decoder(z, cells)
        parameters = {"mean": decoder.expected_counts(hidden, cells)}
        if likelihood not in ("poisson", "mse"):
            name = "variance" if likelihood == "normal" else "inverse_dispersion"
            parameters[name] = decoder.log_inverse_dispersion(cells).exp().expand_as(parameters["mean"])
        if likelihood == "zinb":
            parameters["zero_inflation"] = torch.sigmoid(decoder.zero_inflation_logits(hidden))
        return parameters

    def posterior_predictive_sample(
        self,
        adata=None,
        *,
        n_samples: int = 1,
        gene_list: Sequence[str] | None = None,
        seed: int = 0,
        batch_size: int = 256,
    ) -> np.ndarray:
        """Counts as the model would draw them for these cells: a latent, then counts.

        Parameters
        ----------
        adata, gene_list, batch_size
            As in `get_normalized_expression`.
        n_samples
            Draws per cell.
        seed
            Of the draws, which also depend on `batch_size`.

        Returns
        -------
        float32 (cells, genes), or (n_samples, cells, genes) if there are several.
        """
        if self.config.gene_likelihood == "mse":
            raise ValueError(
                "gene_likelihood='mse' fits expected values and no distribution, so there is nothing to draw from. "
                "Use get_normalized_expression, or a model of counts ('nb', 'zinb')."
            )
        columns, rng = self._positions(gene_list), np.random.default_rng(seed)

        def drawn(cells: Minibatch) -> Tensor:
            posterior, cells = self.module.encode(cells), self._sized(cells)
            draws = [self._parameters(posterior.rsample(cells.noise), cells) for _ in range(n_samples)]
            counts = [_counts(one, columns, rng) for one in draws]
            return torch.from_numpy(np.stack(counts, axis=1).astype(np.float32))

        values = self._per_cell(adata, drawn, batch_size, seed).transpose(1, 0, 2)
        return values[0] if n_samples == 1 else values

    # Differences between groups of cells

    def differential_expression(
        self,
        adata=None,
        *,
        groupby: str | None = None,
        group1: str | Sequence[str] | None = None,
        group2: str | None = None,
        idx1: Selection = None,
        idx2: Selection = None,
        mode: Literal["change", "vanilla"] = "change",
        delta: float | None = 0.25,
        test_mode: Literal["three", "two"] = "three",
        pseudocount: float | None = None,
        batch_correction: bool = False,
        n_samples: int = 5000,
        fdr_target: float = 0.05,
        all_stats: bool = True,
        seed: int = 0,
        on_progress: Callable[[int, int], None] | None = None,
    ) -> pd.DataFrame:
        """Genes whose share of the counts differs between two groups of cells, by the model's posterior.

        Pairs of cells are drawn, one from each group, with a draw of each one's latent; a gene is compared by its
        expected shares ρ1 and ρ2 of the counts, log fold change log2(ρ1 + c) − log2(ρ2 + c), over the pairs.

        Parameters
        ----------
        adata
            Cells; None for the model's own.
        groupby, group1, group2
            Column of `obs`, and which of its groups to compare. `group1` None: each group in turn; several: each of
            them. `group2` None: all cells that are not in group 1.
        idx1, idx2
            The groups by themselves instead: a mask, positions, or a query on `obs` such as "cell_type == 'B'".
            `idx2` None: all other cells.
        mode
            "change": how probable is it that the log fold change is large? "vanilla": that ρ1 > ρ2?
        delta
            The log2 fold change that counts as large; None: chosen from the genes' own (see `differential`).
        test_mode
            "three": the larger of P(up) and P(down); "two": their sum.
        pseudocount
            c; None: from genes that are hardly seen (see `differential`).
        batch_correction
            Whether both cells of a pair are decoded as of the same batch, all batches in turn; without, each as of
            its own, so that groups from different batches differ by these, too.
        n_samples
            Pairs of cells.
        fdr_target
            Expected share of false discoveries among the genes marked as `is_de_fdr_…`.
        all_stats
            Whether to add statistics of the raw counts, for which all cells are read.
        seed
            Of the draws.
        on_progress
            Called with the number of comparisons done and their total, after each.

        Returns
        -------
        DataFrame, one row per gene (and comparison), the most different ones first.
        "change": `proba_de`, `proba_not_de`, `bayes_factor`, `scale1`, `scale2` (mean shares), `pseudocounts`,
        `delta`, `lfc_mean`, `lfc_median`, `lfc_std`, `lfc_min`, `lfc_max`, `is_de_fdr_…`. "vanilla": `proba_m1`,
        `proba_m2`, `bayes_factor`, `scale1`, `scale2`. Then `raw_mean…`, `non_zeros_proportion…` and
        `raw_normalized_mean…` (per 10,000 counts) of each group, `comparison`, `group1`, `group2`.

        Raises
        ------
        DataError
            If a group does not exist or is empty.
        ValueError
            If the options contradict each other, or the model's values are no counts.

        References
        ----------
        Lopez et al. 2018, doi:10.1038/s41592-018-0229-2 (vanilla). Boyeau et al. 2019, doi:10.1101/794289 (change).
        """
        adata = self._adata_or_own(adata)
        return compared(
            self,
            adata,
            groups={"groupby": groupby, "group1": group1, "group2": group2, "idx1": idx1, "idx2": idx2},
            mode=mode,
            delta=delta,
            test_mode=test_mode,
            pseudocount=pseudocount,
            batch_correction=batch_correction,
            n_samples=n_samples,
            fdr_target=fdr_target,
            all_stats=all_stats,
            seed=seed,
            on_progress=on_progress,
        )

    # How well counts are explained

    def get_elbo(self, adata=None, *, seed: int = 0, batch_size: int = 256) -> float:
        """Mean evidence lower bound, in nats per cell; higher is better. One posterior sample per cell."""
        terms = self._loss_terms(adata, seed, batch_size)
        return -float(sum(term for name, term in terms.items() if name.startswith(("reconstruction", "kl_"))))

    def get_reconstruction_error(self, adata=None, *, seed: int = 0, batch_size: int = 256) -> float:
        """Mean of −log p(counts | z), in nats per cell, at one posterior sample per cell; lower is better."""
        return float(self._loss_terms(adata, seed, batch_size)["reconstruction"])


def _in_batch(cells: Minibatch, codes: Tensor) -> Minibatch:
    """The cells as if they were of these batches."""
    return replace(cells, categories={**cells.categories, BATCH: codes})


def _counts(parameters: dict[str, Tensor], columns: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A draw of each count, (cells, genes)."""
    values = {name: value[:, columns].double().cpu().numpy() for name, value in parameters.items()}
    mean = values["mean"]
    if "variance" in values:
        return rng.normal(mean, np.sqrt(values["variance"]))
    if "inverse_dispersion" in values:
        theta = values["inverse_dispersion"]
        mean = np.minimum(rng.gamma(theta, mean / theta), 1e8)
    counts = rng.poisson(mean)
    if "zero_inflation" in values:
        counts[rng.random(counts.shape) < values["zero_inflation"]] = 0
    return counts
