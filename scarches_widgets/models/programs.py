"""What a model of gene programs says of them: which are active, where they point, and what tells groups apart.

The activity of a program is read in one of two ways, both linear in the latent z, so that Bayes factors are exact:

    genes      mean over the program's genes of loadings @ z, less the mean over all genes: by how much the model raises
               the logarithm of their shares, whichever programs it does it by
    latents    z_t itself, turned so that more means more of the program's genes

Gene sets overlap and contain one another (all genes of Reactome's interferon α/β signalling are in its interferon
signalling), so what happens to a set's genes may be told by another set's latent: z_t is what the program adds to all
others, as a coefficient in a regression is. The group lasso adds to it: two sets that tell one story cost
‖a‖ + ‖b‖, the larger of them alone ‖a + b‖ at most. Hence "genes" is the default; scArches has "latents" only.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Literal

import numpy as np
import pandas as pd
from scipy.special import ndtr

from ..data.names import DataError, did_you_mean, listed
from ..data.schema import as_text
from ..nn.noise import seed_of

SMALLEST = 1e-12  # probability, in a Bayes factor
LEAST_CONFIDENCE = 0.2  # in a direction: one sign has less than 60 % of the loadings' size
MOST_TELLING = 0.9  # how often the batch may tell two groups apart before their contrast is called confounded
Reading = Literal["genes", "latents"]


class ProgramVerbs:
    """Verbs of a model whose module has `programs` (a `nn.programs.ProgramLayer`), and whose config has `terms`,
    `new_terms` and `gene_likelihood`."""

    @property
    def terms(self) -> tuple[str, ...]:
        """Names of the programs, in the order of the latent's dimensions."""
        return (*self.config.terms, *self.config.new_terms)

    def update_terms(self, names: Mapping[str, str]) -> None:
        """Rename programs: `names` maps old names to new ones.

        Raises
        ------
        DataError
            If there is no program of an old name, or two would be called alike.
        """
        for old in names:
            self._term(old)
        terms = tuple(str(names.get(term, term)) for term in self.terms)
        if len(set(terms)) < len(terms):
            twice = sorted({term for term in terms if terms.count(term) > 1})
            raise DataError(f"Two programs would be called '{listed(twice)}'. Choose another name.")
        n_first = len(self.config.terms)
        self.config = replace(self.config, terms=terms[:n_first], new_terms=terms[n_first:])

    def _term(self, term: str) -> int:
        if term not in self.terms:
            raise DataError(f"There is no program '{term}' among {len(self.terms)}.{did_you_mean(term, self.terms)}")
        return self.terms.index(term)

    def _loadings(self) -> np.ndarray:
        return self.module.programs.loadings().detach().cpu().numpy()

    def nonzero_terms(self) -> np.ndarray:
        """Which programs the group lasso has left active, bool (terms,)."""
        return self._loadings().any(axis=0)

    def term_genes(self, term: str) -> pd.DataFrame:
        """Genes of one program: `genes`, `weights` (loadings, on the logits of a gene's share), `in_mask`; the largest
        first, those of zero left out."""
        column = self._term(term)
        table = pd.DataFrame(
            {
                "genes": list(self.schema.genes),
                "weights": self._loadings()[:, column],
                "in_mask": self._mask()[:, column],
            }
        )
        table = table[table["weights"] != 0]
        return table.iloc[(-table["weights"].abs()).argsort(kind="stable")].reset_index(drop=True)

    def mask_genes(self) -> dict[str, list[str]]:
        """Genes that each program is annotated with."""
        mask, genes = self._mask(), np.array(self.schema.genes, dtype=object)
        return {term: genes[mask[:, column]].tolist() for column, term in enumerate(self.terms)}

    def latent_directions(self, method: Literal["sum", "counts"] = "sum") -> pd.DataFrame:
        """Which way each program's activity points: a latent dimension's sign is arbitrary, its loadings' is not.

        Parameters
        ----------
        method
            "sum": by the sign of the sum of the loadings; "counts": by whether most of those not zero are positive.

        Returns
        -------
        DataFrame, one row per term: `direction`, 1 if a larger latent means more of the genes, −1 if less, 0 if
        neither; `confidence`, 0 to 1: of the loadings' total size, or of
        their number, the share by which one sign outweighs the other.
        """
        loadings = self._loadings()
        if method == "sum":
            surplus, total = loadings.sum(0), np.abs(loadings).sum(0)
        elif method == "counts":
            surplus, total = np.sign(loadings).sum(0), np.abs(np.sign(loadings)).sum(0)
        else:
            raise ValueError(f"method='{method}' is neither 'sum' nor 'counts'.")
        confidence = np.abs(surplus) / np.maximum(total, np.finfo(np.float32).tiny)
        index = pd.Index(self.terms, name="term")
        return pd.DataFrame({"direction": np.sign(surplus).astype(int), "confidence": confidence}, index=index)

    def get_gene_program_scores(self, adata=None, *, of: Reading = "genes", batch_size: int = 256) -> pd.DataFrame:
        """Activity of each program in each cell, at the posterior mean; more means more of its genes.

        A model that was not trained is trained now, with the defaults, and a warning.

        Parameters
        ----------
        adata, batch_size
            As in `get_latent_representation`.
        of
            "genes": by how much the model raises the program's genes against all genes, mean of the natural logarithm
            (of the value, for `gene_likelihood="mse"`), batch effects left out; "latents": the program's latent,
            in standard deviations of its prior, turned by `latent_directions`. A program that may have all genes, as
            surgery adds them, is read by its latent in both.

        Returns
        -------
        DataFrame, float32, cells × terms; 0 for programs that are switched off.
        """
        if not self.is_trained and not self._surgeries:
            warnings.warn(
                "This model has not been trained, so it is trained now, with the defaults. Call model.train() first to "
                "choose how.",
                stacklevel=2,
            )
            self.train(progress=False)
        adata = self._adata_or_own(adata)
        reading = self._reading(of)
        self._warn_of_directions(of)
        z = self.get_latent_representation(adata, batch_size=batch_size)
        scores = z @ reading.T.astype(np.float32) * self.nonzero_terms()
        return pd.DataFrame(scores, index=adata.obs_names, columns=pd.Index(self.terms, name="term"))

    def _reading(self, of: Reading, use_directions: bool = True) -> np.ndarray:
        """Activities as a matrix for latents, float64 (terms, terms)."""
        if of not in ("genes", "latents"):
            raise ValueError(f"of='{of}' is neither 'genes' nor 'latents'.")
        turned = np.diag(self.latent_directions()["direction"].to_numpy(np.float64))
        if of == "latents":
            return turned if use_directions else np.eye(len(turned))
        loadings, mask = self._loadings().astype(np.float64), self._mask().astype(np.float64)
        raised = mask.T @ loadings / mask.sum(0)[:, None]
        if self.config.gene_likelihood != "mse":  # shares: logits say something against one another only
            raised -= loadings.mean(0)
        return np.where(self._takes_all_genes()[:, None], turned, raised)

    def _mask(self) -> np.ndarray:
        """Which genes each program is annotated with, bool (genes, terms)."""
        return self.module.programs.annotations().cpu().numpy() > 0

    def _takes_all_genes(self) -> np.ndarray:
        """Which programs are annotated with every gene, bool (terms,)."""
        return self._mask().all(0)

    def _warn_of_directions(self, of: Reading) -> None:
        turned = np.ones(len(self.terms), bool) if of == "latents" else self._takes_all_genes()
        confidence = self.latent_directions()["confidence"]
        unclear = confidence[turned & self.nonzero_terms() & (confidence < LEAST_CONFIDENCE)].sort_values()
        if len(unclear):
            warnings.warn(
                f"{len(unclear)} of {turned.sum()} programs have loadings of both signs in near equal parts "
                f"({listed(unclear.index)}), so which way their scores point is unclear. Look at them in "
                "model.latent_directions() (confidence) and model.term_genes(name)"
                + (", or read of='genes', which has a direction for each." if of == "latents" else "."),
                stacklevel=3,
            )

    def latent_enrich(
        self,
        groups: str | Mapping[str, Sequence],
        comparison: str | Sequence[str] = "rest",
        *,
        of: Reading = "genes",
        adata=None,
        n_samples: int = 5000,
        use_directions: bool = True,
        seed: int = 0,
        batch_size: int = 256,
    ) -> pd.DataFrame:
        """Programs whose activity differs between groups of cells, by Bayes factors.

        Pairs of cells are drawn, one from each side; the probability that the first one's program is more active comes
        from both posteriors.

        Parameters
        ----------
        groups
            Column of `obs`; or a dict of groups, each a mask, positions or names of its cells.
        comparison
            "rest": each group against all other cells; or the name, or names, of the groups to compare all others to.
        of
            What is compared; see `get_gene_program_scores`.
        adata, batch_size
            As in `get_latent_representation`.
        n_samples
            Pairs drawn for each group.
        use_directions
            Whether latents are turned so that more means more of the program's genes.
        seed
            Of the pairs.

        Returns
        -------
        DataFrame, one row per group and term, those of the largest factors first within a group: `group`, `term`,
        `prob_up` (that a cell of the group has more of it, 0 to 1), `bayes_factor` (log odds of it; beyond ±2.3 the
        odds are 10 to 1), `mean_shift` (difference of the mean activities; of "genes", a log fold change). A program
        that is switched off has 0.5, 0 and 0.

        Warns
        -----
        UserWarning
            If the model's batches tell the groups apart: then their contrast was corrected for as a batch effect.

        Raises
        ------
        DataError
            If a column or group does not exist, or is empty.

        References
        ----------
        Lotfollahi et al. 2023, doi:10.1038/s41556-022-01072-x.
        """
        adata = self._adata_or_own(adata)
        masks = _masks(adata, groups)
        others = _others(masks, comparison)
        reading = self._reading(of, use_directions)
        mean, variance = self.get_latent_representation(adata, return_dist=True, batch_size=batch_size)
        mean, variance = mean.astype(np.float64), variance.astype(np.float64)
        is_active, tables = self.nonzero_terms(), []
        for number, (name, there) in enumerate(others.items()):
            rng = np.random.default_rng(seed_of(seed, "inference", number))
            here = masks[name]
            self._warn_if_confounded(adata, name, here, there)
            first, second = (rng.choice(np.flatnonzero(side), n_samples) for side in (here, there))
            spread = np.sqrt((variance[first] + variance[second]) @ np.square(reading).T)
            apart = (mean[first] - mean[second]) @ reading.T
            prob_up = np.where(is_active, ndtr(apart / np.maximum(spread, SMALLEST)).mean(0), 0.5)
            factor = np.log(prob_up + SMALLEST) - np.log(1 - prob_up + SMALLEST)
            shift = np.where(is_active, reading @ (mean[here].mean(0) - mean[there].mean(0)), 0.0)
            table = {"group": name, "term": self.terms, "prob_up": prob_up, "bayes_factor": factor, "mean_shift": shift}
            tables.append(pd.DataFrame(table).iloc[np.argsort(-np.abs(factor), kind="stable")])
        return pd.concat(tables, ignore_index=True)

    def _warn_if_confounded(self, adata, name: str, here: np.ndarray, there: np.ndarray) -> None:
        key = self.schema.batch_key
        if key is None:
            return
        batches = pd.Series(as_text(adata.obs[key]))
        shares = [batches[side].value_counts(normalize=True) for side in (here, there)]
        told = float(pd.concat(shares, axis=1).max(axis=1).sum()) / 2  # of cells whose side the batch would guess
        if told < MOST_TELLING:
            return
        warnings.warn(
            f"The batches of '{key}' tell '{name}' from the cells it is compared to ({told:.0%} of cells, both sides "
            "weighed alike), so this contrast cannot be read from this model: what tells them apart is corrected for "
            "as a batch effect. Train a joint model whose batch_key is not the contrast (a donor or replicate with "
            "cells on both sides, or none), or compare a gene-set score of the counts (sc.tl.score_genes).",
            stacklevel=3,
        )


