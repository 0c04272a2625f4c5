"""The command line, as a user types it."""

import json

import anndata as ad
import numpy as np
import pandas as pd
import pytest

import scarches_widgets as sca
from scarches_widgets.cli import main

QUICK = ["--train", "max_epochs=2", "--train", "batch_size=64", "--config", "n_hidden=16", "--config", "n_latent=4"]


@pytest.fixture
def atlas_file(atlas, tmp_path):
    path = tmp_path / "atlas.h5ad"
    atlas.write_h5ad(path)
    return path


def run(*arguments) -> int:
    return main([str(argument) for argument in arguments])


def test_map_trains_a_reference_and_writes_labels_embedding_models_and_report(atlas_file, tmp_path, capsys):
    out = tmp_path / "mapped"
    status = run("map", "--reference", atlas_file, "--query-batches", "batch2", "--batch-key", "batch",
                 "--labels-key", "cell_type", "--out", out, *QUICK)  # fmt: skip
    assert status == 0
    written = {path.name for path in out.iterdir()}
    assert written == {
        "labels.csv", "scores.csv", "mapped.h5ad", "report.html", "reference_model", "query_model",
    }  # fmt: skip
    labels = pd.read_csv(out / "labels.csv", index_col="cell")
    assert (labels["batch"] == "batch2").all() and labels["uncertainty"].between(0, 1).all()
    cells = ad.read_h5ad(out / "mapped.h5ad")
    assert cells.obsm["X_mapped"].shape == (300, 4)
    assert sca.models.SCVI.load(out / "query_model").schema.batches == ("batch0", "batch1", "batch2")
    assert "surgery + kNN" in capsys.readouterr().out


def test_map_with_a_tree_writes_it_and_what_it_calls_the_query(atlas_file, tmp_path):
    out = tmp_path / "mapped"
    status = run("map", "--reference", atlas_file, "--query-batches", "batch2", "--batch-key", "batch", "--tree-key",
                 "type_level2", "--out", out, *QUICK)  # fmt: skip
    assert status == 0
    tree = sca.hierarchy.Hierarchy.from_json((out / "tree.json").read_text())
    assert tree.datasets == ["batch0", "batch1"] and "T cells" in tree
    labels = pd.read_csv(out / "labels.csv", index_col="cell")
    assert list(labels) == ["batch", "named", "path_probability", "gate"]
    assert "Tree of types" in (out / "report.html").read_text() and not (out / "scores.csv").exists()


def test_map_with_a_model_that_learns_labels_writes_its_own_beside_the_neighbours(atlas_file, tmp_path):
    out = tmp_path / "mapped"
    status = run("map", "--model", "SCANVI", "--reference", atlas_file, "--query-batches", "batch2", "--batch-key",
                 "batch", "--labels-key", "cell_type", "--out", out, *QUICK)  # fmt: skip
    assert status == 0
    labels = pd.read_csv(out / "labels.csv", index_col="cell")
    assert list(labels) == ["batch", "predicted", "uncertainty", "classified", "classified_uncertainty", "novelty"]
    assert labels["novelty"].between(0, 1).all()
    scores = pd.read_csv(out / "scores.csv", index_col="method")
    truth = ad.read_h5ad(atlas_file).obs.loc[labels.index, "cell_type"]
    assert scores.loc["surgery + classifier", "accuracy"] == pytest.approx((labels["classified"] == truth).mean())
    query = sca.models.SCANVI.load(out / "query_model")
    assert query.ignores_labels and "train_classification" not in query.history  # the query's labels are for scores


def test_train_saves_a_model_onto_which_map_maps_another_file(atlas, atlas_file, tmp_path):
    model, out, query = tmp_path / "model", tmp_path / "mapped", tmp_path / "query.h5ad"
    atlas[atlas.obs["batch"] == "batch2"].copy().write_h5ad(query)
    assert (
        run("train", "--reference", atlas_file, "--leave-out", "batch2", "--batch-key", "batch", "--out", model, *QUICK)
        == 0
    )
    assert run("map", "--reference", atlas_file, "--reference-batches", "batch0", "batch1", "--query", query,
               "--saved-model", model, "--batch-key", "batch", "--labels-key", "cell_type", "--threshold", "0.2",
               "--out", out, "--query-train", "max_epochs=1") == 0  # fmt: skip
    labels = pd.read_csv(out / "labels.csv", index_col="cell")
    assert list(labels.index) == list(ad.read_h5ad(query).obs_names)
    np.testing.assert_array_equal(labels["predicted"] == "Unknown", labels["uncertainty"] > 0.2)


