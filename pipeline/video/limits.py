"""Limits of a clip: pixels of a frame, bytes, decoding time; and opening of regular files only."""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BufferedReader
from typing import Protocol

from pipeline.errors import ClipError

CHUNK_BYTES = 1 << 20
FILE_TYPES = {
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFDIR: "a folder",
}


class LimitSettings(Protocol):
    """Settings of a command that decodes clips."""

    @property
    def max_clip_pixels(self) -> int: ...

    @property
    def max_clip_bytes(self) -> int: ...

    @property
    def max_clip_seconds(self) -> float: ...


@dataclass(frozen=True)
class ClipLimits:
    """Limits of a clip. A clip beyond a limit fails as `too-large`; other clips are not affected."""

    max_pixels: int = 1 << 26
    """Maximum number of pixels of a frame: 8192 × 8192. A damaged header may request gigabytes."""
    max_bytes: int = 1 << 34
    """Maximum size of a clip on disk: 16 GiB."""
    max_seconds: float = 600.0
    """Maximum decoding time of a clip in seconds."""

    @classmethod
    def of(cls, settings: LimitSettings) -> ClipLimits:
        """Return the limits of a command."""
        return cls(settings.max_clip_pixels, settings.max_clip_bytes, settings.max_clip_seconds)

    def as_tuple(self) -> tuple[int, int, float]:
        """Return the values, to send them to another process."""
        return self.max_pixels, self.max_bytes, self.max_seconds

    def check_pixels(self, what: str, height: int, width: int) -> None:
        """Check the number of pixels of a frame before memory is allocated."""
        if height * width > self.max_pixels:
            raise ClipError(
                "too-large",
                f"{what} has {width}×{height} pixels, more than the {self.max_pixels:,} of --max-clip-pixels. Make it "
                "smaller, or raise the limit.",
            )

    def check_image_bytes(self, what: str, num_bytes: int) -> None:
        """Check that an encoded image is not larger than the largest allowed frame, uncompressed with 16 bits."""
        if num_bytes > 8 * self.max_pixels:
            raise ClipError(
                "too-large",
                f"{what} has {num_bytes:,} bytes, more than any frame of the {self.max_pixels:,} pixels of "
                "--max-clip-pixels. Compress it, or raise the limit.",
            )

    def check_bytes(self, what: str, num_bytes: int) -> None:
        """Check the size of a clip before it is read."""
        if num_bytes > self.max_bytes:
            raise ClipError(
                "too-large",
                f"{what} has {num_bytes:,} bytes, more than the {self.max_bytes:,} of --max-clip-bytes. Cut or "
                "compress it, or raise the limit.",
            )


DEFAULT_LIMITS = ClipLimits()


class Stopwatch:
    """Measure the decoding time of a clip, without the time that the caller spends on its frames."""

    def __init__(self, location: str, limits: ClipLimits) -> None:
        self._location, self.max_seconds, self._spent_seconds = location, limits.max_seconds, 0.0

    @contextmanager
    def running(self) -> Iterator[None]:
        """Measure the time of the `with` block.

        Raises:
            ClipError: the clip exceeds its decoding time.
        """
        started_at_seconds = time.monotonic()
        yield
        self._spent_seconds += time.monotonic() - started_at_seconds
        if self._spent_seconds > self.max_seconds:
            raise self.overrun()

    def overrun(self) -> ClipError:
        """Return the error of a clip that exceeds its decoding time."""
        return ClipError(
            "too-large",
            f"{self._location} takes longer to decode than the {self.max_seconds:g} s of --max-clip-seconds. Cut or "
            "scale it, or raise the limit.",
        )


def chunks_of(opened: BufferedReader) -> Iterator[bytes]:
    """Yield the content of a file that `open_file` opened, up to its size: some files in /proc are endless."""
    num_left = os.fstat(opened.fileno()).st_size
    while num_left > 0 and (chunk := opened.read(min(CHUNK_BYTES, num_left))):
        num_left -= len(chunk)
        yield chunk


def open_file(path: str | os.PathLike[str]) -> BufferedReader:
    """Open a regular file for reading, and no pipe or device, which may block forever.

    Raises:
        ClipError: it is not a regular file.
        OSError, ValueError: it cannot be opened.
    """
    # Non-blocking, because opening a pipe waits for a writer.
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
    kind = stat.S_IFMT(os.fstat(handle).st_mode)
    if kind != stat.S_IFREG:
        os.close(handle)
        raise ClipError("unreadable", f"{os.fspath(path)} is {FILE_TYPES.get(kind, 'no file')}, not a file.")
    return open(handle, "rb")
