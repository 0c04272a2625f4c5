"""Any model by its folder alone, its card, and whether my cells fit it."""

import json

import numpy as np
import pytest
from small import QUICK, SMALL, fingerprint

import scarches_widgets as sca
from scarches_widgets.data.container import DamagedFile


@pytest.fixture
def saved(trained, tmp_path):
    """The folder of a saved scVI, and its card."""
    return tmp_path / "model", sca.hub.save(trained, tmp_path / "model", title="Two batches")


def test_a_model_comes_back_to_the_bit_by_hub_load_and_by_its_own_class(saved, trained, reference_cells):
    for model in (sca.hub.load(saved[0]), sca.models.SCVI.load(saved[0], reference_cells)):
        assert type(model) is sca.models.SCVI and fingerprint(model) == fingerprint(trained)
    assert sca.hub.load(saved[0], reference_cells).get_latent_representation().shape == (len(reference_cells), 4)


@pytest.mark.parametrize("name", ["SCANVI", "TRVAE", "scPoli"])
def test_other_models_are_saved_and_loaded_by_their_folder(name, reference_cells, tmp_path):
    small = SMALL if name == "SCANVI" else {"hidden_layer_sizes": (8,), "n_latent": 3}
    keys = {"batch_key": "batch"} | ({} if name == "TRVAE" else {"labels_key": "cell_type"})
    model = getattr(sca.models, name)(reference_cells, **keys, **small)
    model.train(**{**QUICK, "max_epochs": 1})
    card = sca.hub.save(model, tmp_path / "model")
    loaded = sca.hub.load(tmp_path / "model")
    assert type(loaded) is type(model) and card.family == name
    np.testing.assert_array_equal(loaded.get_latent_representation(reference_cells), model.get_latent_representation())
    assert sca.hub.compatibility(reference_cells, card).verdict == "fits"


def test_a_card_tells_what_the_model_was_trained_on_and_can_be_edited(saved, reference_cells):
    folder, card = saved
    n_cells = reference_cells.obs["batch"].value_counts()
    assert card.n_cells["batch"] == n_cells[n_cells > 0].to_dict()
    for fact in ("40 genes", "batch0", f"{n_cells['batch0']:,}", "n_latent=4", "Trained for 2 epochs"):
        assert fact in card.text
    card.text += "\nPlease cite us. <b>äöü</b>"
    card.save(folder)
    assert sca.hub.read_card(folder).text.endswith("<b>äöü</b>")
    sca.hub.load(folder)
    again = sca.hub.save(sca.hub.load(folder), folder, card=card, overwrite=True)
    assert again.text == card.text and again.digest == card.digest


def test_a_card_beside_another_model_is_refused(saved, reference_cells, tmp_path):
    other = sca.models.SCVI(reference_cells, batch_key="batch", **SMALL, seed=1)
    card = sca.hub.save(other, tmp_path / "other")
    with pytest.raises(ValueError, match="holds another model than this card describes"):
        card.save(saved[0])
    (saved[0] / "card.json").write_bytes((tmp_path / "other" / "card.json").read_bytes())
    with pytest.raises(DamagedFile, match="describes another model"):
        sca.hub.load(saved[0])


def test_a_flipped_bit_anywhere_is_refused(saved):
    folder, rng = saved[0], np.random.default_rng(0)
    for name in ("card.json", "manifest.json", "model.json", "model.safetensors"):
        data = (folder / name).read_bytes()
        for place in rng.integers(0, len(data), 50):
            flipped = bytearray(data)
            flipped[place] ^= 1 << rng.integers(8)
            (folder / name).write_bytes(flipped)
            with pytest.raises(DamagedFile):
                sca.hub.load(folder)
        (folder / name).write_bytes(data)
    sca.hub.load(folder)


def test_a_card_with_impossible_facts_is_refused_although_its_checksum_is_right(saved):
    from scarches_widgets.hub.cards import _canonical, hashlib

    content = json.loads((saved[0] / "card.json").read_bytes())
    content.pop("sha256")
    for facts in ({"n_bytes": -1}, {"data": {"genes": ["a", "a"]}}, {"digest": "x"}, {"more": 1}, {"text": 3}):
        wrong = {**content, "card": {**content["card"], **facts}}
        sha256 = hashlib.sha256(_canonical(wrong)).hexdigest()
        with pytest.raises(DamagedFile):
            sca.hub.read_card(_canonical({**wrong, "sha256": sha256}))
    for other in (b"", b"[]", b"{}", b"[" * 100_000, b'{"a": NaN}', b'{"a": 1, "a": 2}'):
        with pytest.raises(DamagedFile):
            sca.hub.read_card(other)


def test_cells_are_compared_with_a_card(saved, query_cells, reference_cells):
    card = sca.hub.read_card(saved[0])
    assert sca.hub.compatibility(reference_cells, card).verdict == "fits"
    mapped = sca.hub.compatibility(query_cells, card)
    assert mapped.verdict == "fits" and "batch2" in str(mapped) and mapped.overlap == 1
    few = sca.hub.compatibility(query_cells[:, :30].copy(), card)
    assert few.verdict == "partly" and few.overlap == 0.75
    assert sca.hub.compatibility(query_cells[:, :10].copy(), card).verdict == "unfit"
    without = query_cells.copy()
    del without.obs["batch"]
    assert "has no column 'batch'" in str(sca.hub.compatibility(without, card))
    normalized = query_cells.copy()
    normalized.X = normalized.X.log1p()
    assert sca.hub.compatibility(normalized, card).verdict == "unfit"
    foreign = query_cells.copy()
    foreign.var_names = [f"X{i}" for i in range(foreign.n_vars)]
    assert sca.hub.compatibility(foreign, card).verdict == "unfit"


def test_hub_load_names_the_reader_of_a_foreign_model(trained, tmp_path):
    sca.hub.to_scvi_tools(trained, tmp_path / "theirs")
    with pytest.raises(DamagedFile, match="from_scvi_tools"):
        sca.hub.load(tmp_path / "theirs")
    with pytest.raises(FileNotFoundError):
        sca.hub.load(tmp_path / "nowhere")
