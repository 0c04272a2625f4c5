"""Freed memory is kept for the length of a run, where the C library is glibc.

A step allocates and frees the same few matrices again and again. glibc hands each that is large back to the system and
fetches it anew, at one page fault per 4 KB: 1.2 to 1.7 times the CPU time of a step. Its thresholds belong to the whole
process and cannot be read, so they are raised while any run computes, and afterwards set to the values up to which
glibc raises them by itself; what is free then goes back to the system.
"""

from __future__ import annotations

import contextlib
import ctypes
import threading
from collections.abc import Iterator

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of malloc.h
KEEP = 1 << 30  # bytes
USUAL = 32 << 20  # DEFAULT_MMAP_THRESHOLD_MAX of glibc on 64 bits; its trim threshold follows at twice that

_lock = threading.Lock()
_n_runs = 0


@contextlib.contextmanager
def freed_memory_kept() -> Iterator[None]:
    """While it lasts; may be entered by several threads at once."""
    global _n_runs
    glibc = _glibc()
    with _lock:
        _n_runs += 1
        if glibc and _n_runs == 1:
            glibc.mallopt(M_MMAP_THRESHOLD, KEEP)
            glibc.mallopt(M_TRIM_THRESHOLD, KEEP)
    try:
        yield
    finally:
        with _lock:
            _n_runs -= 1
            if glibc and _n_runs == 0:
                glibc.mallopt(M_MMAP_THRESHOLD, USUAL)
                glibc.mallopt(M_TRIM_THRESHOLD, 2 * USUAL)
                glibc.malloc_trim(0)


def _glibc() -> ctypes.CDLL | None:
    """None on musl, macOS and Windows."""
    try:
        library = ctypes.CDLL(None)
        library.gnu_get_libc_version, library.mallopt, library.malloc_trim  # noqa: B018 - are they there?
    except (OSError, AttributeError, TypeError):
        return None
    return library
