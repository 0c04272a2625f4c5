"""The tree editor without a browser: edits, undo, cells, proposals, and what a page, or a forger, may ask for."""

import json
from unittest import mock
from xml.etree import ElementTree

import numpy as np
import pytest
from node import node
from pages import click, nothing_raised, wait_until

import scarches_widgets as sca
from scarches_widgets.data.names import DataError
from scarches_widgets.mapping.hierarchy import Alias, Hierarchy, Match, Proposal
from scarches_widgets.widgets import EmbeddingView, Session, TreeEditor
from scarches_widgets.widgets.base import HERE

HOSTILE = ["<img src=x onerror=h()>", "B, 'naive' (all);", "$x^2$", "Ω β→γ 🧬", '"; drop', "</script>", "a\\b"]
NEWICK = "(('CD4 T','CD8 T')'T cell','B cell',('Classical','Nonclassical')'Monocyte')'root';"

MODEL = (HERE / "js" / "tree_model.js").as_uri()
IMPORT = f"import {{ Tree, toJson, toNewick }} from '{MODEL}';"
PUBLISHED = [
    "pbmc_schpl_iteration1",
    "pbmc_schpl_iteration2",
    "mouse_neurons_amb_schpl_iteration1",
    "brain_schpl_iteration1",
    "brain_schpl_iteration2",
]


@pytest.fixture
def cells():
    adata = sca.datasets.atlas(n_obs=240, n_vars=40, n_types=5, seed=3)
    labels = np.array(["CD4 T", "CD8 T", "B cell", "Classical", "NK"])
    adata.obs["label"] = labels[np.arange(240) % 5]
    return adata


@pytest.fixture
def tree():
    return Hierarchy.from_newick(NEWICK)


@pytest.fixture
def editor(tree, cells):
    editor = TreeEditor(tree, cells, "label", batch_key="batch")
    yield editor
    editor.close()


def page_of(editor):
    """What a page knows: the state that it is given when it opens."""
    return json.loads(
        json.dumps(editor.get_state(["tree", "cells", "problems", "edits", "proposals", "nodes", "hits"]))
    )


def ask(editor, command, **arguments):
    """What a page sends, and the answer that it gets."""
    with mock.patch.object(editor, "send") as send, nothing_raised():
        click(editor, "edit", id="7", command=command, arguments=arguments)
    return send.call_args.args[0] if send.called else None


def done(editor, command, **arguments):
    answer = ask(editor, command, **arguments)
    assert answer["op"] == "answered" and answer["id"] == "7" and answer["problem"] == "", answer
    return answer["made"]


def ids(tree, *names):
    return [tree[name].id for name in names]


# Edits


def test_cells_are_counted_by_the_finest_column_that_the_tree_knows(tree, cells):
    coarser = {"CD4 T": "T cell", "CD8 T": "T cell", "Classical": "Monocyte"}
    cells.obs.insert(0, "lineage", cells.obs["label"].replace(coarser))
    editor = TreeEditor(tree, cells)
    assert editor.key == "label"
    editor.close()


def test_every_edit_of_a_page_is_one_of_the_tree_and_undo_leads_back_to_the_start(editor):
    tree = editor.hierarchy
    start = tree.to_json()
    id = {node.name: node.id for node in tree}
    done(editor, "rename", node=id["B cell"], name=" B lymphocyte ")
    assert tree["B cell"].name == "B lymphocyte", "the old name is a synonym"
    (new,) = done(editor, "add", name="NK", parent=id["root"], position=0)
    assert tree.node(new).position == 0
    done(editor, "move", nodes=[id["CD8 T"]], parent="root")
    (group,) = done(editor, "group", nodes=[id["T cell"], new], name="Lymphoid")
    assert [node.name for node in tree.node(group).children] == ["T cell", "NK"]
    done(editor, "merge", nodes=[id["Classical"], "Nonclassical"], name="Both")
    assert tree["Nonclassical"].name == "Both"
    assert len(done(editor, "split", node=id["Classical"], names=["Nonclassical"], below=True)) == 1
    done(editor, "add_alias", node=new, alias="natural killer")
    done(editor, "drop_alias", node=new, alias="natural killer")
    done(editor, "reorder", node=id["root"])
    done(editor, "remove", nodes=[id["T cell"]], keep_children=True)
    assert tree["CD4 T"].parent is tree["Lymphoid"]
    done(editor, "remove", nodes=[group], keep_children=False)
    assert "NK" not in tree
    assert editor.edits["n_done"] == 11 == len(tree.history)
    click(editor, "travel", by=-3)
    assert editor.edits["n_undone"] == 3 and tree["NK"].id == new
    click(editor, "travel", by=2)
    click(editor, "travel", by=-100)
    assert tree.to_json() == start and editor.edits["n_undone"] == 11
    click(editor, "travel", by=100)
    assert editor.edits["n_done"] == 11


