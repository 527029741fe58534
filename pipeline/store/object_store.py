"""Object stores: a local folder, or a URL that fsspec supports (``s3://…``, ``memory://…``).

An object store reads and writes whole objects and ranges of them by key, below Zarr's arrays. Writes are atomic: a
local object is written to a temporary file and moved; a remote object appears when its put completes.
"""

from __future__ import annotations

import asyncio
import errno
import importlib.util
import os
import stat
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from zarr.abc.store import RangeByteRequest, Store, SuffixByteRequest
from zarr.core.buffer import default_buffer_prototype
from zarr.core.sync import sync
from zarr.storage import FsspecStore, LocalStore

from pipeline.errors import PipelineError
from pipeline.files import UnwritableError, atomic_path

Phase = Callable[[str, str], None]
"""Callback with the name of a phase (decode, forward, write, move, mark) and of the clip or object it concerns."""


def no_phase(name: str, subject: str) -> None:
    """Ignore a phase; the default callback."""


class ObjectStore(ABC):
    """Interface to objects by key, and to the same location as a Zarr store."""

    location: str

    @property
    @abstractmethod
    def zarr_store(self) -> Store:
        """Return the location as a Zarr store."""

    @abstractmethod
    def get(self, key: str) -> bytes | None:
        """Read an object; return None if it does not exist."""

    @abstractmethod
    def get_range(self, key: str, start: int, length: int) -> bytes | None:
        """Read `length` bytes from `start`; a negative start with length 0 reads that many bytes from the end."""

    @abstractmethod
    def put(self, key: str, data: bytes, on_phase: Phase = no_phase) -> None:
        """Write an object atomically.

        Raises:
            PipelineError: the disk is full.
        """

    @abstractmethod
    def delete(self, key: str) -> None:
        """Delete an object if it exists."""

    @abstractmethod
    def sizes(self) -> dict[str, int]:
        """Return the size in bytes of every object by its key."""

    @abstractmethod
    def names(self, under: str = "") -> set[str]:
        """Return the names directly under a prefix, by default the top level."""

    @abstractmethod
    def parts(self) -> list[Path]:
        """Return the files that a killed writer left incomplete, and those that a running one is writing."""

    def remove_parts(self) -> None:
        """Remove incomplete files. The caller must hold the store's lock."""
        for path in self.parts():
            path.unlink()

    def get_many(self, keys: Sequence[str]) -> list[bytes | None]:
        """Read several objects, in parallel if that is faster."""
        return [self.get(key) for key in keys]

    def get_ranges(self, ranges: Sequence[tuple[str, int, int]]) -> list[bytes | None]:
        """Read several ranges, in parallel if that is faster."""
        return [self.get_range(*item) for item in ranges]


def check_key(key: str) -> str:
    """Return the key if it names an object inside a store.

    Raises:
        PipelineError: it leads out of the store, or is not a key.
    """
    if "\0" in key or any(part in ("", ".", "..") for part in key.split("/")):
        raise PipelineError(f"'{key}' is not a key of an object in a store.")
    return key


