"""The mapping panel without a browser: what fits is told, a click maps, nothing forged maps."""

import threading
import time

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from small import QUICK, SMALL, fingerprint
from widgets.pages import click, enter, levels, looked, nothing_raised, texts, wait_until

import scarches_widgets as sca
from scarches_widgets.mapping.transfer import UNKNOWN
from scarches_widgets.widgets import MappingPanel

WRITTEN = ["obsm['X_scvi']", "obs['predicted_cell_type']", "obs['uncertainty_cell_type']"]


@pytest.fixture
def panel(trained, query_cells):
    panel = looked(MappingPanel(trained, query_cells, labels_key="cell_type", max_epochs=3, n_neighbors=15))
    yield panel
    panel.stop()


@pytest.fixture
def endless(trained, query_cells):
    panel = looked(MappingPanel(trained, query_cells, labels_key="cell_type", max_epochs=100_000))
    yield panel
    panel.stop()
    assert panel.wait(20) != "running"


def mapped(panel):
    click(panel, "map")
    assert panel.wait(60) == "done", panel.error
    return panel


# What fits


def test_it_tells_which_genes_and_batches_fit(trained, query_cells):
    panel = looked(MappingPanel(trained, query_cells[:, 4:].copy()))
    overlap = panel.overlap
    assert (overlap["n_shared"], overlap["n_reference"], overlap["n_missing"], overlap["n_extra"]) == (36, 40, 4, 0)
    assert overlap["share"] == 0.9 and overlap["missing"].startswith("Gene")
    [batch] = overlap["variables"]
    assert (batch["new"], batch["known"]) == (["batch2"], [])
    assert panel.status == "ready" and panel.blocked == ""


def test_batches_that_the_reference_knows_are_warned_of(trained, atlas):
    panel = looked(MappingPanel(trained, atlas[atlas.obs["batch"] != "batch0"].copy()))
    [batch] = panel.overlap["variables"]
    assert (batch["new"], batch["known"]) == (["batch2"], ["batch1"])
    assert levels(panel, "") == ["warning"] and "known to the reference (batch1)" in texts(panel, "")


def test_genes_of_another_spelling_are_matched_as_chosen(trained, query_cells):
    query = query_cells.copy()
    query.var["symbol"] = query.var_names
    query.var_names = [f"ENSG{i:011d}" for i in range(query.n_vars)]
    panel = looked(MappingPanel(trained, query, labels_key="cell_type", max_epochs=1))
    assert panel.status == "invalid" and "None of the reference's 40 genes" in texts(panel, "")
    assert panel.overlap == {}
    enter(panel, gene_map="symbol")
    assert looked(panel).status == "ready" and panel.overlap["share"] == 1
    assert 'gene_map="symbol"' in panel.code()
    assert set(mapped(panel).labels) <= set(query_cells.obs["cell_type"])


def test_too_few_genes_are_an_error_at_the_option_that_allows_less(trained, query_cells):
    panel = looked(MappingPanel(trained, query_cells[:, 25:].copy()))
    assert panel.status == "invalid" and levels(panel, "min_gene_overlap") == ["error"]
    assert "37.5% of the reference's genes" in panel.blocked
    enter(panel, min_gene_overlap=0.3)
    assert panel.status == "ready"


def test_a_reference_without_batches_maps_with_a_warning(reference_cells, query_cells):
    reference = sca.models.SCVI(reference_cells, **SMALL)
    reference.train(**QUICK)
    panel = looked(MappingPanel(reference, query_cells, labels_key="cell_type"))
    assert levels(panel, "") == ["warning"] and "without a batch_key" in texts(panel, "")
    mapped(panel)
    assert "nothing to train" in " ".join(panel.progress["notes"])
    np.testing.assert_array_equal(query_cells.obsm["X_scvi"], reference.get_latent_representation(query_cells))


