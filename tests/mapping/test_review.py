"""Reviews of labels: the rule, consensus, decisions by hand, undo, the trail, and what is written when."""

from __future__ import annotations

import io
import json
import warnings
from contextlib import suppress
from functools import partial

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy import sparse, stats

import scarches_widgets as sca
from scarches_widgets.data.names import DataError
from scarches_widgets.mapping.marker_genes import Expression, dots
from scarches_widgets.mapping.predictions import Predictions, models_of
from scarches_widgets.mapping.review import IN_UNS, Review
from scarches_widgets.mapping.review_trail import packed_cells, unpacked_cells

HOSTILE = "=HYPERLINK('x'), \"T\"; <b>"


def query_of(*models, names=None, **columns):
    """Cells with the labels and uncertainties of models m0, m1, …: pairs of lists."""
    obs = {}
    for i, (labels, uncertainties) in enumerate(models):
        obs |= {f"m{i}": labels, f"m{i}_uncertainty": uncertainties}
    n = len(models[0][0])
    index = [f"cell{i}" for i in range(n)] if names is None else names
    return ad.AnnData(np.ones((n, 1), np.float32), obs=pd.DataFrame({**obs, **columns}, index=index))


@pytest.fixture
def query():
    """Six cells: three T, two B, one that the model does not name."""
    return query_of((["T", "T", "T", "B", "B", "Unknown"], [0.0, 0.4, 0.9, 0.5, 0.6, 1.0]), truth=[*"TTBBB", None])


@pytest.fixture
def review(query):
    return Review(query, threshold=0.5)


# The rule


def test_cells_above_the_threshold_are_unknown_as_in_the_transfer(review):
    assert review.labels.tolist() == ["T", "T", "Unknown", "B", "Unknown", "Unknown"]
    assert review.reasons.tolist() == ["by rule", "by rule", "uncertain", "by rule", "uncertain", "not labelled"]
    review.set_threshold(1)
    assert review.labels.tolist() == ["T", "T", "T", "B", "B", "Unknown"]


def test_a_type_can_have_a_threshold_of_its_own(review):
    review.set_threshold(0.95, of="T")
    assert review.labels.tolist() == ["T", "T", "T", "B", "Unknown", "Unknown"]
    review.set_threshold(0.0)
    assert review.labels.tolist() == ["T", "T", "T", "Unknown", "Unknown", "Unknown"]
    review.set_threshold(None, of="T")
    assert review.labels.tolist() == ["T", *["Unknown"] * 5]


def test_the_table_counts_per_predicted_type(review):
    table = review.table
    assert table.index.tolist() == ["T", "B", "Unknown"]
    assert table["cells"].tolist() == [3, 2, 1] and table["unknown"].tolist() == [1, 1, 1]
    np.testing.assert_allclose(table["mean_uncertainty"], [1.3 / 3, 0.55, 1])
    review.reject(which="kept", of="T")
    assert review.table.loc["T", ["unknown", "by_hand"]].tolist() == [3, 2]


def test_the_confusion_is_of_the_labels_as_they_are_now(review):
    table = review.confusion("truth")
    expected = pd.crosstab(review.labels.astype(object), review.adata.obs["truth"].fillna(""))
    assert table.loc["Unknown"].to_dict() == {"": 1, "B": 2, "T": 0} == expected.loc["Unknown"].to_dict()
    review.relabel("B", which="unknown", of="T")
    assert review.confusion("truth").loc["B"].to_dict() == {"": 0, "B": 2, "T": 0}
    with pytest.raises(DataError, match="Did you mean 'truth'"):
        review.confusion("thruth")


# Consensus


def test_the_consensus_is_the_label_with_the_largest_support():
    query = query_of((["T", "T", "T", "Unknown"], [0.1, 0.2, 1, 1]), (["T", "B", "B", "B"], [0.3, 0.1, 1, 0.4]))
    codes, uncertainty = Predictions.of(query, models_of(query)).decided("consensus")
    assert codes.tolist() == [1, 0, 0, 0], "B comes before T where both have no support"
    np.testing.assert_allclose(uncertainty, [0.2, 1 - 0.9 / 2, 1, 1 - 0.6 / 2])