def test_options_may_stand_in_a_toml_file_and_the_command_line_wins(atlas_file, tmp_path):
    job = tmp_path / "job.toml"
    job.write_text(
        f'reference = "{atlas_file}"\nout = "{tmp_path / "from_file"}"\nbatch_key = "batch"\n'
        "[config]\nn_latent = 3\nn_hidden = 16\n[train]\nmax_epochs = 1\n"
    )
    assert run("train", job, "--out", tmp_path / "from_option", "--config", "n_latent=5") == 0
    assert not (tmp_path / "from_file").exists()
    model = sca.models.SCVI.load(tmp_path / "from_option")
    assert (model.config.n_latent, model.config.n_hidden, len(model.history)) == (5, 16, 1)


def test_json_prints_one_event_per_line(atlas_file, tmp_path, capsys):
    assert (
        run("train", "--json", "--reference", atlas_file, "--batch-key", "batch", "--out", tmp_path / "m", *QUICK) == 0
    )
    events = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [event["event"] for event in events] == [
        "Estimated",
        "RunStarted",
        "EpochEnded",
        "EpochEnded",
        "RunEnded",
        "Saved",
        "Done",
    ]
    assert 0 < events[0]["seconds"] < 60 and events[0]["max_epochs"] == 2 and events[0]["disk"] == 0
    assert events[2]["train"]["reconstruction"] > 0


MISTAKES = {
    "no file": (["train", "--out", "m"], "reference must be given"),
    "missing file": (["train", "--reference", "no.h5ad", "--out", "m"], "no.h5ad"),
    "misspelt key": (["train", "--reference", "ATLAS", "--batch-key", "bach", "--out", "m"], "Did you mean 'batch'?"),
    "misspelt option": (["train", "--reference", "ATLAS", "--config", "n_latnt=3", "--out", "m"], "n_latent"),
    "bad value": (["train", "--reference", "ATLAS", "--train", "max_epochs=0", "--out", "m"], "max_epochs=0"),
    "no query": (["map", "--reference", "ATLAS", "--out", "m"], "There is no query"),
    "unknown batch": (
        ["map", "--reference", "ATLAS", "--batch-key", "batch", "--query-batches", "batch9", "--out", "m"],
        "no batch 'batch9'",
    ),
    "unknown model": (["train", "--reference", "ATLAS", "--model", "SCVII", "--out", "m"], "Did you mean 'SCVI'?"),
    "not an assignment": (["train", "--reference", "ATLAS", "--config", "n_latent", "--out", "m"], "NAME=VALUE"),
}