def test_an_unfit_query_is_told_in_sentences(trained, query_cells):
    query = query_cells.copy()
    query.X = query.X.log1p()
    del query.obs["batch"]
    panel = looked(MappingPanel(trained, query))
    assert panel.status == "invalid" and "no column 'batch'" in texts(panel, "") and "fraction" in texts(panel, "")
    click(panel, "map")
    assert panel.model is None and "X_scvi" not in query.obsm


def test_an_untrained_reference_is_told_and_once_trained_it_maps(reference_cells, query_cells):
    reference = sca.models.SCVI(reference_cells, batch_key="batch", **SMALL)
    panel = looked(MappingPanel(reference, query_cells))
    assert panel.status == "invalid" and "has not been trained" in panel.blocked
    reference.train(**QUICK)
    wait_until(lambda: panel.status == "ready")


def test_without_the_references_cells_only_the_embedding_can_be_had(trained, query_cells, tmp_path):
    reference = type(trained).load(trained.save(tmp_path / "model") and tmp_path / "model")
    panel = looked(MappingPanel(reference, query_cells, max_epochs=1))
    assert [choice["value"] for choice in panel.fields[0]["choices"]] == [None]
    assert mapped(panel).results["written"] == ["obsm['X_scvi']"]
    assert panel.labels is None and "knn" not in panel.code()


def test_labels_are_those_of_the_references_own_key_unless_another_is_chosen(reference_cells, query_cells):
    reference = sca.models.SCVI(reference_cells, batch_key="batch", labels_key="cell_type", **SMALL)
    reference.train(**QUICK)
    assert MappingPanel(reference, query_cells).values["labels_key"] == "cell_type"
    assert MappingPanel(reference, query_cells, cell_type_key="type_level1").values["labels_key"] == "type_level1"
    with pytest.raises(ValueError, match="labels_key must be one of the choices, not celltype"):
        MappingPanel(reference, query_cells, labels_key="celltype")


def test_numbers_are_no_labels_and_cells_without_a_label_do_not_vote(trained, query_cells):
    trained.adata.obs["partly"] = trained.adata.obs["cell_type"].astype(object)
    trained.adata.obs.loc[trained.adata.obs_names[:40], "partly"] = None
    panel = looked(MappingPanel(trained, query_cells, labels_key="library_size", max_epochs=1))
    assert levels(panel, "labels_key") == ["error"] and panel.status == "invalid"
    enter(panel, labels_key="partly", n_neighbors=5000)
    assert "40 cells without a label" in texts(panel, "labels_key")
    assert levels(panel, "n_neighbors") == ["warning"]
    mapped(panel)
    assert panel.labels.notna().all()
    assert "nan" not in set(panel.labels) and ".notna()]" in panel.code()


@pytest.mark.parametrize("wrong", ["model.pt", None, 3])
def test_what_is_no_model_or_no_anndata_is_refused(trained, query_cells, wrong):
    with pytest.raises(TypeError, match="takes a trained model as reference"):
        MappingPanel(wrong, query_cells)
    with pytest.raises(TypeError, match="takes an AnnData as query"):
        MappingPanel(trained, wrong)


# Mapping


def test_a_click_maps_as_the_code_does(panel, trained, atlas, query_cells):
    before = fingerprint(trained)
    panel.set(threshold=0.4)
    mapped(panel)
    assert panel.results["written"] == WRITTEN
    query = atlas[atlas.obs["batch"] == "batch2"].copy()
    names = {"query": query, "reference": trained}
    exec(panel.code().replace("model.train(", "model.train(progress=False, "), names)
    assert fingerprint(names["model"]) == fingerprint(panel.model)
    np.testing.assert_array_equal(query.obsm["X_scvi"], query_cells.obsm["X_scvi"])
    for column in ("predicted_cell_type", "uncertainty_cell_type"):
        assert (query.obs[column] == query_cells.obs[column]).all()
    assert (panel.labels == query.obs["predicted_cell_type"]).all()
    assert (panel.uncertainties == query.obs["uncertainty_cell_type"]).all()
    assert fingerprint(trained) == before