class LocalObjectStore(ObjectStore):
    """An object store in a local folder."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.location = str(root)

    @property
    def zarr_store(self) -> Store:
        return LocalStore(self.root)

    def get(self, key: str) -> bytes | None:
        descriptor = self._opened(key)
        if descriptor is None:
            return None
        with open(descriptor, "rb") as file:
            return file.read()

    def get_range(self, key: str, start: int, length: int) -> bytes | None:
        descriptor = self._opened(key)
        if descriptor is None:
            return None
        try:
            size = os.fstat(descriptor).st_size
            if start < 0:
                start, length = max(0, size + start), -start
            return os.pread(descriptor, max(0, min(length, size - start)), start)
        finally:
            os.close(descriptor)

    def _opened(self, key: str) -> int | None:
        """Open a regular file for reading; pipes and devices are treated as missing objects.

        Links are followed, because DVC may replace the files of a store by links into its cache.
        """
        try:
            descriptor = os.open(os.path.join(self.location, check_key(key)), os.O_RDONLY | os.O_NONBLOCK)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            if error.errno in (errno.ELOOP, errno.ENXIO, errno.ENAMETOOLONG):
                return None
            raise
        if stat.S_ISREG(os.fstat(descriptor).st_mode):
            return descriptor
        os.close(descriptor)
        return None

    def _check_folders(self, key: str) -> None:
        """Check that no folder of a key is a link, which may lead out of the store.

        Raises:
            PipelineError: a folder of the key is a link.
        """
        folder = self.location
        for name in check_key(key).split("/")[:-1]:
            folder = os.path.join(folder, name)
            if os.path.islink(folder):
                raise PipelineError(
                    f"{folder} is a link. A store is written only below its own folder: replace the link by a folder."
                )

    def put(self, key: str, data: bytes, on_phase: Phase = no_phase) -> None:
        self._check_folders(key)
        try:
            with atomic_path(self.root / key, clears=False) as aside, open(aside, "wb") as file:
                half = len(data) // 2
                file.write(memoryview(data)[:half])
                on_phase("write", key)
                file.write(memoryview(data)[half:])
                file.flush()
                on_phase("move", key)
        except UnwritableError as error:
            if not error.is_full:
                raise
            raise PipelineError(
                f"No room for {len(data):,} more bytes in the store {self.location} ({error.strerror}). Nothing is "
                "damaged: free some space and run the same command again to resume."
            ) from error

    def delete(self, key: str) -> None:
        self._check_folders(key)
        with suppress(NotADirectoryError):
            (self.root / key).unlink(missing_ok=True)

    def sizes(self) -> dict[str, int]:
        found: dict[str, int] = {}
        for folder, _, names in os.walk(self.root):
            for name in names:
                path = os.path.join(folder, name)
                found[os.path.relpath(path, self.root)] = os.lstat(path).st_size
        return found

    def names(self, under: str = "") -> set[str]:
        folder = self.root / under
        return set(os.listdir(folder)) if folder.is_dir() else set()

    def parts(self) -> list[Path]:
        return [
            Path(folder, name)
            for folder, _, names in os.walk(self.root)
            for name in names
            if name.startswith(".") and name.endswith(".part")
        ]


class RemoteObjectStore(ObjectStore):
    """An object store at a URL, accessed through Zarr's FsspecStore."""

    def __init__(self, url: str) -> None:
        self.location = url
        self._store = FsspecStore.from_url(url)

    @property
    def zarr_store(self) -> Store:
        return self._store

    def get(self, key: str) -> bytes | None:
        return self.get_many([key])[0]

    def get_range(self, key: str, start: int, length: int) -> bytes | None:
        return self.get_ranges([(key, start, length)])[0]

    def put(self, key: str, data: bytes, on_phase: Phase = no_phase) -> None:
        on_phase("write", key)
        sync(self._store.set(key, default_buffer_prototype().buffer.from_bytes(data)))
        on_phase("move", key)

    def delete(self, key: str) -> None:
        sync(self._store.delete(key))

    def sizes(self) -> dict[str, int]:
        async def all_sizes() -> dict[str, int]:
            keys = [key async for key in self._store.list_prefix("")]
            return dict(zip(keys, await asyncio.gather(*(self._store.getsize(key) for key in keys)), strict=True))

        return sync(all_sizes())

    def names(self, under: str = "") -> set[str]:
        async def found() -> set[str]:
            return {key.rpartition("/")[2] async for key in self._store.list_dir(under)}

        return sync(found())

    def parts(self) -> list[Path]:
        """Return nothing: a remote object does not exist before its put completes."""
        return []

    def get_many(self, keys: Sequence[str]) -> list[bytes | None]:
        return self._gather([(key, None) for key in keys])

    def get_ranges(self, ranges: Sequence[tuple[str, int, int]]) -> list[bytes | None]:
        return self._gather(
            [
                (key, SuffixByteRequest(-start) if start < 0 else RangeByteRequest(start, start + length))
                for key, start, length in ranges
            ]
        )

    def _gather(
        self, requests: Sequence[tuple[str, RangeByteRequest | SuffixByteRequest | None]]
    ) -> list[bytes | None]:
        prototype = default_buffer_prototype()
        limit = asyncio.Semaphore(64)

        async def one(key: str, byte_range: RangeByteRequest | SuffixByteRequest | None) -> bytes | None:
            async with limit:
                buffer = await self._store.get(key, prototype, byte_range)
            return None if buffer is None else buffer.to_bytes()

        async def all_of_them() -> list[bytes | None]:
            return list(await asyncio.gather(*(one(*request) for request in requests)))

        return sync(all_of_them())


def open_object_store(location: str | Path) -> ObjectStore:
    """Open the object store at a path or URL.

    Raises:
        PipelineError: the location is invalid, or a package for it is not installed.
    """
    text = str(location)
    if not text.strip():
        raise PipelineError("The store has no name. Give a folder or a URL with --store.")
    if "://" in text and not text.startswith("file://"):
        if text.startswith("s3://") and importlib.util.find_spec("s3fs") is None:
            raise PipelineError(
                f"{text} needs s3fs. Install the extra: pip install 'st-pipeline[s3]' (in a checkout: "
                "pip install -e '.[s3]'); or give a folder."
            )
        try:
            return RemoteObjectStore(text.rstrip("/"))
        except (ValueError, ImportError) as error:
            raise PipelineError(f"{text} cannot be reached: {error}.") from error
    return LocalObjectStore(Path(text.removeprefix("file://")))


def path_from(location: str, path: Path | str) -> str:
    """Return a path as a store records it: relative to the store's folder, or absolute for a store at a URL.

    The record is therefore equal in every copy of a study, and clips are found from any working folder.
    """
    absolute = os.path.abspath(path)
    return absolute if "://" in location else os.path.relpath(absolute, os.path.abspath(location))


def path_seen_from(location: str, recorded: str) -> str:
    """Return a path recorded by `path_from` as an absolute path."""
    return recorded if "://" in location else os.path.normpath(os.path.join(os.path.abspath(location), recorded))
