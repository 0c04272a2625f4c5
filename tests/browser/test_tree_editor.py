"""The tree editor in a real JupyterLab: every edit by mouse and by keyboard, large trees, reload, a lost kernel."""

from __future__ import annotations

import json
import re
import time

import pytest
from playwright.sync_api import expect

from scarches_widgets.mapping.hierarchy import Hierarchy

from .lab import cut_off

pytestmark = pytest.mark.browser
expect.set_options(timeout=20_000)

EDITOR = ".scaw-tree-editor"
EVIL = "<img src=x onerror=hacked=1>"
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


@pytest.mark.slow
def test_no_serious_fault_before_axe_hostile_names_are_text_and_nothing_is_cut_off_when_narrow(notebook):
    hostile = (
        "tree.rename('B cell', EVIL); tree.add_alias('CD4 T', Alias(EVIL + ' also', 'donor 2', 'perfect', 0.9, None))"
    )
    proposals = "Proposal('new', 'b', (EVIL,), ('root',), (Match(EVIL, 'root', 0.9, None),), ())"
    other = f"Hierarchy.from_newick({NEWICK!r})"
    shown = f"EVIL = {EVIL!r}; {hostile}\neditor = sca.widgets.TreeEditor(tree, adata, 'label', batch_key='batch', "
    shown += f"proposals=[{proposals}], other={other})\neditor"
    nb = notebook([CELLS, shown])
    view = opened(nb)
    view.locator("details").evaluate_all("all => all.forEach((one) => { one.open = true; })")
    view.get_by_label("another tree", exact=True).check()
    expect(view).to_contain_text(f"{EVIL} was called B cell")
    item(view, EVIL).click()
    view.locator("[data-action=split]").click()
    for theme in ("light", "dark"):
        nb.set_theme(theme)
        assert nb.axe() == [], theme
    view.get_by_role("dialog").get_by_role("button", name="Cancel").click()
    nb.press("F2")
    view.get_by_label(f"New name of {EVIL}").fill("root")
    nb.press("Enter")
    expect(view.locator(".scaw-tree-rename")).to_contain_text("in the tree already")
    assert nb.axe() == []
    nb.press("Escape")
    view.get_by_role("button", name="Dendrogram").click()
    assert nb.axe() == []
    assert view.locator("img").count() == 0 and not nb.page.evaluate("'hacked' in window")
    for width, zoom in ((640, 1), (1280, 2)):
        nb.resize(width)
        nb.zoom(zoom)
        assert cut_off(view) == []
        item(view, "Classical").click()
        nb.press("F2")
        right = "one => one.getBoundingClientRect().right"
        assert view.locator(".scaw-tree-rename").evaluate(right) <= view.locator(".scaw-tree-host").evaluate(right)
        nb.press("Escape")


