"""Keep freed memory in the process. Training frees and takes the same large tensors at every step; by default
glibc gives them back to the kernel each time, and page faults take half of a fine-tuning step."""

from __future__ import annotations

import ctypes
import sys

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # malloc.h
LIMIT = 2**31 - 1


def keep_freed_memory() -> bool:
    """Raise glibc's trim and mmap thresholds for this process; returns False where there is no glibc."""
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):
        return False
    # glibc caps the mmap threshold (HEAP_MAX/2 = 32 MiB on 64 bit) and refuses more.
    return bool(mallopt(M_TRIM_THRESHOLD, LIMIT)) and bool(mallopt(M_MMAP_THRESHOLD, LIMIT))
