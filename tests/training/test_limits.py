"""What a process may use, and what it has used."""

import subprocess
import sys

import numpy as np

PEAK = "from scarches_widgets.training.limits import peak_memory; print(peak_memory())"


def test_the_peak_memory_of_a_process_is_its_own_and_not_that_of_the_one_which_began_it():
    large = np.ones(50_000_000)  # 400 MB
    said = subprocess.run([sys.executable, "-c", PEAK], capture_output=True, text=True, check=True).stdout
    assert 5e6 < int(said) < 200e6 < large.nbytes
    grown = PEAK.replace("print", "large = bytes(300_000_000); grown = bytearray(large); del large, grown; print")
    said = subprocess.run([sys.executable, "-c", grown], capture_output=True, text=True, check=True).stdout
    assert int(said) > 300e6