@pytest.mark.slow
def test_every_edit_by_keyboard_alone_and_undo_to_the_start(notebook):
    nb = notebook([TREE, BARE])
    view = opened(nb)
    nb.execute("tree.add('B cells'); tree.add('old')")
    expect(item(view, "old")).to_be_visible()
    item(view, "root").focus()
    press, type_ = nb.press, nb.page.keyboard.type

    def arrives(name):
        expect(item(view, name)).to_be_focused()

    def form(*keys):
        """Keys in the form that is open; Enter is the last of them."""
        expect(view.get_by_role("dialog")).to_be_visible()
        for key in keys:
            type_(key[1:]) if key.startswith("=") else press(key)
        press("Enter")
        expect(view.get_by_role("dialog")).to_be_hidden()

    press("b")
    arrives("B cell")
    press("F2")
    type_("T cell")
    press("Enter")
    expect(view.get_by_label("New name of B cell")).to_have_accessible_description(re.compile("in the tree already"))
    press("Control+a")
    type_("B")
    press("Enter")
    arrives("B")
    press("Insert")
    form("=naive")
    arrives("naive")
    press("Shift+Insert")
    form("=memory")
    arrives("memory")
    press("Alt+ArrowUp")
    expect_tree(nb, "((CD4 T,CD8 T)T cell,(memory,naive)B,(Classical,Nonclassical)Monocyte,B cells,old)root;")
    press("Control+x", "End", "Control+v")
    expect_tree(nb, "((CD4 T,CD8 T)T cell,(naive)B,(Classical,Nonclassical)Monocyte,B cells,(memory)old)root;")
    arrives("memory")
    press("Home", "ArrowDown", "Delete")
    form()
    expect_tree(nb, "(CD4 T,CD8 T,(naive)B,(Classical,Nonclassical)Monocyte,B cells,(memory)old)root;")
    press("Home", "ArrowDown", "Space", "Shift+ArrowDown", "Control+g")
    form("=T")
    arrives("T")
    press("ArrowRight", "Control+m")  # both are selected still
    form("=T cell")
    expect_tree(nb, "((T cell)T,(naive)B,(Classical,Nonclassical)Monocyte,B cells,(memory)old)root;")
    arrives("T cell")
    press("Control+e")
    form("Tab", "Tab")
    expect_tree(nb, "(((CD8 T,CD4 T)T cell)T,(naive)B,(Classical,Nonclassical)Monocyte,B cells,(memory)old)root;")
    press("End", "ArrowUp", "Delete")
    form("ArrowDown")
    expect_tree(nb, "(((CD8 T,CD4 T)T cell)T,(naive)B,(Classical,Nonclassical)Monocyte,B cells)root;")
    press("Control+f")
    type_("class")
    press("ArrowDown")
    arrives("Classical")
    nb.tab_to("Another name for it")
    type_("CD14+ Mono")
    press("Enter")
    detail = view.get_by_label("The node in focus")
    expect(detail.get_by_role("button", name="Forget the synonym CD14+ Mono")).to_be_visible()
    expect(detail.get_by_label("Another name for it")).to_have_value("")
    nb.tab_to("Problems.*")
    press("Enter")
    expect(view.get_by_role("button", name="Set aside").first).to_be_visible()
    nb.tab_to("Merge…")
    press("Enter")
    form()
    expect_tree(nb, "(((CD8 T,CD4 T)T cell)T,(naive)B,(Classical,Nonclassical)Monocyte)root;")
    n = in_python(nb, "len(tree.history)")
    for _ in range(n - 2):
        press("Control+z")
    expect_tree(nb, NEWICK.replace("'", "").replace(")root", ",B cells,old)root"))
    press("Control+y")
    nb.execute("import time\nwhile 'B' not in tree: time.sleep(0.02)")
    assert nb.page.evaluate("() => scawPanel.content.model.cells.length") == 2, "a key reached the notebook"


LEARNED = (
    TREE
    + """
adata = sca.datasets.atlas(n_obs=600, n_vars=60, n_types=5, n_batches=2, seed=1)
adata.obs["label"] = adata.obs["cell_type"].astype(str)
is_coarse = (adata.obs["batch"] == "batch1") & (adata.obs["type_level2"] == "T cells")
adata.obs.loc[is_coarse, "label"] = "T cells"
adata = adata[((adata.obs["batch"] == "batch1") | (adata.obs["label"] != "Naive B")).to_numpy()].copy()
tree, found = sca.hierarchy.learn_tree(adata, "batch", ["batch0", "batch1"], "label", use_rep="X_truth", apply=False)
start = tree.to_newick()
"""
)
PROPOSED = "editor = sca.widgets.TreeEditor(tree, adata, 'label', batch_key='batch', proposals=found)\neditor"


class ByMouse:
    """What a reader does with the editor; each way uses one device alone."""

    name = "by mouse"

    def __init__(self, nb, view):
        self.nb, self.view = nb, view

    def press(self, name):
        self.view.get_by_role("button", name=name, exact=True).first.click()

    press_back = press  # a button before the tree

    def open(self, summary):
        self.view.locator("summary", has_text=re.compile(f"^{summary}")).click()

    def choose(self, label, after):
        self.view.get_by_label(label, exact=True).check()

    def write(self, label, text):
        self.view.get_by_label(label, exact=True).fill(text)

    def select(self, *names):
        for i, name in enumerate(names):
            item(self.view, name).click(modifiers=["Control"] if i else [])

    def put(self, *names, below):
        self.select(*names)
        drag(self.nb, item(self.view, names[0]), item(self.view, below), 0.5)

    def remove(self):
        self.press("Delete")

    def travel(self, name):
        self.press({"undo": "↶ Undo", "redo": "↷ Redo"}[name])

    def form(self, *texts, second_choice=False):
        """Fill in the form that is open, its fields from the first, or its second way; and send it."""
        form = self.view.get_by_role("dialog")
        for field, text in zip(form.get_by_role("textbox").or_(form.get_by_role("combobox")).all(), texts):
            field.fill(text)
        if second_choice:
            form.get_by_role("radio").nth(1).check()
        form.locator(".scaw-primary").click()
        expect(form).to_be_hidden()


