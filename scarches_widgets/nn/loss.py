"""A loss whose terms have names."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor


@dataclass(frozen=True)
class Loss:
    """Unweighted terms, each the mean over the minibatch's cells, and the weights with which they are summed.

    Nothing hides outside `terms`: the same names appear in events, histories and curves.
    """

    terms: Mapping[str, Tensor]  # name -> scalar, in nats per cell unless the model says otherwise
    weights: Mapping[str, float] = field(default_factory=dict)  # name -> weight; a term not named here weighs 1

    @property
    def total(self) -> Tensor:
        """The weighted sum: what is minimised."""
        return sum(self.weights.get(name, 1.0) * term for name, term in self.terms.items())
