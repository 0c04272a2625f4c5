"""The training panel without a browser: what it tells a page, what a click does, what a forged message cannot do."""

import json
import re
import subprocess
import sys
import threading
import time
import warnings

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mudata import MuData
from small import fingerprint
from widgets.pages import click, enter, levels, looked, nothing_raised, texts, wait_until

import scarches_widgets as sca
from scarches_widgets.data import validate as validation
from scarches_widgets.mapping import processes
from scarches_widgets.training.estimate import Estimate
from scarches_widgets.widgets import LossMonitor, MappingPanel, TrainingPanel, training_panel, training_settings
from scarches_widgets.widgets.panel import collected_warnings
from scarches_widgets.widgets.training_config import Settings

TINY = {"n_hidden": 16, "n_latent": 4, "batch_size": 64}


@pytest.fixture
def panel(atlas):
    panel = looked(TrainingPanel(atlas, batch_key="batch", max_epochs=2, **TINY))
    yield panel
    panel.stop()


@pytest.fixture
def endless(atlas):
    """A panel whose training takes far too long."""
    panel = looked(TrainingPanel(atlas, batch_key="batch", max_epochs=100_000, **TINY))
    yield panel
    panel.stop()
    assert panel.wait(20) != "running"


def built(code, adata):
    """The model that a panel's code makes."""
    names = {"adata": adata}
    exec(code.replace("model.train(", "model.train(progress=False, "), names)
    return names["model"]


# The form


def test_the_form_has_the_options_of_model_and_training_and_their_defaults(atlas):
    panel = TrainingPanel(atlas)
    names = {one["name"] for one in panel.fields}
    assert {"layer", "batch_key", "n_latent", "gene_likelihood", "max_epochs", "seed", "patience"} <= names
    assert panel.values["n_latent"] == 10 and panel.values["batch_key"] is None
    assert panel.fields[0]["section"] == "Data"
    assert "early_stopping_kwargs" not in names


def test_options_can_be_given_at_once_also_as_others_spell_them(atlas):
    panel = TrainingPanel(
        atlas, condition_key="batch", n_epochs=3, early_stopping_kwargs={"early_stopping_patience": 7}
    )
    assert panel.values["batch_key"] == "batch" and panel.values["max_epochs"] == 3 and panel.values["patience"] == 7
    with pytest.raises(TypeError, match="Did you mean 'n_latent'"):
        TrainingPanel(atlas, n_latnet=3)
    with pytest.raises(ValueError, match="n_latent must be a whole number from 1 to 4,096, not 0"):
        TrainingPanel(atlas, n_latent=0)


def test_what_is_set_in_python_is_in_the_form_and_what_is_wrong_changes_nothing(panel):
    panel.set(n_latent=7, dropout_rate=0)
    assert panel.values["n_latent"] == 7
    before = dict(panel.values)
    with pytest.raises(ValueError, match="dropout_rate"):
        panel.set(n_latent=8, dropout_rate=1)
    assert panel.values == before


def test_without_cells_it_says_what_it_needs():
    panel = TrainingPanel()
    assert panel.status == "empty"
    assert "TrainingPanel(adata)" in panel.blocked
    click(panel, "train")
    assert panel.status == "empty" and panel.model is None and "TrainingPanel(adata)" in panel.error["what"]


@pytest.mark.parametrize("wrong", ["cells.h5ad", 3, np.ones((3, 3))])
def test_what_is_no_anndata_is_refused(wrong):
    with pytest.raises(TypeError, match=r"takes an AnnData .* sca\.read"):
        TrainingPanel(wrong)


def test_an_unknown_model_is_refused_with_the_nearest_name(atlas):
    with pytest.raises(ValueError, match=r"no model 'SCV1'\. Did you mean 'SCVI'"):
        TrainingPanel(atlas, model="SCV1")
    assert TrainingPanel(atlas, model=sca.models.SCVI).model_name == "SCVI"


def test_keys_that_setup_anndata_has_noted_are_filled_in(atlas):
    adata = atlas.copy()
    sca.models.SCVI.setup_anndata(adata, batch_key="batch", labels_key="cell_type")
    panel = looked(TrainingPanel(adata))
    assert panel.values["batch_key"] == "batch" and panel.values["labels_key"] == "cell_type"
    enter(panel, batch_key=None, labels_key=None)
    assert "batch_key='batch'" in texts(panel, "")


def test_empty_options_say_what_they_come_to(panel):
    enter(panel, max_epochs=None)
    assert panel.meanings["lr"] == "0.0175"
    epochs = int(panel.meanings["max_epochs"])
    enter(panel, schedule="published")
    assert panel.meanings == {"max_epochs": "400", "lr": "0.001"}
    enter(panel, schedule="auto")
    panel.train()
    wait_until(lambda: panel.run.started is not None)
    assert panel.run.started.max_epochs == epochs


