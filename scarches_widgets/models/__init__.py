"""The models, one paper per file."""

from .scanvi import SCANVI
from .scvi import SCVI
from .trvae import TRVAE

__all__ = ["SCANVI", "SCVI", "TRVAE"]
