"""What matches become, by the table of spec/tree_spatial_tcr_atac.md §1.7, whose rows scHPL 1.0.5 produced.

A row: the tree; for labels of the first data set the percentages of what the second one's classifier calls their cells;
the same the other way; the tree that comes of it, as `root(A|alias,B(child,child))`; the labels without a place.
"""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scarches_widgets.data.names import DataError
from scarches_widgets.mapping.hierarchy import Hierarchy, Node, update_tree

FLAT, INNER, THREE = "(A,B,C)root;", "((A1,A2)A,B,C)root;", "((A1,A2,A3)A,B,C)root;"
ROWS = {
    "1 perfect": (FLAT, "A: a", "a: A", "root(A|a,B|b,C|c)", ""),
    "2 new": (FLAT, "A: a", "a: A; d: rej", "root(A|a,B|b,C|c,d)", ""),
    "3 first only": (FLAT, "A: a; C: rej", "a: A; c: -", "root(A|a,B|b,C)", ""),
    "4 split": (FLAT, "A: a1 50 a2 50", "a1: A; a2: A", "root(A(a1,a2),B|b,C|c)", ""),
    "4b split 70/30": (FLAT, "A: a1 70 a2 30", "a1: A; a2: A", "root(A(a1,a2),B|b,C|c)", ""),
    "5 merge": (FLAT, "A: ab; B: ab", "ab: A 50 B 50; b: -", "root(C|c,ab(A,B))", ""),
    "5b merge 90/10": (FLAT, "A: ab; B: ab", "ab: A 90 B 10; b: -", "root(C|c,ab(A,B))", ""),
    "5c merge all": (
        FLAT, "A: abc; B: abc; C: abc", "abc: A 34 B 33 C 33; x: rej; b: -; c: -", "root(abc(A,B,C),x)", "",
    ),
    "6 split, some rejected": (FLAT, "A: a1 40 a2 40 rej 20", "a1: A; a2: A", "root(A(a1,a2),B|b,C|c)", ""),
    "7 square": (FLAT, "A: a 50 b 50; B: a 50 b 50", "a: A 50 B 50; b: A 50 B 50", "root(A,B,C|c)", "a b"),
    "8 chain": (FLAT, "A: a; B: a 50 b 50", "a: A 50 B 50; b: B", "root(A,B,C|c)", "a b"),
    "9 inner node": (INNER, "A1: a; A2: a", "a: A", "root(A|a(A1,A2),B|b,C|c)", ""),
    "9b": (INNER, "A1: a; A2: a", "a: A1 50 A2 50", "root(A|a(A1,A2),B|b,C|c)", ""),
    "10 stops at inner": (INNER, "A1: a1; A2: a2", "a1: A1; a2: A2; a3: A", "root(A|a3(A1|a1,A2|a2),B|b,C|c)", ""),
    "11 deeper split": (
        INNER, "A1: a1x 50 a1y 50; A2: a2", "a1x: A1; a1y: A1; a2: A2", "root(A(A1(a1x,a1y),A2|a2),B|b,C|c)", "",
    ),
    # scHPL: root(C|c,m(A(A1|a1,A2),B)), which takes A1 below m, though its cells are not called m
    "12 merge across": (
        INNER, "A1: a1; A2: m; B: m", "a1: A1; m: A2 50 B 50; b: -", "root(A(A1|a1,A2),B,C|c)", "m",
    ),
    "13 merge some": (THREE, "A1: m; A2: m; A3: a3", "m: A1 50 A2 50; a3: A3", "root(A(A3|a3,m(A1,A2)),B|b,C|c)", ""),
    "14 and inner": (
        THREE, "A1: m; A2: m; A3: a3", "m: A 34 A1 33 A2 33; a3: A3", "root(A(A3|a3,m(A1,A2)),B|b,C|c)", "",
    ),
    "15 wider than A": (FLAT, "A: a", "a: A 55 rej 45", "root(B|b,C|c,a(A))", ""),
    "16 part of A": (FLAT, "A: rej", "a: A", "root(A(a),B|b,C|c)", ""),
    "17 all small": (FLAT, "A: a", "a: A; z: A 5 B 5 C 5 rej 85", "root(A|a,B|b,C|c,z)", ""),
    "19 disjoint": (FLAT, "A: rej; B: rej; C: rej", "x: RE; y: rej; b: -; c: -", "root(A,B,C,x,y)", ""),
    "20 split, some also new": (FLAT, "A: a1 50 a2 50", "a1: A; a2: A 60 rej 40", "root(A(a1,a2),B|b,C|c)", ""),
    "21 merge with root": (FLAT, "A: m; B: m", "m: A 34 B 33 rej 33; b: -", "root(C|c,m(A,B))", ""),
    # scHPL: root|m(A,B,C): the label becomes an alias of the root, and is lost
    "24 everything": (FLAT, "A: m; B: m; C: m", "m: A 34 B 33 C 33; b: -; c: -", "root(m(A,B,C))", ""),
    # scHPL, for names that sort after "root2", such as zA: nothing is placed in rows 26 and 27
    "26 merge, rejected": (FLAT, "A: ab 55 rej 45; B: ab 55 rej 45", "ab: A 50 B 50; b: -", "root(C|c,ab(A,B))", ""),
    "27 split, rejected": (FLAT, "A: a1 50 a2 50", "a1: A 55 rej 45; a2: A 55 rej 45", "root(A(a1,a2),B|b,C|c)", ""),
    "28 two for inner": (INNER, "A1: x; A2: x", "x: A1 50 A2 50; y: A", "root(A|x|y(A1,A2),B|b,C|c)", ""),
    "29 one way": (FLAT, "A: a", "a: rej", "root(B|b,C|c,a(A))", ""),
}  # fmt: skip
SPELLINGS = {
    "plain": str,
    "z": "z{}".format,
    "blanks": " {} cell ".format,
    "commas": "{}, (sub)type; 1:2".format,
    "quotes": """'{}' "x" ''""".format,
    "unicode": "細胞 {} ß−Ω".format,
    "reversed": lambda name: "".join(chr(300 - ord(letter)) for letter in name),  # sorts the other way round
    "told apart": lambda name: ("q_" if name[0].islower() else "p_") + name,
}


