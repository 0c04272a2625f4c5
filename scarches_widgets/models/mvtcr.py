"""mvTCR: one latent space for T-cell receptors and RNA. Drost et al. 2024, doi:10.1038/s41467-024-49806-9.

    z ~ Normal(0, I)                                             what the cell is
    expression = decoder(z, batch) + Normal(0, ½)                log-normalised; ½ is the variance
    receptor ~ decoder(z, batch)                                 CDR3 of alpha and beta, residue after residue

Each modality has an encoder, q(z | RNA) and q(z | receptor), and they are put together in one of three ways:

    moe       mixture of experts: the joint z is the mean of both, and both modalities are decoded from either z
    poe       product of experts: RNA is decoded from the joint z and from that of RNA, the receptor likewise
    concat    one encoder sees both

The loss of a cell; weights are mvtcr's, whose squared error is a mean over genes, times the number of genes:

    reconstruction        squared error of the expression, summed over genes         weighted by rna_weight
    reconstruction_tcr    −log p(residue), nats per residue                          weighted by tcr_weight
    kl_latent             KL(q(z) ‖ Normal(0, I)), the mean over the posteriors      weighted by kl_weight
    classification        cross-entropy of the label, if `supervised`                weighted by classification_weight

mvtcr has no weights by default. Here the loss is by default the negative evidence lower bound of the above in nats:
`rna_weight` is 1, times the number of genes `kl_weight` is 1, and `tcr_weight` the mean number of predicted residues of
a cell, so that a receptor weighs the same beside 200 genes as beside 5,000.

Networks default to those that mvtcr 0.2.1.2's tutorial arrived at. `schedule="published"` is its training: Adam with lr
3e-4, 200 epochs, and a KL weight that rises over 30 % of them. `schedule="auto"` takes 600 steps: in 300 the decoder
of receptors hardly learns to listen to z, and the validation loss still falls. Differs from mvtcr:

- padding is masked, and whatever depends on a sequence alone is computed once for each distinct one of a step; dropout
  there is drawn per distinct sequence, and attention's own weights are not dropped;
- in a step of training, each cell's RNA is decoded from one of the two z, drawn by chance, and its receptor from the
  other z of the two that it may be decoded from; and of the receptor one chain is decoded, drawn by chance, and counts
  twice: in expectation the published loss, in half of the time;
- a residue's vector and its position are added once (mvtcr adds the vector twice, five times as large);
- the receptor is decoded across modalities whatever chains are read (mvtcr: not with an explicit `beta_only=False`);
- validation cells are of clonotypes of their own (mvtcr takes the split it is given);
- the supervised head is trained (mvtcr's is not in its optimiser); early stopping brings the best epoch's weights back;
- raw counts are normalised on the way (log of 1 + counts per 10,000), log-normalised values taken as they are;
- batches are learned vectors that surgery extends, while running statistics and dropout are frozen too.
"""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Annotated, Any, ClassVar, Literal, Self

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from ..data.counts import _holds_counts
from ..data.genes import GeneReport
from ..data.matrix import matrix_of
from ..data.minibatches import Minibatch
from ..data.names import DataError, did_you_mean, listed
from ..data.receptors import AMINO_ACIDS, check_receptors, receptor_table, the_receptor_keys, with_receptors
from ..data.schema import LABEL, DataSchema, as_text
from ..nn.classifier import Classifier
from ..nn.condition_embedding import ConditionEmbedding, EmbeddedLinear
from ..nn.divergences import Normal, kl_to_standard_normal
from ..nn.experts import mixture_of_experts, product_of_experts
from ..nn.expression import joined
from ..nn.layers import MLP, TORCH_BATCH_NORM, ConditionalLinear, Encoder
from ..nn.loss import Loss
from ..nn.noise import Noise
from ..nn.sequences import ENCODERS, TransformerDecoder
from ..training.adam import Adam
from ..training.groups import GroupedCells, connected_groups
from ..training.options import respelled
from ..training.plan import EarlyStopping, NotNegative, Pace, TrainingPlan
from ..training.run import TrainingRun
from .base import LEAST_OVERLAP, NOTE, Model, Widths, _announce

