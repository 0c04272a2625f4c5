"""Counts whose expected shares are a softmax: negative binomial, with or without zero inflation, in one step.

    fractions = softmax(logits);  μ = library_size · fractions;  θ = exp(log_inverse_dispersion)
    counts ~ NegativeBinomial(μ, θ), or zero with probability sigmoid(zero_inflation_logits)

`likelihoods` has the same formulas elementwise. Here a cell's sum over genes and all its gradients come from one pass,
because this is where an epoch goes. On a CPU in float32, the pass is a compiled loop, `softmax_counts_cpu`; elsewhere:

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

from functools import cached_property
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from .likelihoods import digamma_difference, log_gamma_ratio
from .plain import are_plain

TABLED = 24  # whole counts below this are looked up
FAR = 80.0  # logits beyond which a float32 sigmoid underflows


class Seen:
    """Where the counts are that are not zero: `genes` cell by cell, and in these, where each cell's begin and the last
    one's end (cells + 1,). All int64."""

    def __init__(self, starts: Tensor, genes: Tensor, n_genes: int):
        self.starts, self.genes, self.n_genes = starts, genes, n_genes

    @cached_property
    def cells(self) -> Tensor:
        """Cell of each."""
        cells = torch.arange(len(self.starts) - 1, device=self.genes.device)
        return cells.repeat_interleave(self.starts.diff(), output_size=len(self.genes))

    @cached_property
    def places(self) -> Tensor:
        """Place of each in the flattened matrix, rising."""
        return self.cells * self.n_genes + self.genes


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
    starts = torch.searchsorted(cells, torch.arange(len(counts) + 1, device=counts.device))
    return Seen(starts, genes, counts.shape[1])


class _WithGradients(torch.autograd.Function):
    @staticmethod
    def forward(ctx, counts, seen, rows, *parameters):
        value, slopes = _evaluated(counts, seen, rows, *parameters, wanted=ctx.needs_input_grad[5:])
        ctx.save_for_backward(rows, *slopes)
        ctx.is_per_gene = parameters[2].dim() == 1
        ctx.n_rows = 1 if ctx.is_per_gene else len(parameters[2])
        return value

    @staticmethod
    @once_differentiable
    def backward(ctx, upstream):
        rows, excess, weights, total, share, by_theta, by_inflation = ctx.saved_tensors
        each = upstream.unsqueeze(1)
        if are_plain(excess):
            from .softmax_counts_cpu import gradients

            rows = _rows_of(rows, ctx.is_per_gene, len(upstream))
            found = gradients(upstream, rows, excess, weights, share, by_theta, ctx.n_rows, by_inflation)
            by_logits, by_theta, by_inflation = found
            by_theta = by_theta[0] if ctx.is_per_gene and by_theta is not None else by_theta
            return None, None, None, by_logits, -total * each, by_theta, by_inflation
        by_logits = (excess * -each).addcmul_(weights, share * each)
        if by_theta is not None and rows is not None:
            of_row = upstream.new_zeros(ctx.n_rows, len(upstream))
            of_row[rows, torch.arange(len(upstream), device=upstream.device)] = upstream
            by_theta = of_row @ by_theta
        elif by_theta is not None:
            by_theta = upstream @ by_theta if ctx.is_per_gene else by_theta * each
        by_inflation = None if by_inflation is None else by_inflation * each
        return None, None, None, by_logits, -total * each, by_theta, by_inflation


class _Slopes(NamedTuple):
    """What the gradients of the log-likelihood are made of; None where none is wanted."""

    excess: Tensor  # −d, (cells, genes)
    weights: Tensor  # fractions, but for a factor per cell
    total: Tensor  # −Σ d, (cells, 1)
    share: Tensor  # the same, times the factor
    by_theta: Tensor | None  # ∂/∂ log θ of each cell and gene
    by_inflation: Tensor | None


