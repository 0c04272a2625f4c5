"""Trees of cell types: edited by hand, learned from data sets, and used to name cells.

Michielsen et al. 2021, doi:10.1038/s41467-021-23196-8 (scHPL); Michielsen et al. 2023, doi:10.1093/nargab/lqad070
(treeArches). The names and defaults are scHPL's.
"""

from .formats import FlatTree
from .journal import Edit, Patch
from .learning import learn_tree, train_tree
from .matching import Match, Proposal
from .nodes import Alias, Node
from .prediction import Predictions, predict_labels
from .problems import Problem
from .score import confusion_matrix, hierarchical_F1, hierarchical_f1
from .tree import Hierarchy
from .updating import update_tree

__all__ = [
    "Alias",
    "Edit",
    "FlatTree",
    "Hierarchy",
    "Match",
    "Node",
    "Patch",
    "Predictions",
    "Problem",
    "Proposal",
    "confusion_matrix",
    "hierarchical_F1",
    "hierarchical_f1",
    "learn_tree",
    "predict_labels",
    "train_tree",
    "update_tree",
]
