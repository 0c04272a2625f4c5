"""expiMap: an autoencoder whose latent dimensions are known gene programs. Lotfollahi et al. 2023,
doi:10.1038/s41556-022-01072-x.

    z_t ~ Normal(0, 1)                                     activity of program t in the cell
    fractions = softmax(loadings @ z + row of the batch)   each gene's share of the cell's counts
    counts ~ NegativeBinomial(library_size · fractions, inverse_dispersion of gene and batch)

A loading is zero where the gene is not in the program (hard mask), or drawn to zero there by an L1 penalty (soft mask).
The loss of a cell, in nats:

    reconstruction    −log p(counts | z, batch), or the squared error of log-normalised values
    kl_latent         KL(q(z | counts, batch) ‖ Normal(0, I))                  weighted by kl_weight

and after each step, by proximal operators (`nn.programs`), group_lasso_weight · Σ_t ω_t ‖loadings of t‖₂, which
switches whole programs off, and l1_weight · Σ |loading outside the mask|. These two stand in no curve.

Defaults are those of scArches 0.6.1. Differs from scArches: batches enter through tables that surgery extends (see
`nn.layers`), in the order of their names, and the reference's rows stay as they are, weight decay or not; a squared
error ends in a ReLU as trVAE's; a soft mask starts from the hard one; the latent is the posterior mean, and Bayes
factors come from each cell's posterior, computed once. A query learns its batches and no programs of its own.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Annotated, Any, Literal

import numpy as np
import torch
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass
from torch import nn

from ..data.gene_sets import Source, match_gene_sets
from ..data.minibatches import Minibatch
from ..data.names import DataError, did_you_mean, listed
from ..data.schema import BATCH, DataSchema
from ..nn.counts_encoder import CountsEncoder
from ..nn.divergences import Normal, kl_to_standard_normal
from ..nn.layers import TORCH_BATCH_NORM
from ..nn.loss import Loss
from ..nn.programs import ProgramDecoder
from ..training.cells import TrainingCells
from ..training.plan import NotNegative, TrainingPlan
from ..training.scarches import ScArchesPlan
from .base import Model, Widths
from .expression import ExpressionVerbs
from .freezing import FreezingChoice
from .programs import ProgramVerbs

logger = logging.getLogger(__name__)
PUBLISHED_KL_EPOCHS = 130


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class EXPIMAPConfig:
    hidden_layer_sizes: Widths = (256, 256)  # width of each hidden layer of the encoder
    dropout_rate: Annotated[float, Field(ge=0, lt=1)] = 0.05  # in the encoder
    gene_likelihood: Literal["nb", "mse"] = "nb"  # mse: squared error, of log-normalised values
    soft_mask: bool = False  # whether genes may join programs that they are not annotated with
    use_batch_norm: bool = False
    use_layer_norm: bool = True
    terms: tuple[str, ...] = ()  # names of the programs, which the model takes from its gene sets

    @property
    def n_latent(self) -> int:
        return len(self.terms)


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class EXPIMAPPlan(ScArchesPlan):
    kl_weight: NotNegative = 0.35
    kl_warmup_epochs: Annotated[int, Field(ge=0)] | None = None  # None: 90 % of the steps for auto, 130 as published
    group_lasso_weight: NotNegative = 0.0  # the larger, the more programs are switched off; 0.7 for some hundreds
    group_lasso_term_weights: tuple[NotNegative, ...] | None = None  # one per program; None: 1 for each
    l1_weight: NotNegative = 0.0  # of loadings outside a soft mask
    l1_warmup_epochs: Annotated[int, Field(ge=1)] | None = None  # epochs in which that weight rises; None: at once

    def resolved(self, n_train: int, n_validation: int = 0, of_query: bool = False) -> TrainingPlan:
        plan = self
        if self.schedule == "published" and self.kl_warmup_epochs is None and self.kl_warmup_steps is None:
            plan = replace(self, kl_warmup_epochs=min(PUBLISHED_KL_EPOCHS, self.max_epochs or PUBLISHED_KL_EPOCHS))
        return ScArchesPlan.resolved(plan, n_train, n_validation, of_query)

    def step_weights(self, epoch: int) -> dict[str, Any]:
        lasso: Any = self.group_lasso_weight
        if self.group_lasso_term_weights is not None:
            lasso = [lasso * weight for weight in self.group_lasso_term_weights]
        share = 1.0 if self.l1_warmup_epochs is None else min(1.0, max(epoch, 1) / self.l1_warmup_epochs)
        return {"lasso": lasso, "l1": self.l1_weight * share}


class EXPIMAPModule(nn.Module):
    library = None  # a cell's library size is its total count

    def __init__(self, schema: DataSchema, config: EXPIMAPConfig):
        super().__init__()
        self.encoder = CountsEncoder(
            schema.n_genes,
            config.n_latent,
            n_hidden=config.hidden_layer_sizes,
            n_continuous=len(schema.continuous_covariates),
            levels=schema.n_levels,
            encode_covariates=True,
            log_counts=config.gene_likelihood != "mse",
            dropout_rate=config.dropout_rate,
            batch_norm=config.use_batch_norm,
            layer_norm=config.use_layer_norm,
            **TORCH_BATCH_NORM,
        )
        self.decoder = ProgramDecoder(
            config.n_latent,
            schema.n_genes,
            levels=schema.n_levels,
            likelihood=config.gene_likelihood,
            soft_mask=config.soft_mask,
            dispersion_by=BATCH,
        )

    @property
    def programs(self) -> nn.Module:
        """The layer with the loadings and the mask."""
        return self.decoder.hidden

    @property
    def first_layers(self) -> list[nn.Module]:
        """Of the encoder, with its normalisation, and the decoder, which has no other."""
        return [self.encoder.hidden.linears[0], *self.encoder.hidden.batch_norms[:1], self.programs]

    def forward(self, cells: Minibatch, kl_weight: float = 1.0) -> Loss:
        return self.loss(cells, kl_weight)

    def encode(self, cells: Minibatch) -> Normal:
        """q(z | counts, batch), over (cells, terms)."""
        return self.encoder(cells)

    def loss(self, cells: Minibatch, kl_weight: float = 1.0) -> Loss:
        posterior = self.encode(cells)
        terms = {
            "reconstruction": -self.decoder.log_likelihood(posterior.rsample(cells.noise), cells).mean(),
            "kl_latent": kl_to_standard_normal(posterior).sum(-1).mean(),
        }
        return Loss(terms, weights={"kl_latent": kl_weight})

    def after_step(self, rate: float, lasso: float | Sequence[float], l1: float) -> None:
        self.programs.after_step(rate, lasso, l1)


class EXPIMAP(FreezingChoice, ProgramVerbs, ExpressionVerbs, Model):
    """expiMap: explains cells by the activities of known gene programs, corrected for batches.

    Parameters
    ----------
    adata
        Raw counts in X, or in the layer that `layer` names; for `gene_likelihood="mse"`, log-normalised values ≥ 0. Not
        modified.
    gene_sets
        The programs: a GMT file, a dict of names and genes, or "reactome" (see `data.gene_sets.read_gene_sets`). None:
        the mask in `varm[mask_key]` and its names in `uns[terms_key]`, as `sca.utils.add_annotations` writes them.
    min_genes
        Of `gene_sets`, those are used of which more than `min_genes` genes are in `adata`.
    mask_key, terms_key
        Where the mask and its names stand, if `gene_sets` is None.
    batch_key, labels_key, layer, size_factor_key
        Columns of `obs` (and a layer) to read; see `DataSchema`.
    categorical_covariate_keys
        More columns of `obs` to correct for.
    seed
        Of the initial weights.
    **config
        Fields of `EXPIMAPConfig`, also as scArches spells them.

    Raises
    ------
    DataError
        If there are no programs, or none of them fits the genes.

    References
    ----------
    Lotfollahi et al. 2023, doi:10.1038/s41556-022-01072-x.

    Examples
    --------
    >>> sca.utils.add_annotations(adata, "reactome.gmt", min_genes=12)
    >>> model = EXPIMAP(adata, batch_key="study")
    >>> model.train(group_lasso_weight=0.7)
    >>> scores = model.get_gene_program_scores()
    """

    config_class, module_class, plan_class = EXPIMAPConfig, EXPIMAPModule, EXPIMAPPlan

    def __init__(
        self,
        adata,
        *,
        gene_sets: Source | Iterable[str] | None = None,
        min_genes: int = 12,
        mask_key: str = "I",
        terms_key: str = "terms",
        **options: Any,
    ):
        if "terms" in options:
            raise TypeError("terms are the names of the gene sets: name them there (gene_sets={name: genes}).")
        if gene_sets is not None:
            mask, report = match_gene_sets(adata, gene_sets, min_genes)
            terms = report.terms
            logger.info(str(report))
        else:
            mask, terms = _annotated(adata, mask_key, terms_key)
        super().__init__(adata, terms=terms, **options)
        self.module.programs.annotate(torch.from_numpy(np.ascontiguousarray(mask, dtype=np.float32)))

    def _resolved(self, plan: EXPIMAPPlan, cells: TrainingCells) -> TrainingPlan:
        weights = plan.group_lasso_term_weights
        if weights is not None and len(weights) != len(self.terms):
            raise ValueError(
                f"group_lasso_term_weights (omega) has {len(weights)} weights for {len(self.terms)} programs. Give one "
                "for each of model.terms."
            )
        return super()._resolved(plan, cells)

    def _new_module(self, schema: DataSchema) -> nn.Module:
        if schema.continuous_covariates:
            raise DataError(
                f"EXPIMAP's decoder takes programs and categories only, not continuous covariates "
                f"({listed(schema.continuous_covariates)}). Leave them out, or cut them into categories."
            )
        return super()._new_module(schema)


def _annotated(adata, mask_key: str, terms_key: str) -> tuple[np.ndarray, list[str]]:
    """The mask (genes, terms) and its names, as `add_annotations` wrote them."""
    for where, name, there in (("varm", mask_key, adata.varm), ("uns", terms_key, adata.uns)):
        if name not in there:
            raise DataError(
                f"adata.{where} has no '{name}', so EXPIMAP has no gene programs.{did_you_mean(name, there)} Call "
                "sca.utils.add_annotations(adata, 'sets.gmt', min_genes=12) first, or pass gene_sets=… (a GMT file, a "
                "dict, or 'reactome')."
            )
    mask, terms = np.asarray(adata.varm[mask_key]), [str(term) for term in adata.uns[terms_key]]
    if mask.ndim != 2 or mask.shape[1] != len(terms):
        raise DataError(
            f"varm['{mask_key}'] is of shape {mask.shape} and uns['{terms_key}'] names {len(terms)} programs: there "
            "must be one column for each. Call sca.utils.add_annotations anew."
        )
    if not np.isin(mask, (0, 1)).all() or not mask.any(0).all():
        raise DataError(
            f"varm['{mask_key}'] must hold 0 and 1, and at least one gene for each program. Call "
            "sca.utils.add_annotations anew."
        )
    if len(set(terms)) < len(terms):
        twice = sorted({term for term in terms if terms.count(term) > 1})
        raise DataError(f"uns['{terms_key}'] names several programs alike ({listed(twice)}). Make the names unique.")
    return mask, terms
