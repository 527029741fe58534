"""Allow one writer at a time. The lock is a flock, which the kernel releases when its process ends."""

from __future__ import annotations

import fcntl
import hashlib
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pipeline.errors import PipelineError
from pipeline.folder_lock import SECONDS_FOR_ENDING, locked_within
from pipeline.scratch import scratch_root
from pipeline.store import layout
from pipeline.store.object_store import LocalObjectStore, ObjectStore

SECONDS_FOR_ORPHANS = 30.0


def lock_path(objects: ObjectStore, key: str = layout.LOCK_KEYS[0]) -> Path:
    """Return the lock file: in the store if it is local, else on this machine, where it excludes no other machine."""
    if isinstance(objects, LocalObjectStore):
        return objects.root / key
    digest = hashlib.sha256(objects.location.encode()).hexdigest()[:16]
    return scratch_root() / f"{digest}{key.rpartition('/')[2]}"


@contextmanager
def writer_lock(objects: ObjectStore) -> Iterator[None]:
    """Hold the store for writing.

    Raises:
        PipelineError: another process holds it.
    """
    with opened_lock(objects, layout.LOCK_KEYS[0]) as handle:
        if not locked_within(handle, SECONDS_FOR_ENDING):
            holder = os.pread(handle, 20, 0).decode(errors="replace").strip() or "unknown"
            raise PipelineError(
                f"The store {objects.location} is being written by another process (pid {holder}). "
                "Wait for it to end, or stop it; its finished blocks are kept."
            )
        os.ftruncate(handle, 0)
        os.pwrite(handle, f"{os.getpid()}\n".encode(), 0)
        _wait_for_orphans(objects)
        yield


@contextmanager
def worker_lock(objects: ObjectStore) -> Iterator[None]:
    """Hold the workers' lock while a worker writes a block, so that a new run waits for the workers of a killed one."""
    with opened_lock(objects, layout.LOCK_KEYS[1]) as handle:
        fcntl.flock(handle, fcntl.LOCK_SH)
        yield


@contextmanager
def opened_lock(objects: ObjectStore, key: str) -> Iterator[int]:
    """Open a lock file, or create it, without following a link, because a store may come from an untrusted source.

    Raises:
        PipelineError: it is not a regular file, or cannot be opened.
    """
    path = lock_path(objects, key)
    if path.parent.is_symlink():
        raise PipelineError(f"{path.parent} is a link; a store is locked only in its own folder.")
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o666)
    except OSError as error:
        raise PipelineError(f"The lock {path} cannot be opened ({error.strerror}). Is the store read-only?") from error
    try:
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            raise PipelineError(f"{path} is not a file; delete it, and run again.")
        yield handle
    finally:
        os.close(handle)


def _wait_for_orphans(objects: ObjectStore) -> None:
    with opened_lock(objects, layout.LOCK_KEYS[1]) as handle:
        if not locked_within(handle, SECONDS_FOR_ORPHANS):
            raise PipelineError(
                f"Workers of an earlier run still write to {objects.location}. "
                "Stop them, or try again when they are done."
            )
