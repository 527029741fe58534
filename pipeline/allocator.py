"""glibc's allocator, told to keep the memory of a batch for the next one.

By default each large tensor is a mapping of its own, given back at once: every batch pays for fresh zeroed pages, which
costs a quarter and more of the processor's time.
"""

from __future__ import annotations

import ctypes
import sys

# From malloc.h.
M_TRIM_THRESHOLD = -1
M_MMAP_THRESHOLD = -3
M_ARENA_MAX = -8

# The largest threshold that glibc takes on 64 bits.
MMAP_THRESHOLD_BYTES = 32 << 20
TRIM_THRESHOLD_BYTES = 1 << 30


def keep_memory_between_batches() -> bool:
    """Set the allocator of this process; whether it could be. Elsewhere than on glibc nothing is changed."""
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    # One arena: those of other threads than the first are limited to 64 MB and fall back to mappings.
    wanted = ((M_ARENA_MAX, 1), (M_MMAP_THRESHOLD, MMAP_THRESHOLD_BYTES), (M_TRIM_THRESHOLD, TRIM_THRESHOLD_BYTES))
    return all(mallopt(option, value) == 1 for option, value in wanted)
