"""Decode clips ahead of the model."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import nullcontext
from typing import TypeVar

from pipeline.prefetch import open_executor, prefetch
from pipeline.processes import num_cores
from pipeline.video.watchdog import Watchdog

MAX_DECODING_THREADS = 4

Item = TypeVar("Item")
Result = TypeVar("Result")


def decoded_ahead(
    load: Callable[[Item], Result], items: Iterable[Item], watchdog: Watchdog | None = None
) -> Iterator[Result]:
    """Yield `load(item)` for each item, in order; threads compute a bounded number of items ahead.

    watchdog: ends the process if an item takes far too long. Only a command may do so, not a notebook.
    """
    num_threads = min(num_cores(), MAX_DECODING_THREADS)

    def watched(item: Item) -> Result:
        with nullcontext() if watchdog is None else watchdog.watching(str(getattr(item, "clip_id", item))):
            return load(item)

    with open_executor(num_threads, "decode") as executor:
        yield from prefetch(executor, watched, items, 2 * num_threads + 1)
