"""Files from anywhere are read as AnnData reads them, or refused before AnnData sees them."""

import gzip
import json
import pickle
import random
import re
import shutil
import struct
import sys
import tracemalloc
import warnings
import zipfile

import anndata
import h5py
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import zarr

import scarches_widgets as sca
from scarches_widgets.data import read as guard
from scarches_widgets.data.names import DataError
from scarches_widgets.data.slices import FileCells

SECRET = b"TOKEN-OF-ANOTHER-FILE-"


def example():
    names = [f"β,#{i}" for i in range(20)]
    obs = pd.DataFrame({"type": pd.Categorical(["B", "T"] * 10), "barcode": names}, index=names)
    adata = anndata.AnnData(sp.random(20, 500, 0.5, "csr", dtype="float32", random_state=0), obs=obs)
    adata.layers["dense"] = adata.X.toarray()
    adata.uns["nested"] = {"a": {"b": np.arange(3)}, "text": "x", "nothing": np.array([])}
    adata.raw = adata.copy()
    return adata


@pytest.fixture(autouse=True)
def unprobed(monkeypatch):
    """Each probe takes 0.3 s, and has tests of its own."""
    monkeypatch.setattr(guard, "refuse_if_it_crashes", lambda path: None)


@pytest.fixture(scope="session")
def pristine(tmp_path_factory):
    path = tmp_path_factory.mktemp("h5ad") / "cells.h5ad"
    example().write_h5ad(path, compression="gzip")
    return path


@pytest.fixture
def path(pristine, tmp_path):
    return shutil.copy(pristine, tmp_path / "cells.h5ad")


@pytest.fixture
def secret(tmp_path):
    """Another file of this disk, whose bytes must never come out."""
    secret = tmp_path / "token.bin"
    secret.write_bytes(SECRET * 100)
    return secret


def assert_same(a, b):
    np.testing.assert_array_equal(a.X.toarray(), b.X.toarray())
    np.testing.assert_array_equal(a.layers["dense"], b.layers["dense"])
    pd.testing.assert_frame_equal(a.obs, b.obs)
    pd.testing.assert_frame_equal(a.var, b.var)


# What is sound is read


def test_a_sound_file_is_read_as_anndata_reads_it(path):
    assert_same(sca.read(str(path)), anndata.read_h5ad(path))


def test_a_file_in_the_home_folder_is_found(path, monkeypatch):
    monkeypatch.setenv("HOME", str(path.parent))
    assert sca.read("~/cells.h5ad").n_obs == 20


@pytest.mark.parametrize("libver", ["earliest", "latest"])
@pytest.mark.parametrize("compression", [None, "gzip", "lzf"])
def test_files_of_any_usual_make_are_read(tmp_path, libver, compression):
    with h5py.File(tmp_path / "cells.h5ad", "w", libver=libver) as file:
        anndata.io.write_elem(file, "/", example(), dataset_kwargs={"compression": compression})
    assert_same(sca.read(tmp_path / "cells.h5ad"), example())


def test_a_file_with_the_references_of_anndata_0_7_is_read(path):
    with h5py.File(path, "r+") as file:
        del file["obs/type"]
        file["obs/__categories/type"] = np.array(["B", "T"], h5py.string_dtype())
        file["obs/type"] = np.array([0, 1] * 10, "int8")
        file["obs/type"].attrs["categories"] = file["obs/__categories/type"].ref
        file["obs"].attrs["encoding-version"] = "0.1.0"
    assert list(sca.read(path).obs["type"]) == ["B", "T"] * 10


def test_backed_reading_leaves_the_matrix_on_disk_and_the_file_as_it_was(path):
    before = path.read_bytes()
    adata = sca.read(path, backed="r")
    assert adata.isbacked
    np.testing.assert_array_equal(adata[:3].X.toarray(), example().X[:3].toarray())
    adata.file.close()
    assert path.read_bytes() == before


def test_a_zarr_folder_is_read(zarr_v2, zarr_v3):
    assert_same(sca.read(zarr_v2), example())
    assert_same(sca.read(str(zarr_v3)), example())


