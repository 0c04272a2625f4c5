"""MultiVAE (multigrate): one latent space for cells in which different modalities were measured. Litinetskaya et al.
2022, doi:10.1101/2022.03.16.484643.

    z ~ Normal(0, I)                                             what the cell is
    values of modality m ~ decoder_m(z, conditions)              counts of genes, fragments in peaks, proteins, …
    q(z | cell) = product, or mixture, over the modalities that the cell has, of q_m(z | values of m, conditions)

Each modality has its own likelihood: negative binomial ("nb", with zero inflation "zinb") and "poisson" of counts whose
expected shares are a softmax; "bce" of what is seen or not; "mse", the squared error of normalised values. Conditions
(batches and other covariates) are learned vectors, which encoders and decoders share. The loss of a cell, in nats:

    reconstruction_m   −log p(values of m | z) of each modality that the cell has     weighted by modality_weights
    kl_latent          KL(q(z | cell) ‖ Normal(0, I))                                 weighted by kl_weight · kl_coef
    mmd_latent         Σ over pairs of groups of MMD²(z of one, of the other)         weighted by mmd_weight
    mmd_marginal       the same of each modality's own latents, between groups, and
                       between modalities over the cells that have both               weighted by mmd_weight

Differs from multigrate 1.0:

- which modalities a cell has is said by a mask, not by sums (see `data.multimodal`);
- some cells, in each step, are encoded by one of their modalities, drawn by chance, and decoded to all
  (`modality_dropout`), so that a cell in which one was measured lies where it would lie by all;
- counts are encoded as log(1 + value), normalised values as they are; likelihoods, if none are given, follow from the
  values; `integrate_on` without `mmd` means the latent's MMD (multigrate: none, without a word);
- in training, half of a cell's peaks are hidden from their encoder (`feature_dropout`), which else learns few cells by
  heart and is surer of others than it should be; and a peak's likelihood weighs 0.3 of a gene's;
- kl_coef is 0.1 (multigrate: 1e-5): at 1, where the loss is a bound on the likelihood, shallow cells use few latent
  dimensions;
- MMD is a sum over 19 kernels (multigrate: their mean, so that its coefficient is 19 times as large);
- decoders start at each feature's mean over the cells;
- an encoder's mean and variance follow from its last hidden layer; continuous covariates join the features;
- the latent is the posterior mean; a query's new conditions start at the mean of the reference's, and nothing else of
  it is trained: the reference stays to the bit, whatever the weight decay.

Training by "published" is its 200 epochs at a rate of 5e-4, with the KL's weight rising over a third of them, and a
stop after 10 without gain (weight decay is Adam's, not AdamW's); "auto" is one cycle of 410 steps (see
`training.plan`).

On 1,960 cells of SNARE-seq and a query of 691 (`tests/benchmarks/bench_multiome.py`; mean of three seeds) 15 neighbours
gave accuracy 0.65 by chromatin alone (LSI: 0.47), 0.89 by RNA alone (PCA: 0.89) and 0.89 by both (PCA and LSI side by
side: 0.86). With kl_coef 1, modality_dropout 0.5, no feature_dropout and equal weights it was 0.68, 0.87 and 0.85; our
defaults were chosen by the accuracies of this query. The decoder of 12,000 peaks still explains held-out cells worse
than their mean does (578 nats and 522): it overfits.
"""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import combinations
from typing import Annotated, Any, ClassVar, Literal, Self

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from ..data.genes import GeneReport
from ..data.minibatches import Minibatch
from ..data.multimodal import (
    as_one_anndata,
    check_modalities,
    mask_of,
    measured_modalities,
    modalities_of,
    not_a_count,
)
from ..data.names import DataError, did_you_mean, listed
from ..data.schema import BATCH, DataSchema
from ..nn.condition_embedding import ConditionEmbedding, EmbeddedLinear
from ..nn.divergences import Normal, discrepancy_between_groups, kl_to_standard_normal, maximum_mean_discrepancy
from ..nn.experts import ExpertDropout, mixture_of_experts, product_of_experts
from ..nn.expression import Dispersion
from ..nn.layers import MLP, ConditionalLinear, Dropout, Encoder
from ..nn.loss import Loss
from ..nn.proteins import Measured
from ..nn.softmax_counts import Seen, log_softmax_negative_binomial, seen_in
from ..training.adam import Adam
from ..training.options import respelled
from ..training.plan import EarlyStopping, NotNegative, Pace, TrainingPlan
from .base import LEAST_OVERLAP, NOTE, Model, _announce, _noted_keys
from .expression import Batches, _in_batch

