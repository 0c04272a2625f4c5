"""Normal distributions in latent space, and how far distributions lie apart."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from .noise import Noise
from .plain import are_plain

# of trVAE: Lotfollahi et al. 2020, doi:10.1093/bioinformatics/btaa800
MMD_BANDWIDTHS = (1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 0.1, 1, 5, 10, 15, 20, 25, 30, 35, 100, 1e3, 1e4, 1e5, 1e6)
AT_A_TIME = 16_384  # distances whose kernels are held in memory at once
LEAST_EXPONENT = -80.0  # below about −87, exp has no full float32 any more, and takes many times as long


class Normal(NamedTuple):
    """Independent normal distributions, one per cell and dimension."""

    mean: Tensor  # (cells, dimensions)
    variance: Tensor  # (cells, dimensions), positive

    def rsample(self, noise: Noise | None = None) -> Tensor:
        """A draw through which gradients flow; the mean, if no noise is given."""
        return self.mean if noise is None else self.mean + self.variance.sqrt() * noise.normal_like(self.mean)


def kl_to_standard_normal(q: Normal) -> Tensor:
    """KL(q ‖ N(0, 1)) in nats, elementwise: ½ (variance + mean² − 1 − log variance)."""
    return 0.5 * (q.variance + q.mean.square() - 1 - q.variance.log())


def kl_between_normals(q: Normal, p: Normal) -> Tensor:
    """KL(q ‖ p) in nats, elementwise."""
    return 0.5 * ((q.variance + (q.mean - p.mean).square()) / p.variance - 1 - (q.variance / p.variance).log())


def maximum_mean_discrepancy(a: Tensor, b: Tensor, bandwidths: Sequence[float] = MMD_BANDWIDTHS) -> Tensor:
    """Squared maximum mean discrepancy between two samples, under a sum of Gaussian kernels.

    The biased estimator of Gretton et al. 2012 (JMLR 13): mean k(a, a') + mean k(b, b') − 2 mean k(a, b), with
    k(a, b) = Σ exp(−|a − b|² / (2 · bandwidth)). It is zero when the samples are equal.

    Parameters
    ----------
    a, b
        Samples, (cells of a, dimensions) and (cells of b, dimensions).
    bandwidths
        One per kernel, in units of squared distance.
    """

    def mean_kernel(u: Tensor, v: Tensor) -> Tensor:
        return _kernel(u, v, bandwidths).mean()

    return mean_kernel(a, a) + mean_kernel(b, b) - 2 * mean_kernel(a, b)


def discrepancy_between_groups(
    values: Tensor, groups: Tensor, boundary: int | None = None, bandwidths: Sequence[float] = MMD_BANDWIDTHS
) -> Tensor:
    """Sum of `maximum_mean_discrepancy` over all pairs of groups, each kernel computed once for all pairs.

    Parameters
    ----------
    values
        (cells, dimensions).
    groups
        Code of each cell's group, int64 (cells,).
    boundary
        Only pairs of a group whose code is below it and one whose code is not; groups of one cell are then left out.
    bandwidths
        As in `maximum_mean_discrepancy`.
    """
    weights = _weights_of_groups(groups, boundary, values.dtype)
    if are_plain(values):
        from .divergences_cpu import SumOfKernels  # a compiler is loaded by those alone who need it

        return SumOfKernels.apply(values, groups, weights, _rates(bandwidths, values))
    first, second = torch.triu_indices(len(groups), len(groups), 1, device=values.device)
    has_pdist = values.device.type != "mps"
    distances = torch.pdist(values) if has_pdist else torch.cdist(values, values)[first, second]
    of_pairs = _GaussianKernels.apply(distances.square(), tuple(bandwidths))
    of_themselves = len(bandwidths) * weights.diagonal()[groups].sum()
    return 2 * weights[groups[first], groups[second]] @ of_pairs + of_themselves


def _weights_of_groups(groups: Tensor, boundary: int | None, dtype: torch.dtype) -> Tensor:
    """What the kernel of two cells counts for in the sum over the pairs of groups, by the groups of the two.

    With K the kernel of all cells and S each cell's share of its group, the sum over the pairs (g, h) of
    (SᵀKS)_gg + (SᵀKS)_hh − 2 (SᵀKS)_gh weighs each K_ij by (S L Sᵀ)_ij, where L is the Laplacian of the pairs' graph.
    """
    n_cells = torch.bincount(groups)
    if boundary is None:
        paired = (n_cells > 0).outer(n_cells > 0).fill_diagonal_(False)
    else:
        is_first = torch.arange(len(n_cells), device=groups.device) < boundary
        paired = (is_first & (n_cells > 1)).outer(~is_first & (n_cells > 1))
        paired = paired | paired.T
    edges, shares = paired.to(dtype), n_cells.clamp_min(1).to(dtype).reciprocal()
    return (edges.sum(1).diag() - edges) * shares.outer(shares)


def dependence(a: Tensor, b: Tensor) -> Tensor:
    """How much two variables, seen in the same cells, depend on each other: the Hilbert-Schmidt independence criterion.

    The root of the biased estimator of Gretton et al. 2005, doi:10.1007/11564089_7,
    mean K∘L + mean K · mean L − 2 mean(row means of K ∘ row means of L), where K and L are Gaussian kernels of a and
    b as wide as `_expected_distance` squared. Zero for independent variables and many cells. For independent ones,
    rounding may leave the estimator below zero, where its root would be NaN: it is kept at 1e-12 or more.

    Parameters
    ----------
    a, b
        (cells, dimensions of a) and (cells, dimensions of b).
    """
    k, l = (_kernel(values, values, [_expected_distance(values.shape[1]) ** 2]) for values in (a, b))
    rows = k.mean(1), l.mean(1)
    squared = (k * l).mean() + rows[0].mean() * rows[1].mean() - 2 * (rows[0] * rows[1]).mean()
    return squared.clamp_min(1e-12).sqrt()


def _expected_distance(n_dimensions: int) -> float:
    """Mean distance of two draws from N(0, I), 2 Γ((d + 1) / 2) / Γ(d / 2)."""
    return 2 * math.exp(math.lgamma((n_dimensions + 1) / 2) - math.lgamma(n_dimensions / 2))


def _kernel(a: Tensor, b: Tensor, bandwidths: Sequence[float]) -> Tensor:
    """Σ exp(−|a − b|² / (2 · bandwidth)), (cells of a, cells of b)."""
    squared = torch.cdist(a, b, compute_mode="donot_use_mm_for_euclid_dist").square()
    return _GaussianKernels.apply(squared, tuple(bandwidths))


def _rates(bandwidths: Sequence[float], like: Tensor) -> Tensor:
    """The r of each exp(r · squared distance)."""
    return like.new_tensor([-0.5 / bandwidth for bandwidth in bandwidths])


class _GaussianKernels(torch.autograd.Function):
    """Σ exp(−squared / (2 · bandwidth)), elementwise; value and slope come from the same exponentials."""

    @staticmethod
    def forward(ctx, squared: Tensor, bandwidths: tuple[float, ...]) -> Tensor:
        rates = _rates(bandwidths, squared)
        both = torch.stack([torch.ones_like(rates), rates])  # (2, kernels): of the value, and of its slope
        found = squared.new_empty(2, squared.numel())
        for part, target in zip(squared.reshape(-1).split(AT_A_TIME), found.split(AT_A_TIME, dim=1)):
            torch.mm(both, torch.outer(rates, part).clamp_(min=LEAST_EXPONENT).exp_(), out=target)
        value, slope = found.view(2, *squared.shape)
        ctx.save_for_backward(slope)
        return value

    @staticmethod
    @once_differentiable
    def backward(ctx, upstream: Tensor) -> tuple[Tensor, None]:
        (slope,) = ctx.saved_tensors
        return upstream * slope, None
