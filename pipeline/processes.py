"""End worker processes with their parent, also if the parent is killed."""

from __future__ import annotations

import multiprocessing
import os
import threading


def num_cores() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def end_with_parent() -> None:
    """End this worker process when its parent ends. Every process pool calls it in its initializer.

    A killed parent does not close its queues, so its workers would wait for work forever.
    """
    threading.Thread(target=_wait_for_end_of_parent, name="end-with-parent", daemon=True).start()


def _wait_for_end_of_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
