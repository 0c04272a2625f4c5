"""scPoli: conditions as learned vectors, labels as prototypes. De Donno et al. 2023, doi:10.1038/s41592-023-02035-2.

    z ~ Normal(0, I)                                             what the cell is
    s = vectors of the cell's conditions, side by side           learned, of length 1 at most
    fractions = softmax(decoder(z, s))                           each gene's share of the cell's counts
    counts ~ NegativeBinomial(library_size · fractions, inverse_dispersion of gene and batch)

The loss of a cell, in nats but for the last:

    reconstruction    −log p(counts | z, s), or the squared error of log-normalised values
    kl_latent         KL(q(z | counts, s) ‖ Normal(0, I))                      weighted by kl_weight
    prototype         Σ over labels of the mean distance of their cells' z from the prototype, within the minibatch;
                      after `pretraining_epochs`                               weighted by prototype_weight (eta)

A label's prototype is the mean of its training cells' latents, taken anew before each epoch. A cell is labelled by the
nearest one. Surgery adds a vector for each new condition and trains that alone; new labels get prototypes, the
reference's stay.

Defaults are those of scArches 0.6.1. `schedule="published"` is its trainer's: 100 epochs, the first 90 % of them
without prototypes, Adam with lr 1e-3, eps 0.01 and weight decay 0.04 on all but the conditions' vectors, the KL term
warmed up over 100 epochs, no early stopping. `schedule="auto"` is one cycle (see `training.plan`) of 700 steps, the
second half of them with prototypes: after 1,000, cells of labels that the reference lacks were no farther from the
prototypes than others. Of few cells it is 100 epochs (300 steps at least) at a lower rate, for the same reason. Differs
from scArches:

- prototypes, labels and uncertainties come of posterior means, not of draws, so that each call gives the same;
- a new condition starts at the mean of the reference's vectors, with their mean dispersion, which stays as it is (as in
  the paper; scArches' code trains the whole table of dispersions, and weight decay moves the reference's columns);
- with several conditions, dispersions are of the first, not of each combination, so that combinations may be new;
- each column of labels has prototypes of its own, and they are located before the first epoch that uses them;
- unlabelled prototypes are clusters of the final latents: as there (by default) they follow the cells, and draw none;
- cells come once in an epoch, validation cells are drawn at random, and conditions and labels may be missing.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import numpy as np
import pandas as pd
import torch
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass
from torch import nn

from ..data.minibatches import Minibatch
from ..data.names import DataError, did_you_mean, listed
from ..data.schema import BATCH, LABEL, DataSchema, levels_of
from ..nn.classifier import LabelNovelty
from ..nn.condition_embedding import ConditionEmbedding, EmbeddedLinear
from ..nn.counts_encoder import CountsEncoder
from ..nn.divergences import Normal, kl_to_standard_normal
from ..nn.expression import ExpressionDecoder
from ..nn.layers import TORCH_BATCH_NORM
from ..nn.loss import Loss
from ..nn.prototypes import MOST_CLUSTERS, Prototypes
from ..training.plan import NotNegative, Pace, TrainingPlan
from ..training.scarches import ScArchesPlan
from .base import LEAST_OVERLAP, Model, Widths, _noted_keys, _split_options
from .expression import ExpressionVerbs
from .labels import LabelVerbs, check_label_options
from .prototypes import LabelledCells, PrototypeVerbs

if TYPE_CHECKING:
    from anndata import AnnData

PUBLISHED_EPOCHS, PUBLISHED_PRETRAINING, PUBLISHED_WEIGHT = 100, 0.9, 1.0
AUTO_PRETRAINING, AUTO_WEIGHT = 0.5, 5.0
Width = Annotated[int, Field(ge=1, le=4096)]


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class ScPoliConfig:
    hidden_layer_sizes: Widths | None = None  # of the encoder; the decoder's are reversed. None: one of √genes units
    n_latent: Width = 10  # dimensions of z
    embedding_dims: Width | tuple[Width, ...] = 10  # of a condition's vector; or one number per condition key
    embedding_max_norm: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1.0  # greatest length of such a vector
    dropout_rate: Annotated[float, Field(ge=0, lt=1)] = 0.05  # in encoder and decoder
    gene_likelihood: Literal["nb", "zinb", "mse"] = "nb"  # mse: squared error, of log-normalised values
    use_batch_norm: bool = False
    use_layer_norm: bool = True
    further_labels: tuple[tuple[str, tuple[str, ...]], ...] = ()  # columns of labels besides the first, which the model
    unlabeled_categories: tuple[str, ...] = ()  # takes from labels_key; names that stand for "not labelled"

    def widths(self, n_genes: int) -> tuple[int, ...]:
        """Of the encoder's hidden layers."""
        return self.hidden_layer_sizes or (math.ceil(math.sqrt(n_genes)),)


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class ScPoliPlan(ScArchesPlan):
    kl_warmup_epochs: Annotated[int, Field(ge=0)] | None = None  # None: as in `TrainingPlan` for auto, 100 as published
    prototype_weight: NotNegative | None = None  # eta; None: 5 for auto, 1 as published
    pretraining_epochs: Annotated[int, Field(ge=0)] | None = None  # without prototypes; None: 50 %, 90 % as published
    unlabeled_prototype_training: bool = True  # whether clusters of unlabelled cells are looked for in the end
    clustering: Literal["leiden", "kmeans"] = "leiden"
    clustering_resolution: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 2.0  # of Leiden
    n_clusters: Annotated[int, Field(ge=1, le=MOST_CLUSTERS)] | None = None  # of k-means; None: 10

    pace: ClassVar[Pace] = Pace(steps=700, fewest_steps=300, fewest_lr=3e-3)

    def resolved(self, n_train: int, n_validation: int = 0, of_query: bool = False) -> TrainingPlan:
        published, meant = self.schedule == "published", {}
        if self.prototype_weight is None:
            meant["prototype_weight"] = PUBLISHED_WEIGHT if published else AUTO_WEIGHT
        if published:
            meant["max_epochs"] = self.max_epochs or PUBLISHED_EPOCHS
            if self.kl_warmup_epochs is None and self.kl_warmup_steps is None:
                meant["kl_warmup_epochs"] = PUBLISHED_EPOCHS
            if self.early_stopping is None:
                meant["early_stopping"] = False
        plan = ScArchesPlan.resolved(replace(self, **meant), n_train, n_validation, of_query)
        if plan.pretraining_epochs is None:
            share = PUBLISHED_PRETRAINING if published else AUTO_PRETRAINING
            plan = replace(plan, pretraining_epochs=math.floor(share * plan.max_epochs))
        return plan

    def loss_weights(self, epoch: int) -> dict[str, float]:
        return {"prototype_weight": self.prototype_weight if epoch >= self.pretraining_epochs else 0.0}

    def in_words(self) -> str:
        words = ScArchesPlan.in_words(self)
        if self.pretraining_epochs < self.max_epochs:
            words += f"; prototypes of weight {self.prototype_weight:g} from epoch {self.pretraining_epochs}"
        return words


