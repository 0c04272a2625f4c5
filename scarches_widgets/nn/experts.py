"""What several experts, each of which has seen another modality of a cell, believe of it together.

Product (Wu & Goodman 2018, arXiv:1802.05335), with the prior N(0, I) as an expert that is always there:

    1 / variance = 1 + Σ_m 1 / variance_m;    mean = variance · Σ_m mean_m / variance_m

Mixture, the mean of the experts' draws, as in multigrate (Litinetskaya et al. 2022, doi:10.1101/2022.03.16.484643):

    mean = Σ_m w_m mean_m;    variance = Σ_m w_m² variance_m;    w_m = 1 / number of experts

Sums are over the modalities that a cell has: what an expert says of a modality that the cell lacks is not read, and a
cell with one modality has what its expert says (of a product: times the prior) to the bit.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from .divergences import Normal
from .noise import Noise


def product_of_experts(experts: Sequence[Normal], present: Tensor | None = None) -> Normal:
    """The normalised product of the experts' densities and the prior's.

    Parameters
    ----------
    experts
        One per modality, each over (cells, dimensions).
    present
        Which modalities each cell has, bool (cells, experts); None: all. A cell without any has the prior.
    """
    precision, weighted = torch.ones_like(experts[0].mean), torch.zeros_like(experts[0].mean)
    for i, (mean, variance) in enumerate(experts):
        if present is not None:
            there = present[:, i, None]
            mean, variance = mean.where(there, 0), variance.where(there, torch.inf)
        precision = precision + 1 / variance
        weighted = weighted + mean / variance
    return Normal(weighted / precision, 1 / precision)


def mixture_of_experts(experts: Sequence[Normal], present: Tensor | None = None) -> Normal:
    """The mean of one draw of each expert.

    Parameters
    ----------
    experts, present
        As in `product_of_experts`.

    Raises
    ------
    ValueError
        If a cell has no modality, for there is no prior to fall back on.
    """
    if present is None:
        present = torch.ones(len(experts[0].mean), len(experts), dtype=torch.bool, device=experts[0].mean.device)
    n_present = present.sum(1, keepdim=True)
    if not n_present.all():
        raise ValueError(
            f"{int((n_present == 0).sum()):,} of {len(present):,} cells have no modality, and a mixture of no experts "
            "does not exist. Leave these cells out, or take the product, which has a prior."
        )
    mean, variance = torch.zeros_like(experts[0].mean), torch.zeros_like(experts[0].mean)
    for i, expert in enumerate(experts):
        there = present[:, i, None]
        mean = mean + expert.mean.where(there, 0) / n_present
        variance = variance + expert.variance.where(there, 0) / n_present.square()
    return Normal(mean, variance)


class ExpertDropout(nn.Module):
    """In training, a share of the cells is left with one of its modalities, drawn by chance: each expert so learns to
    stand alone. Once `frozen`, cells keep all."""

    frozen = False

    def __init__(self, rate: float):
        super().__init__()
        self.rate = rate

    def forward(self, present: Tensor, noise: Noise | None) -> Tensor:
        """Which modalities are to be read, bool (cells, experts), of those that are there."""
        if self.frozen or not self.training or self.rate == 0:
            return present
        scores = noise.normal_like(torch.empty(present.shape, device=present.device)).where(present, -torch.inf)
        one = torch.zeros_like(present).scatter_(1, scores.argmax(1, keepdim=True), True)
        is_alone = noise.kept_like(scores[:, :1], self.rate) > 0
        return present & (one | ~is_alone)