class ByKeyboard(ByMouse):
    name = "by keyboard alone"

    def __init__(self, nb, view):
        super().__init__(nb, view)
        nb.page.evaluate("() => addEventListener('pointerdown', () => { window.clicked = true; }, true)")
        item(view, "root").focus()

    def press(self, name):
        if self.nb.focused() != f"button {name}":
            self.nb.tab_to(re.escape(name))
        self.nb.press("Enter")

    def press_back(self, name):
        for _ in range(40):
            self.nb.press("Shift+Tab")
            if self.nb.focused() == f"button {name}":
                return self.nb.press("Enter")
        raise AssertionError(f"Shift+Tab does not lead to {name!r}")

    def open(self, summary):
        self.nb.tab_to(f"{summary}.*")
        self.nb.press("Enter")

    def choose(self, label, after):
        self.nb.tab_to(after)
        self.nb.press("ArrowDown")
        expect(self.view.get_by_label(label, exact=True)).to_be_checked()

    def write(self, label, text):
        self.nb.tab_to(label)
        self.nb.press("Control+a")
        self.nb.page.keyboard.type(text)

    def go(self, name):
        """By search: the arrow key leads from the field to the node that it found."""
        self.nb.press("Control+f")
        self.nb.page.keyboard.type(name)
        self.nb.press("ArrowDown")
        expect(item(self.view, name)).to_be_focused()

    def select(self, *names):
        for i, name in enumerate(names):
            self.go(name)
            self.nb.press("Space" if i else "Enter")

    def put(self, *names, below):
        self.select(*names)
        self.nb.press("Control+x")
        self.go(below)
        self.nb.press("Control+v")

    def remove(self):
        self.nb.press("Delete")

    def travel(self, name):
        self.nb.press({"undo": "Control+z", "redo": "Control+y"}[name])

    def form(self, *texts, second_choice=False):
        expect(self.view.get_by_role("dialog")).to_be_visible()
        for i, text in enumerate(texts):
            self.nb.press(*(["Tab"] if i else []), "Control+a")
            self.nb.page.keyboard.type(text)
        self.nb.press(*(["ArrowDown"] if second_choice else []), "Enter")
        expect(self.view.get_by_role("dialog")).to_be_hidden()


WAYS = pytest.mark.parametrize("way", [ByMouse, ByKeyboard], ids=lambda way: way.name)


@pytest.mark.slow
@WAYS
def test_proposals_of_learn_tree_are_judged_and_trees_compared(notebook, way):
    nb = notebook([LEARNED, PROPOSED])
    view = opened(nb)
    do = way(nb, view)
    learned = "Classical monocyte,(CD4 memory T,CD4 naive T,CD8 cytotoxic T)T cells"

    def proposal(label):
        return view.locator(".scaw-tree-proposals > li").filter(has_text=label)

    expect(proposal("Naive B of batch1")).to_contain_text("100 %")
    do.press("Veto: New, Naive B")
    expect(proposal("Naive B of batch1")).to_contain_text("vetoed")
    do.press("Accept: Merge, T cells")
    expect(proposal("T cells of batch1")).to_contain_text("accepted")
    expect_tree(nb, f"({learned})root;")
    do.press("Show node CD4 memory T")
    expect(item(view, "CD4 memory T")).to_be_focused()
    do.travel("undo")
    expect(proposal("T cells of batch1")).not_to_contain_text("accepted")
    do.travel("redo")
    expect(proposal("T cells of batch1")).to_contain_text("accepted")
    do.press("Consider again: New, Naive B")
    do.press("Accept: New, Naive B")
    expect(proposal("Naive B of batch1")).to_contain_text("accepted")
    do.press("Accept all that are open")
    expect(proposal("Classical monocyte of batch1")).to_contain_text("accepted")
    expect(view.locator("summary", has_text="Proposals")).to_have_text("Proposals (all decided)")
    expect_tree(nb, f"({learned},Naive B)root;")
    do.open("Compare")
    do.choose("this tree before all edits", after="nothing")
    for text in ("T cells added below root", "Naive B added below root", "CD4 naive T moved from root to T cells"):
        expect(view.locator(".scaw-tree-panel", has_text="Compare with")).to_contain_text(text)
    do.open("Paste a tree in Newick format")
    do.write("A tree in Newick format", "('Naive B',")
    do.press("Compare with this tree")
    expect(view).to_contain_text("no Newick tree")
    if way is ByKeyboard:
        nb.press("Shift+Tab", "Shift+Tab")
    do.write("A tree in Newick format", "('Naive B','T cells',NK)root;")
    do.press("Compare with this tree")
    expect(view).to_contain_text("NK removed from below root")
    do.press("Show Classical monocyte")
    expect(item(view, "Classical monocyte")).to_be_focused()
    assert not nb.page.evaluate("window.clicked") or way is ByMouse


