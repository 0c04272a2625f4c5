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

    def highest(self, of_edges: Tensor) -> Tensor:
        """The largest that arrives at each gene, (cells, genes); 0 where nothing does."""
        arrives_at = self.edges[1].expand_as(of_edges)
        zeros = of_edges.new_zeros(len(of_edges), self.n_genes)
        return zeros.scatter_reduce(1, arrives_at, of_edges, "amax", include_self=False)


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
        start, end = self.edges.edges
        scale = math.sqrt(len(self.key_weight))
        sharpness = (self.query_bias @ self.key_weight + self.query_weight @ self.key_weight * x) / scale  # β
        logits = sharpness[:, end] * x[:, start]
        weights = (logits - self.edges.highest(logits.detach())[:, end]).exp()
        mean = self.edges.sums(weights * x[:, start]) / self.edges.sums(weights).clamp(min=1e-30)
        has_neighbors = (self.edges.n_neighbors > 0).float()[:, None]
        of_neighbors = mean[..., None] * self.value_weight + has_neighbors * self.value_bias
        return x[..., None] * self.skip_weight + self.skip_bias + of_neighbors


CONVOLUTIONS = {"TransformerConv": TransformerConv, "GraphSAGE": GraphSAGE, "GCN": GCN}


def _draw(parameters, generator: torch.Generator) -> None:
    """Uniform on −1 to 1, as torch draws a linear layer of one input."""
    for parameter in parameters:
        nn.init.uniform_(parameter, -1, 1, generator=generator)
