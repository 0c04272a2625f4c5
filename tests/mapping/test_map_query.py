"""Files of any size are mapped in chunks: the same to the bit whoever computes, and never twice."""

import json
import re
from dataclasses import asdict

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from light_tasks import square_unless_killed, square_unless_three
from small import QUICK, SMALL

import scarches_widgets as sca
from scarches_widgets.cli import main
from scarches_widgets.data.names import DataError
from scarches_widgets.mapping import chunk, chunks, outlook
from scarches_widgets.mapping.chunks import ChunksFailed, MappedFiles, map_query
from scarches_widgets.mapping.executors import ProcessDied, ProcessExecutor, SerialExecutor

LABELS = ["cell_type", "type_level2"]


@pytest.fixture(scope="module")
def cells():
    """1,500 cells: 6 chunks of 256."""
    return sca.datasets.atlas(n_obs=1500, n_vars=40, n_batches=3, n_types=4, seed=1)


@pytest.fixture(scope="module")
def model(cells):
    model = sca.models.SCVI(cells, batch_key="batch", **SMALL)
    model.train(**QUICK)
    return model


@pytest.fixture(scope="module")
def folder(cells, model, tmp_path_factory):
    """The cells as a file, the model saved, and their mapping."""
    folder = tmp_path_factory.mktemp("mapping")
    cells.write_h5ad(folder / "cells.h5ad", compression="gzip")
    model.save(folder / "model")
    mapped_into(folder / "mapped", folder)
    return folder


def mapped_into(out, folder, executor=None, **options) -> MappedFiles:
    options = {"reference": folder / "cells.h5ad", "labels_key": LABELS, "chunk_size": 256, "progress": False} | options
    return map_query(options.pop("source", folder / "cells.h5ad"), folder / "model", out, executor, **options)


def parts(out) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (out / "cells").iterdir()}


def test_a_chunked_mapping_is_that_of_the_whole(folder, cells, model):
    mapped = mapped_into(folder / "mapped", folder)
    assert mapped.n_cells == 1500 and len(mapped.report) == 6
    np.testing.assert_array_equal(mapped.latent(), model.get_latent_representation(batch_size=256))
    whole = cells.copy()
    whole.obsm["z"] = mapped.latent()
    index = sca.utils.weighted_knn_trainer(whole, "z", 50)
    labels, uncertainties = sca.utils.weighted_knn_transfer(whole, "z", whole.obs, LABELS, index)
    table = mapped.labels()
    assert list(table.index) == list(cells.obs_names)
    for key in LABELS:
        assert list(table[key]) == list(labels[key])
        np.testing.assert_array_equal(table[f"{key}_uncertainty"], uncertainties[key])


def test_cells_of_large_uncertainty_are_unknown(folder, tmp_path):
    table = mapped_into(tmp_path / "out", folder, threshold=0.2).labels()
    unknown = table["cell_type_uncertainty"] > 0.2
    assert unknown.any() and not unknown.all()
    assert (table.loc[unknown, "cell_type"] == "Unknown").all()
    assert (table.loc[~unknown, "cell_type"] != "Unknown").all()