def test_the_consensus_of_many_models_is_what_counting_votes_gives():
    rng = np.random.default_rng(0)
    models = [(rng.choice([*"ABC", "Unknown"], 300), rng.uniform(size=300)) for _ in range(4)]
    query = query_of(*models)
    codes, uncertainty = Predictions.of(query, models_of(query)).decided("consensus")
    for cell in range(300):
        support = dict.fromkeys("ABC", 0.0)
        for labels, values in models:
            if labels[cell] != "Unknown":
                support[labels[cell]] += (1 - values[cell]) / 4
        winner = max(support, key=support.get)
        assert codes[cell] == (-1 if set(support.values()) == {0} else "ABC".index(winner))
        assert uncertainty[cell] == pytest.approx(1 - support[winner])


def test_unanimous_rejects_where_models_differ_and_says_so():
    query = query_of((["T", "T", "T"], [0.1, 0.1, 0.9]), (["T", "B", "T"], [0.1, 0.1, 0.9]))
    review = Review(query, by="unanimous")
    assert review.labels.tolist() == ["T", "Unknown", "Unknown"]
    assert review.reasons.tolist() == ["by rule", "disagreement", "uncertain"]
    assert review.queue("differing").tolist() == [1]
    review.set_rule("m1")
    assert review.labels.tolist() == ["T", "B", "Unknown"]
    np.testing.assert_allclose(review.predictions.agreement(), [[1, 2 / 3], [2 / 3, 1]])


def test_columns_are_found_by_their_names():
    numbers = np.zeros(2)
    names = ["predicted_x", "classified", "celltype_label", "m", "uncertainty_y", "predicted_z"]
    obs = pd.DataFrame({name: ["a", "b"] for name in names}, index=["0", "1"])
    for name in ("uncertainty_x", "classified_uncertainty", "celltype_uncert", "m_uncertainty"):
        obs[name] = numbers
    query = ad.AnnData(obs=obs)
    assert models_of(query) == {
        "predicted_x": ("predicted_x", "uncertainty_x"),
        "classified": ("classified", "classified_uncertainty"),
        "celltype_label": ("celltype_label", "celltype_uncert"),
        "m": ("m", "m_uncertainty"),
    }
    with pytest.raises(DataError, match=r"No uncertainties were found beside.*predicted_z"):
        models_of(query, "predicted_z")
    with pytest.raises(DataError, match="Did you mean 'predicted_x'"):
        models_of(query, ["predicted_xx"])


def test_what_cannot_be_reviewed_is_refused(query):
    query.obs["text"] = "a"
    for values, says in (([0, 0, 0, 0, 0, 7], "1 of 6 values.*not from 0 to 1"), ([np.nan] * 6, "5 of 6 values")):
        query.obs["m0_uncertainty"] = values
        with pytest.raises(DataError, match=says):
            Review(query)
    with pytest.raises(DataError, match="holds no numbers"):
        Review(query, {"m": ("m0", "text")})
    with pytest.raises(DataError, match="continuous numbers, not labels"):
        Review(query, {"m": ("m0_uncertainty", "m0_uncertainty")})
    with pytest.raises(DataError, match="obs has no labels with uncertainties"):
        Review(ad.AnnData(obs=query.obs[["text"]]))
    with pytest.raises(DataError, match="no cells"):
        Review(query[:0])
    query.obs_names = ["twice"] * 6
    with pytest.raises(DataError, match="obs_names_make_unique"):
        Review(query)


# Decisions


def test_decisions_by_hand_win_over_the_rule_whatever_it_is_later(review):
    review.accept("cell2")
    review.relabel("B", [0])
    review.reject(np.array([0, 0, 0, 1, 0, 0], dtype=bool))
    assert review.labels.tolist() == ["B", "T", "T", "Unknown", "Unknown", "Unknown"]
    assert review.reasons.tolist()[:4] == ["relabelled", "by rule", "accepted", "rejected"]
    review.set_threshold(0)
    assert review.labels.tolist() == ["B", "Unknown", "T", "Unknown", "Unknown", "Unknown"]
    assert review.queue("decided").tolist() == [2, 3, 0]


