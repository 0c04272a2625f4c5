"""Pointers to the names that users of scArches know from `sca.utils`; no code of its own."""

from importlib import import_module

from .data.gene_sets import add_annotations
from .data.read import read
from .mapping.transfer import weighted_knn_trainer, weighted_knn_transfer

__all__ = ["add_annotations", "read", "weighted_knn_trainer", "weighted_knn_transfer", "zenodo"]  # noqa: F822


def __getattr__(name: str):
    if name == "zenodo":  # imported when it is asked for: it brings torch
        return import_module(".hub.zenodo", __package__)
    raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