@pytest.mark.realdata
def test_every_real_file_passes(real_data):
    files = sorted(real_data.glob("*.h5*"))
    assert files
    for path in files:
        with h5py.File(path) as file:
            guard._check_hdf5(file, path, backed=None)


# What is something else is named


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (b"", "an empty file"),
        (b"<!DOCTYPE html>\n<html><body>404", "a web page"),
        (b"\n  <html lang='en'>", "a web page"),
        (b"<?xml version='1.0'?><Error/>", "an XML document"),
        (b'{"status": 404, "message": "not found"}', "JSON"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "a git-lfs pointer .*git lfs pull"),
        (b"cell,CD3D,CD8A\nc1,0,3\n", "a text table such as CSV"),
        (b"cell\tCD3D\nc1\t0\n", "a text table"),
        (b"%%MatrixMarket matrix coordinate", "a Matrix Market file"),
        (gzip.compress(b"abc", mtime=0), "a packed archive"),
        (pickle.dumps({"a": 1}), "a pickle, which can run code"),
        (b"\x93NUMPY\x01\x00", "a numpy array"),
        (b"\x20\0\0\0\0\0\0\0{}", "a safetensors file"),
        (b"\x00\x01\x02\x03", "a file of unknown format"),
    ],
)
def test_what_is_no_hdf5_file_is_named(tmp_path, content, kind):
    path = tmp_path / "cells.h5ad"
    path.write_bytes(content)
    with pytest.raises(DataError, match=f"cells.h5ad' is {kind}"):
        sca.read(path)


@pytest.mark.parametrize(
    ("member", "kind"),
    [("[Content_Types].xml", "an Excel workbook"), ("archive/data.pkl", "a PyTorch file"), ("a.txt", "a zip archive")],
)
def test_zip_files_are_told_apart(tmp_path, member, kind):
    with zipfile.ZipFile(tmp_path / "cells.h5ad", "w") as archive:
        archive.writestr(member, "content")
    with pytest.raises(DataError, match=kind):
        sca.read(tmp_path / "cells.h5ad")


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        (["matrix"], "scanpy.read_10x_h5"),
        (["matrix", "row_attrs"], "anndata.io.read_loom"),
        (["weights"], "no AnnData"),
    ],
)
def test_other_hdf5_files_are_named(tmp_path, groups, message):
    with h5py.File(tmp_path / "cells.h5", "w") as file:
        for name in groups:
            file.create_group(name)
    with pytest.raises(DataError, match=message):
        sca.read(tmp_path / "cells.h5")


def test_a_file_of_mudata_names_the_package_that_reads_it(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "mudata", None)
    with h5py.File(tmp_path / "cells.h5mu", "w") as file:
        file.create_group("mod/rna")
    with pytest.raises(DataError, match="pip install mudata"):
        sca.read(tmp_path / "cells.h5mu")


def test_a_folder_that_is_no_zarr_is_named(path):
    with pytest.raises(DataError, match=r"is a folder, but not a zarr one: it holds cells\.h5ad"):
        sca.read(path.parent)


def test_a_missing_file_brings_a_near_name(path):
    with pytest.raises(FileNotFoundError, match=r"There is no file 'cell\.h5ad'.*Did you mean 'cells\.h5ad'"):
        sca.read(path.with_name("cell.h5ad"))
    with pytest.raises(FileNotFoundError, match="There is no folder"):
        sca.read(path.parent / "missing" / "cells.h5ad")


@pytest.mark.parametrize("address", ["https://zenodo.org/cells.h5ad", "s3://bucket/cells.zarr", "simplecache::s3://a"])
def test_an_address_is_not_opened(address):
    with pytest.raises(DataError, match="is an address"):
        sca.read(address)


def test_a_file_cut_short_anywhere_is_refused(path):
    data, rng = path.read_bytes(), random.Random(0)
    for _ in range(50):
        path.write_bytes(data[: rng.randrange(1, len(data))])
        with pytest.raises(DataError, match=r"cut short|is a file of unknown format"):
            sca.read(path)


