"""A linear map most of whose weights are zero, in float32 on a CPU: the time it takes goes with the others' number."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from .vector_math import ANY_ORDER, compiled

AT_ONCE = 64  # cells: enough that a loop over them pays for its start, few enough for the nearest cache


class SparseLinear(torch.autograd.Function):
    """`inputs @ (weight ∘ mask).T`, (cells, outputs).

    Takes `inputs` (cells, inputs), `weight` (outputs, inputs), and where the mask is one: in which inputs, output by
    output, and where each output's begin, int64 (outputs + 1,).
    """

    @staticmethod
    def forward(ctx, inputs: Tensor, weight: Tensor, starts: Tensor, places: Tensor) -> Tensor:
        outputs = inputs.new_empty(len(inputs), len(weight))
        _multiply(*(tensor.detach().numpy() for tensor in (inputs, weight, starts, places, outputs)))
        ctx.save_for_backward(inputs, weight, starts, places)
        return outputs

    @staticmethod
    @once_differentiable
    def backward(ctx, upstream: Tensor) -> tuple[Tensor, Tensor | None, None, None]:
        inputs, weight, starts, places = ctx.saved_tensors
        by_inputs, by_weight = inputs.new_empty(inputs.shape), torch.zeros_like(weight)
        given = inputs, weight, starts, places, upstream.contiguous(), by_inputs, by_weight
        _slopes(*(tensor.detach().numpy() for tensor in given))
        return by_inputs, by_weight if ctx.needs_input_grad[1] else None, None, None


def places_of(mask: Tensor) -> tuple[Tensor, Tensor]:
    """Where each output's inputs begin, and which these are, as `SparseLinear` takes them."""
    outputs, inputs = mask.nonzero(as_tuple=True)
    return torch.searchsorted(outputs, torch.arange(len(mask) + 1)), inputs


@compiled(fastmath=ANY_ORDER)
def _multiply(inputs, weight, starts, places, outputs):
    n_cells, n_inputs = inputs.shape
    x, sums = np.zeros((n_inputs, AT_ONCE), np.float32), np.empty(AT_ONCE, np.float32)  # x: each input's cells together
    kept = _kept(weight, starts, places)
    for first in range(0, n_cells, AT_ONCE):
        n = min(AT_ONCE, n_cells - first)
        for cell in range(n):
            for i in range(n_inputs):
                x[i, cell] = inputs[first + cell, i]
        for output in range(weight.shape[0]):
            for cell in range(AT_ONCE):
                sums[cell] = np.float32(0)
            for place in range(starts[output], starts[output + 1]):
                w, i = kept[place], places[place]
                for cell in range(AT_ONCE):
                    sums[cell] += w * x[i, cell]
            for cell in range(n):
                outputs[first + cell, output] = sums[cell]


@compiled(fastmath=ANY_ORDER)
def _slopes(inputs, weight, starts, places, upstream, by_inputs, by_weight):
    n_cells, n_inputs = inputs.shape
    x, by_x = np.zeros((n_inputs, AT_ONCE), np.float32), np.empty((n_inputs, AT_ONCE), np.float32)
    above = np.zeros(AT_ONCE, np.float32)
    kept, by_kept = _kept(weight, starts, places), np.zeros(len(places), np.float32)
    for first in range(0, n_cells, AT_ONCE):
        n = min(AT_ONCE, n_cells - first)
        above[n:] = np.float32(0)
        by_x[:] = np.float32(0)
        for cell in range(n):
            for i in range(n_inputs):
                x[i, cell] = inputs[first + cell, i]
        for output in range(weight.shape[0]):
            for cell in range(n):
                above[cell] = upstream[first + cell, output]
            for place in range(starts[output], starts[output + 1]):
                w, i, product = kept[place], places[place], np.float32(0)
                for cell in range(AT_ONCE):
                    by_x[i, cell] += w * above[cell]
                    product += above[cell] * x[i, cell]
                by_kept[place] += product
        for cell in range(n):
            for i in range(n_inputs):
                by_inputs[first + cell, i] = by_x[i, cell]
    for output in range(weight.shape[0]):
        for place in range(starts[output], starts[output + 1]):
            by_weight[output, places[place]] = by_kept[place]


@compiled()
def _kept(weight, starts, places):
    """The weights that the mask allows, side by side."""
    kept = np.empty(len(places), np.float32)
    for output in range(weight.shape[0]):
        for place in range(starts[output], starts[output + 1]):
            kept[place] = weight[output, places[place]]
    return kept
