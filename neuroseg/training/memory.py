"""Keep freed memory in the process. Training frees and takes the same large tensors at every step; by default
glibc gives them back to the kernel each time, and page faults take half of a fine-tuning step."""

from __future__ import annotations

import ctypes
import sys

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_ARENA_MAX = -1, -3, -8  # malloc.h
LIMIT = 2**31 - 1


def keep_freed_memory() -> bool:
    """Raise glibc's trim and mmap thresholds for this process; returns False where there is no glibc."""
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):
        return False
    # One arena: autograd's thread gives back what the main thread took, and would not find it in its own.
    settings = ((M_ARENA_MAX, 1), (M_TRIM_THRESHOLD, LIMIT), (M_MMAP_THRESHOLD, LIMIT))
    return all(mallopt(name, value) for name, value in settings)
