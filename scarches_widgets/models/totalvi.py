"""totalVI: one latent space for RNA and surface proteins. Gayoso et al. 2021, doi:10.1038/s41592-020-01050-x.

    z ~ Normal(0, I)                                             what the cell is
    fractions = softmax(decoder(z, batch))                       each gene's share of the cell's RNA counts
    counts ~ NegativeBinomial(library_size · fractions, inverse_dispersion)
    log background ~ Normal(prior of the batch)                  of each protein: antibody that floats about or sticks
    proteins ~ background or foreground, a multiple of it        with probability π(z, batch); see `nn.proteins`

The loss of a cell, in nats; protein terms only where the protein was measured in the cell's batch:

    reconstruction           −log p(RNA counts | z)
    reconstruction_protein   −log p(protein counts | z, background)             weighted by protein_weight · kl_weight
    kl_latent                KL(q(z | RNA, proteins, batch) ‖ Normal(0, I))      weighted by kl_weight
    kl_background            KL(q(log background) ‖ prior of the batch)          weighted by kl_weight
    penalty_protein          −log LogNormal(efficiency; 0, 1) − 0.001 log π      weighted by kl_weight
    confusion, adversary     where batches lack proteins, a classifier of batches by z learns beside; the encoder learns
                             that it should name any other batch                 weighted by 1 − kl_weight

Defaults are those of scvi-tools 1.4.2. `schedule="published"` is its training: Adam with lr 4e-3, weights that rise
over 0.75 steps per cell, the learning rate times 0.6 after 30 epochs without gain and a stop after 45. `"auto"` is one
cycle (see `training.plan`) of 1,200 steps to the same rate, with the warm-up over a quarter of them. Differs from
scvi-tools:

- batches enter through tables that surgery extends (see `nn.layers`); a new batch's prior starts at that of its cells
  (with more than 10 proteins), else at the mean of the reference's, as its efficiency does; both are trained;
- all protein terms leave out what was not measured (scvi-tools: not `penalty_protein`), and a protein that the cell's
  batch lacks is told as of the batches that have it;
- one step of the optimiser is one step of the warm-up (scvi-tools counts the adversary's too, and is done in half);
- the adversary takes its steps together with the model's; after surgery there is none, since the reference's cells,
  with which a query's are to be confused, are not there;
- expectations are taken at posterior means and medians, not at draws, unless draws are asked for.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Annotated, Any, ClassVar, Literal, Self

import numpy as np
import pandas as pd
import torch
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from ..data.genes import GeneReport
from ..data.minibatches import Minibatch
from ..data.modalities import announce_differences, as_anndata, check_proteins, protein_table, the_protein_key
from ..data.names import DataError, did_you_mean, listed
from ..data.schema import BATCH, DataSchema, as_text
from ..nn.classifier import Classifier
from ..nn.divergences import Normal, kl_to_standard_normal
from ..nn.expression import joined
from ..nn.layers import Encoder
from ..nn.loss import Loss
from ..nn.proteins import Adversary, ProteinDecoder, SeeingExpressionDecoder, background_prior
from ..nn.ranks import mean_of
from ..training.cells import TrainingCells
from ..training.options import respelled
from ..training.plan import EarlyStopping, NotNegative, Pace, TrainingPlan
from .base import LEAST_OVERLAP, NOTE, Model, _announce
from .expression import ExpressionVerbs
from .proteins import ProteinVerbs

logger = logging.getLogger(__name__)
Norm = Literal["encoder", "decoder", "none", "both"]
Rate = Annotated[float, Field(ge=0, lt=1)]
PROTEIN_KEYS = ("protein_key", "protein_names_key", "protein_layer")
PRIOR_FROM = 11  # proteins: with fewer, a cell's counts do not tell its background
RATE, ADVERSARY_RATE = 4e-3, 1e-3
PUBLISHED_WARM_UP = 0.75  # steps per cell


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class TOTALVIConfig:
    n_latent: Annotated[int, Field(ge=1, le=4096)] = 20  # dimensions of z
    n_hidden: Annotated[int, Field(ge=1, le=8192)] = 256  # width of each hidden layer
    n_layers_encoder: Annotated[int, Field(ge=1, le=16)] = 2  # hidden layers
    n_layers_decoder: Annotated[int, Field(ge=1, le=16)] = 1  # hidden layers of each part
    dropout_rate: Rate = 0.2  # in the encoder
    dropout_rate_decoder: Rate = 0.2
    gene_likelihood: Literal["nb", "zinb"] = "nb"
    dispersion: Literal["gene", "gene-batch"] = "gene"  # one per gene, or one per gene and batch
    protein_dispersion: Literal["protein", "protein-batch"] = "protein"  # one per protein, or per protein and batch
    empirical_protein_background_prior: bool | None = None  # from cells' counts; None: with more than 10 proteins
    background_scale: Literal["softplus", "exp"] = "softplus"  # of what; exp: as scvi-tools before 1.2
    encode_covariates: bool = True  # whether the encoder sees batches; without, surgery cannot move a query's latents
    use_batch_norm: Norm = "both"
    use_layer_norm: Norm = "none"

    def norms(self, part: Literal["encoder", "decoder"]) -> dict[str, bool]:
        """Which normalisations encoder or decoder has."""
        return {
            "batch_norm": self.use_batch_norm in (part, "both"),
            "layer_norm": self.use_layer_norm in (part, "both"),
        }

    def fits_prior(self, n_proteins: int) -> bool:
        wanted = self.empirical_protein_background_prior
        return n_proteins >= PRIOR_FROM if wanted is None else wanted


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class TOTALVIPlan(TrainingPlan):
    batch_size: Annotated[int, Field(ge=2, le=1_000_000)] = 256  # cells per step
    early_stopping: bool | None = None  # None: no for auto, yes as published
    early_stopping_kwargs: EarlyStopping = EarlyStopping(reduce_lr=True, lr_patience=30, lr_factor=0.6)
    kl_warmup_steps: Annotated[int, Field(ge=1)] | None = None  # None: 25 % of the steps for auto, 0.75 per cell
    protein_weight: NotNegative = 1.0  # of the proteins' reconstruction, against the RNA's
    adversarial_classifier: bool | None = None  # None: if batches of a reference lack proteins

    pace: ClassVar[Pace] = Pace(steps=1200, kl_warm_up=0.25)  # late, the proteins' terms would have too little weight

    def __post_init__(self):
        if self.kl_warmup_steps is not None and self.kl_warmup_epochs is not None:
            raise ValueError(
                f"kl_warmup_steps={self.kl_warmup_steps} and kl_warmup_epochs={self.kl_warmup_epochs} both say how "
                "long the KL weight rises; give one of them"
            )

    def resolved(self, n_train: int, n_validation: int = 0, of_query: bool = False) -> TrainingPlan:
        published = self.schedule == "published"
        meant: dict[str, Any] = {"lr": self.lr or RATE}  # in surgery too
        if self.early_stopping is None:
            meant["early_stopping"] = published
        if published and self.kl_warmup_steps is None and self.kl_warmup_epochs is None:
            meant["kl_warmup_steps"] = max(1, int(PUBLISHED_WARM_UP * (n_train + n_validation)))
        return TrainingPlan.resolved(replace(self, **meant), n_train, n_validation, of_query)

    def kl_weight_at(self, step: int, steps_per_epoch: int) -> float:
        if self.kl_warmup_steps is not None:
            return self.kl_weight * min(1.0, step / self.kl_warmup_steps)
        return TrainingPlan.kl_weight_at(self, step, steps_per_epoch)

    def loss_weights(self, epoch: int) -> dict[str, float]:
        return {"protein_weight": self.protein_weight, "with_adversary": bool(self.adversarial_classifier)}


class TOTALVIModule(nn.Module):
    is_shared = True  # several processes may train it together
    library = None  # a cell's library size is its total count

    def __init__(self, schema: DataSchema, config: TOTALVIConfig):
        super().__init__()
        self.config = config
        n_continuous, n_batches = len(schema.continuous_covariates), len(schema.batches)
        n_in = schema.n_genes + len(schema.proteins)
        self.encoder = Encoder(
            n_in + n_continuous * config.encode_covariates,
            config.n_latent,
            config.n_hidden,
            config.n_layers_encoder,
            schema.n_levels if config.encode_covariates else {},
            dropout_rate=config.dropout_rate,
            inject_everywhere=True,
            **config.norms("encoder"),
        )
        in_decoder = {
            "n_continuous": n_continuous,
            "levels": schema.n_levels,
            "n_hidden": config.n_hidden,
            "n_layers": config.n_layers_decoder,
            "dropout_rate": config.dropout_rate_decoder,
            **config.norms("decoder"),
        }
        self.proteins = ProteinDecoder(
            config.n_latent,
            len(schema.proteins),
            batch=BATCH,
            dispersion_by=BATCH if config.protein_dispersion == "protein-batch" else None,
            exponential=config.background_scale == "exp",
            **in_decoder,
        )
        self.decoder = SeeingExpressionDecoder(
            config.n_latent,
            schema.n_genes,
            mixing=self.proteins.mixing,
            likelihood=config.gene_likelihood,
            dispersion_by=BATCH if config.dispersion == "gene-batch" else None,
            **in_decoder,
        )
        classifier = Classifier(config.n_latent, BATCH, n_batches, 32, 2, dropout_rate=0.1, batch_norm=True)
        self.adversary = Adversary(classifier)

    def paces(self, plan: TrainingPlan) -> Iterator[tuple[nn.Parameter, float]]:
        """Weights that learn at another rate, in multiples of the model's."""
        return ((parameter, ADVERSARY_RATE / RATE) for parameter in self.adversary.parameters())

    def forward(
        self, cells: Minibatch, kl_weight: float = 1.0, protein_weight: float = 1.0, with_adversary: bool = False
    ) -> Loss:
        return self.loss(cells, kl_weight, protein_weight, with_adversary)

    def encode(self, cells: Minibatch) -> Normal:
        """q(z | RNA, proteins, batch), over (cells, n_latent); a cell without proteins is encoded as if all were 0."""
        proteins = cells.proteins
        if proteins is None:
            proteins = cells.counts.new_zeros(len(cells.counts), self.proteins.measured.blocks[0].shape[1])
        features = torch.cat([_relative(cells.counts), _relative(proteins)], dim=1)
        if self.config.encode_covariates:
            features = joined(features, cells.continuous)
        return self.encoder(features, cells.categories, cells.noise)

    def loss(
        self, cells: Minibatch, kl_weight: float = 1.0, protein_weight: float = 1.0, with_adversary: bool = False
    ) -> Loss:
        posterior = self.encode(cells)
        z = posterior.rsample(cells.noise)
        terms = {
            "reconstruction": mean_of(-self.decoder.log_likelihood(z, cells), cells),
            "kl_latent": mean_of(kl_to_standard_normal(posterior).sum(-1), cells),
        }
        terms |= self.protein_terms(z, cells)
        weights = dict.fromkeys(("kl_latent", "kl_background", "penalty_protein"), kl_weight)
        weights["reconstruction_protein"] = protein_weight * kl_weight
        if with_adversary:
            confusion, own = self.adversary(z, cells.batch, cells.noise)
            terms["confusion"], terms["adversary"] = mean_of(confusion, cells), mean_of(own, cells)
            weights["confusion"] = weights["adversary"] = max(0.0, 1 - kl_weight)
        return Loss(terms, weights)

    def protein_terms(self, z: Tensor, cells: Minibatch) -> dict[str, Tensor]:
        """Of the proteins that were measured, each in nats per cell."""
        if cells.proteins is None:
            return dict.fromkeys(("reconstruction_protein", "kl_background", "penalty_protein"), z.new_zeros(()))
        decoder, measured = self.proteins, self.proteins.measured(cells.categories)
        rates = decoder(z, cells)
        of_proteins = {
            "reconstruction_protein": -decoder.log_likelihood(cells.proteins, rates, cells),
            "kl_background": decoder.kl_background(rates, cells),
            "penalty_protein": decoder.penalty(rates, cells),
        }
        return {name: mean_of((values * measured).sum(-1), cells) for name, values in of_proteins.items()}


