from pathlib import Path

import pandas as pd
import pytest
from test_tree import HOSTILE

from scarches_widgets.data.names import DataError
from scarches_widgets.mapping.hierarchy import Alias, Hierarchy

NAMES = (
    "pbmc_schpl_iteration1",
    "pbmc_schpl_iteration2",
    "mouse_neurons_amb_schpl_iteration1",
    "brain_schpl_iteration1",
    "brain_schpl_iteration2",
)


@pytest.mark.realdata
@pytest.mark.parametrize(("name", "n_leaves"), [*zip(NAMES, (10, 13, 94, 15, 16))])
def test_published_trees_of_schpl_round_trip(name, n_leaves, real_data):
    text = Path(real_data, "trees", f"{name}.nwk").read_text()
    tree = Hierarchy.from_newick(text)
    assert len(tree.leaves()) == n_leaves and tree[0].name == "root"
    assert tree.to_newick() == text.strip()
    assert Hierarchy.from_json(tree.to_json()).to_newick() == text.strip()
    assert Hierarchy.from_edges(tree.to_edges()).to_newick() == text.strip()
    assert Hierarchy.from_networkx(tree.to_networkx()).to_newick() == text.strip()


@pytest.fixture
def hostile():
    tree = Hierarchy("the 'root', (of) all")
    for number, name in enumerate(HOSTILE):
        tree.add(name, list(tree)[number // 2])
    tree.add_alias("z", "Rejected?", "donor, 'one'")
    tree.add("learned", aliases=[Alias("l", "donor 2", "perfect", 0.9, 0.8)])
    return tree


def test_names_of_any_characters_round_trip(hostile):
    text = hostile.to_newick()
    assert Hierarchy.from_newick(text).to_newick() == text
    assert Hierarchy.from_json(hostile.to_json()).to_json() == hostile.to_json()
    assert Hierarchy.from_networkx(hostile.to_networkx()).to_newick() == text
    shuffled = hostile.to_edges().sample(frac=1, random_state=0)
    assert {tuple(row) for row in Hierarchy.from_edges(shuffled).to_edges().to_numpy()} == {
        tuple(row) for row in shuffled.to_numpy()
    }


def test_json_keeps_ids_and_evidence(hostile):
    read = Hierarchy.from_json(hostile.to_json())
    assert read["learned"].aliases == hostile["learned"].aliases
    assert [node.id for node in read] == [node.id for node in hostile]


def test_lengths_comments_line_breaks_and_missing_names_of_inner_nodes_are_read():
    tree = Hierarchy.from_newick("[a tree] (('x'' y':0.1,\n b b:2e-3)[75]:1 ,(c,d)'node 1');")
    assert tree.to_newick() == "(('x'' y','b b')'node 2',('c','d')'node 1')'root';"
    assert Hierarchy.from_newick("(root,b);")[0].name == "root 2"
    assert Hierarchy.from_newick("alone;").to_newick() == "'alone';"
    assert Hierarchy.from_newick("(A,B,C,D)top;")[0].name == "top"


def test_a_chain_of_thousands_of_nodes_is_read_and_written():
    text = "(" * 5000 + "'leaf'" + "".join(f")'n{i}'" for i in range(5000)) + ";"
    tree = Hierarchy.from_newick(text)
    assert tree.to_newick() == text
    assert Hierarchy.from_json(tree.to_json()).to_newick() == text


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("((a,b);", r"a '\)' is missing"),
        ("(a,b)r)", r"there is no '\(' to this '\)'"),
        ("a,b;", r"there is no '\(' to this ','"),
        ("(a,'b)r;", "at character 4 .* not closed"),
        ("(a,b)r; (c,d)s;", "more text follows"),
        ("(a(b,c))r;", r"a '\(' cannot stand here"),
        ("(a,'b' 'c')r;", "a second name"),
        ("(a,)r;", "A leaf below 'r' has no name"),
        ("(a,a)r;", "'a' is in the tree already"),
    ],
)
def test_broken_newick_is_refused_with_the_place(text, message):
    with pytest.raises(DataError, match=message):
        Hierarchy.from_newick(text)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([("r", "a"), ("s", "a")], "'a' has two parents"),
        ([("r", "a"), ("s", "b")], "one root"),
        ([("a", "b"), ("b", "a")], "one root.*circle"),
        ([("r", "x"), ("a", "b"), ("b", "a")], "circle"),
        ([("r", None)], "missing values"),
    ],
)
def test_edges_that_are_no_tree_are_refused(rows, message):
    with pytest.raises(DataError, match=message):
        Hierarchy.from_edges(pd.DataFrame(rows, columns=["parent", "child"]))


@pytest.mark.parametrize("text", ["{}", "[]", "nonsense", '{"format": "other"}'])
def test_json_of_something_else_is_refused(text):
    with pytest.raises(DataError, match="no tree that `to_json` wrote"):
        Hierarchy.from_json(text)
