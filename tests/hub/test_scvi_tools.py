"""Models that scvi-tools saved, by what it computes itself; and ours, written for it and read again."""

import pickle

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import torch
from small import QUICK, SMALL

import scarches_widgets as sca
from scarches_widgets.data.container import DamagedFile
from scarches_widgets.hub.pickles import read_torch
from scarches_widgets.mapping import metrics

FOLDERS = {
    "scanvi_0.16.1_pancreas": (1000, 3, 8), "scanvi_1.0.3_synthetic": (100, 1, 2), "scanvi_1.4.2_kang": (400, 6, 8),
    "scvi_0.15.5_synthetic": (100, 2, 3), "scvi_0.16.1_pancreas": (1000, 3, 8), "scvi_0.8.0_synthetic": (100, 2, 3),
    "scvi_1.4.2_kang": (400, 6, 0), "totalvi_1.1.5_synthetic": (100, 2, 0), "totalvi_1.4.2_cite": (500, 2, 0),
    "totalvi_mudata_1.3.0_synthetic": (100, 2, 0),
}  # fmt: skip
KEYS = {"batch_key": "batch", "labels_key": "cell_type", "unlabeled_category": "Unknown"}


@pytest.mark.realdata
@pytest.mark.parametrize("folder", FOLDERS)
def test_every_checkpoint_is_read_without_its_data(real_data, folder):
    model = sca.hub.from_scvi_tools(real_data / "checkpoints" / folder)
    assert type(model).__name__.lower() == folder.split("_")[0]
    assert model.is_trained and model.adata is None
    assert (model.schema.n_genes, len(model.schema.batches), len(model.schema.labels)) == FOLDERS[folder]


@pytest.mark.realdata
@pytest.mark.parametrize("folder", ["scvi_1.4.2_kang", "scanvi_1.4.2_kang", "totalvi_1.4.2_cite"])
def test_a_model_of_scvi_tools_gives_the_same_latents_and_class_probabilities_here(real_data, folder):
    expected = np.load(real_data / "checkpoints" / folder / "expected.npz", allow_pickle=False)
    file = "cite_pbmc.h5ad" if folder.endswith("cite") else "pbmc_kang_donors.h5ad"
    cells = ad.read_h5ad(real_data / file)[expected["obs_names"].astype(str)].copy()
    model = sca.hub.from_scvi_tools(real_data / "checkpoints" / folder, cells)
    latents = expected[f"X_{folder.split('_')[0]}"]
    np.testing.assert_allclose(model.get_latent_representation(), latents, atol=1e-4)
    if "soft" in expected:
        assert list(model.schema.labels) == expected["soft_columns"].tolist()
        np.testing.assert_allclose(model.predict(soft=True), expected["soft"], atol=1e-4)


@pytest.mark.realdata
@pytest.mark.filterwarnings("ignore:721 of the reference's 1,000 genes found")
def test_the_pancreas_model_labels_human_islet_cells_as_the_data_tell(real_data):
    model = sca.hub.from_scvi_tools(real_data / "checkpoints" / "scanvi_0.16.1_pancreas")
    cells = ad.read_h5ad(real_data / "pancreas_human_mouse_small.h5ad")
    cells = cells[cells.obs["species"] == "human"].copy()
    cells.obs["study"] = "Pancreas inDrop"
    found = pd.crosstab(cells.obs["cell_type"], model.predict(cells))
    found.columns = found.columns.str.removeprefix("Pancreas ")
    assert found.loc["alpha"].to_dict()["Alpha"] == 35 and found.loc["beta"]["Beta"] == 35
    assert found.loc["delta"]["Delta"] == 35 and found.loc["activated_stellate"]["Stellate"] == 33
    assert found.loc["macrophage"][["Beta", "Alpha"]].tolist() == [33, 2]


@pytest.mark.realdata
@pytest.mark.parametrize(
    "folder, weight",
    [
        ("scvi_1.4.2_kang", 3 / 400),  # as it says
        ("totalvi_1.4.2_cite", 0.01919),
        ("scanvi_0.16.1_pancreas", 20 / 400),  # from its epochs
        ("totalvi_1.1.5_synthetic", 1 / 213),
        ("scvi_0.16.1_pancreas", 1),
        ("scvi_0.15.5_synthetic", 1),  # it has no history
    ],
)
def test_a_query_is_trained_at_the_kl_weight_that_the_reference_ended_with(real_data, folder, weight):
    model = sca.hub.from_scvi_tools(real_data / "checkpoints" / folder)
    assert model._kl_weight == pytest.approx(weight, rel=0.01)


