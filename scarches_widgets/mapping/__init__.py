"""Using a fitted model: a query on its reference, labels, and honest scores."""

from . import metrics

__all__ = ["metrics"]
