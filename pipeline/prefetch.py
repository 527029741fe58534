"""Ordered prefetch with a bounded number of pending results."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


class SerialExecutor(Executor):
    """Run each function at once, in the calling thread."""

    def submit(self, function: Callable[..., Result], /, *arguments: Any, **options: Any) -> Future[Result]:
        done: Future[Result] = Future()
        done.set_result(function(*arguments, **options))
        return done


@contextmanager
def open_executor(num_threads: int, name: str) -> Iterator[Executor]:
    """Yield an executor of that many threads, or a `SerialExecutor` for 0. On exit, cancel what has not started."""
    executor = ThreadPoolExecutor(num_threads, name) if num_threads else SerialExecutor()
    try:
        yield executor
    finally:
        executor.shutdown(cancel_futures=True)


def prefetch(
    executor: Executor, function: Callable[[Item], Result], items: Iterable[Item], num_pending: int
) -> Iterator[Result]:
    """Yield `function(item)` for each item, in order, with at most `num_pending` results submitted and not yielded.

    >>> list(prefetch(SerialExecutor(), abs, [-2, 1, -3], num_pending=2))
    [2, 1, 3]
    """
    pending: deque[Future[Result]] = deque()
    try:
        for item in items:
            pending.append(executor.submit(function, item))
            if len(pending) >= num_pending:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        for future in pending:
            future.cancel()
