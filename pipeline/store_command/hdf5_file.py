"""HDF5 files with a SHA-256 of their bytes in the first 512 bytes (the "user block" of HDF5).

    st-pipeline export sha256=<64 hexadecimal digits> bytes=<size of what follows the block>

HDF5 readers skip the block. The digest is checked before HDF5 opens the file, because damage can crash its library.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from pipeline.errors import PipelineError
from pipeline.files import atomic_path
from pipeline.hdf5_output import hdf5_to_write

BLOCK_BYTES = 512
HDF5_MAGIC = b"\x89HDF\r\n\x1a\n"
_HEADER = re.compile(rb"st-pipeline export sha256=([0-9a-f]{64}) bytes=(\d{1,20})\n\0*")


@contextmanager
def sealed_hdf5(path: Path) -> Iterator[h5py.File]:
    """Yield a new HDF5 file; if the block succeeds, write its digest and move it to `path`."""
    with atomic_path(path) as aside:
        with hdf5_to_write(aside, "w", userblock_size=BLOCK_BYTES) as file:
            yield file
        digest, num_bytes = _digest(aside)
        header = f"st-pipeline export sha256={digest} bytes={num_bytes}\n".encode()
        with open(aside, "rb+") as opened:
            opened.write(header.ljust(BLOCK_BYTES, b"\0"))


@contextmanager
def opened_hdf5(path: Path) -> Iterator[h5py.File]:
    """Open a file that `sealed_hdf5` wrote, after checking its SHA-256. Files of version 0.1 have none.

    Raises:
        PipelineError: it is missing, damaged, or not an export.
    """
    try:
        with open(path, "rb") as opened:
            start = opened.read(BLOCK_BYTES)
    except OSError as error:
        raise PipelineError(f"{path} cannot be read: {error.strerror}.") from error
    if not start.startswith(HDF5_MAGIC):
        found = _HEADER.fullmatch(start)
        if found is None or (found[1].decode(), int(found[2])) != _digest(path):
            raise PipelineError(
                f"{path} does not match the SHA-256 that `pipeline store export` wrote into it: it is damaged, or "
                "not an export. Copy it again, or export the store again."
            )
    try:
        file = h5py.File(path, "r")
    except OSError as error:
        raise PipelineError(f"{path} cannot be read as HDF5: {error}.") from error
    with file:
        yield file


def is_sealed(path: Path) -> bool:
    """Return whether a file begins with its SHA-256, which files of version 0.1 lack."""
    with open(path, "rb") as opened:
        return opened.read(len(HDF5_MAGIC)) != HDF5_MAGIC


def dataset(group: h5py.Group, name: str, shape: tuple[int | None, ...], dtype: str | None = None) -> h5py.Dataset:
    """Return a data set of an untrusted file, after checking its shape and type; None allows any length.

    Raises:
        PipelineError: it is missing, stored in another file, has another shape or type, or its values are not stored.
    """
    where = f"{group.file.filename}: {group.name}/{name}"
    if not isinstance(group.get(name, getlink=True), h5py.HardLink) or not isinstance(group[name], h5py.Dataset):
        raise PipelineError(f"{where} is not a data set of this file.")
    found = group[name]
    if found.external or found.is_virtual:
        raise PipelineError(f"{where} has its values in another file.")
    fits = len(found.shape) == len(shape) and all(
        wanted in (None, there) for wanted, there in zip(shape, found.shape, strict=True)
    )
    if not fits or (dtype is not None and found.dtype != np.dtype(dtype)):
        raise PipelineError(f"{where} has the shape {found.shape} of {found.dtype}, not {shape} of {dtype}.")
    if None in shape and found.id.get_storage_size() < found.nbytes:
        # HDF5 gives the fill value for them, at any length and without a byte in the file.
        raise PipelineError(f"{where} has {found.size:,} values, but the file does not hold them.")
    return found


def texts(group: h5py.Group, name: str, num: int | None = None) -> list[str]:
    """Read a column of strings.

    Raises:
        PipelineError: it has another type.
    """
    column = dataset(group, name, (num,))
    if h5py.check_string_dtype(column.dtype) is None:
        raise PipelineError(f"{group.file.filename}: {group.name}/{name} does not hold strings.")
    return [str(text) for text in column.asstr()[:]]


def child(group: h5py.Group, name: str) -> Any:
    """Return a group of this file.

    Raises:
        PipelineError: it is missing, or a link to another file.
    """
    if not isinstance(group.get(name, getlink=True), h5py.HardLink) or not isinstance(group[name], h5py.Group):
        raise PipelineError(f"{group.file.filename} has no group {group.name.rstrip('/')}/{name}.")
    return group[name]


def _digest(path: Path) -> tuple[str, int]:
    with open(path, "rb") as opened:
        opened.seek(BLOCK_BYTES)
        digest = hashlib.file_digest(opened, "sha256").hexdigest()
        return digest, opened.tell() - BLOCK_BYTES
