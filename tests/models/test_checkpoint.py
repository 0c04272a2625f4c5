"""A saved model comes back the same to the bit; a folder that describes no such model is refused before it is built."""

from __future__ import annotations

import time

import numpy as np
import pandas as pd
import pytest
import torch
from small import QUICK, SMALL, fingerprint

import scarches_widgets as sca
from scarches_widgets.data.container import DamagedFile, read_document, write_container
from scarches_widgets.models.base import Model
from scarches_widgets.models.checkpoint import KIND, VERSION

SCVI = sca.models.SCVI
pytestmark = pytest.mark.filterwarnings("ignore:.*batch:UserWarning", "ignore:.*genes found:UserWarning")


def trainable(model) -> set[str]:
    return {name for name, weight in model.module.named_parameters() if weight.requires_grad}


def same(loaded, model) -> bool:
    """Whether two models agree in all that is saved, and in what a training would do."""
    pd.testing.assert_frame_equal(loaded.history, model.history)
    parts = [
        (loaded.config, model.config),
        (loaded.schema, model.schema),
        (fingerprint(loaded), fingerprint(model)),
        (trainable(loaded), trainable(model)),
        (frozen(loaded), frozen(model)),
        (loaded._surgeries, model._surgeries),
        (loaded.is_trained, model.is_trained),
        (loaded.module.training, False),
    ]
    return all(one == other for one, other in parts)


def frozen(model) -> list[bool]:
    return [part.frozen for part in model.module.modules() if hasattr(part, "frozen")]


# ------------------------------------------------------------------------------------------------ there and back


@pytest.mark.parametrize(
    "options",
    [
        {"n_layers": 2, "use_batch_norm": "none", "use_layer_norm": "both", "deeply_inject_covariates": False},
        {"dropout_rate": 0.2, "n_layers": 2},
        {"dispersion": "gene-batch", "gene_likelihood": "nb"},
        {"gene_likelihood": "poisson", "encode_covariates": False},
    ],
    ids=["layer norm", "batch norm and dropout", "a dispersion per batch", "poisson"],
)
def test_a_saved_model_comes_back_the_same_to_the_bit(reference_cells, tmp_path, options):
    model = SCVI(reference_cells, batch_key="batch", labels_key="cell_type", **(SMALL | options))
    model.train(**QUICK)
    model.save(tmp_path / "model")
    loaded = SCVI.load(tmp_path / "model", reference_cells)
    assert same(loaded, model)
    np.testing.assert_array_equal(loaded.get_latent_representation(), model.get_latent_representation())
    for twin in (loaded, model):
        twin.train(**QUICK)
    assert fingerprint(loaded) == fingerprint(model)


def test_a_model_loads_without_cells_and_takes_them_call_by_call(trained, reference_cells, tmp_path):
    z = trained.get_latent_representation()
    trained.save(tmp_path / "model")
    loaded = SCVI.load(tmp_path / "model")
    assert loaded.adata is None and "no cells" in repr(loaded)
    np.testing.assert_array_equal(loaded.get_latent_representation(reference_cells), z)
    with pytest.raises(RuntimeError, match=r"loaded without cells. Pass adata, here or to load\(\)"):
        loaded.get_latent_representation()


def test_after_two_surgeries_with_covariates_a_model_comes_back_and_trains_on_as_if_never_saved(tmp_path):
    atlas = sca.datasets.atlas(n_obs=300, n_vars=40, n_batches=4, n_types=4, seed=3)
    atlas.obs["site"] = np.random.default_rng(0).choice(["lung", "nose"], atlas.n_obs)
    atlas.obs.loc[atlas.obs["batch"] == "batch3", "site"] = "blood"
    atlas.obs["age"] = np.linspace(-1, 1, atlas.n_obs)
    parts = [atlas[atlas.obs["batch"].isin(names)].copy() for names in (["batch0", "batch1"], ["batch2"], ["batch3"])]
    keys = {"categorical_covariate_keys": ["site"], "continuous_covariate_keys": ["age"], "dispersion": "gene-batch"}
    model = SCVI(parts[0], batch_key="batch", **keys, **SMALL)
    model.train(**QUICK)
    for cells in parts[1:]:
        model = SCVI.load_query_data(cells, model)
        model.train(**QUICK)
    model.save(tmp_path / "model")
    loaded = SCVI.load(tmp_path / "model", parts[2])
    assert same(loaded, model)
    assert loaded._surgeries == [{"batch": 1}, {"batch": 1, "covariate site": 1}]
    assert trainable(loaded) and all(name.endswith(("blocks.1", "blocks.2")) for name in trainable(loaded))
    for part in parts:
        np.testing.assert_array_equal(loaded.get_latent_representation(part), model.get_latent_representation(part))
    z = loaded.get_latent_representation(parts[0])
    for twin in (loaded, model):
        twin.train(**QUICK, weight_decay=1e-2)
    assert fingerprint(loaded) == fingerprint(model)
    np.testing.assert_array_equal(loaded.get_latent_representation(parts[0]), z)  # what was frozen stays frozen


