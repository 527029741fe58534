"""Distinguish errors of a clip from shortages of memory, file descriptors or I/O while it is read."""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from contextlib import contextmanager

from pipeline.errors import TRANSIENT_KINDS, ClipError, transient_kind

# Kinds that a decoder also reports when its memory allocation fails: FFmpeg then calls the data invalid.
DECODER_KINDS = frozenset({"unreadable", "no-video", "truncated", "corrupt", "short"})
SPARE_BYTES = 1 << 30


@contextmanager
def clip_errors(subject: str) -> Iterator[None]:
    """Raise memory shortage, exhausted file descriptors and I/O errors of the block as transient `ClipError`s.

    Raises:
        ClipError: the clip cannot be used; its kind is transient if the clip may not be the cause.
    """
    try:
        yield
    except ClipError as error:
        if error.kind in DECODER_KINDS and not can_allocate(SPARE_BYTES):
            raise ClipError(
                "no-memory", f"{error} Memory was short at that moment, so the clip may not be the cause."
            ) from None
        raise
    except (MemoryError, OSError, RuntimeError) as error:
        kind = transient_kind(error)
        if not kind:
            raise
        raise ClipError(kind, f"{subject} could not be read: {TRANSIENT_KINDS[kind]}.") from error


def can_allocate(num_bytes: int) -> bool:
    """Return whether this process can allocate that much more memory, without touching it."""
    try:
        mmap.mmap(-1, num_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS).close()
    except (OSError, MemoryError):
        return False
    return True
