"""The models, one paper per file."""

from .expimap import EXPIMAP
from .scanvi import SCANVI
from .scpoli import scPoli
from .scvi import SCVI
from .trvae import TRVAE

__all__ = ["EXPIMAP", "SCANVI", "SCVI", "TRVAE", "scPoli"]
