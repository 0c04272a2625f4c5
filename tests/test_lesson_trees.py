"""The lesson on trees, executed top to bottom: what it says about its cells must come true."""

from typing import ClassVar

from lessons import NOTEBOOKS, Lesson

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


class TestTrees(Lesson):
    path = NOTEBOOKS / "07_trees.ipynb"
    before = AGAIN
    asked: ClassVar = dict(
        places="{node.name: node.parent.name for node in tree if node.parent}",
        again="start.to_newick() == tree.to_newick()",
        NK='[tree.find("NK", "Kyoto").name, tree.find("CD56dim NK", "Munich").name]',
        match='next(alias.match for alias in tree["NK cells"].aliases if alias.dataset == "Kyoto")',
        right="float(right)",
        f1="f1",
        selected='sorted(with_names.obs.loc[editor.obs_names, "label"].unique())',
    )

    def test_the_tree_has_the_true_shape_and_names_the_fourth_laboratorys_cells(self, said):
        assert said["places"] == PLACES
        assert said["NK"] == ["NK cells", "NK cells"] and said["match"] == "perfect"
        assert said["right"] > 0.9 and said["f1"] > 0.95

    def test_the_editors_code_makes_the_same_tree_and_its_node_selects_its_cells(self, said):
        assert said["again"]
        assert {"T cells", "NK", "Naive B"} < set(said["selected"])
        assert not any("onocyte" in label for label in said["selected"])

    def test_the_training_the_cells_and_the_tree_are_kept_as_pictures(self, lesson):
        notebook, _ = lesson
        outputs = [output.get("data", {}) for cell in notebook.cells for output in cell.get("outputs", [])]
        assert len([one for one in outputs if 'src="data:image/' in one.get("text/html", "")]) == 3