def donors(data):
    cells = ad.read_h5ad(data / "pbmc_kang_donors.h5ad")[::4]
    is_query = cells.obs["batch"] == "donor1039"
    return cells[~is_query].copy(), cells[is_query].copy()


def study_of_fewer_genes(data):
    query = ad.read_h5ad(data / "pbmc_kang_ifnb_labelled.h5ad")
    return donors(data)[0], query[query.obs["batch"].str.startswith("ctrl")].copy()


def runs(data):
    cells = ad.read_h5ad(data / "cite_pbmc.h5ad")
    return cells[:4000:5].copy(), cells[4000:].copy()


def islets(data):
    cells = ad.read_h5ad(data / "pancreas_human_mouse_small.h5ad")
    is_query = cells.obs["batch"] == "human3"
    reference, query = cells[(cells.obs["species"] == "human") & ~is_query].copy(), cells[is_query].copy()
    reference.obs["study"], query.obs["study"] = "Pancreas inDrop", "human3"
    return reference, query


@pytest.mark.realdata
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.* genes found")
@pytest.mark.parametrize(
    "folder, journey",
    [
        ("scvi_1.4.2_kang", donors),  # at full KL weight, mixing fell to 0.40
        ("scvi_1.4.2_kang", study_of_fewer_genes),  # when genes that it lacks were learned as zeros, to 0.48
        ("scanvi_1.4.2_kang", donors),
        ("totalvi_1.4.2_cite", runs),
        ("scanvi_0.16.1_pancreas", islets),
    ],
)
def test_surgery_on_a_model_of_scvi_tools_keeps_a_query_among_the_cells_that_it_knows(real_data, folder, journey):
    model = sca.hub.from_scvi_tools(real_data / "checkpoints" / folder)
    parts = journey(real_data)
    labels = np.concatenate([cells.obs["cell_type"].astype(str) for cells in parts])
    source = np.repeat(["reference", "query"], [len(cells) for cells in parts])
    for cells in parts:
        cells.obs[model.schema.labels_key or "cell_type"] = "Unknown"
    if model.schema.batch_key == "batch":
        parts[1].obs["batch"] = "new"
    query = type(model).load_query_data(parts[1], model)
    mixing = []
    for _ in range(2):
        latents = np.concatenate([query.get_latent_representation(cells) for cells in parts])
        mixing.append(metrics.batch_mixing_within_types(latents, labels, source))
        query.train(progress=False)
    assert mixing[1] > mixing[0] - 0.03, mixing


@pytest.mark.realdata
@pytest.mark.slow
def test_a_query_is_mapped_onto_a_model_of_scvi_tools(real_data):
    model = sca.hub.from_scvi_tools(real_data / "checkpoints" / "scanvi_1.4.2_kang")
    cells = ad.read_h5ad(real_data / "pbmc_kang_donors.h5ad")[:200].copy()
    before = model.get_latent_representation(cells)
    query_cells = cells[:100].copy()
    query_cells.obs["batch"] = "new donor"
    query = sca.models.SCANVI.load_query_data(query_cells, model)
    query.train(max_epochs=2, progress=False)
    assert set(query.predict()) <= set(model.schema.labels)
    np.testing.assert_array_equal(query.get_latent_representation(cells), before)


@pytest.mark.realdata
@pytest.mark.parametrize("folder", ["scvi_1.4.2_kang", "scanvi_1.4.2_kang", "scanvi_0.16.1_pancreas"])
def test_what_is_written_for_scvi_tools_has_its_tensors_under_its_names(real_data, folder, tmp_path):
    model = sca.hub.from_scvi_tools(real_data / "checkpoints" / folder)
    sca.hub.to_scvi_tools(model, tmp_path / "back")
    theirs = read_torch(real_data / "checkpoints" / folder / "model.pt")["model_state_dict"]
    theirs = {name: tensor for name, tensor in theirs.items() if torch.is_tensor(tensor)}
    ours = read_torch(tmp_path / "back" / "model.pt")["model_state_dict"]
    assert {name: tensor.shape for name, tensor in ours.items()} == {name: t.shape for name, t in theirs.items()}
    unused = ("l_encoder.", "decoder.px_r_decoder.")
    for name, tensor in theirs.items():
        assert name.startswith(unused) or torch.allclose(ours[name].float(), tensor.float(), atol=1e-7)


