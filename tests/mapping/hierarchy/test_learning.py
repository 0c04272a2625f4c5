import itertools

import anndata as ad
import numpy as np
import pandas as pd
import pytest

from scarches_widgets.data.names import DataError
from scarches_widgets.mapping.hierarchy import Hierarchy, learn_tree, predict_labels, train_tree
from scarches_widgets.mapping.hierarchy.gates import fit_projection, fit_reconstruction

CENTRES = np.random.default_rng(0).normal(0, 6, (6, 10))  # of cell types, whose cells have a standard deviation of 1


def blobs(types, labels, seed=0, n_cells=200):
    """Coordinates of cells of some types, and a label for each."""
    rng = np.random.default_rng([seed, *types])
    z = np.vstack([CENTRES[type_] + rng.normal(size=(n_cells, 10)) for type_ in types])
    return z, np.repeat(np.array(list(labels), dtype=object), n_cells)


def data_sets(spell=str, **sets):
    """An AnnData of several data sets, each given as (types, labels)."""
    made = {}
    for seed, (name, (types, labels)) in enumerate(sets.items()):
        made[name] = blobs(types, [spell(label) for label in labels], seed)
    obs = pd.DataFrame(
        {
            "batch": np.repeat(list(made), [len(z) for z, _ in made.values()]),
            "label": np.concatenate([labels for _, labels in made.values()]),
        }
    )
    adata = ad.AnnData(np.zeros((len(obs), 1), np.float32), obs=obs.set_axis(map(str, obs.index)))
    adata.obsm["X_scvi"] = np.vstack([z for z, _ in made.values()]).astype(np.float32)
    return adata


TWO = {"d1": ([0, 1, 2, 3], ["T", "T", "B", "M"]), "d2": ([0, 1, 2, 5], ["T4", "T8", "Bc", "NK"])}


def learn(adata, order=("d1", "d2"), **options):
    return learn_tree(adata, "batch", list(order), "label", use_rep="X_scvi", **options)


def as_set(tree):
    """Names with their parents' names, whatever the order."""
    return {(frozenset(node.names), frozenset(node.parent.names if node.parent else ())) for node in tree}


@pytest.mark.parametrize("classifier", ["knn", "svm", "svm_occ"])
@pytest.mark.parametrize("order", [["d1", "d2"], ["d2", "d1"]])
def test_the_tree_of_two_data_sets_has_fine_types_below_coarse_ones_in_either_order(classifier, order):
    """The end-to-end result of spec §1.7: scHPL learns the same tree with each classifier."""
    tree, missing = learn(data_sets(**TWO), order, classifier=classifier)
    expected = {"M": "root", "T": "root", "T4": "T", "T8": "T", "NK": "root"}
    assert {node.name: node.parent.name for node in tree if node.name in expected} == expected
    assert set(tree["B"].names) == {"B", "Bc"} and len(tree) == 7 and missing == []


@pytest.mark.parametrize("spell", ["z{}".format, "'{}', (a): b;".format, "{} → ß".format, lambda name: "root" + name])
def test_how_labels_are_spelt_changes_no_tree(spell):
    tree, _ = learn(data_sets(**TWO))
    other, _ = learn(data_sets(spell, **TWO))
    respelt = {
        tuple(frozenset(name if name == "root" else spell(name) for name in names) for names in pair)
        for pair in as_set(tree)
    }
    assert as_set(other) == respelt


def test_the_same_names_in_both_data_sets_need_no_telling_apart():
    sets = {"d1": ([0, 1, 2], ["A", "B", "C"]), "d2": ([0, 1, 5], ["A", "B", "C"])}
    tree, missing = learn(data_sets(**sets))
    assert [node.names for node in tree.leaves()] == [["A"], ["B"], ["C"], ["C@d2", "C"]] and missing == []
    assert tree.counts().loc["C"].to_dict() == {"d1": 200, "d2": 0}
    assert tree.validate() == []
    predicted = predict_labels(blobs([2, 5], ["C", "C@d2"], seed=9)[0], tree)
    assert np.mean(predicted.labels == np.repeat(["C", "C@d2"], 200)) > 0.9


