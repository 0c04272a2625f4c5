"""Small simulated data with fixed seeds, where real data are, and a guard that keeps every test on this machine."""

from __future__ import annotations

import os
import socket
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
from lessons import executed
from small import QUICK, SMALL
from zenodo_server import running

import scarches_widgets as sca

ROOT = Path(__file__).resolve().parents[1]
REAL_DATA = Path(os.environ.get("SCARCHES_WIDGETS_DATA", ROOT.parent / "shared" / "data"))


def pytest_collection_modifyitems(config, items):
    """Tests marked `slow` or `napari` run when they are asked for (`-m slow`); on real data, wherever it is."""
    deselected = []
    for marker in ("slow", "napari"):
        if marker not in (config.option.markexpr or ""):
            deselected += [item for item in items if item.get_closest_marker(marker) and item not in deselected]
    if not REAL_DATA.is_dir():
        missing = [item for item in items if item.get_closest_marker("realdata") and item not in deselected]
        left_out = [item.nodeid for item in missing]
        if hasattr(config, "workeroutput"):  # of a worker of pytest-xdist, which hands it to the process that reports
            config.workeroutput["left_out"] = left_out
        config.left_out = left_out
        deselected += missing
    if deselected:
        config.hook.pytest_deselected(items=deselected)
        items[:] = [item for item in items if item not in deselected]


def pytest_testnodedown(node):
    node.config.left_out = getattr(node, "workeroutput", {}).get("left_out", [])


def pytest_terminal_summary(terminalreporter, config):
    reports = [report for outcome in ("passed", "failed") for report in terminalreporter.getreports(outcome)]
    costs = sorted(text for report in reports for name, text in report.user_properties if name == "cost of a lesson")
    if costs:
        terminalreporter.section("what lessons cost")
        terminalreporter.line(f"{'lesson':18} {'CPU seconds':>11} {'peak GB':>8}")
        for line in costs:
            terminalreporter.line(line)
    left_out = getattr(config, "left_out", [])
    if left_out:
        terminalreporter.section("left out: no real data")
        terminalreporter.line(
            f"{REAL_DATA} does not exist; set SCARCHES_WIDGETS_DATA to run these {len(left_out)} tests:"
        )
        for name in left_out:
            terminalreporter.line(f"  {name}")


@pytest.fixture(autouse=True)
def stay_on_this_machine(monkeypatch):
    """Any test fails that connects to another machine."""
    connect = socket.socket.connect

    def guarded(self, address):
        if self.family in (socket.AF_INET, socket.AF_INET6) and address[0] not in ("127.0.0.1", "::1", "localhost"):
            raise AssertionError(f"A test tried to reach {address}.")
        return connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", guarded)


@pytest.fixture(scope="session")
def real_data() -> Path:
    return REAL_DATA


@pytest.fixture(scope="session")
def atlas():
    """A tiny atlas: 300 cells, 40 genes, 3 batches, 4 types. Tests do not change it."""
    return sca.datasets.atlas(n_obs=300, n_vars=40, n_batches=3, n_types=4, seed=1)


@pytest.fixture
def reference_cells(atlas):
    return atlas[atlas.obs["batch"] != "batch2"].copy()


@pytest.fixture
def query_cells(atlas):
    return atlas[atlas.obs["batch"] == "batch2"].copy()


@pytest.fixture
def trained(reference_cells):
    """A small scVI, trained for two epochs on two batches."""
    model = sca.models.SCVI(reference_cells, batch_key="batch", **SMALL)
    model.train(**QUICK)
    return model


@pytest.fixture(scope="class")
def lesson(request):
    """A subclass of `Lesson`: the notebook with its outputs, and what its kernel then said."""
    return executed(request.cls.path, request.cls.before, **request.cls.asked)


@pytest.fixture(scope="class")
def said(lesson):
    return lesson[1]


@pytest.fixture
def server(monkeypatch):
    """A fake Zenodo, to which every call goes; no token and no Binder in the environment."""
    from scarches_widgets.hub import transfer, zenodo

    monkeypatch.setattr(transfer, "FIRST_PAUSE", 0.01)
    for name in (*zenodo.ON_BINDER, "ZENODO_TOKEN", "ZENODO_SANDBOX_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    with running() as fake:
        zenodo.configure(base_url=f"{fake.address}/api")
        yield fake
    zenodo.configure()