logger = logging.getLogger(__name__)
CLONOTYPE = "clonotype"  # column of obs; where there is none, cells of the same receptor are a clonotype
MODALITIES = ("joint", "rna", "tcr")
DECODED_FROM = {  # RNA, receptor
    "moe": (("rna", "tcr"), ("rna", "tcr")),
    "poe": (("rna", "joint"), ("joint", "tcr")),
    "concat": (("joint",), ("joint",)),
}
SLOPES = {"leakyrelu": 0.2, "relu": 0.0, "linear": 1.0}  # below zero
COUNTS_PER_CELL = 1e4  # to which expression is normalised
PUBLISHED_EPOCHS, PUBLISHED_RATE, PUBLISHED_BATCH_SIZE, KL_WARM_UP = 200, 3e-4, 512, 0.3
Size = Annotated[int, Field(ge=1, le=8192)]
Rate = Annotated[float, Field(ge=0, lt=1)]
Activation = Literal["leakyrelu", "relu", "linear"]


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class MvTCRConfig:
    combine: Literal["moe", "poe", "concat"] = "moe"  # mixture of experts, product of experts, or one encoder of both
    sequence_encoder: Literal["transformer", "cnn", "gru"] = "transformer"  # of each chain
    n_latent: Annotated[int, Field(ge=1, le=4096)] = 50  # dimensions of z
    n_hidden: Annotated[int, Field(ge=2, le=8192)] = 100  # features of each modality
    shared_hidden: Widths = (100, 100)  # hidden layers between these and z
    activation: Activation = "leakyrelu"  # of them
    dropout_rate: Rate = 0.05
    use_batch_norm: bool = True
    gene_hidden: Widths = (500, 500, 500)  # hidden layers between genes and their features
    rna_activation: Activation = "leakyrelu"
    rna_dropout_rate: Rate = 0.05
    rna_batch_norm: bool = True
    n_embedding: Size = 64  # dimensions of a residue's vector
    n_heads: Size = 4  # of attention
    forward_expansion: Size = 4  # width of attention's inner layers, over n_embedding
    n_layers_encoder: Annotated[int, Field(ge=1, le=16)] = 1  # of sequences
    n_layers_decoder: Annotated[int, Field(ge=1, le=16)] = 1
    sequence_dropout_rate: Rate = 0.25
    max_tcr_length: Annotated[int, Field(ge=2, le=1000)] = 30  # residues of a CDR3
    n_tokens: Annotated[int, Field(ge=len(AMINO_ACIDS) + 1, le=1000)] = len(AMINO_ACIDS) + 1  # padding included
    n_condition: Size = 20  # dimensions of a batch's vector
    encode_covariates: bool = True  # whether encoders see batches; without, surgery cannot move a query's latents
    supervised: bool = False  # whether a classifier learns the labels beside
    balanced_sampling: str | None = CLONOTYPE  # column of obs whose large groups are drawn less often; None: no
    normalize: bool | None = None  # whether values are counts, to be normalised; None: looked at
    metadata: tuple[str, ...] = ()  # columns of obs that get_latent() takes along
    training: dict[str, int | float] = Field(default_factory=dict)  # fields of MvTCRPlan, unless train() is told others


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class MvTCRPlan(TrainingPlan):
    early_stopping_kwargs: EarlyStopping = EarlyStopping(metric="val_loss", patience=20)
    rna_weight: NotNegative = 1.0  # of the squared error
    tcr_weight: NotNegative | None = None  # of the receptor, times the number of genes; None: a cell's log-likelihood
    kl_weight: NotNegative | None = None  # likewise, after the warm-up; None: once, or of a query, as of its reference
    classification_weight: NotNegative = 0.1  # likewise

    pace: ClassVar[Pace] = Pace(steps=600, lr=1e-3)

    def resolved(self, n_train: int, n_validation: int = 0, of_query: bool = False) -> TrainingPlan:
        meant = {}
        if self.schedule == "published":
            meant = {"lr": self.lr or PUBLISHED_RATE, "max_epochs": self.max_epochs or PUBLISHED_EPOCHS}
        return TrainingPlan.resolved(replace(self, **meant), n_train, n_validation, of_query)

    def optimizer(self, parameters, undecayed=()) -> Adam:
        return Adam(parameters, lr=self.lr, eps=1e-8, weight_decay=self.weight_decay, undecayed=undecayed)

    def kl_weight_at(self, step: int, steps_per_epoch: int) -> float:
        if self.kl_warmup_epochs is not None:
            return TrainingPlan.kl_weight_at(self, step, steps_per_epoch)
        return self.kl_weight * min(1.0, step / max(1.0, KL_WARM_UP * self.max_epochs * steps_per_epoch))

    def loss_weights(self, epoch: int) -> dict[str, float]:
        return {name: getattr(self, name) for name in ("rna_weight", "tcr_weight", "classification_weight")}