def test_a_query_that_was_not_trained_yet_comes_back_and_maps(trained, query_cells, tmp_path):
    query = SCVI.load_query_data(query_cells, trained)
    query.save(tmp_path / "query")
    loaded = SCVI.load(tmp_path / "query", query_cells)
    assert same(loaded, query) and not loaded.is_trained
    np.testing.assert_array_equal(loaded.get_latent_representation(), query.get_latent_representation())


@pytest.mark.parametrize("kind", ["column", "dict"])
def test_a_query_whose_genes_were_renamed_still_finds_them_after_loading(trained, query_cells, tmp_path, kind):
    query_cells.var["symbol"] = query_cells.var_names
    query_cells.var_names = [f"ENSG{i:011d}" for i in range(40)]
    gene_map = "symbol" if kind == "column" else dict(query_cells.var["symbol"])
    query = SCVI.load_query_data(query_cells, trained, gene_map=gene_map)
    query.save(tmp_path / "query")
    loaded = SCVI.load(tmp_path / "query", query_cells)
    np.testing.assert_array_equal(loaded.get_latent_representation(), query.get_latent_representation())
    np.testing.assert_array_equal(
        loaded.get_latent_representation(query_cells.copy()), loaded.get_latent_representation()
    )


def test_gene_and_batch_names_of_any_characters_come_back_to_the_letter(reference_cells, tmp_path):
    odd = [
        "HLA-A,B",
        "#gene",
        'quo"te',
        "it's",
        "tab\t",
        "new\nline",
        "back\\slash",
        "🧬",
        "\u05d0\u202e",
        "NUL\0",
        "x" * 10_000,
    ]
    reference_cells.var_names = [*odd, *reference_cells.var_names[len(odd) :]]
    reference_cells.obs["batch"] = (
        reference_cells.obs["batch"].astype(str).replace({"batch0": 'a,"b"\t#🧬', "batch1": ""})
    )
    model = SCVI(reference_cells, batch_key="batch", **SMALL)
    model.train(**QUICK)
    model.save(tmp_path / "model 🧬")
    loaded = SCVI.load(tmp_path / "model 🧬")
    assert loaded.schema.genes == tuple(reference_cells.var_names) and loaded.schema.batches == ("", 'a,"b"\t#🧬')
    shuffled = reference_cells[:, ::-1].copy()
    np.testing.assert_array_equal(loaded.get_latent_representation(shuffled), model.get_latent_representation())


def test_the_same_model_has_the_same_digest_and_another_one_another(trained, reference_cells, tmp_path):
    digests = [trained.save(tmp_path / name) for name in "ab"]
    assert digests[0] == digests[1] == SCVI.load(tmp_path / "a").save(tmp_path / "c")
    trained.train(**QUICK, seed=1)
    assert trained.save(tmp_path / "d") != digests[0]


def test_an_existing_folder_is_replaced_only_when_asked(trained, tmp_path):
    trained.save(tmp_path / "model")
    before = fingerprint(trained)
    trained.train(**QUICK, seed=1)
    with pytest.raises(FileExistsError, match="overwrite=True"):
        trained.save(tmp_path / "model")
    assert fingerprint(SCVI.load(tmp_path / "model")) == before
    trained.save(tmp_path / "model", overwrite=True)
    assert fingerprint(SCVI.load(tmp_path / "model")) == fingerprint(trained) != before


# -------------------------------------------------------------------------------------------- foreign or hostile


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    """Document and tensors of a query's model, as they are saved."""
    atlas = sca.datasets.atlas(n_obs=120, n_vars=40, n_batches=3, n_types=4, seed=1)
    new = atlas.obs["batch"] == "batch2"
    model = SCVI(atlas[~new].copy(), batch_key="batch", **SMALL)
    model.train(**QUICK)
    query = SCVI.load_query_data(atlas[new].copy(), model)
    query.train(**QUICK)
    path = tmp_path_factory.mktemp("good") / "model"
    query.save(path)
    container = read_document(path, kind=KIND, newest_version=VERSION)
    return container.document, container.tensors()


def written(good, path, change):
    """A folder with true checksums whose content was changed."""
    document, tensors = good
    document = {**document, "config": dict(document["config"]), "data": dict(document["data"])}
    tensors = {name: tensor.clone() for name, tensor in tensors.items()}
    change(document, tensors)
    write_container(path, kind=KIND, format_version=VERSION, document=document, tensors=tensors)
    return path


def config(**changes):
    return lambda document, tensors: document["config"].update(changes)


def data(**changes):
    return lambda document, tensors: document["data"].update(changes)


def top(**changes):
    return lambda document, tensors: document.update(changes)


def weights(change):
    return lambda document, tensors: change(tensors)