def test_the_queue_is_of_undecided_cells_the_most_uncertain_first(review):
    assert review.queue().tolist() == [5, 2, 4]
    assert review.queue("undecided", "T").tolist() == [2, 1, 0]
    review.accept([2])
    assert review.queue().tolist() == [5, 4] and review.queue("kept").tolist() == [3, 1, 0]
    with pytest.raises(ValueError, match="Did you mean 'unknown'"):
        review.cells("unknwon")
    with pytest.raises(DataError, match="none of the 2 labels"):
        review.cells("all", "NK")


def test_a_new_label_must_be_meant(review):
    with pytest.raises(DataError, match=r"not yet a label here.*new=True"):
        review.relabel("Plasma", [0])
    review.relabel(" Plasma ", [0], new=True)
    assert review.labels.iloc[0] == "Plasma" and "Plasma" in review.names
    review.relabel("Plasma", [1])
    for label in ("", "\n", "x" * 201, "Unknown", None):
        with pytest.raises(DataError):
            review.relabel(label, [0], new=True)


def test_cells_that_cannot_be_meant_are_refused_and_nothing_changes(review):
    before = review.trail
    unfit = [(["nobody"], "1 of 1 names"), ([-1], "beyond"), ([6], "beyond"), ([], "No cells")]
    unfit.append((np.ones(5, dtype=bool), "5 values"))
    for cells, says in unfit:
        with pytest.raises(DataError, match=says):
            review.reject(cells)
    with pytest.raises(DataError, match="1 of 1 cells have no predicted label"):
        review.accept([5])
    with pytest.raises(TypeError, match="either"):
        review.accept()
    for threshold in (1.5, True, "0.5", np.nan):
        with pytest.raises(ValueError, match="from 0 to 1"):
            review.set_threshold(threshold)
    pd.testing.assert_frame_equal(review.trail, before)


def test_comments_are_joined_and_decide_nothing(review):
    review.comment("looks odd", [0, 1])
    review.reject([1], comment="doublet")
    assert review.comments.tolist() == ["looks odd", "looks odd; doublet", "", "", "", ""]
    assert review.comment_on(1) == "looks odd; doublet" and review.comment_on(2) == ""
    assert review.reasons.tolist()[:2] == ["by rule", "rejected"]
    with pytest.raises(DataError, match="empty"):
        review.comment("  ", [0])


def test_everything_can_be_undone_and_done_again(review):
    states = [review.labels]
    for act in (
        lambda: review.set_threshold(0.1),
        lambda: review.relabel("NK", which="unknown", of="T", new=True),
        lambda: review.set_threshold(0.7, of="B"),
        lambda: review.reject([1]),
        lambda: review.accept([1]),
    ):
        act()
        states.append(review.labels)
    for state in states[-2::-1]:
        review.undo()
        pd.testing.assert_series_equal(review.labels, state)
    with pytest.raises(DataError, match="nothing to undo"):
        review.undo()
    for state in states[1:]:
        review.redo()
        pd.testing.assert_series_equal(review.labels, state)
    review.undo()
    review.reject([0])
    assert not review.can_redo


def test_a_threshold_that_is_dragged_is_one_entry(review):
    for value in (0.4, 0.3, 0.2):
        review.set_threshold(value)
    assert review.trail["action"].tolist() == ["begin", "threshold"] and review.trail["threshold"].iloc[-1] == 0.2
    review.undo()
    assert review.rule.threshold == 0.5
    review.redo()
    assert review.rule.threshold == 0.2


