"""Using a fitted model: a query on its reference, labels, places in tissue, and honest scores."""

from importlib import import_module

__all__ = ["estimate", "layers", "map_query", "metrics", "review", "spatial", "tissue"]


def __getattr__(name: str):
    if name == "map_query":
        from .chunks import map_query

        return map_query
    if name == "estimate":
        from .outlook import estimate

        return estimate
    if name in __all__:  # imported when it is asked for: "spatial" brings torch
        return import_module(f".{name}", __name__)
    raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