def test_several_nodes_are_moved_or_removed_as_one_edit(editor, tree):
    done(editor, "move", nodes=ids(tree, "T cell", "CD8 T", "Classical"), parent=tree["B cell"].id, position=0)
    assert [node.name for node in tree["B cell"].children] == ["T cell", "Classical"]
    done(editor, "remove", nodes=ids(tree, "T cell", "Monocyte"), keep_children=True)
    assert editor.edits["done"] == [
        "Moved 'T cell', 'CD8 T', 'Classical' below 'B cell'",
        "Removed 'T cell', 'Monocyte'",
    ]
    assert tree["CD8 T"].parent is tree["B cell"] and tree["Nonclassical"].parent.is_root
    again = Hierarchy.from_newick(NEWICK)
    exec(editor.code(), {"tree": again})
    assert again.to_newick() == tree.to_newick()
    click(editor, "travel", by=-2)
    assert tree.to_newick() == NEWICK


def test_the_code_makes_the_same_tree(editor, tree):
    start = tree.copy()
    done(editor, "rename", node=tree["B cell"].id, name=HOSTILE[1])
    for name in HOSTILE:
        if name not in tree:
            done(editor, "add", name=name, parent=tree["T cell"].id)
    done(editor, "merge", nodes=ids(tree, "CD4 T", "CD8 T"), name=None)
    tree.add_alias("CD4 T", Alias("Th", "donor 2", "perfect", 0.9, 0.8))
    done(editor, "remove", nodes=[tree["Monocyte"].id], keep_children=False)
    wait_until(lambda: editor.script == editor.code())
    names = {"tree": start}
    exec(editor.code(), names)
    assert names["tree"].to_newick() == tree.to_newick()
    assert names["tree"]["Th"].aliases == tree["Th"].aliases


def test_edits_from_before_are_undone_in_the_code_too(tree):
    tree.add("NK")
    again = Hierarchy.from_newick(NEWICK)
    again.add("NK")
    editor = TreeEditor(tree)
    assert editor.code() == "# No edits yet.\n" and editor.edits["n_done"] == 1
    click(editor, "travel", by=-1)
    done(editor, "add", name="Platelet", parent=tree.root.id)
    exec(editor.code(), {"tree": again})
    assert editor.code().startswith("tree.undo()\n") and again.to_newick() == tree.to_newick()


def test_an_edit_that_the_tree_refuses_is_told_to_the_page_and_nothing_is_half_done(editor, tree):
    before = tree.to_json(), page_of(editor)
    for command, arguments, says in (
        ("rename", {"node": tree["B cell"].id, "name": "CD4 T"}, "'CD4 T' is in the tree already"),
        ("rename", {"node": tree["B cell"].id, "name": "  "}, "not blank"),
        ("move", {"nodes": [tree["T cell"].id], "parent": tree["CD4 T"].id}, "cannot be moved below itself"),
        ("move", {"nodes": [tree["T cell"].id], "parent": "B cel"}, "Did you mean 'B cell'"),
        ("merge", {"nodes": ids(tree, "B cell")}, "two nodes or more"),
        ("group", {"nodes": ids(tree, "T cell", "CD4 T"), "name": "x"}, "Leave it out"),
        ("remove", {"nodes": [tree.root.id]}, "is the root"),
        ("remove", {"nodes": [999]}, "not in the tree any more"),
        ("split", {"node": tree["B cell"].id, "names": ["fresh", "CD4 T"]}, "in the tree already"),
        ("add", {"name": "x" * 501, "parent": tree.root.id}, "at most 500"),
    ):
        answer = ask(editor, command, **arguments)
        assert says in answer["problem"] and answer["made"] == [], answer
        assert (tree.to_json(), page_of(editor)) == before and editor.error is None, command