logger = logging.getLogger(__name__)
Likelihood = Literal["nb", "zinb", "poisson", "bce", "mse"]
Rate = Annotated[float, Field(ge=0, lt=1)]
OF_COUNTS = ("nb", "zinb", "poisson", "bce")
OF_SHARES = ("nb", "zinb", "poisson")  # whose expected values are shares of a cell's total
ATAC_NAMES = ("atac", "peaks", "peak", "chromatin", "accessibility", "scatac", "snatac", "atac-seq")
OF_PEAKS = ("poisson", "bce")
DEFAULTS = {"feature_dropout": (0.5, 0.0), "modality_weights": (0.3, 1.0)}  # of peaks; of others
N_KERNELS = 19  # of the MMD
SPELLINGS = {  # of multigrate, old and new
    "losses": "likelihoods",
    "z_dim": "n_latent",
    "dropout": "dropout_rate",
    "cond_dim": "condition_dim",
    "condition_encoders": "encode_covariates",
    "modality_alignment": "mmd",
    "alignment_type": "mmd_on",
    "integ_coef": "mmd_weight",
}
PUBLISHED_EPOCHS, PUBLISHED_RATE, PUBLISHED_WEIGHT_DECAY = 200, 5e-4, 1e-3


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class MultiVAEConfig:
    n_latent: Annotated[int, Field(ge=1, le=4096)] = 16  # dimensions of z
    n_hidden: Annotated[int, Field(ge=1, le=8192)] = 128  # width of each hidden layer
    n_layers: Annotated[int, Field(ge=1, le=16)] = 2  # hidden layers of each encoder and decoder
    dropout_rate: Rate = 0.2
    condition_dim: Annotated[int, Field(ge=1, le=4096)] = 16  # width of each condition's vectors
    encode_covariates: bool = True  # whether encoders see conditions; without, surgery cannot move a query's latents
    mix: Literal["product", "mixture"] = "product"  # of what the modalities' encoders believe
    modality_dropout: Annotated[float, Field(ge=0, le=1)] = 0.2  # share of cells encoded by one of their modalities
    feature_dropout: tuple[Rate, ...] | None = None  # values hidden from each modality's encoder; None: half of peaks
    likelihoods: tuple[Likelihood, ...] | None = None  # of each modality
    modality_weights: tuple[NotNegative, ...] | None = None  # of each reconstruction; None: 0.3 of peaks, 1 of others
    kl_coef: NotNegative = 0.1
    integrate_on: str | None = None  # key of the batch or covariate whose groups are drawn together
    mmd: Literal["latent", "marginal", "both"] | None = None  # of which latents; None with integrate_on: latent
    mmd_weight: NotNegative = 1.0


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class MultiVAEPlan(TrainingPlan):
    batch_size: Annotated[int, Field(ge=2, le=1_000_000)] = 256  # cells per step
    weight_decay: NotNegative | None = None  # None: 1e-6 for auto, 1e-3 as published
    kl_warmup_epochs: Annotated[int, Field(ge=0)] | None = None  # None: 90 % of the steps; a third as published
    early_stopping: bool | None = None  # None: no for auto, yes as published
    early_stopping_kwargs: EarlyStopping = EarlyStopping(patience=10)

    pace: ClassVar[Pace] = Pace(steps=410)

    def resolved(self, n_train: int, n_validation: int = 0, of_query: bool = False) -> TrainingPlan:
        published, meant = self.schedule == "published", {}
        if self.weight_decay is None:
            meant["weight_decay"] = PUBLISHED_WEIGHT_DECAY if published else 1e-6
        if self.early_stopping is None:
            meant["early_stopping"] = published
        if published:
            meant |= {"lr": self.lr or PUBLISHED_RATE, "max_epochs": self.max_epochs or PUBLISHED_EPOCHS}
            if self.kl_warmup_epochs is None:
                meant["kl_warmup_epochs"] = meant["max_epochs"] // 3
        return TrainingPlan.resolved(replace(self, **meant), n_train, n_validation, of_query)

    def optimizer(self, parameters, undecayed=()) -> Adam:
        return Adam(parameters, lr=self.lr, eps=1e-8, weight_decay=self.weight_decay, undecayed=undecayed)


class JoinedLinear(EmbeddedLinear):
    """As if features and vectors stood side by side in its input, also in its initial weights: of many features, each
    has small ones, and so must the conditions, or they outweigh the cell."""

    def initialize(self, generator: torch.Generator) -> None:
        self.bound = 1 / math.sqrt(self.weight.shape[1] + self.of_conditions.shape[1])
        ConditionalLinear.initialize(self, generator)
        nn.init.uniform_(self.of_conditions, -self.bound, self.bound, generator=generator)


