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

A query may add programs to those of its reference, annotated ones or free ones (of all genes); the reference's
latents stay the same to the bit. With use_hsic, the loss of such a query has one more term:

    hsic              dependence of the new free programs on all others (`nn.divergences.dependence`), in the
                      minibatch's draws of z                                           weighted by hsic_weight

and free_l1_weight · Σ |loading of a free program| is one more penalty of the proximal steps.

Defaults are those of scArches 0.6.1. Differs from scArches: batches enter through tables that surgery extends (see
`nn.layers`), in the order of their names, and the reference's rows stay as they are, weight decay or not; a squared
error ends in a ReLU as trVAE's; a soft mask starts from the hard one; the latent is the posterior mean, and Bayes
factors come from each cell's posterior, computed once, and are of what is said of a program's genes (see
`models.programs`); programs that a query adds start with loadings of zero, and what a former query added stays.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import count, islice
from typing import Annotated, Any, ClassVar, Literal, Self

import numpy as np
import pandas as pd
import torch
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from ..data.gene_sets import MIN_GENES, Source, match_gene_sets
from ..data.minibatches import Minibatch
from ..data.names import DataError, did_you_mean, listed
from ..data.schema import BATCH, DataSchema
from ..nn.divergences import Normal, dependence, kl_to_standard_normal
from ..nn.layers import TORCH_BATCH_NORM
from ..nn.loss import Loss
from ..nn.noise import generator_of
from ..nn.programs import PROGRAM, ProgramDecoder, ProgramEncoder
from ..nn.ranks import mean_of, together
from ..training.cells import TrainingCells
from ..training.options import respelled
from ..training.plan import NotNegative, TrainingPlan
from ..training.scarches import ScArchesPlan
from . import surgery
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
    new_terms: tuple[str, ...] = ()  # names of those that surgeries added

    @property
    def n_latent(self) -> int:
        return len(self.terms) + len(self.new_terms)

    @property
    def added(self) -> dict[str, int]:
        """What surgeries have added besides levels of variables."""
        return {PROGRAM: len(self.new_terms)} if self.new_terms else {}


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class EXPIMAPPlan(ScArchesPlan):
    spellings: ClassVar[dict[str, str]] = {"beta": "hsic_weight"}  # of scArches, where it means another thing elsewhere

    kl_weight: NotNegative = 0.35
    kl_warmup_epochs: Annotated[int, Field(ge=0)] | None = None  # None: 90 % of the steps for auto, 130 as published
    group_lasso_weight: NotNegative = 0.0  # the larger, the more programs are switched off; 0.7 for some hundreds
    group_lasso_term_weights: tuple[NotNegative, ...] | None = None  # one per program; None: 1 for each
    l1_weight: NotNegative = 0.0  # of loadings outside a soft mask
    l1_warmup_epochs: Annotated[int, Field(ge=1)] | None = None  # epochs in which that weight rises; None: at once
    hsic_weight: NotNegative = 1.0  # of the dependence between new free programs and the others
    free_l1_weight: NotNegative = 0.0  # of loadings of new free programs
    free_l1_warmup_epochs: Annotated[int, Field(ge=1)] | None = None  # as l1_warmup_epochs

    def resolved(self, n_train: int, n_validation: int = 0, of_query: bool = False) -> TrainingPlan:
        plan = self
        if self.schedule == "published" and self.kl_warmup_epochs is None and self.kl_warmup_steps is None:
            plan = replace(self, kl_warmup_epochs=min(PUBLISHED_KL_EPOCHS, self.max_epochs or PUBLISHED_KL_EPOCHS))
        return ScArchesPlan.resolved(plan, n_train, n_validation, of_query)

    def step_weights(self, epoch: int) -> dict[str, Any]:
        lasso: Any = self.group_lasso_weight
        if self.group_lasso_term_weights is not None:
            lasso = [lasso * weight for weight in self.group_lasso_term_weights]
        l1 = self.l1_weight * _share_of(epoch, self.l1_warmup_epochs)
        return {"lasso": lasso, "l1": l1, "free_l1": self.free_l1_weight * _share_of(epoch, self.free_l1_warmup_epochs)}

    def loss_weights(self, epoch: int) -> dict[str, float]:
        return {"hsic_weight": self.hsic_weight}


def _share_of(epoch: int, n_epochs: int | None) -> float:
    """Of a weight that rises over `n_epochs`."""
    return 1.0 if n_epochs is None else min(1.0, max(epoch, 1) / n_epochs)


