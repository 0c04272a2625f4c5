"""Models that scArches saved, by what scArches itself computes."""

import shutil

import anndata as ad
import numpy as np
import pytest

import scarches_widgets as sca
from scarches_widgets.data.container import DamagedFile
from scarches_widgets.hub.pickles import read_pickle

FOLDERS = {"trvae_0.6.1_kang": "X_trvae", "expimap_0.6.1_kang": "X_expimap", "scpoli_0.6.1_kang": "X_scpoli"}
pytestmark = [pytest.mark.realdata, pytest.mark.slow]


def evaluated(real_data, folder) -> tuple[ad.AnnData, dict]:
    """The cells for which scArches' own values are there, and these."""
    expected = np.load(real_data / "checkpoints" / folder / "expected.npz", allow_pickle=False)
    cells = ad.read_h5ad(real_data / "pbmc_kang_donors.h5ad")[expected["obs_names"].astype(str)].copy()
    if folder.startswith("expimap"):
        cells.var_names = cells.var_names.str.upper()
    return cells, dict(expected)


@pytest.mark.parametrize("folder", FOLDERS)
def test_a_model_of_scarches_gives_the_same_latents_here_and_after_it_was_saved(real_data, folder, tmp_path):
    model = sca.hub.from_scarches(real_data / "checkpoints" / folder)
    cells, expected = evaluated(real_data, folder)
    latents = model.get_latent_representation(cells)
    np.testing.assert_allclose(latents, expected[FOLDERS[folder]], atol=1e-4)
    model.save(tmp_path / "saved")
    np.testing.assert_array_equal(type(model).load(tmp_path / "saved").get_latent_representation(cells), latents)


@pytest.mark.parametrize("folder", FOLDERS)
@pytest.mark.filterwarnings("ignore:.*cells carry labels that the reference knows")
def test_a_query_is_mapped_onto_a_model_of_scarches(real_data, folder):
    model = sca.hub.from_scarches(real_data / "checkpoints" / folder)
    cells, _ = evaluated(real_data, folder)
    before = model.get_latent_representation(cells)
    query_cells = cells[:100].copy()
    query_cells.obs["batch"] = "new donor"
    query = type(model).load_query_data(query_cells, model)
    query.train(max_epochs=2, progress=False)
    assert query.get_latent_representation().shape == (100, before.shape[1])
    np.testing.assert_array_equal(query.get_latent_representation(cells), before)


def test_cells_get_the_label_of_the_nearest_of_scpolis_prototypes(real_data):
    folder = "scpoli_0.6.1_kang"
    model = sca.hub.from_scarches(real_data / "checkpoints" / folder)
    cells, expected = evaluated(real_data, folder)
    prototypes = read_pickle(real_data / "checkpoints" / folder / "attr.pkl")["prototypes_labeled_"]["mean"].numpy()
    nearest = np.linalg.norm(expected["X_scpoli"][:, None] - prototypes, axis=2).argmin(1)
    assert model.predict(cells).tolist() == np.array(model.schema.labels)[nearest].tolist()


def test_programs_of_an_expimap_can_be_named(real_data):
    folder = real_data / "checkpoints" / "expimap_0.6.1_kang"
    names = (folder / "terms.txt").read_text().split()
    model = sca.hub.from_scarches(folder, terms=names)
    assert list(model.terms) == names
    with pytest.raises(ValueError, match="names 2 programs, and the expiMap has 149"):
        sca.hub.from_scarches(folder, terms=names[:2])


def test_a_file_put_together_from_two_models_is_refused(real_data, tmp_path):
    shutil.copytree(real_data / "checkpoints" / "trvae_0.6.1_kang", tmp_path / "mixed")
    shutil.copy(real_data / "checkpoints" / "scpoli_0.6.1_kang" / "model_params.pt", tmp_path / "mixed")
    with pytest.raises(DamagedFile, match="lacks the tensor"):
        sca.hub.from_scarches(tmp_path / "mixed")
    (tmp_path / "mixed" / "var_names.csv").write_text("a\nb\n")
    with pytest.raises(DamagedFile):
        sca.hub.from_scarches(tmp_path / "mixed")
