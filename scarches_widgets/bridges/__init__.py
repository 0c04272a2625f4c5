"""Thin adapters to programs outside Jupyter: one optional dependency, one file."""

from importlib import import_module

__all__ = ["annbatch_collection", "dask_executor", "napari_viewer", "sweeps"]


def __getattr__(name: str):
    if name in __all__:  # imported when it is asked for: each needs what may not be installed
        return import_module(f".{name}", __name__)
    raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
