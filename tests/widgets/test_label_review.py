"""A review of labels without a browser: what a page is told and may ask for, linked views, Apply, code and pictures."""

from __future__ import annotations

import json
import threading
from unittest import mock
from xml.etree import ElementTree

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from pages import click, nothing_raised
from scipy import sparse

from scarches_widgets.data.names import DataError
from scarches_widgets.mapping.review import IN_UNS, Review
from scarches_widgets.widgets import LabelReview, Session

HOSTILE = "<img src=x onerror=h()> $x"


def query_of(n=240, seed=0):
    """Cells of three types with a marker each, labelled by two models that sometimes err; one name is hostile."""
    rng = np.random.default_rng(seed)
    names = np.array(["B", "T", HOSTILE], dtype=object)
    truth = rng.integers(0, 3, n)
    counts = rng.poisson(0.3, (n, 12))
    counts[np.arange(n), truth] += rng.poisson(6, n)
    obs = {}
    for name, uncertainty in (("predicted", "uncertainty"), ("classified", "classified_uncertainty")):
        values = rng.beta(1, 3, n)
        codes = np.where(rng.random(n) < values, rng.integers(0, 3, n), truth)
        obs |= {f"{name}_cell_type": pd.Categorical(names[codes]), f"{uncertainty}_cell_type": values}
    obs["truth"] = pd.Categorical(names[truth])
    genes = [f"Gene{i}" for i in range(11)] + [HOSTILE]
    index = [f"cell{i}" for i in range(n)]
    X = sparse.csr_matrix(counts.astype(np.float32))
    return ad.AnnData(X, obs=pd.DataFrame(obs, index=index), var=pd.DataFrame(index=genes))


@pytest.fixture
def view():
    view = LabelReview(query_of(), threshold=0.3, against="truth")
    assert view.wait(20)
    yield view
    view.close()


def asked(view, op, **content):
    with nothing_raised():
        click(view, op, **content)
    view.wait(20)


def decided(view, action, **content):
    """Decide as a page does; the answer that it gets."""
    with mock.patch.object(view, "send") as send:
        asked(view, "decide", id="7", action=action, **content)
    (answer,) = send.call_args.args
    assert answer["op"] == "decided" and answer["id"] == "7"
    return answer


def counts_above(view):
    return np.frombuffer(view.above, dtype="<i4").reshape(len(view.types), 101)


# What a page is told


def test_a_page_can_count_what_any_threshold_would_make_unknown(view):
    view.review.set_threshold(0.9, of="T")
    view.review.reject(view.review.queue("undecided", "B")[:5])
    view.review.accept(view.review.queue("undecided", "B")[:3])
    for rule in ("consensus", "unanimous", "predicted_cell_type"):
        asked(view, "rule", by=rule)
        for k in (0, 7, 29, 30, 57, 100):
            asked(view, "threshold", value=k / 100, of=None)
            for row, above in zip(view.types, counts_above(view)):
                expected = view.review.table.loc[row["label"], "unknown"]
                assert row["unknown"] == expected
                if row["own"] is None:
                    assert row["rejected"] + above[k] == expected, (rule, k, row["label"])


def test_the_list_is_a_page_of_the_most_uncertain_cells_with_what_each_model_says(view):
    queue, review = view.queue, view.review
    assert queue["cells"] == review.queue("unknown")[: queue["page"]].tolist() and queue["n"] == len(review.queue())
    row, cell = queue["rows"][0], queue["cells"][0]
    assert row["name"] == f"cell{cell}" and queue["current"] == cell
    assert [one["label"] for one in row["says"]] == [view.adata.obs[name].iloc[cell] for name in view.models]
    asked(view, "list", start=12)
    assert view.queue["cells"] == review.queue()[12:24].tolist()
    asked(view, "list", start=10**9)
    assert view.queue["cells"][-1] == review.queue()[-1], "there is no page beyond the last one"
    asked(view, "list", which="differing")
    asked(view, "list", of="T")
    assert view.queue["cells"] == review.queue("differing", "T")[:12].tolist() and view.queue["start"] == 0
    json.dumps(
        [getattr(view, name) for name in ("queue", "types", "opened", "dots", "confusion", "history", "rule", "target")]
    )


