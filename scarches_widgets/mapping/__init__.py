"""Using a fitted model: a query on its reference, labels, places in tissue, and honest scores."""

from importlib import import_module

from . import metrics

__all__ = ["layers", "metrics", "review", "spatial", "tissue"]


def __getattr__(name: str):
    if name in __all__:  # imported when it is asked for: "spatial" brings torch
        return import_module(f".{name}", __name__)
    raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
