"""The models, one paper per file."""

from .scvi import SCVI

__all__ = ["SCVI"]