def read(rows: str, spell) -> tuple[list[str], list[str]]:
    """Cells' labels and calls from `A: a 50 b 50; B: b`, 100 cells per label."""
    special = {"rej": "Rejection (dist)", "RE": "Rejected (RE)"}
    labels, calls = [], []
    for row in filter(None, rows.split("; ")):
        label, found = row.split(": ")
        words = found.split()
        for call, percent in [(words[0], 100)] if len(words) == 1 else zip(words[::2], map(int, words[1::2])):
            labels += [spell(label)] * percent
            calls += [special.get(call) or spell(call)] * percent
    return labels, calls


def with_usual(rows: str, usual: str) -> str:
    """The rows, after those of labels that match one to one; `c: -` takes such a row away."""
    found = {row.split(": ")[0]: row.split(": ")[1] for row in f"{usual}; {rows}".split("; ")}
    return "; ".join(f"{label}: {calls}" for label, calls in found.items() if calls != "-")


def drawn(node: Node, plain: dict[str, str]) -> str:
    """The tree as the table has it: aliases and children in sorted order, names spelt as there."""
    aliases = sorted("|" + plain[alias.name] for alias in node.aliases if alias.match == "perfect")
    children = sorted(drawn(child, plain) for child in node.children)
    name = node.name if node.is_root else plain[node.name]
    return name + "".join(aliases) + (f"({','.join(children)})" if children else "")


