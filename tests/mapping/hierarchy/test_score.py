import pytest

from scarches_widgets.data.names import DataError
from scarches_widgets.mapping import hierarchy
from scarches_widgets.mapping.hierarchy import Hierarchy, confusion_matrix, hierarchical_f1


@pytest.fixture
def tree():
    return Hierarchy.from_newick("((A,B)AB,(C,D)CD)root;")


@pytest.mark.parametrize(
    ("true", "pred", "score"),
    [
        ("A B C", "A B C", 1.0),
        ("A B C", "AB B C", 0.909),
        ("A B C", "B B C", 0.833),
        ("A B C", "root B C", 0.8),
        ("AB", "A", 1.0),
        ("A", "root", 0.0),
    ],
)
def test_hierarchical_f1_is_that_of_the_table(true, pred, score, tree):
    """Spec §1.8, by scHPL 1.0.5."""
    assert hierarchical_f1(true.split(), pred.split(), tree) == pytest.approx(score, abs=5e-4)
    assert hierarchy.hierarchical_F1 is hierarchical_f1


@pytest.mark.parametrize("rejection", ["Rejected (RE)", "Rejection (dist)", "root"])
def test_every_rejection_counts_as_the_root(rejection, tree):
    """Defect T9: scHPL gives 0.667 for the first two."""
    assert hierarchical_f1(["A", "B", "C"], [rejection, "B", "C"], tree) == pytest.approx(0.8)


def test_aliases_count_as_their_node_and_unknown_labels_are_refused(tree):
    tree.add_alias("A", "a", "donor")
    assert hierarchical_f1(["a"], ["A"], tree) == 1.0
    with pytest.raises(DataError, match="x: not in the tree"):
        hierarchical_f1(["A"], ["x"], tree)


def test_the_confusion_matrix_counts_cells():
    assert confusion_matrix(["A", "A", "B"], ["A", "C", "C"]).to_dict() == {
        "A": {"A": 1, "B": 0},
        "C": {"A": 1, "B": 1},
    }
