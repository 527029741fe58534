"""Show the messages and progress of worker processes in the main process, one bar for each piece of work."""

from __future__ import annotations

import logging
import logging.handlers
import multiprocessing
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import ExitStack, contextmanager
from multiprocessing.context import BaseContext
from queue import Empty
from typing import TYPE_CHECKING, Any, TypeVar

from pipeline import log
from pipeline.processes import forking_context, start_worker, without_interrupts
from pipeline.progress import Progress, new_bars

if TYPE_CHECKING:
    from rich.progress import Progress as Bars
    from rich.progress import TaskID

logger = logging.getLogger(__name__)

SECONDS_BETWEEN_UPDATES = 0.25
SECONDS_BETWEEN_LOOKS = 0.05
MAX_SECONDS_OF_A_RECORD = 5.0
T = TypeVar("T")


class RelayedProgress(Progress):
    """Progress of a worker process, which the main process shows."""

    def __enter__(self) -> RelayedProgress:
        self._seconds_between = SECONDS_BETWEEN_UPDATES
        self._restart()
        return self

    def __exit__(self, *exception: object) -> None:
        self._show(is_over=True)

    def _show(self, is_over: bool = False) -> None:
        self._shown_at_seconds = time.monotonic()
        update = {"label": self.label, "done": self.done, "total": self.total, "is_over": is_over}
        logger.info(self.text(), extra={"progress": update})


class RelayedPool:
    """A pool of worker processes; the main process shows their messages and progress.

    If the block is left by an exception, such as Ctrl-C, the processes are ended with the tasks that still run.
    `preloaded` names modules that the server of the processes imports once.
    """

    def __init__(self, num_processes: int, preloaded: Sequence[str]) -> None:
        self._num_processes, self._preloaded = num_processes, preloaded

    def __enter__(self) -> RelayedPool:
        # Forks of this process would lack the threads of torch and of the store.
        context = forking_context(self._preloaded)
        self._others = set(multiprocessing.active_children())
        with ExitStack() as stack:
            queue = stack.enter_context(relayed(context))
            self._pool = stack.enter_context(
                ProcessPoolExecutor(
                    self._num_processes,
                    context,
                    initializer=start_worker,
                    initargs=("pipeline.relay:relay_to", queue, logger.getEffectiveLevel()),
                )
            )
            self._stack = stack.pop_all()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: Any) -> None:
        if error is not None:  # the pool would wait until its tasks are done
            for process in set(multiprocessing.active_children()) - self._others:
                process.terminate()
        self._stack.close()  # the bars end also if a second Ctrl-C interrupts the end of the pool

    def submit(self, function: Callable[..., T], *arguments: Any) -> Future[T]:
        """Run `function(*arguments)` in a process."""
        with without_interrupts():  # the first tasks start the processes
            return self._pool.submit(function, *arguments)


@contextmanager
def relayed(context: BaseContext) -> Iterator[Any]:
    """Yield the queue that `relay_to` of each worker process gets; handle here what the processes put there."""
    queue = context.Queue()
    has_bars = log.is_terminal() and logger.isEnabledFor(logging.INFO)
    listener = _Listener(queue, new_bars() if has_bars else None)
    listener.start()
    try:
        yield queue
    finally:
        listener.stop()
        queue.close()


def relay_to(queue: Any, level: int) -> None:
    """Send the messages of this process to the main process. Initializers of pools call it."""
    for name in log.PACKAGES:
        messages = logging.getLogger(name)
        messages.handlers = [logging.handlers.QueueHandler(queue)]
        messages.setLevel(level)
        messages.propagate = False


class _Listener:
    """Give records to the loggers of this process, and draw those that are progress as bars.

    A process that is ended while it sends a record keeps the lock of the queue, or leaves half a record in it. So the
    thread is not stopped through the queue, and `stop` does not wait for the other half of a record.
    """

    def __init__(self, records: multiprocessing.Queue[logging.LogRecord], bars: Bars | None) -> None:
        self._records, self._bars = records, bars
        self._tasks: dict[str, TaskID] = {}
        self._is_stopping = threading.Event()
        self._num_looks, self._is_looking = 0, False
        self._thread = threading.Thread(target=self._listen, name="relay", daemon=True)

    def start(self) -> None:
        if self._bars is not None:
            self._bars.start()
        self._thread.start()

    def stop(self) -> None:
        """Handle the records that processes have sent, and end the bars."""
        self._is_stopping.set()
        num_looks = -1
        while self._thread.is_alive() and not (self._is_looking and self._num_looks == num_looks):
            num_looks = self._num_looks
            self._thread.join(MAX_SECONDS_OF_A_RECORD)
        if self._bars is not None:
            self._bars.stop()

    def _listen(self) -> None:
        while True:
            is_last_look = self._is_stopping.is_set()
            self._num_looks += 1
            self._is_looking = True
            try:
                record = self._records.get(timeout=SECONDS_BETWEEN_LOOKS)
            except Empty:
                if is_last_look:
                    return
                continue
            except (EOFError, OSError, ValueError):
                if not self._is_stopping.is_set():
                    raise
                return  # `stop` did not wait, and the queue was closed
            finally:
                self._is_looking = False
            self._handle(record)

    def _handle(self, record: logging.LogRecord) -> None:
        update = getattr(record, "progress", None)
        if update is None:
            logging.getLogger(record.name).handle(record)
        elif self._bars is not None:
            self._draw(record.getMessage(), update)

    def _draw(self, text: str, update: dict[str, Any]) -> None:
        assert self._bars is not None
        label = update["label"]
        if label not in self._tasks:
            self._tasks[label] = self._bars.add_task(text, total=update["total"])
        self._bars.update(self._tasks[label], completed=update["done"], description=text)
        if update["is_over"]:
            # The result follows as a line above the bars.
            self._bars.remove_task(self._tasks.pop(label))
