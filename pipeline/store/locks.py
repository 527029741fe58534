"""One writer at a time. The lock is the kernel's (flock): it ends with its process, however that ends."""

from __future__ import annotations

import fcntl
import hashlib
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pipeline.errors import PipelineError
from pipeline.store.object_store import LocalObjectStore, ObjectStore

SECONDS_FOR_ORPHANS = 30.0


def lock_path(objects: ObjectStore, name: str = ".lock") -> Path:
    """The file that is locked: in a local store; for a URL on this machine, so that two machines are not told apart."""
    if isinstance(objects, LocalObjectStore):
        return objects.root / name
    digest = hashlib.sha256(objects.location.encode()).hexdigest()[:16]
    return Path(tempfile.gettempdir()) / f"st-pipeline-{os.getuid()}-{digest}{name}"


@contextmanager
def writer_lock(objects: ObjectStore) -> Iterator[None]:
    """Hold the store for writing.

    Raises:
        PipelineError: another process holds it.
    """
    path = lock_path(objects)
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            holder = file.read().strip() or "unknown"
            raise PipelineError(
                f"The store {objects.location} is being written by another process (pid {holder}). "
                "Wait for it to end, or stop it; what it has done is kept."
            ) from None
        file.truncate(0)
        file.write(f"{os.getpid()}\n")
        file.flush()
        _wait_for_orphans(objects)
        yield


@contextmanager
def worker_lock(objects: ObjectStore) -> Iterator[None]:
    """Held by a worker while it writes a block, so that a new run waits for the workers of a killed one."""
    with open(lock_path(objects, ".workers"), "a") as file:
        fcntl.flock(file, fcntl.LOCK_SH)
        yield


def _wait_for_orphans(objects: ObjectStore) -> None:
    with open(lock_path(objects, ".workers"), "a") as file:
        end_seconds = time.monotonic() + SECONDS_FOR_ORPHANS
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except BlockingIOError:
                if time.monotonic() > end_seconds:
                    raise PipelineError(
                        f"Workers of an earlier run still write to {objects.location}. "
                        "Stop them, or try again when they are done."
                    ) from None
                time.sleep(0.1)
