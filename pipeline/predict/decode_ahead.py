"""Decode clips ahead of the model."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from pipeline.prefetch import open_executor, prefetch
from pipeline.processes import num_cores

MAX_DECODING_THREADS = 4

Item = TypeVar("Item")
Result = TypeVar("Result")


def decoded_ahead(load: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
    """Yield `load(item)` for each item, in order; threads compute a bounded number of items ahead."""
    num_threads = min(num_cores(), MAX_DECODING_THREADS)
    with open_executor(num_threads, "decode") as executor:
        yield from prefetch(executor, load, items, 2 * num_threads + 1)
