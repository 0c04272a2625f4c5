"""scANVI: scVI with labels, a latent hierarchy and a classifier. Xu et al. 2021, doi:10.15252/msb.20209620.

    y ~ Categorical(1 / labels)                             the cell's label, known for some
    z2 ~ Normal(0, I)                                       what the cell is, within its label
    z1 ~ Normal(mean(z2, y), variance(z2, y))               what the cell is: the latent that users see
    counts ~ as in scVI, from z1                            see `scvi`

The loss of a cell, in nats, over one draw z1 ~ q(z1 | counts, batch) and p_y = classifier(z1)_y:

    reconstruction    −log p(counts | z1)
    kl_z1             log q(z1) − Σ_y p_y log p(z1 | z2_y, y)            z2_y ~ q(z2 | z1, y), for each label y
    kl_z2             Σ_y p_y KL(q(z2 | z1, y) ‖ Normal(0, I))           weighted by kl_weight
    kl_labels         KL(p ‖ 1 / labels)                                 weighted by kl_weight
    classification    −log classifier(mean of q(z1))_label               weighted by classification_weight

The last is taken over other cells, all labelled, which each step gets beside its own; the others over all cells, as if
none were labelled. This, and the defaults, are scvi-tools 1.4.2's. Differs from the paper, as scvi-tools does: the
library size is observed, and labelled cells have no loss of their own besides the classification. Differs from
scvi-tools: labels may be missing in the query, new there, or grow; batches enter through tables that surgery extends
(see `nn.layers`); labelled cells come in another order in each round; parts that the options do not use are
not built; a model remembers where its labels lie, to tell how new a cell is.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict, replace
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from ..data.minibatches import Minibatch
from ..data.names import DataError, did_you_mean
from ..data.schema import BATCH, LABEL, DataSchema, levels_of
from ..nn.classifier import Classifier, LabelNovelty
from ..nn.counts_encoder import CountsEncoder, log_density
from ..nn.divergences import Normal, kl_to_standard_normal
from ..nn.expression import ExpressionDecoder
from ..nn.layers import ConditionalLinear, Encoder
from ..nn.library_size import LibrarySize
from ..nn.loss import Loss
from ..nn.ranks import mean_of
from ..training.cells import TrainingCells
from ..training.options import respelled, typed
from ..training.plan import BRISK, Pace, TrainingPlan
from . import surgery
from .base import LEAST_OVERLAP, Model
from .expression import ExpressionVerbs
from .labels import LabelVerbs, check_label_options

Norm = Literal["encoder", "decoder", "none", "both"]


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class SCANVIConfig:
    n_latent: Annotated[int, Field(ge=1, le=4096)] = 10  # dimensions of z1, and of z2
    n_hidden: Annotated[int, Field(ge=1, le=8192)] = 128  # width of each hidden layer
    n_layers: Annotated[int, Field(ge=1, le=16)] = 1  # hidden layers of encoders, decoders and classifier
    dropout_rate: Annotated[float, Field(ge=0, lt=1)] = 0.1  # in encoders and classifier
    gene_likelihood: Literal["zinb", "nb", "poisson", "normal"] = "zinb"
    dispersion: Literal["gene", "gene-batch"] = "gene"  # one per gene, or one per gene and batch
    encode_covariates: bool = False  # whether the encoder sees batches; without, surgery cannot move a query's latents
    deeply_inject_covariates: bool = True  # into every layer, or only into the first
    use_observed_lib_size: bool = True  # otherwise a cell's library size is inferred
    use_batch_norm: Norm = "both"
    use_layer_norm: Norm = "none"
    linear_classifier: bool = False  # no hidden layers in the classifier

    def norms(self, part: Literal["encoder", "decoder"]) -> dict[str, bool]:
        """Which normalisations encoder or decoder has."""
        return {
            "batch_norm": self.use_batch_norm in (part, "both"),
            "layer_norm": self.use_layer_norm in (part, "both"),
        }

    @property
    def is_brisk(self) -> bool:
        """As `SCVIConfig.is_brisk`."""
        plain = self.n_layers == 1 and self.use_batch_norm == "both" and self.use_layer_norm == "none"
        return plain and not self.encode_covariates


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class SCANVIPlan(TrainingPlan):
    classification_weight: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 50.0
    n_samples_per_label: Annotated[int, Field(ge=1)] | None = None  # labelled cells of each label per epoch; None: all

    pace: ClassVar[Pace] = Pace(steps=700)  # with more, labels are learned by heart where cells are few

    def loss_weights(self, epoch: int) -> dict[str, float]:
        return {"classification_weight": self.classification_weight}


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class BriskSCANVIPlan(SCANVIPlan):
    # else less well mixed within labels, of many cells too
    pace: ClassVar[Pace] = BRISK._replace(kl_warm_up=0.4, batch_rate=5.0, fewest_epochs=20)


class SCANVIModule(nn.Module):
    is_shared = True  # several processes may train it together

    def __init__(self, schema: DataSchema, config: SCANVIConfig):
        super().__init__()
        self.config = config
        n_latent, n_labels = config.n_latent, len(schema.labels)
        shape = {"n_hidden": config.n_hidden, "n_layers": config.n_layers}
        in_encoder = {"dropout_rate": config.dropout_rate, **config.norms("encoder")}
        of_labels = {"levels": {LABEL: n_labels}, "inject_everywhere": True}
        of_batches = {"levels": schema.n_levels, "inject_everywhere": config.deeply_inject_covariates}
        of_batches["n_continuous"] = len(schema.continuous_covariates)
        of_counts = {"encode_covariates": config.encode_covariates, "log_counts": config.gene_likelihood != "normal"}
        self.encoder = CountsEncoder(schema.n_genes, n_latent, **shape, **of_counts, **of_batches, **in_encoder)
        self.library = None
        if not config.use_observed_lib_size:
            self.library = LibrarySize(
                schema.n_genes, BATCH, n_hidden=config.n_hidden, **of_counts, **of_batches, **in_encoder
            )
        self.decoder = ExpressionDecoder(
            n_latent,
            schema.n_genes,
            likelihood=config.gene_likelihood,
            dispersion_by=BATCH if config.dispersion == "gene-batch" else None,
            **shape,
            **of_batches,
            **config.norms("decoder"),
        )
        self.z2_encoder = Encoder(n_latent, n_latent, **shape, **of_labels, **in_encoder)
        self.z1_decoder = Encoder(
            n_latent, n_latent, **shape, **of_labels, **config.norms("decoder"), least_variance=0.0
        )
        n_layers = 0 if config.linear_classifier else config.n_layers
        self.classifier = Classifier(n_latent, LABEL, n_labels, config.n_hidden, n_layers, **in_encoder)
        self.label_novelty = LabelNovelty(LABEL, n_labels, n_latent)

    def paces(self, plan: TrainingPlan) -> Iterator[tuple[nn.Parameter, float]]:
        """The decoder's rows of batches learn faster, so that they learn what batches differ in, and z1 does not."""
        linears = (part for part in self.decoder.modules() if isinstance(part, ConditionalLinear))
        return ((offset.blocks[0], plan.batch_rate) for linear in linears for offset in linear.offsets)

    def forward(self, cells: Minibatch, kl_weight: float = 1.0, classification_weight: float = 50.0) -> Loss:
        return self.loss(cells, kl_weight, classification_weight)

    def encode(self, cells: Minibatch) -> Normal:
        """q(z1 | counts, batch), over (cells, n_latent)."""
        return self.encoder(cells)

    def label_logits(self, cells: Minibatch) -> Tensor:
        """Of the posterior mean, (cells, labels)."""
        return self.classifier(self.encode(cells).mean, cells.noise)

    def loss(self, cells: Minibatch, kl_weight: float = 1.0, classification_weight: float = 50.0) -> Loss:
        posterior = self.encode(cells)
        z1 = posterior.rsample(cells.noise)
        log_p = F.log_softmax(self.classifier(z1, cells.noise), dim=-1)  # (cells, labels)
        p = log_p.exp()
        log_prior_z1, kl_z2 = self.within_labels(z1, cells)  # both (cells, labels)
        terms = {}
        if self.library is not None:
            cells, kl_library = self.library(cells)
            terms["kl_library"] = mean_of(kl_library, cells)
        terms |= {
            "reconstruction": mean_of(-self.decoder.log_likelihood(z1, cells), cells),
            "kl_z1": mean_of(log_density(z1, posterior) - (p * log_prior_z1).sum(-1), cells),
            "kl_z2": mean_of((p * kl_z2).sum(-1), cells),
            "kl_labels": mean_of((p * log_p).sum(-1) + np.log(p.shape[-1]), cells),
        }
        if cells.labelled is not None:
            logits = self.label_logits(cells.labelled.with_noise(cells.noise))
            surprise = F.cross_entropy(logits, cells.labelled.labels, reduction="none")
            terms["classification"] = mean_of(surprise, cells.labelled)
        weights = dict.fromkeys(("kl_z2", "kl_labels", "kl_library"), kl_weight)
        return Loss(terms, weights | {"classification": classification_weight})

    def within_labels(self, z1: Tensor, cells: Minibatch) -> tuple[Tensor, Tensor]:
        """log p(z1 | z2, label) and KL(q(z2 | z1, label) ‖ Normal(0, I)) for each label, both (cells, labels)."""
        n_cells, n_labels = len(z1), len(self.label_novelty.means)
        labels = {LABEL: torch.arange(n_labels, device=z1.device).repeat_interleave(n_cells)}
        z1 = z1.repeat(n_labels, 1)  # all labels in one pass: (labels · cells, n_latent)
        q_z2 = self.z2_encoder(z1, labels, cells.noise)
        p_z1 = self.z1_decoder(q_z2.rsample(cells.noise), labels)
        both = log_density(z1, p_z1), kl_to_standard_normal(q_z2).sum(-1)
        return tuple(values.view(n_labels, n_cells).T for values in both)


