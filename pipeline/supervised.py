"""Tell the supervisor of this command which clips it decodes: a crash or an endless loop raises no exception.

`pipeline.supervisor` runs a command in a child process. If a clip ends that process, the supervisor runs the command
again, and the clip is refused. Without a supervisor (a notebook, a worker process) these functions do nothing.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

from pipeline.errors import ClipError

BEGIN, END, KEEP = "begin", "end", "keep"


class _Link:
    """Connection to the supervisor, and what it knows from earlier runs of this command."""

    def __init__(self, handle: int, fatal: Mapping[str, ClipError], kept: Mapping[str, Any]) -> None:
        self._handle, self.fatal, self.kept = handle, fatal, kept
        self._lock = threading.Lock()
        self.state = threading.local()

    def tell(self, *message: object) -> None:
        """Send a message. After a crash, the supervisor still reads what was sent before."""
        data = memoryview(json.dumps(message).encode() + b"\n")
        with self._lock, suppress(BrokenPipeError):
            while data:
                data = data[os.write(self._handle, data) :]


_link: _Link | None = None


def connect(handle: int, fatal: Mapping[str, ClipError], kept: Mapping[str, Any]) -> None:
    """Connect this process to its supervisor by the writing end of a pipe.

    fatal: errors of the clips that ended earlier runs, by location. kept: what earlier runs asked to keep.
    """
    global _link
    _link = _Link(handle, fatal, kept)


def refuse_fatal_clip(location: str) -> None:
    """Raise the error of a clip that ended an earlier run of this command."""
    if _link is not None and location in _link.fatal:
        error = _link.fatal[location]
        raise ClipError(error.kind, str(error))


@contextmanager
def decoding(location: str, limits: tuple[float, ...] = ()) -> Iterator[None]:
    """Mark the time in which a decoder works on a clip. The supervisor ends the process if it takes too long.

    limits: the fields of `ClipLimits`; without them, those of the last clip apply.
    """
    link = _link
    if link is None or getattr(link.state, "is_decoding", False):
        yield
        return
    link.tell(BEGIN, threading.get_ident(), location, limits)
    link.state.is_decoding = True
    try:
        yield
    finally:
        link.state.is_decoding = False
        link.tell(END, threading.get_ident())


def keep(key: str, value: Any) -> None:
    """Keep a value, of a type that JSON has, for the next run of this command."""
    if _link is not None:
        _link.tell(KEEP, key, value)


def kept(key: str, default: Any) -> Any:
    """Return the value that an earlier run of this command kept."""
    return default if _link is None else _link.kept.get(key, default)
