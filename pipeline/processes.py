"""Worker processes that end with the process that started them, however that ends."""

from __future__ import annotations

import multiprocessing
import os
import threading


def end_with_parent() -> None:
    """End this worker process as soon as its parent is gone. Every pool of processes calls it in its initializer.

    A parent that was killed closes no queue, and its workers would wait for work for ever.
    """
    threading.Thread(target=_wait_for_end_of_parent, name="end-with-parent", daemon=True).start()


def _wait_for_end_of_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