def test_another_model_is_chosen_in_the_panel_and_what_it_takes_too_stays_filled_in(atlas, panel):
    enter(panel, n_latent=5, n_hidden=32, n_layers=2)
    click(panel, "choose", name="TRVAE", values={**panel.values, "labels_key": "cell_type"})
    looked(panel)
    assert panel.model_name == "TRVAE" and panel.values["batch_key"] == "batch" and panel.values["n_latent"] == 5
    assert panel.values["labels_key"] == "cell_type" and panel.values["max_epochs"] == 2
    assert "n_hidden" not in panel.values and "n_layers" not in panel.values
    enter(panel, hidden_layer_sizes="32 16", use_mmd=False)
    model = built(panel.code(), atlas)
    assert type(model) is sca.models.TRVAE and model.config.hidden_layer_sizes == (32, 16)
    panel.train()
    assert panel.wait(60) == "done" and type(panel.model) is sca.models.TRVAE
    assert "hidden_layer_sizes=[32, 16]" in panel.code()
    assert Settings("TRVAE", json.loads(json.dumps(panel.settings.options))) == panel.settings


def test_no_other_model_is_chosen_while_one_is_trained_nor_one_that_does_not_exist(endless):
    for name in ("Trainer", None, ["SCANVI"]):
        click(endless, "choose", name=name)
    assert endless.model_name == "SCVI" and endless.error is None
    endless.train()
    click(endless, "choose", name="SCANVI")
    assert endless.model_name == "SCVI" and "under way" in endless.error["what"]
    with pytest.raises(ValueError, match="Did you mean 'SCANVI'"):
        endless.choose("SCANV")


@pytest.mark.parametrize("name", sca.models.__all__)
def test_every_model_can_be_chosen(atlas, name):
    panel = TrainingPanel(atlas)
    panel.choose(name)
    assert panel.model_name == name and name in panel.model_names
    assert {one["section"] for one in panel.fields} >= {"Data", name}


def test_gene_sets_are_a_file_and_what_is_in_it_is_said_at_the_field(atlas, tmp_path):
    file = tmp_path / "sets.gmt"
    genes = list(atlas.var_names)
    file.write_text(
        "".join("\t".join([name, "", *some]) + "\n" for name, some in {"A": genes[:20], "B": genes[20:45]}.items())
    )
    panel = looked(TrainingPanel(atlas, "EXPIMAP", batch_key="batch", max_epochs=1))
    assert levels(panel, "gene_sets") == ["error"]
    enter(looked(panel), gene_sets=str(tmp_path / "none.gmt"))
    assert levels(looked(panel), "gene_sets") == ["error"]
    enter(panel, gene_sets=str(file), hidden_layer_sizes="16")
    assert "2 of 2 gene sets kept" in texts(looked(panel), "gene_sets") and panel.status == "ready"
    assert list(built(panel.code(), atlas).terms) == ["A", "B"]
    with pytest.raises(TypeError, match="gene_sets must be a text here, not dict"):
        panel.set(gene_sets={"A": genes[:20]})


def test_the_price_of_a_background_from_cells_is_said_where_it_is_taken():
    few, many = (sca.datasets.cite_seq(80, 40, n_proteins=n, n_batches=2, n_types=4) for n in (6, 12))
    field = "empirical_protein_background_prior"
    assert levels(looked(TrainingPanel(few, "TOTALVI")), field) == []
    panel = looked(TrainingPanel(many, "TOTALVI", max_epochs=1, **TINY))
    assert "more than 10 proteins (12)" in texts(panel, field) and ".86" in texts(panel, field)
    enter(panel, **{field: False})
    assert levels(panel, field) == [] and built(panel.code(), many).config.empirical_protein_background_prior is False
    enter(panel, **{field: "no"})
    assert "error" in levels(panel, field) and panel.script == ""


# What is said of entries and data


def test_a_wrong_entry_is_told_at_its_field_and_nothing_starts(panel):
    with nothing_raised():
        enter(panel, n_latent=-3, dropout_rate="much")
    assert panel.status == "invalid"
    assert levels(panel, "n_latent") == ["error"] and levels(panel, "dropout_rate") == ["error"]
    assert panel.blocked == "Latent dimensions must be a whole number from 1 to 4,096, not -3. And 1 more to mend."
    assert panel.script == ""
    click(panel, "train")
    assert panel.status == "invalid" and panel.model is None and panel.run is None
    enter(panel, n_latent=3, dropout_rate=0.2)
    assert panel.status == "ready" and panel.blocked == "" and panel.error is None


def test_unknown_entries_are_dropped_and_those_of_a_wrong_type_are_errors(panel):
    with nothing_raised():
        enter(panel, n_latent=[1, {"a": 2}], max_epochs=float("nan"), evil="rm", seed=True)
    assert "evil" not in panel.values
    assert {name for name in panel.values if levels(panel, name) == ["error"]} == {"n_latent", "max_epochs", "seed"}


def test_what_validate_finds_stands_at_the_option_that_it_concerns(atlas):
    adata = atlas.copy()
    adata.layers["log"] = adata.X.log1p()
    adata.obs["donor"] = adata.obs["batch"].astype(object).where(adata.obs["batch"] != "batch1", None)
    adata.obs["own"] = adata.obs_names
    adata.obs["sizes"] = 0.0
    panel = looked(TrainingPanel(adata))
    assert levels(panel, "layer") == ["ok"] and "raw counts" in texts(panel, "layer")
    panel.set(layer="log")
    looked(panel)
    assert levels(panel, "layer") == ["error"] and "fraction" in texts(panel, "layer")
    assert panel.status == "invalid"
    panel.set(layer=None, batch_key="donor", size_factor_key="sizes")
    assert levels(panel, "layer") == ["ok"] and "no batch for" in texts(panel, "batch_key")
    assert levels(panel, "size_factor_key") == ["error"]
    panel.set(batch_key="own", labels_key="own", size_factor_key=None)
    assert "barcodes" in texts(panel, "batch_key")
    panel.set(layer="log", batch_key="batch", labels_key=None, gene_likelihood="normal")
    assert looked(panel).status == "ready" and "finite numbers" in texts(panel, "layer")