def test_random_edits_undone_give_the_start_and_code_and_trail_give_the_end():
    rng = np.random.default_rng(1)
    models = [(rng.choice([*"ABCD", "Unknown"], 400), rng.uniform(size=400)) for _ in range(3)]
    query = query_of(*models)
    review = Review(query, reviewer="me")
    start = review.labels
    for _ in range(120):
        cells = rng.choice(400, rng.integers(1, 300), replace=False)
        of, which = rng.choice([*"ABCD"]), rng.choice(["unknown", "kept", "differing", "undecided", "decided", "all"])
        acts = [
            partial(review.set_threshold, round(float(rng.uniform()), 2), of=[None, str(of)][rng.integers(2)]),
            partial(review.set_rule, str(rng.choice(review.predictions.ways))),
            partial(review.reject, cells, comment=HOSTILE),
            partial(review.relabel, str(of), cells),
            partial(review.relabel, f"new {of}", which=str(which), of=str(of), new=True),
            partial(review.accept, which=str(which), of=str(of)),
            review.undo,
            review.redo,
        ]
        with suppress(DataError):  # nobody is meant, or there is nothing to undo
            acts[rng.integers(len(acts))]()
    assert len(review.entries) > 80
    names = {"query": query.copy()}
    exec(review.code("final"), names)
    pd.testing.assert_series_equal(names["labels"].astype(str), review.labels.astype(str))
    assert names["query"].obs["final"].astype(str).equals(review.labels.astype(str))
    review.keep("final")
    again = Review.resume(query[rng.permutation(400)].copy())
    pd.testing.assert_series_equal(again.labels.astype(str)[query.obs_names], review.labels.astype(str))
    pd.testing.assert_frame_equal(again.trail, review.trail)
    for one in (review, again):
        while one.can_undo:
            one.undo()
        pd.testing.assert_series_equal(one.labels.astype(str)[query.obs_names], start.astype(str))


# The trail, and what is written


def test_the_trail_says_who_what_when_by_which_rule_and_what_was_undone(query):
    review = Review(query, reviewer="Ada")
    review.set_threshold(0.3)
    review.relabel("B", which="unknown", of="T", comment=HOSTILE)
    review.reject([0])
    review.undo()
    trail = review.trail
    assert trail["action"].tolist() == ["begin", "threshold", "relabel", "reject", "undo 3"]
    assert trail["scope"].tolist() == ["", "", "2 cells: unknown T", "1 cell", ""]
    assert trail["threshold"].tolist() == [0.5, *[0.3] * 4] and set(trail["reviewer"]) == {"Ada"}
    assert trail["undone"].tolist() == [False, False, False, True, False]
    assert pd.to_datetime(trail["time"]).is_monotonic_increasing
    read = pd.read_csv(io.StringIO(review.trail_csv()), keep_default_na=False)
    assert read["comment"].tolist()[2] == HOSTILE
    assert [json.loads(cells) for cells in read["cells"]] == [[], [], ["cell1", "cell2"], ["cell0"], []]


def test_nothing_is_written_before_apply_and_then_labels_reasons_and_trail(review, query):
    before = query.copy()
    review.reject([0])
    assert query.obs.equals(before.obs) and not query.uns
    assert review.apply() == "reviewed_m0"
    assert query.obs["reviewed_m0"].astype(str).equals(review.labels.astype(str))
    assert query.obs["reviewed_m0_reason"].tolist() == review.reasons.tolist()
    assert review.trail["action"].iloc[-1] == "apply" and list(query.uns[IN_UNS]) == ["reviewed_m0"]
    assert query.obs[before.obs.columns].equals(before.obs)


def test_a_column_is_not_overwritten_unless_it_is_meant_or_ones_own(review, query):
    query.obs["final_reason"] = "somebody's"
    before = query.obs.copy()
    with pytest.raises(DataError, match="obs\\['final_reason'\\] exists already"):
        review.apply("final")
    assert query.obs.equals(before) and not query.uns and review.trail["action"].tolist() == ["begin"]
    review.apply("final", overwrite=True)
    review.reject([0])
    review.apply("final")
    assert query.obs["final"].iloc[0] == "Unknown", "its own column is replaced"
    query.obs["final"] = "edited by somebody"
    with pytest.raises(DataError, match="exists already"):
        review.apply("final")
    for key in ("m0", "m0_uncertainty", "", "a/b", "a\n"):
        with pytest.raises(DataError):
            review.apply(key, overwrite=True)


