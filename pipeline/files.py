"""Files that are whole or absent: written aside, flushed to disk and moved into place."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import re
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path
from typing import Any

from pipeline.errors import PipelineError

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_MORE_BYTES = 1 << 20
_PART = re.compile(r"\..+\.[a-z0-9_]{8}\.part", re.DOTALL)


@contextmanager
def written_aside(path: Path, *, clears: bool = True) -> Iterator[Path]:
    """Yield a path beside `path`; when the block ends well, what was written there is moved onto `path`.

    A kill at any moment leaves the old file or the new one, never half of either; what was written aside is cleared by
    the next process that writes into the same folder. A link in the place of either file is replaced, never followed.
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if clears:
            clear_parts(path.parent)
        handle, aside = _locked_part(path)
    except OSError as error:
        raise UnwritableError(path, error) from error
    try:
        yield aside
        with open(aside, "rb+") as written:
            os.fsync(written.fileno())
        aside.chmod(0o666 & ~_umask())
        os.replace(aside, path)
    except PipelineError:
        raise
    except Exception as error:
        # Libraries say in their own ways that there was no room.
        cause = error if getattr(error, "errno", None) in FULL else _error_of_more(aside)
        if not isinstance(cause, OSError):
            raise
        raise UnwritableError(path, cause) from error
    finally:
        os.close(handle)
        aside.unlink(missing_ok=True)


class UnwritableError(PipelineError):
    """A file cannot be written: a full disk, a limit on its size, no permission."""

    def __init__(self, path: Path, cause: OSError) -> None:
        self.is_full = cause.errno in FULL
        way_out = "Make room" if self.is_full else "Choose another place, or change its permissions"
        # HDF5 puts a paragraph in the place of the system's words.
        self.strerror = os.strerror(cause.errno or errno.EIO)
        super().__init__(f"{path} could not be written: {self.strerror}. {way_out}, and run the same command again.")


def _error_of_more(path: Path) -> OSError | None:
    """Return the error that writing somewhat more to a file gives, if any."""
    try:
        with open(path, "ab") as file:
            file.write(bytes(_MORE_BYTES))
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        return error if error.errno in FULL else None
    return None


def _locked_part(path: Path) -> tuple[int, Path]:
    while True:
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
        with suppress(OSError):  # a file system without locks
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # Another process may have cleared the file before it was locked.
        if os.path.exists(name):
            return handle, Path(name)
        os.close(handle)


@lru_cache(maxsize=1024)
def clear_parts(folder: Path) -> None:
    """Remove the files that killed processes were writing aside in a folder; looked for once a process.

    A file belongs to a living process while that holds its lock, which ends with the process.
    """
    parts = []
    with suppress(OSError), os.scandir(folder) as entries:
        parts = [entry.path for entry in entries if _PART.fullmatch(entry.name)]
    for part in parts:
        with suppress(OSError):
            handle = os.open(part, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
            try:
                found = os.fstat(handle)
                if stat.S_ISREG(found.st_mode) and found.st_uid == os.getuid():
                    fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    os.unlink(part)
            finally:
                os.close(handle)


def write_text(path: Path, text: str) -> None:
    """Write `text` to `path` as UTF-8, whole or not at all."""
    with written_aside(path) as aside:
        aside.write_text(text, encoding="utf-8", newline="")


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON, whole or not at all."""
    write_text(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


def sha256_of_file(path: Path) -> str:
    """Return the SHA-256 of a file's bytes, as hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _umask() -> int:
    # There is no call that reads the mask without setting it.
    mask = os.umask(0o022)
    os.umask(mask)
    return mask
