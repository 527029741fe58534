"""Write files atomically: to a temporary file, flushed to disk and moved to the destination."""

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

from pipeline.errors import PipelineError, with_causes

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
FAILING = (errno.EIO, errno.ESTALE, errno.EREMOTEIO, errno.ETIMEDOUT)
MAX_JSON_BYTES = 1 << 28
_MORE_BYTES = 1 << 20
_PART = re.compile(r"\..+\.[a-z0-9_]{8}\.part", re.DOTALL)


@contextmanager
def atomic_path(path: Path, *, clears: bool = True) -> Iterator[Path]:
    """Yield a temporary path in the folder of `path`; if the block succeeds, move the file to `path`.

    If the process is killed, either the old or the new file remains, never a part; the next process that writes to the
    same folder deletes the temporary file. A link at either path is replaced, not followed.
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
        _move(aside, path)
    except PipelineError:
        raise
    except Exception as error:
        # Libraries report a full or failing disk with various exceptions.
        cause = _system_error(error) or _error_of_more(aside)
        if cause is None:
            raise
        raise UnwritableError(path, cause) from error
    finally:
        os.close(handle)
        aside.unlink(missing_ok=True)


def _move(aside: Path, path: Path) -> None:
    try:
        with open(aside, "rb+") as written:
            os.fsync(written.fileno())
        aside.chmod(0o666 & ~_umask())
        os.replace(aside, path)
    except OSError as error:  # a disk or a network drive may fail only now
        raise UnwritableError(path, error) from error


class UnwritableError(PipelineError):
    """A file cannot be written: a full disk, a limit on its size, no permission."""

    def __init__(self, path: Path, cause: OSError) -> None:
        self.is_full = cause.errno in FULL
        way_out = "Choose another place, or change its permissions"
        if self.is_full:
            way_out = "Make room"
        elif cause.errno in FAILING:
            way_out = "Check the disk or the network drive"
        # HDF5 replaces the system's message by a paragraph.
        self.strerror = os.strerror(cause.errno or errno.EIO)
        super().__init__(f"{path} could not be written: {self.strerror}. {way_out}, and run the same command again.")


def _system_error(error: BaseException) -> OSError | None:
    """Return the error of a full or failing disk behind an exception: itself, or one before it.

    A library written in Rust names it in its text, such as `(os error 28)`.
    """
    for cause in with_causes(error):
        named = re.search(r"\(os error (\d+)\)", str(cause))
        number = int(named[1]) if named else getattr(cause, "errno", None)
        if number in FULL or number in FAILING:
            return OSError(number, os.strerror(number))
    return None


def _error_of_more(path: Path) -> OSError | None:
    """Return the error of writing some more bytes to a file, if any."""
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
        with suppress(OSError):  # the file system has no locks
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # Another process may have cleared the file before it was locked.
        if os.path.exists(name):
            return handle, Path(name)
        os.close(handle)


@lru_cache(maxsize=1024)
def clear_parts(folder: Path) -> None:
    """Delete the temporary files of killed processes in a folder; searched once per process.

    A running process holds a lock on its file, which the kernel releases when the process ends.
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
    """Write `text` to `path` as UTF-8, atomically."""
    with atomic_path(path) as aside:
        aside.write_text(text, encoding="utf-8", newline="")


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON, atomically."""
    write_text(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """Read a JSON file, which may come from a stranger.

    Raises:
        OSError: it is missing, cannot be read, or is not a regular file.
        ValueError: it is larger than 256 MiB, or `parse_json` refuses it.
    """
    with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise OSError(errno.EINVAL, "it is not a file", str(path))
        data = file.read(MAX_JSON_BYTES + 1)
    if len(data) > MAX_JSON_BYTES:
        raise ValueError(f"it has more than {MAX_JSON_BYTES:,} bytes")
    return parse_json(data)


def parse_json(data: bytes | str) -> Any:
    """Parse JSON in UTF-8, which may come from a stranger.

    Raises:
        ValueError: it is not JSON, is nested too deeply, or has half of a surrogate pair, which no file can hold.
    """
    text = data.decode() if isinstance(data, bytes) else data
    try:
        value = json.loads(text)
        if "\\ud" in text.lower():
            json.dumps(value, ensure_ascii=False).encode()
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    return value


def sha256_of_file(path: Path) -> str:
    """Return the SHA-256 of a file's bytes, as hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _umask() -> int:
    # The mask can only be read by setting it.
    mask = os.umask(0o022)
    os.umask(mask)
    return mask