def test_a_read_only_editor_refuses_every_edit_and_still_selects(tree, cells):
    editor = TreeEditor(tree, cells, "label", readonly=True)
    assert "read-only" in ask(editor, "remove", nodes=[tree["B cell"].id])["problem"]
    tree.add("NK")
    click(editor, "travel", by=-1)
    assert "NK" in tree
    editor.set_state({"readonly": False, "nodes": ids(tree, "B cell")})
    assert editor.readonly and len(editor.selection) == 48
    editor.readonly = False
    done(editor, "remove", nodes=[tree["B cell"].id])


FORGED = [
    {"op": "edit", "command": "copy", "arguments": {}},
    {"op": "edit", "command": "__init__", "arguments": {}},
    {"op": "edit", "command": "rename", "arguments": []},
    {"op": "edit", "command": "rename", "arguments": {"node": True, "name": "x"}},
    {"op": "edit", "command": "rename", "arguments": {"node": 1, "name": 3}},
    {"op": "edit", "command": "rename", "arguments": {"node": 1}},
    {"op": "edit", "command": "rename", "arguments": {"self": 1, "node": 1, "name": "x"}},
    {"op": "edit", "command": "remove", "arguments": {"nodes": [1], "keep_children": "no"}},
    {"op": "edit", "command": "group", "arguments": {"nodes": [[1]], "name": "x"}},
    {"op": "edit", "command": "split", "arguments": {"node": 1, "names": [1]}},
    {"op": "edit"},
    {"op": "travel", "by": "all"},
    {"op": "travel"},
    {"op": "judge", "i": 0, "verdict": "accept"},
    {"op": "judge", "i": True},
    {"op": "keep", "problem": {"a": 1}},
    {"op": "keep", "problem": "no such problem"},
    {"op": "compare", "newick": 5},
    {"op": "close"},
]


def test_forged_messages_change_nothing(editor, tree):
    tree.add("edited")
    wait_until(lambda: editor.version == 1)
    before = tree.to_json(), page_of(editor)
    for content in FORGED:
        with nothing_raised():
            click(editor, **content)
        assert (tree.to_json(), page_of(editor)) == before, content
    values = {"nodes": [[1.5], ["1"], [10**9], [True], "1", None], "comparing": ["all", 3], "version": [7]}
    values |= {name: [{}] for name in ("tree", "cells", "hits", "problems", "edits", "facts", "script")}
    for name, unfit in values.items():
        for value in unfit:
            state = getattr(editor, name)
            editor.set_state({name: value})
            assert getattr(editor, name) == state, (name, value)
    assert page_of(editor) == before[1]


# What pages know


def test_a_page_follows_by_patches_and_a_page_that_opens_later_knows_the_same(editor, tree):
    script = """
        const [flat, messages, cells] = JSON.parse(process.argv[1]);
        const tree = new Tree();
        tree.load(flat);
        const followed = messages.every(({ patches, own }) => {
            const all = patches.every((patch) => tree.apply(patch));
            tree.count(own);
            return all;
        });
        const below = tree.order().map((node) => node.below);
        console.log(JSON.stringify([followed, toNewick(tree), toJson(tree, cells), below, tree.version]));
    """

    def in_page(flat, messages):
        known = json.dumps([flat, messages, editor.get_state()["cells"]["rows"]])
        run = node("--input-type=module", "--eval", IMPORT + script, "--", known)
        assert run.returncode == 0, run.stderr
        return json.loads(run.stdout)

    first = page_of(editor)["tree"]
    with mock.patch.object(editor, "send") as send:
        for i, name in enumerate(HOSTILE):
            tree.add(name, "T cell" if i % 2 else None, position=0)
        tree.merge(["CD4 T", "CD8 T"], HOSTILE[0] + "!")
        tree.move("B cell", "Monocyte", 0)
        tree.undo()
        tree.remove("Monocyte")
        wait_until(lambda: editor.version == tree.version)
    messages = json.loads(json.dumps([call.args[0] for call in send.call_args_list if call.args[0]["op"] == "patch"]))
    followed, newick, text, below, version = in_page(first, messages)
    assert followed and version == tree.version == editor.get_state()["tree"]["version"]
    assert newick == tree.to_newick() and Hierarchy.from_json(text).to_json() == tree.to_json()
    assert below == tree.counts(below=True).to_numpy().tolist()
    later = in_page(page_of(editor)["tree"], [])
    assert later == [True, newick, text, below, version]


