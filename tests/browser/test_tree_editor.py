"""The tree editor in a real JupyterLab: every edit by mouse and by keyboard, large trees, reload, a lost kernel."""

from __future__ import annotations

import json
import re
import time

import pytest
from playwright.sync_api import expect

pytestmark = pytest.mark.browser
expect.set_options(timeout=20_000)

EDITOR = ".scaw-tree-editor"
NEWICK = "(('CD4 T','CD8 T')'T cell','B cell',('Classical','Nonclassical')'Monocyte')'root';"
TREE = f"""
import warnings; warnings.simplefilter("ignore")
import numpy as np, scarches_widgets as sca
from scarches_widgets.mapping.hierarchy import Alias, Hierarchy, Match, Proposal

tree = Hierarchy.from_newick({NEWICK!r})
"""
CELLS = (
    TREE
    + """
adata = sca.datasets.atlas(n_obs=240, n_vars=40, n_types=5, seed=3)
adata.obs["label"] = np.array(["CD4 T", "CD8 T", "B cell", "Classical", "NK"])[np.arange(240) % 5]
"""
)
SHOWN = "editor = sca.widgets.TreeEditor(tree, adata, 'label', batch_key='batch')\neditor"
BARE = "editor = sca.widgets.TreeEditor(tree)\neditor"


def opened(nb):
    nb.run_all()
    nb.wait_for(f"{EDITOR} [role=treeitem]", timeout=60)
    return nb.widget(EDITOR)


def item(view, name):
    """The line of a node."""
    return view.locator(f'[role=treeitem][aria-label="{name}"], [role=treeitem][aria-label^="{name},"]')


def newick(nb):
    return nb.execute("print(tree.to_newick())").strip()


def expect_tree(nb, text):
    """Wait until the kernel's tree, without its quotes, is this."""
    deadline = time.monotonic() + 20
    while (now := newick(nb).replace("'", "")) != text:
        assert time.monotonic() < deadline, f"{now} is not {text}"


def in_python(nb, expression):
    return json.loads(nb.execute(f"import json; print(json.dumps({expression}))"))


def drag(nb, source, target, share):
    """Drag one line onto the upper edge, the middle or the lower edge of another."""
    box = target.bounding_box()
    source.drag_to(target, target_position={"x": 60, "y": share * box["height"]})


def submit(view, label, **fields):
    """Fill in the form that is open, and send it."""
    form = view.get_by_role("dialog")
    for name, value in fields.items():
        form.get_by_label(name.replace("_", " "), exact=True).fill(value)
    form.get_by_role("button", name=label, exact=True).click()
    expect(form).to_be_hidden()


def test_every_edit_by_mouse_and_undo_to_the_start(notebook):
    nb = notebook([CELLS, SHOWN])
    view = opened(nb)
    act = lambda name: view.locator(f"[data-action={name}]").click()  # noqa: E731
    item(view, "B cell").click()
    assert in_python(nb, "len(editor.selection)") == 48
    item(view, "B cell").dblclick()
    field = view.get_by_label("New name of B cell")
    field.fill("CD4 T")
    nb.press("Enter")
    expect(field).to_have_accessible_description(re.compile("'CD4 T' is in the tree already"))
    field.fill("B")
    nb.press("Enter")
    expect(item(view, "B")).to_be_focused()
    act("child")
    submit(view, "Add", Name="naive B")
    expect(item(view, "naive B")).to_be_focused()
    act("sibling")
    submit(view, "Add", Name="memory B")
    expect_tree(nb, "((CD4 T,CD8 T)T cell,(naive B,memory B)B,(Classical,Nonclassical)Monocyte)root;")
    drag(nb, item(view, "B"), item(view, "T cell"), 0.1)
    expect_tree(nb, "((naive B,memory B)B,(CD4 T,CD8 T)T cell,(Classical,Nonclassical)Monocyte)root;")
    drag(nb, item(view, "CD4 T"), item(view, "Monocyte"), 0.5)
    expect_tree(nb, "((naive B,memory B)B,(CD8 T)T cell,(Classical,Nonclassical,CD4 T)Monocyte)root;")
    drag(nb, item(view, "Monocyte"), item(view, "Classical"), 0.5)
    expect(view.locator(".scaw-tree-complaint")).to_contain_text("cannot be moved below itself")
    item(view, "CD4 T").click()
    act("move")
    submit(view, "Move", Below="T cell")
    act("up")
    expect_tree(nb, "((naive B,memory B)B,(CD4 T,CD8 T)T cell,(Classical,Nonclassical)Monocyte)root;")
    item(view, "B").click()
    item(view, "T cell").click(modifiers=["Control"])
    act("group")
    submit(view, "Group", Name_of_the_new_node_above="Lymphoid")
    item(view, "naive B").click()
    item(view, "memory B").click(modifiers=["Shift"])
    act("merge")
    submit(view, "Merge", Name_of_the_one_node="the B")
    expect_tree(nb, "(((the B)B,(CD4 T,CD8 T)T cell)Lymphoid,(Classical,Nonclassical)Monocyte)root;")
    item(view, "the B").click()
    act("split")
    view.get_by_role("dialog").get_by_text("Beside it").click()
    submit(view, "Split")
    expect_tree(nb, "(((the B,memory B,naive B)B,(CD4 T,CD8 T)T cell)Lymphoid,(Classical,Nonclassical)Monocyte)root;")
    item(view, "B").click()
    act("sort")
    item(view, "T cell").click()
    act("remove")
    submit(view, "Delete")
    item(view, "Monocyte").click()
    act("remove")
    view.get_by_role("dialog").get_by_text("Delete all 2 below it too").click()
    submit(view, "Delete")
    expect_tree(nb, "(((memory B,naive B,the B)B,CD4 T,CD8 T)Lymphoid)root;")
    code = view.locator(".scaw-code").text_content()
    same = f"again = Hierarchy.from_newick({NEWICK!r}); exec({code!r}, {{'tree': again}})\n"
    nb.execute(same + "assert again.to_newick() == tree.to_newick()")
    view.locator("summary", has_text="History").click()
    view.get_by_role("button", name="Undo all").click()
    expect(item(view, "Nonclassical")).to_be_visible()
    assert newick(nb) == NEWICK
    view.get_by_role("button", name=re.compile("Redo to here: Added 'naive B'")).click()
    expect_tree(nb, "((CD4 T,CD8 T)T cell,(naive B)B,(Classical,Nonclassical)Monocyte)root;")
    view.get_by_role("button", name="Dendrogram").click()
    drag(nb, item(view, "CD8 T"), item(view, "Monocyte"), 0.5)
    expect_tree(nb, "((CD4 T)T cell,(naive B)B,(Classical,Nonclassical,CD8 T)Monocyte)root;")