def test_a_table_of_proteins_is_offered_looked_at_and_in_the_code():
    cite = sca.datasets.cite_seq(120, 40, n_proteins=6, n_batches=2, n_types=4)
    panel = looked(TrainingPanel(cite, "TOTALVI", batch_key="batch", max_epochs=2, **TINY))
    (field,) = (one for one in panel.fields if one["name"] == "protein_key")
    assert [one["value"] for one in field["choices"]][:2] == [None, "protein_expression"]
    assert "obsm['protein_expression'] holds raw counts of 6 proteins." in texts(panel, "protein_key")
    panel.set(protein_key="protein_expected")
    assert "with a fraction" in texts(panel, "protein_key") and panel.status == "invalid"
    panel.set(protein_key="protein_expression")
    model = built(panel.code(), cite)
    panel.train().wait()
    assert 'protein_key="protein_expression"' in panel.code() and fingerprint(panel.model) == fingerprint(model)
    cite.obsm["more"] = cite.obsm["protein_expression"]
    panel.set(protein_key=None)
    assert "2 tables in obsm hold counts" in texts(looked(panel), "protein_key")


def test_receptors_are_looked_at_and_a_model_of_them_trained():
    cells = sca.datasets.receptors(120, 40, n_epitopes=4)
    options = {"n_hidden": 8, "n_latent": 4, "n_embedding": 8, "n_heads": 2}
    panel = looked(TrainingPanel(cells, "mvTCR", batch_key="batch", max_epochs=1, **options))
    n = cells.obs["clonotype"].nunique()
    said = texts(panel, "")
    assert f"obs['TRA_cdr3'] and obs['TRB_cdr3'] hold {n} distinct receptors." in said
    panel.train().wait()
    assert panel.model.get_latent_representation().shape == (120, 4)
    cells.obs["TRA_cdr3"] = ["", *cells.obs["TRA_cdr3"][1:]]
    panel = looked(TrainingPanel(cells, "mvTCR", batch_key="batch"))
    assert panel.status == "invalid" and "is empty in 1 of 120 cells" in texts(panel, "")


def test_of_a_mudata_or_one_matrix_the_panel_names_the_modalities_and_trains_a_multivae():
    cells = sca.datasets.multiome(120, 40, 30, 2, 4)
    panel = looked(TrainingPanel(cells, "MultiVAE", batch_key="batch", max_epochs=2, **TINY))
    assert panel.facts == "120 cells × 70 features"
    assert "There are rna (40 features), atac (30 features)." in texts(panel, "modality_key")
    assert panel.status == "ready"
    cells.obsm["modality_mask"]["atac"] = False
    panel.refresh()
    assert "says of none that it was measured" in texts(looked(panel), "modality_key")
    cells.obsm["modality_mask"]["atac"] = True
    parts = {name: cells[:, cells.var["modality"] == name].copy() for name in ("rna", "atac")}
    panel = looked(TrainingPanel(MuData(parts), "MultiVAE", batch_key="batch", max_epochs=2, **TINY))
    panel.train().wait()
    assert panel.model.get_latent_representation().shape == (120, 4)
    mapper = looked(MappingPanel(panel.model, cells))
    assert mapper.overlap["noun"] == "feature" and "120 cells × 70 features →" in mapper.facts
    assert panel.code().splitlines()[2] == (
        'model = sca.models.MultiVAE(adata, batch_key="batch", n_latent=4, n_hidden=16)'
    )


def test_gene_names_and_the_like_are_said_of_the_data_as_a_whole(atlas):
    adata = atlas.copy()
    adata.var_names = ["Gene"] * adata.n_vars
    panel = looked(TrainingPanel(adata))
    assert panel.status == "invalid" and "more than once" in texts(panel, "")


def test_a_matrix_is_looked_at_once_whatever_is_clicked(atlas, monkeypatch):
    scans = []
    scan = validation.Scan.__init__
    monkeypatch.setattr(validation.Scan, "__init__", lambda self, *asked: (scans.append(1), scan(self, *asked))[1])
    panel = looked(TrainingPanel(atlas))
    for batch_key in ("batch", None, "cell_type"):
        enter(panel, batch_key=batch_key, n_latent=5)
    assert len(scans) == 1
    enter(panel, gene_likelihood="normal")
    looked(panel)
    enter(panel, gene_likelihood="zinb")
    looked(panel)
    assert len(scans) == 2