def test_the_table_adds_up_and_tells_what_became_unknown(panel, query_cells):
    panel.set(threshold=0.3)
    results = mapped(panel).results
    rows = results["rows"]
    assert sum(row["n"] for row in rows) == results["n_cells"] == query_cells.n_obs
    assert [row["n"] for row in rows] == sorted((row["n"] for row in rows), reverse=True)
    unknown = panel.labels == UNKNOWN
    assert results["n_unknown"] == unknown.sum() == (panel.uncertainties > 0.3).sum()
    assert sum(row["n"] * row["unknown"] for row in rows) == pytest.approx(unknown.sum())
    assert sum(row["n"] * row["mean"] for row in rows) == pytest.approx(panel.uncertainties.sum())
    assert sum(results["histogram"]) == query_cells.n_obs
    first = int(np.histogram(panel.uncertainties, bins=20, range=(0, 1))[0][0])
    assert results["histogram"][0] == first


def test_without_labels_only_the_embedding_is_written(panel, query_cells):
    panel.set(labels_key=None)
    assert mapped(panel).results == {"written": ["obsm['X_scvi']"], "n_cells": query_cells.n_obs}
    assert "predicted" not in " ".join(query_cells.obs) and panel.labels is None


def test_a_second_mapping_says_what_it_replaces(panel, query_cells):
    mapped(panel)
    first = query_cells.obsm["X_scvi"].copy()
    panel.set(max_epochs=1)
    assert mapped(panel).results["written"] == [f"{name} (replaced)" for name in WRITTEN]
    assert not np.array_equal(first, query_cells.obsm["X_scvi"])


def test_stop_writes_nothing_and_leaves_a_usable_model(endless, query_cells):
    click(endless, "map")
    wait_until(lambda: endless.run is not None and len(endless.run.epochs) > 1)
    assert endless.status == "running"
    start = time.monotonic()
    click(endless, "stop")
    assert endless.wait(10) == "stopped" and time.monotonic() - start < 1
    assert "X_scvi" not in query_cells.obsm and endless.results == {}
    assert np.isfinite(endless.model.get_latent_representation()).all()


def test_finish_early_ends_the_training_and_goes_on_to_the_labels(endless, query_cells):
    click(endless, "map")
    wait_until(lambda: endless.run is not None and endless.run.epochs)
    click(endless, "finish")
    assert endless.wait(20) == "done"
    assert endless.results["written"] == WRITTEN and len(endless.run.epochs) < 100_000


def test_a_stop_before_the_first_step_is_not_forgotten(endless, query_cells, monkeypatch):
    gate, start = threading.Event(), sca.models.SCVI._start
    monkeypatch.setattr(sca.models.SCVI, "_start", lambda model, adata: (gate.wait(20), start(model, adata)))
    click(endless, "map")
    wait_until(lambda: endless.progress["stage"] == "Adapting the reference.")
    click(endless, "stop")
    assert endless.status == "stopping"
    gate.set()
    assert endless.wait(10) == "stopped" and endless.run is None and "X_scvi" not in query_cells.obsm


def test_a_second_mapping_is_refused_while_one_runs(endless):
    click(endless, "map")
    click(endless, "map")
    assert endless.error["what"] == "The mapping is under way."
    with pytest.raises(RuntimeError, match="under way"):
        endless.map()


def test_a_failed_mapping_writes_nothing_and_says_so(panel, query_cells, monkeypatch):
    def failing(*_, **__):
        raise MemoryError("There is no room for neighbours. Ask for fewer.")

    monkeypatch.setattr("scarches_widgets.widgets.mapping_panel.weighted_knn_trainer", failing)
    click(panel, "map")
    assert panel.wait(60) == "failed"
    assert panel.error == {"what": "There is no room for neighbours.", "mend": "Ask for fewer.", "field": None}
    assert "X_scvi" not in query_cells.obsm and panel.blocked == ""