def updated(newick, first, second, spell=str, **options):
    tree = Hierarchy.from_newick(newick)
    for node in list(tree)[1:]:
        tree.rename(node, "\0" + node.name, keep_alias=False)  # out of the way of names that are spelt like others
    for node in list(tree)[1:]:
        tree.rename(node, spell(node.name[1:]), keep_alias=False)
    first, second = with_usual(first, "B: b; C: c"), with_usual(second, "b: B; c: C")
    return update_tree(tree, *read(first, spell), *read(second, spell), **options)


@pytest.mark.parametrize("spelling", SPELLINGS)
@pytest.mark.parametrize("row", ROWS)
def test_matches_become_the_tree_of_the_table_however_labels_are_spelt(row, spelling):
    newick, first, second, expected, lost = ROWS[row]
    spell = SPELLINGS[spelling]
    tree, missing = updated(newick, first, second, spell)
    words = "".join(c if c.isalnum() else " " for c in expected + " " + lost).split()
    plain = {spell(word): word for word in words}
    assert drawn(tree.root, plain) == expected
    assert sorted(plain[name] for name in missing) == lost.split()


@pytest.mark.parametrize("row", ROWS)
def test_the_order_of_cells_and_of_the_trees_branches_changes_nothing(row):
    newick, first, second, expected, lost = ROWS[row]
    first, second = with_usual(first, "B: b; C: c"), with_usual(second, "b: B; c: C")
    tree = Hierarchy.from_newick(newick)
    for node in tree:
        tree.reorder(node, node.children[::-1])
    shuffled = []
    for labels, calls in (read(first, str), read(second, str)):
        order = np.random.default_rng(0).permutation(len(labels))
        shuffled += [np.array(labels)[order], np.array(calls)[order]]
    found, missing = update_tree(tree, *shuffled)
    words = "".join(c if c.isalnum() else " " for c in expected + " " + lost).split()
    assert drawn(found.root, {word: word for word in words}) == expected
    assert sorted(missing) == lost.split()


def test_labels_of_both_data_sets_may_be_spelt_alike():
    same = ["A"] * 9 + ["B"] * 9
    tree, missing = update_tree(Hierarchy.from_newick("(A,B)root;"), same, same, same, same)
    assert [node.names for node in tree] == [["root"], ["A"], ["B"]] and missing == []
    assert tree.find("A", "dataset 2") is tree["A"]


def test_labels_that_two_data_sets_swapped_are_aliases_by_data_set():
    """Row 18b. scHPL: root(A|B,B|A,C|C), where "A" is the name of one node and an alias of another."""
    one, other = ["A"] * 9 + ["B"] * 9, ["B"] * 9 + ["A"] * 9
    tree, missing = update_tree(Hierarchy.from_newick("(A,B)root;"), one, other, one, other, dataset="second")
    assert tree["A"].names == ["A", "B"] and tree["B"].names == ["B", "A"] and missing == []
    assert tree.find("A", "second") is tree["B"] and tree.find("A") is tree["A"]


def test_a_new_type_that_is_called_like_another_gets_a_name_of_its_own():
    """Row 18d. scHPL: root(A|a,B|b,C,C), two nodes of one name, whose cells are then trained as one."""
    tree, missing = updated(FLAT, "A: a; C: rej", "a: A; C: rej; c: -", dataset="second")
    assert [node.name for node in tree] == ["root", "A", "B", "C", "C@second"] and missing == []
    assert tree.find("C", "second") is tree["C@second"] and tree.find("C") is tree["C"]


def test_a_label_called_root2_is_a_label_like_any_other():
    """Row 30. scHPL: root(A|a,B,C), missing root2."""
    tree, missing = updated(FLAT, "A: a; B: root2", "a: A; root2: B; b: -")
    assert tree["B"].names == ["B", "root2"] and missing == []


def test_labels_without_a_place_can_be_attached_to_the_root():
    """Row 7b."""
    tree, missing = updated(FLAT, ROWS["7 square"][1], ROWS["7 square"][2], attach_missing=True)
    assert [node.name for node in tree] == ["root", "A", "B", "C", "a", "b"] and missing == []