class ScPoliModule(nn.Module):
    library = None  # a cell's library size is its total count

    def __init__(self, schema: DataSchema, config: ScPoliConfig):
        super().__init__()
        self.config = config
        n_genes, n_latent, widths = schema.n_genes, config.n_latent, config.widths(schema.n_genes)
        shape = {
            "n_continuous": len(schema.continuous_covariates),
            "dropout_rate": config.dropout_rate,
            "batch_norm": config.use_batch_norm,
            "layer_norm": config.use_layer_norm,
            **TORCH_BATCH_NORM,
        }
        self.conditions = ConditionEmbedding(schema.n_levels, embedding_dims(schema, config), config.embedding_max_norm)
        self.encoder = CountsEncoder(
            n_genes,
            n_latent,
            n_hidden=widths,
            levels={},
            encode_covariates=True,
            log_counts=config.gene_likelihood != "mse",
            **shape,
        )
        self.decoder = ExpressionDecoder(
            n_latent,
            n_genes,
            n_hidden=widths[::-1],
            levels={},
            likelihood=config.gene_likelihood,
            dispersion_by=(BATCH, len(schema.batches)),
            bias=False,
            **shape,
        )
        n_continuous = len(schema.continuous_covariates)
        self.encoder.hidden.linears[0] = EmbeddedLinear(n_genes + n_continuous, widths[0], self.conditions)
        self.decoder.hidden.linears[0] = EmbeddedLinear(
            n_latent + n_continuous, widths[-1], self.conditions, bias=False
        )
        n_labels = [len(schema.labels), *(len(labels) for _, labels in config.further_labels)]
        self.prototypes = nn.ModuleList(Prototypes(n, n_latent) for n in n_labels)
        self.clusters = Prototypes(MOST_CLUSTERS, n_latent)
        self.label_novelty = LabelNovelty(LABEL, len(schema.labels), n_latent)

    @property
    def classifier(self) -> Prototypes:
        """Of the first column of labels."""
        return self.prototypes[0]

    @property
    def undecayed(self) -> list[nn.Parameter]:
        return list(self.conditions.parameters())

    def forward(self, cells: Minibatch, kl_weight: float = 1.0, prototype_weight: float = 1.0) -> Loss:
        return self.loss(cells, kl_weight, prototype_weight)

    def encode(self, cells: Minibatch) -> Normal:
        """q(z | counts, conditions), over (cells, n_latent)."""
        return self.encoder(cells)

    def label_logits(self, cells: Minibatch) -> torch.Tensor:
        """Of the posterior mean, (cells, labels)."""
        return self.classifier(self.encode(cells).mean)

    def loss(self, cells: Minibatch, kl_weight: float = 1.0, prototype_weight: float = 1.0) -> Loss:
        posterior = self.encode(cells)
        z = posterior.rsample(cells.noise)
        terms = {
            "reconstruction": -self.decoder.log_likelihood(z, cells).mean(),
            "kl_latent": kl_to_standard_normal(posterior).sum(-1).mean(),
        }
        if self.classifier.means.numel():
            labels = () if cells.labels is None else cells.labels.view(len(z), -1).T  # (label keys, cells)
            pulls = [prototypes.pull(z, of_key) for prototypes, of_key in zip(self.prototypes, labels)]
            terms["prototype"] = sum(pulls, z.new_zeros(()))
        return Loss(terms, weights={"kl_latent": kl_weight, "prototype": prototype_weight})

    @torch.no_grad()
    def before_epoch(self, epoch: int, cells: LabelledCells, plan: ScPoliPlan) -> bool:
        """Locate the prototypes; whether this is the first epoch whose loss they join."""
        if epoch < plan.pretraining_epochs:
            return False
        self.eval()
        found = [(self.encode(some).mean.clone(), some.labels) for some in map(self._here, cells.labelled())]
        if found:
            z, labels = (torch.cat(parts) for parts in zip(*found))
            for prototypes, of_key in zip(self.prototypes, labels.T):
                prototypes.locate(z, of_key)
        return epoch == plan.pretraining_epochs

    def _here(self, cells: Minibatch) -> Minibatch:
        return cells.to(self.classifier.means.device)

    def after_step(self, rate: float) -> None:
        self.conditions.clip()