class SCANVI(LabelVerbs, ExpressionVerbs, Model):
    """scANVI: integrates counts of several batches with the help of labels, and labels further cells.

    Parameters
    ----------
    adata
        Raw counts in X, or in the layer that `layer` names. Not modified.
    labels_key
        Column of `obs` with the labels. Cells whose label is missing, or `unlabeled_category`, are unlabelled.
    batch_key, layer, size_factor_key, categorical_covariate_keys, continuous_covariate_keys
        Further columns of `obs` (and a layer) to read; see `DataSchema`.
    unlabeled_category
        The name that stands for "not labelled"; None if there is none.
    seed
        Of the initial weights.
    **config
        Fields of `SCANVIConfig`. A reference that queries are to be mapped onto needs `encode_covariates=True`.

    Raises
    ------
    DataError
        If no cell has a label.

    References
    ----------
    Xu et al. 2021, doi:10.15252/msb.20209620. Surgery: Lotfollahi et al. 2022, doi:10.1038/s41587-021-01001-7.

    Examples
    --------
    >>> model = SCANVI(adata, batch_key="batch", labels_key="cell_type", encode_covariates=True)
    >>> model.train()
    >>> query = SCANVI.load_query_data(adata_query, model)
    >>> query.train()
    >>> adata_query.obs["cell_type"] = query.predict()
    """

    config_class, module_class, plan_class = SCANVIConfig, SCANVIModule, SCANVIPlan
    flags = ("ignores_labels", "is_pretrained")
    ignores_labels = False  # in training, those of its own cells
    is_pretrained = False  # as an SCVI

    def _new_module(self, schema: DataSchema) -> nn.Module:
        if not schema.labels:
            raise DataError(
                "SCANVI learns from labels, and was told of none. Name the column of obs that has them: "
                "SCANVI(adata, labels_key='cell_type', unlabeled_category='Unknown'); or use SCVI, which needs none."
            )
        return super()._new_module(schema)

    @classmethod
    def from_scvi_model(
        cls,
        scvi_model: Model,
        unlabeled_category: str | None = None,
        labels_key: str | None = None,
        adata=None,
        *,
        seed: int = 0,
        **config: Any,
    ) -> SCANVI:
        """A scANVI that starts where a trained scVI stands; it needs a third of the epochs.

        Parameters
        ----------
        scvi_model
            A trained SCVI. It is not modified.
        unlabeled_category
            The label that stands for "not labelled"; None: the SCVI's, or none.
        labels_key
            Column of `obs` with the labels; None: the SCVI's.
        adata
            Cells to train on; None: the SCVI's. They are read by the SCVI's keys.
        seed
            Of the weights that the SCVI does not have.
        **config
            Fields of `SCANVIConfig` that the SCVI does not have; the others are its own.

        Returns
        -------
        SCANVI
            Yet to be trained.

        Raises
        ------
        TypeError, ValueError
            If it is no SCVI, is not trained, or an option contradicts it.
        DataError
            If the cells are unfit, or have no labels.
        """
        if "SCVI" not in (base.__name__ for base in type(scvi_model).__mro__):
            raise TypeError(f"from_scvi_model takes an SCVI and was given a {type(scvi_model).__name__}.")
        scvi_model._refuse_while_training()
        if not scvi_model.is_trained and not scvi_model._surgeries:
            raise RuntimeError("The SCVI has not been trained. Call its train() first, or use SCANVI(adata, …).")
        model = cls.__new__(cls)
        model.config = typed(cls.config_class, _beside(asdict(scvi_model.config), respelled(config)), of=cls.__name__)
        adata = scvi_model._adata_or_own(adata)
        schema = scvi_model.schema
        labels_key = labels_key or schema.labels_key
        if labels_key is not None and labels_key not in adata.obs:
            near = did_you_mean(labels_key, adata.obs.columns)
            raise DataError(f"obs has no column '{labels_key}' to read labels from (labels_key).{near}")
        unlabeled_category = schema.unlabeled_category if unlabeled_category is None else str(unlabeled_category)
        labels = () if labels_key is None else levels_of(adata.obs[labels_key])
        model.schema = replace(
            schema,
            labels_key=labels_key,
            labels=tuple(label for label in labels if label != unlabeled_category),
            unlabeled_category=unlabeled_category,
        )
        model.module = model._new_module(model.schema)
        model._initialize(seed)
        for name in ("encoder", "decoder", "library"):
            if (part := getattr(scvi_model.module, name)) is not None:
                surgery.copy_weights(part, getattr(model.module, name))
        model._start(adata)
        model.gene_map, model.min_gene_overlap = scvi_model.gene_map, scvi_model.min_gene_overlap
        model._validate(adata)
        model.schema.codes(adata)  # refuses batches that the SCVI has not seen
        model.is_pretrained = True
        return model

    # Training

    @classmethod
    def plan_class_for(cls, config: SCANVIConfig) -> type[TrainingPlan]:
        return BriskSCANVIPlan if config.is_brisk else SCANVIPlan

    def _training_cells(self, plan: SCANVIPlan) -> TrainingCells:
        adata = self._adata_or_own(None)
        labels = None if self.ignores_labels else self.schema.label_codes(adata)
        return TrainingCells(self._cells(adata), plan, labels, plan.n_samples_per_label)

    def _resolved(self, plan: SCANVIPlan, cells: TrainingCells) -> TrainingPlan:
        resolved = super()._resolved(plan, cells)
        if plan.max_epochs is None and self.is_pretrained:
            third = max(2, round(resolved.max_epochs / 3))
            return replace(resolved, max_epochs=min(10, third) if plan.schedule == "published" else third)
        return resolved

    # Surgery

    @classmethod
    def load_query_data(
        cls,
        adata,
        reference_model: Model | str | os.PathLike,
        *,
        gene_map: str | Mapping[str, str] | None = None,
        min_gene_overlap: float = LEAST_OVERLAP,
        query_labels: Literal["use", "ignore"] = "use",
        new_labels: Literal["ignore", "hold out", "extend"] = "ignore",
    ) -> SCANVI:
        """Adapt a reference to a query by architecture surgery; see `Model.load_query_data`.

        Classifier and label tables stay as they are. The query needs no column of labels.

        Parameters
        ----------
        adata, reference_model, gene_map, min_gene_overlap
            As in `Model.load_query_data`.
        query_labels
            "use": query cells that carry a label help to fit the query's batches, as published. "ignore": all query
            cells are taken as unlabelled; do so wherever predictions are then compared with these labels.
        new_labels
            What becomes of labels that the reference does not know. "ignore": their cells are taken as unlabelled,
            with a warning. "hold out": the same, without a warning, and `held_out_report()` says what became of them.
            "extend": classifier and label tables get rows for them, which training then fits, and nothing else of
            the classifier.

        Returns
        -------
        SCANVI

        Raises
        ------
        ValueError
            If `query_labels` and `new_labels` contradict each other, or are none of the above.
        """
        check_label_options(query_labels, new_labels)
        reference = cls._reference(reference_model)
        query = super().load_query_data(adata, reference, gene_map=gene_map, min_gene_overlap=min_gene_overlap)
        query.ignores_labels = query_labels == "ignore"
        new = reference.schema.new_labels(adata)
        query._take_labels(new, new_labels)
        return query

    def _learn_labels(self, new: tuple[str, ...]) -> None:
        surgery.grow(self.module, {LABEL: len(new)})
        self.schema = self.schema.extended({LABEL: new})
        self._surgeries[-1][LABEL] = len(new)


def _beside(of_scvi: Mapping[str, Any], config: Mapping[str, Any]) -> dict[str, Any]:
    """The SCVI's options and others; refuses others that contradict."""
    for name, value in config.items():
        if name in of_scvi and value != of_scvi[name]:
            raise ValueError(
                f"{name}={value!r} contradicts the SCVI, which has {name}={of_scvi[name]!r}, and whose weights are "
                f"taken over. Leave {name} out, or train an SCVI with {name}={value!r}."
            )
    return {**of_scvi, **config}
