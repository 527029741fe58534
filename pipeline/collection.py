"""Pause Python's cyclic garbage collector where it visits many objects and finds no garbage."""

from __future__ import annotations

import atexit
import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def paused_collection() -> Iterator[None]:
    """Pause the collector in the block, or in a decorated function; if it was off before, it stays off.

    The collector visits all objects again and again while their number grows: a part of the time to open a store that
    grows faster than the number of clips.
    """
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


@contextmanager
def lasting_imports() -> Iterator[None]:
    """Pause the collector while the block imports modules, and exclude all objects from later collections.

    Modules stay until the process ends. Visiting their objects takes a sixth of the time to import torch during the
    import, and as much again after it. If everything was imported before, nothing is excluded: objects of the caller
    would be, too, and those that are garbage would never be freed.
    """
    num_modules = len(sys.modules)
    with paused_collection():
        yield
        if len(sys.modules) > num_modules:
            gc.freeze()


def skip_last_collection() -> None:
    """Let the interpreter end without visiting all objects again, which takes a fifth of the time to import torch.

    Its last collections only find garbage in cycles, which the system frees anyway; functions of `atexit` and
    `weakref.finalize` run before.
    """
    atexit.register(gc.freeze)
