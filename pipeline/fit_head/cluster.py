"""Fit heads on the workers of a Dask cluster, one fit at a time in each worker process.

Workers open the store and write checkpoints under the same paths as this process. A fit whose worker is lost runs again
on another worker; one that kills several workers fails its head alone.
"""

from __future__ import annotations

import logging
import threading
import time
from concurrent.futures import Future
from contextlib import ExitStack, suppress
from typing import Any

from distributed import Client, KilledWorker
from distributed.utils import silence_logging_cmgr

from pipeline.cluster_client import SECONDS_TO_CONNECT, ask_scheduler
from pipeline.errors import PipelineError
from pipeline.fit_head.tasks import Task
from pipeline.fit_head.workers import StoreRequest, fit_here

SECONDS_BETWEEN_LOOKS = 5
SECONDS_WITHOUT_WORKERS = 120

_one_fit = threading.Lock()  # a fit seeds the random numbers of its process


class Cluster:
    """A pool of the workers that are connected to a Dask scheduler; they may join and leave during the run.

    Raises:
        PipelineError: no scheduler answers.
    """

    def __init__(self, store: StoreRequest, address: str) -> None:
        self._store, self._address = store, address
        self._running: dict[Future[Any], Any] = {}  # with Dask's future, which ends with its last reference
        self._is_over = threading.Event()
        self._num_workers = 1

    def __enter__(self) -> Cluster:
        with ExitStack() as stack:
            # Failures are reported as sentences; Dask's log would add tracebacks.
            stack.enter_context(silence_logging_cmgr(logging.CRITICAL))
            try:
                ask_scheduler(self._address, SECONDS_TO_CONNECT)
                self._client = Client(self._address, timeout=SECONDS_TO_CONNECT)
            except (OSError, TimeoutError, ValueError) as error:
                raise PipelineError(
                    f"No Dask scheduler answers at {self._address} ({error}). Start one with `dask scheduler`, or use "
                    "--jobs N for processes on this machine."
                ) from error
            stack.callback(self._close)
            watch = threading.Thread(target=self._watch, daemon=True)
            watch.start()
            stack.callback(watch.join)
            stack.callback(self._is_over.set)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *exception: object) -> None:
        self._stack.close()

    @property
    def num_slots(self) -> int:
        """Number of connected workers."""
        return max(1, self._num_workers)

    def submit(self, task: Task) -> Future[Any]:
        future: Future[Any] = Future()
        self._running[future] = self._client.submit(_fit_on_worker, self._store, task, pure=False)
        self._running[future].add_done_callback(lambda done: self._finish(future, done, task))
        return future

    def _finish(self, future: Future[Any], done: Any, task: Task) -> None:
        self._running.pop(future, None)
        if future.done():
            return
        error = done.exception() if done.status == "error" else None
        if isinstance(error, KilledWorker):
            error = PipelineError(f"{task.name}: every worker that ran it ended, perhaps for lack of memory.")
        elif done.status != "finished" and error is None:
            error = _lost("The connection to the Dask cluster is lost")
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(done.result())

    def _watch(self) -> None:
        """Count the workers, and end the run if there is none for too long."""
        seen_at_seconds = time.monotonic()
        while True:
            with suppress(OSError, TimeoutError):
                self._num_workers = len(self._client.nthreads())
            if self._num_workers:
                seen_at_seconds = time.monotonic()
            elif time.monotonic() - seen_at_seconds > SECONDS_WITHOUT_WORKERS:
                for future in list(self._running):
                    future.set_exception(_lost(f"No worker has been connected for {SECONDS_WITHOUT_WORKERS} s"))
                    del self._running[future]
            if self._is_over.wait(SECONDS_BETWEEN_LOOKS):
                return

    def _close(self) -> None:
        with suppress(TimeoutError, OSError):
            self._client.close(timeout=SECONDS_TO_CONNECT)


def _lost(cause: str) -> PipelineError:
    return PipelineError(f"{cause}. Finished runs and trials are kept; start workers and run the same command again.")


def _fit_on_worker(store: StoreRequest, task: Task) -> Any:
    with _one_fit:
        return fit_here(store, task)