def test_a_file_that_changes_while_it_is_read_is_refused(path, monkeypatch):
    read_h5ad = anndata.read_h5ad

    def slow(path, **options):
        adata = read_h5ad(path, **options)
        with h5py.File(path, "r+") as file:
            file.attrs["new"] = 1
        return adata

    monkeypatch.setattr(anndata, "read_h5ad", slow)
    with pytest.raises(DataError, match="changed while it was being read"):
        sca.read(path)


# What is hostile is refused before AnnData sees it


def external_link(file, secret):
    with h5py.File(secret.with_suffix(".h5"), "w") as other:
        other["column"] = np.arange(20)
    file["obs/stolen"] = h5py.ExternalLink(secret.with_suffix(".h5"), "/column")


def dangling_external_link(file, secret):
    file["obs/stolen"] = h5py.ExternalLink("/nowhere.h5", "/column")


def soft_link(file, secret):
    external_link(file, secret)
    file["a"] = h5py.SoftLink("/obs/stolen")


def external_storage(file, secret):
    file["obs"].create_dataset("stolen", (20,), "S22", external=[(str(secret), 0, 440)])
    file["obs/stolen"].attrs.update({"encoding-type": "array", "encoding-version": "0.2.0"})
    file["obs"].attrs["column-order"] = np.array(["stolen"], h5py.string_dtype())


def virtual_dataset(file, secret):
    external_link(file, secret)
    layout = h5py.VirtualLayout((20,), "int64")
    layout[:] = h5py.VirtualSource(secret.with_suffix(".h5"), "column", (20,))
    file.create_virtual_dataset("obs/virtual", layout)
    del file["obs/stolen"]


def dataset_of_references(file, secret):
    file.create_dataset("uns/references", data=[file["obs"].ref], dtype=h5py.ref_dtype)


def reference_in_a_list_of_columns(file, secret):
    file["uns"].create_dataset("table", (3,), [("a", "i4"), ("b", h5py.ref_dtype)])


def region_reference(file, secret):
    file["obs"].attrs["region"] = file["layers/dense"].regionref[:2]


def unknown_filter(file, secret):
    file.create_dataset("uns/packed", data=np.arange(9), chunks=(9,), compression=40_000, allow_unknown_filter=True)


def loop(file, secret):
    file["uns/loop"] = file["uns"]


def endless_depth(file, secret):
    file.create_group("uns/" + "/".join("x" * 100))


def huge_attribute(file, secret):
    file.attrs["big"] = np.zeros(200_000)


ATTACKS = {
    external_link: "has the link 'stolen' to somewhere else",
    dangling_external_link: "has the link 'stolen' to somewhere else",
    soft_link: "to somewhere else",
    external_storage: "keeps its values in another file",
    virtual_dataset: "takes its values from other datasets",
    dataset_of_references: "holds references",
    reference_in_a_list_of_columns: "holds references",
    region_reference: "has the reference 'region'",
    unknown_filter: "needs the unknown filter 40000",
    loop: "more than 64 levels deep, perhaps in a loop",
    endless_depth: "more than 64 levels deep",
    huge_attribute: "attribute of more than 1,000,000 bytes",
}


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.__name__)
@pytest.mark.parametrize("backed", [None, "r"])
def test_a_hostile_file_is_refused(tmp_path, secret, monkeypatch, attack, backed):
    path = tmp_path / "cells.h5ad"
    with h5py.File(path, "w", libver="latest") as file:
        anndata.io.write_elem(file, "/", example())
        attack(file, secret)
    monkeypatch.setattr(anndata, "read_h5ad", lambda *_, **__: pytest.fail("AnnData saw a hostile file"))
    with pytest.raises(DataError, match=ATTACKS[attack]) as caught:
        sca.read(path, backed=backed)
    assert SECRET.decode() not in str(caught.value)


def test_external_storage_would_have_given_away_another_file(tmp_path, secret):
    """The reason for the guard; when this fails, AnnData or HDF5 has closed the hole."""
    with h5py.File(tmp_path / "cells.h5ad", "w") as file:
        anndata.io.write_elem(file, "/", example())
        external_storage(file, secret)
    assert SECRET in set(anndata.read_h5ad(tmp_path / "cells.h5ad").obs["stolen"])


