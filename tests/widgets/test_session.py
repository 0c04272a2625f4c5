"""A session: its script does again what was done in widgets, and its file keeps it without data and cells' names."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import anndata as ad
import numpy as np
import pytest
from small import SMALL

import scarches_widgets as sca
from scarches_widgets.data.names import DataError
from scarches_widgets.widgets import LabelReview, MappingPanel, Session, SpatialMapper, TrainingPanel, TreeEditor
from scarches_widgets.widgets.session_script import Source, script_of

CANARY = "CELLNAME"


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Two batches of a simulated atlas in one file, a tissue in another; cells have tell-tale names."""
    folder = tmp_path_factory.mktemp("data")
    atlas = sca.datasets.atlas(n_obs=360, n_vars=60, n_batches=3, n_types=3, seed=2)
    atlas.obs_names = [f"{CANARY}{i}" for i in range(atlas.n_obs)]
    atlas.write_h5ad(folder / "atlas.h5ad")
    rng = np.random.default_rng(0)
    tissue = ad.AnnData(atlas.X[:90].copy(), obs=atlas.obs.iloc[:90].copy(), var=atlas.var.copy())
    tissue.obsm["spatial"] = rng.uniform(0, 100, (90, 2))
    tissue.obs["region"] = np.where(tissue.obsm["spatial"][:, 0] < 50, "left", "right")
    tissue.write_h5ad(folder / "tissue.h5ad")
    return folder


def sources_in(folder):
    path = str(folder / "atlas.h5ad")
    return {
        "reference_cells": Source(path, "batch", ("batch2",), inside=False),
        "query": Source(path, "batch", ("batch2",)),
        "tissue": Source(str(folder / "tissue.h5ad")),
    }


@pytest.fixture(scope="module")
def done(files):
    """A session in which a reference was trained and stopped by hand, a query mapped, reviewed and put into tissue."""
    atlas = sca.read(files / "atlas.h5ad")
    is_query = atlas.obs["batch"] == "batch2"
    reference, query, tissue = atlas[~is_query].copy(), atlas[is_query].copy(), sca.read(files / "tissue.h5ad")
    session = Session(adata=query)
    session.sources = sources_in(files)
    session.objects |= {"reference_cells": reference, "query": query, "tissue": tissue}
    training = TrainingPanel(reference, batch_key="batch", labels_key="cell_type", max_epochs=40, **SMALL)
    session.follow(training)

    def stop(event):
        if training.run.n_steps == 7:
            training.run.stop()

    training.watch_runs(lambda run: run.subscribe(stop))
    training.train().wait()
    training.wait(20)
    mapping = MappingPanel(training.model, query, labels_key="cell_type", max_epochs=3)
    session.follow(mapping)
    mapping.map()
    assert mapping.wait(60) == "done", mapping.error
    review = LabelReview(query, threshold=0.4, session=session)
    session.follow(review)
    review.review.relabel("Plasma", query.obs_names[[3, 5]], comment="JCHAIN", new=True)
    review.review.accept(which="unknown", of=review.types[0]["label"]) if review.types[0]["unknown"] else None
    review.review.reject([7])
    review.apply()
    tree = session.make_tree("reference_cells", ["cell_type"])
    editor = TreeEditor(tree, query, "predicted_cell_type", session=session)
    session.follow(editor)
    tree.group([node.name for node in tree.leaves()[:2]], "lymphoid")
    mapper = SpatialMapper(tissue, query, session=session, region_key="region", method="neighbours")
    session.follow(mapper)
    mapper.map()
    assert mapper.wait(60) == "done", mapper.error
    mapper.threshold = 0.3
    mapper.write()
    mapper.assign("niche", "edge", range(10))
    mapper.assign("niche", "gone", range(3))
    mapper.undo()
    session.selection, session.color = range(0, query.n_obs, 2), "cell_type"
    yield session, query, tree
    for widget in (training, mapping, review, editor, mapper):
        widget.close()


def test_the_script_runs_alone_and_gives_the_same_labels(done, tmp_path):
    session, query, tree = done
    saved = tmp_path / "again.h5ad"
    script = tmp_path / "again.py"
    end = "print(tree.to_newick())\nquery.uns.clear()\n"
    script.write_text(f"{session.code()}{end}query.write_h5ad({str(saved)!r})\n", encoding="utf-8")
    run = subprocess.run([sys.executable, script], capture_output=True, text=True, cwd=tmp_path)
    assert run.returncode == 0, run.stderr[-3000:]
    assert run.stdout.strip().splitlines()[-1] == tree.to_newick().strip()
    again = ad.read_h5ad(saved)
    columns = ["predicted_cell_type", "reviewed_cell_type", "reviewed_cell_type_reason", "predicted_region", "niche"]
    for column in columns:
        assert again.obs[column].astype(str).tolist() == query.obs[column].astype(str).tolist(), column
    assert "Plasma" in set(again.obs["reviewed_cell_type"])
    np.testing.assert_array_equal(again.obsm["X_scvi"], query.obsm["X_scvi"])
    np.testing.assert_array_equal(again.obs["uncertainty_cell_type"], query.obs["uncertainty_cell_type"])