def test_while_the_data_are_looked_at_nothing_can_start_and_train_in_python_waits(atlas, monkeypatch):
    gate = threading.Event()
    monkeypatch.setattr(training_panel, "OF_VALUES", (lambda asked: iter(gate.wait(20) and ()),))
    panel = TrainingPanel(atlas, max_epochs=1, **TINY)
    assert panel.blocked == "The data are being looked at." and panel.status == "ready"
    click(panel, "train")
    assert panel.run is None
    threading.Timer(0.1, gate.set).start()
    assert panel.train().wait(20) == "done"


def test_data_that_break_a_check_are_an_error_not_an_exception(atlas, monkeypatch):
    def broken(asked):
        raise MemoryError("no memory for this")
        yield

    monkeypatch.setattr(training_panel, "OF_VALUES", (broken,))
    panel = looked(TrainingPanel(atlas))
    assert panel.status == "invalid" and "no memory for this" in texts(panel, "layer")
    monkeypatch.setattr(training_panel, "OF_COLUMNS", (broken,))
    with nothing_raised():
        enter(panel, batch_key="batch")
    assert "no memory for this" in texts(panel, "")


def test_after_the_data_were_changed_a_refresh_looks_again(atlas):
    adata = atlas.copy()
    panel = looked(TrainingPanel(adata))
    adata.obs["donor"] = "one"
    adata.X = adata.X.log1p()
    panel.refresh()
    assert looked(panel).status == "invalid"
    panel.set(batch_key="donor")
    assert "same batch for all cells" in texts(panel, "batch_key")


# Training


def test_a_click_trains_the_model_of_the_code(panel, atlas):
    click(panel, "train")
    assert panel.wait(30) == "done"
    assert panel.model.is_trained and len(panel.run.epochs) == 2
    assert panel.progress["n_epochs"] == panel.progress["max_epochs"] == 2
    assert panel.progress["loss"] == pytest.approx(panel.run.epochs[-1].train["unweighted_loss"])
    assert fingerprint(built(panel.code(), atlas)) == fingerprint(panel.model)


def test_the_code_holds_only_what_is_not_the_default(atlas):
    panel = TrainingPanel(atlas)
    assert panel.code() == "import scarches_widgets as sca\n\nmodel = sca.models.SCVI(adata)\nmodel.train()\n"
    enter(panel, batch_key="batch", seed=3, early_stopping=True, patience=5, train_size=0.9)
    assert panel.code().splitlines()[2:] == [
        'model = sca.models.SCVI(adata, batch_key="batch", seed=3)',
        'model.train(early_stopping=True, seed=3, early_stopping_kwargs={"patience": 5})',
    ]
    assert panel.script == panel.code()


def test_names_that_look_like_code_stay_names(atlas):
    adata = atlas.copy()
    name = "'\"); import os; os.abort() #\n"
    adata.obs[name] = adata.obs["batch"]
    panel = looked(TrainingPanel(adata, batch_key=name, max_epochs=1, **TINY))
    model = built(panel.code(), adata)
    assert model.schema.batch_key == name
    assert panel.train().wait(30) == "done" and fingerprint(model) == fingerprint(panel.model)


def test_a_second_training_is_refused_while_one_runs(endless):
    run = endless.train()
    assert endless.blocked == "The training is under way."
    click(endless, "train")
    assert endless.run is run and endless.error["what"] == "The training is under way."
    with pytest.raises(RuntimeError, match="under way"):
        endless.train()
    with pytest.raises(RuntimeError, match="is being trained"):
        endless.model.train()


def test_a_click_brings_the_entries_that_the_page_still_held_back(panel):
    click(panel, "train", values={**panel.values, "max_epochs": 3, "n_latent": 4})
    wait_until(lambda: panel.status == "done")
    assert len(panel.run.epochs) == 3 and panel.model.config.n_latent == 4
    click(panel, "train", values={**panel.values, "n_latent": -1})
    assert panel.status == "invalid" and not panel._busy
    assert panel.error["what"].startswith("Latent dimensions must be a whole number")


def test_of_two_clicks_at_once_one_trains(endless):
    clicks = [threading.Thread(target=click, args=(endless, "train")) for _ in range(8)]
    runs = []
    endless.watch_runs(runs.append)
    for one in clicks:
        one.start()
    for one in clicks:
        one.join()
    wait_until(lambda: endless.run is not None and endless.run.is_active)
    time.sleep(0.2)
    assert len(runs) == 1


def test_a_model_that_is_trained_by_hand_counts_as_in_training(panel):
    panel.train().wait(30)
    run = panel.model.train(max_epochs=100_000, background=True)
    assert panel.status == "running" and panel.run is run
    click(panel, "train")
    assert panel.run is run
    click(panel, "stop")
    assert run.wait(10) == "stopped"
    assert panel.wait(10) == "stopped"


def test_an_older_model_is_not_this_panels_any_more(panel):
    panel.train().wait(30)
    older = panel.model
    panel.train().wait(30)
    run = panel.run
    older.train(max_epochs=1, progress=False)
    assert panel.model is not older and panel.run is run


def test_stop_comes_within_a_second_and_leaves_a_usable_model(endless, atlas):
    click(endless, "train")
    wait_until(lambda: endless.run is not None and len(endless.run.epochs) > 1)
    start = time.monotonic()
    click(endless, "stop", when="batch")
    assert endless.wait(10) == "stopped" and time.monotonic() - start < 1
    assert np.isfinite(endless.model.get_latent_representation()).all()
    assert endless.progress["reason"] == "stopped after the batch"
    assert endless.blocked == ""


