"""scVI: a variational autoencoder for counts. Lopez et al. 2018, doi:10.1038/s41592-018-0229-2.

    z ~ Normal(0, I)                                             what the cell is
    fractions = softmax(decoder(z, batch))                       each gene's share of the cell's counts
    counts ~ ZeroInflatedNegativeBinomial(library_size · fractions, inverse_dispersion, zero_inflation(z, batch))

The loss of a cell is −log p(counts | z) + kl_weight · KL(q(z | counts, batch) ‖ Normal(0, I)), in nats. Defaults
are those of scvi-tools 1.4.2. Differs from the paper: the library size is the cell's total count, not inferred, as has
been scvi-tools' default since 0.8; with `use_observed_lib_size=False`, log library_size ~ Normal(mean and variance of
the batch's cells) is inferred, and its KL term joins the loss. Differs from scvi-tools: batches enter through tables
that surgery extends (see `nn.layers`); encoders and decoders that the chosen options do not use are not built; a
gene-batch dispersion starts at the batches' mean for a query's new batch, and is trained; a cell without a label has
the labels' mean gene-label dispersion.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass
from torch import nn

from ..data.minibatches import Minibatch
from ..data.names import DataError
from ..data.schema import BATCH, LABEL, DataSchema
from ..nn.counts_encoder import CountsEncoder
from ..nn.divergences import Normal, kl_to_standard_normal
from ..nn.expression import ExpressionDecoder
from ..nn.library_size import LibrarySize
from ..nn.loss import Loss
from ..nn.ranks import mean_of
from ..training.plan import BriskPlan, MappablePlan, TrainingPlan
from .base import Model
from .expression import ExpressionVerbs

Norm = Literal["encoder", "decoder", "none", "both"]


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class SCVIConfig:
    n_latent: Annotated[int, Field(ge=1, le=4096)] = 10  # dimensions of z
    n_hidden: Annotated[int, Field(ge=1, le=8192)] = 128  # width of each hidden layer
    n_layers: Annotated[int, Field(ge=1, le=16)] = 1  # hidden layers of encoder and decoder
    dropout_rate: Annotated[float, Field(ge=0, lt=1)] = 0.1  # in the encoder
    gene_likelihood: Literal["zinb", "nb", "poisson", "normal"] = "zinb"
    dispersion: Literal["gene", "gene-batch", "gene-label"] = "gene"  # per gene, or also per batch, or also per label
    use_observed_lib_size: bool = True  # otherwise a cell's library size is inferred
    encode_covariates: bool = False  # whether the encoder sees batches; without, surgery cannot move a query's latents
    deeply_inject_covariates: bool = True  # into every layer, or only into the first
    use_batch_norm: Norm = "both"
    use_layer_norm: Norm = "none"

    def norms(self, part: Literal["encoder", "decoder"]) -> dict[str, bool]:
        """Which normalisations encoder or decoder has."""
        return {
            "batch_norm": self.use_batch_norm in (part, "both"),
            "layer_norm": self.use_layer_norm in (part, "both"),
        }

    @property
    def is_brisk(self) -> bool:
        """One hidden layer, batch normalisation, not to be adapted to queries: trained at a `BriskPlan`."""
        plain = self.n_layers == 1 and self.use_batch_norm == "both" and self.use_layer_norm == "none"
        return plain and not self.encode_covariates


class SCVIModule(nn.Module):
    is_shared = True  # several processes may train it together

    def __init__(self, schema: DataSchema, config: SCVIConfig):
        super().__init__()
        self.config = config
        shape = {"n_hidden": config.n_hidden, "inject_everywhere": config.deeply_inject_covariates}
        shape |= {"levels": schema.n_levels, "n_continuous": len(schema.continuous_covariates)}
        in_encoder = {
            "encode_covariates": config.encode_covariates,
            "log_counts": config.gene_likelihood != "normal",
            "dropout_rate": config.dropout_rate,
            **shape,
            **config.norms("encoder"),
        }
        self.encoder = CountsEncoder(schema.n_genes, config.n_latent, n_layers=config.n_layers, **in_encoder)
        self.library = None if config.use_observed_lib_size else LibrarySize(schema.n_genes, BATCH, **in_encoder)
        self.decoder = ExpressionDecoder(
            config.n_latent,
            schema.n_genes,
            n_layers=config.n_layers,
            likelihood=config.gene_likelihood,
            dispersion_by={"gene-batch": BATCH, "gene-label": (LABEL, len(schema.labels))}.get(config.dispersion),
            **shape,
            **config.norms("decoder"),
        )

    def forward(self, cells: Minibatch, kl_weight: float = 1.0) -> Loss:
        return self.loss(cells, kl_weight)

    def encode(self, cells: Minibatch) -> Normal:
        """q(z | counts, batch), over (cells, n_latent)."""
        return self.encoder(cells)

    def loss(self, cells: Minibatch, kl_weight: float = 1.0) -> Loss:
        posterior = self.encode(cells)
        z = posterior.rsample(cells.noise)
        terms = {}
        if self.library is not None:
            cells, kl_library = self.library(cells)
            terms["kl_library"] = mean_of(kl_library, cells)
        terms["reconstruction"] = mean_of(-self.decoder.log_likelihood(z, cells), cells)  # nats per cell
        terms["kl_latent"] = mean_of(kl_to_standard_normal(posterior).sum(-1), cells)
        return Loss(terms, weights={"kl_latent": kl_weight})


class SCVI(ExpressionVerbs, Model):
    """scVI: integrates counts of several batches into one latent space.

    Parameters
    ----------
    adata
        Raw counts in X, or in the layer that `layer` names. Not modified.
    batch_key, labels_key, layer, size_factor_key
        Columns of `obs` (and a layer) to read; see `DataSchema`.
    categorical_covariate_keys, continuous_covariate_keys
        More columns of `obs` to correct for.
    seed
        Of the initial weights.
    **config
        Fields of `SCVIConfig`. A reference that queries are to be mapped onto needs `encode_covariates=True`; the
        setting published with scArches is `n_layers=2, encode_covariates=True, deeply_inject_covariates=False,
        use_layer_norm="both", use_batch_norm="none"`.

    References
    ----------
    Lopez et al. 2018, doi:10.1038/s41592-018-0229-2. Surgery: Lotfollahi et al. 2022, doi:10.1038/s41587-021-01001-7.

    Examples
    --------
    >>> model = SCVI(adata, batch_key="batch", encode_covariates=True)
    >>> model.train()
    >>> adata.obsm["X_scvi"] = model.get_latent_representation()
    """

    config_class, module_class = SCVIConfig, SCVIModule

    @classmethod
    def plan_class_for(cls, config: SCVIConfig) -> type[TrainingPlan]:
        return BriskPlan if config.is_brisk else MappablePlan

    def _new_module(self, schema: DataSchema) -> nn.Module:
        if self.config.dispersion == "gene-label" and not schema.labels:
            raise DataError(
                "dispersion='gene-label' gives each label dispersions of its own, and there are no labels. Name the "
                "column of obs that has them (labels_key=…), or choose 'gene' or 'gene-batch'."
            )
        return super()._new_module(schema)
