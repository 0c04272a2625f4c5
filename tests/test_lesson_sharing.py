"""The lesson on sharing, executed top to bottom: what it says about models and cells must come true."""

import json
import re
from typing import ClassVar

import pytest
from lessons import NOTEBOOKS, Lesson
from small import QUICK, SMALL, fingerprint
from zenodo_server import running

import scarches_widgets as sca

REFUSED = "It looks like a pickle, which can run code when it is loaded. Nothing of it was run."


class TestSharing(Lesson):
    path = NOTEBOOKS / "08_sharing.ipynb"
    asked: ClassVar = dict(
        named="sum(is_named)",
        hub="[hub.status, hub.local[0]['fit']['verdict']]",
        verdicts="{name: fit.verdict for name, fit in fits.items()}",
        panels="{name: [fit.verdict, float(found)] for name, (fit, found) in panels.items()}",
        alone="received.adata is None and 'cell_type' not in mine.obs",
        digests="[by_telephone, hub.cards['blood'].digest]",
        difference="float(difference)",
    )

    def test_no_cell_is_in_what_is_given_away_and_names_come_without_one(self, said):
        assert said["named"] == 0 and said["alone"]
        made, received = said["digests"]
        assert made == received and re.fullmatch("[0-9a-f]{64}", made)

    def test_the_card_tells_what_can_be_mapped_and_what_not(self, said):
        assert said["hub"] == ["done", "fits"]
        assert said["verdicts"] == {
            "raw counts": "fits",
            "genes in another order": "fits",
            "logarithms": "unfit",
            "Ensembl ids": "unfit",
            "Ensembl ids, gene_map": "fits",
            "no batch": "unfit",
        }
        (fits, right), (partly, _), (unfit, wrong) = said["panels"].values()
        assert (fits, partly, unfit) == ("fits", "partly", "unfit")
        assert right > 0.7 and right > wrong + 0.15

    def test_damaged_and_hostile_files_are_refused_and_honest_ones_are_read(self, lesson, said):
        notebook, _ = lesson
        texts = "".join(out["text"] for cell in notebook.cells for out in cell.get("outputs", []) if "text" in out)
        assert "is not what was written (its SHA-256 differs)" in texts and REFUSED in texts
        by_python, _, by_reader = texts.partition("Python reads it:")[2].partition("sca.hub.from_scvi_tools reads it:")
        assert "printed by the file itself" in by_python and "printed by the file itself" not in by_reader
        assert said["difference"] < 1e-4


@pytest.mark.slow
def test_what_the_lesson_does_not_run_works_with_a_zenodo_of_this_machine(tmp_path, monkeypatch):
    text = "".join("".join(cell["source"]) for cell in json.loads(TestSharing.path.read_text("utf-8"))["cells"])
    hers, yours = re.findall(r"^```python\n(.*?)^```", text, re.M | re.S)
    atlas = sca.datasets.atlas(n_obs=200, n_vars=40, n_batches=2, n_types=4, seed=0)
    model = sca.models.SCVI(atlas, batch_key="batch", **SMALL)
    model.train(**QUICK)
    (tmp_path / "hers").mkdir()
    (tmp_path / "yours").mkdir()
    card = sca.hub.save(model, tmp_path / "hers" / "blood")
    with running() as server:
        monkeypatch.setenv("ZENODO_SANDBOX_TOKEN", server.token)
        sca.hub.zenodo.configure(base_url=f"{server.address}/api")
        try:
            exec(hers, names := {"sca": sca, "card": card, "models": tmp_path / "hers", "mine": atlas})
            exec(yours, names := names | {"models": tmp_path / "yours"})
        finally:
            sca.hub.zenodo.configure()
    assert fingerprint(names["received"]) == fingerprint(model)
