"""HDF5 files that survive a full disk: the error of a write is raised once the library has closed the file."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import h5py


@contextmanager
def hdf5_to_write(path: Path, mode: Literal["w", "r+"], **options: Any) -> Iterator[h5py.File]:
    """Yield an HDF5 file, new or existing, to write to; `options` are those of `h5py.File`.

    Raises:
        OSError: a write failed, for instance because the disk is full.
    """
    with open(path, "rb+" if path.exists() else "wb+", buffering=0) as opened:
        output = _Output(opened)
        try:
            with h5py.File(output, mode, **options) as file:
                yield file
        finally:
            # The library may have raised other errors because it could not write.
            if output.error is not None:
                raise output.error


class _Output:
    """File for HDF5 that keeps the first error of a write and then writes nothing.

    HDF5 must not see the error: if it cannot write the metadata of a file that it closes, the process crashes.
    """

    def __init__(self, file: io.FileIO) -> None:
        self._file = file
        self.error: OSError | None = None

    def write(self, data: memoryview) -> int:
        rest = memoryview(data)
        while rest and self.error is None:
            try:
                rest = rest[self._file.write(rest) :]
            except OSError as error:
                self.error = error
        return len(data)

    def truncate(self, size: int) -> int:
        if self.error is None:
            try:
                return self._file.truncate(size)
            except OSError as error:
                self.error = error
        return size

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()

    def read(self, size: int = -1) -> bytes:
        return self._file.read(size) or b""

    def readinto(self, buffer: memoryview) -> int:
        return self._file.readinto(buffer) or 0

    def flush(self) -> None:
        """Do nothing: the file has no buffer."""
