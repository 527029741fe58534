"""What a clip's file is: its size, its digest, and when it last changed."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import h5py

from pipeline.errors import ClipError
from pipeline.manifest import HDF5_SEPARATOR


@dataclass(frozen=True)
class FileState:
    """Size in bytes and newest change of a clip's file (of all its frames for a folder). -1 where it is missing."""

    size: int
    modified_ns: int


ABSENT = FileState(-1, -1)


def state_of(location: str) -> FileState:
    """The state of a clip without reading it."""
    file = location.partition(HDF5_SEPARATOR)[0]
    try:
        if not os.path.isdir(file):
            found = os.stat(file)
            return FileState(found.st_size, found.st_mtime_ns)
        sizes, changes = 0, 0
        with os.scandir(file) as entries:
            for entry in entries:
                if entry.is_dir():
                    continue
                found = entry.stat()
                sizes, changes = sizes + found.st_size, max(changes, found.st_mtime_ns)
        return FileState(sizes, changes)
    except OSError:
        return ABSENT


def is_there(location: str) -> bool:
    """Whether there is a file or folder for a clip; one look, where `state_of` looks at every frame of a folder."""
    return os.path.exists(location.partition(HDF5_SEPARATOR)[0])


def digest_of(location: str) -> str:
    """SHA-256 over the bytes of a clip: of the file, of the names and bytes of a folder, of a member of an HDF5 file.

    Raises:
        ClipError: it cannot be read.
    """
    file, _, member = location.partition(HDF5_SEPARATOR)
    digest = hashlib.sha256()
    try:
        if member:
            _add_member(file, member, digest.update)
        elif os.path.isdir(file):
            # Its own files: no clip reads those of a folder within.
            for name in sorted(entry.name for entry in os.scandir(file) if not entry.is_dir()):
                digest.update(f"{name}\0".encode())
                digest.update(Path(file, name).read_bytes())
        else:
            with open(file, "rb") as opened:
                return hashlib.file_digest(opened, "sha256").hexdigest()
    except FileNotFoundError:
        return ""
    except (OSError, KeyError) as error:
        raise ClipError("unreadable", f"{location} cannot be read: {error}.") from error
    return digest.hexdigest()


def _add_member(file: str, member: str, update: Callable[[bytes], None]) -> None:
    with h5py.File(file, "r") as opened:
        found = opened[member]

        def add(name: str, value: object) -> None:
            if isinstance(value, h5py.Dataset):
                update(f"{name}\0{value.shape}\0{value.dtype}\0".encode())
                update(value[()].tobytes())

        if isinstance(found, h5py.Group):
            found.visititems(add)
        else:
            add("", found)
