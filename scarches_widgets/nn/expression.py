"""From a latent cell to the distribution of its counts: what scVI and the models built on it decode with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .layers import MLP, CategoryTable, ConditionalLinear
from .likelihoods import log_negative_binomial, log_normal, log_poisson, log_zero_inflated_negative_binomial
from .noise import Noise
from .softmax_counts import Seen, log_softmax_negative_binomial

Likelihood = Literal["zinb", "nb", "poisson", "normal", "mse"]
NOT_OF_COUNTS = ("normal", "mse")


class CellsLike(Protocol):
    """What a decoder must know of cells; see `data.minibatches.Minibatch`."""

    counts: Tensor  # (cells, genes)
    library_size: Tensor  # (cells, 1)
    categories: Mapping[str, Tensor]
    continuous: Tensor | None
    size_factor: Tensor | None
    labels: Tensor | None  # −1 = unlabelled
    seen: tuple[Tensor, Tensor] | None
    genes: Tensor | None  # positions of those that the data have; None: all
    noise: Noise | None


class ExpressionDecoder(nn.Module):
    """p(counts | z, batch).

    Parameters
    ----------
    n_latent, n_genes, n_continuous
        Width of z, number of genes, and number of continuous covariates, which join z.
    likelihood
        Of the values. "mse" is minus the squared error of a value ≥ 0, which is no likelihood.
    levels
        Categorical variables and how many levels each has.
    dispersion_by
        Categorical variable each of whose levels has dispersions of its own; None for one per gene. Labels, which are
        in no `levels`, are named with their number, such as `("label", 12)`.
    **options
        Of the hidden layers; see `MLP`.
    """

    def __init__(
        self,
        n_latent: int,
        n_genes: int,
        *,
        n_continuous: int = 0,
        likelihood: Likelihood = "zinb",
        levels: Mapping[str, int],
        dispersion_by: str | tuple[str, int] | None = None,
        n_hidden: int | Sequence[int],
        **options,
    ):
        super().__init__()
        self.likelihood = likelihood
        self.hidden = MLP(n_latent + n_continuous, n_hidden, levels=levels, **options)
        self.fraction_logits = ConditionalLinear(self.hidden.n_out, n_genes)
        if likelihood == "zinb":
            self.zero_inflation_logits = ConditionalLinear(self.hidden.n_out, n_genes)
        if likelihood not in ("poisson", "mse"):
            if isinstance(dispersion_by, str):
                dispersion_by = dispersion_by, levels[dispersion_by]
            self.log_inverse_dispersion = Dispersion(n_genes, *(dispersion_by or ()))

    def forward(self, z: Tensor, cells: CellsLike) -> Tensor:
        """What the last hidden layer says of z in the cells' batches, (cells, n_hidden)."""
        return self.hidden_layers(z, cells)[-1]

    def hidden_layers(self, z: Tensor, cells: CellsLike) -> list[Tensor]:
        """What each hidden layer says, each (cells, its width)."""
        return self.hidden.outputs(joined(z, cells.continuous), cells.categories, cells.noise)

    def expected_fractions(self, hidden: Tensor) -> Tensor:
        """Each gene's expected share of a cell's counts, (cells, genes); rows sum to one."""
        return torch.softmax(self.fraction_logits(hidden), dim=-1)

    def expected_counts(self, hidden: Tensor, cells: CellsLike) -> Tensor:
        """Mean of each count, (cells, genes)."""
        return self._expected(self.fraction_logits(hidden), cells)

    def _expected(self, logits: Tensor, cells: CellsLike) -> Tensor:
        if self.likelihood == "normal":
            return logits
        if self.likelihood == "mse":
            return torch.relu(logits)
        if cells.size_factor is not None:
            return cells.size_factor * F.softplus(logits)
        return cells.library_size * torch.softmax(logits, dim=-1)

    def log_likelihood(self, z: Tensor, cells: CellsLike) -> Tensor:
        """log p(counts | z, batch) in nats, (cells,); of the genes that the cells' data have, if these are not all."""
        return self.log_likelihood_of(self(z, cells), cells)

    def log_likelihood_of(self, hidden: Tensor, cells: CellsLike) -> Tensor:
        """The same, from what the last hidden layer says."""
        counts, logits, inflation, dispersion, rows = cells.counts, self.fraction_logits(hidden), None, None, None
        seen = None if cells.seen is None else Seen(*cells.seen, counts.shape[1])
        in_one_step = self.likelihood in ("nb", "zinb") and cells.size_factor is None
        if self.likelihood == "zinb":
            inflation = self.zero_inflation_logits(hidden)
        if in_one_step:
            dispersion, rows = self.log_inverse_dispersion.by_row(cells)
        elif self.likelihood not in ("poisson", "mse"):
            dispersion = self.log_inverse_dispersion(cells)
        if cells.genes is not None:  # the others were not looked for, so they have no share of the counts either
            parts = counts, logits, inflation, dispersion
            counts, logits, inflation, dispersion = (part if part is None else part[..., cells.genes] for part in parts)
            seen = None
        if in_one_step:
            return log_softmax_negative_binomial(counts, logits, cells.library_size, dispersion, inflation, seen, rows)
        expected = self._expected(logits, cells)
        if self.likelihood == "poisson":
            return log_poisson(counts, expected).sum(-1)
        if self.likelihood == "mse":
            return -(counts - expected).square().sum(-1)
        if self.likelihood == "normal":
            return log_normal(counts, expected, dispersion.exp()).sum(-1)
        if self.likelihood == "nb":
            return log_negative_binomial(counts, expected, dispersion.exp()).sum(-1)
        return log_zero_inflated_negative_binomial(counts, expected, dispersion.exp(), inflation).sum(-1)


class Dispersion(nn.Module):
    """Logarithm of each gene's inverse dispersion (of its variance, under a normal likelihood): one row for all cells,
    or one row per level of a categorical variable, or per label; an unlabelled cell has the mean of the labels' rows.
    """

    def __init__(self, n_genes: int, variable: str | None = None, n_levels: int = 1):
        super().__init__()
        self.per_level = variable is not None
        if self.per_level:
            self.table = CategoryTable(variable, n_levels, n_genes)
        else:
            self.shared = nn.Parameter(torch.zeros(n_genes))

    def initialize(self, generator: torch.Generator) -> None:
        nn.init.normal_(self.table.blocks[0] if self.per_level else self.shared, generator=generator)

    def forward(self, cells: CellsLike) -> Tensor:
        """(genes,), or (cells, genes)."""
        if not self.per_level:
            return self.shared
        if self.table.variable in cells.categories:
            return self.table(cells.categories)
        rows = self.table.rows()
        mean = rows.mean(0, keepdim=True)
        if cells.labels is None:
            return mean.expand(len(cells.counts), -1)
        return F.embedding(cells.labels % (len(rows) + 1), torch.cat([rows, mean]))  # −1 is the last one

    def by_row(self, cells: CellsLike) -> tuple[Tensor, Tensor | None]:
        """(levels, genes) and each cell's row of it, if these are levels of a categorical variable; else as `forward`
        gives them, and None."""
        if self.per_level and self.table.variable in cells.categories:
            return self.table.rows(), cells.categories[self.table.variable]
        return self(cells), None


def joined(features: Tensor, continuous: Tensor | None) -> Tensor:
    """Features and continuous covariates side by side."""
    return features if continuous is None else torch.cat([features, continuous], dim=-1)