def test_a_review_goes_through_h5ad_and_is_taken_up_again(review, query, tmp_path):
    review.relabel("Plasma", ["cell2", "cell4"], comment="µ", new=True)
    review.reject([0])
    review.undo()
    review.apply("final")
    query.write_h5ad(tmp_path / "query.h5ad")
    read = ad.read_h5ad(tmp_path / "query.h5ad")
    again = Review.resume(read)
    pd.testing.assert_frame_equal(again.trail, review.trail)
    assert again.labels.tolist() == review.labels.tolist() and again.comments.tolist() == review.comments.tolist()
    again.redo()
    assert again.labels.iloc[0] == "Unknown"
    again.apply("final")
    read.write_h5ad(tmp_path / "again.h5ad")
    assert len(Review.resume(ad.read_h5ad(tmp_path / "again.h5ad")).entries) == len(again.entries)


def test_a_review_goes_through_json_without_a_cells_name(review, query):
    review.set_threshold(0.2, of=review.table.index[0])
    review.relabel("Plasma", ["cell2", "cell4"], comment="µ", new=True)
    review.reject(which="all")
    review.accept(["cell0"])
    review.undo()
    text = json.dumps(review.to_json())
    assert "cell2" not in text and "cell1" not in text
    again = Review.from_json(query, json.loads(text))
    pd.testing.assert_frame_equal(again.trail, review.trail)
    assert again.labels.tolist() == review.labels.tolist() and again.comments.tolist() == review.comments.tolist()
    with pytest.raises(DataError, match="of other cells than these, or in another order"):
        Review.from_json(query[::-1].copy(), json.loads(text))
    good = json.loads(text)
    begin, *rest = good["entries"]
    for cells in ("", "!", 7, [-1], [1.5], [9e9]):
        with pytest.raises(DataError, match="cannot be read"):
            Review.from_json(query, {**good, "entries": [begin, *({**entry, "cells": cells} for entry in rest)]})


def test_many_cells_are_packed_as_bits_and_only_so_many_are_unpacked():
    cells = np.flatnonzero(np.random.default_rng(0).random(5_001) < 0.3)
    packed = packed_cells(cells, 5_001)
    assert len(packed) < 1_000 and unpacked_cells(packed, 5_001).tolist() == cells.tolist()
    assert packed_cells(cells[:3], 5_001) == cells[:3].tolist() == unpacked_cells(cells[:3].tolist(), 5_001).tolist()
    bomb = packed_cells(np.arange(10_000_000), 10_000_000)
    for wrong in (packed[:-20], bomb):
        with pytest.raises(ValueError, match="its packed cells are"):
            unpacked_cells(wrong, 5_001)


def test_a_review_without_any_decision_goes_through_h5ad(review, query, tmp_path):
    review.keep()
    query.write_h5ad(tmp_path / "query.h5ad")
    assert Review.resume(ad.read_h5ad(tmp_path / "query.h5ad"), "reviewed_m0").labels.tolist() == review.labels.tolist()


def test_a_review_of_other_predictions_or_a_forged_one_is_refused(review, query):
    review.reject(which="kept")
    key = review.keep()
    with pytest.raises(DataError, match="of other cells or predictions than these"):
        Review.resume(query[:5].copy())
    with pytest.raises(DataError, match="There are: reviewed_m0"):
        Review.resume(query, "other")
    good = query.uns[IN_UNS][key]
    facts = json.loads(good["trail"])
    begin, entry = facts["entries"]
    forged = [
        [],
        [entry],
        [begin, {**entry, "action": "eval"}],
        [begin, {**entry, "action": "relabel", "label": "\n"}],
        [begin, {**entry, "action": "redo"}],
        [begin, {**entry, "action": "threshold", "threshold": 7}],
        [begin, {**entry, "action": "by", "by": "nobody"}],
        [{**begin, "by": "nobody"}, entry],
        [begin, {"number": 1}],
        [begin, {**entry, "number": "1"}],
        [begin, {**entry, "comment": 7}],
    ]
    records = [{**good, "trail": json.dumps({**facts, "entries": entries})} for entries in forged]
    records += [{**good, "trail": "[" * 99}, {**good, "cells": good["cells"] + 100}, {**good, "ends": [0, 99]}, {}]
    records += [{**good, "names": np.array(["x"] * 3)}, {**good, "trail": json.dumps({**facts, "version": 2})}]
    for record in records:
        query.uns[IN_UNS] = {key: record}
        with pytest.raises(DataError, match="cannot be read"):
            Review.resume(query)