class MvTCRModule(nn.Module):
    def __init__(self, schema: DataSchema, config: MvTCRConfig):
        super().__init__()
        self.config, self.n_genes = config, schema.n_genes
        n_in, n_hidden, n_latent = schema.n_genes, config.n_hidden, config.n_latent
        n_in += len(schema.continuous_covariates)
        of_genes = _shape(config.rna_activation, config.rna_dropout_rate, config.rna_batch_norm)
        shared = _shape(config.activation, config.dropout_rate, config.use_batch_norm)
        of_residues = {
            "width": config.n_embedding,
            "n_heads": config.n_heads,
            "expansion": config.forward_expansion,
            "dropout_rate": config.sequence_dropout_rate,
        }
        alphabet = config.n_tokens, config.max_tcr_length
        self.conditions = ConditionEmbedding(schema.n_levels, [config.n_condition] * len(schema.n_levels), math.inf)

        self.rna_features = MLP(n_in, (*config.gene_hidden, n_hidden), **of_genes)
        encoder = ENCODERS[config.sequence_encoder]
        self.chain_features = nn.ModuleList(
            encoder(*alphabet, width, n_layers=config.n_layers_encoder, **of_residues)
            for width in (n_hidden // 2, n_hidden - n_hidden // 2)
        )
        heads = {"joint": 2 * n_hidden} if config.combine == "concat" else {"rna": n_hidden, "tcr": n_hidden}
        self.encoders = nn.ModuleDict()
        for name, width in heads.items():
            self.encoders[name] = Encoder(width, n_latent, config.shared_hidden, **shared)
            if config.encode_covariates:
                self._condition(self.encoders[name].hidden, width)

        widths = (*config.shared_hidden[::-1], n_hidden)
        self.rna_hidden, self.tcr_hidden = MLP(n_latent, widths, **shared), MLP(n_latent, widths, **shared)
        for part in (self.rna_hidden, self.tcr_hidden):
            self._condition(part, n_latent)
        self.rna_decoder = MLP(n_hidden, config.gene_hidden[::-1], **of_genes)
        self.expression = ConditionalLinear(config.gene_hidden[0], schema.n_genes)
        self.chain_decoders = nn.ModuleList(
            TransformerDecoder(*alphabet, n_hidden, n_layers=config.n_layers_decoder, **of_residues) for _ in range(2)
        )
        self.classifier = None
        if config.supervised:
            self.classifier = Classifier(n_latent, LABEL, len(schema.labels), config.shared_hidden[-1], 1)

    def _condition(self, part: MLP, n_in: int) -> None:
        """Let batches enter the first layer of `part`."""
        part.linears[0] = EmbeddedLinear(
            n_in, part.linears[0].weight.shape[0], self.conditions, bias=not part.batch_norms
        )

    def forward(self, cells: Minibatch, kl_weight: float = 1.0, **weights: float) -> Loss:
        return self.loss(cells, kl_weight, **weights)

    def encode(self, cells: Minibatch) -> Normal:
        """q(z | RNA, receptor, batch), over (cells, n_latent)."""
        return self.posteriors(cells)["joint"]

    def posteriors(self, cells: Minibatch, modality: str = "joint") -> dict[str, Normal]:
        """q(z | …) of each encoder, and the joint one; or of the encoder of one modality alone."""
        noise, features = cells.noise, {}
        if modality != "tcr":
            features["rna"] = self.rna_features(joined(self._observed(cells), cells.continuous), noise=noise)
        if modality != "rna":
            chains = zip(self.chain_features, cells.receptors.chains)
            features["tcr"] = torch.cat([of(chain.tokens, noise)[chain.of_cell] for of, chain in chains], dim=1)
        if self.config.combine == "concat":
            features = {"joint": torch.cat(list(features.values()), dim=1)}
        found = {name: self.encoders[name](of, cells.categories, noise) for name, of in features.items()}
        if modality == "joint" and self.config.combine != "concat":
            combined = mixture_of_experts if self.config.combine == "moe" else product_of_experts
            found["joint"] = combined(list(found.values()))
        return found

    def label_logits(self, cells: Minibatch) -> Tensor:
        """Of the joint posterior's mean, (cells, labels)."""
        return self.classifier(self.encode(cells).mean)

    def loss(
        self,
        cells: Minibatch,
        kl_weight: float = 1.0,
        rna_weight: float = 1.0,
        tcr_weight: float = 1.0,
        classification_weight: float = 0.0,
    ) -> Loss:
        posteriors, noise = self.posteriors(cells), cells.noise
        z = {name: posterior.rsample(noise) for name, posterior in posteriors.items()}
        of_rna, of_tcr = ([z[name] for name in names] for names in DECODED_FROM[self.config.combine])
        if self.training and len(of_rna) == 2:
            heads = noise.kept_like(of_rna[0][:, :1], 0.5) > 0
            of_rna, of_tcr = [torch.where(heads, *of_rna)], [torch.where(heads, *reversed(of_tcr))]
        weighed = [
            posterior for name, posterior in posteriors.items() if name != "joint" or self.config.combine != "moe"
        ]
        kl = sum(kl_to_standard_normal(posterior).sum(-1).mean() for posterior in weighed) / len(weighed)
        terms = {
            "reconstruction": self._squared_error(of_rna, cells, noise),
            "reconstruction_tcr": self._of_residues(of_tcr, cells, noise),
            "kl_latent": kl,
        }
        weights = {"reconstruction_tcr": tcr_weight, "kl_latent": kl_weight, "classification": classification_weight}
        if self.classifier is not None:
            terms["classification"] = self._cross_entropy(posteriors["joint"].mean, cells, noise)
        scaled = {name: self.n_genes * weight for name, weight in weights.items() if name in terms}
        return Loss(terms, {"reconstruction": rna_weight, **scaled})

    def _squared_error(self, z: Sequence[Tensor], cells: Minibatch, noise: Noise | None) -> Tensor:
        """Summed over genes; the mean over the cells and over the `z` that they are decoded from."""
        hidden = self.rna_hidden(torch.cat(list(z)), _repeated(cells.categories, len(z)), noise)
        expected = self.expression(self.rna_decoder(hidden, noise=noise)).unflatten(0, (len(z), -1))
        return (expected - self._observed(cells)).square().sum(-1).mean()

    def _of_residues(self, z: Sequence[Tensor], cells: Minibatch, noise: Noise | None) -> Tensor:
        """−log p in nats, the mean over the residues of both chains."""
        hidden = self.tcr_hidden(torch.cat(list(z)), _repeated(cells.categories, len(z)), noise)
        chains = [replace(chain, of_cell=chain.of_cell.repeat(len(z))) for chain in cells.receptors.chains]
        n_residues = sum(chain.n_residues for chain in chains)
        if not self.training:
            told = [of(hidden, chain, noise) for of, chain in zip(self.chain_decoders, chains)]
            return sum(one.sum() for one in told) / n_residues
        is_alpha = noise.kept_like(hidden[:, 0], 0.5) > 0
        told = [
            of(hidden[drawn], chain.of(drawn), noise)
            for of, chain, drawn in zip(self.chain_decoders, chains, (is_alpha, ~is_alpha))
        ]
        return 2 * sum(one.sum() for one in told) / n_residues

    def _cross_entropy(self, z: Tensor, cells: Minibatch, noise: Noise | None) -> Tensor:
        if cells.labels is None or not (cells.labels >= 0).any():
            return z.new_zeros(())
        return F.cross_entropy(self.classifier(z, noise), cells.labels, ignore_index=-1)

    def _observed(self, cells: Minibatch) -> Tensor:
        """Log-normalised expression, (cells, genes)."""
        if not self.config.normalize:
            return cells.counts
        return torch.log1p(cells.counts * (COUNTS_PER_CELL / cells.library_size))


def _shape(activation: str, dropout_rate: float, batch_norm: bool) -> dict[str, Any]:
    slope = {"negative_slope": SLOPES[activation], "dropout_rate": dropout_rate}
    return {**slope, "batch_norm": batch_norm, "bias": not batch_norm, **TORCH_BATCH_NORM}


def _repeated(categories: Mapping[str, Tensor], n: int) -> dict[str, Tensor]:
    return {variable: codes.repeat(n) for variable, codes in categories.items()}


class mvTCR(Model):
    """mvTCR: integrates T-cell receptors and RNA, for clusters of cells alike in both, and to tell what cells bind.

    Parameters
    ----------
    adata
        Raw counts in X, or in the layer that `layer` names, or log-normalised values there; or a MuData of scirpy with
        the modalities `gex` and `airr`. Each cell has both chains. Not modified.
    receptor_keys
        Columns of `obs` with the CDR3 (amino acids) of alpha and of beta; or the key of `obsm` with contigs. None:
        found by their names; see `data.receptors`.
    batch_key, labels_key, layer
        Columns of `obs` (and a layer) to read; see `DataSchema`. Labels serve `supervised=True`.
    unlabeled_category, categorical_covariate_keys, continuous_covariate_keys
        See `DataSchema`.
    seed
        Of the initial weights.
    **config
        Fields of `MvTCRConfig`.

    Raises
    ------
    DataError
        If there are no receptors, or a sequence is empty, too long or not of amino acids.

    References
    ----------
    Drost et al. 2024, doi:10.1038/s41467-024-49806-9. Surgery: Lotfollahi et al. 2022, doi:10.1038/s41587-021-01001-7.

    Examples
    --------
    >>> model = mvTCR(adata[mvTCR.has_receptor(adata)].copy(), batch_key="donor")
    >>> model.train()
    >>> query = mvTCR.load_query_data(adata_query, model)
    >>> query.train()
    >>> epitopes = query.predict_by_neighbors(reference=adata, labels_key="epitope")
    """

    config_class, module_class, plan_class = MvTCRConfig, MvTCRModule, MvTCRPlan
    models: SimpleNamespace  # mvtcr's path to its classes, such as mvTCR.models.mixture_modules.moe.MoEModel
    reads_receptors, needs_labels = True, False
    _wanted_receptors: tuple[str, ...] | None = None

    def __init__(self, adata, *, receptor_keys: Sequence[str] | str | None = None, **options: Any):
        options, adata = respelled(options), with_receptors(adata)
        noted = getattr(adata, "uns", {}).get(NOTE, {})
        receptor_keys = noted.get("receptor_keys") if receptor_keys is None else receptor_keys
        self._wanted_receptors = _as_keys(receptor_keys)
        if options.get("normalize") is None:
            layer = options.get("layer", noted.get("layer"))
            if hasattr(adata, "layers") and (layer is None or layer in adata.layers):
                options["normalize"] = _holds_counts(matrix_of(adata, layer))
                values = "counts, which are normalised" if options["normalize"] else "taken as log-normalised"
                logger.info("The values of the genes are %s.", values)
        super().__init__(adata, **options)

    def _new_module(self, schema: DataSchema) -> nn.Module:
        if self.config.n_embedding % self.config.n_heads:
            raise ValueError(
                f"n_heads={self.config.n_heads} must divide n_embedding={self.config.n_embedding}, for each head of "
                "attention gets its share of a residue's vector."
            )
        return super()._new_module(schema)

    @property
    def expects(self) -> str:
        return {True: "counts", False: "normalized", None: "any"}[self.config.normalize]

    def _schema_of(self, adata, keys: Mapping[str, Any]) -> DataSchema:
        for name in self.config.metadata:
            if name not in adata.obs:
                raise DataError(
                    f"metadata names '{name}', which is no column of obs.{did_you_mean(name, adata.obs.columns)} "
                    f"There are: {listed(adata.obs.columns, 20)}."
                )
        keys_of_receptors = self._wanted_receptors or the_receptor_keys(adata)
        table = receptor_table(adata, keys_of_receptors)
        _announce(check_receptors(table, adata.obs_names, self.config.max_tcr_length))
        schema = replace(super()._schema_of(adata, keys), receptor_keys=keys_of_receptors)
        if self.config.supervised and not schema.labels:
            raise ValueError("supervised=True learns labels, and there are none. Pass labels_key, a column of obs.")
        self._balanced_by(adata)
        return schema

    @classmethod
    def setup_anndata(cls, adata, *, receptor_keys: Sequence[str] | str | None = None, **keys: Any) -> None:
        """Note in `adata.uns["scarches_widgets"]` which keys models are to read, so that `mvTCR(adata)` suffices.

        Parameters
        ----------
        adata
            Gets the note, and no other change.
        receptor_keys
            As of the model.
        **keys
            As in `Model.setup_anndata`.
        """
        super().setup_anndata(adata, **keys)
        if receptor_keys is not None:
            adata.uns[NOTE]["receptor_keys"] = list(_as_keys(receptor_keys))

    @staticmethod
    def has_receptor(adata, receptor_keys: Sequence[str] | str | None = None) -> np.ndarray:
        """Which cells have a CDR3 of both chains, bool (cells,).

        Parameters
        ----------
        adata
            Cells.
        receptor_keys
            As of the model.
        """
        return receptor_table(adata, _as_keys(receptor_keys) or the_receptor_keys(adata)).has_both

    # Training

    def train(self, max_epochs: int | None = None, *, early_stop: int | None = None, **options: Any) -> TrainingRun:
        """Fit the model to its cells; see `Model.train`.

        Parameters
        ----------
        max_epochs
            None: from the number of cells and the schedule.
        early_stop
            mvtcr's: stop after so many epochs without a better validation loss.
        **options
            Fields of `MvTCRPlan`, and the other arguments of `Model.train`.
        """
        options = respelled(options)
        if early_stop is not None:
            options |= {"early_stopping": True, "patience": early_stop}
        published = {"batch_size": PUBLISHED_BATCH_SIZE} if options.get("schedule") == "published" else {}
        options = published | self.config.training | options
        if max_epochs is not None:
            options["max_epochs"] = max_epochs
        return super().train(**options)

    def _training_cells(self, plan: MvTCRPlan) -> GroupedCells:
        adata = self._adata_or_own(None)
        groups = receptor_table(adata, self.schema.receptor_keys).clonotypes
        if CLONOTYPE in adata.obs:
            groups = connected_groups(groups, as_text(adata.obs[CLONOTYPE]))
        return GroupedCells(self._cells(adata), plan, groups, self._balanced_by(adata))

    def _resolved(self, plan: MvTCRPlan, cells: GroupedCells) -> TrainingPlan:
        if plan.kl_weight is None:
            plan = replace(plan, kl_weight=self._kl_weight if self._surgeries else 1 / self.module.n_genes)
        if plan.tcr_weight is None:
            table = receptor_table(self._adata_or_own(None), self.schema.receptor_keys)
            plan = replace(plan, tcr_weight=table.n_predicted.mean() / self.module.n_genes)
        resolved = super()._resolved(plan, cells)
        # a query's labels would pull on nothing but its batches' vectors
        return replace(resolved, classification_weight=0.0) if self._surgeries else resolved

    def _balanced_by(self, adata) -> np.ndarray | None:
        """The group of each cell by which sampling is balanced."""
        key = self.config.balanced_sampling
        if key is None or key in adata.obs:
            return None if key is None else as_text(adata.obs[key])
        if key == CLONOTYPE:
            return receptor_table(adata, self._wanted_receptors or the_receptor_keys(adata)).clonotypes
        raise DataError(
            f"balanced_sampling names '{key}', which is no column of obs.{did_you_mean(key, adata.obs.columns)} Pass "
            "another, None for no balance, or 'clonotype' for that of the receptors."
        )

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
            Cells; None for the model's own; or a list of several. Genes and batches are matched by name.
        modality
            "joint": by RNA and receptor. "rna", "tcr": by one alone. A sequence such as ("rna", "tcr"): one array for
            each.
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
            near = did_you_mean(modality, MODALITIES)
            raise ValueError(f"modality='{modality}' is none of {listed(MODALITIES)}.{near}")
        if modality != "joint" and self.config.combine == "concat":
            raise ValueError(
                f"modality='{modality}' asks for the encoder of one modality, and with combine='concat' one encoder "
                "sees both. Use 'moe' or 'poe'."
            )

        def posterior(cells: Minibatch) -> Normal:
            return self.module.posteriors(cells, modality)[modality]

        return self._latents(adata, posterior, **options)

    def get_latent(self, adata=None, metadata: Sequence[str] | None = None):
        """The joint latent as an AnnData, as mvtcr gives it.

        Parameters
        ----------
        adata
            Cells; None for the model's own.
        metadata
            Columns of `obs` to take along; None for the model's.
        """
        from anndata import AnnData

        cells = self._adata_or_own(adata)
        names = list(self.config.metadata if metadata is None else metadata)
        return AnnData(self.get_latent_representation(adata), obs=cells.obs[names].copy())

    def predict(self, adata=None, soft: bool = False, *, batch_size: int = 256) -> np.ndarray | pd.DataFrame:
        """Label each cell by the supervised head; without one, see `predict_by_neighbors`.

        Parameters
        ----------
        adata
            Cells; None for the model's own.
        soft
            Whether to return each label's probability.
        batch_size
            Cells at a time.

        Returns
        -------
        Labels, object (cells,); or with `soft`, a DataFrame, cells × labels, 0 to 1, rows sum to 1.
        """
        if self.module.classifier is None:
            raise RuntimeError(
                "This model has no supervised head. Train one with supervised=True and labels_key=…, or call "
                "predict_by_neighbors(adata, reference, labels_key)."
            )
        p = self._per_cell(adata, lambda cells: self.module.label_logits(cells).softmax(-1), batch_size)
        return self._told(p, self.schema.labels, self.schema.labels_key, adata, soft)

    def predict_by_neighbors(
        self,
        adata=None,
        reference=None,
        labels_key: str | None = None,
        *,
        n_neighbors: int = 5,
        modality: str = "joint",
        soft: bool = False,
    ) -> np.ndarray | pd.DataFrame:
        """Label each cell, such as by the epitope that it binds, by the nearest reference cells in latent space, whose
        votes weigh the inverse of their distance. Test it on other clonotypes than the reference's: see
        `data.receptors.split_clonotypes`.

        Parameters
        ----------
        adata
            Cells; None for the model's own.
        reference
            Cells with labels; unlabelled ones have no vote. None for the model's own.
        labels_key
            Column of the reference's `obs`; None for the model's.
        n_neighbors
            Cells that vote.
        modality
            As in `get_latent_representation`.
        soft
            Whether to return each label's share of the votes.

        Returns
        -------
        Labels, object (cells,); or with `soft`, a DataFrame, cells × labels, 0 to 1, rows sum to 1.
        """
        labels_key = self.schema.labels_key if labels_key is None else labels_key
        cells = self._adata_or_own(reference)
        if labels_key is None or labels_key not in cells.obs:
            near = did_you_mean(labels_key, cells.obs.columns) if labels_key else ""
            raise DataError(f"The reference's obs has no column '{labels_key}' of labels (labels_key).{near}")
        if not isinstance(n_neighbors, int | np.integer) or n_neighbors < 1:
            raise ValueError(f"n_neighbors must be a whole number of at least 1, not {n_neighbors!r}.")
        text = as_text(cells.obs[labels_key])
        has_label = pd.notna(text) & (text != self.schema.unlabeled_category)
        if not has_label.any():
            raise DataError(f"No cell of the reference has a label in obs['{labels_key}'].")
        codes, labels = pd.factorize(text[has_label], sort=True)
        of_reference = self.get_latent_representation(reference, modality=modality)[has_label]
        votes = neighbor_votes(
            self.get_latent_representation(adata, modality=modality), of_reference, codes, len(labels), n_neighbors
        )
        return self._told(votes, labels, labels_key, adata, soft)

    def _told(self, p: np.ndarray, labels: Sequence[str], key: str, adata, soft: bool) -> np.ndarray | pd.DataFrame:
        if not soft:
            return np.array(labels, dtype=object)[p.argmax(1)]
        columns = pd.Index(labels, name=key, dtype=object)
        return pd.DataFrame(p, index=self._adata_or_own(adata).obs_names, columns=columns)

    # Cells from elsewhere

    def _adata_or_own(self, adata):
        return with_receptors(super()._adata_or_own(adata))

    def _examine(self, adata) -> GeneReport:
        report = super()._examine(adata)
        table = receptor_table(adata, self.schema.receptor_keys)
        _announce(check_receptors(table, adata.obs_names, self.config.max_tcr_length))
        return report

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

        The query's receptors are read from the same place as the reference's. Training fits the vectors of its new
        batches; it does not learn from its labels.
        """
        return super().load_query_data(
            with_receptors(adata), reference_model, gene_map=gene_map, min_gene_overlap=min_gene_overlap
        )

    @classmethod
    def load(cls, path: str | os.PathLike, adata=None) -> Self:
        """Read a model that `save` wrote; see `Model.load`."""
        return super().load(path, with_receptors(adata) if adata is not None else None)


def neighbor_votes(
    z: np.ndarray, reference_z: np.ndarray, codes: np.ndarray, n_labels: int, n_neighbors: int
) -> np.ndarray:
    """Each label's share of the votes of the nearest cells, float32 (cells, labels); a vote weighs 1 / distance, and
    where cells lie at the very place, they alone vote."""
    reference, votes = torch.from_numpy(reference_z), []
    for part in torch.from_numpy(z).split(1024):
        distances, nearest = torch.cdist(part, reference, compute_mode="donot_use_mm_for_euclid_dist").topk(
            min(n_neighbors, len(reference)), largest=False
        )
        at_place = distances == 0
        weights = torch.where(at_place.any(1, keepdim=True), at_place.float(), 1 / distances)
        of_labels = torch.zeros(len(part), n_labels).scatter_add_(1, torch.from_numpy(codes)[nearest], weights)
        votes.append(of_labels / of_labels.sum(1, keepdim=True))
    return torch.cat(votes).numpy()


def _as_keys(keys: Sequence[str] | str | None) -> tuple[str, ...] | None:
    return (keys,) if isinstance(keys, str) else None if keys is None else tuple(str(key) for key in keys)


# ---- as mvtcr spells it ----------------------------------------------------------------------------------------------

ARCHITECTURE = {  # part of params_architecture -> its keys -> options here
    "": {"batch_size": "batch_size", "learning_rate": "lr"},
    "joint": {
        "activation": "activation",
        "batch_norm": "use_batch_norm",
        "dropout": "dropout_rate",
        "hdim": "n_hidden",
        "shared_hidden": "shared_hidden",
        "zdim": "n_latent",
        "c_embedding_dim": "n_condition",
    },
    "rna": {
        "activation": "rna_activation",
        "batch_norm": "rna_batch_norm",
        "dropout": "rna_dropout_rate",
        "gene_hidden": "gene_hidden",
    },
    "tcr": {
        "embedding_size": "n_embedding",
        "num_heads": "n_heads",
        "forward_expansion": "forward_expansion",
        "encoding_layers": "n_layers_encoder",
        "decoding_layers": "n_layers_decoder",
        "dropout": "sequence_dropout_rate",
        "max_tcr_length": "max_tcr_length",
        "num_seq_labels": "n_tokens",
    },
}
NOT_READ = {  # as options; of the parts, what mvtcr itself takes from the data
    "": ("loss_weights", "joint", "rna", "tcr"),
    "joint": ("num_conditional_labels", "cond_dim", "cond_input"),
    "rna": ("xdim",),
}
ONE_VALUE = {  # keys for which mvtcr's models know one value, and so do ours
    "joint": {"losses": ["MSE", "CE"], "use_embedding_for_cond": True},
    "rna": {"output_activation": "linear"},
    "tcr": {"beta_only": False},
}
COUNTED = {"joint": "shared_hidden", "rna": "gene_hidden"}  # num_layers says how many these are


def options_of(params_architecture: Mapping[str, Any]) -> dict[str, Any]:
    """mvtcr's dict of an architecture as options of `mvTCR`.

    Raises
    ------
    TypeError
        If it has an unknown key; the nearest is offered.
    ValueError
        If a value is one that mvtcr's models cannot have, or contradicts another.
    """
    if not isinstance(params_architecture, Mapping):
        raise TypeError(f"params_architecture is a dict of dicts, not {params_architecture!r}.")
    options: dict[str, Any] = {}
    for part, ours in ARCHITECTURE.items():
        values = params_architecture if not part else params_architecture.get(part, {})
        where = f"params_architecture['{part}']" if part else "params_architecture"
        if not isinstance(values, Mapping):
            raise TypeError(f"{where} is a dict, not {values!r}.")
        fixed, counted = ONE_VALUE.get(part, {}), COUNTED.get(part)
        others = [*NOT_READ.get(part, ()), *fixed, *(["num_layers"] if counted else [])]
        for name, value in values.items():
            if name in ours:
                options[ours[name]] = value
            elif name not in others:
                raise TypeError(
                    f"{where} has an unknown key '{name}'.{did_you_mean(name, [*ours, *others])} "
                    f"Its keys: {listed([*ours, *others], 20)}."
                )
            elif name in fixed and _plain(value) != fixed[name]:
                raise ValueError(f"{where}['{name}']={value!r}: there is {fixed[name]!r} alone. Leave the key out.")
            elif name == "num_layers" and counted in values and value != len(values[counted]):
                raise ValueError(
                    f"{where} says num_layers={value} and gives {len(values[counted])} widths in '{counted}' "
                    f"({values[counted]!r}). Make them agree."
                )
    training = {name: options.pop(name) for name in ARCHITECTURE[""].values() if name in options}
    weights = params_architecture.get("loss_weights", ())
    if len(weights) not in (0, 3):
        raise ValueError(
            f"params_architecture['loss_weights']={weights!r}: there are three, of RNA, receptor and KL divergence."
        )
    return options | {"training": training | dict(zip(("rna_weight", "tcr_weight", "kl_weight"), weights))}


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _as_in_mvtcr(combine: str):
    def model(
        adata,
        params_architecture: Mapping[str, Any],
        balanced_sampling: str | None = CLONOTYPE,
        metadata: Sequence[str] | None = None,
        conditional: str | None = None,
        label_key: str | None = None,
        **options: Any,
    ) -> mvTCR:
        """The model as mvtcr makes it.

        Parameters
        ----------
        adata, **options
            As of `mvTCR`.
        params_architecture
            mvtcr's dict, with the parts "joint", "rna" and "tcr"; what it leaves out has its default.
        balanced_sampling, metadata
            As of `MvTCRConfig`.
        conditional
            Column of `obs` with the batch.
        label_key
            Column of `obs` with labels for a supervised head.
        """
        options = options_of(params_architecture) | options
        if label_key is not None:
            options |= {"labels_key": label_key, "supervised": True}
        names = {"balanced_sampling": balanced_sampling, "metadata": tuple(metadata or ())}
        return mvTCR(adata, combine=combine, batch_key=conditional, **names, **options)

    return model


MoEModel, PoEModel = (_as_in_mvtcr(combine) for combine in ("moe", "poe"))
MoEModel.__name__, PoEModel.__name__ = "MoEModel", "PoEModel"
mvTCR.models = SimpleNamespace(
    mixture_modules=SimpleNamespace(moe=SimpleNamespace(MoEModel=MoEModel), poe=SimpleNamespace(PoEModel=PoEModel))
)
