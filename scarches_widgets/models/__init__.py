"""The models, one paper per file."""

from ..data.multimodal import organize_multimodal_anndatas
from .expimap import EXPIMAP
from .multivae import MultiVAE
from .mvtcr import mvTCR
from .sagenet import SageNet
from .scanvi import SCANVI
from .scpoli import scPoli
from .scvi import SCVI
from .totalvi import TOTALVI
from .trvae import TRVAE

organize_multiome_anndatas = organize_multimodal_anndatas  # its name in scArches

__all__ = ["EXPIMAP", "SCANVI", "SCVI", "TOTALVI", "TRVAE", "MultiVAE", "SageNet", "mvTCR", "scPoli"]
