"""Pointers to the names that users of scArches know from `sca.utils`; no code of its own."""

from .data.gene_sets import add_annotations
from .data.read import read
from .mapping.transfer import weighted_knn_trainer, weighted_knn_transfer

__all__ = ["add_annotations", "read", "weighted_knn_trainer", "weighted_knn_transfer"]
