"""What a process may use, and what it has used."""

import subprocess
import sys

import numpy as np
import pytest

from scarches_widgets.training import limits

PEAK = "from scarches_widgets.training.limits import peak_memory; print(peak_memory())"


def test_the_peak_memory_of_a_process_is_its_own_and_not_that_of_the_one_which_began_it():
    large = np.ones(15_000_000)  # 120 MB
    for before, least, most in (("", 5e6, 60e6), ("large = b'1' * 60_000_000; del large; ", 60e6, 115e6)):
        said = subprocess.run([sys.executable, "-c", before + PEAK], capture_output=True, text=True, check=True).stdout
        assert least < int(said) < most < large.nbytes


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """Writes files as a Linux without limits of its own would show them."""
    monkeypatch.setattr(limits, "CGROUP", tmp_path)
    monkeypatch.setattr(limits, "OWN_CGROUPS", tmp_path / "own")
    monkeypatch.setattr(limits.os, "sched_getaffinity", lambda process: set(range(64)), raising=False)
    monkeypatch.delenv("MEM_LIMIT", raising=False)

    def write(name, text):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)

    return write


def test_the_least_limit_of_all_cgroups_around_a_process_holds_in_version_2(machine):
    machine("own", "0::/user.slice/session.scope/job\n")
    machine("user.slice/memory.max", "300000000\n")
    machine("user.slice/cpu.max", "max 100000\n")
    machine("user.slice/session.scope/memory.max", "max\n")
    machine("user.slice/session.scope/cpu.max", "300000 100000\n")
    machine("user.slice/session.scope/job/memory.max", "400000000\n")
    machine("user.slice/session.scope/job/cpu.max", "1600000 100000\n")
    machine("elsewhere/memory.max", "1000\n")
    assert limits.memory_limit() == 300_000_000 and limits.usable_cpus() == 3


def test_the_least_limit_of_all_cgroups_around_a_process_holds_in_version_1(machine):
    machine("own", "9:memory:/docker/abc/step\n4:cpu,cpuacct:/batch/7\n3:freezer:/docker/abc\n0::/\n")
    machine("memory/memory.limit_in_bytes", "9223372036854771712\n")
    machine("memory/docker/abc/memory.limit_in_bytes", "500000000\n")
    machine("memory/docker/abc/step/memory.limit_in_bytes", "9223372036854771712\n")
    machine("cpu,cpuacct/batch/cpu.cfs_quota_us", "200000\n")
    machine("cpu,cpuacct/batch/cpu.cfs_period_us", "100000\n")
    machine("cpu,cpuacct/batch/7/cpu.cfs_quota_us", "-1\n")
    machine("cpu,cpuacct/batch/7/cpu.cfs_period_us", "100000\n")
    assert limits.memory_limit() == 500_000_000 and limits.usable_cpus() == 2


def test_in_a_container_that_sees_its_own_cgroup_as_the_root_the_roots_limit_holds(machine):
    for path in ("/", "/../../kubepods/pod1", "/docker/not-mounted-here"):
        machine("own", f"0::{path}\n")
        machine("memory.max", "700000000\n")
        machine("cpu.max", "150000 100000\n")
        assert limits.memory_limit() == 700_000_000 and limits.usable_cpus() == 2


def test_without_any_cgroup_the_machine_is_the_limit(machine, monkeypatch):
    import psutil

    assert limits.memory_limit() == psutil.virtual_memory().total and limits.usable_cpus() == 64
    monkeypatch.setenv("MEM_LIMIT", "100000000.0")
    assert limits.memory_limit() == 100_000_000
