"""Temporary folders below `<tmp>/st-pipeline-<user id>`; those of killed processes are deleted."""

from __future__ import annotations

import fcntl
import os
import shutil
import stat
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from pipeline.errors import PipelineError

LOCK = ".lock"
NUM_ATTEMPTS, SECONDS_BETWEEN_ATTEMPTS = 20, 0.1


def scratch_root() -> Path:
    """Return the folder of this user's temporary folders and locks; create it if necessary.

    Raises:
        PipelineError: it belongs to another user, or is not a folder.
    """
    root = Path(tempfile.gettempdir()) / f"st-pipeline-{os.getuid()}"
    root.mkdir(mode=0o700, parents=True, exist_ok=True)
    found = root.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid():
        raise PipelineError(f"{root} is not a folder of this user. Delete it, or set TMPDIR to another folder.")
    return root


@contextmanager
def temporary_folder(purpose: str) -> Iterator[Path]:
    """Yield a folder that is deleted at the end; if the process is killed, the next process deletes it.

    A running process holds a lock in its folder.
    """
    root = scratch_root()
    with open(root / LOCK, "w") as shared:
        fcntl.flock(shared, fcntl.LOCK_EX)
        clear_left_over(root)
        folder = Path(tempfile.mkdtemp(dir=root, prefix=f"{purpose}-"))
        lock = open(folder / LOCK, "w")  # noqa: SIM115 - held as long as the folder is in use
        fcntl.flock(lock, fcntl.LOCK_EX)
    with lock:
        try:
            yield folder
        finally:
            _delete(folder)


def clear_left_over(root: Path) -> None:
    """Delete the temporary folders whose process is gone. The caller holds the lock of `root`.

    A folder without a lock was being deleted when its process was killed.
    """
    for folder in root.iterdir():
        if folder.is_symlink() or not folder.is_dir():
            continue
        with suppress(OSError), open(folder / LOCK, "a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            _delete(folder)


def _delete(folder: Path) -> None:
    """Delete a folder, also if processes that are ending still write a file into it."""
    for _ in range(NUM_ATTEMPTS):
        shutil.rmtree(folder, ignore_errors=True)
        if not folder.exists():
            return
        time.sleep(SECONDS_BETWEEN_ATTEMPTS)
