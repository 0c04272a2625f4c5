"""A linear layer whose columns are gene programs, and the proximal steps that keep it sparse."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .expression import Dispersion, ExpressionDecoder, Likelihood
from .layers import Categories, CategoryTable
from .noise import Noise


class ProgramLayer(nn.Module):
    """`(weight ∘ mask) @ activities`, plus one row per category of each variable in `levels`.

    Parameters
    ----------
    n_terms, n_genes
        Number of programs and of genes.
    levels
        How many levels each categorical variable has.
    soft
        Whether a gene may join a program that it is not annotated with: the mask then counts in `after_step` only.

    Attributes
    ----------
    mask
        1 where a gene is annotated with a program, (genes, terms).
    """

    def __init__(self, n_terms: int, n_genes: int, levels: Mapping[str, int], soft: bool):
        super().__init__()
        self.soft = soft
        self.weight = nn.Parameter(torch.zeros(n_genes, n_terms))
        self.register_buffer("mask", torch.ones(n_genes, n_terms))
        self.offsets = nn.ModuleList(CategoryTable(variable, n, n_genes) for variable, n in levels.items())
        self.bound = 1 / math.sqrt(n_terms + sum(levels.values()))

    def initialize(self, generator: torch.Generator) -> None:
        for parameter in (self.weight, *(offset.blocks[0] for offset in self.offsets)):
            nn.init.uniform_(parameter, -self.bound, self.bound, generator=generator)
        self.annotate(self.mask)

    @torch.no_grad()
    def annotate(self, mask: Tensor) -> None:
        """Set the mask. Weights outside become zero; under a soft mask, too, they start there."""
        self.mask.copy_(mask)
        self.weight.mul_(self.mask)

    def loadings(self) -> Tensor:
        """Each gene's weight in each program, (genes, terms)."""
        return self.weight if self.soft else self.weight * self.mask

    def outputs(self, activities: Tensor, categories: Categories, noise: Noise | None = None) -> list[Tensor]:
        """Logits, (cells, genes); in a list, as hidden layers give theirs."""
        logits = F.linear(activities, self.loadings())
        for offset in self.offsets:
            logits = logits + offset(categories)
        return [logits]

    @torch.no_grad()
    def after_step(self, rate: float, lasso: float | Tensor, l1: float) -> None:
        """Shrink the weights as the penalties lasso · Σ ‖column‖₂ and l1 · Σ |weight outside the mask| would in a step
        of the learning rate `rate`: the proximal operators. Frozen weights stay.

        Parameters
        ----------
        rate
            Of the step just taken.
        lasso
            One for all programs, or one per program, (terms,).
        l1
            Without effect on a hard mask, outside of which there is nothing.
        """
        if not self.weight.requires_grad:
            return
        if l1 > 0 and self.soft:
            shrunk = self.weight.sign() * (self.weight.abs() - l1 * rate).clamp_min(0)
            self.weight.copy_(torch.where(self.mask == 0, shrunk, self.weight))
        lasso = torch.as_tensor(lasso, dtype=self.weight.dtype, device=self.weight.device)
        if (lasso > 0).any():
            norms = self.weight.norm(dim=0)
            kept = (1 - lasso * rate / norms.clamp_min(torch.finfo(norms.dtype).tiny)).clamp_min(0)
            self.weight.mul_(kept)


class ProgramDecoder(ExpressionDecoder):
    """p(counts | activities of programs, batch), with one linear layer."""

    def __init__(
        self,
        n_terms: int,
        n_genes: int,
        *,
        levels: Mapping[str, int],
        likelihood: Likelihood,
        soft_mask: bool,
        dispersion_by: str,
    ):
        nn.Module.__init__(self)  # its hidden layers are none
        self.likelihood = likelihood
        self.hidden = ProgramLayer(n_terms, n_genes, levels, soft_mask)
        self.fraction_logits = nn.Identity()
        if likelihood != "mse":
            self.log_inverse_dispersion = Dispersion(n_genes, dispersion_by, levels[dispersion_by])