class ModalityDecoder(nn.Module):
    """p(values | z, conditions) of one modality."""

    def __init__(
        self,
        n_features: int,
        config: MultiVAEConfig,
        likelihood: Likelihood,
        conditions: ConditionEmbedding,
        n_continuous: int,
        dispersion_by: tuple[str, int] | None,
    ):
        super().__init__()
        self.likelihood = likelihood
        n_in, width = config.n_latent + n_continuous, config.n_hidden
        self.hidden = MLP(n_in, width, config.n_layers, dropout_rate=config.dropout_rate, layer_norm=True)
        self.hidden.linears[0] = JoinedLinear(n_in, width, conditions)
        self.output = ConditionalLinear(width, n_features)
        if likelihood == "zinb":
            self.zero_inflation_logits = ConditionalLinear(width, n_features)
        if likelihood in ("nb", "zinb"):
            self.log_inverse_dispersion = Dispersion(n_features, *(dispersion_by or ()))

    def expected(self, z: Tensor, cells: Minibatch) -> Tensor:
        """Shares of a cell's total; of "bce" probabilities; of "mse" values; (cells, features)."""
        output = self.output(self._hidden(z, cells))
        if self.likelihood in OF_SHARES:
            return torch.softmax(output, dim=-1)
        return torch.sigmoid(output) if self.likelihood == "bce" else output

    def start_at(self, total: Tensor, n_cells: int) -> None:
        """Let what is expected of any z be the mean: sums over `n_cells` cells, (features,)."""
        if self.likelihood in OF_SHARES:
            total = (total + 0.5).log()
            bias = total - total.mean()
        elif self.likelihood == "bce":
            bias = torch.logit((total + 0.5) / (n_cells + 1))
        else:
            bias = total / n_cells
        self.output.bias.data.copy_(bias)

    def log_likelihood(self, z: Tensor, cells: Minibatch) -> Tensor:
        """log p(values | z) in nats, (cells,); of "mse" minus the squared error. `cells` are of this modality alone."""
        hidden, values = self._hidden(z, cells), cells.counts
        output = self.output(hidden)
        if self.likelihood == "mse":
            return -(values - output).square().sum(-1)
        if self.likelihood == "bce":
            return -F.binary_cross_entropy_with_logits(output, (values > 0).to(values.dtype), reduction="none").sum(-1)
        seen = seen_in(values) if cells.seen is None else Seen(*cells.seen, values.shape[1])
        if self.likelihood == "poisson":
            return _log_softmax_poisson(values, output, cells.library_size, seen)
        inflation = self.zero_inflation_logits(hidden) if self.likelihood == "zinb" else None
        theta, rows = self.log_inverse_dispersion.by_row(cells)
        return log_softmax_negative_binomial(values, output, cells.library_size, theta, inflation, seen, rows)

    def _hidden(self, z: Tensor, cells: Minibatch) -> Tensor:
        features = z if cells.continuous is None else torch.cat([z, cells.continuous], dim=1)
        return self.hidden(features, cells.categories, cells.noise)


def _log_softmax_poisson(counts: Tensor, logits: Tensor, library_size: Tensor, seen: Seen) -> Tensor:
    """log p(counts) of each cell in nats, (cells,). Means sum to the library size whatever the logits are, so that only
    counts above zero matter to these."""
    x = counts.reshape(-1)[seen.places]
    log_mean = torch.log_softmax(logits, dim=-1).reshape(-1)[seen.places] + library_size.log().squeeze(1)[seen.cells]
    of_seen = x * log_mean - torch.lgamma(x + 1)
    return torch.zeros_like(library_size[:, 0]).index_add(0, seen.cells, of_seen) - library_size[:, 0]


