"""Log-likelihoods of counts and of normalised expression, elementwise and in nats.

Shapes broadcast: `counts` is (cells, genes); a parameter of a gene is (genes,), one of a cell and gene (cells, genes).

Upstream adds 1e-8 inside each logarithm. Here the formulas are exact: means are only kept from being zero, and the
difference of two log-gammas is taken by Stirling's series where it would otherwise cancel (a large inverse dispersion,
the Poisson limit), so that float32 stays finite and right at both ends.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

STIRLING_FROM = 1e3  # from here on the series is more exact than lgamma, even in float64's last digits


def log_poisson(counts: Tensor, mean: Tensor) -> Tensor:
    """Poisson: counts · log mean − mean − log counts!"""
    mean = _positive(mean)
    return counts * mean.log() - mean - torch.lgamma(counts + 1)


def log_negative_binomial(counts: Tensor, mean: Tensor, inverse_dispersion: Tensor) -> Tensor:
    """Negative binomial with variance = mean + mean² / inverse_dispersion."""
    mean, theta = _positive(mean), _positive(inverse_dispersion)
    log_odds = mean.log() - theta.log()
    # θ log(θ / (θ + μ)) + x log(μ / (θ + μ)), without overflow or cancellation at either end
    return _log_binomial(counts, theta) + (theta + counts) * F.logsigmoid(-log_odds) + counts * log_odds


def log_zero_inflated_negative_binomial(
    counts: Tensor, mean: Tensor, inverse_dispersion: Tensor, zero_inflation_logits: Tensor
) -> Tensor:
    """A count is zero with probability sigmoid(zero_inflation_logits), else negative binomial."""
    log_inflation = F.logsigmoid(zero_inflation_logits)
    log_not_inflated = F.logsigmoid(-zero_inflation_logits)
    log_count = log_not_inflated + log_negative_binomial(counts, mean, inverse_dispersion)
    return torch.where(counts == 0, torch.logaddexp(log_inflation, log_count), log_count)


def log_normal(values: Tensor, mean: Tensor, variance: Tensor) -> Tensor:
    """Normal, of the given variance."""
    variance = _positive(variance)
    return -0.5 * ((values - mean).square() / variance + variance.log() + torch.log(variance.new_tensor(2 * torch.pi)))


def _log_binomial(counts: Tensor, theta: Tensor) -> Tensor:
    """log Γ(x + θ) − log Γ(θ) − log x!, which is zero for the many counts of zero: only the others are computed."""
    counts, theta = torch.broadcast_tensors(counts, theta)
    seen = counts.nonzero(as_tuple=True)
    values = log_gamma_ratio(counts[seen], theta[seen]) - torch.lgamma(counts[seen] + 1)
    return torch.zeros_like(counts).index_put(seen, values)


def log_gamma_ratio(counts: Tensor, theta: Tensor) -> Tensor:
    """log Γ(counts + θ) − log Γ(θ), without cancellation when θ is large."""
    if not theta.numel() or theta.detach().max() < STIRLING_FROM:
        return torch.lgamma(counts + theta) - torch.lgamma(theta)
    small, large = theta.clamp_max(STIRLING_FROM), theta.clamp_min(STIRLING_FROM)
    exact = torch.lgamma(counts + small) - torch.lgamma(small)
    # Stirling: log Γ(z) = (z − ½) log z − z + ½ log 2π + 1/12z − …
    total = counts + large
    series = (total - 0.5) * torch.log1p(counts / large) + counts * (large.log() - 1) + (1 / total - 1 / large) / 12
    return torch.where(theta < STIRLING_FROM, exact, series)


def digamma_difference(counts: Tensor, theta: Tensor) -> Tensor:
    """ψ(counts + θ) − ψ(θ), without cancellation when θ is large: the derivative of `log_gamma_ratio` by θ."""
    small, large = theta.clamp_max(STIRLING_FROM), theta.clamp_min(STIRLING_FROM)
    exact = torch.digamma(counts + small) - torch.digamma(small)
    # ψ(z) = log z − 1/2z − 1/12z² + …
    total = counts + large
    apart = counts / (large * total)  # 1/θ − 1/(counts + θ)
    series = torch.log1p(counts / large) + apart / 2 + apart * (1 / total + 1 / large) / 12
    return torch.where(theta < STIRLING_FROM, exact, series)


def _positive(values: Tensor) -> Tensor:
    return values.clamp_min(torch.finfo(values.dtype).tiny)