def test_stop_after_the_epoch_ends_with_a_whole_epoch(endless):
    endless.train()
    click(endless, "stop", when="epoch")
    assert endless.wait(10) == "stopped" and len(endless.run.epochs) >= 1


def test_a_stop_before_the_first_step_is_not_forgotten(endless, monkeypatch):
    gate = threading.Event()
    monkeypatch.setattr(
        sca.models.SCVI, "_start", lambda self, adata, start=sca.models.SCVI._start: (gate.wait(20), start(self, adata))
    )
    click(endless, "train")
    wait_until(lambda: endless.progress["stage"])
    assert endless.status == "running"
    click(endless, "stop")
    assert endless.status == "stopping"
    gate.set()
    assert endless.wait(10) == "stopped" and endless.run is None
    monkeypatch.undo()
    assert endless.train().status == "running"


def test_pause_holds_the_run_and_resume_goes_on(endless):
    endless.train()
    wait_until(lambda: endless.run.epochs)
    click(endless, "pause")
    wait_until(lambda: endless.status == "paused")
    n_epochs = len(endless.run.epochs)
    time.sleep(0.1)
    assert len(endless.run.epochs) == n_epochs
    click(endless, "resume")
    wait_until(lambda: len(endless.run.epochs) > n_epochs)
    assert endless.status == "running"


def test_while_it_trains_the_options_cannot_change(endless):
    endless.train()
    before = dict(endless.values)
    with nothing_raised():
        enter(endless, n_latent=9)
    assert endless.values == before
    with pytest.raises(RuntimeError, match="cannot change"):
        endless.set(n_latent=9)


def test_a_failed_training_says_so_and_the_form_can_be_mended(panel):
    panel.set(schedule="published", lr=1e30, max_epochs=5)
    click(panel, "train")
    assert panel.wait(30) == "failed"
    assert "NaN" in panel.error["what"] and "lr=" in panel.error["mend"]
    panel.set(lr=None)
    assert panel.status == "ready" and panel.error is None
    assert panel.train().wait(30) == "done"


def test_what_fails_before_the_first_step_is_told_too(panel):
    panel.set(train_size=0.001)
    click(panel, "train")
    assert panel.wait(30) == "failed"
    assert "at least 2 cells" in panel.error["what"]
    with pytest.raises(ValueError, match="at least 2 cells"):
        panel.train()
    assert panel.status == "failed" and panel.blocked == ""


def test_its_monitor_shows_each_of_its_runs(panel):
    monitor = panel.monitor
    assert isinstance(monitor, LossMonitor) and monitor.status == "empty" and panel.monitor is monitor
    panel.train().wait(30)
    wait_until(lambda: monitor.status == "done" and len(monitor.history) == 2)
    panel.set(max_epochs=3)
    panel.train().wait(30)
    wait_until(lambda: monitor.status == "done" and len(monitor.history) == 3)


def test_warnings_of_its_threads_are_shown_not_printed(atlas, capfd):
    adata = atlas.copy()
    adata.obs["donor"] = "one"
    panel = looked(TrainingPanel(adata, batch_key="donor", max_epochs=1, **TINY))
    assert levels(panel, "batch_key") == ["warning"]
    panel.train().wait(30)
    assert panel.progress["notes"] == []  # told at the option already
    assert "same batch" not in capfd.readouterr().err


def test_only_the_own_threads_warnings_are_collected():
    inside, outside = threading.Event(), threading.Event()

    def other():
        inside.wait(10)
        warnings.warn("of another thread", stacklevel=1)
        outside.set()

    thread = threading.Thread(target=other)
    with warnings.catch_warnings(record=True) as elsewhere:
        warnings.simplefilter("always")
        thread.start()
        with collected_warnings() as texts:
            inside.set()
            outside.wait(10)
            warnings.warn("of this thread", stacklevel=1)
        thread.join()
    assert texts == ["of this thread"]
    assert [str(one.message) for one in elsewhere] == ["of another thread"]


def test_the_anndata_stays_as_it_is(atlas):
    adata = atlas.copy()
    panel = looked(TrainingPanel(adata, batch_key="batch", max_epochs=1, **TINY))
    panel.train().wait(30)
    assert (
        list(adata.obs) == list(atlas.obs)
        and list(adata.uns) == list(atlas.uns)
        and list(adata.obsm) == list(atlas.obsm)
    )
    assert (adata.X != atlas.X).nnz == 0


def test_what_a_model_needs_besides_a_matrix_is_looked_for_before_anything_runs(atlas):
    adata = atlas.copy()
    bare = looked(TrainingPanel(adata, "EXPIMAP"))
    assert bare.status == "invalid" and "has no 'I', so EXPIMAP has no gene programs" in bare.blocked
    assert "add_annotations" in bare.blocked
    assert "spatial" in looked(TrainingPanel(adata, "SageNet")).blocked
    adata.varm["I"] = np.zeros((adata.n_vars, 2), dtype=int)
    adata.varm["I"][:5, 0] = adata.varm["I"][3:9, 1] = 1
    adata.uns["terms"] = ["first", "second"]
    panel = looked(TrainingPanel(adata, "EXPIMAP"))
    assert panel.status == "ready" and "which of 9 genes belong to 2 programs" in texts(panel, "")


