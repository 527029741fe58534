"""Identify a clip's file by its size, modification time and digest."""

from __future__ import annotations

import errno
import functools
import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass

import h5py
import numpy as np

from pipeline.errors import ClipError
from pipeline.intervals import split_location, without_interval
from pipeline.manifest import HDF5_SEPARATOR
from pipeline.video.limits import DEFAULT_LIMITS, ClipLimits, chunks_of, open_file

BYTES_AT_ONCE = 1 << 26
NO_PATH = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG)


@dataclass(frozen=True)
class FileState:
    """Size in bytes and newest modification time of a clip's file, or of all files of a folder; -1 if missing."""

    size: int
    modified_ns: int


ABSENT = FileState(-1, -1)


def state_of(location: str) -> FileState:
    """Return size and modification time of a clip without reading it."""
    file = without_interval(location).partition(HDF5_SEPARATOR)[0]
    try:
        if not os.path.isdir(file):
            found = os.stat(file)
            return FileState(found.st_size, found.st_mtime_ns)
        sizes, changes = 0, 0
        with os.scandir(file) as entries:
            for entry in entries:
                if entry.is_dir():
                    continue
                found = entry.stat(follow_symlinks=entry.is_file())  # a link may be broken
                sizes, changes = sizes + found.st_size, max(changes, found.st_mtime_ns)
        return FileState(sizes, changes)
    except (OSError, ValueError):  # the path contains a zero byte
        return ABSENT


def clip_exists(location: str) -> bool:
    """Return whether the file or folder of a clip exists; faster than `state_of`, which scans folders."""
    return os.path.exists(without_interval(location).partition(HDF5_SEPARATOR)[0])


def digest_of(location: str, limits: ClipLimits = DEFAULT_LIMITS) -> str:
    """Compute the SHA-256 of a clip: of a file, of the names and bytes of a folder, or of a member of an HDF5 file.

    For an interval, it is the SHA-256 of the whole video followed by the interval.

    Raises:
        ClipError: it cannot be read, or exceeds a limit.
    """
    location, interval = split_location(location)
    if interval is not None:
        whole = _digest_of_video(location, limits, state_of(location))
        return whole and whole + interval.fragment
    file, _, member = location.partition(HDF5_SEPARATOR)
    digest = hashlib.sha256()
    try:
        if member:
            with open_file(file):  # HDF5 would wait for the bytes of a pipe
                _add_member(location, file, member, digest.update, limits)
        elif os.path.isdir(file):
            # Only the files of this folder: clips do not read subfolders.
            entries = sorted(_files_in(file), key=lambda entry: entry.name)
            limits.check_bytes(location, sum(entry.stat().st_size for entry in entries if entry.is_file()))
            for entry in entries:
                digest.update(os.fsencode(f"{entry.name}\0"))
                if entry.is_file():
                    with open_file(entry.path) as opened:
                        for chunk in chunks_of(opened):
                            digest.update(chunk)
        else:
            with open_file(file) as opened:
                limits.check_bytes(location, os.fstat(opened.fileno()).st_size)
                for chunk in chunks_of(opened):
                    digest.update(chunk)
    except (OSError, KeyError, RuntimeError, ValueError, TypeError) as error:
        # The path leads to no file; opening the clip reports it.
        if getattr(error, "errno", None) in NO_PATH or (isinstance(error, ValueError) and "\0" in location):
            return ""
        raise ClipError("unreadable", f"{location} cannot be read: {error}.") from error
    return digest.hexdigest()


@functools.lru_cache(maxsize=4)
def _digest_of_video(location: str, limits: ClipLimits, state: FileState) -> str:
    """Compute the digest of a video with several intervals once, as long as its file does not change."""
    return digest_of(location, limits)


def _files_in(folder: str) -> list[os.DirEntry[str]]:
    with os.scandir(folder) as entries:
        return [entry for entry in entries if not entry.is_dir()]


def _add_member(location: str, file: str, member: str, update: Callable[[bytes], object], limits: ClipLimits) -> None:
    with h5py.File(file, "r") as opened:
        found = opened[member]

        def add(name: str, value: object) -> None:
            if isinstance(value, h5py.Dataset):
                limits.check_bytes(location, value.nbytes)
                update(f"{name}\0{value.shape}\0{value.dtype}\0".encode())
                _add_values(value, update)

        if isinstance(found, h5py.Group):
            found.visititems(add)
        else:
            add("", found)


def _add_values(data: h5py.Dataset, update: Callable[[bytes], object]) -> None:
    if data.ndim == 0 or data.dtype.kind == "O":
        # Strings and rows of variable length: hash their bytes, not the pointers to them.
        for value in [data[()]] if data.ndim == 0 else data:
            update(np.asarray(value).tobytes() if not isinstance(value, str | bytes) else str(value).encode())
            update(b"\0")
        return
    rows = max(1, BYTES_AT_ONCE // max(1, data.nbytes // max(1, len(data))))
    for start in range(0, len(data), rows):
        update(np.ascontiguousarray(data[start : start + rows]).tobytes())