def test_names_that_look_like_markup_or_code_stay_names(trained, query_cells, atlas):
    name = "<b>'\"); import os; os.abort() #"
    trained.adata.obs[name] = "<script>alert(1)</script>"
    panel = mapped(looked(MappingPanel(trained, query_cells, labels_key=name, max_epochs=1)))
    assert panel.results["rows"][0]["label"] == "<script>alert(1)</script>"
    names = {"query": atlas[atlas.obs["batch"] == "batch2"].copy(), "reference": trained}
    exec(panel.code().replace("model.train(", "model.train(progress=False, "), names)
    assert set(names["query"].obs[f"predicted_{name}"]) == {"<script>alert(1)</script>"}
    assert "<b>" not in panel._repr_mimebundle_()[0]["text/html"]


@pytest.mark.filterwarnings("ignore:Observation names are not unique")
def test_a_view_as_query_and_repeated_cell_names_do_no_harm(trained, atlas):
    query = atlas[atlas.obs["batch"] == "batch2"]
    panel = mapped(looked(MappingPanel(trained, query, labels_key="cell_type", max_epochs=1)))
    assert "X_scvi" in query.obsm and "X_scvi" not in atlas.obsm
    twice = query.copy()
    twice.obs_names = ["same"] * twice.n_obs
    panel = mapped(looked(MappingPanel(trained, twice, labels_key="cell_type", max_epochs=1)))
    assert len(panel.labels) == twice.n_obs


def test_its_picture_is_the_histogram_of_uncertainties(panel):
    assert panel.snapshot("svg").data.lstrip().startswith("<")
    assert mapped(panel).snapshot("png").data.startswith(b"\x89PNG")
    assert "Written: obsm['X_scvi']" in panel._repr_mimebundle_()[0]["text/plain"]


# Against forgery

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


@pytest.fixture(scope="module")
def untouched(atlas):
    reference = sca.models.SCVI(atlas[atlas.obs["batch"] != "batch2"].copy(), batch_key="batch", **SMALL)
    reference.train(**QUICK)
    return looked(MappingPanel(reference, atlas[atlas.obs["batch"] == "batch2"].copy()))


@settings(max_examples=500, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), value=json_values, op=st.text(max_size=5))
def test_forged_messages_start_nothing_and_break_nothing(untouched, data, value, op):
    panel = untouched
    option = data.draw(st.sampled_from(sorted(panel.values)))
    forged = [{"values": value}, {"values": {option: value}}, {"results": value}, {"overlap": {}}, {"status": "done"}]
    with nothing_raised():
        for state in (*forged, value):
            panel._handle_msg({"content": {"data": {"method": "update", "state": state}}, "buffers": []})
        for content in (value, {"op": op}, {"op": "finish"}, {"op": "pause"}, {"op": "stop", "when": value}):
            panel._handle_msg({"content": {"data": {"method": "custom", "content": content}}, "buffers": []})
        enter(panel, n_neighbors=0)  # an off button cannot be forced
        for content in ({"op": "map"}, {"op": "map", "values": {"n_neighbors": -5}, "force": value}):
            panel._handle_msg({"content": {"data": {"method": "custom", "content": content}}, "buffers": []})
        assert panel.status == "invalid" and panel.run is None and panel.model is None and not panel._busy
        assert "X_scvi" not in panel.query.obsm and panel.results == {}
        enter(panel, **{field["name"]: field["default"] for field in panel.fields})
        wait_until(lambda: not panel._is_looking)
        assert panel.status == "ready" and panel.overlap["share"] == 1


# A reference with a classifier


@pytest.fixture
def labelled_reference(reference_cells):
    model = sca.models.SCANVI(reference_cells, batch_key="batch", labels_key="cell_type", **SMALL)
    model.train(**QUICK)
    return model