def test_what_is_there_is_not_computed_again_and_what_is_damaged_is(folder, tmp_path):
    out = tmp_path / "out"
    mapped_into(out, folder)
    before = parts(out)
    damaged, missing, unnoted = sorted((out / "cells").iterdir())[1:4]
    data = bytearray(damaged.read_bytes())
    data[len(data) // 2] ^= 1
    damaged.write_bytes(data)
    missing.unlink()
    (out / "notes" / unnoted.with_suffix(".json").name).unlink()
    untouched = sorted((out / "cells").iterdir())[0]
    changed = untouched.stat().st_mtime_ns
    mapped = mapped_into(out, folder)
    assert list(mapped.report["was_there"]) == [True, False, False, False, True, True]
    assert parts(out) == before and untouched.stat().st_mtime_ns == changed


def test_a_failed_chunk_is_named_by_its_cells_while_the_others_finish(folder, tmp_path, monkeypatch):
    def full_disk_once(path, data):
        if path.name == "part-000002.parquet":
            raise OSError(28, "No space left on device")
        write_file(path, data)

    write_file = chunk.write_file
    monkeypatch.setattr(chunk, "write_file", full_disk_once)
    with pytest.raises(
        ChunksFailed, match=r"1 of 6 chunks failed.*cells 512 to 767 of '.*cells.h5ad': .*No space left"
    ):
        mapped_into(tmp_path / "out", folder)
    assert len(parts(tmp_path / "out")) == 5
    monkeypatch.setattr(chunk, "write_file", write_file)
    mapped = mapped_into(tmp_path / "out", folder)
    assert list(np.flatnonzero(~mapped.report["was_there"])) == [2]
    assert parts(tmp_path / "out") == parts(folder / "mapped")


def test_results_that_would_not_fit_on_the_disk_are_refused_before_anything_is_computed(folder, tmp_path, monkeypatch):
    def map_with(free):
        usage = type("Usage", (), {"free": free})
        monkeypatch.setattr(chunks.shutil, "disk_usage", lambda path: usage)
        return mapped_into(tmp_path / "out", folder)

    size = sum(map(len, parts(folder / "mapped").values()))
    with pytest.raises(OSError, match=r"more for 1,500 cells, and 0\.0 MB are free, so nothing was computed"):
        map_with(size // 4)
    assert not list((tmp_path / "out" / "cells").iterdir())
    assert map_with(4 * size).n_cells == 1500


def test_faiss_gives_nearly_the_same_says_how_nearly_and_again_the_same_bytes(folder, tmp_path):
    out, exact = tmp_path / "out", mapped_into(folder / "mapped", folder)
    mapped = mapped_into(out, folder, search="faiss")
    recall, before = mapped.recall, parts(out)
    assert exact.recall is None and recall.n_measured == 200 and recall.recall >= 0.999
    for key in LABELS:
        assert (mapped.labels()[key] == exact.labels()[key]).mean() > 0.995
    plan = json.loads((out / "plan.json").read_bytes())["search"]
    assert {name: plan[name] for name in asdict(recall)} == asdict(recall)
    sorted((out / "cells").iterdir())[2].unlink()
    again = mapped_into(out, folder, search="faiss")
    assert list(np.flatnonzero(~again.report["was_there"])) == [2]
    assert again.recall == recall and parts(out) == before
    review = sca.widgets.LabelReview(ad.read_zarr(mapped.write_zarr(tmp_path / "mapped.zarr")))
    assert review.notes == [f"Labels are votes of the nearest reference cells: {recall}"]
    with pytest.raises(FileExistsError, match="its reference, search differ"):
        mapped_into(out, folder)


def test_an_estimate_embeds_the_first_cells_once_and_says_what_the_mapping_will_take(folder, monkeypatch):
    def counted(model, cells):
        embedded.append(cells.n_obs)
        return encoded(model, cells)

    embedded, encoded = [], outlook.encoded
    monkeypatch.setattr(outlook, "encoded", counted)
    monkeypatch.setattr(outlook, "PROBED", 600)
    given = {"reference": folder / "cells.h5ad", "labels_key": LABELS}
    cost = sca.mapping.estimate(folder / "cells.h5ad", folder / "model", 2, **given, chunk_size=200)
    assert sum(embedded) == 600
    assert cost.n_cells == 1500 and 0 < cost.seconds < 60 and cost.n_processes == 2 and cost.fits
    assert cost.disk == pytest.approx(sum(map(len, parts(folder / "mapped").values())), rel=0.5)
    assert "each of 2 will hold about 0.4" in str(cost)
    alone = sca.mapping.estimate(folder / "cells.h5ad", folder / "model", chunk_size=5000)
    assert alone.disk < cost.disk and "this process will hold" in str(alone)
    with pytest.raises(TypeError, match="name them in labels_key"):
        sca.mapping.estimate(folder / "cells.h5ad", folder / "model", reference=folder / "cells.h5ad")


def test_a_mapping_that_memory_is_too_small_for_is_warned_of(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(outlook, "memory_limit", lambda: 10**8)
    with pytest.warns(UserWarning, match=r"Here 0\.1 GB may be used in all: take a smaller chunk_size\."):
        assert mapped_into(tmp_path / "out", folder).n_cells == 1500


def test_another_mapping_is_not_mixed_in(folder, tmp_path):
    out = tmp_path / "out"
    mapped_into(out, folder)
    with pytest.raises(FileExistsError, match=r"holds another mapping: its n_neighbors differ.*overwrite=True"):
        mapped_into(out, folder, n_neighbors=10)
    assert mapped_into(out, folder, n_neighbors=10, overwrite=True).report["was_there"].sum() == 0
    (tmp_path / "letters").mkdir()
    (tmp_path / "letters" / "mine.txt").write_text("keep")
    with pytest.raises(FileExistsError, match=r"also holds mine\.txt"):
        mapped_into(tmp_path / "letters", folder)


def test_files_of_any_kind_give_the_same(folder, cells, tmp_path):
    """Zarr, dense values, several files; strings, numbers and missing values beside."""
    odd = cells.copy()
    odd.obs["age"] = pd.array([1, None, 3] * 500, dtype="Int64")
    odd.obs["text"] = [f"cell {i}" for i in range(odd.n_obs)]
    odd.write_zarr(tmp_path / "cells.zarr")
    odd.X = odd.X.toarray()
    odd[:512].copy().write_h5ad(tmp_path / "first.h5ad")
    odd[512:].copy().write_h5ad(tmp_path / "second.h5ad")
    expected = mapped_into(folder / "mapped", folder)
    for source in (tmp_path / "cells.zarr", [tmp_path / "first.h5ad", tmp_path / "second.h5ad"]):
        mapped = mapped_into(tmp_path / f"out of {source!s:.4}", folder, source=source)
        np.testing.assert_array_equal(mapped.latent(), expected.latent())
        pd.testing.assert_frame_equal(mapped.labels(), expected.labels())


def test_results_can_be_written_as_an_anndata_folder(folder, tmp_path):
    mapped = mapped_into(folder / "mapped", folder)
    adata = ad.read_zarr(mapped.write_zarr(tmp_path / "mapped.zarr"))
    np.testing.assert_array_equal(adata.obsm["X_mapped"], mapped.latent())
    assert list(adata.obs["cell_type"]) == list(mapped.labels()["cell_type"])
    with pytest.raises(FileExistsError, match="Choose another name"):
        mapped.write_zarr(tmp_path / "mapped.zarr")


def test_what_cannot_be_mapped_is_refused_before_anything_is_computed(folder, cells, tmp_path):
    other = cells.copy()
    other.obs["batch"] = "lab 9"
    other.write_h5ad(tmp_path / "unseen.h5ad")
    other.X = other.X.tocsc()
    other.write_h5ad(tmp_path / "csc.h5ad")
    with pytest.raises(DataError, match="lab 9"):
        mapped_into(tmp_path / "out", folder, source=tmp_path / "unseen.h5ad")
    with pytest.raises(DataError, match=r"gene by gene \(CSC\).*tocsr"):
        mapped_into(tmp_path / "out", folder, source=tmp_path / "csc.h5ad")
    with pytest.raises(TypeError, match="Give the reference's cells"):
        mapped_into(tmp_path / "out", folder, reference=None)
    with pytest.raises(TypeError, match="DaskExecutor"):
        mapped_into(tmp_path / "out", folder, executor=type("Client", (), {"submit": 1, "scheduler_info": 1})())
    assert not list((tmp_path / "out" / "cells").iterdir())


def test_the_shell_maps_files_and_goes_on_where_it_stopped(folder, tmp_path, capsys, caplog):
    job = tmp_path / "job.toml"
    job.write_text(
        f'source = ["{folder}/cells.h5ad"]\nsaved_model = "{folder}/model"\nreference = "{folder}/cells.h5ad"\n'
        f'labels_key = {json.dumps(LABELS)}\nout = "{tmp_path}/out"\nchunk_size = 256\n'
    )
    assert main(["map", str(job)]) == 0
    assert "1,500 cells mapped in 6 chunks: " in capsys.readouterr().out
    assert re.search(r"1,500 cells will take about \d+ s of one process and 0\.\d MB of disk", caplog.text)
    assert parts(tmp_path / "out") == parts(folder / "mapped")
    assert main(["map", str(job), "--json"]) == 0
    events = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [event["event"] for event in events] == ["ChunkMapped"] * 6 + ["FilesMapped"]
    assert events[-1]["was_there"] == 6
    assert main(["map", str(job), "--out", str(tmp_path / "nearly"), "--search", "faiss", "--json"]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["search"]["recall"] >= 0.999
    assert re.search(r"faiss finds (99\.9|100\.0)\d % of the nearest cells \(measured on 200 cells", caplog.text)
    assert main(["map", str(job), "--batch-key", "batch"]) == 2
    assert "--batch-key has no effect here" in capsys.readouterr().err


# Executors


def test_a_task_that_fails_gives_its_exception_and_the_others_their_results():
    found = dict(SerialExecutor().imap(square_unless_three, [1, 2, 3, 4]))
    assert isinstance(found[2], ValueError) and str(found.pop(2)) == "three"
    assert found == {0: 1, 1: 4, 3: 16}


def test_a_process_that_is_killed_costs_a_new_try_and_a_task_that_kills_is_reported(tmp_path):
    """Number 2 kills its process always, number 4 at its first try, 3 fails."""
    tasks = [(number, str(tmp_path)) for number in range(6)]
    found = dict(ProcessExecutor(2, retries=1).imap(square_unless_killed, tasks))
    assert isinstance(found.pop(2), ProcessDied) and isinstance(found.pop(3), ValueError)
    assert found == {0: 0, 1: 1, 4: 16, 5: 25}


def test_processes_give_the_same_bits(folder, tmp_path):
    report = mapped_into(tmp_path / "out", folder, executor=1).report
    cost = sca.mapping.estimate(folder / "cells.h5ad", folder / "model", 1)
    assert cost.memory == pytest.approx(report["peak_memory"].max(), rel=0.3)
    assert parts(tmp_path / "out") == parts(folder / "mapped")
