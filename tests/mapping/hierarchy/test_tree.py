import contextlib
import copy
import json
import threading

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import scarches_widgets as sca
from scarches_widgets.data.names import DataError
from scarches_widgets.mapping.hierarchy import Alias, Hierarchy

HOSTILE = [
    "CD4+ T",
    "a, b",
    "it's",
    '"quoted"',
    "(x);[y]:0.1",
    "<img src=x>",
    "Zürich → 東京",
    "  blanks ",
    "\\n\n",
    "z",
]


@pytest.fixture
def tree():
    return Hierarchy.from_newick("((CD4,CD8)T,B,(cDC,pDC)DC)root;")


def cells(**columns):
    n_cells = len(next(iter(columns.values())))
    return ad.AnnData(np.zeros((n_cells, 1), np.float32), obs=pd.DataFrame(columns, index=map(str, range(n_cells))))


def test_the_path_that_scarches_users_type_is_the_same_module():
    assert sca.classifiers.scHPL is sca.hierarchy


def test_a_tree_is_a_sequence_of_nodes_from_the_root_down(tree):
    assert [node.name for node in tree] == ["root", "T", "CD4", "CD8", "B", "DC", "cDC", "pDC"]
    assert tree[0].is_root and tree[0] is tree.root and tree[-1].name == "pDC" and len(tree) == 8
    assert [node.name for node in tree.leaves()] == ["CD4", "CD8", "B", "cDC", "pDC"]
    assert tree["CD8"].depth == 2 and [node.name for node in tree["CD8"].path()] == ["root", "T", "CD8"]
    assert "CD4" in tree and "NK" not in tree
    assert str(tree).splitlines()[:2] == ["root", "  T"]


@pytest.mark.parametrize(
    ("edit", "newick"),
    [
        (lambda h: h.rename("B", "B cell"), "((CD4,CD8)T,B cell,(cDC,pDC)DC)root;"),
        (lambda h: h.add("NK"), "((CD4,CD8)T,B,(cDC,pDC)DC,NK)root;"),
        (lambda h: h.add("L", children=["T", "B"], position=0), "(((CD4,CD8)T,B)L,(cDC,pDC)DC)root;"),
        (lambda h: h.remove("T"), "(CD4,CD8,B,(cDC,pDC)DC)root;"),
        (lambda h: h.remove("T", keep_children=False), "(B,(cDC,pDC)DC)root;"),
        (lambda h: h.remove(["CD8", "T", "B"]), "(CD4,(cDC,pDC)DC)root;"),
        (lambda h: h.remove(["T", "CD8", "pDC"], keep_children=False), "(B,(cDC)DC)root;"),
        (lambda h: h.move("pDC", "B"), "((CD4,CD8)T,(pDC)B,(cDC)DC)root;"),
        (lambda h: h.move("DC", "root", 0), "((cDC,pDC)DC,(CD4,CD8)T,B)root;"),
        (lambda h: h.move(["pDC", "CD4"], "B"), "((CD8)T,(pDC,CD4)B,(cDC)DC)root;"),
        (lambda h: h.move(["B", "T", "cDC"], "root", 1), "((pDC)DC,B,(CD4,CD8)T,cDC)root;"),
        (lambda h: h.move(["T", "CD8", "B"], "DC", 0), "(((CD4,CD8)T,B,cDC,pDC)DC)root;"),
        (lambda h: h.group(["B", "CD8"], "odd"), "((CD4)T,(B,CD8)odd,(cDC,pDC)DC)root;"),
        (lambda h: h.group(["cDC"], "conventional"), "((CD4,CD8)T,B,((cDC)conventional,pDC)DC)root;"),
        (lambda h: h.merge(["B", "DC"]), "((CD4,CD8)T,(cDC,pDC)B)root;"),
        (lambda h: h.merge(["T", "CD4", "CD8"], name="T cell"), "(T cell,B,(cDC,pDC)DC)root;"),
        (lambda h: h.split("B", ["naive", "memory"], below=True), "((CD4,CD8)T,(naive,memory)B,(cDC,pDC)DC)root;"),
        (lambda h: h.split("B", ["plasma"]), "((CD4,CD8)T,B,plasma,(cDC,pDC)DC)root;"),
        (lambda h: h.reorder("root"), "(B,(cDC,pDC)DC,(CD4,CD8)T)root;"),
        (lambda h: h.reorder("DC", ["pDC", "cDC"]), "((CD4,CD8)T,B,(pDC,cDC)DC)root;"),
    ],
)
def test_each_command_does_what_it_says_and_is_undone_and_redone(tree, edit, newick):
    before = tree.to_json()
    edit(tree)
    after = tree.to_json()
    assert tree.to_newick() == Hierarchy.from_newick(newick).to_newick()
    assert len(tree.history) == 1
    tree.undo()
    assert tree.to_json() == before and tree.diff().empty
    tree.redo()
    assert tree.to_json() == after


