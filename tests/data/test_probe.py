"""A file on which libhdf5 crashes is refused, and the process that asked for it lives on."""

import time

import anndata
import h5py
import numpy as np
import pandas as pd
import pytest

import scarches_widgets as sca
from scarches_widgets.data import probe, read
from scarches_widgets.data.names import DataError


@pytest.fixture(scope="module")
def pristine(tmp_path_factory):
    path = tmp_path_factory.mktemp("h5ad") / "cells.h5ad"
    obs = pd.DataFrame({"type": pd.Categorical(["B", "T"] * 10)}, index=[f"c{i}" for i in range(20)])
    anndata.AnnData(np.ones((20, 3), dtype=np.float32), obs=obs).write_h5ad(path)
    return path


@pytest.fixture
def in_the_probe(tmp_path, monkeypatch):
    """Have the probe's process run this code when it starts; this process has started already."""
    monkeypatch.syspath_prepend(tmp_path)
    return (tmp_path / "sitecustomize.py").write_text


def test_a_crash_in_the_probe_is_an_error_here(pristine, in_the_probe):
    in_the_probe("import os, h5py\nh5py.Dataset.__getitem__ = lambda *args: os.abort()")
    with pytest.raises(DataError, match=r"cells\.h5ad' is damaged: the HDF5 library crashes on it \(SIGABRT\)"):
        sca.read(pristine)
    assert sca.read(pristine, probe=False).shape == (20, 3)


def test_a_real_crash_is_caught(pristine, tmp_path):
    """HDF5 2.0 does not check of what kind an attribute's text of any length is: one wrong byte, and it calls functions
    that are not there."""
    path, kind = tmp_path / "cells.h5ad", b"encoding-type\0\0\0\x19"
    path.write_bytes(pristine.read_bytes().replace(kind + b"\x01", kind + b"\x2e"))
    with pytest.raises(DataError, match=r"the HDF5 library crashes on it \(SIGSEGV\)"):
        sca.read(path)


def test_what_python_can_tell_is_left_to_the_reader(pristine, tmp_path):
    path = tmp_path / "cells.h5ad"
    path.write_bytes(pristine.read_bytes()[:5000])
    with pytest.raises(DataError, match="cut short"):
        sca.read(path)


def test_a_probe_that_does_not_end_is_given_up(pristine, in_the_probe, monkeypatch):
    in_the_probe("import time\ntime.sleep(60)")
    monkeypatch.setattr(probe, "PATIENCE", 0.5)
    start = time.monotonic()
    with pytest.raises(DataError, match=r"not looked through in 0\.5 seconds.*probe=False"):
        sca.read(pristine)
    assert time.monotonic() - start < 10


def test_small_data_are_read_whole_and_of_large_ones_both_ends(pristine, monkeypatch):
    taken = {}

    def noted(dataset, key):
        taken.setdefault(dataset.name, []).append(key)

    monkeypatch.setattr(h5py.Dataset, "__getitem__", noted)
    monkeypatch.setattr(read, "PROBED", 230)
    read.read_through(pristine)
    assert taken["/X"] == [slice(None, 1), slice(-1, None)] and taken["/obs/type/codes"] == [()]
