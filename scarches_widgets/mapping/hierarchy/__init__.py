"""Trees of cell types: edited by hand, learned from data sets, and used to name cells.

Michielsen et al. 2021, doi:10.1038/s41467-021-23196-8 (scHPL); Michielsen et al. 2023, doi:10.1093/nargab/lqad070
(treeArches). The names and defaults are scHPL's.
"""

from .formats import FlatTree
from .journal import Edit, Patch
from .nodes import Alias, Node
from .problems import Problem
from .tree import Hierarchy

__all__ = ["Alias", "Edit", "FlatTree", "Hierarchy", "Node", "Patch", "Problem"]
