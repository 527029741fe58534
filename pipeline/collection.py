"""Pause Python's cyclic garbage collector where many objects are created and none become garbage."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def paused_collection() -> Iterator[None]:
    """Pause the collector in the block, or in a decorated function; if it was off before, it stays off.

    The collector visits all objects again and again while their number grows: a sixth of the time to import torch, and
    a part of the time to open a store that grows faster than the number of clips.
    """
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()