def test_every_edit_is_noted_as_a_line_of_code_that_repeats_it(tree):
    again = tree.copy()
    tree.merge([tree["B"], "DC"], name="B/DC")
    tree.add(name="it's", parent=tree["T"])
    tree.move("CD4", "it's", position=0)
    tree.add("x", aliases=[Alias("y", "donor 1")])
    for edit in tree.history:
        exec(edit.code, {"tree": again, "Alias": Alias})
    assert again.to_json() == tree.to_json()
    assert tree.history[0].code == "tree.merge(nodes=['B', 'DC'], name='B/DC')"


def test_a_renamed_node_is_still_found_by_the_label_in_the_data(tree):
    tree.rename("CD4", "CD4+ T cell")
    assert tree.find("CD4") is tree["CD4+ T cell"]
    tree.rename("CD4+ T cell", "CD4")
    assert tree["CD4"].names == ["CD4", "CD4+ T cell"]
    tree.rename("B", "B cell", keep_alias=False)
    assert tree.find("B") is None


def test_the_same_label_may_mean_different_nodes_in_different_data_sets(tree):
    tree.add_alias("CD4", "T1", "donor 1")
    tree.add_alias("CD8", "T1", "donor 2")
    assert tree.find("T1", "donor 1") is tree["CD4"] and tree.find("T1", "donor 2") is tree["CD8"]
    assert tree.find("T1") is None
    with pytest.raises(DataError, match="means CD4, CD8 in different data sets"):
        tree["T1"]
    assert tree.find("B", "donor 1") is None, "a data set with aliases is looked up among these"
    assert tree.find("B", "donor 3") is tree["B"]
    tree.drop_alias("CD8", "T1", "donor 2")
    assert tree["T1"] is tree["CD4"]


def test_merged_synonyms_come_apart_again_with_what_is_known_of_them(tree):
    tree.add_alias("cDC", "dendritic", "donor 1")
    tree.merge(["cDC", "pDC"])
    assert tree["cDC"].names == ["cDC", "dendritic", "pDC"]
    made = tree.split("cDC", ["pDC", "dendritic"])
    assert [node.name for node in tree["DC"].children] == ["cDC", "pDC", "dendritic"]
    assert made[1].aliases == (Alias("dendritic", "donor 1"),) and tree["cDC"].aliases == ()


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda h: h.add("B"), "'B' is in the tree already, as 'B' below 'root'"),
        (lambda h: h.rename("B", "CD4"), "'CD4' is in the tree already, as 'CD4' below 'T'"),
        (lambda h: h.move("T", "CD4"), r"'T' cannot be moved below itself \(T → CD4\)"),
        (lambda h: h.move("T", "T"), "cannot be moved below itself"),
        (lambda h: h.move(["CD4", "DC"], "cDC"), r"'DC' cannot be moved below itself \(DC → cDC\)"),
        (lambda h: h.remove([]), "No node was named"),
        (lambda h: h.remove(["B", "root"]), "'root' is the root, which cannot be removed"),
        (lambda h: h.move("root", "B"), "is the root"),
        (lambda h: h.group(["T", "CD4"], "x"), "'CD4' is below 'T', so it goes with it"),
        (lambda h: h.merge(["CD4", "T"]), "Name the upper node first"),
        (lambda h: h.merge(["B"]), "two nodes or more"),
        (lambda h: h.split("root", ["x"]), "below=True"),
        (lambda h: h.add("x", "cdc"), r"'cdc' is not in the tree. Did you mean 'cDC'\?"),
        (lambda h: h.add("x", "T", children=["B"]), "no children of 'T'"),
        (lambda h: h.add("  "), "not blank"),
        (lambda h: h.rename("B", "Rejected (RE)"), "no known type"),
        (lambda h: h.add_alias("B", "CD4"), "label 'CD4' is in the tree already"),
        (lambda h: h.drop_alias("B", "x"), "'B' has no alias 'x'"),
        (lambda h: h.reorder("T", ["CD4"]), "each of its 2 children once"),
        (lambda h: h.split("B", ["new", "CD4"], below=True), "'CD4' is in the tree already"),
    ],
)
def test_an_edit_that_cannot_be_says_why_and_leaves_the_tree_as_it_was(tree, edit, message):
    before = tree.to_json()
    with pytest.raises(DataError, match=message):
        edit(tree)
    assert tree.to_json() == before and tree.history == () and tree.version == 0