def test_a_reference_to_an_object_that_is_not_listed_is_refused(path):
    with h5py.File(path, "r+") as file:
        file["uns/box/hidden"] = [1, 2]
        file["obs/type/codes"].attrs["categories"] = file["uns/box/hidden"].ref
        address = struct.pack("<Q", h5py.h5o.get_info(file["uns/box/hidden"].id).addr)
    data = bytearray(path.read_bytes())
    (listing,) = [found.start() for found in re.finditer(b"SNOD", data) if data[found.start() + 16 :][:8] == address]
    data[listing + 6] = 0  # the box now lists no object, and its object is still there
    path.write_bytes(data)
    with h5py.File(path) as file:
        assert not list(file["uns/box"])
    with pytest.raises(DataError, match="refers to an object that is not listed"):
        sca.read(path)


@pytest.mark.parametrize("backed", [None, "r"])
def test_nineteen_kilobytes_that_declare_447_gigabytes_are_refused(tmp_path, backed):
    path = tmp_path / "bomb.h5ad"
    with h5py.File(path, "w") as file:
        anndata.io.write_elem(file, "/", anndata.AnnData(obs=pd.DataFrame(index=["c"] * 40)))
        file.create_dataset("layers/x", (40, 3 * 10**9), "float32", chunks=(1, 10**6))
    tracemalloc.start()
    with pytest.raises(DataError, match=r"declares 480\.0 GB of data in 0\.0\d\d MB"):
        sca.read(path, backed=backed)
    assert tracemalloc.get_traced_memory()[1] < 50e6
    tracemalloc.stop()


def test_a_file_larger_than_the_memory_is_refused_unless_its_matrix_stays_on_disk(tmp_path, monkeypatch):
    path = tmp_path / "cells.h5ad"
    anndata.AnnData(np.random.default_rng(0).random((100, 2000))).write_h5ad(path)
    monkeypatch.setattr(guard, "_memory", lambda: 1_000_000)
    with pytest.raises(DataError, match=r"needs 0.0 GB of memory.*backed='r'"):
        sca.read(path)
    adata = sca.read(path, backed="r")
    assert adata.shape == (100, 2000)
    adata.file.close()


def test_a_filter_that_is_not_installed_names_its_package(path):
    if h5py.h5z.filter_avail(32015):
        pytest.skip("zstd is installed for HDF5")
    with h5py.File(path, "r+") as file:
        file.create_dataset("uns/packed", data=np.arange(9), chunks=(9,), compression=32015, allow_unknown_filter=True)
    with pytest.raises(DataError, match="pip install hdf5plugin"):
        sca.read(path)


def test_too_many_parts_are_refused(path, monkeypatch):
    monkeypatch.setattr(guard, "MOST_NODES", 50)
    with pytest.raises(DataError, match="more than 50 parts"):
        sca.read(path)


# zarr


@pytest.fixture(scope="session")
def pristine_zarr(tmp_path_factory):
    folder = tmp_path_factory.mktemp("zarr")
    for version in (2, 3):
        with anndata.settings.override(zarr_write_format=version), warnings.catch_warnings(action="ignore"):
            example().write_zarr(folder / f"v{version}.zarr")
    return folder


@pytest.fixture
def zarr_v2(pristine_zarr, tmp_path):
    return shutil.copytree(pristine_zarr / "v2.zarr", tmp_path / "cells.zarr")


@pytest.fixture
def zarr_v3(pristine_zarr, tmp_path):
    return shutil.copytree(pristine_zarr / "v3.zarr", tmp_path / "cells3.zarr")


def change(file, **changes):
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


@pytest.mark.parametrize(
    "changes", [{"filters": [{"id": "vlen-utf8"}, {"id": "pickle"}]}, {"compressor": {"id": "pickle"}}]
)
def test_a_zarr_array_packed_by_pickle_is_refused(zarr_v2, changes):
    change(zarr_v2 / "obs/type/codes/.zarray", **changes)
    with pytest.raises(DataError, match="'pickle', which is not known to be safe"):
        sca.read(zarr_v2)