def test_of_each_model_it_is_said_whether_the_cells_have_what_it_needs(panel, atlas):
    told = {one["text"].rstrip("."): one for one in panel.fits}
    assert set(told) == set(sca.models.__all__)
    fit = {name for name, one in told.items() if one["level"] == "ok"}
    assert fit == {"SCVI", "SCANVI", "TRVAE", "scPoli"}
    assert "cell_type" in told["SCANVI"]["more"]
    assert "No table in obsm holds counts of proteins" in told["TOTALVI"]["more"]
    assert [one["level"] for one in panel.fits] == sorted((one["level"] for one in panel.fits), reverse=True)
    cite = looked(TrainingPanel(sca.datasets.cite_seq(n_obs=60)))
    assert "TOTALVI." in [one["text"] for one in cite.fits if one["level"] == "ok"]


# Settings


def test_presets_fill_in_a_schedule_and_leave_the_data_alone(panel):
    panel.set(n_latent=5, dropout_rate=0.3)
    panel.preset("published")
    changed = panel.settings.options
    assert changed == {"batch_key": "batch", "schedule": "published"}
    click(panel, "preset", name="default")
    wait_until(lambda: panel.settings.options == {"batch_key": "batch"})
    with pytest.raises(ValueError, match=r"no preset 'publish'\. Did you mean 'published'"):
        panel.preset("publish")
    click(panel, "preset", name="__class__")
    assert panel.status == "ready"


def test_the_teaching_preset_takes_as_many_epochs_as_fit_a_minute_here(panel, monkeypatch):
    slow = Estimate(9, seconds_per_epoch=5.0, max_epochs=40, memory=5 * 10**8, memory_limit=2 * 10**9)
    monkeypatch.setattr(training_settings, "probe", lambda begin, kept: slow)
    panel.preset("teaching")
    assert panel.values["max_epochs"] == 10 and panel.status == "ready"
    assert panel.estimate.startswith("Training will take about 50 s: 10 epochs of 5 s, measured on 9 steps.")
    assert "0.5 GB of the 2 GB" in panel.estimate
    panel.set(max_epochs=11)
    assert panel.estimate == "", "what was measured is told only of what is filled in"


def test_an_estimate_is_measured_on_a_few_steps_and_leaves_the_last_training_as_it_is(panel):
    run = panel.train()
    assert run.wait(30) == "done"
    panel.wait(10)
    model, n = panel.model, len(run.epochs)
    panel.set(max_epochs=100_000)
    cost = panel.measure()
    assert cost.max_epochs == 100_000 and cost.n_steps >= 2 and 0 < cost.seconds_per_epoch < 5
    assert "100,000 epochs" in panel.estimate and cost.memory < cost.memory_limit
    assert panel.model is model and panel.run is run and len(run.epochs) == n and panel.status == "ready"
    enter(panel, n_latent=-1)
    click(panel, "estimate")
    assert "must be a whole number" in panel.error["what"]


def test_settings_go_to_a_file_and_back_and_their_fingerprint_is_noted(panel, atlas, tmp_path):
    adata = atlas.copy()
    first = looked(TrainingPanel(adata, batch_key="batch", max_epochs=7, seed=3, **TINY))
    path = first.save_settings(tmp_path / "settings.json")
    note = adata.uns["scarches_widgets"]["training"]
    assert note == {"model": "SCVI", "sha256": first.settings.sha256}
    panel.set(dropout_rate=0.5)
    panel.load_settings(path)
    assert panel.values == first.values and panel.settings.sha256 == note["sha256"]
    assert looked(TrainingPanel(adata)).code() != first.code(), "a note of settings is no key of the data"
    sent = []
    panel.send = lambda content, buffers=None: sent.append(content)
    click(panel, "save")
    panel.set(seed=9)
    click(panel, "load", text=sent[0]["text"])
    assert panel.values == first.values


def test_settings_that_do_not_fit_change_nothing(panel, atlas, tmp_path):
    before = dict(panel.values)
    path = panel.save_settings(tmp_path / "settings.json")
    text = path.read_text()
    click(panel, "load", text=text.replace('"max_epochs": 2', '"max_epochs": 3'))
    assert "were changed after they were saved" in panel.error["what"]
    click(panel, "load", text="{}")
    assert "holds no settings of a training" in panel.error["what"]
    for wrong in (Settings("SCVI", {"n_latnet": 3}), Settings("SCVI", {"batch_key": "donor"}), Settings("SCANVI", {})):
        path.write_text(wrong.as_json())
        with pytest.raises((TypeError, ValueError), match=r"n_latent|batch_key|SCANVI"):
            panel.load_settings(path)
    assert panel.values == before
    enter(panel, n_latent=-1)
    with pytest.raises(ValueError, match="before the settings are saved"):
        panel.save_settings(path)