names = st.sampled_from(HOSTILE + [f"type {i}" for i in range(8)])


@st.composite
def edits(draw):
    """Some edit of some tree: which nodes it meets is told by numbers, taken modulo what there is."""
    return draw(st.tuples(st.integers(0, 9), st.integers(0, 99), st.integers(0, 99), names, st.booleans()))


def attempt(tree, edit):
    which, one, other, name, flag = edit
    nodes = list(tree)
    one, other = nodes[one % len(nodes)], nodes[other % len(nodes)]
    commands = [
        lambda: tree.rename(one, name, keep_alias=flag),
        lambda: tree.add(name, one, children=one.children[:2] if flag else ()),
        lambda: tree.remove([one, other], keep_children=flag),
        lambda: tree.move([one, nodes[-1]], other, 0 if flag else None),
        lambda: tree.group([one, other], name),
        lambda: tree.merge([one, other], name if flag else None),
        lambda: tree.split(one, one.names[1:3] or [name], below=flag),
        lambda: tree.add_alias(one, name, "donor" if flag else None),
        lambda: tree.drop_alias(one, name, "donor" if flag else None),
        lambda: tree.reorder(one, one.children[::-1] if flag else None),
    ]
    with contextlib.suppress(DataError):
        commands[which]()


def is_sound(tree):
    nodes = list(tree)
    table = tree._table
    assert len(nodes) == len(tree) == len(table.by_id) == len(table.by_name)
    for node in nodes:
        assert table.by_id[node.id] is table.by_name[node.name] is node
        assert all(child.parent is node for child in node.children)
        assert all(table.by_alias[alias.dataset, alias.name] is node for alias in node.aliases)
    assert len(table.by_alias) == sum(len(node.aliases) for node in nodes)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.lists(edits(), max_size=40))
def test_any_edits_can_all_be_undone_and_redone_and_a_view_follows_by_patches(many):
    tree = Hierarchy.from_newick("((a,b)x,(c)y,d)root;")
    start, follower = tree.to_json(), tree.copy()
    patches = []
    tree.subscribe(patches.append)
    for edit in many:
        attempt(tree, edit)
        is_sound(tree)
    end = tree.to_json()
    assert Hierarchy.from_json(end).to_json() == end
    assert Hierarchy.from_newick(tree.to_newick()).to_newick() == tree.to_newick()
    while tree.undo():
        is_sound(tree)
    assert tree.to_json() == start and tree.diff().empty
    while tree.redo():
        pass
    assert tree.to_json() == end
    assert [patch.base for patch in patches] == list(range(tree.version))
    for patch in patches:
        json.dumps(patch.to_json())
        for step in patch.steps:
            follower._table.perform(step)
    assert follower.to_json() == end


def test_a_view_gets_flat_columns_with_cells_and_small_patches(tree):
    tree.count_cells(cells(t=["CD4", "CD4", "T", "B"]), "t")
    flat = tree.flat()
    assert flat.names == [node.name for node in tree] and flat.parents[0] == -1
    assert dict(zip(flat.names, flat.n_cells.tolist()))["T"] == 1
    assert dict(zip(flat.names, flat.n_cells_below.tolist())) == {
        "root": 4, "T": 3, "CD4": 2, "CD8": 0, "B": 1, "DC": 0, "cDC": 0, "pDC": 0
    }  # fmt: skip
    assert json.loads(json.dumps(flat.to_json()))["depths"] == [0, 1, 2, 2, 1, 1, 2, 2]
    patches = []
    end = tree.subscribe(patches.append)
    tree.move("B", "DC", 0)
    ids = dict(zip(flat.names, flat.ids.tolist()))
    assert patches[0].to_json() == {"base": 0, "version": 1, "steps": [["place", ids["B"], ids["DC"], 0]]}
    end()
    tree.undo()
    assert len(patches) == 1 and tree.version == 2