def test_after_a_decision_the_next_cell_is_the_current_one_and_after_undo_it_is_back(view):
    first, second = view.queue["cells"][3:5]
    asked(view, "look", cell=first)
    assert decided(view, "reject", cell=first) == {"op": "decided", "id": "7", "problem": "", "n": 1}
    assert view.queue["current"] == second and first not in view.queue["cells"]
    asked(view, "undo")
    assert view.queue["current"] == first
    asked(view, "redo")
    assert first not in view.review.queue()


def test_a_page_gets_counts_and_one_page_of_cells_however_many_there_are():
    view = LabelReview(query_of(20_000), threshold=0.3)
    view.wait(20)
    sizes = {
        name: len(json.dumps(view.get_state([name]), default=str)) for name in view.keys if not name.startswith("_")
    }
    assert sum(sizes.values()) < 40_000, sizes
    asked(view, "threshold", value=0.1, of=None)
    decided(view, "accept", which="unknown", of="T")
    assert len(view.script) < 3000


def test_the_dot_plot_shows_markers_of_the_type_in_its_sure_and_doubtful_cells_and_the_others(view):
    asked(view, "list", of="T")
    dots = view.dots
    assert dots["label"] == "T" and dots["genes"][0] == "Gene1", "T's marker"
    kinds = [row["kind"] for row in dots["rows"]]
    assert kinds == ["sure", "doubtful", "cell", "other", "other"]
    review = view.review
    types = np.array(review.names)[review.predicted[0]]
    doubtful = review.cells("unknown", "T")
    n = [int((types == "T").sum() - doubtful.sum()), int(doubtful.sum()), 1]
    assert [row["n"] for row in dots["rows"][:3]] == n
    counts = view.adata.X.toarray()
    known = np.log1p(1e4 * counts / counts.sum(1, keepdims=True))[:, 1]
    other = dots["rows"][3]
    for row, mask in ((dots["rows"][1], doubtful), (other, types == other["label"])):
        assert row["mean"][0] == pytest.approx(known[mask].mean(), abs=1e-3)
        assert row["share"][0] == pytest.approx((known[mask] > 0).mean(), abs=1e-3)


def test_the_user_can_name_markers_and_what_cannot_be_read_is_told():
    query = query_of()
    view = LabelReview(query, markers={"T": ["Gene5", "CD3E"]})
    view.of = "T"
    assert view.wait(20) and view.dots["genes"] == ["Gene5"] and "CD3E" in view.dots["note"]
    bare = LabelReview(ad.AnnData(obs=query.obs, var=query.var))
    assert bare.wait(20) and "no X" in bare.dots["problem"] and bare.error is None
    bare.adata.X = query.X
    asked(bare, "retry")
    assert bare.dots["genes"]


def test_the_comparison_has_the_same_names_on_its_diagonal_and_selects_cells(view):
    confusion = view.confusion
    expected = view.review.confusion("truth")
    for row, label in enumerate(confusion["rows"]):
        assert confusion["counts"][row] == expected.loc[label, confusion["columns"]].tolist()
    assert [name for name in confusion["rows"] if name in confusion["columns"]] == confusion["columns"]
    same = view.review.labels.astype(str) == view.adata.obs["truth"].astype(str)
    assert confusion["agree"] == same.sum()
    asked(view, "select", row="Unknown", column="T")
    assert view.n_selected == expected.loc["Unknown", "T"]
    asked(view, "against", column="classified_cell_type")
    assert view.confusion["column"] == "classified_cell_type"
    asked(view, "against", column=None)
    assert view.confusion == {}


# Decisions


def test_groups_cells_and_the_selection_of_linked_views_are_decided_on(view):
    session = view.session
    n = len(view.review.queue("unknown", "T"))
    assert decided(view, "accept", which="unknown", of="T", comment="fits")["n"] == n
    session.selection = [3, 4]
    assert view.n_selected == 2
    assert decided(view, "relabel", selected=True, label="Plasma", new=True)["n"] == 2
    assert view.review.labels.iloc[3] == "Plasma" and "Plasma" in view.labels
    assert decided(view, "comment", cell=5, comment=HOSTILE)["n"] == 1
    assert view.review.comment_on(5) == HOSTILE
    asked(view, "select", which="decided", of="T")
    assert np.array_equal(session.selection, np.flatnonzero(view.review.cells("decided", "T")))
    asked(view, "select", clear=True)
    assert len(session.selection) == 0
    assert [row["action"] for row in view.history["rows"]][::-1][1:] == ["accept", "relabel", "comment"]


