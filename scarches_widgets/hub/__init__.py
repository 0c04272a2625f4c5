"""Models that travel: read those of scvi-tools and scArches, and share ours."""

from .foreign import UnsupportedModel
from .scarches import from_scarches
from .scvi_export import to_scvi_tools
from .scvi_tools import from_scvi_tools

__all__ = ["UnsupportedModel", "from_scarches", "from_scvi_tools", "to_scvi_tools"]
