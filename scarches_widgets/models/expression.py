"""What models that decode counts have in common: expression, likelihood, and how well the counts are explained."""

from __future__ import annotations

import numpy as np
import pandas as pd
from torch import Tensor

from ..data.minibatches import Minibatch


class ExpressionVerbs:
    """Verbs of a model whose module has `encode(cells)` and a `decoder` (an `ExpressionDecoder`)."""

    @property
    def expects(self) -> str:
        """The kind of values this model takes: "counts" or "any"."""
        return "any" if self.config.gene_likelihood == "normal" else "counts"

    def get_normalized_expression(
        self, adata=None, *, library_size: float | str = 1.0, gene_list=None, batch_size: int = 1024
    ) -> pd.DataFrame:
        """Expression as the decoder sees it, at the posterior mean, without the noise of counting.

        Parameters
        ----------
        adata
            Cells; None for the model's own.
        library_size
            What each cell's values sum to over all genes; "latent" for its own total count.
        gene_list
            Genes to return; None for all.
        batch_size
            Cells at a time.

        Returns
        -------
        DataFrame, cells × genes.
        """
        genes = pd.Index(self.schema.genes)
        columns = self._positions(gene_list)

        def normalized(cells: Minibatch) -> Tensor:
            decoder = self.module.decoder
            hidden = decoder(self.module.encode(cells).mean, cells)
            if self.config.gene_likelihood == "normal" or cells.size_factor is not None or library_size == "latent":
                return decoder.expected_counts(hidden, cells)[:, columns]
            return library_size * decoder.expected_fractions(hidden)[:, columns]

        adata = self._adata_or_own(adata)
        values = self._per_cell(adata, normalized, batch_size)
        return pd.DataFrame(values, index=adata.obs_names, columns=genes[columns])

    def get_elbo(self, adata=None, *, seed: int = 0, batch_size: int = 1024) -> float:
        """Mean evidence lower bound, in nats per cell; higher is better. One posterior sample per cell."""
        terms = self._loss_terms(adata, seed, batch_size)
        return -float(sum(terms.values()))

    def get_reconstruction_error(self, adata=None, *, seed: int = 0, batch_size: int = 1024) -> float:
        """Mean of −log p(counts | z), in nats per cell, at one posterior sample per cell; lower is better."""
        return float(self._loss_terms(adata, seed, batch_size)["reconstruction"])

    def _positions(self, gene_list) -> np.ndarray:
        if gene_list is None:
            return np.arange(self.schema.n_genes)
        return self._known_genes(gene_list)