class MultiVAEModule(nn.Module):
    def __init__(self, schema: DataSchema, config: MultiVAEConfig):
        super().__init__()
        self.config = config
        self.names = [name for name, _ in schema.modalities]
        sizes = [n for _, n in schema.modalities]
        self.bounds = list(zip(np.cumsum([0, *sizes[:-1]]).tolist(), np.cumsum(sizes).tolist()))
        self.group = integrated(schema, config)
        n_continuous, width = len(schema.continuous_covariates), config.n_hidden
        self.conditions = ConditionEmbedding(
            schema.n_levels, [config.condition_dim] * len(schema.n_levels), max_norm=math.inf
        )
        by_group = None if self.group is None else (self.group, schema.n_levels[self.group])
        self.modality_weights = config.modality_weights or _default("modality_weights", config.likelihoods)
        hidden = config.feature_dropout or _default("feature_dropout", config.likelihoods)
        self.feature_dropouts = nn.ModuleList(map(Dropout, hidden))
        self.encoders, self.decoders = nn.ModuleList(), nn.ModuleList()
        for n, likelihood in zip(sizes, config.likelihoods):
            n_in = n + n_continuous * config.encode_covariates
            shape = {"dropout_rate": config.dropout_rate, "layer_norm": True}
            encoder = Encoder(n_in, config.n_latent, width, config.n_layers, **shape)
            if config.encode_covariates:
                encoder.hidden.linears[0] = JoinedLinear(n_in, width, self.conditions)
            self.encoders.append(encoder)
            self.decoders.append(ModalityDecoder(n, config, likelihood, self.conditions, n_continuous, by_group))
        self.modality_dropout = ExpertDropout(config.modality_dropout)
        self.measured = Measured(BATCH, len(schema.batches), len(sizes))  # which modalities a batch has

    def forward(self, cells: Minibatch, kl_weight: float = 1.0) -> Loss:
        return self.loss(cells, kl_weight)

    def encode(self, cells: Minibatch) -> Normal:
        """q(z | what is measured of the cell, conditions), over (cells, n_latent)."""
        return self.joined(self.experts(cells), cells.measured)

    def experts(self, cells: Minibatch) -> list[Normal]:
        """q_m(z | modality m, conditions) of each modality, over (cells, n_latent); of a cell without it, arbitrary."""
        return [self._expert(i, cells) for i in range(len(self.encoders))]

    def _expert(self, i: int, cells: Minibatch) -> Normal:
        rows = cells.measured[:, i].nonzero().squeeze(1)
        if not len(rows):
            zeros = cells.counts.new_zeros(len(cells.counts), self.config.n_latent)
            return Normal(zeros, zeros + 1)
        features = cells.counts[:, slice(*self.bounds[i])]
        if self.config.likelihoods[i] in OF_COUNTS:
            features = torch.log1p(features)
        features = self.feature_dropouts[i](features, cells.noise)
        if self.config.encode_covariates and cells.continuous is not None:
            features = torch.cat([features, cells.continuous], dim=1)
        return self.encoders[i](features, cells.categories, cells.noise)

    def joined(self, experts: list[Normal], present: Tensor) -> Normal:
        together = product_of_experts if self.config.mix == "product" else mixture_of_experts
        return together(experts, present)

    def part(self, i: int, cells: Minibatch) -> tuple[Minibatch, Tensor | None]:
        """The cells that have modality i, with its features alone, and their rows (None: all)."""
        start, stop = self.bounds[i]
        rows, seen = None, None
        if cells.measured is not None and not cells.measured[:, i].all():
            rows = cells.measured[:, i].nonzero().squeeze(1)
        counts = cells.counts[:, start:stop]
        if rows is None and cells.seen is not None:
            starts, features = cells.seen
            is_own = (features >= start) & (features < stop)
            seen = F.pad(is_own.cumsum(0), (1, 0))[starts], features[is_own] - start
        categories, continuous, sizes = cells.categories, cells.continuous, cells.size_factor
        if rows is not None:
            counts, categories = counts[rows], {name: codes[rows] for name, codes in categories.items()}
            continuous, sizes = (None if one is None else one[rows] for one in (continuous, sizes))
        library_size = counts.sum(1, keepdim=True).clamp_min(1) if sizes is None or i else sizes
        own = {"counts": counts, "library_size": library_size, "seen": seen, "continuous": continuous}
        return replace(cells, categories=categories, size_factor=None, labels=None, **own), rows

    def loss(self, cells: Minibatch, kl_weight: float = 1.0) -> Loss:
        config, experts = self.config, self.experts(cells)
        posterior = self.joined(experts, self.modality_dropout(cells.measured, cells.noise))
        z = posterior.rsample(cells.noise)
        terms, weights = {}, {"kl_latent": kl_weight * config.kl_coef}
        for i, (name, decoder) in enumerate(zip(self.names, self.decoders)):
            part, rows = self.part(i, cells)
            own = z if rows is None else z[rows]
            terms[f"reconstruction_{name}"] = -decoder.log_likelihood(own, part).sum() / len(z)
            weights[f"reconstruction_{name}"] = self.modality_weights[i]
        terms["kl_latent"] = kl_to_standard_normal(posterior).sum(-1).mean()
        if self.group is not None:
            groups = cells.categories[self.group]
            if config.mmd in ("latent", "both"):
                terms["mmd_latent"] = discrepancy_between_groups(z, groups)
            if config.mmd in ("marginal", "both"):
                terms["mmd_marginal"] = self._marginal(experts, cells, groups)
            weights |= dict.fromkeys(("mmd_latent", "mmd_marginal"), config.mmd_weight)
        return Loss(terms, weights)

    def _marginal(self, experts: list[Normal], cells: Minibatch, groups: Tensor) -> Tensor:
        total, draws = cells.counts.new_zeros(()), [expert.rsample(cells.noise) for expert in experts]
        for i, z in enumerate(draws):
            there = cells.measured[:, i]
            if there.any():
                total = total + discrepancy_between_groups(z[there], groups[there])
        for i, j in combinations(range(len(draws)), 2):
            both = cells.measured[:, i] & cells.measured[:, j]
            if both.any():
                total = total + maximum_mean_discrepancy(draws[i][both], draws[j][both])
        return total


