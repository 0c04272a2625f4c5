import subprocess
import sys
import threading

import pytest

from scarches_widgets.training.malloc import _glibc, freed_memory_kept

NEEDS_GLIBC = pytest.mark.skipif(_glibc() is None, reason="about glibc")

RESIDENT = """
import resource
import torch
from scarches_widgets.training.malloc import freed_memory_kept

def after_a_block_of(megabytes):  # megabytes that stay resident
    torch.ones(megabytes << 18)
    return int(open("/proc/self/statm").read().split()[1]) * resource.getpagesize() / 2**20

usual = after_a_block_of(48)
with freed_memory_kept():
    during = after_a_block_of(48)
print(usual, during, after_a_block_of(48))
"""


@NEEDS_GLIBC
def test_memory_is_kept_during_a_run_and_given_back_after_it():
    done = subprocess.run([sys.executable, "-c", RESIDENT], capture_output=True, text=True, check=True)
    usual, during, after = map(float, done.stdout.split())
    assert during > usual + 40
    assert after < usual + 10


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
