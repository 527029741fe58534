"""Measure the share of time in which the device waits for data."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch


class WaitClock:
    """Clock that sums the time in which the device is idle because the next clips are not ready.

    On the CPU this is the time spent in `loading`. A GPU continues to work while the next clips are fetched, so events
    on the device measure the time from when its queue is empty.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._started_at_seconds = time.monotonic()
        self._waited_seconds = 0.0
        self._gaps: list[tuple[torch.cuda.Event, torch.cuda.Event]] = []
        self._end_of_step: torch.cuda.Event | None = None

    @contextmanager
    def loading(self) -> Iterator[None]:
        """Wrap the fetching of a batch."""
        if self._device.type == "cuda":
            self._end_of_step = self._event()
            yield
            self._gaps.append((self._end_of_step, self._event()))
            return
        started_at_seconds = time.monotonic()
        yield
        self._waited_seconds += time.monotonic() - started_at_seconds

    def seconds(self) -> float:
        """Return the time since the clock was created, after the device has finished its work."""
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        return max(time.monotonic() - self._started_at_seconds, 1e-9)

    def share(self) -> float:
        """Return the share of waiting in the time since the clock was created, between 0 and 1."""
        seconds = self.seconds()
        if self._gaps:
            self._waited_seconds += sum(start.elapsed_time(end) for start, end in self._gaps) / 1e3
            self._gaps.clear()
        return self._waited_seconds / seconds

    def _event(self) -> torch.cuda.Event:
        event = torch.cuda.Event(enable_timing=True)
        event.record(torch.cuda.current_stream(self._device))
        return event
