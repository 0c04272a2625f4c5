"""A suite without a browser: which steps are locked and why, what is made when, what is written, what is foreign."""

from __future__ import annotations

import json
import re

import anndata as ad
import pytest
from pages import click, nothing_raised, wait_until

import scarches_widgets as sca
from scarches_widgets.data.names import DataError
from scarches_widgets.widgets import Session, Suite


@pytest.fixture
def folder(tmp_path):
    atlas = sca.datasets.atlas(n_obs=300, n_vars=60, n_batches=3, n_types=3, seed=4)
    atlas.write_h5ad(tmp_path / "atlas.h5ad")
    return tmp_path


@pytest.fixture
def suite(folder):
    suite = Suite(folder=folder)
    yield suite
    suite.close()


def clicked(suite, op, **content):
    with nothing_raised():
        click(suite, op, **content)
    suite.wait(60)


def reason(suite, key):
    suite.wait(60)
    return next(step["locked"] for step in suite.steps if step["key"] == key)


def journey(suite, epochs=2):
    """Data to a reviewed query, by what a page sends."""
    clicked(suite, "read", role="reference", path="atlas.h5ad")
    clicked(suite, "take", column="batch", groups=["batch2"])
    clicked(suite, "open", step="train")
    training = suite.widgets["training"]
    training.set(max_epochs=epochs, n_hidden=16)
    training.train().wait()
    wait_until(lambda: suite.reference_model is training.model)
    clicked(suite, "open", step="map")
    mapping = suite.widgets["mapping"]
    mapping.set(max_epochs=epochs)
    mapping.map()
    assert mapping.wait(60) == "done", mapping.error
    wait_until(lambda: "review" in suite.widgets and "cells" in suite.widgets)
    suite.wait(60)


def test_steps_say_why_they_are_locked_and_open_one_after_the_other(suite):
    assert suite.status == "empty"
    assert "no cells of a reference yet" in reason(suite, "train") and "no tissue" in reason(suite, "tissue")
    assert reason(suite, "data") == reason(suite, "share") == ""
    clicked(suite, "open", step="train")
    assert suite.widgets == {} and suite.step == "train", "a locked step opens without widgets"
    clicked(suite, "read", role="reference", path="atlas.h5ad")
    assert suite.error is None and suite.facts["reference"] == "300 cells × 60 genes · atlas.h5ad"
    assert reason(suite, "train") == "" and "There is no trained model" in reason(suite, "map")
    clicked(suite, "take", column="batch", groups=["batch2"])
    assert set(suite.query.obs["batch"]) == {"batch2"} and suite.session.adata is suite.query
    assert suite.reference.n_obs + suite.query.n_obs == 300
    assert "only batch2 of batch" in suite.facts["query"]
    clicked(suite, "take", column="batch", groups=["batch1"])
    assert set(suite.query.obs["batch"]) == {"batch1"} and set(suite.reference.obs["batch"]) == {"batch0"}
    assert "reference_cells.obs['batch'].astype(str).isin(['batch2', 'batch1'])" in suite.code()
    clicked(suite, "take", column="cell_type", groups=[str(suite.reference.obs["cell_type"].iloc[0])])
    assert "by 'batch' already" in suite.error["what"]
    assert suite.widgets == {}, "nothing is made before its step is opened"
    clicked(suite, "open", step="train")
    assert list(suite.widgets) == ["training"] and suite.widgets["training"].values["batch_key"] == "batch"
    assert "Nothing has been trained here yet" in reason(suite, "monitor")


def test_a_journey_ends_in_labels_files_and_a_report(suite, folder):
    journey(suite)
    query = suite.query
    assert "X_scvi_tsne" in query.obsm and query.obsm["X_scvi_tsne"].shape == (query.n_obs, 2)
    assert suite.session.color == "predicted_cell_type" == suite.widgets["cells"].color
    assert {step["key"] for step in suite.steps if step["done"]} >= {"data", "train", "monitor", "map"}
    assert "has no gene programs" in reason(suite, "programs")
    suite.widgets["review"].review.reject([2])
    suite.widgets["review"].apply()
    suite.wait(60)
    assert "reviewed_cell_type" in suite.widgets["cells"].columns, "cells can be coloured by what was applied"
    suite.widgets["review"].selection = [1, 2]
    assert suite.widgets["cells"].selection.tolist() == [1, 2], "the steps share a selection"
    clicked(suite, "tree", keys=["cell_type"])
    assert suite.session.tree.named(query.obs["cell_type"].iloc[0]) is not None
    for what, path in (("report", "r.html"), ("session", "s.scaw.json"), ("cells", "c.h5ad"), ("model", "models/mine")):
        clicked(suite, "write", what=what, path=path)
        assert suite.error is None, suite.error
    assert len(suite.written) == 4 and (folder / "models" / "mine").is_dir()
    assert "predicted_cell_type" in ad.read_h5ad(folder / "c.h5ad").obs
    page = (folder / "r.html").read_text(encoding="utf-8")
    assert not re.search(r"(?:src|href)=(?!\"data:)|url\(|<script|@import", page), "it asks nobody for anything"
    for words in ("Training", "Review of labels", "Tree of cell types", "weighted_knn_transfer", "Versions", "torch"):
        assert words in page
    assert page.count("<img") >= 4
    clicked(suite, "write", what="report", path="r.html")
    assert "exists" in suite.error["what"]
    clicked(suite, "write", what="report", path="r.html", replace=True)
    assert suite.error is None

    again = Suite(suite.reference, query.copy(), folder=folder)
    clicked(again, "load", path="s.scaw.json")
    assert again.error is None and again.session.selection.tolist() == [1, 2]
    assert again.session.review.labels.tolist() == suite.session.review.labels.tolist()
    assert again.session.tree.to_newick() == suite.session.tree.to_newick()
    again.open_step("map")
    kinds = [step.kind for step in again.session.steps]
    assert kinds == [step.kind for step in suite.session.steps], "a review that goes on is one step"
    assert again.widgets["review"].review is again.session.review
    again.close()