def test_many_edits_from_python_are_few_messages(editor, tree):
    with mock.patch.object(editor, "send") as send:
        for i in range(200):
            tree.add(f"type {i}")
        wait_until(lambda: editor.version == 200)
    assert len(send.call_args_list) < 60
    assert sum(len(call.args[0]["patches"]) for call in send.call_args_list) == 200


def test_a_page_that_missed_a_patch_gets_the_tree_anew(editor, tree):
    with mock.patch.object(editor, "send_state") as send_state:
        click(editor, "resend")
    assert "tree" in send_state.call_args.args[0]


# Cells


def test_cells_are_counted_by_node_and_batch(editor, tree, cells):
    counts = tree.counts()
    own = editor.get_state()["tree"]["own"]
    assert editor.get_state()["cells"]["batches"] == counts.columns.tolist() == ["batch0", "batch1", "batch2"]
    assert {id: counts.loc[tree.node(int(id)).name].tolist() for id in own} == own
    assert sum(map(sum, own.values())) == (cells.obs["label"] != "NK").sum()
    assert editor.facts == "8 nodes, 5 leaves · 240 cells by label and batch"


def test_a_node_selects_its_cells_and_those_below_and_cells_highlight_their_nodes(editor, tree, cells):
    editor.set_state({"nodes": ids(tree, "T cell", "B cell")})
    assert editor.mask.tolist() == cells.obs["label"].isin(["CD4 T", "CD8 T", "B cell"]).tolist()
    assert editor.session.selection.tolist() == editor.selection.tolist()
    editor.selection = cells.obs["label"].isin(["CD8 T", "NK"])
    assert editor.nodes == [] and editor.hits == {str(tree["CD8 T"].id): 48}
    done(editor, "add_alias", node=tree["B cell"].id, alias="NK")
    assert editor.hits == {str(tree["CD8 T"].id): 48, str(tree["B cell"].id): 48}, "the edit found them a node"
    editor.nodes = []
    assert len(editor.obs_names) == 96, "nothing was unselected by nodes that were not selected"


def test_linked_views_share_the_selection(tree, cells):
    session = Session()
    umap = EmbeddingView(cells, "truth", session=session)
    editor = TreeEditor(tree, key="label", session=session)
    assert editor.adata is cells
    editor.nodes = ids(tree, "B cell")
    assert len(umap.selection) == 48
    umap.selection = [1]
    assert editor.nodes == [] and editor.hits == {str(tree["CD8 T"].id): 1}
    editor.close()
    umap.selection = [2]
    assert editor.selection.tolist() == [1]


def test_a_selected_node_that_is_deleted_is_selected_no_more(editor, tree):
    editor.nodes = ids(tree, "B cell", "CD4 T")
    done(editor, "remove", nodes=[tree["B cell"].id])
    assert editor.nodes == ids(tree, "CD4 T")


def test_the_column_is_found_or_it_is_told_what_there_is(tree, cells):
    assert TreeEditor(tree, cells).key == "label"
    with pytest.raises(DataError, match=r"No column of obs .* has labels of this tree"):
        TreeEditor(Hierarchy.from_newick("(x,y)z;"), cells)
    with pytest.raises(DataError, match="Did you mean 'label'"):
        TreeEditor(tree, cells, "labell")
    with pytest.raises(TypeError, match="takes a Hierarchy and was given a str"):
        TreeEditor(NEWICK)


