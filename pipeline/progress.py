"""Show progress: a bar with rate and remaining time on a terminal, plain lines in a pipe."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator
from typing import TextIO, TypeVar

Item = TypeVar("Item")

SECONDS_BETWEEN_LINES = 10.0


class Progress:
    """Counts units of work on stderr. Use it as a context manager.

    On a terminal it redraws one bar; elsewhere it prints a line at most every `SECONDS_BETWEEN_LINES` and one at the
    end. `note` is a short text shown behind the figures (failed clips, a loss).
    """

    def __init__(
        self,
        label: str,
        total: int,
        unit: str = "clips",
        done: int = 0,
        stream: TextIO | None = None,
    ) -> None:
        self.label, self.total, self.unit = label, total, unit
        self.done, self.note = done, ""
        self._stream = sys.stderr if stream is None else stream
        self._is_terminal = self._stream.isatty()
        self._started_at_seconds = time.monotonic()
        self._done_at_start = done
        self._drawn_at_seconds = float("-inf")

    def __enter__(self) -> Progress:
        self._started_at_seconds = time.monotonic()
        self._drawn_at_seconds = self._started_at_seconds
        if self._is_terminal:
            self._draw()
        return self

    def __exit__(self, *exception: object) -> None:
        self._draw()
        if self._is_terminal:
            self._stream.write("\n")
            self._stream.flush()

    def advance(self, count: int = 1, note: str | None = None) -> None:
        """Count `count` more units as done."""
        self.done += count
        if note is not None:
            self.note = note
        pause_seconds = 0.1 if self._is_terminal else SECONDS_BETWEEN_LINES
        if time.monotonic() - self._drawn_at_seconds >= pause_seconds:
            self._draw()

    def text(self) -> str:
        """The line as it stands now: label, counts, rate, time to go, note."""
        elapsed_seconds = max(time.monotonic() - self._started_at_seconds, 1e-9)
        rate = (self.done - self._done_at_start) / elapsed_seconds
        parts = [f"{self.label}: {self.done:,}/{self.total:,} {self.unit}", f"{rate:,.1f} {self.unit}/s"]
        if 0 < self.done < self.total and rate > 0:
            parts.append(f"{_duration((self.total - self.done) / rate)} to go")
        else:
            parts.append(f"{_duration(elapsed_seconds)}")
        if self.note:
            parts.append(self.note)
        return ", ".join(parts)

    def _draw(self) -> None:
        self._drawn_at_seconds = time.monotonic()
        if not self._is_terminal:
            self._stream.write(self.text() + "\n")
        else:
            width = 20
            filled = width * self.done // self.total if self.total else width
            self._stream.write(f"\r\x1b[2K[{'#' * filled}{'.' * (width - filled)}] {self.text()}")
        self._stream.flush()


def tracked(items: Iterable[Item], label: str, total: int, unit: str = "clips") -> Iterator[Item]:
    """Yield `items` one by one, showing progress."""
    with Progress(label, total, unit) as progress:
        for item in items:
            yield item
            progress.advance()


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02d} min"
    if minutes:
        return f"{minutes} min {rest:02d} s"
    return f"{rest} s"
