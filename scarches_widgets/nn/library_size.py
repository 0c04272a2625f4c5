"""A cell's library size, inferred: what scVI and the models built on it do unless the total count is taken for it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn

from .counts_encoder import CountsEncoder
from .divergences import Normal, kl_between_normals
from .expression import CellsLike
from .layers import CategoryTable

LEAST_VARIANCE = 1e-4  # of a batch's log library sizes, for a batch of one cell has none


class LibrarySize(nn.Module):
    """q(log library size | counts, batch), and its prior: normal, with mean and variance of the batch's own cells.

    Parameters
    ----------
    n_genes
        Number of genes.
    variable
        The categorical variable of the experimental batch.
    levels
        Categorical variables and how many levels each has.
    **options
        Of the encoder, which has one hidden layer; see `CountsEncoder`.
    """

    def __init__(self, n_genes: int, variable: str, levels: Mapping[str, int], **options):
        super().__init__()
        self.encoder = CountsEncoder(n_genes, 1, n_layers=1, levels=levels, **options)
        self.prior = LibraryPrior(variable, levels[variable])

    def forward(self, cells: CellsLike) -> tuple[CellsLike, Tensor]:
        """The cells with a drawn library size (without noise: the median one), and KL(q ‖ prior) in nats, (cells,)."""
        posterior = self.encoder(cells)
        kl = kl_between_normals(posterior, self.prior(cells.categories)).squeeze(-1)
        return replace(cells, library_size=posterior.rsample(cells.noise).exp()), kl


class LibraryPrior(CategoryTable):
    """Mean and log variance of each batch's log library sizes. They are counted, not trained."""

    def __init__(self, variable: str, n_levels: int):
        super().__init__(variable, n_levels, 2)
        self.blocks[0].requires_grad_(False)

    def grow(self, n_new: int) -> None:
        super().grow(n_new)
        self.blocks[-1].requires_grad_(False)

    def count(self, log_library_size: np.ndarray, codes: np.ndarray) -> None:
        """Set the newest block's rows from cells' log library sizes, (cells,), and levels, (cells,)."""
        n_before = sum(len(block) for block in self.blocks[:-1])
        for row, level in enumerate(range(n_before, n_before + len(self.blocks[-1]))):
            values = log_library_size[codes == level]
            if len(values):
                mean, variance = float(values.mean()), max(float(values.var()), LEAST_VARIANCE)
                self.blocks[-1].data[row] = torch.tensor([mean, np.log(variance)])

    def forward(self, categories: Mapping[str, Tensor]) -> Normal:
        mean, log_variance = super().forward(categories).split(1, dim=-1)
        return Normal(mean, log_variance.exp())
