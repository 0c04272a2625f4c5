"""Verbs of a model that decodes RNA and protein counts: expression of both, foreground, correlation, differences."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from ..data.minibatches import Cells, Minibatch
from ..data.names import DataError, did_you_mean, listed
from ..nn.divergences import Normal
from ..nn.proteins import ProteinRates
from .differential import DRAWS_AT_ONCE, Comparison, Draws, Pair, change, comparisons, found_at, vanilla
from .expression import Batches, _in_batch

PSEUDOCOUNT = 1e-5  # of proteins, besides their prior count
SUFFIX = "_protein"  # of a protein among genes
MODALITIES = ("joint", "rna", "protein")


class ProteinVerbs:
    """Of a model whose module has `proteins` (a `ProteinDecoder`), and whose schema names them."""

    def get_latent_representation(
        self,
        adata=None,
        *,
        modality: str | Sequence[str] = "joint",
        give_mean: bool = True,
        return_dist: bool = False,
        seed: int = 0,
        batch_size: int = 256,
    ) -> np.ndarray | tuple[np.ndarray, ...]:
        """Where each cell lies in latent space: the posterior mean.

        Parameters
        ----------
        adata
            Cells; None for the model's own; or a list of several. Genes, proteins and batches are matched by name;
            what is missing counts as zero.
        modality
            "joint": by RNA and proteins. "rna", "protein": by one alone, as if the cell had no counts of the other
            (RNA alone is what a batch without proteins is encoded by; of proteins alone, the encoder has seen no
            cell). A sequence such as ("rna", "protein"): one array for each.
        give_mean, return_dist, seed, batch_size
            As in `Model.get_latent_representation`.

        Returns
        -------
        float32 (cells, n_latent); or a tuple of such.

        Raises
        ------
        ValueError
            If there is no such modality.
        """
        options = {"give_mean": give_mean, "return_dist": return_dist, "seed": seed, "batch_size": batch_size}
        if not isinstance(modality, str):
            return tuple(self.get_latent_representation(adata, modality=one, **options) for one in modality)
        if modality not in MODALITIES:
            raise ValueError(
                f"modality='{modality}' is none of {listed(MODALITIES)}.{did_you_mean(modality, MODALITIES)}"
            )

        def posterior(cells: Minibatch) -> Normal:
            return self.module.encode(only(cells, modality))

        return self._latents(adata, posterior, **options)

    def get_normalized_expression(
        self,
        adata=None,
        *,
        transform_batch: Batches = None,
        library_size: float | str = 1.0,
        gene_list: Sequence[str] | None = None,
        protein_list: Sequence[str] | None = None,
        include_protein_background: bool = False,
        sample_protein_mixing: bool = False,
        scale_protein: bool = False,
        n_samples: int | None = None,
        return_mean: bool = True,
        seed: int = 0,
        batch_size: int = 256,
    ) -> tuple[pd.DataFrame, pd.DataFrame] | tuple[np.ndarray, np.ndarray]:
        """Expression of genes and proteins as the decoder sees it, without the noise of counting.

        A protein that a cell's batch lacks is imputed: decoded as of each batch that has it, and averaged.

        Parameters
        ----------
        adata, transform_batch, library_size, gene_list, n_samples, return_mean, seed, batch_size
            As in `ExpressionVerbs.get_normalized_expression`; `library_size` is the genes'.
        protein_list
            Proteins to return; None for all.
        include_protein_background
            Whether a protein's value is its whole expected count, or its foreground's part of it.
        sample_protein_mixing
            Whether a draw decides between foreground and background; else both are weighted by their probability.
        scale_protein
            Whether a cell's values, over all proteins, sum to one.

        Returns
        -------
        Genes and proteins, each a DataFrame, cells × features; or without `return_mean`, an array (n_samples, cells,
        features).
        """
        columns, proteins = self._positions(gene_list), self._protein_positions(protein_list)
        batches = self._batch_codes(transform_batch)
        if n_samples is None and not return_mean:
            raise ValueError("return_mean=False returns each draw, and there are none. Give n_samples.")
        if n_samples is None and sample_protein_mixing:
            raise ValueError("sample_protein_mixing=True draws, and there are no draws. Give n_samples.")

        def normalized(cells: Minibatch) -> Tensor:
            def of(rates: ProteinRates) -> Tensor:
                p = rates.p_foreground
                if sample_protein_mixing:
                    p = (torch.empty_like(p).uniform_(generator=cells.noise.generator) < p).to(p.dtype)
                values = rates.foreground * p + (rates.background * (1 - p) if include_protein_background else 0)
                return values / values.sum(-1, keepdim=True).clamp_min(1e-12) if scale_protein else values

            posterior, draws = self.module.encode(cells), []
            for _ in range(n_samples or 1):
                z = posterior.rsample(cells.noise)
                genes = self._decoded(z, cells, batches, library_size)[:, columns]
                draws.append(torch.cat([genes, self._of_proteins(z, cells, batches, of)[:, proteins]], dim=1))
            return sum(draws) / len(draws) if return_mean else torch.stack(draws, dim=1)

        adata = self._adata_or_own(adata)
        values = self._per_cell(adata, normalized, batch_size, None if n_samples is None else seed)
        if not return_mean:
            return tuple(np.split(values.transpose(1, 0, 2), [len(columns)], axis=2))
        names = [*np.array(self.schema.genes, dtype=object)[columns], *self._protein_names(proteins)]
        table = pd.DataFrame(values, index=adata.obs_names, columns=names)
        return table.iloc[:, : len(columns)], table.iloc[:, len(columns) :]

    def get_protein_foreground_probability(
        self,
        adata=None,
        *,
        transform_batch: Batches = None,
        protein_list: Sequence[str] | None = None,
        n_samples: int | None = None,
        return_mean: bool = True,
        seed: int = 0,
        batch_size: int = 256,
    ) -> pd.DataFrame | np.ndarray:
        """How probable it is that a protein's counts come from its foreground: that the cell expresses it.

        Parameters
        ----------
        adata, transform_batch, protein_list, n_samples, return_mean, seed, batch_size
            As in `get_normalized_expression`.

        Returns
        -------
        DataFrame, cells × proteins, 0 to 1; or without `return_mean`, an array (n_samples, cells, proteins).
        """
        proteins, batches = self._protein_positions(protein_list), self._batch_codes(transform_batch)
        if n_samples is None and not return_mean:
            raise ValueError("return_mean=False returns each draw, and there are none. Give n_samples.")

        def probability(cells: Minibatch) -> Tensor:
            posterior = self.module.encode(cells)
            draws = [
                self._of_proteins(posterior.rsample(cells.noise), cells, batches, lambda rates: rates.p_foreground)
                for _ in range(n_samples or 1)
            ]
            draws = torch.stack(draws, dim=1)[..., proteins]
            return draws.mean(1) if return_mean else draws

        adata = self._adata_or_own(adata)
        values = self._per_cell(adata, probability, batch_size, None if n_samples is None else seed)
        if not return_mean:
            return values.transpose(1, 0, 2)
        return pd.DataFrame(values, index=adata.obs_names, columns=self._protein_names(proteins))

    def _of_proteins(
        self, z: Tensor, cells: Minibatch, batches: list[int], of: Callable[[ProteinRates], Tensor]
    ) -> Tensor:
        """`of` what is decoded, (cells, proteins), the mean over `batches` (none: each cell's own)."""
        values = []
        for code in batches or [None]:
            there = cells if code is None else _in_batch(cells, torch.full_like(cells.batch, code))
            values.append(self._where_measured(z, there, of))
        return sum(values) / len(values)

    def _where_measured(self, z: Tensor, cells: Minibatch, of: Callable[[ProteinRates], Tensor]) -> Tensor:
        """The same of cells in one batch each; a protein that this lacks is the mean over the batches that have it."""
        decoder = self.module.proteins
        values, measured = of(decoder(z, cells)), decoder.measured(cells.categories)
        if measured.all():
            return values
        total, table = torch.zeros_like(values), decoder.measured.rows()
        for code in torch.nonzero(table.any(1)).ravel().tolist():
            there = _in_batch(cells, torch.full_like(cells.batch, code))
            total += of(decoder(z, there)) * table[code]
        others = total / table.sum(0).clamp_min(1)
        return torch.where((measured > 0) | (table.sum(0) == 0), values, others)

    def _protein_positions(self, protein_list: Sequence[str] | None) -> np.ndarray:
        known = self.schema.proteins
        if protein_list is None:
            return np.arange(len(known))
        names = [protein_list] if isinstance(protein_list, str) else list(protein_list)
        positions = pd.Index(known).get_indexer(names)
        if (positions < 0).any():
            unknown = [name for name, position in zip(names, positions) if position < 0]
            raise DataError(
                f"{len(unknown)} of {len(names)} proteins are not among the model's ({listed(unknown)})."
                f"{did_you_mean(unknown[0], known)}"
            )
        return positions

    def _protein_names(self, positions: np.ndarray) -> list[str]:
        return [self.schema.proteins[position] for position in positions]

    # What varies together

    def get_feature_correlation_matrix(
        self,
        adata=None,
        *,
        gene_list: Sequence[str] | None = None,
        protein_list: Sequence[str] | None = None,
        correlation_type: Literal["spearman", "pearson"] = "spearman",
        log_transform: bool = False,
        transform_batch: Batches = None,
        n_samples: int = 10,
        rna_size_factor: float = 1000.0,
        seed: int = 0,
        batch_size: int = 256,
    ) -> pd.DataFrame:
        """Correlation of genes and proteins over cells, without the noise of counting and without background.

        Of each cell, latents are drawn, then rates from their gamma distributions (a negative binomial is a Poisson of
        such a rate), for cells of one size; a protein's is zero where a draw makes it background.

        Parameters
        ----------
        adata, transform_batch, gene_list, protein_list, seed, batch_size
            As in `get_normalized_expression`. With several batches, the mean of their matrices.
        correlation_type
            "spearman" (of ranks) or "pearson".
        log_transform
            Whether to take log(rate + 1e-8) of genes and log(1 + rate) of proteins first.
        n_samples
            Draws per cell. All are held in memory: 4 bytes × cells × draws × features.
        rna_size_factor
            Sum of a cell's expected counts of genes.

        Returns
        -------
        DataFrame, features × features; the names of proteins end in "_protein".
        """
        if correlation_type not in ("spearman", "pearson"):
            near = did_you_mean(correlation_type, ("spearman", "pearson"))
            raise ValueError(f"correlation_type='{correlation_type}' is neither spearman nor pearson.{near}")
        genes, proteins = self._positions(gene_list), self._protein_positions(protein_list)
        matrices = []
        for code in self._batch_codes(transform_batch) or [None]:
            rng = np.random.default_rng(seed)

            def drawn(cells: Minibatch, code=code, rng=rng) -> Tensor:
                posterior, there = self.module.encode(cells), cells
                if code is not None:
                    there = _in_batch(cells, torch.full_like(cells.batch, code))
                rates = [
                    self._drawn_rates(posterior.rsample(cells.noise), there, rna_size_factor, genes, proteins, rng)
                    for _ in range(n_samples)
                ]
                return torch.from_numpy(np.stack(rates, axis=1))

            rates = self._per_cell(adata, drawn, batch_size, seed)
            rates = rates.reshape(-1, rates.shape[2])
            if log_transform:
                rates[:, : len(genes)] = np.log(rates[:, : len(genes)] + 1e-8)
                rates[:, len(genes) :] = np.log1p(rates[:, len(genes) :])
            if correlation_type == "spearman":
                for column in rates.T:
                    column[:] = pd.Series(column).rank()
            with np.errstate(invalid="ignore", divide="ignore"):
                matrices.append(np.corrcoef(rates, rowvar=False))
        names = [self.schema.genes[i] for i in genes] + [name + SUFFIX for name in self._protein_names(proteins)]
        return pd.DataFrame(np.mean(matrices, axis=0), index=names, columns=names)

    def _drawn_rates(self, z, cells, rna_size_factor, genes, proteins, rng: np.random.Generator) -> np.ndarray:
        """A draw of each rate, float32 (cells, genes and proteins)."""
        module = self.module
        fractions = module.decoder.expected_fractions(module.decoder(z, cells))[:, genes]
        theta = module.decoder.log_inverse_dispersion(cells)[..., genes].exp()
        of_genes = _gamma(rna_size_factor * fractions, theta, rng)
        found = self._where_measured(z, cells, lambda rates: torch.stack([rates.foreground, rates.p_foreground]))
        foreground, p = found[..., proteins]
        of_proteins = _gamma(foreground, module.proteins.log_inverse_dispersion(cells)[..., proteins].exp(), rng)
        of_proteins *= rng.random(p.shape) < p.cpu().numpy()
        return np.concatenate([of_genes, of_proteins], axis=1)

    # Differences between groups of cells

    def differential_expression(
        self,
        adata=None,
        *,
        groupby: str | None = None,
        group1: str | Sequence[str] | None = None,
        group2: str | None = None,
        idx1: Any = None,
        idx2: Any = None,
        mode: Literal["change", "vanilla"] = "change",
        delta: float | None = 0.25,
        test_mode: Literal["three", "two"] = "three",
        batch_correction: bool = False,
        n_samples: int = 5000,
        fdr_target: float = 0.05,
        all_stats: bool = True,
        seed: int = 0,
        protein_prior_count: float = 0.1,
        include_protein_background: bool = False,
        **options: Any,
    ) -> pd.DataFrame:
        """Genes and proteins that differ between two groups of cells, by the model's posterior.

        Parameters
        ----------
        adata, groupby, group1, group2, idx1, idx2, mode, delta, test_mode, batch_correction, n_samples, fdr_target
            As in `ExpressionVerbs.differential_expression`, whose other options may be given, too.
        all_stats, seed
            Likewise.
        protein_prior_count
            Added to a protein's expected count, so that nothing does not differ from next to nothing.
        include_protein_background
            Whether whole expected counts are compared, or the foreground's part of them.

        Returns
        -------
        As there, and in addition a column `modality`, "rna" or "protein". The names of proteins end in "_protein".
        False discoveries are counted over genes and proteins together.
        """
        adata = self._adata_or_own(adata)
        groups = {"groupby": groupby, "group1": group1, "group2": group2, "idx1": idx1, "idx2": idx2}
        common = {"batch_correction": batch_correction, "n_samples": n_samples, "seed": seed}
        how = {"mode": mode, "delta": delta, "test_mode": test_mode, "fdr_target": fdr_target, "all_stats": all_stats}
        of_genes = super().differential_expression(adata, **groups, **common, **how, **options)
        draws = ProteinDraws(
            self, adata, n_samples, batch_correction, seed,
            prior_count=protein_prior_count, with_background=include_protein_background,
        )  # fmt: skip
        wanted = list(comparisons(adata.obs, **groups))
        raw = _raw_statistics(draws.cells, wanted) if all_stats else [{}] * len(wanted)
        tables = []
        for i, comparison in enumerate(wanted):
            pair = Pair(
                *(draws.of(mask, 2 * i + side) for side, mask in enumerate((comparison.cells1, comparison.cells2)))
            )
            proteins = vanilla(pair) if mode == "vanilla" else change(pair, delta, test_mode, PSEUDOCOUNT, None, seed)
            name = f"{comparison.name1} vs {comparison.name2}"
            proteins = proteins.assign(**raw[i])
            proteins["comparison"], proteins["group1"], proteins["group2"] = name, comparison.name1, comparison.name2
            proteins.index = pd.Index([protein + SUFFIX for protein in self.schema.proteins])
            genes = of_genes[of_genes["comparison"] == name]
            table = pd.concat([genes.assign(modality="rna"), proteins.assign(modality="protein")])
            by = ["bayes_factor"]
            if mode == "change":
                table[f"is_de_fdr_{fdr_target}"] = found_at(table["proba_de"].to_numpy(), fdr_target)
                by = ["proba_de", "lfc_median"]
            tables.append(
                table.sort_values(by, ascending=False, kind="stable", key=np.abs if mode == "change" else None)
            )
        return pd.concat(tables)

    # How well counts are explained

    def get_reconstruction_error(self, adata=None, *, seed: int = 0, batch_size: int = 256) -> dict[str, float]:
        """Mean of −log p(counts | z) of genes (`rna`) and proteins (`protein`), in nats per cell; lower is better."""
        terms = self._loss_terms(adata, seed, batch_size)
        return {"rna": float(terms["reconstruction"]), "protein": float(terms["reconstruction_protein"])}


def only(cells: Minibatch, modality: str) -> Minibatch:
    """The cells as if they had no counts of the other modality."""
    if modality == "rna":
        return replace(cells, proteins=None)
    return replace(cells, counts=torch.zeros_like(cells.counts)) if modality == "protein" else cells


def _gamma(mean: Tensor, theta: Tensor, rng: np.random.Generator) -> np.ndarray:
    """Draws whose Poisson counts are negative binomial, float32."""
    mean, theta = (values.double().cpu().numpy() for values in (mean, theta))
    return rng.gamma(np.broadcast_to(theta, mean.shape), mean / theta).astype(np.float32)


class ProteinDraws(Draws):
    """Draws of cells, and of each one's latent, as the proteins that are expected of it."""

    def __init__(self, *arguments: Any, prior_count: float, with_background: bool):
        super().__init__(*arguments)
        self._prior_count, self._with_background = prior_count, with_background

    def kept(self, z: Tensor, cells: Minibatch) -> Tensor:
        def of(rates: ProteinRates) -> Tensor:
            p = rates.p_foreground
            return rates.foreground * p + (rates.background * (1 - p) if self._with_background else 0)

        return self.model._where_measured(z, cells, of) + self._prior_count

    def expected(self, kept: Tensor) -> ExpectedProteins:
        return ExpectedProteins(kept.cpu().numpy().astype(np.float64))


class ExpectedProteins:
    """Each draw's expected proteins, in the way of `ExpectedShares`, as one block."""

    def __init__(self, values: np.ndarray):
        self._values, self.n_genes = values, values.shape[1]

    def of(self, features: slice) -> np.ndarray:
        return self._values[:, features]


def _raw_statistics(cells: Cells, wanted: list[Comparison]) -> list[dict[str, np.ndarray]]:
    """Of the proteins' counts in each comparison's groups; NaN where there are no counts."""
    found = []
    for comparison in wanted:
        statistics = {}
        for side, mask in enumerate((comparison.cells1, comparison.cells2), start=1):
            parts = [one.proteins.numpy().copy() for one in cells.minibatches(np.flatnonzero(mask), DRAWS_AT_ONCE)
                     if one.proteins is not None]  # fmt: skip
            counts = (
                np.concatenate(parts).astype(np.float64) if parts else np.full((1, len(cells.schema.proteins)), np.nan)
            )
            statistics[f"raw_mean{side}"] = counts.mean(0)
            statistics[f"non_zeros_proportion{side}"] = np.where(np.isnan(counts), np.nan, counts > 0).mean(0)
        found.append(statistics)
    return found