def test_labels_that_were_changed_are_counted_again(editor, cells):
    cells.obs["label"] = "B cell"
    editor.refresh()
    assert sum(map(sum, editor.get_state()["tree"]["own"].values())) == 240


def test_missing_labels_and_batches_are_no_cells_of_a_node(tree, cells):
    cells.obs["label"] = cells.obs["label"].where(np.arange(240) > 99)
    cells.obs["donor"] = cells.obs["batch"].astype(object).where(np.arange(240) % 2 == 0)
    editor = TreeEditor(tree, cells, "label", batch_key="donor")
    editor.nodes = [tree.root.id]
    assert editor.selection.tolist() == [i for i in range(100, 240) if cells.obs["label"].iloc[i] != "NK"]
    assert set(editor.hits) == set(editor.get_state()["tree"]["own"])


# Problems, proposals, comparison


def test_problems_are_told_set_aside_and_mended(editor, tree):
    (lost,) = [one for one in editor.problems["rows"] if one["kind"] == "label-not-in-tree"]
    assert lost["label"] == "NK" and lost["nodes"] == []
    n = editor.problems["n"]
    click(editor, "keep", problem=lost["message"])
    assert editor.problems["n"] == n - 1 and editor.problems["n_kept"] == 1
    click(editor, "keep", problem=None)
    assert editor.problems["n"] == n
    done(editor, "add", name="NK", parent=tree.root.id)
    assert "NK" not in {one["label"] for one in editor.problems["rows"]}
    done(editor, "add", name="B cells", parent=tree.root.id)
    (twins,) = [one for one in editor.problems["rows"] if one["kind"] == "near-duplicate"]
    done(editor, "merge", nodes=twins["nodes"])
    assert "near-duplicate" not in {one["kind"] for one in editor.problems["rows"]}


@pytest.fixture
def proposals():
    def match(label, name):
        return (Match(label, name, 0.93, None),)

    def add(name, parent):
        return (("add", {"name": name, "parent": parent}),)

    alias = {"node": "CD4 T", "alias": Alias("Th", "b")}
    return [
        Proposal("perfect", "b", ("Th",), ("CD4 T",), match("Th", "CD4 T"), (("add_alias", alias),)),
        Proposal("new", "b", ("NK",), ("root",), match("NK", "root"), add("NK", "root")),
        Proposal("split", "b", ("NK dim",), ("NK",), (), add("NK dim", "NK")),
        Proposal("impossible", "b", ("mix",), ("CD4 T", "B cell"), (), ()),
    ]


def states(editor):
    return [one["state"] for one in editor.proposals]


def judge(editor, i, verdict):
    with mock.patch.object(editor, "send") as send:
        click(editor, "judge", id="1", i=i, verdict=verdict)
    return send.call_args.args[0]["problem"]


def test_proposals_are_accepted_or_vetoed_one_by_one_and_undone(tree, proposals):
    editor = TreeEditor(tree, proposals=proposals)
    assert states(editor) == ["open"] * 4 and editor.proposals[0]["matches"][0]["share_of_label"] == 0.93
    assert "'NK' is not in the tree" in judge(editor, 2, "accept")
    assert "no place in a tree" in judge(editor, 3, "accept") and len(tree.history) == 0
    assert judge(editor, 1, "accept") == "" == judge(editor, 2, "accept") == judge(editor, 0, "veto")
    assert states(editor) == ["vetoed", "accepted", "accepted", "open"] and "NK dim" in tree
    assert "accepted already" in judge(editor, 1, "accept")
    assert editor.edits["done"] == ["Accepted new: NK of b", "Accepted split: NK dim of b"]
    names = {"tree": Hierarchy.from_newick(NEWICK)}
    exec(editor.code(), names)
    assert names["tree"].to_newick() == tree.to_newick()
    click(editor, "travel", by=-2)
    assert judge(editor, 0, "reopen") == "" and states(editor) == ["open"] * 4
    judge(editor, 0, "accept")
    assert tree.find("Th", "b") is tree["CD4 T"]
    editor.propose([])
    assert editor.proposals == []