def _evaluated(
    counts: Tensor,
    seen: Seen,
    rows: Tensor | None,
    logits: Tensor,
    log_library_size: Tensor,
    log_theta: Tensor,
    inflation: Tensor | None,
    wanted: tuple[bool, bool] | None = None,
) -> tuple[Tensor, _Slopes | None]:
    """Log-likelihood of each cell, and its slopes if those by θ and by the inflation are `wanted` or not.

    A matrix whose numbers are not needed any more is written over by the next.
    """
    if are_plain(counts, logits, log_library_size, log_theta, inflation):
        return _evaluated_on_cpu(counts, seen, rows, logits, log_library_size, log_theta, inflation, wanted)
    x, theta_rows = _at(counts, seen), log_theta.exp()
    theta = theta_rows if rows is None else theta_rows.index_select(0, rows)
    highest = logits.amax(-1, keepdim=True)
    weights = (logits - highest).exp_()
    norm = weights.sum(-1, keepdim=True)
    log_mean = _at(logits, seen) + _of_cell(log_library_size - highest - norm.log(), seen)
    ratio = (weights * (log_library_size.exp() / norm)).div_(theta)  # μ/θ
    w = ratio + 1
    torch.div(ratio, w, out=w)
    log_odds = ratio.log1p_()  # log(1 + μ/θ)
    log_binomial, slope = _binomial_terms(x, theta_rows, seen, rows, with_slope=wanted is not None and wanted[0])
    cost_seen = x * (_at(log_odds, seen) - log_mean) - log_binomial
    w_seen = _at(w, seen)
    cost = log_odds.mul_(theta)  # −log p(0), where a zero is counted
    drawn = w.mul_(theta)  # θ w
    by_theta = drawn - cost if wanted and wanted[0] else None

    if inflation is None:
        log_p = -_add_at(cost, seen, cost_seen).sum(-1)
    else:
        surplus = (cost + inflation).neg_().view(-1).index_fill_(0, seen.places, FAR).view_as(inflation)
        counted, not_inflated = torch.sigmoid(surplus), torch.sigmoid(-inflation)
        _add_at(cost, seen, cost_seen)
        log_p = torch.div(not_inflated, counted).log_().sub_(cost).sum(-1)
        if not log_p.isfinite().all():  # a sigmoid has underflowed
            log_p = (F.softplus(-surplus) - F.softplus(inflation) - cost).sum(-1)
        drawn.mul_(counted)
        if by_theta is not None:
            by_theta.mul_(counted)
    if wanted is None:
        return log_p, None

    if by_theta is not None:
        _add_at(by_theta, seen, x * w_seen - slope)
    excess = _add_at(drawn, seen, x * (w_seen - 1))
    total = excess.sum(-1, keepdim=True)
    by_inflation = not_inflated.sub_(counted) if wanted[1] else None
    return log_p, _Slopes(excess, weights, total, total / norm, by_theta, by_inflation)


def _evaluated_on_cpu(
    counts: Tensor,
    seen: Seen,
    rows: Tensor | None,
    logits: Tensor,
    log_library_size: Tensor,
    log_theta: Tensor,
    inflation: Tensor | None,
    wanted: tuple[bool, bool] | None,
) -> tuple[Tensor, _Slopes | None]:
    """The same in float32, by a compiled loop."""
    from .softmax_counts_cpu import evaluated  # a compiler is loaded by those alone who need it

    theta, rows = log_theta.exp().view(-1, logits.shape[1]), _rows_of(rows, log_theta.dim() == 1, len(logits))
    counts, logits = counts.contiguous(), logits.contiguous()
    found = evaluated(counts, seen.starts, seen.genes, rows, logits, log_library_size, theta, inflation)
    log_p, excess, weights, total, norm, by_theta, by_inflation = found
    if wanted is None:
        return log_p, None
    by_theta, by_inflation = by_theta if wanted[0] else None, by_inflation if wanted[1] else None
    return log_p, _Slopes(excess, weights, total, total / norm, by_theta, by_inflation)


def _rows_of(rows: Tensor | None, is_per_gene: bool, n_cells: int) -> Tensor:
    """Each cell's row of a table of dispersions, which has one row if it has one per gene."""
    if is_per_gene:
        return torch.zeros(n_cells, dtype=torch.int64)
    return torch.arange(n_cells) if rows is None else rows


def _binomial_terms(
    x: Tensor, theta: Tensor, seen: Seen, rows: Tensor | None, with_slope: bool
) -> tuple[Tensor, Tensor | None]:
    """Σ_{k<x} log(1 + k/θ) − log x!, and Σ_{k<x} k/(θ + k) if asked for, of the counts that are not zero."""
    if rows is not None:
        columns = _of_cell(rows * theta.shape[1], seen).add_(seen.genes)
    else:
        columns = seen.genes if theta.dim() == 1 else seen.places
    is_tabled = theta.dim() == 1 or (rows is not None and theta.numel() <= len(x))
    theta = theta.reshape(-1)
    if not is_tabled:
        return _directly(x, theta[columns], with_slope)
    k = torch.arange(TABLED - 1, dtype=theta.dtype, device=theta.device).unsqueeze(1)
    count = x.long().clamp_(1, TABLED - 1)
    others = (count != x).nonzero().squeeze(1)  # large ones, and those that are not whole
    places = count.sub_(1).mul_(len(theta)).add_(columns)

    def looked_up(steps: Tensor) -> Tensor:
        return steps.cumsum_(0).view(-1).index_select(0, places)

    ratio = k / theta
    slope = looked_up(k / (theta + k)) if with_slope else None
    log_binomial = looked_up(ratio.log1p_().sub_(torch.log1p(k)))
    if len(others):
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


def _of_cell(values: Tensor, seen: Seen) -> Tensor:
    return values.reshape(-1).index_select(0, seen.cells)


def _add_at(matrix: Tensor, seen: Seen, values: Tensor) -> Tensor:
    matrix.view(-1).scatter_add_(0, seen.places, values)
    return matrix