KILLED = """
import os, sys, scarches_widgets as sca
adata = sca.read("atlas.h5ad")
keeping = dict(checkpoint_dir="runs", checkpoint_every=0.0)
panel = sca.widgets.TrainingPanel(adata, batch_key="batch", max_epochs=12, **keeping, {options})
def die(event):
    if type(event).__name__ == "EpochEnded" and event.epoch == 5: os.kill(os.getpid(), 9)
panel.watch_runs(lambda run: run.subscribe(die))
panel.train().wait(120)
"""


def test_an_unfinished_run_of_another_model_is_not_offered_and_the_panel_says_why(atlas, tmp_path):
    (tmp_path / "run-001" / "epoch-000002-step-00000000").mkdir(parents=True)
    (tmp_path / "run-001" / "settings.json").write_text(Settings("SCANVI", {}).as_json())
    panel = TrainingPanel(atlas, checkpoint_dir=tmp_path)
    assert panel.resumable == "" and "These are settings of SCANVI" in panel.error["what"]


@pytest.mark.slow
def test_after_the_kernel_was_killed_a_new_panel_goes_on_to_the_same_bits(atlas, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    atlas.write_h5ad("atlas.h5ad")
    options = ", ".join(f"{name}={value}" for name, value in TINY.items())
    done = subprocess.run([sys.executable, "-c", KILLED.format(options=options)], timeout=120)
    assert done.returncode == -9
    adata = sca.read("atlas.h5ad")
    panel = looked(TrainingPanel(adata, checkpoint_dir="runs"))
    assert re.search(r"run-001 was left in epoch [56]: its kernel has ended", panel.resumable)
    assert panel.values["max_epochs"] == 12 and panel.values["n_latent"] == 4
    click(panel, "go_on")
    assert panel.wait(60) == "done" and len(panel.run.epochs) == 12
    whole = sca.models.SCVI(adata, batch_key="batch", n_hidden=16, n_latent=4)
    whole.train(max_epochs=12, batch_size=64, progress=False)
    assert fingerprint(panel.model) == fingerprint(whole)
    assert 'checkpoint_dir="runs/run-001", resume=True' in panel.code()
    assert panel.resumable == ""
    with pytest.raises(RuntimeError, match="runs holds no unfinished run"):
        panel.train(resume=True)
    panel.set(max_epochs=1)
    assert "checkpoint_dir" not in panel.code(), "those are of another run"
    panel.train().wait(30)
    assert (tmp_path / "runs" / "run-002" / "settings.json").exists()
    with pytest.raises(RuntimeError, match=r"no checkpoint_dir was given"):
        looked(TrainingPanel(adata)).train(resume=True)


# Without a kernel, and against forgery


def test_the_saved_notebook_has_its_text_and_code_as_text(atlas):
    adata = atlas.copy()
    adata.obs["<script>"] = adata.obs["batch"]
    panel = looked(TrainingPanel(adata, batch_key="<script>", max_epochs=1, **TINY))
    data, _ = panel._repr_mimebundle_()
    assert "<script>" not in data["text/html"] and "&lt;script&gt;" in data["text/html"]
    assert "300 cells × 40 genes" in data["text/plain"]
    panel.train().wait(30)
    assert "done after 1 epoch at" in panel._repr_mimebundle_()[0]["text/plain"]
    assert panel.snapshot("png").data.startswith(b"\x89PNG")


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


@pytest.fixture(scope="module")
def untouched(atlas):
    return looked(TrainingPanel(atlas, batch_key="batch", n_latent=4))


@settings(max_examples=500, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), value=json_values, op=st.text(max_size=6))
def test_forged_messages_start_nothing_and_break_nothing(untouched, data, value, op):
    panel = untouched
    option = data.draw(st.sampled_from(sorted(panel.values)))
    with nothing_raised():
        for state in (
            {"values": value},
            {"values": {option: value, "evil": value}},
            {"status": value},
            {"remarks": {}},
            value,
        ):
            panel._handle_msg({"content": {"data": {"method": "update", "state": state}}, "buffers": []})
        for content in (
            value,
            {"op": op},
            {"op": "pause", "x": value},
            {"op": "resume"},
            {"op": "stop", "when": value},
        ):
            panel._handle_msg({"content": {"data": {"method": "custom", "content": content}}, "buffers": []})
        assert panel.status in ("ready", "invalid") and panel.run is None and panel.model is None
        assert set(panel.values) == {one["name"] for one in panel.fields}
        enter(panel, n_latent=-1)  # an off button cannot be forced
        for content in ({"op": "train"}, {"op": "train", "force": value}, {"op": "train", "values": {"n_latent": -2}}):
            panel._handle_msg({"content": {"data": {"method": "custom", "content": content}}, "buffers": []})
        assert panel.status == "invalid" and panel.run is None and not panel._busy
        enter(panel, **{field["name"]: field["default"] for field in panel.fields})
        wait_until(lambda: not panel._is_looking)
        assert panel.status == "ready" and not panel.blocked


# scANVI


@pytest.fixture
def partly_labelled(atlas):
    cells = atlas.copy()
    cells.obs["cell_type"] = cells.obs["cell_type"].astype(object)
    cells.obs.loc[cells.obs_names[::4], "cell_type"] = "Unknown"
    return cells