@pytest.mark.realdata
def test_a_totalvi_knows_which_proteins_were_measured_in_which_batch(real_data, tmp_path):
    content = read_torch(real_data / "checkpoints" / "totalvi_1.4.2_cite" / "model.pt")
    content["attr_dict"]["history_"] = {}
    proteins = content["attr_dict"]["registry_"]["field_registries"]["proteins"]["state_registry"]
    proteins["protein_batch_mask"] = {"0": np.ones(14, dtype=bool), "1": np.arange(14) < 5}
    torch.save(content, tmp_path / "model.pt")
    measured = sca.hub.from_scvi_tools(tmp_path).module.proteins.measured.rows()
    assert measured.sum(1).tolist() == [14, 5] and measured[1, :5].all()
    proteins["protein_batch_mask"] = {"0": np.ones(13, dtype=bool)}
    torch.save(content, tmp_path / "model.pt")
    with pytest.raises(DamagedFile, match="proteins measured"):
        sca.hub.from_scvi_tools(tmp_path)


OPTIONS = {
    "defaults": {},
    "published with scArches": {
        "n_layers": 2, "deeply_inject_covariates": False, "use_layer_norm": "both", "use_batch_norm": "none",
    },
    "negative binomial, per batch": {"gene_likelihood": "nb", "dispersion": "gene-batch"},
    "inferred library size": {"use_observed_lib_size": False, "gene_likelihood": "poisson"},
    "an encoder that sees no batches": {"encode_covariates": False},
}  # fmt: skip


@pytest.fixture(scope="module")
def covered(atlas):
    """The atlas with covariates of both kinds, one of which has a single level. Tests do not change it."""
    cells, rng = atlas.copy(), np.random.default_rng(0)
    cells.obs["sex"], cells.obs["kit"] = rng.choice(["f", "m", "x"], cells.n_obs), "v3"
    cells.obs["age"] = rng.normal(size=cells.n_obs)
    return cells


EVERYDAY = [("SCVI", "inferred library size"), ("SCANVI", "published with scArches")]
CASES = [
    pytest.param(model, options, id=f"{model}, {what}", marks=() if (model, what) in EVERYDAY else pytest.mark.slow)
    for model in ("SCVI", "SCANVI")
    for what, options in OPTIONS.items()
]


@pytest.mark.filterwarnings("ignore:.*has the same category for all cells")
@pytest.mark.parametrize(("name", "options"), CASES)
def test_a_model_written_for_scvi_tools_and_read_again_is_the_same(covered, name, options, tmp_path):
    keys = KEYS | {"categorical_covariate_keys": ["sex", "kit"], "continuous_covariate_keys": ["age"]}
    model = getattr(sca.models, name)(covered, **keys, **{**SMALL, **options})
    model.train(**{**QUICK, "max_epochs": 1})
    sca.hub.to_scvi_tools(model, tmp_path / "there")
    back = sca.hub.from_scvi_tools(tmp_path / "there", covered)
    assert type(back) is type(model) and back.config == model.config
    assert back.schema.variables == model.schema.variables and back.schema.labels == model.schema.labels
    close = {"rtol": 1e-4, "atol": 1e-5}  # a covariate's only level joins the bias
    np.testing.assert_allclose(back.get_latent_representation(), model.get_latent_representation(), **close)
    np.testing.assert_allclose(back.get_normalized_expression(), model.get_normalized_expression(), **close)
    if name == "SCANVI":
        np.testing.assert_allclose(back.predict(soft=True), model.predict(soft=True), **close)


def test_a_model_after_surgery_comes_back_with_the_querys_batches_behind_the_references(trained, query_cells, tmp_path):
    query = sca.models.SCVI.load_query_data(query_cells, trained)
    query.train(**QUICK)
    sca.hub.to_scvi_tools(query, tmp_path / "there")
    back = sca.hub.from_scvi_tools(tmp_path / "there", query_cells)
    assert back.schema.batches == ("batch0", "batch1", "batch2")
    np.testing.assert_array_equal(back.get_latent_representation(), query.get_latent_representation())


