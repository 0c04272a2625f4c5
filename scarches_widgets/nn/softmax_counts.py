"""Counts whose expected shares are a softmax: negative binomial, with or without zero inflation, in one step.

    fractions = softmax(logits);  μ = library_size · fractions;  θ = exp(log_inverse_dispersion)
    counts ~ NegativeBinomial(μ, θ), or zero with probability sigmoid(zero_inflation_logits)

`likelihoods` has the same formulas elementwise. Here a cell's sum over genes and all its gradients come from one pass,
because this is where an epoch goes on a CPU:

- most counts are zero, and everything that a zero does not have (log-gammas, digammas, factorials) is computed for the
  others alone;
- log Γ(x + θ) − log Γ(θ) = x log θ + Σ_{k<x} log(1 + k/θ), a sum that small counts look up in a table with one column
  per gene, or per gene and batch while these are few; its x log θ joins x log(μ / (θ + μ)), so that nothing cancels
  when θ is large;
- the gradients need little that the value has not computed. With w = μ / (θ + μ) and p = P(a zero was counted, not
  inflated), which is 1 for other counts,
      ∂/∂ logit_g = d_g − fraction_g Σ d,  where d = p (x − (x + θ) w)
      ∂/∂ log θ   = p θ (w − log(1 + μ/θ)) + x w − Σ_{k<x} k / (θ + k)
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from .likelihoods import digamma_difference, log_gamma_ratio

TABLED = 24  # whole counts below this are looked up
FAR = 80.0  # logits beyond which a float32 sigmoid underflows


class Seen(NamedTuple):
    """Where the counts are that are not zero; int64, one entry each."""

    places: Tensor  # in the flattened matrix
    cells: Tensor
    genes: Tensor


def log_softmax_negative_binomial(
    counts: Tensor,
    logits: Tensor,
    library_size: Tensor,
    log_inverse_dispersion: Tensor,
    zero_inflation_logits: Tensor | None = None,
    seen: Seen | None = None,
    rows: Tensor | None = None,
) -> Tensor:
    """log p(counts) of each cell in nats, (cells,).

    Parameters
    ----------
    counts, logits
        (cells, genes). Counts need not be whole numbers.
    library_size
        Sum of a cell's expected counts, (cells, 1).
    log_inverse_dispersion
        One per gene, (genes,), or per cell and gene; or with `rows`, (levels, genes).
    zero_inflation_logits
        (cells, genes); None for no inflation.
    seen
        Where counts are not zero; None to look for them.
    rows
        Each cell's row of `log_inverse_dispersion`, int64 (cells,).
    """
    parameters = logits, library_size.log(), log_inverse_dispersion, zero_inflation_logits
    seen = seen_in(counts) if seen is None else seen
    if torch.is_grad_enabled():
        return _WithGradients.apply(counts, seen, rows, *parameters)
    return _evaluated(counts, seen, rows, *parameters)[0]


def seen_in(counts: Tensor) -> Seen:
    """Where `counts` are not zero."""
    cells, genes = counts.nonzero(as_tuple=True)
    return Seen(cells * counts.shape[1] + genes, cells, genes)


class _WithGradients(torch.autograd.Function):
    @staticmethod
    def forward(ctx, counts, seen, rows, *parameters):
        value, gradients = _evaluated(counts, seen, rows, *parameters, wanted=ctx.needs_input_grad[3:])
        ctx.save_for_backward(*gradients)
        ctx.rows, ctx.n_rows = rows, len(parameters[2])
        ctx.is_per_gene = [parameter is not None and parameter.dim() == 1 for parameter in parameters]
        return value

    @staticmethod
    @once_differentiable
    def backward(ctx, upstream):
        gradients = [
            None if one is None else upstream @ one if per_gene else one * upstream.unsqueeze(1)
            for one, per_gene in zip(ctx.saved_tensors, ctx.is_per_gene)
        ]
        if ctx.rows is not None and gradients[2] is not None:
            of_row = upstream.new_zeros(ctx.n_rows, len(upstream))
            of_row[ctx.rows, torch.arange(len(upstream), device=upstream.device)] = upstream
            gradients[2] = of_row @ ctx.saved_tensors[2]
        return None, None, None, *gradients


def _evaluated(
    counts: Tensor,
    seen: Seen,
    rows: Tensor | None,
    logits: Tensor,
    log_library_size: Tensor,
    log_theta: Tensor,
    inflation: Tensor | None,
    wanted: tuple[bool, ...] = (False,) * 4,
) -> tuple[Tensor, list[Tensor | None]]:
    """Log-likelihood of each cell, and its gradient by each of the four parameters that is `wanted`.

    A matrix whose numbers are not needed any more is written over by the next.
    """
    x, theta_rows = _at(counts, seen), log_theta.exp()
    theta = theta_rows if rows is None else theta_rows[rows]
    log_fractions = torch.log_softmax(logits, -1)
    log_mean = _at(log_fractions, seen) + log_library_size.view(-1).index_select(0, seen.cells)
    fractions = log_fractions.exp_()
    ratio = (fractions * log_library_size.exp()).div_(theta)  # μ/θ
    w = ratio / (1 + ratio)
    log_odds = ratio.log1p_()  # log(1 + μ/θ)
    log_binomial, slope = _binomial_terms(x, theta_rows, seen, rows, with_slope=wanted[2])
    log_seen = log_binomial + x * (log_mean - _at(log_odds, seen))
    w_seen = _at(w, seen)
    log_zero = log_odds.mul_(theta).neg_()  # log p(0), where a zero is counted
    drawn = w.mul_(theta)  # θ w

    if inflation is None:
        counted = None
        gradient_of_theta = drawn + log_zero if wanted[2] else None
        log_p = _add_at(log_zero, seen, log_seen).sum(-1)
    else:
        surplus = (log_zero - inflation).view(-1).index_fill_(0, seen.places, FAR).view_as(inflation)
        counted, not_inflated = torch.sigmoid(surplus), torch.sigmoid(-inflation)
        gradient_of_theta = (drawn + log_zero).mul_(counted) if wanted[2] else None
        log_counted = _add_at(log_zero, seen, log_seen)
        log_p = torch.div(not_inflated, counted).log_().add_(log_counted).sum(-1)
        if not log_p.isfinite().all():  # a sigmoid has underflowed
            log_p = (F.softplus(-surplus) - F.softplus(inflation) + log_counted).sum(-1)
    if not any(wanted):
        return log_p, []

    if wanted[2]:
        _add_at(gradient_of_theta, seen, x * w_seen - slope)
    d = drawn.neg_() if counted is None else drawn.neg_().mul_(counted)
    _add_at(d, seen, x * (1 - w_seen))
    total = d.sum(-1, keepdim=True)
    gradient_of_logits = d.addcmul_(fractions, total, value=-1)
    gradient_of_inflation = not_inflated.sub_(counted) if wanted[3] else None
    return log_p, [gradient_of_logits, total, gradient_of_theta, gradient_of_inflation]


def _binomial_terms(
    x: Tensor, theta: Tensor, seen: Seen, rows: Tensor | None, with_slope: bool
) -> tuple[Tensor, Tensor | None]:
    """Σ_{k<x} log(1 + k/θ) − log x!, and Σ_{k<x} k/(θ + k) if asked for, of the counts that are not zero."""
    if rows is not None:
        columns = rows[seen.cells] * theta.shape[1] + seen.genes
    else:
        columns = seen.genes if theta.dim() == 1 else seen.places
    is_tabled = theta.dim() == 1 or (rows is not None and theta.numel() <= len(x))
    theta = theta.reshape(-1)
    if not is_tabled:
        return _directly(x, theta[columns], with_slope)
    k = torch.arange(TABLED - 1, dtype=theta.dtype, device=theta.device).unsqueeze(1)
    tabled = (x < TABLED) & (x == x.trunc())
    places = torch.where(tabled, x, 1).long().sub_(1).mul_(len(theta)).add_(columns)

    def looked_up(steps: Tensor) -> Tensor:
        return steps.cumsum(0).view(-1).index_select(0, places)

    log_binomial = looked_up(torch.log1p(k / theta) - torch.log1p(k))
    slope = looked_up(k / (theta + k)) if with_slope else None
    if not tabled.all():
        others = (~tabled).nonzero().squeeze(1)
        terms = _directly(x[others], theta[columns[others]], with_slope)
        for found, exact in zip((log_binomial, slope), terms):
            if exact is not None:
                found.index_copy_(0, others, exact)
    return log_binomial, slope


def _directly(x: Tensor, theta: Tensor, with_slope: bool) -> tuple[Tensor, Tensor | None]:
    """The same by log-gamma and digamma, in float64 (which Apple's GPUs do not have): their differences cancel."""
    dtype = x.dtype
    if x.device.type != "mps":
        x, theta = x.double(), theta.double()
    log_binomial = log_gamma_ratio(x, theta) - x * theta.log() - torch.lgamma(x + 1)
    slope = x - theta * digamma_difference(x, theta) if with_slope else None
    return log_binomial.to(dtype), None if slope is None else slope.to(dtype)


def _at(matrix: Tensor, seen: Seen) -> Tensor:
    return matrix.reshape(-1).index_select(0, seen.places)


def _add_at(matrix: Tensor, seen: Seen, values: Tensor) -> Tensor:
    matrix.view(-1).index_add_(0, seen.places, values)
    return matrix
