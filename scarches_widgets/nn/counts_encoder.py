"""From a cell's counts to what is believed of it: what scVI and the models built on it encode with."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from .divergences import Normal
from .expression import CellsLike, joined
from .layers import Encoder
from .plain import are_plain


class CountsEncoder(Encoder):
    """q(z | counts, batch).

    Parameters
    ----------
    n_genes, n_latent, n_continuous
        Number of genes, width of z, and number of continuous covariates, which join the counts.
    levels
        Categorical variables and how many levels each has.
    encode_covariates
        Whether covariates and categories are seen at all.
    log_counts
        Whether log(1 + value) is seen, not the value.
    **options
        Of the hidden layers; see `MLP`.
    """

    def __init__(
        self,
        n_genes: int,
        n_latent: int,
        *,
        n_continuous: int = 0,
        levels: Mapping[str, int],
        encode_covariates: bool,
        log_counts: bool = True,
        **options,
    ):
        n_in = n_genes + n_continuous * encode_covariates
        super().__init__(n_in, n_latent, levels=levels if encode_covariates else {}, **options)
        self.encode_covariates, self.log_counts = encode_covariates, log_counts

    def forward(self, cells: CellsLike) -> Normal:
        features = self._logs(cells.counts) if self.log_counts else cells.counts
        if self.encode_covariates:
            features = joined(features, cells.continuous)
        return super().forward(features, cells.categories, cells.noise)

    def _logs(self, counts: Tensor) -> Tensor:
        if self.training and are_plain(counts):
            from .vector_math import log_1_plus_each  # a compiler is loaded for a training alone

            return log_1_plus_each(counts)
        return torch.log1p(counts)


def log_density(values: Tensor, normal: Normal) -> Tensor:
    """log N(values; mean, variance) in nats, summed over the last dimension."""
    squared = (values - normal.mean).square() / normal.variance
    return -0.5 * (squared + normal.variance.log() + torch.log(squared.new_tensor(2 * torch.pi))).sum(-1)
