"""Layers that know about experimental batches, and that grow when a query brings new ones.

Published networks append a one-hot code of the batch to a layer's input:

    weight @ [features | onehot(batch) | onehot(covariate 1) | …] + bias

which is the same as adding one row per category to the layer's output. Here these rows are tables of their own
(`CategoryTable`), one per categorical variable and one *block of rows per surgery* within it. The rows that a reference
has learned and the rows that a query adds are then different parameters: weight decay and momentum of the query's
training cannot touch the reference, and no column can end up under another variable's name.

Every layer draws its initial weights in `initialize(generator)`, never in its constructor.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .divergences import Normal
from .noise import Noise
from .ranks import in_step

TORCH_BATCH_NORM = {"batch_norm_eps": 1e-5, "batch_norm_momentum": 0.1}  # in place of scvi-tools' constants
Categories = Mapping[str, Tensor]  # variable -> code of each cell's level, int64 (cells,)


def initialize(module: nn.Module, generator: torch.Generator) -> None:
    """Draw the initial weights of `module` and of all its parts, in the order in which they were made."""
    for part in module.modules():
        if hasattr(part, "initialize"):
            part.initialize(generator)


class CategoryTable(nn.Module):
    """One learned row per level of a categorical variable, (levels, features); one block of rows per surgery."""

    def __init__(self, variable: str, n_levels: int, n_features: int):
        super().__init__()
        self.variable = variable
        self.blocks = nn.ParameterList([nn.Parameter(torch.zeros(n_levels, n_features))])

    def grow(self, n_new: int) -> None:
        """Append a block of `n_new` rows, each the mean of the rows so far: a new batch starts as an average one."""
        mean = self.rows().detach().mean(0)
        self.blocks.append(nn.Parameter(mean.repeat(n_new, 1)))

    def start(self) -> Tensor:
        """Where the rows of the last surgery started, (features,)."""
        return torch.cat(list(self.blocks)[:-1]).detach().mean(0)

    def rows(self) -> Tensor:
        """All blocks, (levels, features)."""
        return self.blocks[0] if len(self.blocks) == 1 else torch.cat(list(self.blocks))

    def forward(self, categories: Categories) -> Tensor:
        """Each cell's row, (cells, features)."""
        return F.embedding(categories[self.variable], self.rows())


class ConditionalLinear(nn.Module):
    """`weight @ features + bias`, plus one row per category of each variable in `levels`.

    Parameters
    ----------
    n_in, n_out
        Width of the features and of the output.
    levels
        How many levels each categorical variable has; empty for an ordinary linear layer.
    bias
        Whether there is one.
    """

    def __init__(self, n_in: int, n_out: int, levels: Mapping[str, int] | None = None, bias: bool = True):
        super().__init__()
        levels = levels or {}
        n_one_hot = sum(n for n in levels.values() if n > 1)
        self.bound = 1 / math.sqrt(n_in + n_one_hot)  # torch's bound for a linear layer fed with the one-hot codes too
        self.weight = nn.Parameter(torch.zeros(n_out, n_in))
        self.bias = nn.Parameter(torch.zeros(n_out)) if bias else None
        self.offsets = nn.ModuleList(CategoryTable(variable, n, n_out) for variable, n in levels.items())
        for offset in self.offsets:
            if bias and levels[offset.variable] == 1:
                # the row of an only level could but double the bias; it stays zero, for a query's rows to differ from
                offset.blocks[0].requires_grad_(False)

    def initialize(self, generator: torch.Generator) -> None:
        for parameter in (self.weight, self.bias, *(offset.blocks[0] for offset in self.offsets)):
            if parameter is not None and parameter.requires_grad:
                nn.init.uniform_(parameter, -self.bound, self.bound, generator=generator)

    def forward(self, features: Tensor, categories: Categories | None = None, learns_bias: bool = True) -> Tensor:
        bias = self.bias if learns_bias or self.bias is None else self.bias.detach()
        output = F.linear(features, self.weight, bias)
        for offset in self.offsets:
            output = output + offset(categories)
        return output


class BatchNorm(nn.BatchNorm1d):
    """Batch normalisation over cells, those of all processes that share a step (see `nn.ranks`). Once `frozen`, it uses
    the stored statistics, in training too."""

    frozen = False

    def train(self, mode: bool = True) -> BatchNorm:
        return super().train(mode and not self.frozen)

    def forward(self, features: Tensor) -> Tensor:
        ranks = in_step() if self.training else None
        if ranks is None:
            return super().forward(features)
        n_cells = ranks.sum_(features.new_tensor([float(len(features))]))
        mean = ranks.sum(features.sum(0)) / n_cells
        centered = features - mean
        variance = ranks.sum(centered.square().sum(0)) / n_cells
        with torch.no_grad():
            self.num_batches_tracked.add_(1)
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance * n_cells / (n_cells - 1), self.momentum)
        return centered * (variance + self.eps).rsqrt() * self.weight + self.bias