def integrated(schema: DataSchema, config: MultiVAEConfig) -> str | None:
    """The categorical variable whose groups are drawn together."""
    if config.integrate_on is None:
        return None
    keys = {key: variable for variable, (key, _) in schema.variables.items() if key is not None}
    if config.integrate_on not in keys:
        raise ValueError(
            f"integrate_on='{config.integrate_on}' is neither the batch_key nor one of categorical_covariate_keys "
            f"({listed(keys, 10) or 'none are given'}).{did_you_mean(config.integrate_on, keys)} "
            "Pass it as one of these, too."
        )
    return keys[config.integrate_on]


class MultiVAE(Model):
    """MultiVAE (multigrate): integrates cells of which RNA, chromatin, proteins, … were measured, or some of these.

    Parameters
    ----------
    adata
        A MuData, whose modalities' X is read; or an AnnData with all modalities side by side, as
        `organize_multimodal_anndatas` makes it: `var["modality"]` says whose a feature is, and
        `obsm["modality_mask"]` what was measured in which cell. Not modified.
    modality_key
        Column of `var` that tells modalities apart; None: "modality".
    batch_key, labels_key, layer, size_factor_key
        Columns of `obs` (and a layer) to read; see `DataSchema`. A size factor is the first modality's, in place of its
        total count.
    categorical_covariate_keys, continuous_covariate_keys
        More columns of `obs` to correct for.
    likelihoods
        One for each modality, or a dict from modalities to likelihoods: "nb", "zinb", "poisson", "bce" (whether seen at
        all), "mse". None: by the values: "nb" for counts ("poisson" for ATAC), else "mse".
    seed
        Of the initial weights.
    **config
        Other fields of `MultiVAEConfig`, also as multigrate spells them (`losses`, `loss_coefs`, `z_dim`, …).

    Raises
    ------
    DataError
        If it is not known whose features are, names clash, no cell has a modality, values do not fit their likelihood,
        or nothing ties two modalities together.

    References
    ----------
    Litinetskaya et al. 2022, doi:10.1101/2022.03.16.484643. Surgery: Lotfollahi et al. 2022,
    doi:10.1038/s41587-021-01001-7. Fragments as counts: Martens et al. 2024, doi:10.1038/s41592-023-02112-6.

    Examples
    --------
    >>> model = MultiVAE(mdata, batch_key="batch")
    >>> model.train()
    >>> query = MultiVAE.load_query_data(adata_rna_only, model)
    >>> query.train()
    >>> peaks = query.impute(modality="atac")
    """

    config_class, module_class, plan_class = MultiVAEConfig, MultiVAEModule, MultiVAEPlan
    var_keys: ClassVar[tuple[str, ...]] = ("modality_key",)  # arguments that name a column of var

    def __init__(self, adata, **options: Any):
        adata, options = as_one_anndata(adata), _ours(options)
        self._modality_key = options.pop("modality_key", None) or getattr(adata, "uns", {}).get(NOTE, {}).get(
            "modality_key"
        )
        blocks = modalities_of(adata, self._modality_key)
        layer = options.get("layer") or _noted_keys(adata).get("layer")
        options["likelihoods"] = _likelihoods(adata, blocks, options.get("likelihoods"), layer)
        for what in DEFAULTS:
            if isinstance(options.get(what), Mapping):
                others = _default(what, options["likelihoods"])
                options[what] = tuple(_by_name(options[what], [*blocks], what, others))
        if options.get("integrate_on") is not None and options.get("mmd") is None:
            options["mmd"] = "latent"
        super().__init__(adata, **options)

    @property
    def expects(self) -> str:
        """The kind of values this model takes: "counts", or "any" if a modality is none of counts."""
        return "counts" if all(one in OF_COUNTS for one in self.config.likelihoods or ("mse",)) else "any"

    def _schema_of(self, adata, keys: Mapping[str, Any]) -> DataSchema:
        blocks, config = modalities_of(adata, self._modality_key), self.config
        for what in ("likelihoods", "modality_weights", "feature_dropout"):
            given = getattr(config, what)
            if given is not None and len(given) != len(blocks):
                raise ValueError(
                    f"{what}={given} names {len(given)}, and there are {len(blocks)} modalities ({listed(blocks, 10)})."
                    " Give one for each, in this order, or a dict by name."
                )
        if (config.mmd is not None) != (config.integrate_on is not None):
            raise ValueError(
                f"mmd='{config.mmd}' draws groups together, and integrate_on does not say which. Pass "
                "integrate_on=batch_key, or a categorical covariate."
            )
        schema = super()._schema_of(adata, keys)
        _announce(check_modalities(adata, self._modality_key, schema.layer))
        self._announce_values(adata, blocks, schema.layer)
        self._refuse_untied(mask_of(adata, [*blocks]), [*blocks])
        order = np.concatenate([*blocks.values()])
        return replace(
            schema,
            genes=tuple(np.array(schema.genes, dtype=object)[order]),
            modality_key=self._modality_key,
            modalities=tuple((name, len(columns)) for name, columns in blocks.items()),
        )

    def _announce_values(self, adata, blocks: Mapping[str, np.ndarray], layer: str | None) -> None:
        """Refuse values that do not fit their modality's likelihood, where the modalities' differ."""
        if self.expects == "counts":  # all values have been looked at
            return
        for (name, columns), likelihood in zip(blocks.items(), self.config.likelihoods):
            wrong = not_a_count(adata, columns, layer) if likelihood in OF_COUNTS else None
            if wrong is not None:
                raise DataError(
                    f"'{name}' has values that are no counts ({wrong}), and its likelihood '{likelihood}' is one of "
                    f"counts. Pass raw counts, or likelihoods={{'{name}': 'mse'}} for a squared error."
                )

    def _refuse_untied(self, mask: np.ndarray, names: list[str]) -> None:
        """Modalities that no cells tie together, not even by way of a third, have latents of their own."""
        tied = {0}
        for _ in names:
            tied |= {j for i in tied for j in range(len(names)) if (mask[:, i] & mask[:, j]).any()}
        apart = [name for i, name in enumerate(names) if i not in tied]
        if apart and self.config.integrate_on is None:
            raise DataError(
                f"No cell has '{apart[0]}' and another modality ({listed(names, 10)}), so that nothing ties its "
                "latents to theirs. Add cells that have both; or pass integrate_on=… (and mmd='latent') to draw "
                "groups of cells together by their distribution alone."
            )

    def _count_in(self, adata, new_levels: Mapping[str, int]) -> None:
        """Which modalities the new batches have; of a reference, each feature's mean, at which its decoder starts."""
        if not self._surgeries:
            self._start_at_means(adata)
        if new_levels.get(BATCH):
            counted = np.zeros((len(self.schema.batches), len(self.module.names)), dtype=bool)
            np.logical_or.at(counted, self.schema.codes(adata)[BATCH], self._measured_in(adata))
            self.module.measured.count(counted)

    def _start_at_means(self, adata) -> None:
        totals = [torch.zeros(stop - start, dtype=torch.float64) for start, stop in self.module.bounds]
        n_cells = [0] * len(totals)
        for cells in self._cells(adata).in_order(256):
            for i in range(len(totals)):
                values = self.module.part(i, cells)[0].counts
                totals[i] += (values > 0 if self.config.likelihoods[i] == "bce" else values).double().sum(0)
                n_cells[i] += len(values)
        for decoder, total, n in zip(self.module.decoders, totals, n_cells):
            decoder.start_at(total, n)

    @classmethod
    def setup_anndata(cls, adata, **keys: Any) -> None:
        """Note in `adata.uns["scarches_widgets"]` which keys models are to read, so that `MultiVAE(adata)` suffices.

        Parameters
        ----------
        adata
            Gets the note, and no other change.
        **keys
            As in `Model.setup_anndata`, and `modality_key`. multigrate's `rna_indices_end` has no effect: the total of
            each modality is its own.
        """
        keys = respelled(keys)
        if "rna_indices_end" in keys:
            logger.info("rna_indices_end=%r has no effect: var says whose features are.", keys.pop("rna_indices_end"))
        key = keys.pop("modality_key", None)
        super().setup_anndata(adata, **keys)
        if key is not None:
            adata.uns[NOTE]["modality_key"] = key

    # Using a fitted model

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
            Cells (AnnData or MuData); None for the model's own; or a list of several. Features and batches are matched
            by name; of a modality, missing features count as zero, and without any of them it counts as not measured.
        modality
            "joint": by all that was measured. A modality's name: by it alone, as if nothing else had been measured.
            A sequence such as ("rna", "atac"): one array for each.
        give_mean, return_dist, seed, batch_size
            As in `Model.get_latent_representation`.

        Returns
        -------
        float32 (cells, n_latent); or a tuple of such.

        Raises
        ------
        DataError
            If cells lack that modality.
        """
        options = {"give_mean": give_mean, "return_dist": return_dist, "seed": seed, "batch_size": batch_size}
        if not isinstance(modality, str):
            return tuple(self.get_latent_representation(adata, modality=one, **options) for one in modality)
        only = None if modality == "joint" else self._modality(modality, ["joint", *self.module.names])

        def posterior(cells: Minibatch) -> Normal:
            return self.module.encode(cells if only is None else _with_one(cells, only, modality))

        return self._latents(adata, posterior, **options)

    def get_normalized_expression(
        self,
        adata=None,
        *,
        modality: str | None = None,
        transform_batch: Batches = None,
        library_size: float = 1.0,
        feature_list: Sequence[str] | None = None,
        n_samples: int | None = None,
        seed: int = 0,
        batch_size: int = 256,
    ) -> pd.DataFrame:
        """A modality as the decoder sees it in each cell, without the noise of counting; imputed where it is missing.

        Parameters
        ----------
        adata
            Cells; None for the model's own.
        modality
            Which; None: the first.
        transform_batch
            Name of the batch as of which all cells are decoded, or several names, whose mean is taken. None: each
            cell's own; if this batch lacks the modality, the mean over the batches that have it.
        library_size
            What a cell's values sum to over all features, if they are counts ("nb", "zinb", "poisson").
        feature_list
            Features to return; None for all of the modality.
        n_samples
            Draws from each cell's posterior, over which to average; None: its mean is decoded.
        seed, batch_size
            Of the draws; cells at a time.

        Returns
        -------
        DataFrame, cells × features: expected shares of the counts times `library_size`; for "bce" probabilities; for
        "mse" values.
        """
        names = self.module.names
        i = 0 if modality is None else self._modality(modality, names)
        start, stop = self.module.bounds[i]
        features, columns = pd.Index(self.schema.genes[start:stop]), slice(None)
        if feature_list is not None:
            columns = features.get_indexer([feature_list] if isinstance(feature_list, str) else list(feature_list))
            if (columns < 0).any():
                unknown = [name for name, column in zip(feature_list, columns) if column < 0]
                raise DataError(
                    f"{len(unknown)} of {len(columns)} features are not among those of '{names[i]}' "
                    f"({listed(unknown)}).{did_you_mean(unknown[0], features)}"
                )
        codes = self._batch_codes(transform_batch)
        scale = library_size if self.config.likelihoods[i] in OF_SHARES else 1.0

        def decoded(cells: Minibatch) -> Tensor:
            posterior = self.module.encode(cells)
            draws = [self._decoded(i, posterior.rsample(cells.noise), cells, codes) for _ in range(n_samples or 1)]
            return (sum(draws) / len(draws) * scale)[:, columns]

        adata = self._adata_or_own(adata)
        values = self._per_cell(adata, decoded, batch_size, None if n_samples is None else seed)
        return pd.DataFrame(values, index=adata.obs_names, columns=features[columns])

    def impute(self, adata=None, modality: str | None = None, **options: Any) -> pd.DataFrame:
        """A modality in the cells that lack it, told from what they have.

        Parameters
        ----------
        adata
            Cells; None for the model's own.
        modality
            Which; None: the only one that some cells lack.
        **options
            Of `get_normalized_expression`.

        Returns
        -------
        DataFrame, as `get_normalized_expression` returns it, of the cells that lack the modality.

        Raises
        ------
        ValueError
            If no cell lacks it, or it is not clear which is meant.
        """
        adata = self._adata_or_own(adata)
        lacks = ~self._measured_in(adata)
        names = self.module.names
        if modality is None:
            lacking = [name for name, some in zip(names, lacks.any(0)) if some]
            if len(lacking) != 1:
                raise ValueError(
                    f"{len(lacking)} modalities are missing in some cells ({listed(lacking) or 'none'}). Say which "
                    f"one to impute: modality='{(lacking or names)[0]}'."
                )
            (modality,) = lacking
        i = self._modality(modality, names)
        if not lacks[:, i].any():
            raise ValueError(
                f"Every cell has '{modality}', so there is nothing to impute. get_normalized_expression(modality="
                f"'{modality}') gives it without the noise of counting."
            )
        return self.get_normalized_expression(adata[lacks[:, i]], modality=modality, **options)

    def _decoded(self, i: int, z: Tensor, cells: Minibatch, codes: list[int]) -> Tensor:
        decoder, module = self.module.decoders[i], self.module

        def as_of(code: int) -> Tensor:
            return decoder.expected(z, _in_batch(cells, torch.full_like(cells.batch, code)))

        if codes:
            return sum(map(as_of, codes)) / len(codes)
        values, has_it = decoder.expected(z, cells), module.measured.rows()[:, i] > 0
        own = has_it[cells.batch]
        others = torch.nonzero(has_it).ravel().tolist()
        if own.all() or not others:
            return values
        return torch.where(own[:, None], values, sum(map(as_of, others)) / len(others))

    def _modality(self, name: str, names: Sequence[str]) -> int:
        if name not in names:
            raise ValueError(f"modality='{name}' is none of {listed(names, 10)}.{did_you_mean(name, names)}")
        return self.module.names.index(name)

    def _batch_codes(self, transform_batch: Batches) -> list[int]:
        names = [transform_batch] if isinstance(transform_batch, str) else [*map(str, transform_batch or ())]
        unknown = [name for name in names if name not in self.schema.batches]
        if unknown:
            raise DataError(
                f"transform_batch names no batch of the model ({listed(unknown)})."
                f"{did_you_mean(unknown[0], self.schema.batches)} It knows: {listed(self.schema.batches, 20)}."
            )
        return [self.schema.batches.index(name) for name in names]

    # Cells from elsewhere

    def _adata_or_own(self, adata):
        return as_one_anndata(super()._adata_or_own(adata))

    def _examine(self, adata) -> GeneReport:
        report = super()._examine(adata)
        measured = self._measured_in(adata)
        for name, n in zip(self.module.names, measured.sum(0)):
            if n < len(measured):
                logger.info("%d of %d cells have '%s'.", n, len(measured), name)
        return report

    def _measured_in(self, adata) -> np.ndarray:
        return measured_modalities(adata, self.schema, self.schema.align(adata, self.gene_map)[0])

    @classmethod
    def load_query_data(
        cls,
        adata,
        reference_model: Model | str | os.PathLike,
        *,
        gene_map: str | Mapping[str, str] | None = None,
        min_gene_overlap: float = LEAST_OVERLAP,
    ) -> Self:
        """Adapt a reference to a query by architecture surgery; see `Model.load_query_data`.

        A query (AnnData or MuData) may lack modalities: which it has follows from the names of its features, and from
        `obsm["modality_mask"]` if it has one. `min_gene_overlap` is asked of each modality that is there.
        """
        adata = as_one_anndata(adata)
        return super().load_query_data(adata, reference_model, gene_map=gene_map, min_gene_overlap=min_gene_overlap)

    @classmethod
    def load(cls, path: str | os.PathLike, adata=None) -> Self:
        """Read a model that `save` wrote; see `Model.load`."""
        return super().load(path, None if adata is None else as_one_anndata(adata))


def _with_one(cells: Minibatch, i: int, modality: str) -> Minibatch:
    """The cells as if nothing but one modality had been measured."""
    if not cells.measured[:, i].all():
        raise DataError(
            f"{int((~cells.measured[:, i]).sum()):,} of {len(cells):,} cells were looked at, and lack '{modality}'. "
            "Pass the cells that have it, or modality='joint'."
        )
    measured = torch.zeros_like(cells.measured)
    measured[:, i] = True
    return replace(cells, measured=measured)


def _ours(options: Mapping[str, Any]) -> dict[str, Any]:
    """The options under the names used here; multigrate's coefficients of the loss each under their own."""
    options = respelled(options, SPELLINGS)
    coefficients = dict(options.pop("loss_coefs", None) or {})
    of_modalities = {}
    for name, value in coefficients.items():
        if name == "kl":
            options["kl_coef"] = value
        elif name == "integ":
            options["mmd_weight"] = value / N_KERNELS
        elif isinstance(name, int) or str(name).isdigit():
            of_modalities[int(name)] = value
        else:
            raise TypeError(f"loss_coefs has no '{name}'. It takes 'kl', 'integ', and the number of a modality.")
    if of_modalities:
        options["modality_weights"] = of_modalities
    options.pop("rna_indices_end", None)
    if options.get("mmd") == "MMD":
        options["mmd"] = options.pop("mmd_on", None)
    return options


