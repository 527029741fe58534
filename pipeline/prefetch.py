"""Work done ahead by threads, in order and within bounds; or none of it, by the same code."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


class InThisThread(Executor):
    """Runs at once what it is given, in the thread that gives it."""

    def submit(self, function: Callable[..., Result], /, *arguments: Any, **options: Any) -> Future[Result]:
        done: Future[Result] = Future()
        done.set_result(function(*arguments, **options))
        return done


@contextmanager
def executor_of(num_threads: int) -> Iterator[Executor]:
    """That many threads, or this one for 0. On the way out, what has not begun is dropped, and the rest waited for."""
    executor = ThreadPoolExecutor(num_threads, "extraction") if num_threads else InThisThread()
    try:
        yield executor
    finally:
        executor.shutdown(cancel_futures=True)


def ahead(
    executor: Executor, function: Callable[[Item], Result], items: Iterable[Item], num_ahead: int
) -> Iterator[Result]:
    """`function` of each item, in their order; never more than `num_ahead` results are begun and not yet asked for.

    >>> list(ahead(InThisThread(), abs, [-2, 1, -3], num_ahead=2))
    [2, 1, 3]
    """
    begun: deque[Future[Result]] = deque()
    for item in items:
        begun.append(executor.submit(function, item))
        if len(begun) >= num_ahead:
            yield begun.popleft().result()
    while begun:
        yield begun.popleft().result()
