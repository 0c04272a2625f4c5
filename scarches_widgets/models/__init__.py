"""The models, one paper per file."""

from .scanvi import SCANVI
from .scvi import SCVI

__all__ = ["SCANVI", "SCVI"]