def embedding_dims(schema: DataSchema, config: ScPoliConfig) -> tuple[int, ...]:
    """Width of each condition's vectors."""
    n_keys, dims = len(schema.variables), config.embedding_dims
    dims = (dims,) * n_keys if isinstance(dims, int) else dims
    if len(dims) != n_keys:
        keys = [str(key) for key, _ in schema.variables.values()]
        raise ValueError(
            f"embedding_dims={dims} has {len(dims)} widths for {n_keys} conditions ({listed(keys)}). Give one number "
            "for all, or one for each."
        )
    return dims


class scPoli(PrototypeVerbs, LabelVerbs, ExpressionVerbs, Model):
    """scPoli: integrates samples, each a learned vector, and labels cells by the nearest prototype.

    Parameters
    ----------
    adata
        Raw counts in X, or in the layer that `layer` names; for `gene_likelihood="mse"`, log-normalised values ≥ 0. Not
        modified.
    batch_key
        Column of `obs` with the condition, such as the sample; or several, each of which gets vectors of its own
        (`condition_keys`).
    labels_key
        Column of `obs` with the labels, or several, such as the levels of a hierarchy (`cell_type_keys`); `predict`
        gives those of the first. None: a model without prototypes. Cells may lack labels.
    labeled_indices
        Positions of the cells whose labels may be learned; None: all, empty: none.
    unknown_ct_names
        Labels that stand for "not labelled".
    layer, size_factor_key, unlabeled_category
        Further columns of `obs` (and a layer) to read; see `DataSchema`.
    categorical_covariate_keys, continuous_covariate_keys
        More columns of `obs` to correct for; the categorical ones are further conditions.
    seed
        Of the initial weights.
    **config
        Fields of `ScPoliConfig`, also as scArches spells them.

    Attributes
    ----------
    labeled_indices
        See above. A saved model does not hold them; set them anew before training it.

    References
    ----------
    De Donno et al. 2023, doi:10.1038/s41592-023-02035-2.

    Examples
    --------
    >>> model = scPoli(adata, batch_key="sample", labels_key="cell_type")
    >>> model.train()
    >>> query = scPoli.load_query_data(adata_query, model, query_labels="ignore")
    >>> query.train()
    >>> query.classify()["cell_type"]["preds"]
    """

    config_class, module_class, plan_class = ScPoliConfig, ScPoliModule, ScPoliPlan
    flags = ("ignores_labels", "had_labeled_indices")
    ignores_labels = had_labeled_indices = False

    def __init__(
        self,
        adata,
        *,
        batch_key: str | Sequence[str] | None = None,
        labels_key: str | Sequence[str] | None = None,
        categorical_covariate_keys: Sequence[str] | None = None,
        labeled_indices: Sequence[int] | None = None,
        unknown_ct_names: str | Sequence[str] = (),
        **options: Any,
    ):
        given = {
            "batch_key": batch_key,
            "labels_key": labels_key,
            "categorical_covariate_keys": categorical_covariate_keys,
        }
        given = {key: value for key, value in given.items() if value is not None}
        keys, config = _split_options(type(self).__name__, given, options)
        keys = _noted_keys(adata) | keys
        for name in ("further_labels", "unlabeled_categories"):
            if name in config:
                instead = "labels_key=[…]" if name == "further_labels" else "unknown_ct_names"
                raise TypeError(f"{name} is what the model takes from {instead}: name them there.")
        conditions, labels = _several(keys.pop("batch_key", ())), _several(keys.pop("labels_key", ()))
        conditions += _several(keys.pop("categorical_covariate_keys", ()))
        unknown = tuple(map(str, _several(unknown_ct_names)))
        nameless = {*unknown, str(keys.get("unlabeled_category"))}
        super().__init__(
            adata,
            batch_key=conditions[0] if conditions else None,
            categorical_covariate_keys=conditions[1:],
            labels_key=labels[0] if labels else None,
            further_labels=tuple((key, _levels(adata, key, nameless)) for key in labels[1:]),
            unlabeled_categories=unknown,
            **keys,
            **config,
        )
        self._label_only(labeled_indices)

    def _schema_of(self, adata, keys: Mapping[str, Any]) -> DataSchema:
        schema = super()._schema_of(adata, keys)
        unknown = self.config.unlabeled_categories
        return replace(schema, labels=tuple(label for label in schema.labels if label not in unknown))

    def _start(self, adata) -> None:
        super()._start(adata)
        self.labeled_indices: np.ndarray | None = None

    def _label_only(self, labeled_indices: Sequence[int] | None) -> None:
        if labeled_indices is None:
            return
        indices = np.asarray(labeled_indices)
        if indices.dtype == bool:
            indices = np.flatnonzero(indices)
        elif len(indices) and not np.issubdtype(indices.dtype, np.integer):
            raise TypeError("labeled_indices are positions of cells, whole numbers, or one true or false per cell.")
        if len(indices) and not np.isin(indices, np.arange(self.adata.n_obs)).all():
            raise ValueError(
                f"labeled_indices reach from {indices.min()} to {indices.max()}, and there are {self.adata.n_obs} "
                "cells, of which the first is 0."
            )
        self.ignores_labels = not len(indices)
        self.had_labeled_indices = bool(len(indices))
        self.labeled_indices = indices if len(indices) else None

    # Latents and conditions

    def get_latent_representation(self, adata=None, *, give_mean: bool = True, mean: bool = True, **options: Any):
        """Where each cell lies in latent space; see `Model.get_latent_representation`. `mean` is `give_mean`, as
        scArches calls it, whose own default is a draw."""
        return super().get_latent_representation(adata, give_mean=give_mean and mean, **options)

    get_latent = get_latent_representation

    def get_conditional_embeddings(self) -> AnnData | dict[str, AnnData]:
        """The conditions' vectors: samples as points.

        Returns
        -------
        AnnData, conditions × embedding_dims, the levels' names as `obs_names`, and in `obs` those columns of the
        model's cells that have one value per condition. With several condition keys, a dict of such.

        Raises
        ------
        RuntimeError
            If the model has not been trained.
        """
        from anndata import AnnData

        self._refuse_if_untrained()
        found = {}
        for (key, levels), table in zip(self.schema.variables.values(), self.module.conditions.tables):
            obs = pd.DataFrame(index=pd.Index(levels, name=key, dtype=object))
            if self.adata is not None and key is not None:
                obs = obs.join(_shared_by_level(self.adata.obs, key))
            found[key] = AnnData(table.rows().detach().cpu().numpy().copy(), obs=obs)
        return found if len(found) > 1 else next(iter(found.values()))

    # Training

    def _training_cells(self, plan: ScPoliPlan) -> LabelledCells:
        cells = self._cells(self._adata_or_own(None))
        if self.had_labeled_indices and self.labeled_indices is None:
            raise RuntimeError(
                "This model was trained with labeled_indices, which a saved model does not hold. Say which cells' "
                "labels it may learn: model.labeled_indices = […] (np.arange(model.adata.n_obs) for all)."
            )
        return LabelledCells(cells, plan, self._own_codes())

    def _resolved(self, plan: ScPoliPlan, cells: LabelledCells) -> TrainingPlan:
        plan = super()._resolved(plan, cells)
        if not cells.any_labelled or plan.prototype_weight == 0:
            plan = replace(plan, pretraining_epochs=plan.max_epochs)
        elif plan.pretraining_epochs < plan.max_epochs:
            stopping = plan.early_stopping_kwargs
            n_spared = max(stopping.warmup_epochs, plan.pretraining_epochs)
            plan = replace(plan, early_stopping_kwargs=replace(stopping, warmup_epochs=n_spared))
        self._plan = plan
        return plan

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
        labeled_indices: Sequence[int] | None = None,
        unknown_ct_names: str | Sequence[str] = (),
    ) -> scPoli:
        """Adapt a reference to a query by architecture surgery; see `Model.load_query_data`.

        Training fits the new conditions' vectors, and nothing else. The query needs no column of labels.

        Parameters
        ----------
        adata, reference_model, gene_map, min_gene_overlap
            As in `Model.load_query_data`.
        query_labels
            "use": query cells that carry a label are drawn to its prototype, as published. "ignore": all query cells
            are taken as unlabelled; do so wherever predictions are then compared with these labels.
        new_labels
            What becomes of labels that the reference does not know. "ignore": their cells are taken as unlabelled,
            with a warning. "hold out": the same, without a warning, and `held_out_report()` says what became of them.
            "extend": they get prototypes, as published.
        labeled_indices
            Positions of the query cells whose labels may be learned; None: all, empty: none.
        unknown_ct_names
            More labels that stand for "not labelled".

        Returns
        -------
        scPoli
        """
        check_label_options(query_labels, new_labels)
        reference = cls._reference(reference_model)
        query = super().load_query_data(adata, reference, gene_map=gene_map, min_gene_overlap=min_gene_overlap)
        unknown = tuple(map(str, _several(unknown_ct_names)))
        query.config = replace(query.config, unlabeled_categories=(*query.config.unlabeled_categories, *unknown))
        query.had_labeled_indices = False
        query._label_only(labeled_indices)
        query.ignores_labels |= query_labels == "ignore"
        for prototypes in query.module.prototypes:
            prototypes.fix()
        query._thaw()
        nameless = {*query.config.unlabeled_categories, str(query.schema.unlabeled_category)}
        query._take_labels(
            tuple(label for label in query.schema.new_labels(adata) if label not in nameless), new_labels
        )
        if new_labels == "extend":
            for key, known in query.config.further_labels:
                if key in adata.obs and (new := _levels(adata, key, {*nameless, *known})):
                    query._append_labels(key, new)
            query._locate_prototypes()
        return query

    def _learn_labels(self, new: tuple[str, ...]) -> None:
        self._append_labels(self.schema.labels_key, new)

    def _thaw(self) -> None:
        """Of what surgery has added, the conditions' vectors alone are trained."""
        if self._surgeries and self.config.gene_likelihood != "mse":
            self.module.decoder.log_inverse_dispersion.requires_grad_(False)


def _several(names: str | Sequence[str]) -> tuple[str, ...]:
    """One name alone stands for itself, not for its letters."""
    return (names,) if isinstance(names, str) else tuple(names)


def _levels(adata, key: str, but: set[str]) -> tuple[str, ...]:
    if key not in adata.obs:
        near = did_you_mean(key, adata.obs.columns)
        raise DataError(f"obs has no column '{key}' to read labels from (labels_key).{near}")
    return tuple(level for level in levels_of(adata.obs[key]) if level not in but)


def _shared_by_level(obs: pd.DataFrame, key: str) -> pd.DataFrame:
    """Those columns of `obs` that have one value per level of a condition, by level."""
    from ..data.schema import as_text

    groups = obs.groupby(as_text(obs[key]), observed=True)
    return pd.DataFrame(
        {
            name: groups[name].first()
            for name in obs.columns
            if name != key and (groups[name].nunique(dropna=False) == 1).all()
        }
    )
