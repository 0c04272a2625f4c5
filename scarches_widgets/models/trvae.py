"""trVAE: a conditional autoencoder whose latents are drawn together across batches. Lotfollahi et al. 2020,
doi:10.1093/bioinformatics/btaa800.

    z ~ Normal(0, I)                                             what the cell is
    y = first layer of the decoder(z, batch)                     the same, as of the batch
    fractions = softmax(further layers(y))                       each gene's share of the cell's counts
    counts ~ NegativeBinomial(library_size · fractions, inverse_dispersion of gene and batch)

The loss of a cell, in nats:

    reconstruction    −log p(counts | z, batch), or the squared error of log-normalised values
    kl_latent         KL(q(z | counts, batch) ‖ Normal(0, I))                  weighted by kl_weight
    mmd               Σ over pairs of batches of MMD²(z or y of one, of the other), under 19 Gaussian kernels, within
                      the minibatch                                            weighted by mmd_weight

Defaults are those of scArches 0.6.1; training by "published" is its trainer's (see `training.scarches`). Differs from
scArches: batches enter through tables that surgery extends (see `nn.layers`), in the order of their names; a layer's
initial weights are drawn for its features and batches together; a query's new batch starts at the mean of the
reference's, and the reference's rows stay as they are, weight decay or not; both normalisations can be chosen at once;
the latent is the posterior mean.
"""

from __future__ import annotations

from functools import partial
from typing import Annotated, Literal

import numpy as np
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass
from torch import nn

from ..data.minibatches import Minibatch
from ..data.names import listed
from ..data.schema import BATCH, DataSchema
from ..nn.counts_encoder import CountsEncoder
from ..nn.divergences import Normal, discrepancy_between_groups, kl_to_standard_normal
from ..nn.expression import ExpressionDecoder
from ..nn.layers import TORCH_BATCH_NORM
from ..nn.loss import Loss
from ..nn.ranks import mean_of, together
from ..training.scarches import ScArchesPlan
from .base import Model, Widths
from .expression import ExpressionVerbs
from .freezing import FreezingChoice


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class TRVAEConfig:
    hidden_layer_sizes: Widths = (256, 64)  # width of each hidden layer of the encoder; the decoder's are reversed
    n_latent: Annotated[int, Field(ge=1, le=4096)] = 10  # dimensions of z
    dropout_rate: Annotated[float, Field(ge=0, lt=1)] = 0.05  # in encoder and decoder
    gene_likelihood: Literal["nb", "zinb", "mse"] = "nb"  # mse: squared error, of log-normalised values
    use_mmd: bool = True
    mmd_on: Literal["z", "y"] = "z"  # the latent, or the first layer of the decoder
    mmd_boundary: Annotated[int, Field(ge=1)] | None = None  # only pairs of one of so many first batches and another
    mmd_weight: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 1.0
    use_batch_norm: bool = False
    use_layer_norm: bool = True


