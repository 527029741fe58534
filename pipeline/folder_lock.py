"""Let one command at a time write a result folder. The kernel releases the lock when its process ends."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from pipeline.errors import PipelineError

# The process of a command that was just killed may take a moment to end.
SECONDS_FOR_ENDING = 1.0


@contextmanager
def folder_lock(folder: Path) -> Iterator[None]:
    """Hold a folder, which is created if it is missing, for writing. The lock is on the folder and needs no file in it.

    Raises:
        PipelineError: another process holds it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        is_held = True
        with suppress(OSError):  # the file system has no locks
            is_held = locked_within(handle, SECONDS_FOR_ENDING)
        if not is_held:
            raise PipelineError(
                f"Another command is writing results to {folder}. Wait for it to end, or give another --out."
            )
        yield
    finally:
        os.close(handle)


def locked_within(handle: int, seconds: float) -> bool:
    """Wait for an exclusive lock on an open file or folder; return whether it is held."""
    end_seconds = time.monotonic() + seconds
    while True:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            if time.monotonic() > end_seconds:
                return False
            time.sleep(0.05)
