"""Read features that were computed elsewhere: one array for each clip, from a folder or an HDF5 file.

    folder    CLIP_ID.npy, or CLIP_ID.npz with one array
    HDF5      a data set CLIP_ID, or a group CLIP_ID with one data set

Nothing is unpickled, and links of an HDF5 file to other files are not followed.
"""

from __future__ import annotations

import os
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Protocol

import h5py
import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from pipeline.clip_errors import clip_errors
from pipeline.errors import ClipError, PipelineError
from pipeline.manifest import HDF5_SEPARATOR
from pipeline.video.limits import open_file

NPY, NPZ = ".npy", ".npz"
READ_ERRORS = (OSError, ValueError, TypeError, KeyError, RuntimeError, EOFError, SyntaxError, zipfile.BadZipFile)


@dataclass(frozen=True)
class ArrayHeader:
    """Shape and type of an array, read without its values."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]


class ArraySource(Protocol):
    """Arrays by the ids of their clips.

    Each method raises a `ClipError` if there is no such array, or if it cannot be read.
    """

    def location(self, clip_id: str) -> str:
        """Return the path of the array, followed by ``::name`` in an HDF5 file."""

    def header(self, clip_id: str) -> ArrayHeader:
        """Read shape and type of an array of numbers."""

    def read(self, clip_id: str) -> NDArray[Any]:
        """Read the values."""


@contextmanager
def open_arrays(path: Path, key: str | None = None) -> Iterator[ArraySource]:
    """Open a folder of `.npy` and `.npz` files, or an HDF5 file.

    key: name of the array in each `.npz` or HDF5 group; None if each has only one.

    Raises:
        PipelineError: it is neither.
    """
    if path.is_dir():
        yield ArrayFolder(path, key)
        return
    if not path.exists():
        raise PipelineError(f"{path} does not exist. Give the folder of the arrays, or an HDF5 file.")
    try:
        file = h5py.File(path, "r", locking="best-effort")
    except OSError as error:
        raise PipelineError(
            f"{path} is neither a folder nor an HDF5 file that can be read ({error}). Give the folder of the arrays."
        ) from error
    with file:
        yield ArraysInHdf5(path, file, key)


class ArrayFolder:
    """A folder with a `.npy` or `.npz` file for each clip; a clip's id may contain folders."""

    def __init__(self, folder: Path, key: str | None) -> None:
        self._folder, self._key = folder, key

    def location(self, clip_id: str) -> str:
        leaves = os.path.isabs(clip_id) or os.path.normpath(clip_id).split(os.sep)[0] == ".."
        stem = str(self._folder / clip_id)
        found = [] if leaves or "\0" in clip_id else [stem + end for end in (NPY, NPZ) if os.path.exists(stem + end)]
        if not found:
            raise ClipError(
                "missing", f"{self._folder} has no array of the clip '{clip_id}' ({clip_id}{NPY} or {NPZ})."
            )
        if len(found) > 1:
            raise ClipError("unreadable", f"The clip '{clip_id}' has two arrays, {found[0]} and {found[1]}.")
        return found[0]

    def header(self, clip_id: str) -> ArrayHeader:
        with self._opened(clip_id) as (where, file):
            version = npy.read_magic(file)
            read_header = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}.get(version)
            if read_header is None:
                raise ClipError("unreadable", f"{where} is in version {version} of the .npy format, which is not read.")
            shape, _, dtype = read_header(file)
            return _checked(where, ArrayHeader(shape, dtype))

    def read(self, clip_id: str) -> NDArray[Any]:
        with self._opened(clip_id) as (_, file):
            values: NDArray[Any] = npy.read_array(file, allow_pickle=False)
            return values

    @contextmanager
    def _opened(self, clip_id: str) -> Iterator[tuple[str, IO[bytes]]]:
        """Open the `.npy` data of a clip."""
        path = self.location(clip_id)
        with _errors_of(path), open_file(path) as file:
            if path.endswith(NPY):
                yield path, file
                return
            with zipfile.ZipFile(file) as archive:
                names = {name.removesuffix(NPY): name for name in archive.namelist() if name.endswith(NPY)}
                name = _chosen(path, list(names), self._key)
                with archive.open(names[name]) as member:
                    yield f"{path}: {name}", member


class ArraysInHdf5:
    """An HDF5 file with a data set, or a group with one data set, for each clip."""

    def __init__(self, path: Path, file: h5py.File, key: str | None) -> None:
        self._path, self._file, self._key = path, file, key

    def location(self, clip_id: str) -> str:
        return f"{self._path}{HDF5_SEPARATOR}{self._data(clip_id).name.removeprefix('/')}"

    def header(self, clip_id: str) -> ArrayHeader:
        data = self._data(clip_id)
        return _checked(f"{self._path}: {data.name}", ArrayHeader(data.shape, data.dtype))

    def read(self, clip_id: str) -> NDArray[Any]:
        data = self._data(clip_id)
        with _errors_of(f"{self._path}: {data.name}"):
            return np.asarray(data[()])

    def _data(self, clip_id: str) -> h5py.Dataset:
        where = f"{self._path}: {clip_id}"
        found: Any = self._file
        with _errors_of(where):
            for part in clip_id.split("/"):
                found = _child(found, part, where)
            if isinstance(found, h5py.Group):
                found = _child(found, _chosen(where, list(found), self._key), where)
            if not isinstance(found, h5py.Dataset):
                raise ClipError("unreadable", f"{where} is not an array.")
            if found.external or found.is_virtual:
                raise ClipError("unreadable", f"{where} has its values in another file, which is not read.")
        return found


def _child(group: Any, name: str, where: str) -> Any:
    link = group.get(name, getlink=True) if isinstance(group, h5py.Group) and name else None
    if link is None:
        raise ClipError("missing", f"{where} does not exist.")
    if not isinstance(link, h5py.HardLink):
        raise ClipError("unreadable", f"{where} is a link, which is not followed.")
    return group[name]


def _chosen(where: str, names: list[str], key: str | None) -> str:
    """Return the name of the array to read."""
    if key is not None and key in names:
        return key
    shown = ", ".join(sorted(names)[:5]) or "none"
    if key is not None:
        raise ClipError("missing", f"{where} has no array '{key}'; it has {shown}.")
    if len(names) != 1:
        raise ClipError("unreadable", f"{where} has {len(names)} arrays ({shown}): name the one to read with --key.")
    return names[0]


def _checked(where: str, header: ArrayHeader) -> ArrayHeader:
    if header.dtype.hasobject:
        raise ClipError(
            "unreadable",
            f"{where} holds Python objects. Reading them would run code from the file, so they are refused; save an "
            "array of numbers.",
        )
    if header.dtype.kind != "f":
        raise ClipError("unreadable", f"{where} holds {header.dtype}; features must be float16, float32 or float64.")
    return header


@contextmanager
def _errors_of(where: str) -> Iterator[None]:
    """Raise errors of a damaged file as a `ClipError`."""
    with clip_errors(where):
        try:
            yield
        except ClipError:
            raise
        except READ_ERRORS as error:
            raise ClipError("unreadable", f"{where} cannot be read as an array ({error}).") from error