class TRVAEModule(nn.Module):
    is_shared = True  # several processes may train it together
    library = None  # a cell's library size is its total count

    def __init__(self, schema: DataSchema, config: TRVAEConfig):
        super().__init__()
        self.config = config
        shape = {
            "levels": schema.n_levels,
            "n_continuous": len(schema.continuous_covariates),
            "dropout_rate": config.dropout_rate,
            "batch_norm": config.use_batch_norm,
            "layer_norm": config.use_layer_norm,
            **TORCH_BATCH_NORM,
        }
        self.encoder = CountsEncoder(
            schema.n_genes,
            config.n_latent,
            n_hidden=config.hidden_layer_sizes,
            encode_covariates=True,
            log_counts=config.gene_likelihood != "mse",
            **shape,
        )
        self.decoder = ExpressionDecoder(
            config.n_latent,
            schema.n_genes,
            n_hidden=config.hidden_layer_sizes[::-1],
            likelihood=config.gene_likelihood,
            dispersion_by=BATCH,
            bias=False,
            **shape,
        )

    @property
    def first_layers(self) -> list[nn.Module]:
        """Of encoder and decoder, with their normalisation."""
        parts = self.encoder.hidden, self.decoder.hidden
        return [layer for part in parts for layer in (part.linears[0], *part.batch_norms[:1])]

    def forward(self, cells: Minibatch, kl_weight: float = 1.0) -> Loss:
        return self.loss(cells, kl_weight)

    def encode(self, cells: Minibatch) -> Normal:
        """q(z | counts, batch), over (cells, n_latent)."""
        return self.encoder(cells)

    def loss(self, cells: Minibatch, kl_weight: float = 1.0) -> Loss:
        posterior = self.encode(cells)
        z = posterior.rsample(cells.noise)
        layers = self.decoder.hidden_layers(z, cells)
        terms = {
            "reconstruction": mean_of(-self.decoder.log_likelihood_of(layers[-1], cells), cells),  # nats per cell
            "kl_latent": mean_of(kl_to_standard_normal(posterior).sum(-1), cells),
        }
        if self.config.use_mmd:
            values = z if self.config.mmd_on == "z" else layers[0]
            discrepancy = partial(discrepancy_between_groups, boundary=self.config.mmd_boundary)
            terms["mmd"] = together(discrepancy, cells, values, cells.batch)
        return Loss(terms, weights={"kl_latent": kl_weight, "mmd": self.config.mmd_weight})


class TRVAE(FreezingChoice, ExpressionVerbs, Model):
    """trVAE: integrates batches by a conditional autoencoder and a penalty on what still tells them apart.

    Parameters
    ----------
    adata
        Raw counts in X, or in the layer that `layer` names; for `gene_likelihood="mse"`, log-normalised values ≥ 0. Not
        modified.
    batch_key, labels_key, layer, size_factor_key
        Columns of `obs` (and a layer) to read; see `DataSchema`.
    categorical_covariate_keys, continuous_covariate_keys
        More columns of `obs` to correct for.
    seed
        Of the initial weights.
    **config
        Fields of `TRVAEConfig`, also as scArches spells them.

    Attributes
    ----------
    freeze, freeze_expression, remove_dropout
        Of a query: how it was adapted; see `load_query_data`.

    References
    ----------
    Lotfollahi et al. 2020, doi:10.1093/bioinformatics/btaa800. Surgery: Lotfollahi et al. 2022,
    doi:10.1038/s41587-021-01001-7.

    Examples
    --------
    >>> model = TRVAE(adata, batch_key="batch", hidden_layer_sizes=[128, 128])
    >>> model.train()
    >>> query = TRVAE.load_query_data(adata_query, model)
    >>> query.train()
    """

    config_class, module_class, plan_class = TRVAEConfig, TRVAEModule, ScArchesPlan

    def _new_module(self, schema: DataSchema) -> nn.Module:
        boundary, n_batches = self.config.mmd_boundary, len(schema.batches)
        if self.config.use_mmd and boundary is not None and boundary >= n_batches:
            raise ValueError(
                f"mmd_boundary={boundary} compares the first {boundary} batches, by name, with the others, and there "
                f"are {n_batches} in all ({listed(schema.batches)}). Give a number below {n_batches}, or None to "
                "compare all pairs."
            )
        return super()._new_module(schema)

    def get_y(self, adata=None, *, batch_size: int = 256) -> np.ndarray:
        """What the first layer of the decoder says of each cell at the posterior mean; with `mmd_on="y"`, the batches
        are drawn together here.

        Parameters
        ----------
        adata, batch_size
            As in `get_latent_representation`.

        Returns
        -------
        float32 (cells, last of `hidden_layer_sizes`).
        """
        module = self.module
        return self._per_cell(
            adata, lambda cells: module.decoder.hidden_layers(module.encode(cells).mean, cells)[0], batch_size
        )
