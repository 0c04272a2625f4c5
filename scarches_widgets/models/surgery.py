"""Architecture surgery: a reference network that learns a query's batches and nothing else.

Lotfollahi et al. 2022, doi:10.1038/s41587-021-01001-7. The query's network is a copy of the reference's in which
everything is frozen (dropout and running statistics too) and each `CategoryTable` has one more block of rows. Only the
new blocks are trainable, so a reference cell's latent stays the same to the bit under any optimiser.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping

from torch import nn

from ..nn.layers import CategoryTable


def adapted(module: nn.Module, n_new: Mapping[str, int]) -> nn.Module:
    """A frozen copy of `module` with rows for `n_new` levels of each categorical variable."""
    query = copy.deepcopy(module)
    freeze(query)
    grow(query, n_new)
    return query


def freeze(module: nn.Module) -> None:
    """Keep all weights, running statistics and dropout of `module` as they are, in training too."""
    for parameter in module.parameters():
        parameter.requires_grad_(False)
        parameter.grad = None
    for part in module.modules():
        if hasattr(part, "frozen"):
            part.frozen = True


def grow(module: nn.Module, n_new: Mapping[str, int]) -> None:
    """Append a trainable block of rows to each table of a variable that has new levels."""
    for part in module.modules():
        if isinstance(part, CategoryTable) and n_new.get(part.variable):
            part.grow(n_new[part.variable])


def can_adapt(module: nn.Module) -> bool:
    """Whether anything in `module` could learn a new batch."""
    return any(isinstance(part, CategoryTable) for part in module.modules())