def test_a_view_of_an_anndata_gets_the_labels_and_its_parent_does_not(query):
    part = query[[0, 2, 4]]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        Review(part).apply("final")
    assert part.obs["final"].tolist() == ["T", "Unknown", "Unknown"] and "final" not in query.obs


# Marker genes


def expression_of(counts):
    """Of dense counts, as scanpy takes it."""
    return np.log1p(1e4 * counts / counts.sum(axis=1, keepdims=True))


def counts_of(adata):
    return np.asarray(adata.X.todense() if sparse.issparse(adata.X) else adata.X, dtype=np.float64)


def test_markers_of_a_group_are_those_of_welchs_t_test(atlas):
    known = expression_of(counts_of(atlas))
    codes, names = atlas.obs["cell_type"].cat.codes.to_numpy(), atlas.obs["cell_type"].cat.categories
    grouped = Expression(atlas).by_group(codes, len(names))
    for i in range(len(names)):
        t = stats.ttest_ind(known[codes == i], known[codes != i], equal_var=False).statistic
        usable = (known[codes == i] > 0).mean(axis=0) >= 0.1
        expected = [atlas.var_names[gene] for gene in np.argsort(-t) if usable[gene] and t[gene] > 0][:5]
        assert grouped.top(i, 5) == expected and len(expected) >= 3
    assert Expression(atlas).by_group(np.zeros(300, int), 1).top(0) == [], "there are no others"


@pytest.mark.parametrize("kind", [sparse.csr_matrix, sparse.csc_matrix, np.asarray, "view"])
def test_means_and_shares_do_not_depend_on_how_the_matrix_is_stored(atlas, kind):
    values = counts_of(atlas)
    adata = ad.AnnData(values if kind == "view" else kind(values), obs=atlas.obs, var=atlas.var)
    adata = adata[:, ::-1] if kind == "view" else adata
    genes = [*atlas.var_names[[7, 3]]]
    here = (atlas.obs["cell_type"] == atlas.obs["cell_type"].iloc[0]).to_numpy()
    found = Expression(adata).of_genes(genes)
    known = expression_of(values)[:, [7, 3]]
    np.testing.assert_allclose(found, known, rtol=1e-5)
    table = dots(found, {"here": here, "nobody": np.zeros(300, bool)}, genes)
    np.testing.assert_allclose(table["mean"], [*known[here].mean(0), 0, 0], rtol=1e-5)
    np.testing.assert_allclose(table["share"], [*(known[here] > 0).mean(0), 0, 0])


def test_values_that_are_no_counts_are_taken_as_they_stand_and_wrong_names_are_told(atlas):
    known = ad.AnnData(sparse.csr_matrix(expression_of(counts_of(atlas))), var=atlas.var)
    expression, gene = Expression(known), known.var_names[0]
    assert not expression.are_counts and Expression(atlas).are_counts
    np.testing.assert_allclose(expression.of_genes([gene])[:, 0], known.X.toarray()[:, 0], rtol=1e-6)
    with pytest.raises(DataError, match="1 of 2 genes are not in var_names"):
        expression.of_genes([gene, "nothing like it"])
    with pytest.raises(DataError, match="no layers\\['counts'\\]"):
        Expression(known, "counts")


@pytest.mark.slow
def test_a_mapped_query_can_be_reviewed(trained, query_cells):
    panel = sca.widgets.MappingPanel(trained, query_cells, labels_key="cell_type", max_epochs=1)
    panel.map()
    assert panel.wait(60) == "done", panel.error
    review = Review(query_cells, threshold=0.2)
    expected = np.where(
        query_cells.obs["uncertainty_cell_type"] > 0.2, "Unknown", query_cells.obs["predicted_cell_type"]
    )
    assert review.labels.tolist() == expected.tolist() and review.suggested_key == "reviewed_cell_type"
