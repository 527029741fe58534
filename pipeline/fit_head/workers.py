"""Fit heads in parallel processes, because the matrices of most heads are too small to use several cores.

Each process opens the store and maps the features that the main process loaded. The result of a fit does not depend on
the process.
"""

from __future__ import annotations

import functools
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.allocator import keep_memory_between_batches
from pipeline.errors import PipelineError
from pipeline.fit_head.cached_data import CachedData
from pipeline.fit_head.parallel import PRELOADED
from pipeline.fit_head.shared_tables import SharedTables
from pipeline.fit_head.tasks import Task
from pipeline.relay import RelayedPool, RelayedProgress
from pipeline.store import FeatureStore


@dataclass(frozen=True)
class StoreRequest:
    """Location and selection of the features, for a worker process. shared: tables that the main process loaded."""

    location: str
    scratch: Path
    shared: SharedTables | None
    num_segments: int | None = None
    num_views: int | None = None


class Processes:
    """A pool of worker processes for fits. If the block is left by an exception, the checkpoints of fits are kept.

    Raises:
        PipelineError: a process was ended from outside.
    """

    def __init__(self, store: StoreRequest, num_processes: int) -> None:
        self.num_slots, self._store = num_processes, store
        self._pool = RelayedPool(num_processes, PRELOADED)

    def __enter__(self) -> Processes:
        self._pool.__enter__()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: Any) -> None:
        self._pool.__exit__(kind, error, trace)
        if isinstance(error, BrokenProcessPool):
            raise PipelineError(
                "A process that fitted heads was killed, perhaps for lack of memory. Finished runs and trials are "
                "kept; run the command again with --jobs 1."
            ) from error

    def submit(self, task: Task) -> Future[Any]:
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
