"""A damaged HDF5 file can make libhdf5 crash, and a crash takes the kernel with all that is in it. So another process
reads through the file first; only how that one ends counts.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

from .names import DataError

PATIENCE = 120.0  # seconds
CODE = """
import contextlib, sys
with contextlib.suppress(ImportError, ValueError):
    import resource
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # no dump of the memory
for plugin in sys.argv[2:]:
    __import__(plugin)
from scarches_widgets.data.read import read_through
with contextlib.suppress(Exception):
    read_through(sys.argv[1])
"""


def refuse_if_it_crashes(path: Path) -> None:
    """Have another process look through an HDF5 file, by `read.read_through`. What it costs is the start of Python and
    h5py, some 0.3 s.

    Raises
    ------
    DataError
        The process crashed, or was not done in `PATIENCE` seconds.
    """
    plugins = ["hdf5plugin"] if "hdf5plugin" in sys.modules else []  # filters that this process has registered
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    streams = dict.fromkeys(["stdin", "stdout", "stderr"], subprocess.DEVNULL)
    command = [sys.executable, "-P", "-c", CODE, str(path), *plugins]
    try:
        code = subprocess.run(command, env=environment, timeout=PATIENCE, check=False, **streams).returncode
    except subprocess.TimeoutExpired as error:
        raise DataError(
            f"'{path}' was not looked through in {PATIENCE:g} seconds: it is damaged, or its disk is slow. If you "
            "trust it, read it with `probe=False`."
        ) from error
    if code < 0 or code > 255:  # a signal, or an exception of Windows
        raise DataError(
            f"'{path}' is damaged: the HDF5 library crashes on it ({_crash(code)}). Another process tried it, so "
            "nothing is lost here. Copy or download the file again."
        )


def _crash(code: int) -> str:
    with suppress(ValueError):
        return signal.Signals(-code).name
    return f"code {code:#x}"