@pytest.mark.slow
@WAYS
def test_several_nodes_at_once_synonyms_and_forms(notebook, way):
    nb = notebook([CELLS, SHOWN])
    view = opened(nb)
    do = way(nb, view)
    start = NEWICK.replace("'", "")
    do.select("CD4 T", "Classical")
    do.remove()
    expect_tree(nb, "((CD8 T)T cell,B cell,(Nonclassical)Monocyte)root;")
    do.travel("undo")
    expect_tree(nb, start)
    do.select("T cell", "Monocyte")
    do.remove()
    do.form()
    expect_tree(nb, "(CD4 T,CD8 T,B cell,Classical,Nonclassical)root;")
    do.travel("undo")
    expect_tree(nb, start)
    do.select("T cell", "Monocyte")
    do.remove()
    do.form(second_choice=True)
    expect_tree(nb, "(B cell)root;")
    do.travel("undo")
    expect_tree(nb, start)
    do.put("CD4 T", "Classical", below="B cell")
    expect_tree(nb, "((CD8 T)T cell,(CD4 T,Classical)B cell,(Nonclassical)Monocyte)root;")
    do.travel("undo")
    expect_tree(nb, start)
    do.select("CD4 T", "T cell", "Classical")
    do.press_back("Move…")
    do.form("B cell")
    expect_tree(nb, "(((CD4 T,CD8 T)T cell,Classical)B cell,(Nonclassical)Monocyte)root;")
    do.press_back("Dendrogram")
    do.select("T cell")
    do.press_back("Down among its siblings")
    expect_tree(nb, "((Classical,(CD4 T,CD8 T)T cell)B cell,(Nonclassical)Monocyte)root;")
    do.select("CD8 T")
    do.press_back("Merge…")
    do.form("CD4 T", "T")
    expect_tree(nb, "((Classical,(T)T cell)B cell,(Nonclassical)Monocyte)root;")
    do.write("Another name for it", "lymphocyte")
    do.press("Add synonym")
    do.press("Forget the synonym lymphocyte of any data set")
    expect(view).to_contain_text("History (5 edits)")
    do.open("Problems")
    do.press("It is a synonym…")
    do.form("Monocyte")
    nb.execute("import time\nwhile tree.find('NK') is None: time.sleep(0.02)")
    do.open("History")
    do.press("Undo all")
    expect_tree(nb, start)
    assert not nb.page.evaluate("window.clicked") or way is ByMouse


