"""What this process may use: CPUs and memory, as containers, job schedulers and hubs limit them; and what fits."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path

FLOOR = 420e6  # bytes of a process that has imported torch, anndata and scikit-learn (measured)
CGROUP, OWN_CGROUPS = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")
NO_LIMIT = 2**60  # what cgroup v1 writes for "none" is beyond this


def usable_cpus() -> int:
    """CPUs that this process may keep busy: its affinity, less what the quota of any cgroup around it takes away."""
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(affinity, round(_cgroup_cpus() or affinity)))


def memory_limit() -> int:
    """Bytes that this process may use: the least of the machine's memory, of what its cgroup and those around it may
    use, and of the hub's limit."""
    import psutil

    limits = [psutil.virtual_memory().total]
    for folder in _cgroups("memory"):
        limits += [_number(folder / "memory.max"), _number(folder / "memory.limit_in_bytes")]
    limits += (
        [int(float(os.environ["MEM_LIMIT"]))] if os.environ.get("MEM_LIMIT", "").replace(".", "").isdigit() else []
    )
    return min(limit for limit in limits if limit is not None and limit < NO_LIMIT)


def cells_that_fit(
    n_genes: int, limit: int | None = None, *, share_not_zero: float = 0.1, batch_size: int = 128
) -> int:
    """Roughly how many cells, held in memory as CSR counts, can be trained on within `limit` bytes.

    A stored count takes 8 bytes; a training step's activations up to 35 times its minibatch of counts (measured); twice
    the weights' and the optimiser's few MB and 100 MB for neighbours and pictures are set aside.
    """
    limit = memory_limit() if limit is None else limit
    activations = 35 * batch_size * n_genes * 4
    per_cell = 8 * n_genes * share_not_zero + 100
    return max(0, int((limit - FLOOR - activations - 130e6) / per_cell))


def peak_memory() -> int:
    """Most bytes that this process has had in memory so far."""
    try:
        status = Path("/proc/self/status").read_text()
        return 1024 * int(status.partition("VmHWM:")[2].split()[0])  # getrusage counts the process that began this one
    except (OSError, IndexError):
        pass
    try:
        import resource
    except ImportError:  # Windows has none
        import psutil

        return psutil.Process().memory_info().peak_wset
    kilobytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return kilobytes if sys.platform == "darwin" else kilobytes * 1024


def _cgroup_cpus() -> float | None:
    """The least quota; None if there is none."""
    quotas = []
    for folder in _cgroups("cpu"):
        with contextlib.suppress(OSError, ValueError):  # there is none here, or it is "max"
            quota, period = (folder / "cpu.max").read_text().split()
            quotas.append(int(quota) / int(period))
        quota, period = _number(folder / "cpu.cfs_quota_us"), _number(folder / "cpu.cfs_period_us")
        if quota and period:
            quotas.append(quota / period)
    return min(quotas, default=None)


def _cgroups(controller: str) -> Iterator[Path]:
    """Folders of the cgroup that this process is in, of version 1 and 2, and of those around it, up to the root. In a
    container some are not to be seen."""
    try:
        lines = OWN_CGROUPS.read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers == "":  # version 2; with version 1 beside it, it stands in a folder of its own
            mounts = [CGROUP, CGROUP / "unified"]
        elif controller in controllers.split(","):
            mounts = [CGROUP / controller, CGROUP / controllers]
        else:
            continue
        names = [] if ".." in path.split("/") else path.strip("/").split("/")  # "..": beyond what is mounted here
        for mount in mounts:
            yield from (mount.joinpath(*names[:depth]) for depth in range(len(names), -1, -1))


def _number(path: Path) -> int | None:
    try:
        text = path.read_text().strip()
    except OSError:
        return None
    return int(text) if text.isdigit() else None
