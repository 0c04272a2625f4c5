"""Convolutions over a gene network, for nodes of one feature: the gene's expression.

With x_i the expression of gene i in a cell, N(i) its neighbours and d_i their number, out_i is of n_out features:

    GraphSAGE        W_neighbour mean_(j in N(i)) x_j + W_self x_i + b            (0 for the mean of no neighbours)
    GCN              W Σ_(j in N(i) and i) x_j / √((d_i + 1)(d_j + 1)) + b
    TransformerConv  W_skip x_i + b_skip + Σ_(j in N(i)) α_ij (w_value x_j + b_value),
                     α_ij = softmax over N(i) of (w_query x_i + b_query) · (w_key x_j + b_key) / √n_out

Hamilton et al. 2017, arXiv:1706.02216; Kipf & Welling 2017, arXiv:1609.02907; Shi et al. 2021, arXiv:2009.03509 (one
head). Since x is a number, neighbours come in by one number per gene too: a mean whose weights are free of parameters,
or in the last, whose weights are the softmax of β_i x_j, β_i = (w_query x_i + b_query) · w_key / √n_out. b_key cancels.

All take (cells, genes) to (cells, genes, n_out).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

LARGEST_EXPONENT = 60.0  # of which a sum of exponentials is far from float32's limit of e^88


class GeneEdges(nn.Module):
    """Edges of a gene network, as sums over each gene's neighbours need them.

    Parameters
    ----------
    n_genes, n_edges
        Their numbers; each undirected edge counts twice.
    """

    def __init__(self, n_genes: int, n_edges: int):
        super().__init__()
        self.n_genes = n_genes
        self.register_buffer("edges", torch.zeros(2, n_edges, dtype=torch.int64))  # from, to

    @property
    def n_neighbors(self) -> Tensor:
        """Of each gene, float32 (genes,)."""
        return torch.bincount(self.edges[1], minlength=self.n_genes).float()

    def sums(self, of_edges: Tensor) -> Tensor:
        """What arrives at each gene, (cells, genes), of values per edge, (cells, edges)."""
        return of_edges.new_zeros(len(of_edges), self.n_genes).index_add(1, self.edges[1], of_edges)


class GraphSAGE(nn.Module):
    def __init__(self, edges: GeneEdges, n_out: int):
        super().__init__()
        self.edges = edges
        self.weights = nn.Parameter(torch.zeros(2, n_out))  # of the neighbours' mean, of the gene itself
        self.bias = nn.Parameter(torch.zeros(n_out))

    def initialize(self, generator: torch.Generator) -> None:
        _draw(self.parameters(), generator)

    def forward(self, x: Tensor) -> Tensor:
        mean = self.edges.sums(x[:, self.edges.edges[0]]) / self.edges.n_neighbors.clamp(min=1)
        return mean[..., None] * self.weights[0] + x[..., None] * self.weights[1] + self.bias


class GCN(nn.Module):
    def __init__(self, edges: GeneEdges, n_out: int):
        super().__init__()
        self.edges = edges
        self.weight = nn.Parameter(torch.zeros(n_out))
        self.bias = nn.Parameter(torch.zeros(n_out))

    def initialize(self, generator: torch.Generator) -> None:
        _draw(self.parameters(), generator)

    def forward(self, x: Tensor) -> Tensor:
        scaled = x / (self.edges.n_neighbors + 1).sqrt()
        mean = (scaled + self.edges.sums(scaled[:, self.edges.edges[0]])) / (self.edges.n_neighbors + 1).sqrt()
        return mean[..., None] * self.weight + self.bias


class TransformerConv(nn.Module):
    def __init__(self, edges: GeneEdges, n_out: int):
        super().__init__()
        self.edges = edges
        for name in ("query", "key", "value", "skip"):
            setattr(self, f"{name}_weight", nn.Parameter(torch.zeros(n_out)))
            if name != "key":
                setattr(self, f"{name}_bias", nn.Parameter(torch.zeros(n_out)))

    def initialize(self, generator: torch.Generator) -> None:
        _draw(self.parameters(), generator)

    def forward(self, x: Tensor) -> Tensor:
        scale = math.sqrt(len(self.key_weight))
        sharpness = (self.query_bias @ self.key_weight + self.query_weight @ self.key_weight * x) / scale  # β
        mean = TiltedMean.apply(x.T.contiguous(), sharpness.T.contiguous(), self.edges.edges).T
        has_neighbors = (self.edges.n_neighbors > 0).to(x.dtype).expand_as(x)
        weights = torch.stack([self.skip_weight, self.value_weight, self.value_bias])
        return torch.stack([x, mean, has_neighbors], dim=-1) @ weights + self.skip_bias


class TiltedMean(torch.autograd.Function):
    """m_i = Σ_j x_j exp(β_i x_j) / Σ_j exp(β_i x_j) over the neighbours j of gene i; 0 if it has none.

    By hand, since its derivative by β_i is a number per gene too, the variance Σ_j α_ij x_j² − m_i²: nothing of the
    size of the edges is kept for the backward pass. `x` and `β` are genes × cells: a gene's row is moved as one.
    """

    @staticmethod
    def forward(ctx, x: Tensor, sharpness: Tensor, edges: Tensor) -> Tensor:
        weights, x_start, total = _weights(x, sharpness, edges)
        mean = torch.zeros_like(x).index_add_(0, edges[1], weights.mul_(x_start)).div_(total)
        square = torch.zeros_like(x).index_add_(0, edges[1], weights.mul_(x_start)).div_(total)
        ctx.save_for_backward(x, sharpness, edges, mean, square)
        return mean

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, gradient: Tensor):
        x, sharpness, edges, mean, square = ctx.saved_tensors
        of_sharpness = gradient * (square - mean**2)
        if not ctx.needs_input_grad[0]:
            return None, of_sharpness, None
        weights, x_start, total = _weights(x, sharpness, edges)
        start, end = edges
        of_edges = weights / total[end] * (1 + sharpness[end] * (x_start - mean[end])) * gradient[end]
        return torch.zeros_like(x).index_add_(0, start, of_edges), of_sharpness, None


def _weights(x: Tensor, sharpness: Tensor, edges: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """exp(β_i x_j) up to a factor per gene i, and x_j, of each edge (edges, cells); their sums, (genes, cells)."""
    start, end = edges
    x_start = x.index_select(0, start)
    weights = sharpness.index_select(0, end).mul_(x_start)
    if len(start) and sharpness.abs().max() * x.abs().max() > LARGEST_EXPONENT:
        arrives_at = end[:, None].expand_as(weights)
        highest = torch.zeros_like(x).scatter_reduce_(0, arrives_at, weights, "amax", include_self=False)
        weights -= highest[end]
    weights.exp_()
    total = torch.zeros_like(x).index_add_(0, end, weights).clamp_(min=1e-30)
    return weights, x_start, total


CONVOLUTIONS = {"TransformerConv": TransformerConv, "GraphSAGE": GraphSAGE, "GCN": GCN}


def _draw(parameters, generator: torch.Generator) -> None:
    """Uniform on −1 to 1, as torch draws a linear layer of one input."""
    for parameter in parameters:
        nn.init.uniform_(parameter, -1, 1, generator=generator)