def test_a_classifier_s_labels_and_novelty_stand_beside_those_of_the_neighbours(labelled_reference, query_cells):
    del query_cells.obs["cell_type"]
    panel = mapped(looked(MappingPanel(labelled_reference, query_cells, max_epochs=2)))
    columns = ["predicted", "uncertainty", "classified", "classified_uncertainty", "novelty"]
    assert [f"obs['{name}_cell_type']" for name in columns] == panel.results["written"][1:]
    expected = panel.model.predict_with_uncertainty()
    np.testing.assert_array_equal(query_cells.obs["classified_cell_type"], expected["label"])
    np.testing.assert_array_equal(query_cells.obs["novelty_cell_type"], expected["novelty"])
    assert panel.classified.equals(expected)
    agree = (query_cells.obs["classified_cell_type"] == query_cells.obs["predicted_cell_type"]).mean()
    assert panel.results["agrees"] == pytest.approx(agree)
    assert sum(row["agrees"] * row["n"] for row in panel.results["rows"]) == pytest.approx(agree * query_cells.n_obs)


@pytest.mark.parametrize("labels_key", ["cell_type", None])
def test_a_query_is_mapped_onto_a_reference_with_prototypes_or_without_labels(reference_cells, query_cells, labels_key):
    options = {"batch_key": "batch", "labels_key": labels_key, "hidden_layer_sizes": (16,), "n_latent": 4}
    reference = sca.models.scPoli(reference_cells, **options)
    reference.train(**QUICK)
    panel = mapped(looked(MappingPanel(reference, query_cells, labels_key="cell_type", max_epochs=2)))
    assert "X_scpoli" in query_cells.obsm and "predicted_cell_type" in query_cells.obs
    assert ("novelty_cell_type" in query_cells.obs) == (labels_key is not None)
    if labels_key is not None:
        assert panel.classified.equals(panel.model.predict_with_uncertainty())


def test_the_code_with_a_classifier_gives_the_same_columns(labelled_reference, query_cells):
    panel = looked(MappingPanel(labelled_reference, query_cells.copy(), max_epochs=2))
    panel.set(query_labels="ignore")
    mapped(looked(panel))
    code = panel.code()
    assert 'query_labels="ignore"' in code
    names = {"query": query_cells, "reference": labelled_reference}
    exec(code.replace("model.train(", "model.train(progress=False, "), names)
    for column in ("classified_cell_type", "classified_uncertainty_cell_type", "novelty_cell_type"):
        np.testing.assert_array_equal(query_cells.obs[column], panel.query.obs[column])


def test_without_the_references_cells_the_classifier_still_labels(labelled_reference, query_cells, tmp_path):
    labelled_reference.save(tmp_path / "model")
    reference = type(labelled_reference).load(tmp_path / "model")
    panel = mapped(looked(MappingPanel(reference, query_cells, max_epochs=1, query_labels="ignore")))
    assert panel.labels is None and "obs['classified_cell_type']" in panel.results["written"]


def test_labels_that_the_query_has_are_warned_of_and_can_be_ignored_or_learnt(labelled_reference, query_cells):
    query_cells.obs["cell_type"] = query_cells.obs["cell_type"].astype(str).replace("Naive B", "Mature B")
    panel = looked(MappingPanel(labelled_reference, query_cells, max_epochs=1))
    said = texts(panel, "")
    assert "carry labels that the reference knows" in said and "1 label of the query is new (Mature B)" in said
    enter(panel, query_labels="ignore", new_labels="hold out")
    assert "carry labels" not in texts(looked(panel), "") and "Mature B" not in texts(panel, "")
    enter(panel, new_labels="extend")
    assert looked(panel).status == "invalid" and "query_labels='ignore' hides the cells" in panel.blocked
    enter(panel, query_labels="use")
    mapped(looked(panel))
    assert "Mature B" in panel.model.schema.labels


def test_a_reference_without_a_classifier_has_no_options_for_it(panel):
    assert "query_labels" not in panel.values and mapped(panel).classified is None