WEIGHT = "encoder.mean.weight"
HOSTILE = {
    "a billion latent dimensions": (config(n_latent=10**9), "n_latent=1000000000 should be less than or equal to 4096"),
    "a width below one": (config(n_hidden=0), "n_hidden=0 should be greater than or equal to 1"),
    "a width in words": (config(n_hidden="wide"), "n_hidden='wide' should be a valid integer"),
    "an unknown option": (config(n_latents=3), r"no option 'n_latents'. Did you mean 'n_latent'\?"),
    "an unknown likelihood": (config(gene_likelihood="exec"), "gene_likelihood='exec'"),
    "an unknown part": (top(code="import os"), "no option 'code'"),
    "a missing part": (lambda document, tensors: document.pop("surgeries"), "surgeries"),
    "a very long value": (config(n_latent=["x"] * 100_000), "…"),
    "other genes than weights": (data(genes=["CD3D"]), r"6 tensors are missing, surplus or of another shape"),
    "a million genes": (data(genes=[f"g{i}" for i in range(10**6)]), "of another shape"),
    "genes twice": (data(genes=["CD3D"] * 40), "genes: .* none twice"),
    "no batches": (data(batches=[]), "at least one name"),
    "batches that weights lack": (data(batches=[f"b{i}" for i in range(90)]), "of another shape"),
    "other widths than weights": (config(n_hidden=8192, n_layers=16), "missing, surplus or of another shape"),
    "no surgeries": (top(surgeries=[]), "of another shape"),
    "surgeries of more batches than there are": (top(surgeries=[{"batch": 3}]), "more levels to 'batch' than it has"),
    "surgeries of an unknown variable": (top(surgeries=[{"batch": 1}, {"site": 1}]), r"does not have \(site\)"),
    "a surgery that takes away": (top(surgeries=[{"batch": -1}]), "greater than or equal to 1"),
    "a hundred thousand surgeries": (top(surgeries=[{}] * 10**5), "at most 1000 items"),
    "a history of something else": (top(history=[{"epoch": "x"}]), "history"),
    "weights that are not a number": (weights(lambda t: t[WEIGHT].fill_(np.nan)), f"'{WEIGHT}' hold NaN or infinite"),
    "infinite weights": (weights(lambda t: t[WEIGHT][0].fill_(-np.inf)), "NaN or infinite"),
    "a missing tensor": (weights(lambda t: t.pop(WEIGHT)), rf"1 tensors are .*\({WEIGHT}\)"),
    "a surplus tensor": (weights(lambda t: t.update(more=torch.zeros(2))), r"1 tensors are .*\(more\)"),
    "a tensor of another shape": (weights(lambda t: t.update({WEIGHT: t[WEIGHT].T.contiguous()})), "of another shape"),
    "a tensor of another type": (weights(lambda t: t.update({WEIGHT: t[WEIGHT].double()})), "of another shape"),
}  # fmt: skip


@pytest.mark.parametrize(("change", "message"), HOSTILE.values(), ids=HOSTILE)
def test_a_folder_that_describes_no_model_is_refused_at_once_and_nothing_large_is_built(
    good, tmp_path, monkeypatch, change, message
):
    path = written(good, tmp_path / "model", change)
    built = []
    new_module = Model._new_module
    monkeypatch.setattr(
        Model, "_new_module", lambda self, schema: built.append(module := new_module(self, schema)) or module
    )
    started = time.process_time()
    with pytest.raises(DamagedFile, match=message) as raised:
        SCVI.load(path)
    assert time.process_time() - started < 5
    assert all(tensor.is_meta for module in built for tensor in module.state_dict().values())  # no memory, no values
    assert len(str(raised.value)) < 1000


def test_the_untouched_folder_loads(good, tmp_path):
    loaded = SCVI.load(written(good, tmp_path / "model", lambda document, tensors: None))
    assert loaded.schema.batches == ("batch0", "batch1", "batch2")


def test_a_folder_of_another_family_names_the_class_to_load_it_with(good, tmp_path):
    with pytest.raises(TypeError, match=r"holds a SCANVI, not a SCVI. Call SCANVI\.load"):
        SCVI.load(written(good, tmp_path / "model", top(family="SCANVI")))
    with pytest.raises(TypeError) as raised:
        SCVI.load(written(good, tmp_path / "other", top(family="\x1b[31m" + "A" * 10_000)))
    assert "\x1b" not in str(raised.value) and len(str(raised.value)) < 1000


def test_a_checkpoint_of_a_run_is_no_model(trained, tmp_path):
    trained.train(**QUICK, checkpoint_dir=tmp_path / "run")
    (newest, *_) = sorted((tmp_path / "run").glob("epoch-*"), reverse=True)
    with pytest.raises(DamagedFile, match="holds a 'training checkpoint', not a 'model'"):
        SCVI.load(newest)


def test_a_model_that_is_being_trained_is_not_saved(trained, tmp_path):
    run = trained.train(max_epochs=100_000, batch_size=64, background=True)
    try:
        with pytest.raises(RuntimeError, match="is being trained"):
            trained.save(tmp_path / "model")
    finally:
        run.stop()
        run.wait()
    assert not (tmp_path / "model").exists()
