"""The boundary around the reading of one clip: a shortage there is no verdict on the clip."""

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
        ClipError: the clip cannot be used; of a transient kind where that may not be the clip's fault.
    """
    try:
        yield
    except ClipError as error:
        if error.kind in DECODER_KINDS and not can_allocate(SPARE_BYTES):
            raise ClipError(
                "no-memory", f"{error} Memory was short at that moment, so this may not be the clip's fault."
            ) from None
        raise
    except (MemoryError, OSError, RuntimeError) as error:
        kind = transient_kind(error)
        if not kind:
            raise
        raise ClipError(kind, f"{subject} could not be read: {TRANSIENT_KINDS[kind]}.") from error


def can_allocate(num_bytes: int) -> bool:
    """Return whether this process may have that much more memory; nothing of it is touched."""
    try:
        mmap.mmap(-1, num_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS).close()
    except (OSError, MemoryError):
        return False
    return True
