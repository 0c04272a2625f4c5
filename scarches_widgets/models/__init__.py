"""The models, one paper per file."""

from .expimap import EXPIMAP
from .sagenet import SageNet
from .scanvi import SCANVI
from .scpoli import scPoli
from .scvi import SCVI
from .totalvi import TOTALVI
from .trvae import TRVAE

__all__ = ["EXPIMAP", "SCANVI", "SCVI", "TOTALVI", "TRVAE", "SageNet", "scPoli"]
