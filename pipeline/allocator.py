"""Configure glibc's allocator to keep the memory of a batch for the next one.

By default each large tensor is a separate mapping that is released at once, so every batch needs new zeroed pages, a
quarter or more of the CPU time.
"""

from __future__ import annotations

import ctypes
import sys

# From malloc.h.
M_TRIM_THRESHOLD = -1
M_MMAP_THRESHOLD = -3
M_MMAP_MAX = -4
M_ARENA_MAX = -8

# The largest threshold that glibc takes on 64 bits.
MMAP_THRESHOLD_BYTES = 32 << 20
TRIM_THRESHOLD_BYTES = 1 << 30


def keep_memory_between_batches(*, of_any_size: bool = False) -> bool:
    """Configure the allocator of this process and return whether it succeeded. Without glibc, nothing is changed.

    of_any_size: also keep tensors above glibc's largest threshold. For processes whose batches are all of one size:
        where sizes vary, the kept memory would grow.
    """
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    # One arena: arenas of other threads than the first are limited to 64 MB and fall back to mappings.
    wanted = [(M_ARENA_MAX, 1), (M_MMAP_THRESHOLD, MMAP_THRESHOLD_BYTES), (M_TRIM_THRESHOLD, TRIM_THRESHOLD_BYTES)]
    if of_any_size:
        wanted.append((M_MMAP_MAX, 0))
    return all(mallopt(option, value) == 1 for option, value in wanted)
