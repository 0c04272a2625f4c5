"""The log-likelihood of `softmax_counts` and its slopes in float32 on a CPU, as one compiled loop over cells.

Formulas and names are of that module. Torch would go through memory some thirty times; here a cell's genes stay in the
processor's cache from the first pass to the last. Cells are shared out among as many threads as torch may use.

What a count x that is not zero has besides, Σ_{k<x} log(1 + k/θ) − log x! and Σ_{k<x} k/(θ + k), is added up term by
term for all counts together up to `FEW`, which most are, and for single ones up to `MANY`. For others it comes from
Stirling's series of log Γ(z + x) − log Γ(z) and of its derivative at z = θ + `MANY`, where three terms are enough.
"""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor
from functools import cache

import numpy as np
import torch
from torch import Tensor

from .vector_math import ANY_ORDER, compiled, exp_of_negative, log, log_1_plus

FEW, MANY = 6, 16
SMALL = 1e-4  # a θ below which a product of `FEW` factors may overflow float32
LARGE = 1e200  # of a product that may grow further
LOG_FACTORIAL = np.array([math.lgamma(count + 1) for count in range(MANY + 1)])
LEAST_SHARE = 16  # cells that are worth a thread


def evaluated(
    counts: Tensor,
    starts: Tensor,
    genes: Tensor,
    rows: Tensor,
    logits: Tensor,
    log_library_size: Tensor,
    theta: Tensor,
    inflation: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor | None]:
    """Log-likelihood, excess, weights, Σ excess, Σ weights, and slopes by log θ and by the inflation.

    Parameters
    ----------
    counts, logits, inflation
        (cells, genes).
    starts, genes
        The genes whose counts are not zero, cell by cell, and where each cell's begin, int64 (cells + 1,).
    rows
        Each cell's row of `theta`, which is (rows, genes).
    log_library_size
        (cells, 1).
    """
    log_p, excess, weights, by_theta = logits.new_empty(len(logits)), *(torch.empty_like(logits) for _ in range(3))
    total, norm = logits.new_empty(len(logits), 1), logits.new_empty(len(logits), 1)
    by_inflation = None if inflation is None else torch.empty_like(logits)
    given = counts, starts, genes, rows, logits, log_library_size.view(-1), theta, inflation
    found = log_p, excess, weights, total.view(-1), norm.view(-1), by_theta, by_inflation
    arrays = [None if tensor is None else tensor.detach().numpy() for tensor in (*given, *found)]
    n_threads = min(torch.get_num_threads(), len(logits) // LEAST_SHARE)
    if n_threads <= 1:
        _evaluate(0, len(logits), *arrays)
    else:
        bounds = [len(logits) * i // n_threads for i in range(n_threads + 1)]
        list(_threads(n_threads).map(lambda first, last: _evaluate(first, last, *arrays), bounds[:-1], bounds[1:]))
    return log_p, excess, weights, total, norm, by_theta, by_inflation


def gradients(
    upstream: Tensor,
    rows: Tensor,
    excess: Tensor,
    weights: Tensor,
    share: Tensor,
    by_theta: Tensor | None,
    n_rows: int,
    by_inflation: Tensor | None,
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """By the logits (cells, genes), by the rows of log θ (rows, genes) and by the inflation (cells, genes).

    Parameters
    ----------
    upstream
        Of each cell's log-likelihood, (cells,).
    excess, weights, by_theta, by_inflation
        As `evaluated` gave them; None for what has no gradient.
    share
        Σ excess / Σ weights, (cells, 1).
    """
    by_logits = torch.empty_like(excess)
    of_rows = None if by_theta is None else excess.new_zeros(n_rows, excess.shape[1])
    of_inflation = None if by_inflation is None else torch.empty_like(by_inflation)
    given = upstream.contiguous(), rows, excess, weights, share.view(-1), by_theta, by_inflation
    arrays = [None if one is None else one.numpy() for one in (*given, by_logits, of_rows, of_inflation)]
    _pass_on(*arrays)
    return by_logits, of_rows, of_inflation


@cache
def _threads(n: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(n, thread_name_prefix="likelihood")


@compiled(fastmath={*ANY_ORDER, "nnan"})
def _highest(values):
    """Of numbers without NaN; of others, any of them."""
    highest = values[0]
    for value in values:
        highest = max(highest, value)
    return highest


@compiled(fastmath=ANY_ORDER)
def _binomial_terms_of_few(counts, theta, log_binomial, slope):
    """Σ_{k<x} log(1 + k/θ) − log x! and Σ_{k<x} k/(θ + k) of whole counts from 1 to `FEW`; θ is at least `SMALL`."""
    one, zero = np.float32(1), np.float32(0)
    for i in range(len(counts)):
        x, t, product, total = counts[i], theta[i], one, zero
        scale = one / t
        for k in range(1, FEW):
            is_below = np.float32(k) < x
            product *= (one + np.float32(k) * scale) / np.float32(k + 1) if is_below else one
            total += np.float32(k) / (t + np.float32(k)) if is_below else zero
        log_binomial[i], slope[i] = log(product), total


@compiled(fastmath=ANY_ORDER)
def _binomial_terms(count, theta):
    """The same of one count, whatever it and θ are, in float64."""
    x, t = np.float64(count), np.float64(theta)
    if x <= MANY and x == math.floor(x):
        slope, logs, product = 0.0, 0.0, 1.0
        for k in range(1, int(x)):
            slope += k / (t + k)
            product *= 1 + k / t
            if product > LARGE:
                logs, product = logs + math.log(product), 1.0
        return logs + math.log(product) - LOG_FACTORIAL[int(x)], slope
    z = t + MANY
    log_ratio, apart = math.log1p(x / z), x / (z * (z + x))  # log((z + x) / z), 1/z − 1/(z + x)
    sums = 1 / z + 1 / (z + x)
    squares = 1 / (z * z) + 1 / (z * (z + x)) + 1 / ((z + x) * (z + x))
    log_gammas = (z + x - 0.5) * log_ratio - x - apart / 12 + apart * squares / 360
    digammas = log_ratio + apart / 2 + apart * sums / 12
    # from z back to θ, and without x log θ
    log_gammas += x * math.log1p(MANY / t)
    product = 1.0
    for k in range(MANY):
        digammas += x / ((t + k) * (t + k + x))
        product *= 1 + x / (t + k)
        if product > LARGE:
            log_gammas, product = log_gammas - math.log(product), 1.0
    return log_gammas - math.log(product) - math.lgamma(x + 1), x - t * digammas


@compiled(fastmath=ANY_ORDER)
def _evaluate(
    first,
    last,
    counts,
    starts,
    genes,
    rows,
    logits,
    log_library_size,
    theta_rows,
    inflation,
    log_p,
    excess,
    weights,
    total,
    norm,
    by_theta,
    by_inflation,
):
    n_genes, zero, one = logits.shape[1], np.float32(0), np.float32(1)
    large = np.empty(n_genes, np.int64)  # genes with counts above one: the others have no sums
    logs, x, theta_of = np.empty(n_genes, np.float32), np.empty(n_genes, np.float32), np.empty(n_genes, np.float32)
    log_binomial, slope = np.empty(n_genes, np.float32), np.empty(n_genes, np.float32)
    for cell in range(first, last):
        count, logit, theta = counts[cell], logits[cell], theta_rows[rows[cell]]
        weight, d, by = weights[cell], excess[cell], by_theta[cell]
        highest, sum_of_weights, sum_of_d, sum_of_logs = _highest(logit), zero, zero, 0.0
        for gene in range(n_genes):
            weight[gene] = exp_of_negative(logit[gene] - highest)
            sum_of_weights += weight[gene]
        scale = np.float32(math.exp(log_library_size[cell]) / sum_of_weights)
        log_sum = log_library_size[cell] - highest - np.float32(math.log(sum_of_weights))  # what a log μ has besides

        for gene in range(n_genes):
            ratio = weight[gene] * scale / theta[gene]  # μ/θ
            share = ratio / (one + ratio)  # w
            odds = log_1_plus(ratio)
            cost, drawn = theta[gene] * odds, theta[gene] * share
            d_of = drawn + count[gene] * (share - one)
            by_of = drawn - cost + count[gene] * share
            log_of = count[gene] * (logit[gene] + log_sum - odds) - cost
            if inflation is not None:
                a = inflation[cell, gene]
                both = a + cost
                e_both, e_a = exp_of_negative(-abs(both)), exp_of_negative(-abs(a))
                is_zero = count[gene] == zero
                counted = (e_both if both > zero else one) / (one + e_both) if is_zero else one
                not_inflated = (e_a if a > zero else one) / (one + e_a)
                # log(eᵃ + exp(−cost)) − log(1 + eᵃ), or where a count was seen, log_of − log(1 + eᵃ)
                log_of += (max(both, zero) if is_zero else zero) - max(a, zero)
                log_of += log((one + e_both if is_zero else one) / (one + e_a))
                d_of *= counted
                by_of *= counted
                by_inflation[cell, gene] = not_inflated - counted
            d[gene], by[gene] = d_of, by_of
            sum_of_d += d_of
            logs[gene] = log_of
        for gene in range(n_genes):
            sum_of_logs += logs[gene]  # in float64

        n_large = 0
        for place in range(starts[cell], starts[cell + 1]):
            gene = genes[place]
            large[n_large], x[n_large], theta_of[n_large] = gene, count[gene], theta[gene]
            n_large += count[gene] != one
        _binomial_terms_of_few(x[:n_large], theta_of[:n_large], log_binomial, slope)
        for i in range(n_large):
            if x[i] > FEW or theta_of[i] < SMALL or x[i] != np.float32(np.int32(x[i])):
                log_binomial[i], slope[i] = _binomial_terms(x[i], theta_of[i])
            by[large[i]] -= slope[i]
            sum_of_logs += log_binomial[i]
        log_p[cell], total[cell], norm[cell] = sum_of_logs, sum_of_d, sum_of_weights


@compiled(fastmath=ANY_ORDER)
def _pass_on(upstream, rows, excess, weights, share, by_theta, by_inflation, by_logits, of_rows, of_inflation):
    n_cells, n_genes = excess.shape
    for cell in range(n_cells):
        above = upstream[cell]
        of_weight = above * share[cell]
        for gene in range(n_genes):
            by_logits[cell, gene] = of_weight * weights[cell, gene] - above * excess[cell, gene]
        if of_rows is not None:
            of_row, by = of_rows[rows[cell]], by_theta[cell]
            for gene in range(n_genes):
                of_row[gene] += above * by[gene]
        if of_inflation is not None:
            for gene in range(n_genes):
                of_inflation[cell, gene] = above * by_inflation[cell, gene]
