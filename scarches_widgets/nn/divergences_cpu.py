"""The discrepancy between groups and its slopes in float32 on a CPU, as one compiled loop over pairs of cells."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from .vector_math import ANY_ORDER, compiled, exp_of_negative


class SumOfKernels(torch.autograd.Function):
    """Σ_ij W_gh Σ_r exp(r · |v_i − v_j|²) over all cells i and j, where g and h are their groups.

    Takes v (cells, dimensions), g (cells,), W (groups, groups), which is symmetric, and the rates r ≤ 0, (kernels,).
    Gradients are by v alone.
    """

    @staticmethod
    def forward(ctx, values: Tensor, groups: Tensor, weights: Tensor, rates: Tensor) -> Tensor:
        columns = values.detach().T.contiguous()
        slopes = torch.zeros_like(columns)
        total = _add_kernels(*(tensor.numpy() for tensor in (columns, groups, weights, rates, slopes)))
        ctx.save_for_backward(slopes)
        return values.new_tensor(total)

    @staticmethod
    @once_differentiable
    def backward(ctx, upstream: Tensor) -> tuple[Tensor, None, None, None]:
        (slopes,) = ctx.saved_tensors
        return slopes.T * upstream, None, None, None


@compiled(fastmath=ANY_ORDER)
def _add_kernels(columns, groups, weights, rates, slopes):
    """Each pair counts twice. Distances come from differences: from |a|² + |b|² − 2ab, those of near cells, by which
    the narrowest kernels go, would have lost their digits."""
    (n_dimensions, n_cells), zero, two = columns.shape, np.float32(0), np.float32(2)
    squared, kernels = np.empty(n_cells, np.float32), np.empty(n_cells, np.float32)
    by_squared, total = np.empty(n_cells, np.float32), 0.0
    for i in range(n_cells):
        total += weights[groups[i], groups[i]] * len(rates)
        n, of_group = n_cells - i - 1, weights[groups[i]]
        d, kernel, slope, others = squared[:n], kernels[:n], by_squared[:n], groups[i + 1 :]
        d[:] = kernel[:] = slope[:] = zero
        for k in range(n_dimensions):
            here, there = columns[k, i], columns[k, i + 1 :]
            for j in range(n):
                d[j] += (here - there[j]) * (here - there[j])
        for rate in rates:
            for j in range(n):
                e = exp_of_negative(rate * d[j])
                kernel[j] += e
                slope[j] += rate * e
        for j in range(n):
            weight = two * of_group[others[j]]
            total += weight * kernel[j]
            slope[j] *= two * weight
        for k in range(n_dimensions):
            here, there, by_there, by_here = columns[k, i], columns[k, i + 1 :], slopes[k, i + 1 :], zero
            for j in range(n):
                change = slope[j] * (here - there[j])
                by_here += change
                by_there[j] -= change
            slopes[k, i] += by_here
    return total
