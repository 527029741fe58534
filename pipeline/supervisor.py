"""Run a command in a child process, and run it again without a clip that crashed or blocked its decoder.

Decoders are native code: a damaged file can crash them or send them into an endless loop. The child is forked before a
large package is imported, so it costs milliseconds.
"""

from __future__ import annotations

import json
import os
import select
import signal
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from types import FrameType
from typing import Any

import click

from pipeline import supervised
from pipeline.errors import ClipError
from pipeline.processes import die_with_parent
from pipeline.video import fatal_clips
from pipeline.video.limits import DEFAULT_LIMITS, ClipLimits

FORWARDED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
SECONDS_BETWEEN_LOOKS = 1.0
# A terminal sends Ctrl-C to both processes, and the supervisor forwards it.
SECONDS_OF_ONE_INTERRUPT = 1.0

Handler = Callable[[int, FrameType | None], Any] | int | signal.Handlers | None


_is_allowed = False


def allow_supervision() -> None:
    """Let `supervise` fork: this process runs one command, and is no test or notebook."""
    global _is_allowed
    _is_allowed = hasattr(os, "fork")


def supervise() -> None:
    """Return in a child process. This process waits for it and exits as it does; it never returns.

    Call it in a command that decodes clips in its own process, before a large package is imported. A rank of `torchrun`
    is not supervised: it can only be started again together with the others.
    """
    if not _is_allowed or "LOCAL_RANK" in os.environ:
        return
    own_handlers = {number: signal.getsignal(number) for number in FORWARDED}
    fatal: dict[str, ClipError] = {}
    kept: dict[str, Any] = {}
    while True:
        parent = os.getpid()
        handle, childs_handle = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(handle)
            die_with_parent(parent)
            _restore(own_handlers)
            supervised.connect(childs_handle, fatal, kept)
            return
        os.close(childs_handle)
        run = _Run(child, handle, kept)
        for number, own in own_handlers.items():
            if own is not signal.SIG_IGN:
                signal.signal(number, run.forward)
        code = run.wait()
        os.close(handle)
        found = {location: error for location, error in run.fatal_clips(code).items() if location not in fatal}
        if not found:
            run.exit(code)
        for error in found.values():
            click.echo(f"Warning: {error} It counts as failed; the command starts again.", err=True)
        fatal |= found


class _Run:
    """A child process that runs the command, and the clips that its threads decode."""

    def __init__(self, pid: int, handle: int, kept: dict[str, Any]) -> None:
        self._pid, self._handle, self._kept = pid, handle, kept
        self._decoding: dict[int, tuple[str, float]] = {}  # by thread: location, and time of its begin
        self._seconds = 0.0  # without the time in which both processes are stopped, by Ctrl-Z for example
        self._limits = DEFAULT_LIMITS
        self._unfinished = b""
        self._blocking: str | None = None
        self._has_ended = False

    def forward(self, number: int, frame: FrameType | None) -> None:
        """Handle a signal: the child gets it."""
        if self._has_ended:
            raise SystemExit(128 + number)
        with suppress(ProcessLookupError):
            os.kill(self._pid, number)

    def wait(self) -> int:
        """Wait for the end of the child; end it if a clip blocks it. Return its exit code, negative for a signal."""
        status: int | None = None
        looked_at_seconds = time.monotonic()
        while True:
            # After its end, only what it has sent before is read.
            if select.select([self._handle], [], [], SECONDS_BETWEEN_LOOKS if status is None else 0)[0]:
                if not self._read():
                    break
            elif status is not None:
                break  # a process that it has left keeps the pipe open
            else:
                pid, found = os.waitpid(self._pid, os.WNOHANG)
                self._has_ended = bool(pid)
                status = found if pid else None
            now_seconds = time.monotonic()
            self._seconds += min(now_seconds - looked_at_seconds, 2 * SECONDS_BETWEEN_LOOKS)
            looked_at_seconds = now_seconds
            if status is None:
                self._end_if_blocked()
        if status is None:
            status = os.waitpid(self._pid, 0)[1]
        self._has_ended = True
        return os.waitstatus_to_exitcode(status)

    def _read(self) -> bool:
        """Read what the child sends; return whether it can send more."""
        heard = os.read(self._handle, 1 << 16)
        *lines, self._unfinished = (self._unfinished + heard).split(b"\n")
        for line in lines:
            self._note(*json.loads(line))
        return bool(heard)

    def _note(self, what: str, *details: Any) -> None:
        if what == supervised.BEGIN:
            thread, location, limits = details
            self._decoding[thread] = location, self._seconds
            if limits:
                self._limits = ClipLimits(*limits)
        elif what == supervised.END:
            self._decoding.pop(details[0], None)
        elif what == supervised.KEEP:
            self._kept[details[0]] = details[1]

    def _end_if_blocked(self) -> None:
        max_seconds = self._limits.max_seconds + fatal_clips.SECONDS_TO_START
        for location, begun_at_seconds in self._decoding.values():
            if self._blocking is None and self._seconds - begun_at_seconds > max_seconds:
                self._blocking = location
                os.kill(self._pid, signal.SIGKILL)

    def fatal_clips(self, code: int) -> dict[str, ClipError]:
        """Return the errors of the clips that ended the child."""
        if self._blocking is not None:
            return {self._blocking: fatal_clips.blocking_error(self._blocking, self._limits)}
        if -code not in (*fatal_clips.CRASHES, signal.SIGKILL):
            return {}
        return fatal_clips.find_fatal_clips([location for location, _ in self._decoding.values()], self._limits)

    def exit(self, code: int) -> None:
        """Exit as the child did; a crash ends with a sentence."""
        if code >= 0:
            sys.exit(code)
        number = signal.Signals(-code)
        if number in fatal_clips.CRASHES or number == signal.SIGKILL:
            cause = "was killed, usually because memory ran out" if number == signal.SIGKILL else "crashed"
            clips = " and ".join(location for location, _ in self._decoding.values())
            where = f" while it decoded {clips}, though not because of that alone" if clips else ""
            way_out = "Finished work is kept; run the same command again."
            click.echo(f"Error: The process {cause} ({number.name}){where}. {way_out}", err=True)
            sys.exit(1)
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)
        sys.exit(128 - code)  # the first process of a container survives its own signals


def _restore(handlers: dict[signal.Signals, Handler]) -> None:
    for number, handler in handlers.items():
        is_default = handler is signal.default_int_handler
        signal.signal(number, _interrupt_once() if is_default else handler)


def _interrupt_once() -> Callable[[int, FrameType | None], None]:
    """Return a handler that raises KeyboardInterrupt once if the same interrupt arrives twice."""
    last_at_seconds = -SECONDS_OF_ONE_INTERRUPT

    def handle(number: int, frame: FrameType | None) -> None:
        nonlocal last_at_seconds
        if time.monotonic() - last_at_seconds > SECONDS_OF_ONE_INTERRUPT:
            last_at_seconds = time.monotonic()
            raise KeyboardInterrupt

    return handle
