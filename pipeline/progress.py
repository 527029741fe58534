"""Show progress: a bar with rate and remaining time on a terminal, plain lines in a pipe, nothing with `--quiet`."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, TypeVar

from pipeline import log

if TYPE_CHECKING:
    from rich.progress import Progress as Bars

logger = logging.getLogger(__name__)

Item = TypeVar("Item")

SECONDS_BETWEEN_LINES = 10.0
SECONDS_BETWEEN_REDRAWS = 0.1


class Progress:
    """Count units of work. Use it as a context manager.

    On a terminal it is a bar of rich; elsewhere a line at most every `SECONDS_BETWEEN_LINES` and one at the end. `note`
    is a short text after the figures (failed clips, a loss).
    """

    def __init__(self, label: str, total: int, unit: str = "clips", done: int = 0) -> None:
        self.label, self.total, self.unit = label, total, unit
        self.done, self.note = done, ""
        self._done_at_start = done
        self._bars: Bars | None = None
        self._seconds_between = SECONDS_BETWEEN_LINES
        self._restart()

    def __enter__(self) -> Progress:
        self._restart()
        if log.is_terminal() and logger.isEnabledFor(logging.INFO):
            self._bars, self._seconds_between = new_bars(), SECONDS_BETWEEN_REDRAWS
            self._bars.start()
            self._task = self._bars.add_task(self.text(), total=self.total, completed=self.done)
        return self

    def __exit__(self, *exception: object) -> None:
        self._show()
        if self._bars is not None:
            self._bars.stop()

    def advance(self, count: int = 1, note: str | None = None) -> None:
        """Count `count` more units as done."""
        self.done += count
        if note is not None:
            self.note = note
        if time.monotonic() - self._shown_at_seconds >= self._seconds_between:
            self._show()

    def text(self) -> str:
        """Return label, counts, rate, remaining time and note as one line."""
        elapsed_seconds = max(time.monotonic() - self._started_at_seconds, 1e-9)
        rate = (self.done - self._done_at_start) / elapsed_seconds
        parts = [f"{self.label}: {self.done:,}/{self.total:,} {self.unit}", f"{rate:,.1f} {self.unit}/s"]
        if 0 < self.done < self.total and rate > 0:
            parts.append(f"{clock_text((self.total - self.done) / rate)} to go")
        else:
            parts.append(f"{clock_text(elapsed_seconds)}")
        if self.note:
            parts.append(self.note)
        return ", ".join(parts)

    def _restart(self) -> None:
        self._started_at_seconds = self._shown_at_seconds = time.monotonic()

    def _show(self) -> None:
        self._shown_at_seconds = time.monotonic()
        if self._bars is None:
            logger.info(self.text())
        else:
            self._bars.update(self._task, completed=self.done, description=self.text())


def new_bars() -> Bars:
    """Return rich's display of one or more bars."""
    from rich.progress import BarColumn, TextColumn
    from rich.progress import Progress as Bars

    return Bars(BarColumn(bar_width=20), TextColumn("{task.description}", markup=False), console=log.console())


def tracked(items: Iterable[Item], label: str, total: int, unit: str = "clips") -> Iterator[Item]:
    """Yield `items` one by one, showing progress."""
    with Progress(label, total, unit) as progress:
        for item in items:
            yield item
            progress.advance()


def clock_text(seconds: float) -> str:
    """Return a duration in whole seconds, minutes and seconds, or hours and minutes."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02d} min"
    if minutes:
        return f"{minutes} min {rest:02d} s"
    return f"{rest} s"