def test_a_model_that_learns_labels_asks_for_them_and_for_what_stands_for_none(partly_labelled):
    panel = looked(TrainingPanel(partly_labelled, "SCANVI", batch_key="batch", max_epochs=1, **TINY))
    assert panel.status == "invalid" and "SCANVI learns from labels" in texts(panel, "labels_key")
    [field] = [one for one in panel.fields if one["name"] == "unlabeled_category"]
    values = [choice["value"] for choice in field["choices"]]
    assert values[:2] == [None, "Unknown"] and {"Naive B", "batch1"} <= set(values)
    enter(panel, labels_key="cell_type", unlabeled_category="Unknown")
    assert looked(panel).status == "ready"
    assert {"classification_weight", "n_samples_per_label", "linear_classifier"} <= set(panel.values)
    click(panel, "train")
    assert panel.wait(60) == "done", panel.error
    assert "Unknown" not in panel.model.schema.labels and panel.model.schema.unlabeled_category == "Unknown"
    assert set(panel.model.predict()) <= set(panel.model.schema.labels)


def test_the_code_of_a_model_that_learns_labels_makes_the_same_model(partly_labelled):
    panel = looked(TrainingPanel(partly_labelled, "SCANVI", batch_key="batch", labels_key="cell_type", **TINY))
    panel.set(unlabeled_category="Unknown", classification_weight=20.0, n_samples_per_label=9, max_epochs=1)
    click(panel, "train")
    assert panel.wait(60) == "done", panel.error
    code = panel.code()
    assert 'unlabeled_category="Unknown"' in code and "classification_weight=20.0, n_samples_per_label=9" in code
    assert fingerprint(built(code, partly_labelled)) == fingerprint(panel.model)


def test_a_model_that_can_do_without_labels_trains_with_and_without_them(partly_labelled):
    panel = looked(TrainingPanel(partly_labelled, "scPoli", batch_key="batch", max_epochs=2))
    assert panel.status == "ready", panel.remarks
    click(panel, "train")
    assert panel.wait(60) == "done", panel.error
    assert "train_prototype" not in panel.model.history
    enter(panel, labels_key="cell_type", unlabeled_category="Unknown", prototype_weight=3.0, clustering="kmeans")
    assert looked(panel).status == "ready"
    click(panel, "train")
    assert panel.wait(60) == "done", panel.error
    assert panel.model.history["train_prototype"].tolist()[0] == 0 < panel.model.history["train_prototype"].tolist()[1]
    assert "distance from prototypes, training" in [one["label"] for one in panel.monitor.series]
    assert fingerprint(built(panel.code(), partly_labelled)) == fingerprint(panel.model)


def test_models_that_learn_no_labels_are_not_asked_what_stands_for_none(panel):
    assert "unlabeled_category" not in panel.values and "classification_weight" not in panel.values


# Several processes


def test_models_that_several_processes_can_train_offer_it_and_the_options_of_training_are_theirs(panel, monkeypatch):
    def in_one(model, n_processes, **options):
        asked.append((n_processes, options))
        return model.train(background=True, **options)

    asked = []
    monkeypatch.setattr(processes, "train_in_processes", in_one)
    panel.set(processes=2)
    assert "train_in_processes(model, 2, max_epochs=2, batch_size=64).wait()" in panel.code()
    panel.train().wait()
    assert panel.wait() == "done" and asked == [(2, {"max_epochs": 2, "batch_size": 64})]
    assert panel.progress["controls"] == ("pause", "stop")
    enter(panel, processes=0)
    assert levels(panel, "processes") == ["error"]
    assert "processes" not in {one["name"] for one in TrainingPanel(panel.adata, "scPoli").fields}


@pytest.mark.slow
def test_two_processes_are_stopped_from_the_panel_with_the_model_of_one_and_a_killed_one_is_named(endless):
    import psutil

    endless.set(processes=2)
    monitor = endless.monitor
    run = endless.train()
    wait_until(lambda: len(run.epochs) >= 2, 100)
    assert endless.status == "running" and monitor.run is run
    click(endless, "pause")
    assert endless.status == "running"
    click(endless, "stop", when="epoch")
    assert endless.wait(60) == "stopped" and not run.folder.exists()
    n_epochs = len(endless.model.history)
    assert n_epochs == len(run.history) == len(monitor.history) >= 2
    alone = sca.models.SCVI(endless.adata, batch_key="batch", n_hidden=16, n_latent=4)
    n_steps = n_epochs * run.started.steps_per_epoch
    alone.watch_runs(lambda of_one: of_one.stop_after(n_steps, n_epochs))
    alone.train(max_epochs=100_000, batch_size=64, progress=False)
    np.testing.assert_allclose(
        endless.model.history["train_unweighted_loss"], alone.history["train_unweighted_loss"], rtol=1e-3
    )
    run = endless.train()
    wait_until(lambda: len(run.epochs) >= 1, 100)
    ranks = [psutil.Process(process.pid) for process in run.processes]
    heard = {one.laddr.ip for rank in ranks for one in rank.net_connections() if one.status == psutil.CONN_LISTEN}
    assert heard == {"127.0.0.1"}, "nobody else's machine can talk to them"
    ranks[1].kill()
    assert endless.wait(60) == "failed" and "Process 2 of 2 was killed by SIGKILL" in endless.error["what"]
    assert not endless.model.is_trained and not any(rank.is_running() for rank in ranks)