def test_a_share_is_compared_with_the_largest_and_the_last_label_can_match():
    """Defect T8. scHPL compares it with the next larger, so that 40, 29, 20, 11 all match; and it passes over the last
    of the columns, so that of 50, 50 one is not seen where there are but two."""
    tree, _ = updated(FLAT, "A: m; B: m; C: c", "m: A 50 B 31 C 12 rej 7; b: -; c: C")
    assert tree["m"].parent.is_root and [child.name for child in tree["m"].children] == ["A", "B"]
    tree, _ = update_tree(
        Hierarchy.from_newick("(A,B)root;"), ["A"] * 4 + ["B"] * 4, ["x"] * 4 + ["y"] * 4, [*"xxyy"], [*"AABB"]
    )
    assert tree["A"].names == ["A", "x"] and tree["B"].names == ["B", "y"]


def test_every_edit_is_kept_with_its_evidence_and_can_be_undone():
    tree, _ = updated(FLAT, "A: a1 70 a2 30; C: c", "a1: A; a2: A 90 rej 10; d: rej")
    a2 = tree.find("a2", "dataset 2").aliases[0]
    assert (a2.match, a2.share_of_label, a2.share_of_node) == ("split", 0.9, 0.3)
    assert tree.find("d", "dataset 2").aliases[0].match == "new"
    while tree.undo():
        pass
    assert tree.to_newick() == Hierarchy.from_newick(FLAT).to_newick()


def test_what_cannot_be_compared_is_refused():
    tree = Hierarchy.from_newick(FLAT)
    with pytest.raises(DataError, match="y_pred1 has 'x'"):
        update_tree(tree, ["A"], ["x"], ["a"], ["A"])
    with pytest.raises(DataError, match="y_pred2 has x"):
        update_tree(tree, ["A"], ["a"], ["a"], ["x"])
    with pytest.raises(DataError, match="2 and 1 entries in the first data set"):
        update_tree(tree, ["A", "B"], ["a"], ["a"], ["A"])
    with pytest.raises(ValueError, match="up to 1, not 25"):
        update_tree(tree, ["A"], ["a"], ["a"], ["A"], threshold=25)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.data())
def test_any_matches_place_each_label_once_or_call_it_missing_and_no_spelling_matters(data):
    newick, nodes = data.draw(st.sampled_from([(FLAT, "A B C"), (INNER, "A A1 A2 B C"), (THREE, "A A1 A2 A3 B C")]))
    names = ["a", "b", "c", "d"][: data.draw(st.integers(1, 4))]
    leaves = [name for name in nodes.split() if name != "A" or newick == FLAT]
    tables = []
    for labels, calls in ((leaves, [*names, "rej"]), (names, [*nodes.split(), "rej"])):
        shares = st.lists(st.sampled_from([0, 0, 0, 1, 2, 5]), min_size=len(calls), max_size=len(calls)).filter(any)
        rows = {label: data.draw(shares) for label in labels}
        tables.append(
            "; ".join(f"{label}: " + " ".join(f"{c} {n}" for c, n in zip(calls, row)) for label, row in rows.items())
        )
    results = []
    for spelling in ("plain", "reversed", "quotes"):
        spell = SPELLINGS[spelling]
        tree = Hierarchy.from_newick(newick)
        for node in list(tree)[1:]:
            tree.rename(node, spell(node.name), keep_alias=False)
        start = tree.to_newick()
        tree, missing = update_tree(tree, *read(tables[0], spell), *read(tables[1], spell), dataset="new")
        placed = [alias.name for node in tree for alias in node.aliases]
        assert sorted([*placed, *missing]) == sorted(spell(name) for name in names)
        assert tree.root.aliases == ()
        plain = {spell(name): name for name in [*names, *nodes.split()]}
        results.append((drawn(tree.root, plain), sorted(plain[name] for name in missing)))
        while tree.undo():
            pass
        assert tree.to_newick() == start
    assert results[0] == results[1] == results[2]