@pytest.mark.parametrize(("arguments", "message"), MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_ends_with_a_sentence_and_leaves_nothing_behind(
    arguments, message, atlas_file, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    arguments = [str(atlas_file) if argument == "ATLAS" else argument for argument in arguments]
    assert main(arguments) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "m").exists()


def test_doctor_names_versions_limits_and_what_fits(capsys):
    assert run("doctor", "--json") == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["torch"] and facts["cpus"] >= 1 and facts["memory_gb"] > 0
    fits = list(facts["cells_that_fit"].values())
    assert fits == sorted(fits, reverse=True)


@pytest.mark.parametrize("is_binder", [False, True])
def test_doctor_explains_a_session_on_binder(is_binder, monkeypatch, capsys):
    for name in ("BINDER_LAUNCH_HOST", "BINDER_SERVICE_HOST"):
        monkeypatch.delenv(name, raising=False)
    if is_binder:
        monkeypatch.setenv("BINDER_LAUNCH_HOST", "https://mybinder.org/")
    assert run("doctor") == 0
    assert ("public and temporary" in capsys.readouterr().out) is is_binder


def test_lab_opens_a_copy_of_the_tour_and_keeps_the_users_changes(tmp_path, capsys):
    assert run("lab", "--folder", tmp_path, "--no-browser", "--dry-run", "--json") == 0
    command = json.loads(capsys.readouterr().out)["command"]
    assert command[1:3] == ["-m", "jupyterlab"] and command[3] == str(tmp_path / "00_tour.ipynb")
    (tmp_path / "00_tour.ipynb").write_text("mine")
    assert run("lab", "--folder", tmp_path, "--dry-run") == 0
    assert (tmp_path / "00_tour.ipynb").read_text() == "mine"


@pytest.mark.slow
def test_the_demo_labels_an_unseen_batch_better_than_the_baseline(tmp_path):
    assert run("demo", "--out", tmp_path) == 0
    scores = pd.read_csv(tmp_path / "scores.csv", index_col="method")
    ours, baseline = scores.loc["surgery + kNN"], scores.loc["PCA + kNN"]
    assert ours["accuracy"] >= 0.9
    assert (ours > baseline).all()
    assert (tmp_path / "report.html").stat().st_size < 2e6
    tree = sca.hierarchy.Hierarchy.from_json((tmp_path / "tree.json").read_text())
    families = {node.name: {child.name for child in node.children} for node in tree.root.children}
    assert families.pop(tree["CD56dim NK"].name) == set(), "one type is its family"
    assert families == {
        "T cells": {"CD4 naive T", "CD4 memory T", "CD8 cytotoxic T"},
        "B cells": {"Naive B", "Memory B"},
        "Monocytes": {"Classical monocyte", "Nonclassical monocyte"},
    }
    labels = pd.read_csv(tmp_path / "labels.csv", index_col="cell")
    truth = ad.read_h5ad(tmp_path / "simulated_atlas.h5ad").obs.loc[labels.index, "cell_type"]
    assert (labels["named"] == truth).mean() > 0.85


SMALL_DEMO = {"n_obs": 800, "n_vars": 200, "n_batches": 3, "n_types": 4}


@pytest.mark.slow
@pytest.mark.parametrize("model", ["TRVAE", "EXPIMAP", "SCANVI", "scPoli", "TOTALVI"])
def test_the_demo_runs_with_the_model_of_choice(model, tmp_path, monkeypatch):
    monkeypatch.setattr("scarches_widgets.cli.DEMO", SMALL_DEMO)
    assert run("demo", "--model", model, "--out", tmp_path) == 0
    assert pd.read_csv(tmp_path / "scores.csv", index_col="method").loc["surgery + kNN", "accuracy"] > 0.5
    query = getattr(sca.models, model).load(tmp_path / "query_model")
    assert sorted(query.schema.batches) == ["batch0", "batch1", "batch2"]
    if model == "EXPIMAP":
        assert "Hypoxia" in query.terms


@pytest.mark.slow
def test_the_demo_places_a_section_in_another_one_better_than_neighbours(tmp_path, monkeypatch):
    monkeypatch.setattr("scarches_widgets.cli.TISSUE_DEMO", {"n_obs": 1000, "n_vars": 80, "n_sections": 2})
    assert run("demo", "--model", "SageNet", "--out", tmp_path) == 0
    scores = pd.read_csv(tmp_path / "scores.csv", index_col="method")["distance_correlation"]
    assert scores["SageNet"] > scores.drop("SageNet").max() + 0.05
    assert len(pd.read_csv(tmp_path / "places.csv", index_col="cell")) == 500
    assert "placed by SageNet" in (tmp_path / "report.html").read_text(encoding="utf-8")
    assert sca.models.SageNet.load(tmp_path / "model").is_trained


def test_the_demo_names_the_models_there_are(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("scarches_widgets.cli.DEMO", SMALL_DEMO)
    assert run("demo", "--model", "EXPIMAB", "--out", tmp_path) == 2
    assert "no model 'EXPIMAB'. Did you mean 'EXPIMAP'" in capsys.readouterr().err