def _masks(adata, groups: str | Mapping[str, Sequence]) -> dict[str, np.ndarray]:
    """Which cells each group has, bool (cells,)."""
    if isinstance(groups, str):
        if groups not in adata.obs:
            near = did_you_mean(groups, adata.obs.columns)
            raise DataError(f"obs has no column '{groups}' to take groups from.{near}")
        names = as_text(adata.obs[groups])
        return {name: names == name for name in sorted({name for name in names if name == name})}
    masks = {}
    for name, cells in groups.items():
        cells, mask = np.asarray(cells), np.zeros(adata.n_obs, dtype=bool)
        if not cells.size:
            raise DataError(f"Group '{name}' has no cells.")
        if cells.dtype == bool and len(cells) != adata.n_obs:
            raise DataError(f"The mask of group '{name}' has {len(cells)} entries for {adata.n_obs} cells.")
        if cells.dtype.kind in "OUS":
            names, cells = cells, adata.obs_names.get_indexer(cells)
            if (cells < 0).any():
                raise DataError(f"Group '{name}' names cells that are not there ({listed(names[cells < 0])}).")
        mask[cells] = True
        if not mask.any():
            raise DataError(f"Group '{name}' has no cells.")
        masks[str(name)] = mask
    return masks


def _others(masks: dict[str, np.ndarray], comparison: str | Sequence[str]) -> dict[str, np.ndarray]:
    """What each group is compared to; groups that are themselves the comparison are left out."""
    if isinstance(comparison, str) and comparison == "rest" and "rest" not in masks:
        others = {name: ~mask for name, mask in masks.items()}
    else:
        names = [comparison] if isinstance(comparison, str) else list(comparison)
        for name in names:
            if name not in masks:
                raise DataError(
                    f"comparison='{name}' is neither 'rest' nor a group.{did_you_mean(name, masks)} The groups: "
                    f"{listed(masks, 20)}."
                )
        there = np.any([masks[name] for name in names], axis=0)
        others = {name: there for name in masks if name not in names}
    for name, there in others.items():
        if not there.any():
            raise DataError(f"Group '{name}' has all cells, so there are no others to compare it to.")
    if not others:
        raise DataError(f"There is no group besides those of the comparison ({listed(masks)}).")
    return others
