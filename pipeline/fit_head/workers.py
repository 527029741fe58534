"""Fit heads in parallel processes, because the matrices of most heads are too small to use several cores.

Each process opens the store and maps the features that the main process loaded. The result of a fit does not depend on
the process.
"""

from __future__ import annotations

import functools
import logging
import multiprocessing
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.allocator import keep_memory_between_batches
from pipeline.errors import PipelineError
from pipeline.fit_head.cached_data import CachedData
from pipeline.fit_head.parallel import PRELOADED
from pipeline.fit_head.shared_tables import SharedTables
from pipeline.fit_head.tasks import Task
from pipeline.processes import forking_context, start_worker, without_interrupts
from pipeline.relay import RelayedProgress, relayed
from pipeline.store import FeatureStore

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class StoreRequest:
    """Location and selection of the features, for a worker process. shared: tables that the main process loaded."""

    location: str
    scratch: Path
    shared: SharedTables | None
    num_segments: int | None = None
    num_views: int | None = None


class Processes:
    """A pool of worker processes; the main process shows their messages and progress.

    If the block is left by an exception, fits that still run are ended; their checkpoints are kept.

    Raises:
        PipelineError: a process was ended from outside.
    """

    def __init__(self, store: StoreRequest, num_processes: int) -> None:
        self.num_slots, self._store = num_processes, store

    def __enter__(self) -> Processes:
        # Forks of this process would lack the threads of torch and of the store.
        context = forking_context(PRELOADED)
        self._stack = ExitStack()
        queue = self._stack.enter_context(relayed(context))
        level = logger.getEffectiveLevel()
        self._pool = ProcessPoolExecutor(
            self.num_slots, context, initializer=start_worker, initargs=("pipeline.relay:relay_to", queue, level)
        )
        self._stack.enter_context(self._pool)
        self._others = set(multiprocessing.active_children())
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: Any) -> None:
        if error is not None:  # such as Ctrl-C: the pool would wait until its fits are done
            for process in set(multiprocessing.active_children()) - self._others:
                process.terminate()
        self._stack.close()
        if isinstance(error, BrokenProcessPool):
            raise PipelineError(
                "A process that fitted heads was killed, perhaps for lack of memory. Finished runs and trials are "
                "kept; run the command again with --jobs 1."
            ) from error

    def submit(self, task: Task) -> Future[Any]:
        with without_interrupts():  # the first tasks start the processes
            return self._pool.submit(fit_here, self._store, task)


def fit_here(request: StoreRequest, task: Task) -> Any:
    """Fit a task with the data of this process."""
    return task.fit(_data_of_process(request), RelayedProgress)


@functools.lru_cache(maxsize=1)
def _data_of_process(request: StoreRequest) -> CachedData:
    """Return the data of a process, which maps or loads each kind of features once for all its fits."""
    keep_memory_between_batches(of_any_size=True)  # the maps of a batch take 44 MB as float32
    source = FeatureStore.open(request.location)
    return CachedData(source, request.scratch, request.num_segments, request.num_views, shared=request.shared)
