import subprocess
import sys
import threading

import pytest

from scarches_widgets.training.malloc import _glibc, freed_memory_kept

NEEDS_GLIBC = pytest.mark.skipif(_glibc() is None, reason="about glibc")

FAULTS = """
import resource
import torch
from scarches_widgets.training.malloc import freed_memory_kept

torch.set_num_threads(1)
def faults(n=200, megabytes=48):  # more than what glibc keeps by itself
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(n):
        torch.ones(megabytes << 18)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

def resident():
    return int(open("/proc/self/statm").read().split()[1]) * resource.getpagesize() / 2**20

faults(3)
before, outside = resident(), faults()
with freed_memory_kept():
    faults(3)
    inside = faults()
    kept = resident()
print(outside, inside, faults(), before, kept, resident())
"""


@NEEDS_GLIBC
def test_memory_is_kept_during_a_run_and_given_back_after_it():
    done = subprocess.run([sys.executable, "-c", FAULTS], capture_output=True, text=True, check=True)
    outside, inside, after, resident_before, resident_during, resident_after = map(float, done.stdout.split())
    assert inside < outside / 20 and after > outside / 2
    assert resident_during > resident_before + 40
    assert resident_after < resident_before + 20


@NEEDS_GLIBC
def test_of_two_runs_the_one_that_ends_last_restores(monkeypatch):
    calls = []

    class Library:
        def mallopt(self, *arguments):
            calls.append(arguments)

        def malloc_trim(self, pad):
            calls.append("trim")

    monkeypatch.setattr("scarches_widgets.training.malloc._glibc", Library)
    inside, leave = threading.Event(), threading.Event()

    def other():
        with freed_memory_kept():
            inside.set()
            leave.wait(10)

    thread = threading.Thread(target=other)
    with freed_memory_kept():
        thread.start()
        inside.wait(10)
        assert len(calls) == 2
    assert len(calls) == 2
    leave.set()
    thread.join()
    assert len(calls) == 5 and calls[-1] == "trim"