def legacy(folder, target):
    """The same model as scvi-tools before 0.15 wrote it, in three files: as the Human Lung Cell Atlas is published."""
    saved = read_torch(folder / "model.pt")
    registry = saved["attr_dict"]["registry_"]["field_registries"]
    batch, labels = registry["batch"]["state_registry"], registry["labels"]["state_registry"]
    options = saved["attr_dict"]["init_params_"]
    attributes = {
        "is_trained_": True,
        "unlabeled_category_": labels["unlabeled_category"],
        "init_params_": {
            **options["non_kwargs"], "use_cuda": True, "unlabeled_category": labels["unlabeled_category"],
            "pretrained_model": None, "model_kwargs": dict(options["kwargs"]["model_kwargs"]),
        },
        "scvi_setup_dict_": {
            "scvi_version": "0.8.1",
            "categorical_mappings": {
                "_scvi_batch": {"original_key": "dataset", "mapping": batch["categorical_mapping"]},
                "_scvi_labels": {"original_key": "scanvi_label", "mapping": labels["categorical_mapping"]},
            },
            "data_registry": {"X": {"attr_name": "X", "attr_key": "None"}},
        },
    }  # fmt: skip
    target.mkdir()
    torch.save(saved["model_state_dict"], target / "model_params.pt")
    (target / "attr.pkl").write_bytes(pickle.dumps(attributes))
    np.savetxt(target / "var_names.csv", saved["var_names"], fmt="%s")


def test_a_query_is_mapped_onto_a_model_of_the_layout_of_the_human_lung_cell_atlas(
    reference_cells, query_cells, tmp_path
):
    as_published = {
        "n_layers": 2,
        "deeply_inject_covariates": False,
        "use_layer_norm": "both",
        "use_batch_norm": "none",
    }
    model = sca.models.SCANVI(reference_cells, **KEYS, **SMALL, **as_published, gene_likelihood="nb")
    model.train(**QUICK)
    sca.hub.to_scvi_tools(model, tmp_path / "new")
    legacy(tmp_path / "new", tmp_path / "legacy")
    atlas = sca.hub.from_scvi_tools(tmp_path / "legacy")
    assert atlas.schema.unlabeled_category == "Unknown" and atlas.schema.labels == model.schema.labels
    reference_cells.obs["dataset"] = reference_cells.obs["batch"]
    np.testing.assert_array_equal(atlas.get_latent_representation(reference_cells), model.get_latent_representation())
    query_cells.obs["dataset"] = "mine"
    query = sca.models.SCANVI.load_query_data(query_cells, atlas)
    query.train(**QUICK)
    assert set(query.predict()) <= set(model.schema.labels)


def test_one_label_too_few_or_a_foreign_option_is_refused_in_words(trained, tmp_path):
    sca.hub.to_scvi_tools(trained, tmp_path / "model")
    content = read_torch(tmp_path / "model" / "model.pt")
    content["attr_dict"]["init_params_"]["non_kwargs"]["latent_distribution"] = "ln"
    torch.save(content, tmp_path / "model" / "model.pt")
    with pytest.raises(sca.hub.UnsupportedModel, match="latent_distribution='ln'"):
        sca.hub.from_scvi_tools(tmp_path / "model")
    content["attr_dict"]["init_params_"]["non_kwargs"]["latent_distribution"] = "normal"
    content["attr_dict"]["registry_"]["field_registries"]["batch"]["state_registry"]["categorical_mapping"] = ["a"]
    torch.save(content, tmp_path / "model" / "model.pt")
    with pytest.raises(DamagedFile, match="columns, and the model that the file describes takes"):
        sca.hub.from_scvi_tools(tmp_path / "model")


@pytest.mark.parametrize(("name", "value"), [("n_latent", 10**9), ("n_hidden", 8192), ("n_layers", 16)])
def test_a_file_that_describes_a_giant_is_refused_before_it_is_built(trained, name, value, tmp_path):
    sca.hub.to_scvi_tools(trained, tmp_path / "model")
    content = read_torch(tmp_path / "model" / "model.pt")
    content["attr_dict"]["init_params_"]["non_kwargs"][name] = value
    torch.save(content, tmp_path / "model" / "model.pt")
    with pytest.raises((DamagedFile, sca.hub.UnsupportedModel)):
        sca.hub.from_scvi_tools(tmp_path / "model")


def test_other_folders_are_told_from_models_of_scvi_tools(trained, tmp_path):
    trained.save(tmp_path / "ours")
    with pytest.raises(FileNotFoundError, match="neither"):
        sca.hub.from_scvi_tools(tmp_path / "ours")
    with pytest.raises(FileNotFoundError, match="no such folder"):
        sca.hub.from_scvi_tools(tmp_path / "nowhere")
    with pytest.raises(sca.hub.UnsupportedModel, match="an SCVI or a SCANVI can"):
        sca.hub.to_scvi_tools(sca.models.TRVAE.__new__(sca.models.TRVAE), tmp_path / "there")
    sca.hub.to_scvi_tools(trained, tmp_path / "there")
    with pytest.raises(FileExistsError):
        sca.hub.to_scvi_tools(trained, tmp_path / "there")