def test_what_learn_tree_proposes_can_be_accepted(cells):
    rng = np.random.default_rng(0)
    codes = np.arange(240) % 3
    cells.obsm["X_latent"] = (np.eye(3)[codes] * 20 + rng.normal(size=(240, 3))).astype(np.float32)
    cells.obs["batch"] = np.where(np.arange(240) < 120, "a", "b")
    cells.obs["label"] = [
        f"{name} {batch}" for name, batch in zip(np.array(["T", "B", "NK"])[codes], cells.obs["batch"])
    ]
    options = {"use_rep": "X_latent", "apply": False}
    tree, found = sca.hierarchy.learn_tree(cells, "batch", ["a", "b"], "label", **options)
    editor = TreeEditor(tree, cells, "label", batch_key="batch", proposals=found)
    json.dumps(editor.proposals)
    assert [judge(editor, i, "accept") for i in range(len(found))] == [""] * len(found) and found
    assert tree.find("T b", "b") is tree["T a"]


def test_a_tree_is_compared_with_its_start_and_with_another(editor, tree):
    assert editor.difference["rows"] == []
    done(editor, "move", nodes=[tree["B cell"].id], parent=tree["T cell"].id)
    editor.set_state({"comparing": "start"})
    assert [(row["node"], row["change"]) for row in editor.difference["rows"]] == [("B cell", "moved")]
    click(editor, "compare", newick="('B cell',NK)root;")
    assert editor.comparing == "other" and editor.difference["has_other"]
    assert {(row["node"], row["change"]) for row in editor.difference["rows"]} >= {
        ("NK", "removed"),
        ("Monocyte", "added"),
    }
    with mock.patch.object(editor, "send") as send:
        click(editor, "compare", id="2", newick="((")
    assert "no Newick tree" in send.call_args.args[0]["problem"]
    assert len(editor.compare(tree.copy())) == 0
    tree.add("NK")
    wait_until(lambda: editor.difference["n"] == 1)


# Pictures


def test_pictures_and_pages_hold_names_as_text(tmp_path):
    tree = Hierarchy("root")
    for i, name in enumerate(HOSTILE):
        tree.add(name, list(tree)[i // 2])
    editor = TreeEditor(tree)
    ElementTree.fromstring(editor.snapshot("svg").data)
    assert editor.snapshot("png").data.startswith(b"\x89PNG")
    page = editor.export_html(tmp_path / "page.html").read_text()
    assert "<img src=x" not in page and "&lt;img src=x" in page and page.count("</script>") == 0
    assert 'src="data:image/svg+xml;base64,' in page
    assert "application/vnd.jupyter.widget-view+json" in editor._repr_mimebundle_()[0]
    assert len(json.dumps(editor._repr_mimebundle_()[0])) < 100_000


def test_a_tree_of_5000_nodes_is_told_quickly_and_its_picture_is_small():
    tree = Hierarchy("root")
    for i in range(70):
        parent = tree.add(f"group {i}")
        for j in range(70):
            tree.add(f"type {i:02}{j:02}", parent)
    editor = TreeEditor(tree)
    assert len(editor.get_state()["tree"]["ids"]) == 4971 and editor.problems["n"] == 0
    assert len(editor.snapshot("png").data) < 100_000
    texts = [one.text for one in ElementTree.fromstring(editor.snapshot("svg").data).findall(".//{*}text")]
    assert texts[0] == "group 59  (+70 nodes)" and texts[-1] == "root  (+710 nodes)" and len(texts) == 61
    assert len(done(editor, "add", name="one more", parent=tree["group 7"].id)) == 1


@pytest.mark.realdata
@pytest.mark.parametrize("name", PUBLISHED)
def test_published_trees_load_and_round_trip_through_a_page(name, real_data):
    text = (real_data / "trees" / f"{name}.nwk").read_text().strip()
    editor = TreeEditor(Hierarchy.from_newick(text))
    script = "const tree = new Tree(); tree.load(JSON.parse(process.argv[1])); console.log(toNewick(tree));"
    run = node("--input-type=module", "--eval", IMPORT + script, "--", json.dumps(page_of(editor)["tree"]))
    assert run.stdout.strip() == text, run.stderr
    ElementTree.fromstring(editor.snapshot("svg").data)
