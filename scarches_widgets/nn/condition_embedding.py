"""Conditions as learned vectors, in place of one-hot codes. De Donno et al. 2023, doi:10.1038/s41592-023-02035-2.

    weight @ features + bias + of_conditions @ [vector of condition 1 | vector of condition 2 | …]

A new condition is one more vector; no weight of the network needs to know of it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .layers import Categories, CategoryTable, ConditionalLinear


class ConditionEmbedding(nn.Module):
    """One vector per level of each condition, no longer than `max_norm`.

    Parameters
    ----------
    levels
        Categorical variables and how many levels each has.
    n_dims
        Width of each variable's vectors, in the order of `levels`.
    max_norm
        Largest Euclidean length; `clip` restores it after a step.
    """

    def __init__(self, levels: Mapping[str, int], n_dims: Sequence[int], max_norm: float):
        super().__init__()
        self.tables = nn.ModuleList(
            CategoryTable(variable, n, width) for (variable, n), width in zip(levels.items(), n_dims, strict=True)
        )
        self.n_out = sum(n_dims)
        self.max_norm = max_norm

    def initialize(self, generator: torch.Generator) -> None:
        for table in self.tables:
            nn.init.normal_(table.blocks[0], generator=generator)
        self.clip()

    @torch.no_grad()
    def clip(self) -> None:
        """Shorten the vectors that are too long. Frozen ones stay."""
        for block in self.parameters():
            if block.requires_grad:
                lengths = block.norm(dim=1, keepdim=True).clamp_min(torch.finfo(block.dtype).tiny)
                block.mul_((self.max_norm / lengths).clamp_max(1))

    def forward(self, categories: Categories) -> Tensor:
        """Each cell's vectors side by side, (cells, n_out)."""
        return torch.cat([table(categories) for table in self.tables], dim=-1)


class EmbeddedLinear(ConditionalLinear):
    """A linear layer that conditions enter by their vectors, which it shares with other layers."""

    def __init__(self, n_in: int, n_out: int, embedding: ConditionEmbedding, bias: bool = True):
        super().__init__(n_in, n_out, bias=bias)
        self.of_conditions = nn.Parameter(torch.zeros(n_out, embedding.n_out))
        self._shared = (embedding,)  # within a tuple, the vectors are the network's, and saved once

    def initialize(self, generator: torch.Generator) -> None:
        super().initialize(generator)
        bound = 1 / math.sqrt(self.of_conditions.shape[1])
        nn.init.uniform_(self.of_conditions, -bound, bound, generator=generator)

    def forward(self, features: Tensor, categories: Categories | None = None, learns_bias: bool = True) -> Tensor:
        (embedding,) = self._shared
        return super().forward(features, None, learns_bias) + F.linear(embedding(categories), self.of_conditions)