def _likelihoods(adata, blocks: Mapping[str, np.ndarray], given: Any, layer: str | None) -> Any:
    """One for each modality: as given, else by its values."""
    if given is not None and not isinstance(given, Mapping):
        return given
    found = []
    for name, columns in blocks.items():
        if not_a_count(adata, columns, layer) is not None:
            found.append("mse")
        else:
            found.append("poisson" if name.casefold() in ATAC_NAMES else "nb")
    if given is not None:
        return tuple(_by_name(given, [*blocks], "likelihoods", found))
    logger.info("Likelihoods: %s.", listed([f"{name} {one}" for name, one in zip(blocks, found)], 10))
    return tuple(found)


def _default(what: str, likelihoods: Sequence[str]) -> list[float]:
    """Of each modality, where the user does not say."""
    of_peaks, of_others = DEFAULTS[what]
    return [of_peaks if likelihood in OF_PEAKS else of_others for likelihood in likelihoods]


def _by_name(given: Mapping[Any, Any], names: list[str], what: str, others: Sequence[Any]) -> list[Any]:
    """A value for each modality, of a dict by names or by positions."""
    for key in given:
        if key not in names and key not in range(len(names)):
            raise ValueError(f"{what} names a modality '{key}' that is not there.{did_you_mean(str(key), names)}")
    return [given.get(name, given.get(i, other)) for i, (name, other) in enumerate(zip(names, others))]
