"""The lesson on trees, executed top to bottom: what it says about its cells must come true."""

import pytest
from lessons import NOTEBOOKS, executed, fits_a_small_machine, growth_of

pytestmark = pytest.mark.slow

LESSON = NOTEBOOKS / "07_trees.ipynb"
PLACES = {  # of each node, the one above it
    "Lymphoid": "root",
    "T cells": "Lymphoid",
    "CD4 naive T": "T cells",
    "CD4 memory T": "T cells",
    "CD8 cytotoxic T": "T cells",
    "NK cells": "Lymphoid",
    "B lymphocytes": "Lymphoid",
    "Naive B": "B lymphocytes",
    "Memory B": "B lymphocytes",
    "Monocytes": "root",
    "Classical monocyte": "Monocytes",
    "Nonclassical monocyte": "Monocytes",
}
AGAIN = """
start, _ = sca.hierarchy.learn_tree(
    with_names, "lab", ["Leiden", "Munich", "Kyoto"], "label", useRE=False, use_rep="X_scvi", apply=False
)
exec(editor.code(), {"tree": start})
"""


@pytest.fixture(scope="module")
def lesson():
    """The notebook with its outputs, and what its kernel then said."""
    return executed(
        LESSON,
        AGAIN,
        places="{node.name: node.parent.name for node in tree if node.parent}",
        again="start.to_newick() == tree.to_newick()",
        NK='[tree.find("NK", "Kyoto").name, tree.find("CD56dim NK", "Munich").name]',
        match='next(alias.match for alias in tree["NK cells"].aliases if alias.dataset == "Kyoto")',
        right="float(right)",
        f1="f1",
        selected='sorted(with_names.obs.loc[editor.obs_names, "label"].unique())',
    )


def test_the_tree_has_the_true_shape_and_names_the_fourth_laboratorys_cells(lesson):
    _, said = lesson
    assert said["places"] == PLACES
    assert said["NK"] == ["NK cells", "NK cells"] and said["match"] == "perfect"
    assert said["right"] > 0.9 and said["f1"] > 0.95


def test_the_editors_code_makes_the_same_tree_and_its_node_selects_its_cells(lesson):
    _, said = lesson
    assert said["again"]
    assert {"T cells", "NK", "Naive B"} < set(said["selected"])
    assert not any("onocyte" in label for label in said["selected"])


def test_the_lesson_fits_a_small_machine(lesson, record_property):
    _, said = lesson
    assert fits_a_small_machine(said, record_property), said


def test_the_lesson_is_kept_without_outputs_and_is_small_with_them(lesson):
    notebook, _ = lesson
    outputs = [output.get("data", {}) for cell in notebook.cells for output in cell.get("outputs", [])]
    pictures = [one for one in outputs if 'src="data:image/' in one.get("text/html", "")]
    assert len(pictures) == 3, "of the training panel, the cells and the tree"
    assert growth_of(LESSON, notebook) < 300_000