@pytest.mark.slow
def test_a_reload_a_second_view_and_a_lost_kernel_keep_the_tree_and_it_can_be_saved(notebook, tmp_path):
    nb = notebook([CELLS, SHOWN])
    view = opened(nb)
    item(view, "B cell").click()
    view.locator("[data-action=remove]").click()
    expect(item(view, "B cell")).to_have_count(0)
    nb.execute("tree.rename('CD4 T', 'helper'); editor.nodes = [tree['T cell'].id]")
    expect(item(view, "helper")).to_be_visible()
    second = nb.new_view(1, EDITOR)
    for one in (view, second):
        expect(item(one, "helper")).to_be_visible()
        expect(item(one, "T cell")).to_have_attribute("aria-selected", "true")
    second.locator("[data-action=undo]").click()
    expect(item(view, "CD4 T")).to_be_visible()
    nb.reload(EDITOR)
    view = nb.widget(EDITOR)
    expect(item(view, "CD4 T")).to_be_visible()
    expect(item(view, "B cell")).to_have_count(0)
    expect(view).to_contain_text("History (1 edit, 1 undone)")
    nb.execute("editor.readonly = True")
    expect(view.locator("[data-action=rename]")).to_be_disabled()
    assert nb.axe() == []
    text = newick(nb)
    nb.shut_down_kernel()
    nb.wait_for_text(f"{EDITOR} .scaw-badge", "kernel gone")
    assert nb.axe() == []
    item(view, "CD8 T").click()
    expect(view.locator(".scaw-detail-name")).to_have_text("CD8 T")
    for label, read in (("Newick", Hierarchy.from_newick), ("JSON", Hierarchy.from_json)):
        with nb.page.expect_download() as saved:
            view.get_by_role("button", name=f"Save as {label}").click()
        saved.value.save_as(tmp_path / label)
        assert read((tmp_path / label).read_text()).to_newick() == text


@pytest.mark.slow
def test_a_tree_of_2000_nodes_opens_within_2_seconds_and_scrolls(notebook):
    grow = """
tree = Hierarchy()
for i in range(40):
    group = tree.add(f"group {i:02}")
    for j in range(49):
        tree.add(f"type {i:02}{j:02}", group)
"""
    nb = notebook([TREE + grow, BARE])
    nb.run_cell(0)
    began = nb.page.evaluate("() => { window.began = performance.now(); return 1; }")
    nb.page.evaluate(
        """() => { new MutationObserver((_, observer) => {
            if (!document.querySelector('.scaw-tree-editor [role=treeitem][aria-label="type 0000"]')) return;
            window.opened = performance.now() - window.began;
            observer.disconnect();
        }).observe(document.body, { childList: true, subtree: true }); }"""
    )
    nb.run_cell(1)
    nb.wait_for(f"{EDITOR} [role=treeitem]")
    seconds = nb.page.evaluate("window.opened") / 1000
    view = nb.widget(EDITOR)
    assert began and seconds < 2, f"{seconds:.2f} s"
    assert view.locator("[role=treeitem]").count() < 100
    host = view.locator(".scaw-tree-host")
    host.evaluate("host => { host.scrollTop = host.scrollHeight; }")
    expect(item(view, "type 3948")).to_be_in_viewport()
    item(view, "type 3948").click()
    host.evaluate("host => { host.scrollTop = 0; }")
    expect(item(view, "type 0000")).to_be_in_viewport()
    nb.press("ArrowUp")
    expect(item(view, "type 3947")).to_be_focused()
    expect(item(view, "type 3947")).to_be_in_viewport()
    nb.press("F2")
    nb.page.keyboard.type("renamed")
    nb.press("Enter")
    expect(item(view, "renamed, also called type 3947")).to_be_focused()
    view.get_by_role("button", name="Dendrogram").click()
    expect(item(view, "renamed")).to_be_in_viewport()
    assert view.locator("[role=treeitem]").count() < 150


@pytest.mark.slow
@pytest.mark.realdata
def test_published_trees_are_drawn_and_saved_as_they_were(notebook, real_data, tmp_path):
    files = {path.stem: path.read_text().strip() for path in sorted((real_data / "trees").glob("*.nwk"))}
    assert len(files) == 5
    nb = notebook([TREE, *(f"sca.widgets.TreeEditor(Hierarchy.from_newick({text!r}))" for text in files.values())])
    nb.run_all()
    for i, (name, text) in enumerate(files.items()):
        nb.page.locator(EDITOR).nth(i).scroll_into_view_if_needed()
        view = nb.widgets(EDITOR).nth(i)
        view.get_by_role("button", name="Dendrogram").click()
        expect(item(view, "root")).to_be_visible()
        with nb.page.expect_download() as saved:
            view.get_by_role("button", name="Save as Newick").click()
        saved.value.save_as(tmp_path / name)
        assert (tmp_path / name).read_text().strip() == text