def test_a_third_data_set_goes_on_from_the_tree_of_two_as_if_learned_at_once():
    sets = {**TWO, "d3": ([0, 4, 5], ["helper", "pDC", "natural killer"])}
    adata = data_sets(**sets)
    at_once, _ = learn(adata, ["d1", "d2", "d3"])
    two, _ = learn(adata)
    before = two.to_json()
    three, missing = learn(adata, ["d3"], tree=two, batch_added=["d1", "d2"])
    assert as_set(three) == as_set(at_once) and missing == []
    assert set(three["NK"].names) == {"NK", "natural killer"} and set(three["T4"].names) == {"T4", "helper"}
    assert two.to_json() == before
    two.add("Myeloid", children=["M"])
    edited, _ = learn(adata, ["d3"], tree=two, batch_added=["d1", "d2"])  # trained anew, since its shape is another
    assert edited["M"].parent.name == "Myeloid" and edited.find("helper", "d3") is edited["T4"]


def test_proposals_lead_to_the_same_tree_and_can_be_vetoed_one_by_one():
    adata = data_sets(**TWO)
    learned, _ = learn(adata)
    tree, proposals = learn(adata, apply=False)
    assert [node.name for node in tree] == ["root", "B", "M", "T"] and tree.classifier is None
    assert {(proposal.kind, proposal.labels, proposal.nodes) for proposal in proposals} == {
        ("perfect", ("Bc",), ("B",)),
        ("split", ("T4", "T8"), ("T",)),
        ("new", ("NK",), ("root",)),
    }
    (split,) = (proposal for proposal in proposals if proposal.kind == "split")
    assert all(match.share_of_label > 0.9 and 0.4 < match.share_of_node < 0.6 for match in split.matches)
    for proposal in proposals:
        tree.accept(proposal)
    assert tree.to_newick() == learned.to_newick()
    assert "tree.add(name='T4', parent='T'" in "\n".join(edit.code for edit in tree.history)
    tree.undo()
    assert len(tree.history) == len(proposals) - 1


@pytest.mark.parametrize("kind", [tuple, np.array, pd.Index, iter])
def test_data_sets_may_be_named_by_any_sequence(kind):
    adata = data_sets(**TWO)
    assert learn_tree(adata, "batch", kind(["d1", "d2"]), "label", use_rep="X_scvi")[0].datasets == ["d1", "d2"]


def test_a_learned_tree_has_its_edits_evidence_and_counts():
    tree, _ = learn(data_sets(**TWO))
    (alias,) = (alias for alias in tree["B"].aliases if alias.dataset == "d2")
    assert alias.name == "Bc" and alias.match == "perfect" and min(alias.share_of_label, alias.share_of_node) > 0.9
    assert tree.counts(below=True).loc["T"].to_dict() == {"d1": 400, "d2": 400}
    assert [edit.command for edit in tree.history] == ["accept"] * 3
    assert tree.validate() == []