def _relative(counts: Tensor) -> Tensor:
    """log(1 + count / (1 + the cell's mean count))."""
    return torch.log1p(counts / (1 + counts.mean(1, keepdim=True)))


class TOTALVI(ProteinVerbs, ExpressionVerbs, Model):
    """totalVI: integrates RNA and surface proteins (CITE-seq) of several batches, some of which may lack proteins.

    Parameters
    ----------
    adata
        Raw RNA counts in X, or in the layer that `layer` names, and raw protein counts in `obsm`; or a MuData with a
        modality of each. Not modified.
    protein_key
        Key of `obsm` (or modality) with the proteins; None: the one table of counts that there is. In batches without
        a protein, its counts are zero or NaN.
    protein_names_key
        Key of `uns` with the proteins' names, if `obsm` holds an array.
    protein_layer
        Layer of the proteins' modality of a MuData; None for X.
    batch_key, labels_key, layer, size_factor_key
        Columns of `obs` (and a layer) to read; see `DataSchema`.
    categorical_covariate_keys, continuous_covariate_keys
        More columns of `obs` to correct for.
    seed
        Of the initial weights.
    **config
        Fields of `TOTALVIConfig`. The setting published with scArches is `use_layer_norm="both",
        use_batch_norm="none"`.

    Raises
    ------
    DataError
        If there are no proteins, several tables might hold them, they are no counts, or a MuData is not paired.

    References
    ----------
    Gayoso et al. 2021, doi:10.1038/s41592-020-01050-x. Surgery: Lotfollahi et al. 2022,
    doi:10.1038/s41587-021-01001-7.

    Examples
    --------
    >>> model = TOTALVI(adata, batch_key="batch")
    >>> model.train()
    >>> query = TOTALVI.load_query_data(adata_rna_only, model)
    >>> query.train()
    >>> genes, proteins = query.get_normalized_expression(include_protein_background=True)  # imputed
    """

    config_class, module_class, plan_class = TOTALVIConfig, TOTALVIModule, TOTALVIPlan
    obsm_keys: ClassVar[tuple[str, ...]] = ("protein_key",)  # arguments that name a table of counts in obsm
    _seed = 0

    def __init__(self, adata, **options: Any):
        options = respelled(options)
        noted = getattr(adata, "uns", {}).get(NOTE, {})
        keys = {name: options.pop(name, None) or noted.get(name) for name in PROTEIN_KEYS}
        self._wanted = keys
        super().__init__(as_anndata(adata, keys["protein_key"], keys["protein_layer"]), **options)

    def _schema_of(self, adata, keys: Mapping[str, Any]) -> DataSchema:
        key, names_key = self._wanted["protein_key"], self._wanted["protein_names_key"]
        if key is None:
            key = the_protein_key(adata)
            logger.warning("TOTALVI reads the proteins from obsm['%s'], the only table of counts there.", key)
        table = protein_table(adata, key, names_key)
        if table is None:
            near = did_you_mean(key, adata.obsm)
            raise DataError(
                f"obsm has no '{key}' to read proteins from (protein_key).{near} It has: {listed(adata.obsm, 10)}."
            )
        schema = super()._schema_of(adata, keys)
        _announce(check_proteins(table, _batches(adata, schema), adata.obs_names))
        return replace(schema, **{**self._wanted, "protein_key": key}, proteins=table.names)

    def _initialize(self, seed: int) -> None:
        self._seed = seed
        super()._initialize(seed)

    def _count_in(self, adata, new_levels: Mapping[str, int]) -> None:
        """Which proteins the new batches have, and the prior of their background."""
        n_new = new_levels.get(BATCH, 0)
        schema, decoder = self.schema, self.module.proteins
        table = protein_table(adata, schema.protein_key, schema.protein_names_key)
        if not n_new or table is None:
            return
        codes, n_batches = schema.codes(adata)[BATCH], len(schema.batches)
        measured = table.measured(codes, n_batches, schema.proteins)
        decoder.measured.count(measured)
        if self.config.fits_prior(len(schema.proteins)):
            proteins, rng = table.in_order(schema.proteins), np.random.default_rng(self._seed)
            for i, batch in enumerate(range(n_batches - n_new, n_batches)):
                rows = np.flatnonzero(codes == batch)
                drawn = rows if len(rows) <= 10_000 else np.sort(rng.choice(rows, 10_000, replace=False))
                prior = background_prior(proteins.of(drawn)[:, measured[batch]], rng)
                if prior is not None:
                    decoder.set_prior(i, *prior)

    @classmethod
    def setup_anndata(cls, adata, **keys: Any) -> None:
        """Note in `adata.uns["scarches_widgets"]` which keys models are to read, so that `TOTALVI(adata)` suffices.

        Parameters
        ----------
        adata
            Gets the note, and no other change.
        **keys
            As in `Model.setup_anndata`, and `protein_key`, `protein_names_key` (`protein_expression_obsm_key` and
            `protein_names_uns_key` of scvi-tools).
        """
        keys = respelled(keys)
        own = {name: keys.pop(name) for name in PROTEIN_KEYS if name in keys}
        super().setup_anndata(adata, **keys)
        adata.uns[NOTE] |= {name: key for name, key in own.items() if key is not None}

    # Training

    def _resolved(self, plan: TOTALVIPlan, cells: TrainingCells) -> TrainingPlan:
        resolved = super()._resolved(plan, cells)
        present = np.unique(self.schema.codes(self._adata_or_own(None))[BATCH])
        if resolved.adversarial_classifier and (self._surgeries or len(present) < 2):
            raise ValueError(
                "adversarial_classifier=True makes batches alike, and "
                + ("the reference's cells are not among these." if self._surgeries else "there is only one.")
                + " Leave it out."
            )
        if resolved.adversarial_classifier is not None:
            return resolved
        lacks = not bool(self.module.proteins.measured.rows()[torch.from_numpy(present)].all())
        return replace(resolved, adversarial_classifier=lacks and len(present) > 1 and not self._surgeries)

    # Cells from elsewhere

    def _adata_or_own(self, adata):
        return self._as_anndata(super()._adata_or_own(adata))

    def _as_anndata(self, data):
        """A MuData's proteins are in the modality of the reference's name for it; else it is found by its name."""
        key = self.schema.protein_key if self.schema.protein_key in getattr(data, "mod", ()) else None
        return as_anndata(data, key, self.schema.protein_layer)

    def _examine(self, adata) -> GeneReport:
        report = super()._examine(adata)
        table = protein_table(adata, self.schema.protein_key, self.schema.protein_names_key)
        if table is None:
            logger.info("There is no obsm['%s']: the cells have RNA alone.", self.schema.protein_key)
        else:
            _announce(check_proteins(table, _batches(adata, self.schema), adata.obs_names, for_training=False))
            for sentence in announce_differences(table, self.schema.proteins):
                logger.warning(sentence)
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

        Proteins are matched by name, under the reference's `protein_key`. A query may lack some, or all: then it is
        encoded by what it has, and `get_normalized_expression` imputes the others.
        """
        reference = cls._reference(reference_model)
        adata = reference._as_anndata(adata)
        return super().load_query_data(adata, reference, gene_map=gene_map, min_gene_overlap=min_gene_overlap)

    @classmethod
    def load(cls, path: str | os.PathLike, adata=None) -> Self:
        """Read a model that `save` wrote; see `Model.load`."""
        model = super().load(path)
        if adata is not None:
            model.adata = model._as_anndata(adata)
            model._examine(model.adata)
        return model


def _batches(adata, schema: DataSchema) -> np.ndarray:
    """Name of each cell's batch, object (cells,)."""
    if schema.batch_key is None or schema.batch_key not in adata.obs:
        return np.full(adata.n_obs, schema.batches[0], dtype=object)
    return as_text(pd.Series(adata.obs[schema.batch_key]))
