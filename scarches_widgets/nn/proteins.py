"""From a latent cell to its RNA and protein counts: what totalVI decodes with. Gayoso et al. 2021,
doi:10.1038/s41592-020-01050-x.

Each output has one hidden layer of its own, and a last layer that sees [hidden | z | one-hot codes of the categories].
A protein's counts come from a background (antibody that floats about or sticks) or a foreground above it:

    log μ_background ~ Normal(a, b);  μ_foreground = μ_background · increment;  a, b, increment ≥ 1, π: decoders of z
    counts ~ π NegativeBinomial(e μ_background, θ) + (1 − π) NegativeBinomial(e μ_foreground, θ)

with an efficiency e of each batch and protein.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .divergences import Normal, kl_between_normals
from .expression import CellsLike, Dispersion, ExpressionDecoder, Likelihood, joined
from .layers import MLP, Categories, CategoryTable, ConditionalLinear
from .likelihoods import log_negative_binomial
from .noise import Noise

EPSILON = 1e-8  # what a background's deviation and a foreground's increment have at least
CELLS_OF_PRIOR, EM_STEPS = 100, 100  # of each batch


class SeenLinear(nn.Module):
    """A linear layer whose input ends in the one-hot codes of the categories; its table of rows can grow."""

    def __init__(self, n_in: int, n_out: int, levels: Mapping[str, int]):
        super().__init__()
        self.linear = ConditionalLinear(n_in, n_out, levels)

    @property
    def weight(self) -> Tensor:
        """(n_out, n_in + categories)."""
        return torch.cat([self.linear.weight, *(table.rows().T for table in self.linear.offsets)], dim=1)

    @property
    def bias(self) -> Tensor:
        return self.linear.bias

    def forward(self, seen: Tensor) -> Tensor:
        """Of the first columns of `seen`, as many as it needs."""
        weight = self.weight
        return F.linear(seen[:, : weight.shape[1]], weight, self.bias)


def one_hot(categories: Categories, tables: nn.ModuleList, like: Tensor) -> list[Tensor]:
    """Codes of each variable that has a table."""
    sizes = [(table.variable, sum(len(block) for block in table.blocks)) for table in tables]
    return [F.one_hot(categories[variable], n).to(like.dtype) for variable, n in sizes]


class Hidden(nn.Module):
    """A hidden layer, and beside it what its last layers see of the cell: z and the categories."""

    def __init__(self, n_in: int, n_hidden: int, n_layers: int, levels: Mapping[str, int], **options):
        super().__init__()
        self.layers = MLP(n_in, n_hidden, n_layers, levels, inject_everywhere=True, **options)
        self.n_out = n_hidden + n_in

    def forward(self, features: Tensor, cells: CellsLike) -> Tensor:
        """[hidden | features | one-hot codes]."""
        hidden = self.layers(features, cells.categories, cells.noise)
        return torch.cat([hidden, features, *one_hot(cells.categories, self.layers.linears[0].offsets, hidden)], dim=1)


class SeeingExpressionDecoder(ExpressionDecoder):
    """p(RNA counts | z, batch), whose last layer sees z and the categories again.

    Parameters
    ----------
    n_latent, n_genes, n_continuous, likelihood, levels, dispersion_by
        As in `ExpressionDecoder`.
    mixing
        The hidden layer that tells a protein's background, which zero inflation shares.
    n_hidden, n_layers, **options
        Of the hidden layer; see `MLP`.
    """

    def __init__(
        self,
        n_latent: int,
        n_genes: int,
        *,
        mixing: Hidden,
        n_continuous: int = 0,
        likelihood: Likelihood,
        levels: Mapping[str, int],
        dispersion_by: str | None,
        n_hidden: int,
        n_layers: int,
        **options,
    ):
        nn.Module.__init__(self)
        self.likelihood = likelihood
        self.hidden = Hidden(n_latent + n_continuous, n_hidden, n_layers, levels, **options)
        self.fraction_logits = SeenLinear(self.hidden.n_out, n_genes, levels)
        self._shared = (mixing,)  # within a tuple, the layer is the protein decoder's, and saved once
        if likelihood == "zinb":
            self.inflation = SeenLinear(mixing.n_out, n_genes, levels)
        by = () if dispersion_by is None else (dispersion_by, levels[dispersion_by])
        self.log_inverse_dispersion = Dispersion(n_genes, *by)

    def hidden_layers(self, z: Tensor, cells: CellsLike) -> list[Tensor]:
        """One: what the last layers see; with zero inflation, the mixing layer's besides, at the end."""
        features = joined(z, cells.continuous)
        seen = self.hidden(features, cells)
        if self.likelihood == "zinb":
            seen = torch.cat([seen, self._shared[0](features, cells)], dim=1)
        return [seen]

    def zero_inflation_logits(self, seen: Tensor) -> Tensor:
        """(cells, genes)."""
        return self.inflation(seen[:, seen.shape[1] // 2 :])


class ProteinRates(NamedTuple):
    """What is believed of each protein's counts, each (cells, proteins)."""

    background: Tensor  # expected counts; a draw of them, if there was noise
    foreground: Tensor
    background_logits: Tensor  # of the probability that the counts are background
    log_background: Normal

    @property
    def p_foreground(self) -> Tensor:
        return torch.sigmoid(-self.background_logits)


class ProteinDecoder(nn.Module):
    """p(protein counts | z, batch).

    Parameters
    ----------
    n_latent, n_proteins, n_continuous
        Width of z, number of proteins, and number of continuous covariates, which join z.
    batch
        The categorical variable of the experimental batch, which has efficiencies and priors of its own.
    levels
        Categorical variables and how many levels each has.
    dispersion_by
        Categorical variable each of whose levels has dispersions of its own; None for one per protein.
    exponential
        Whether a background's deviation is an exponential, as in scvi-tools before 1.2; else a softplus.
    n_hidden, n_layers, **options
        Of the three hidden layers; see `MLP`.
    """

    def __init__(
        self,
        n_latent: int,
        n_proteins: int,
        *,
        batch: str,
        n_continuous: int = 0,
        levels: Mapping[str, int],
        dispersion_by: str | None,
        exponential: bool,
        n_hidden: int,
        n_layers: int,
        **options,
    ):
        super().__init__()
        shape = n_latent + n_continuous, n_hidden, n_layers, levels
        self.background, self.foreground, self.mixing = (Hidden(*shape, **options) for _ in range(3))
        to_proteins = self.mixing.n_out, n_proteins, levels
        self.background_mean, self.background_scale = SeenLinear(*to_proteins), SeenLinear(*to_proteins)
        self.increment, self.background_logits = SeenLinear(*to_proteins), SeenLinear(*to_proteins)
        by = () if dispersion_by is None else (dispersion_by, levels[dispersion_by])
        self.log_inverse_dispersion = ProteinDispersion(n_proteins, *by)
        n_batches = levels[batch]
        self.log_efficiency = CategoryTable(batch, n_batches, n_proteins)
        self.prior_mean, self.prior_log_scale = (CategoryTable(batch, n_batches, n_proteins) for _ in range(2))
        self.measured = Measured(batch, n_batches, n_proteins)
        self._positive = torch.exp if exponential else F.softplus

    def initialize(self, generator: torch.Generator) -> None:
        nn.init.constant_(self.prior_mean.blocks[0], 3.0)

    def forward(self, z: Tensor, cells: CellsLike) -> ProteinRates:
        features = joined(z, cells.continuous)
        seen = self.background(features, cells)
        scale = self._positive(self.background_scale(seen)) + EPSILON
        log_background = Normal(self.background_mean(seen), scale.square())
        background = log_background.rsample(cells.noise).exp()
        increment = F.relu(self.increment(self.foreground(features, cells))) + 1 + EPSILON
        logits = self.background_logits(self.mixing(features, cells))
        return ProteinRates(background, background * increment, logits, log_background)

    def log_likelihood(self, counts: Tensor, rates: ProteinRates, cells: CellsLike) -> Tensor:
        """log p(counts | rates) in nats, (cells, proteins)."""
        efficiency, theta = self.log_efficiency(cells.categories).exp(), self.log_inverse_dispersion(cells).exp()
        log_p = [log_negative_binomial(counts, efficiency * mean, theta) for mean in rates[:2]]
        return torch.logaddexp(log_p[0] - F.softplus(-rates.background_logits),
                               log_p[1] - F.softplus(rates.background_logits))  # fmt: skip

    def kl_background(self, rates: ProteinRates, cells: CellsLike) -> Tensor:
        """KL(q(log μ_background) ‖ prior of the batch) in nats, (cells, proteins)."""
        prior = Normal(self.prior_mean(cells.categories), (2 * self.prior_log_scale(cells.categories)).exp())
        return kl_between_normals(rates.log_background, prior)

    def penalty(self, rates: ProteinRates, cells: CellsLike) -> Tensor:
        """−log LogNormal(efficiency; 0, 1) − 0.001 log π in nats, (cells, proteins)."""
        log_efficiency = self.log_efficiency(cells.categories)
        log_density = -log_efficiency - log_efficiency.square() / 2 - np.log(2 * np.pi) / 2
        return 1e-3 * F.softplus(-rates.background_logits) - log_density

    def set_prior(self, batch: int, mean: float, scale: float) -> None:
        """Start the newest block's row of a batch, counted from its first, at this prior for all proteins."""
        self.prior_mean.blocks[-1].data[batch] = mean
        self.prior_log_scale.blocks[-1].data[batch] = float(np.log(scale))


class ProteinDispersion(Dispersion):
    """As `Dispersion`, with initial values from 0 to 2."""

    def initialize(self, generator: torch.Generator) -> None:
        nn.init.uniform_(self.table.blocks[0] if self.per_level else self.shared, 0, 2, generator=generator)


class Measured(CategoryTable):
    """Which proteins are measured in which batch, as ones and zeros: none until they are counted. Not trained."""

    def __init__(self, variable: str, n_levels: int, n_features: int):
        super().__init__(variable, n_levels, n_features)
        self.blocks[0].requires_grad_(False)

    def grow(self, n_new: int) -> None:
        super().grow(n_new)
        nn.init.zeros_(self.blocks[-1].requires_grad_(False))

    def count(self, measured: np.ndarray) -> None:
        """Set the newest block from all batches' values, bool (batches, proteins)."""
        block = self.blocks[-1]
        block.data = torch.from_numpy(measured[-len(block) :]).to(block)


class Adversary(nn.Module):
    """A classifier of batches by z, and what the encoder loses by being told through."""

    def __init__(self, classifier: nn.Module):
        super().__init__()
        self.classifier = classifier

    def forward(self, z: Tensor, batch: Tensor, noise: Noise | None) -> tuple[Tensor, Tensor]:
        """Cross-entropies in nats, (cells,): of z's batch being any of the others, which trains what made z and not the
        classifier; and of its own, which trains the classifier alone."""
        frozen = {name: parameter.detach() for name, parameter in self.classifier.named_parameters()}
        log_p = F.log_softmax(torch.func.functional_call(self.classifier, frozen, (z, noise)), dim=-1)
        own = log_p.gather(1, batch.unsqueeze(1)).squeeze(1)
        confusion = (own - log_p.sum(-1)) / (log_p.shape[1] - 1)
        return confusion, F.cross_entropy(self.classifier(z.detach(), noise), batch, reduction="none")


def background_prior(counts: np.ndarray, rng: np.random.Generator) -> tuple[float, float] | None:
    """Mean and standard deviation of a batch's log background: of 100 of its cells (drawn with replacement), each one's
    log(1 + counts) are split in two normal distributions, the lower of which is the background.

    Parameters
    ----------
    counts
        (cells, proteins), measured ones alone.

    Returns
    -------
    Mean of the lower means, and √(Σ of their variances) / 100; None for fewer than 5 proteins.
    """
    if counts.shape[1] < 5:
        return None
    values = np.log1p(counts[rng.choice(len(counts), CELLS_OF_PRIOR)].astype(np.float64))
    means, variances = lower_halves(values)
    flat = np.ptp(values, axis=1) == 0
    means[flat], variances[flat] = values[flat, 0], 0.05**2
    return float(means.mean()), float(np.sqrt(variances.sum()) / CELLS_OF_PRIOR)


def lower_halves(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and variance of the lower of two normal distributions, each row's mixture fitted by 100 steps of EM from a
    split at the middle of its range; both (rows,)."""
    is_upper = values > (values.min(1, keepdims=True) + values.max(1, keepdims=True)) / 2
    shares = np.stack([~is_upper, is_upper]).astype(np.float64)  # (component, row, value)
    for _ in range(EM_STEPS):
        weight = shares.sum(-1, keepdims=True) + 10 * np.finfo(np.float64).eps
        mean = (shares * values).sum(-1, keepdims=True) / weight
        variance = (shares * (values - mean) ** 2).sum(-1, keepdims=True) / weight + 1e-6
        log_p = np.log(weight) - 0.5 * (np.log(variance) + (values - mean) ** 2 / variance)
        shares = np.exp(log_p - np.logaddexp(*log_p))
    lower = mean[..., 0].argmin(0), np.arange(len(values))
    return mean[..., 0][lower], variance[..., 0][lower]