def test_learning_and_predicting_change_nothing_print_nothing_and_write_nothing(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    adata = data_sets(**TWO)
    before = adata.copy()
    tree, _ = learn(adata)
    predict_labels(adata, tree, use_rep="X_scvi")
    np.testing.assert_array_equal(adata.obsm["X_scvi"], before.obsm["X_scvi"])
    pd.testing.assert_frame_equal(adata.obs, before.obs)
    assert capsys.readouterr() == ("", "") and list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("root", ["root", "top"])
def test_cells_of_known_types_are_named_and_an_unknown_type_is_rejected_whatever_the_root_is_called(root):
    """Spec §1.7: scHPL names 1188 of 1200; with a root of another name (T2) it rejects all."""
    tree = train_tree(*blobs([0, 1, 2, 3], "ABCD"), Hierarchy.from_newick(f"(A,B,C,D){root};"))
    z, truth = blobs([0, 1, 2, 3], "ABCD", seed=1)
    labels, probabilities = predict_labels(z, tree)
    is_named = np.isin(labels, list("ABCD"))
    assert is_named.mean() > 0.96 and (labels[is_named] == truth[is_named]).all()
    assert probabilities.shape == (800, 1) and (probabilities[is_named] > 0.5).all()
    for options in ({}, {"useRE": False}):
        tree = train_tree(*blobs([0, 1, 2, 3], "ABCD"), Hierarchy.from_newick(f"(A,B,C,D){root};"), **options)
        rejected = predict_labels(blobs([5], "N", seed=1)[0], tree).labels
        assert (rejected == ("Rejection (dist)" if options else "Rejected (RE)")).all()


def test_the_distance_gate_works_beside_a_type_of_one_cell():
    """Defect T3: with k = 1 scHPL's limit is NaN, and the gate is off."""
    z, labels = blobs([0, 1], "AB")
    tree = train_tree(np.vstack([z, CENTRES[2]]), [*labels, "C"], Hierarchy.from_newick("(A,B,C)r;"), useRE=False)
    assert np.isfinite(tree.classifier.distance_limit)
    assert (predict_labels(blobs([5], "N")[0], tree).labels == "Rejection (dist)").all()


def neighbours_by_scikit_learn(z, labels, query, k):
    from sklearn.neighbors import KNeighborsClassifier

    model = KNeighborsClassifier(k, weights="distance").fit(z, labels)
    shares = model.predict_proba(query)
    return model.classes_[shares.argmax(1)], shares.max(1), model.kneighbors(query)[0].mean(1)


def test_calls_posteriors_and_distances_are_those_of_scikit_learn_at_every_node():
    rng = np.random.default_rng(3)
    fine = rng.choice(["A1", "A2", "B1", "B2", "B3"], 900)
    centres = {name: centre for name, centre in zip(["A1", "A2", "B1", "B2", "B3"], rng.normal(0, 1, (5, 6)))}
    z = np.array([centres[name] for name in fine]) + rng.normal(0, 1.2, (900, 6))
    query = rng.normal(0, 1.5, (400, 6))
    query[:5] = z[:5]  # at no distance: the cell alone votes
    tree = train_tree(z, fine, Hierarchy.from_newick("((A1,A2)A,(B1,B2,B3)B)root;"), useRE=False, distkNN=100)
    frame = predict_labels(query, tree, threshold=0).frame
    is_near = (frame["gate"] == "").to_numpy()
    coarse = np.array([name[0] for name in fine])
    label, share, distance = neighbours_by_scikit_learn(z, coarse, query, 50)
    np.testing.assert_allclose(frame["distance"], distance)
    np.testing.assert_array_equal(frame["level_1"][is_near], label[is_near])
    np.testing.assert_allclose(frame["posterior_1"][is_near], share[is_near])
    for parent in "AB":
        below, here = coarse == parent, is_near & (label == parent)
        fine_label, fine_share, _ = neighbours_by_scikit_learn(z[below], fine[below], query[here], 50)
        np.testing.assert_array_equal(frame["label"][here], fine_label)
        np.testing.assert_allclose(frame["posterior_2"][here], fine_share)
        np.testing.assert_allclose(frame["path_probability"][here], fine_share * share[here])


def test_the_reconstruction_gate_is_that_of_scikit_learns_pca():
    from sklearn.decomposition import PCA
    from sklearn.model_selection import StratifiedKFold

    z, labels = blobs([0, 1, 2, 3, 4, 5], "ABCDEF", n_cells=60)
    z += 100  # far from zero, where sums of squares cancel
    limits = []
    for train, test in StratifiedKFold(5, shuffle=True, random_state=0).split(z, labels):
        pca = PCA(0.9).fit(z[train])
        errors = np.linalg.norm(z[test] - pca.inverse_transform(pca.transform(z[test])), axis=1)
        limits.append(np.percentile(errors, 99.5))
    gate = fit_reconstruction(z, labels, 0.5)
    assert gate.limit == pytest.approx(np.median(limits), rel=1e-10)
    assert gate.projection.components.shape[1] == PCA(0.9).fit(z).n_components_
    assert fit_projection(z).error(z).mean() == pytest.approx(gate.projection.error(z).mean())


def test_of_several_children_that_claim_a_cell_the_most_confident_is_called():
    """Defect T1: scHPL takes the least confident one; of the cells near A that B claims too, none is called A."""
    rng = np.random.default_rng(5)
    z = np.vstack([rng.normal(size=(300, 2)) + centre for centre in ([0, 0], [2.0, 0], [1.0, 1.8])])
    labels = np.repeat(list("ABC"), 300)
    tree = train_tree(z, labels, Hierarchy.from_newick("(A,B,C)root;"), classifier="svm", useRE=False)
    found = predict_labels(z, tree)
    assert np.mean(found.labels == labels) > 0.6 and np.isnan(found.probabilities[found.labels != "root"]).all()
    from sklearn.svm import LinearSVC

    margins = np.column_stack(
        [LinearSVC(random_state=1, dual="auto").fit(z, labels == name).decision_function(z) for name in "ABC"]
    )
    several = (margins > 0).sum(axis=1) > 1
    assert several.sum() > 10
    np.testing.assert_array_equal(found.labels[several], np.array(list("ABC"))[margins.argmax(1)][several])


@pytest.mark.parametrize("classifier", ["knn", "svm", "svm_occ"])
@pytest.mark.parametrize("dimred", [False, True])
def test_each_classifier_names_cells_with_and_without_principal_components(classifier, dimred):
    tree = Hierarchy.from_newick("((A,B)AB,(C,D)CD)root;")
    trained = train_tree(*blobs([0, 1, 2, 3], "ABCD"), tree, classifier=classifier, dimred=dimred)
    z, truth = blobs([0, 1, 2, 3], "ABCD", seed=1)
    assert np.mean(predict_labels(z, trained).labels == truth) > 0.85
    assert tree.classifier is None


def test_a_label_of_an_inner_node_is_named_where_it_is_the_alternative_to_a_single_child():
    z, labels = blobs([0, 1, 2], ["A", "A1", "B"])
    tree = train_tree(z, labels, Hierarchy.from_newick("((A1)A,B)root;"))
    query, truth = blobs([0, 1, 2], ["A", "A1", "B"], seed=1)
    assert np.mean(predict_labels(query, tree).labels == truth) > 0.95


def test_a_cell_stops_where_its_neighbours_disagree_and_the_frame_says_which_gate_acted():
    z, labels = blobs([0, 1, 2, 2], ["A", "B", "C1", "C2"])
    tree = train_tree(z, labels, Hierarchy.from_newick("(A,B,(C1,C2)C)root;"))
    unlike = CENTRES[0] + 30
    query = np.vstack([blobs([2], "C", seed=1)[0], unlike])
    found = predict_labels(query, tree, threshold=0.7)
    frame = found.frame
    stopped = frame[frame["gate"] == "posterior"]
    assert len(stopped) > 50 and (stopped["label"] == "C").all() and (stopped["level_1"] == "C").all()
    assert stopped["level_2"].isna().all() and (stopped["posterior_2"] <= 0.7).all()
    assert frame["gate"].iloc[-1] == "reconstruction" and frame["label"].iloc[-1] == "Rejected (RE)"
    assert frame["path_probability"].iloc[-1] == 0 == found.probabilities[-1, 0]
    assert list(frame) == [
        "label", "level_1", "posterior_1", "level_2", "posterior_2", "path_probability", "gate", "reconstruction_error",
        "distance",
    ]  # fmt: skip


def test_a_renamed_node_keeps_its_classifier_and_a_moved_one_asks_for_training():
    z, labels = blobs([0, 1, 2], "ABC")
    tree = train_tree(z, labels, Hierarchy.from_newick("(A,B,C)root;"))
    tree.rename("A", "alpha")
    assert np.mean(predict_labels(z[:200], tree).labels == "alpha") > 0.9
    tree.move("B", "C")
    with pytest.raises(DataError, match="shape has changed"):
        predict_labels(z, tree)


def test_a_cell_is_named_alone_as_among_others_and_in_any_order_of_the_reference():
    z, labels = blobs([0, 1, 2, 3], "ABCD")
    tree = Hierarchy.from_newick("((A,B)AB,(C,D)CD)root;")
    query = np.random.default_rng(1).normal(0, 5, (300, 10))
    frame = predict_labels(query, train_tree(z, labels, tree, useRE=False)).frame
    order = np.random.default_rng(2).permutation(len(z))
    other = predict_labels(query[[7]], train_tree(z[order], labels[order], tree, useRE=False)).frame
    pd.testing.assert_frame_equal(frame.iloc[[7]].reset_index(drop=True), other)


def test_labels_of_two_data_sets_are_found_by_batch():
    sets = {"d1": ([0, 1], ["A", "B"]), "d2": ([0, 1], ["B", "A"])}
    adata = data_sets(**sets)
    tree, _ = learn(adata)
    assert [set(node.names) for node in tree.leaves()] == [{"A", "B"}, {"A", "B"}]
    again = train_tree(adata, "label", tree, use_rep="X_scvi", batch_key="batch")
    found = predict_labels(adata, again, use_rep="X_scvi")
    assert list(found.frame.index) == list(adata.obs_names)
    is_named = np.isin(found.labels, ["A", "B"])
    assert is_named.mean() > 0.95
    first = (adata.obs["batch"] == "d1").to_numpy() & is_named
    assert (found.labels[first] == adata.obs["label"].to_numpy()[first]).all()


def test_labels_that_are_not_in_the_tree_are_warned_of():
    z, labels = blobs([0, 1, 2], "ABC")
    with pytest.warns(UserWarning, match=r"200 of 600 cells have labels that are not in the tree \(C\)"):
        train_tree(z, labels, Hierarchy.from_newick("(A,B)root;"))


def test_what_cannot_be_learned_says_why():
    adata = data_sets(**TWO)
    tree = Hierarchy.from_newick("(T,B,M)root;")
    cases = [
        (DataError, "has no 'D2'. Did you mean 'd2'", {"order": ["d1", "D2"]}),
        (DataError, "named more than once", {"order": ["d1", "d1"]}),
        (DataError, "batch_added is needed with a tree", {"tree": tree}),
        (ValueError, "classifier is 'knn', 'svm' or 'svm_occ', not 'tree'", {"classifier": "tree"}),
        (ValueError, "n_neighbors must be", {"n_neighbors": 0}),
        (ValueError, "FN is a percentage", {"FN": 0}),
    ]
    for error, message, options in cases:
        with pytest.raises(error, match=message):
            learn(adata, **options)
    adata.obs.loc["3", "label"] = None
    with pytest.raises(DataError, match="1 of 1,600 cells have no 'label'"):
        learn(adata)
    with pytest.raises(DataError, match="not trained"):
        predict_labels(np.zeros((2, 3)), tree)
    trained = train_tree(*blobs([0, 1], "TB"), tree)
    with pytest.raises(DataError, match="The cells have 3 dimensions, those that the tree was trained on 10"):
        predict_labels(np.zeros((2, 3)), trained)
    assert predict_labels(np.zeros((0, 10)), trained).frame.shape[0] == 0


def test_types_of_few_cells_train_without_complaint(recwarn):
    z, labels = blobs([0, 1, 2], "ABC", n_cells=3)
    tree = train_tree(z, labels, Hierarchy.from_newick("(A,B,C)root;"))
    predict_labels(z, tree)
    assert [str(warning.message) for warning in recwarn] == []


@pytest.mark.parametrize(("n", "k"), [(1, 1), (7, 3), (500, 50), (3000, 4)])
@pytest.mark.parametrize("far", [0, 1000])
def test_neighbours_are_exact_within_any_group_and_far_from_zero(n, k, far):
    from scarches_widgets.mapping.hierarchy.neighbors import DistanceBlocks

    rng = np.random.default_rng(n)
    reference, query = rng.normal(far, 1, (n + 40, 5)), rng.normal(far, 2, (60, 5))
    reference[: n // 2] = reference[n // 2 : 2 * (n // 2)]  # with ties
    for (block,), first in itertools.product([list(DistanceBlocks(reference).of(query))], (0, 20)):
        found, positions = block.nearest(np.arange(60), first, first + n, k)
        distances = np.linalg.norm(query[:, None] - reference[None, first : first + n], axis=2)
        np.testing.assert_allclose(found, np.sort(distances, axis=1)[:, :k], rtol=1e-12)
        np.testing.assert_array_equal(positions - first, np.argsort(distances, axis=1, kind="stable")[:, :k])