def test_a_decision_that_cannot_be_made_is_told_to_the_page_that_asked(view):
    before = len(view.review.entries)
    for content, says in (
        ({"action": "relabel", "cell": 1, "label": "Plasma"}, "not yet a label"),
        ({"action": "relabel", "cell": 1, "label": ""}, "at least one character"),
        ({"action": "comment", "cell": 1, "comment": " "}, "empty"),
        ({"action": "accept", "selected": True}, "No cells are meant"),
        ({"action": "accept", "cell": 10**9}, "beyond"),
    ):
        assert says in decided(view, **content)["problem"]
    assert len(view.review.entries) == before and view.error is None


def test_what_python_does_with_the_review_is_shown(view):
    view.review.set_threshold(0.05)
    assert view.rule["threshold"] == 0.05
    view.review.reject(which="unknown")
    assert view.queue["n"] == 0 and view.queue["current"] is None and view.history["undo"]
    view.which = "decided"
    assert view.queue["rows"][0]["kind"] == "rejected"
    view.review.set_rule("classified_cell_type")
    assert view.rule["by"] == "classified_cell_type"
    with pytest.raises(DataError, match="Did you mean 'truth'"):
        view.against = "trth"
    with pytest.raises(DataError, match="none of the 3 labels"):
        view.of = "NK"


def test_decisions_on_many_threads_are_all_kept(view):
    cells = view.queue["cells"]
    ask = {"op": "decide", "id": "1", "action": "reject"}
    threads = [threading.Thread(target=click, args=(view,), kwargs={**ask, "cell": cell}) for cell in cells]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert view.review.cells("decided").sum() == len(cells)


# Writing


def test_labels_are_written_on_apply_only_and_not_over_another_column(view):
    before = view.adata.obs.copy()
    decided(view, "reject", which="kept", of="T")
    asked(view, "target", key="truth")
    assert "exists already" in view.target["problem"] and view.target["replaceable"]
    asked(view, "apply", key="truth")
    assert "exists already" in view.error["what"] and view.adata.obs.equals(before) and not view.adata.uns
    asked(view, "target", key="predicted_cell_type")
    assert not view.target["replaceable"], "what is reviewed is never replaced"
    asked(view, "apply", key="final")
    assert view.error is None and view.adata.obs["final"].astype(str).equals(view.review.labels.astype(str))
    assert view.written == ["obs['final']", "obs['final_reason']", f"uns['{IN_UNS}']['final']"]
    assert "final" in view.columns and view.target["problem"] == ""
    asked(view, "apply", key="truth", overwrite=True)
    assert view.written[0] == "obs['truth'] (replaced)"


def test_the_code_decides_the_same_and_a_kept_trail_is_taken_up(view):
    decided(view, "accept", which="unknown", of="T")
    decided(view, "relabel", cell=2, label=HOSTILE)
    asked(view, "undo")
    asked(view, "threshold", value=0.2, of="B")
    original = query_of()
    asked(view, "apply", key="final")
    names = {"query": original}
    exec(view.script, names)
    pd.testing.assert_series_equal(original.obs["final"], view.adata.obs["final"])
    asked(view, "keep")
    assert view.written == [f"uns['{IN_UNS}']['final'] (the trail; no labels)"]
    again = LabelReview(Review.resume(view.adata))
    assert again.review.labels.astype(str).equals(view.review.labels.astype(str)) and not again.notes
    fresh = LabelReview(view.adata, ["predicted_cell_type", "classified_cell_type"])
    assert fresh.notes == [] and fresh.target["key"] == "reviewed_cell_type"
    view.review.keep("reviewed_cell_type")
    assert "earlier review" in LabelReview(view.adata, "predicted_cell_type").notes[0]


def test_the_trail_is_sent_as_csv_to_the_page_that_asked(view):
    decided(view, "reject", cell=0)
    with mock.patch.object(view, "send") as send:
        asked(view, "csv", id="3")
    assert send.call_args.args[0] == {"op": "csv", "id": "3", "text": view.review.trail_csv()}


