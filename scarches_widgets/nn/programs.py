"""A linear layer whose columns are gene programs, the proximal steps that keep it sparse, and how it grows: a surgery
may add programs, each a column more here and an output more of the encoder's heads."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .counts_encoder import CountsEncoder
from .expression import Dispersion, ExpressionDecoder, Likelihood
from .layers import Categories, CategoryTable, ConditionalLinear
from .noise import Noise
from .plain import are_plain

SPARSE = 0.1  # share of weights up to which it is faster to leave out the others
PROGRAM = "program"  # what surgery calls the variable whose levels are programs


class AddedPrograms(nn.Module):
    """Columns that one surgery added. A program whose mask has all genes is a free one: nobody said what it is."""

    def __init__(self, n_terms: int, n_genes: int):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(n_genes, n_terms))
        self.register_buffer("mask", torch.ones(n_genes, n_terms))


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
    added
        Programs that surgeries added, which follow the others; one part for each surgery.
    soft_added
        `soft`, for these.
    """

    variable = PROGRAM
    soft_added = False
    _places = None  # of the mask's ones: the mask, its version, and where they are

    def __init__(self, n_terms: int, n_genes: int, levels: Mapping[str, int], soft: bool):
        super().__init__()
        self.soft = soft
        self.weight = nn.Parameter(torch.zeros(n_genes, n_terms))
        self.register_buffer("mask", torch.ones(n_genes, n_terms))
        self.added = nn.ModuleList()
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

    def grow(self, n_new: int) -> None:
        """Append `n_new` free programs, with loadings of zero: before the first step, reconstructions stay the same."""
        self.added.append(AddedPrograms(n_new, len(self.weight)))

    def loadings(self) -> Tensor:
        """Each gene's weight in each program, (genes, terms)."""
        first = self.weight if self.soft else self.weight * self.mask
        if not self.added:
            return first
        return torch.cat([first, *(p.weight if self.soft_added else p.weight * p.mask for p in self.added)], dim=1)

    def annotations(self) -> Tensor:
        """The mask of all programs, (genes, terms)."""
        return torch.cat([self.mask, *(programs.mask for programs in self.added)], dim=1)

    def newest_free(self) -> Tensor:
        """Which programs the last surgery added as free ones, bool (terms,)."""
        is_free = self.mask.new_zeros(self.annotations().shape[1], dtype=torch.bool)
        if self.added:
            newest = self.added[-1].mask.bool().all(0)
            is_free[-len(newest) :] = newest
        return is_free

    def outputs(self, activities: Tensor, categories: Categories, noise: Noise | None = None) -> list[Tensor]:
        """Logits, (cells, genes); in a list, as hidden layers give theirs."""
        logits = self._explained(activities)
        for offset in self.offsets:
            logits = logits + offset(categories)
        return [logits]

    def _explained(self, activities: Tensor) -> Tensor:
        """`activities @ loadings.T`, of which what the mask forbids is not even computed where that saves time."""
        if self.soft or not are_plain(activities, self.weight) or not self._is_sparse():
            return F.linear(activities, self.loadings())
        from .sparse_linear import SparseLinear  # a compiler is loaded by those alone who need it

        n_terms = self.weight.shape[1]
        explained = SparseLinear.apply(activities[:, :n_terms], self.weight, *self._places[2:])
        if not self.added:
            return explained
        return explained + F.linear(activities[:, n_terms:], self.loadings()[:, n_terms:])

    def _is_sparse(self) -> bool:
        """Whether few weights are allowed, and then where, which is looked up again if the mask has changed."""
        mask, version = self.mask, self.mask._version
        if self._places is None or self._places[0] is not mask or self._places[1] != version:
            from .sparse_linear import places_of

            self._places = mask, version, *places_of(mask)
        return len(self._places[3]) <= SPARSE * mask.numel()

    @torch.no_grad()
    def after_step(self, rate: float, lasso: float | Tensor, l1: float, free_l1: float = 0.0) -> None:
        """Shrink the weights as the penalties lasso · Σ ‖column‖₂, l1 · Σ |weight outside the mask| and free_l1 ·
        Σ |weight of a free program| would in a step of the learning rate `rate`: the proximal operators. Frozen weights
        stay.

        Parameters
        ----------
        rate
            Of the step just taken.
        lasso
            One for all programs that no surgery added, or one per such program, (terms,).
        l1
            Without effect on a hard mask, outside of which there is nothing.
        free_l1
            Of free programs that a surgery added.
        """
        for programs in self.added:
            if programs.weight.requires_grad:
                if l1 > 0 and self.soft_added:
                    _shrink(programs.weight, programs.mask == 0, l1 * rate)
                if free_l1 > 0:
                    _shrink(programs.weight, programs.mask.bool().all(0), free_l1 * rate)
        if not self.weight.requires_grad:
            return
        if l1 > 0 and self.soft:
            _shrink(self.weight, self.mask == 0, l1 * rate)
        lasso = torch.as_tensor(lasso, dtype=self.weight.dtype, device=self.weight.device)
        if (lasso > 0).any():
            norms = self.weight.norm(dim=0)
            kept = (1 - lasso * rate / norms.clamp_min(torch.finfo(norms.dtype).tiny)).clamp_min(0)
            self.weight.mul_(kept)


def _shrink(weight: Tensor, where: Tensor, by: float) -> None:
    """Bring the weights `where` nearer to zero."""
    weight.copy_(torch.where(where, weight.sign() * (weight.abs() - by).clamp_min(0), weight))


class GrowingHead(ConditionalLinear):
    """One output per program; those that surgeries added follow."""

    variable = PROGRAM

    def __init__(self, n_in: int, n_out: int):
        super().__init__(n_in, n_out)
        self.added = nn.ModuleList()

    def grow(self, n_new: int) -> None:
        self.added.append(ConditionalLinear(self.weight.shape[1], n_new))

    def forward(self, features: Tensor, categories: Categories | None = None) -> Tensor:
        first = super().forward(features, categories)
        return torch.cat([first, *(linear(features) for linear in self.added)], dim=1) if self.added else first


class ProgramEncoder(CountsEncoder):
    """q(activities of programs | counts, batch)."""

    def __init__(self, n_genes: int, n_terms: int, **options):
        super().__init__(n_genes, n_terms, **options)
        self.mean = GrowingHead(self.hidden.n_out, n_terms)
        self.log_variance = GrowingHead(self.hidden.n_out, n_terms)

    def initialize_added(self, generator: torch.Generator) -> None:
        """Draw the weights of what the last surgery added."""
        for head in (self.mean, self.log_variance):
            head.added[-1].initialize(generator)


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