def test_mapping_again_starts_another_review_and_a_new_query_closes_what_was_of_the_old(suite):
    journey(suite)
    first = suite.widgets["review"]
    mapping = suite.widgets["mapping"]
    mapping.set(n_neighbors=10)
    mapping.map()
    mapping.wait(60)
    wait_until(lambda: suite.widgets.get("review") not in (None, first))
    suite.wait(60)
    assert [step.kind for step in suite.session.steps] == ["train", "map", "review", "map", "review"]
    clicked(suite, "read", role="query", path="atlas.h5ad")
    assert not {"mapping", "review", "cells"} & set(suite.widgets) and "training" in suite.widgets
    assert [step.kind for step in suite.session.steps] == ["train"] and suite.session.color is None
    assert suite.session.adata is suite.query and suite.query.n_obs == 300


def test_a_tree_keeps_its_edits_in_the_script_when_its_editor_is_made_again(suite):
    clicked(suite, "read", role="reference", path="atlas.h5ad")
    clicked(suite, "tree", keys=["cell_type"])
    first = suite.session.tree.leaves()[0]
    suite.session.tree.rename(first, "renamed first")
    clicked(suite, "read", role="query", path="atlas.h5ad")
    clicked(suite, "open", step="tree")
    suite.session.tree.add("added later", "renamed first")
    names = {}
    exec(suite.code(), names)
    assert names["tree"].to_newick() == suite.session.tree.to_newick() and "added later" in names["tree"].to_newick()


def test_what_a_page_sends_amiss_is_a_sentence_or_nothing(suite):
    for op, content in (
        ("read", {"role": "reference", "path": "nowhere.h5ad"}),
        ("read", {"role": "reference", "path": ""}),
        ("read", {"role": "nobody", "path": "atlas.h5ad"}),
        ("take", {"column": "batch", "groups": ["batch1"]}),
        ("tree", {"keys": ["cell_type"]}),
        ("load", {"path": "nothing.json"}),
        ("write", {"what": "cells", "path": "x.h5ad"}),
        ("write", {"what": "model", "path": "m"}),
        ("write", {"what": "session", "path": "no/such/folder/s.json"}),
    ):
        suite.error = None
        clicked(suite, op, **content)
        assert suite.error and suite.error["what"], (op, content)
    for op, content in (
        ("open", {"step": "nowhere"}),
        ("model", {"name": "os"}),
        ("write", {"what": "all", "path": "x"}),
    ):
        suite.error = None
        clicked(suite, op, **content)
        assert suite.error is None and suite.written == []
    suite.set_state({"step": "nowhere", "script": "evil", "written": ["evil"]})
    assert suite.step == "data" and "evil" not in suite.script and suite.written == []
    clicked(suite, "read", role="reference", path="atlas.h5ad")
    clicked(suite, "take", column="batch", groups=["batch0", "batch1", "batch2"])
    assert "All cells" in suite.error["what"] and suite.query is None


def test_it_takes_cells_files_and_models_and_says_what_it_takes(folder):
    atlas = sca.read(folder / "atlas.h5ad")
    model = sca.models.SCVI(atlas, batch_key="batch", n_hidden=8, encode_covariates=True)
    with pytest.raises(TypeError, match="Suite takes an AnnData or a file as query and was given a dict"):
        Suite(query={})
    with pytest.raises(DataError, match="The session already has an AnnData"):
        Suite(atlas, session=Session(adata=atlas[:9].copy()))
    with pytest.raises(DataError, match="no cells"):
        Suite(atlas[:0].copy())
    suite = Suite(model, atlas[:50].copy(), folder=folder)
    assert suite.reference is atlas and reason(suite, "map") == "", "a model that was given is mapped onto"
    assert "reference_model = sca.hub.load('reference_model', reference_cells)" in suite.code()
    html = suite._static_html()
    assert "data:image/svg+xml" in html and "300 cells" in html
    assert json.dumps(suite.get_state()["timeline"]) == "[]"
    suite.choose_model("SCANVI")
    assert suite.widgets["training"].model_name == "SCANVI"
    with pytest.raises(ValueError, match="Did you mean 'SCANVI'"):
        suite.choose_model("SCANVY")
    suite.close()
    assert suite.widgets == {}