def test_labels_that_are_unknown_already_are_noted():
    query = query_of()
    unknown = query.obs["uncertainty_cell_type"] > 0.5
    query.obs["predicted_cell_type"] = np.where(unknown, "Unknown", query.obs["predicted_cell_type"].astype(str))
    view = LabelReview(query, "predicted_cell_type", threshold=1)
    assert f"{unknown.sum()} cells are 'Unknown'" in view.notes[0] and "threshold=1" in view.notes[0]
    view.of = "Unknown"
    assert view.wait(20) and view.opened["n"] == unknown.sum() and "no markers" in view.dots["note"]
    assert view.confusion == {} and len(view.ways) == 1


# Forgers, pictures, the end

FORGED = [
    {"op": "rule", "by": "everybody"},
    {"op": "rule"},
    {"op": "threshold", "value": 7, "of": None},
    {"op": "threshold", "value": "0.1", "of": None},
    {"op": "threshold", "value": 0.1, "of": "NK"},
    {"op": "threshold", "value": 0.1, "of": ["T"]},
    {"op": "list", "which": "everything"},
    {"op": "list", "of": "NK"},
    {"op": "list", "start": "1"},
    {"op": "look", "cell": 10**9},
    {"op": "look", "cell": "a"},
    {"op": "look"},
    {"op": "decide", "action": "apply", "cell": 1},
    {"op": "decide", "action": "reject", "cell": True},
    {"op": "decide", "action": "reject", "cell": -1},
    {"op": "decide", "action": "reject", "cells": [1]},
    {"op": "decide", "action": "reject", "which": "unknown", "of": 3},
    {"op": "decide", "action": "reject", "cell": 1, "comment": ["a"]},
    {"op": "decide", "action": "relabel", "cell": 1, "label": {"a": 1}, "new": True},
    {"op": "decide", "action": "relabel", "cell": 1, "label": "new", "new": "yes"},
    {"op": "select", "row": "nobody", "column": "T"},
    {"op": "select"},
    {"op": "against", "column": "uncertainty_cell_type"},
    {"op": "against", "column": 3},
    {"op": "target", "key": 3},
    {"op": "apply", "key": "a/b"},
    {"op": "apply"},
    {"op": "apply", "key": "truth", "overwrite": "yes"},
    {"op": "_show"},
    {"op": "resume"},
]


def test_forged_commands_change_nothing(view):
    names = (
        "rule",
        "types",
        "queue",
        "confusion",
        "history",
        "written",
        "script",
        "n_selected",
        "labels",
        "of",
        "which",
    )
    before, obs = {name: getattr(view, name) for name in names}, view.adata.obs.copy()
    for content in FORGED:
        with mock.patch.object(view, "send"):
            asked(view, **content)
        assert {name: getattr(view, name) for name in names} == before, content
        assert view.adata.obs.equals(obs) and not view.adata.uns, content


def test_the_browser_writes_no_trait(view):
    names = [name for name in view.keys if not name.startswith("_") and name not in ("layout", "tabbable", "tooltip")]
    before = {name: getattr(view, name) for name in names}
    view.set_state(dict.fromkeys(names, "x"))
    assert {name: getattr(view, name) for name in names} == before


def test_pictures_and_their_text_are_safe_and_there_without_a_page(view):
    ElementTree.fromstring(view.snapshot("svg").data)
    page = view._static_bundle()["text/html"]
    assert len(page) < 200_000 and "<table" in page
    assert "<img src=x" not in page and "&lt;img src=x" in page and "review = Review(query" in page
    assert "nothing written yet" in view._summary()
    view.against = None
    assert view.snapshot("png").data.startswith(b"\x89PNG")


def test_what_cannot_be_reviewed_is_refused():
    with pytest.raises(TypeError, match="given a str"):
        LabelReview("query.h5ad")
    with pytest.raises(TypeError, match="has its models and its rule"):
        LabelReview(Review(query_of()), by="unanimous")
    with pytest.raises(DataError, match="Map the query first"):
        LabelReview(ad.AnnData(obs=pd.DataFrame({"a": ["b"]}, index=["c"])))
    session = Session(adata=query_of())
    with pytest.raises(DataError, match="already has an AnnData"):
        LabelReview(query_of(), session=session)


def test_a_closed_view_follows_neither_review_nor_session(view):
    before = view.rule
    view.close()
    view.close()
    view.review.set_threshold(0.9)
    view.session.selection = [1]
    assert view.rule == before and view.n_selected == 0
