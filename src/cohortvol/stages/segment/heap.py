"""Keep the memory of large arrays in the process between uses.

glibc maps every block over 32 MiB afresh and gives it back when it is freed, so that each layer of
a network waits for the kernel to clear the pages of its output: a third of the time of a network
on a CPU (benchmarks/README.md). Kept in the heap, the pages are used again.
"""

from __future__ import annotations

import ctypes
from typing import Any

_M_TRIM_THRESHOLD = -1  # malloc.h
_M_MMAP_MAX = -4
_NEVER = -1  # a limit of 2 GiB is passed by the layers of a full-size network at 1.5 mm


def keep_large_blocks() -> bool:
    """Ask glibc not to return freed memory to the system; False where there is no glibc."""
    mallopt = _of_glibc("mallopt")
    return bool(mallopt and mallopt(_M_MMAP_MAX, 0) and mallopt(_M_TRIM_THRESHOLD, _NEVER))


def return_free_pages() -> None:
    """Return what is free now, so that scans of many sizes do not leave ever more holes."""
    trim = _of_glibc("malloc_trim")
    if trim:
        trim(0)


def _of_glibc(name: str) -> Any:
    try:
        return getattr(ctypes.CDLL("libc.so.6"), name)
    except (OSError, AttributeError):
        return None