def test_a_file_brings_everything_back_and_names_no_cell(done, tmp_path):
    session, query, tree = done
    path = session.save(tmp_path / "mine.scaw.json")
    text = path.read_text(encoding="utf-8")
    assert CANARY not in text and str(Path.home()) not in text
    assert path.stat().st_size < 60_000
    again = Session(adata=query).load(path)
    assert again.selection.tolist() == session.selection.tolist() and again.color == "cell_type"
    assert [step.words for step in again.steps] == [step.words for step in session.steps]
    assert again.tree.to_newick() == tree.to_newick()
    assert again.review.labels.tolist() == session.review.labels.tolist()
    assert again.review.rule == session.review.rule
    assert [step.text for step in again.steps] == [step.text for step in session.steps]
    for name, source in session.sources.items():
        assert Path(again.sources[name].path).resolve() == Path(source.path).resolve(), "relative to where we are"
        assert not Path(json.loads(text)["sources"][name]["path"]).is_absolute(), "relative to the file"
    history = again.steps[0].facts["history"]["train_unweighted_loss"]
    assert history == pytest.approx(session.steps[0].facts["history"]["train_unweighted_loss"])


def test_decisions_wait_for_the_labels_that_they_are_of(done, tmp_path):
    session, query, _ = done
    path = session.save(tmp_path / "mine.scaw.json")
    bare = query.copy()
    bare.obs = query.obs.drop(columns=["predicted_cell_type", "uncertainty_cell_type"])
    again = Session(adata=bare).load(path)
    assert again.review is None
    assert again.save(tmp_path / "on.scaw.json") and "Plasma" in (tmp_path / "on.scaw.json").read_text()
    bare.obs = query.obs.copy()
    assert again.take_up_review().labels.tolist() == session.review.labels.tolist()
    other = Session(adata=bare).load(path)
    other.review = None
    bare.obs["predicted_cell_type"] = bare.obs["predicted_cell_type"].astype(str).to_numpy()[::-1]
    other.held_review = session.review.to_json()
    with pytest.raises(DataError, match="other cells or predictions"):
        other.take_up_review()


def test_a_file_of_other_cells_or_a_forged_one_changes_nothing(done, tmp_path):
    session, query, _ = done
    path = session.save(tmp_path / "mine.scaw.json")
    good = json.loads(path.read_text())
    for adata, words in (
        (query[:50].copy(), "of 101 cells, and this session has 50"),
        (query[::-1].copy(), "other names or another order"),
        (None, "the session has none yet"),
    ):
        fresh = Session(adata=adata)
        with pytest.raises(DataError, match=words):
            fresh.load(path)
        assert fresh.steps == () and not len(fresh.selection) and fresh.review is None
    forged = [
        ({"version": 9}, "of version 9"),
        ({"format": "x"}, "does not say"),
        ({"selection": [999]}, "selection cannot be read"),
        ({"selection": "~~"}, "selection cannot be read"),
        ({"color": "no such column"}, "no such column"),
        ({"steps": [{"kind": 1}]}, "at steps.0"),
        ({"tree": "{}"}, "no tree"),
        ({"review": {"models": 7}}, "review cannot be read"),
        ({"review": {**good["review"], "entries": [{}]}}, "review cannot be read"),
        ({"more": 1}, "at more"),
    ]
    for change, words in forged:
        wrong = tmp_path / "wrong.scaw.json"
        wrong.write_text(json.dumps({**good, **change}))
        fresh = Session(adata=query)
        with pytest.raises(DataError, match=words):
            fresh.load(wrong)
        assert fresh.steps == () and not len(fresh.selection) and fresh.tree is None and fresh.color is None
    with pytest.raises(FileNotFoundError, match="There is no folder"):
        session.save(tmp_path / "nowhere" / "mine.scaw.json")


def test_what_was_given_in_python_is_said_to_be_saved_first():
    script = script_of({"query": Source(), "reference_model": Source(is_model=True)}, [])
    assert 'query.write_h5ad("query.h5ad")' in script and "query = sca.read('query.h5ad')" in script
    assert "reference_model = sca.hub.load('reference_model')" in script


def test_a_training_of_which_nothing_was_made_gives_way_to_the_next():
    adata = sca.datasets.atlas(n_obs=100, n_vars=60, seed=0)
    session, panel = Session(), TrainingPanel(adata, max_epochs=1, n_hidden=8)
    session.follow(panel)
    for n_latent in (3, 4):
        panel.set(n_latent=n_latent)
        panel.train().wait()
        panel.wait(20)
    (step,) = session.steps
    assert "n_latent=4" in step.text and step.facts["model"] == "SCVI" and session.model is panel.model