def test_two_threads_that_edit_at_once_lose_no_edit(tree):
    def add(prefix):
        for number in range(50):
            tree.add(f"{prefix}{number}", "B")

    threads = [threading.Thread(target=add, args=(prefix,)) for prefix in "xyz"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(tree) == 158 and tree.version == len(tree.history) == 150
    is_sound(tree)


def test_a_tree_of_obs_columns_ends_a_branch_where_labels_are_missing_or_repeat():
    adata = cells(coarse=["T", "T", "B", "B", "NK"], fine=["CD4", None, "B", "naive B", "NK"], donor=[*"aabbb"])
    tree = Hierarchy.from_obs(adata, ["coarse", "fine"], batch_key="donor")
    assert tree.to_newick() == Hierarchy.from_newick("((naive B)B,NK,(CD4)T)root;").to_newick()
    assert tree.counts().loc["B"].to_dict() == {"a": 0, "b": 1}
    assert tree.counts(below=True).loc["root"].to_dict() == {"a": 2, "b": 3}
    pd.testing.assert_frame_equal(adata.obs, cells(**{key: adata.obs[key] for key in adata.obs}).obs)
    assert Hierarchy.from_obs(cells(t=["root", "B"]), ["t"])[0].name == "root 2"
    with pytest.raises(DataError, match="'CD4' stands below 'B' and below 'T'"):
        Hierarchy.from_obs(cells(coarse=["T", "B"], fine=["CD4", "CD4"]), ["coarse", "fine"])
    with pytest.raises(DataError, match="Did you mean 'coarse'"):
        Hierarchy.from_obs(adata, ["Coarse"])


def test_labels_are_translated_to_a_level_and_nothing_is_written(tree):
    adata = cells(t=["CD4", "pDC", "B", None, "Rejected (RE)", "T"])
    before = adata.obs.copy()
    tree.rename("pDC", "plasmacytoid")
    assert tree.apply(adata, "t").astype(object).fillna("-").tolist() == ["CD4", "plasmacytoid", "B", "-", "root", "T"]
    assert tree.apply(adata, "t", level=1).dropna().tolist() == ["T", "DC", "B", "root", "T"]
    assert list(tree.apply(adata, "t", level=1).cat.categories) == ["root", "T", "B", "DC"]
    pd.testing.assert_frame_equal(adata.obs, before)
    with pytest.raises(DataError, match="'NK' is not in the tree"):
        tree.apply(cells(t=["NK"]), "t")


def test_problems_are_named_and_go_when_they_are_mended(tree):
    tree.add("B-cells")
    tree.add("b cell")
    tree.add("CD4-", "T")
    tree.add("CD4+", "T")
    tree.count_cells(cells(t=["CD4", "CD8", "B", "cDC", "pDC", "NK", "NK"]), "t")
    problems = {(problem.kind, *(tree.node(id).name for id in problem.nodes)) for problem in tree.validate()}
    assert problems == {
        ("near-duplicate", "B-cells", "b cell"),
        ("empty-leaf", "B-cells"), ("empty-leaf", "b cell"), ("empty-leaf", "CD4-"), ("empty-leaf", "CD4+"),
        ("label-not-in-tree",),
    }  # fmt: skip
    (lost,) = (problem for problem in tree.validate() if problem.kind == "label-not-in-tree")
    assert lost.label == "NK" and "'NK' (2 cells)" in lost.message
    assert tree.counted_labels().set_index("label")["node"].to_dict()["NK"] is None
    tree.merge(["B", "B-cells", "b cell"])
    tree.remove("CD4+")
    tree.remove("CD4-")
    tree.add("NK")
    assert tree.validate() == []


def test_the_difference_of_two_trees_tells_renamed_moved_added_and_removed(tree):
    other = tree.copy()
    other.rename("B", "B cell")
    other.move("pDC", "root")
    other.remove("CD8")
    other.add("NK")
    expected = {
        ("B cell", "renamed", "B", "B cell"),
        ("B cell", "aliases", "", "B"),
        ("pDC", "moved", "DC", "root"),
        ("NK", "added", "", "root"),
        ("CD8", "removed", "T", ""),
    }
    assert set(other.diff().itertuples(index=False, name=None)) == expected
    assert set(other.diff(tree).itertuples(index=False, name=None)) == expected
    assert set(Hierarchy.from_json(other.to_json()).diff(tree).itertuples(index=False, name=None)) == expected


def test_the_difference_of_aliases_tells_whose_they_are(tree):
    tree.add_alias("CD4", Alias("T helper", "donor 2"))
    other = tree.copy()
    other.add_alias("CD4", Alias("T helper", "donor 1"))
    other.add_alias("CD4", "Th")
    (row,) = other.diff(tree).itertuples(index=False, name=None)
    assert row == ("CD4", "aliases", "T helper (donor 2)", "T helper (donor 2, donor 1), Th")


def test_a_deep_copy_is_edited_alone(tree):
    other = copy.deepcopy(tree)
    other.remove("T")
    assert "T" in tree and other["CD4"].id == tree["CD4"].id
