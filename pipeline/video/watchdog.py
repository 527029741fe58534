"""End a process in which a clip takes far longer to decode than its limit: a decoder in a loop raises nothing."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from pipeline.video import fatal_clips
from pipeline.video.limits import ClipLimits

Phase = Callable[[str, str], object]
DECODE, DECODED = "decode", "decoded"


def end_process(clip: str) -> None:
    """End this process as a crash would."""
    os._exit(1)


class Watchdog:
    """Watch the clips that this process decodes, in any of its threads.

    It is a callback for the phases of an extraction; others use `watching`.
    """

    def __init__(
        self, limits: ClipLimits, on_phase: Phase = lambda *_: None, end: Callable[[str], object] = end_process
    ) -> None:
        self._max_seconds = limits.max_seconds + fatal_clips.SECONDS_TO_START
        self._on_phase, self._end = on_phase, end
        self._begun_at_seconds: dict[str, float] = {}
        self._lock = threading.Lock()
        threading.Thread(target=self._watch, daemon=True, name="watchdog").start()

    def on_phase(self, phase: str, subject: str) -> None:
        """Note that a clip starts to decode, or is decoded."""
        with self._lock:
            if phase == DECODE:
                self._begun_at_seconds[subject] = time.monotonic()
            elif phase == DECODED:
                self._begun_at_seconds.pop(subject, None)
        self._on_phase(phase, subject)

    @contextmanager
    def watching(self, clip: str) -> Iterator[None]:
        """Watch a clip that is decoded inside the block."""
        self.on_phase(DECODE, clip)
        try:
            yield
        finally:
            self.on_phase(DECODED, clip)

    def _watch(self) -> None:
        while True:
            time.sleep(min(1.0, self._max_seconds / 4))
            with self._lock:
                oldest = min(self._begun_at_seconds.items(), key=lambda item: item[1], default=None)
            if oldest is not None and time.monotonic() - oldest[1] > self._max_seconds:
                self._end(oldest[0])