class EXPIMAPModule(nn.Module):
    is_shared = True  # several processes may train it together
    library = None  # a cell's library size is its total count
    hsic: Literal["all at once", "one by one"] | None = None  # new free programs are kept apart from the others

    def __init__(self, schema: DataSchema, config: EXPIMAPConfig):
        super().__init__()
        self.encoder = ProgramEncoder(
            schema.n_genes,
            len(config.terms),
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
            len(config.terms),
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

    def forward(self, cells: Minibatch, kl_weight: float = 1.0, hsic_weight: float = 1.0) -> Loss:
        return self.loss(cells, kl_weight, hsic_weight)

    def encode(self, cells: Minibatch) -> Normal:
        """q(z | counts, batch), over (cells, terms)."""
        return self.encoder(cells)

    def loss(self, cells: Minibatch, kl_weight: float = 1.0, hsic_weight: float = 1.0) -> Loss:
        posterior = self.encode(cells)
        z = posterior.rsample(cells.noise)
        terms = {
            "reconstruction": mean_of(-self.decoder.log_likelihood(z, cells), cells),
            "kl_latent": mean_of(kl_to_standard_normal(posterior).sum(-1), cells),
        }
        if self.hsic is not None:
            terms["hsic"] = together(self.dependence_of_free, cells, z)
        return Loss(terms, weights={"kl_latent": kl_weight, "hsic": hsic_weight})

    def dependence_of_free(self, z: Tensor) -> Tensor:
        """Of the new free programs on the others: on all that are not, or, one by one, of each on all but itself."""
        is_free = self.programs.newest_free()
        if self.hsic == "all at once":
            return dependence(z[:, ~is_free], z[:, is_free])
        is_it = torch.eye(len(is_free), dtype=torch.bool, device=z.device)[is_free]
        return sum(dependence(z[:, ~it], z[:, it]) for it in is_it)

    def after_step(self, rate: float, lasso: float | Sequence[float], l1: float, free_l1: float) -> None:
        self.programs.after_step(rate, lasso, l1, free_l1)


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
    flags = (*FreezingChoice.flags, "use_hsic", "hsic_one_vs_all", "soft_new_mask")
    use_hsic = hsic_one_vs_all = soft_new_mask = False
    takes_gene_sets = True

    def __init__(
        self,
        adata,
        *,
        gene_sets: Source | Iterable[str] | None = None,
        min_genes: int = MIN_GENES,
        mask_key: str = "I",
        terms_key: str = "terms",
        **options: Any,
    ):
        if "terms" in options or "new_terms" in options:
            raise TypeError("terms are the names of the gene sets: name them there (gene_sets={name: genes}).")
        if gene_sets is not None:
            mask, report = match_gene_sets(adata, gene_sets, min_genes)
            terms = report.terms
            logger.info(str(report))
        else:
            mask, terms = _annotated(adata, mask_key, terms_key)
        super().__init__(adata, terms=terms, **options)
        self.module.programs.annotate(torch.from_numpy(np.ascontiguousarray(mask, dtype=np.float32)))

    @classmethod
    def found_in(cls, adata) -> str:
        mask, terms = _annotated(adata, "I", "terms")
        return f"varm['I'] says which of {int(mask.any(1).sum()):,} genes belong to {len(terms):,} programs."

    def _resolved(self, plan: EXPIMAPPlan, cells: TrainingCells) -> TrainingPlan:
        weights = plan.group_lasso_term_weights
        n_terms = len(self.config.terms)
        if weights is not None and len(weights) != n_terms:
            raise ValueError(
                f"group_lasso_term_weights (omega) has {len(weights)} weights for {n_terms} programs. Give one for "
                "each of model.terms, those aside that a surgery added."
            )
        learns_batches_only = bool(self._surgeries) and PROGRAM not in self._surgeries[-1]
        return plan.resolved(cells.n_train, cells.n_validation, of_query=learns_batches_only)

    @classmethod
    def load_query_data(
        cls,
        adata,
        reference_model: Model | str | os.PathLike,
        *,
        n_new_terms: int = 0,
        new_gene_sets: Source | np.ndarray | None = None,
        soft_new_mask: bool = False,
        use_hsic: bool = False,
        hsic_one_vs_all: bool = False,
        seed: int = 0,
        **options: Any,
    ) -> Self:
        """Adapt a reference to a query by architecture surgery, and let it learn programs that the reference lacks.

        Parameters
        ----------
        adata, reference_model
            As in `Model.load_query_data`.
        n_new_terms
            How many free programs to add, which may have any genes; "unconstrained_0", … until `update_terms` names
            them. scArches' `new_n_ext`.
        new_gene_sets
            Annotated programs to add: a GMT file or a dict of names and genes, of which each must have a gene among the
            reference's; or a mask of 0 and 1, (programs, the reference's genes), for "constrained_0", …  scArches'
            `new_ext_mask`, whose rows `new_n_ext_m` may count.
        soft_new_mask
            Whether genes may join the annotated programs added, at the price of `l1_weight`. `new_soft_ext_mask`.
        use_hsic
            Whether a further term of the loss keeps the new free programs independent of the others.
        hsic_one_vs_all
            Whether of each other, too: each is then compared to all but itself.
        seed
            Of the new weights.
        **options
            `gene_map`, `min_gene_overlap`, `freeze`, `freeze_expression`, `remove_dropout`, as in
            `FreezingChoice.load_query_data`.

        Returns
        -------
        A model of the same kind. Its latent has the reference's programs, then new annotated, then new free ones.

        Raises
        ------
        DataError
            If a new gene set has no gene of the reference, or the name of a program that is there.
        """
        defaults = {"n_new_terms": 0, "new_gene_sets": None, "soft_new_mask": False}
        given = zip(defaults, (n_new_terms, new_gene_sets, soft_new_mask))
        options = respelled(options | {name: value for name, value in given if value is not defaults[name]})
        n_new_terms, new_gene_sets, soft_new_mask = (options.pop(name, value) for name, value in defaults.items())
        n_masks = options.pop("new_n_ext_m", None)
        reference = cls._reference(reference_model)
        names, mask = _new_programs(reference, new_gene_sets, n_masks, n_new_terms)
        if use_hsic and not n_new_terms:
            raise ValueError(
                "use_hsic keeps new free programs apart from the others, and there are none. Give n_new_terms=1 or "
                "more, or leave use_hsic out."
            )
        query = super().load_query_data(adata, reference, **options)
        query.use_hsic, query.hsic_one_vs_all = use_hsic, hsic_one_vs_all
        query.soft_new_mask = soft_new_mask or reference.soft_new_mask
        if names:
            query._add_programs(names, mask, seed)
        query._thaw()
        return query

    def _add_programs(self, names: Sequence[str], mask: np.ndarray, seed: int) -> None:
        """To a query's network, which is its own: trainable, without loadings yet."""
        self.config = replace(self.config, new_terms=(*self.config.new_terms, *names))
        self._surgeries = [*self._surgeries[:-1], self._surgeries[-1] | {PROGRAM: len(names)}]
        surgery.grow(self.module, {PROGRAM: len(names)})
        self.module.encoder.initialize_added(generator_of(seed, "weights", len(self._surgeries)))
        self.module.programs.added[-1].mask.copy_(torch.from_numpy(mask))
        self.module.to(self.device).eval()

    def _thaw(self) -> None:
        super()._thaw()
        self.module.programs.soft_added = self.soft_new_mask
        if self.use_hsic:
            self.module.hsic = "one by one" if self.hsic_one_vs_all else "all at once"

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


def _new_programs(
    reference: EXPIMAP, gene_sets: Source | np.ndarray | None, n_sets: int | None, n_free: int
) -> tuple[list[str], np.ndarray]:
    """Names of the programs that a query adds, and their mask, (genes, programs): ones for the free programs."""
    from anndata import AnnData

    genes = reference.schema.genes
    if gene_sets is None:
        names, mask = [], np.zeros((len(genes), 0))
    elif isinstance(gene_sets, str | os.PathLike | Mapping):
        mask, report = match_gene_sets(AnnData(var=pd.DataFrame(index=list(genes))), gene_sets)
        names = report.terms
        if len(names) < len(report.sets):
            without = report.sets.index[report.sets["term"].isna()]
            raise DataError(
                f"{len(without)} of {len(report.sets)} new gene sets have no gene among the reference's "
                f"{len(genes):,} ({listed(without)}). Leave them out."
            )
        logger.info(str(report))
    else:
        mask = np.asarray(gene_sets).T
        if mask.ndim != 2 or len(mask) != len(genes) or not np.isin(mask, (0, 1)).all() or not mask.any(0).all():
            raise DataError(
                f"A mask of new programs has a row for each and a column for each of the reference's {len(genes):,} "
                f"genes, of 0 and 1, and at least one gene in each row; this one is of shape {mask.T.shape}. Or pass "
                "new_gene_sets={name: genes}."
            )
        names = _numbered("constrained", mask.shape[1], reference.terms)
    if n_sets is not None and n_sets != len(names):
        raise DataError(f"new_n_ext_m={n_sets}, but new_gene_sets (new_ext_mask) has {len(names)}. Leave n_ext_m out.")
    if taken := set(names) & set(reference.terms):
        raise DataError(f"The reference has programs of these names already: {listed(sorted(taken))}. Rename the sets.")
    if n_free < 0:
        raise ValueError(f"n_new_terms={n_free} must be 0 or more.")
    names += _numbered("unconstrained", n_free, [*reference.terms, *names])
    return names, np.hstack([mask, np.ones((len(genes), n_free))]).astype(np.float32)


def _numbered(kind: str, n: int, taken: Sequence[str]) -> list[str]:
    """`n` names that are not taken."""
    free = (name for number in count() if (name := f"{kind}_{number}") not in taken)
    return list(islice(free, n))