@pytest.mark.parametrize(
    "codec",
    [{"name": "numcodecs.pickle"}, {"name": "sharding_indexed", "configuration": {"codecs": [{"name": "pickle"}]}}],
)
def test_a_zarr_3_array_packed_by_pickle_is_refused(zarr_v3, codec):
    change(zarr_v3 / "obs/type/codes/zarr.json", codecs=[codec])
    with pytest.raises(DataError, match="pickle', which is not known to be safe"):
        sca.read(zarr_v3)


@pytest.mark.parametrize("changes", [{"shape": [10**12]}, {"chunks": [10**12]}, {"dtype": "|S1000000000"}])
def test_a_zarr_array_that_declares_too_much_is_refused(zarr_v2, changes):
    change(zarr_v2 / "obs/type/codes/.zarray", **changes)
    with pytest.raises(DataError, match=r"declares .* GB"):
        sca.read(zarr_v2)


def test_a_second_description_of_a_zarr_array_is_not_believed(zarr_v3):
    description = json.loads((zarr_v3 / "zarr.json").read_text())
    description["consolidated_metadata"]["metadata"]["obs/type/codes"]["shape"] = [10**12]
    (zarr_v3 / "zarr.json").write_text(json.dumps(description))
    assert_same(sca.read(zarr_v3), example())


def test_a_link_in_a_zarr_folder_is_refused(zarr_v2, secret):
    for target in (secret, secret.parent):
        (zarr_v2 / "uns/link").symlink_to(target)
        with pytest.raises(DataError, match="uns/link' is a link"):
            sca.read(zarr_v2)
        (zarr_v2 / "uns/link").unlink()


@pytest.mark.parametrize("text", ["{", "[1]", '{"shape": "x", "chunks": [1], "dtype": "<f4"}', "[" * 100_000, ""])
def test_a_zarr_folder_with_broken_descriptions_is_refused(zarr_v2, text):
    (zarr_v2 / "obs/type/codes/.zarray").write_text(text)
    with pytest.raises(DataError, match="cannot be read"):
        sca.read(zarr_v2)


def test_a_zarr_folder_that_is_read_backed_leaves_its_matrix_on_disk(zarr_v2):
    backed, whole = sca.read(zarr_v2, backed="r"), sca.read(zarr_v2)
    assert hasattr(backed.X, "__dask_graph__")
    values = backed.X.compute()
    assert (values != whole.X).sum() == 0 and list(backed.obs_names) == list(whole.obs_names)


def test_names_that_pandas_3_keeps_as_text_with_gaps_are_read_by_the_slice(path, zarr_v2):
    """As anndata 0.13 writes the names of cells and genes: values, and a mask beside them."""
    with h5py.File(path, "r+") as file, anndata.settings.override(allow_write_nullable_strings=True):
        for store in (file, zarr.open_group(zarr_v2, mode="r+", use_consolidated=False)):
            for table, key in (("obs", "_index"), ("var", "_index"), ("obs", "barcode")):
                names = pd.array(anndata.io.read_elem(store[table][key]), dtype="string")
                if key == "barcode":
                    names[3] = pd.NA
                del store[table][key]
                anndata.io.write_elem(store[table], key, names)
                assert store[table][key].attrs["encoding-type"] == "nullable-string-array"
    for file in (path, zarr_v2):
        with FileCells(file) as cells:
            assert cells.n_cells == 20 and list(cells.names(4, 6)) == ["β,#4", "β,#5"]
            part = cells.read(2, 5)
        whole = sca.read(file)[2:5]
        assert list(part.obs_names) == ["β,#2", "β,#3", "β,#4"] and list(part.var_names) == list(whole.var_names)
        assert part.obs["barcode"].isna().tolist() == whole.obs["barcode"].isna().tolist() == [False, True, False]
        assert part.obs["barcode"].dropna().tolist() == ["β,#2", "β,#4"] and (part.X != whole.X).nnz == 0
