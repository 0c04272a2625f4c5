"""Models that travel: save and load any of them with a card, read those of scvi-tools and scArches, and share ours."""

from . import zenodo
from .cards import Compatibility, ModelCard, compatibility, read_card
from .folders import load, save
from .foreign import UnsupportedModel
from .scarches import from_scarches
from .scvi_export import to_scvi_tools
from .scvi_tools import from_scvi_tools

__all__ = [
    "Compatibility",
    "ModelCard",
    "UnsupportedModel",
    "compatibility",
    "from_scarches",
    "from_scvi_tools",
    "load",
    "read_card",
    "save",
    "to_scvi_tools",
    "zenodo",
]
