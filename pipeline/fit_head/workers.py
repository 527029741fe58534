"""Fit heads in parallel, each in its own process: their matrices are too small to share among cores.

A process opens the store and loads its features itself. Where a run is fitted does not change its result.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path

from pipeline.errors import PipelineError
from pipeline.fit_head.cached_data import CachedData
from pipeline.fit_head.run import HeadRun, RunOutcome, backbone_of_store, run_head
from pipeline.store import FeatureStore


@dataclass(frozen=True)
class StoreRequest:
    """How a process finds features and backbone."""

    location: str
    scratch: Path
    num_segments: int | None = None
    num_views: int | None = None
    weights: str | None = None


@dataclass(frozen=True)
class FitTask:
    """A run and the folder below which it is written."""

    run: HeadRun
    out: Path
    force: bool = False


@dataclass(frozen=True)
class TaskResult:
    """The result of a task: an outcome or an error, and its messages."""

    task: FitTask
    outcome: RunOutcome | None
    failure: str
    said: tuple[str, ...]


def fit_in_parallel(request: StoreRequest, tasks: Sequence[FitTask], jobs: int) -> Iterator[TaskResult]:
    """Fit runs in `jobs` processes and yield each as it is done.

    Raises:
        PipelineError: a process was ended from outside.
    """
    # Spawned, not forked: torch's threads and the store's do not survive a fork.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(min(jobs, len(tasks)), mp_context=context) as pool:
        futures: list[Future[TaskResult]] = [pool.submit(fit_here, request, task) for task in tasks]
        try:
            for future in as_completed(futures):
                yield future.result()
        except BrokenProcessPool as error:
            raise PipelineError(
                "A process that fitted heads was ended from outside, perhaps for want of memory. Cells that were "
                "finished are kept; run the command again with --jobs 1."
            ) from error
        finally:
            for future in futures:
                future.cancel()


def fit_here(request: StoreRequest, task: FitTask) -> TaskResult:
    """Fit one run in this process, without a progress bar."""
    said: list[str] = []
    try:
        source = FeatureStore.open(request.location)
        data = CachedData(source, request.scratch, said.append, request.num_segments, request.num_views)
        backbone = backbone_of_store(source.settings, request.weights)
        outcome = run_head(task.run, data, backbone, task.out, said.append, force=task.force, shows_progress=False)
    except PipelineError as error:
        return TaskResult(task, None, str(error), tuple(said))
    return TaskResult(task, outcome, "", tuple(said))
