"""What a process may use, and what it has used."""

import subprocess
import sys

import numpy as np

PEAK = "from scarches_widgets.training.limits import peak_memory; print(peak_memory())"


def test_the_peak_memory_of_a_process_is_its_own_and_not_that_of_the_one_which_began_it():
    large = np.ones(15_000_000)  # 120 MB
    for before, least, most in (("", 5e6, 60e6), ("large = b'1' * 60_000_000; del large; ", 60e6, 115e6)):
        said = subprocess.run([sys.executable, "-c", before + PEAK], capture_output=True, text=True, check=True).stdout
        assert least < int(said) < most < large.nbytes
