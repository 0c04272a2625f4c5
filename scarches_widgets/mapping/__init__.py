"""Using a fitted model: a query on its reference, labels, places in tissue, and honest scores."""

from importlib import import_module

from . import metrics

__all__ = ["metrics", "spatial"]


def __getattr__(name: str):
    if name == "spatial":  # imported when it is asked for, since it brings torch
        return import_module(".spatial", __name__)
    raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