class Dropout(nn.Module):
    """Dropout with the step's own noise. Once `frozen`, it passes everything through."""

    frozen = False

    def __init__(self, rate: float):
        super().__init__()
        self.rate = rate

    def forward(self, values: Tensor, noise: Noise | None) -> Tensor:
        if self.frozen or not self.training or self.rate == 0:
            return values
        kept = 1 - self.rate
        return values * noise.kept_like(values, kept).div_(kept)


class MLP(nn.Module):
    """Hidden layers: linear, normalisation, ReLU, dropout; the categories enter the first one, or every one.

    Parameters
    ----------
    n_in
        Width of the input.
    n_hidden, n_layers
        Width of each hidden layer and their number; or a sequence of widths, one per layer.
    levels
        Categorical variables and how many levels each has.
    inject_everywhere
        Whether the categories enter every layer or only the first.
    batch_norm, layer_norm
        Normalisations; with both, the batch's comes first. The layer's has no weights of its own.
    batch_norm_eps, batch_norm_momentum
        scvi-tools' constants, which differ from torch's.
    bias
        Whether the linear layers have one.
    negative_slope
        Of the ReLU below zero: 0 for none (the plain one), 1 for a linear layer.
    """

    def __init__(
        self,
        n_in: int,
        n_hidden: int | Sequence[int],
        n_layers: int = 1,
        levels: Mapping[str, int] | None = None,
        *,
        dropout_rate: float = 0.0,
        batch_norm: bool = False,
        layer_norm: bool = False,
        inject_everywhere: bool = False,
        batch_norm_eps: float = 1e-3,
        batch_norm_momentum: float = 0.01,
        bias: bool = True,
        negative_slope: float = 0.0,
    ):
        super().__init__()
        self.negative_slope = negative_slope
        widths = [n_hidden] * n_layers if isinstance(n_hidden, int) else list(n_hidden)
        self.n_out = widths[-1]
        self.linears = nn.ModuleList(
            ConditionalLinear(before, width, levels if i == 0 or inject_everywhere else None, bias)
            for i, (before, width) in enumerate(zip([n_in, *widths], widths))
        )
        constants = {"eps": batch_norm_eps, "momentum": batch_norm_momentum}
        self.batch_norms = nn.ModuleList(BatchNorm(width, **constants) for width in widths if batch_norm)
        self.layer_norm = layer_norm
        self.dropout = Dropout(dropout_rate)

    def forward(self, features: Tensor, categories: Categories | None = None, noise: Noise | None = None) -> Tensor:
        return self.outputs(features, categories, noise)[-1]

    def outputs(
        self, features: Tensor, categories: Categories | None = None, noise: Noise | None = None
    ) -> list[Tensor]:
        """What each layer says, each (cells, width)."""
        outputs = []
        for i, linear in enumerate(self.linears):
            # a normalisation by these cells takes any bias away: its gradient is zero but for rounding, on which Adam
            # would walk about
            is_normalised = bool(self.batch_norms) and self.batch_norms[i].training
            features = linear(features, categories, learns_bias=not is_normalised)
            if self.batch_norms:
                features = self.batch_norms[i](features)
            if self.layer_norm:
                features = F.layer_norm(features, features.shape[-1:])
            features = self.dropout(self._activated(features), noise)
            outputs.append(features)
        return outputs

    def _activated(self, features: Tensor) -> Tensor:
        if self.negative_slope == 0:
            return torch.relu(features)
        return features if self.negative_slope == 1 else F.leaky_relu(features, self.negative_slope)


class Encoder(nn.Module):
    """From a cell's features to a normal distribution over `n_latent` dimensions, each of variance `least_variance` or
    more."""

    def __init__(
        self,
        n_in: int,
        n_latent: int,
        n_hidden: int | Sequence[int],
        n_layers: int = 1,
        levels: Mapping[str, int] | None = None,
        *,
        least_variance: float = 1e-4,
        **options,
    ):
        super().__init__()
        self.least_variance = least_variance
        self.hidden = MLP(n_in, n_hidden, n_layers, levels, **options)
        self.mean = ConditionalLinear(self.hidden.n_out, n_latent)
        self.log_variance = ConditionalLinear(self.hidden.n_out, n_latent)

    def forward(self, features: Tensor, categories: Categories, noise: Noise | None = None) -> Normal:
        hidden = self.hidden(features, categories, noise)
        return Normal(self.mean(hidden), self.log_variance(hidden).exp() + self.least_variance)
