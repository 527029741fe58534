"""Fit the seeds of heads in parallel processes, because their matrices are too small to use several cores.

Each process opens the store and loads the features. The result of a seed does not depend on the process.
"""

from __future__ import annotations

import functools
import logging
import multiprocessing
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, fields
from multiprocessing.context import BaseContext
from pathlib import Path
from typing import Any

import torch
from numpy.typing import NDArray
from torch import nn

from pipeline.allocator import keep_memory_between_batches
from pipeline.errors import PipelineError
from pipeline.evaluation.result_writer import SeedResult
from pipeline.fit_head.cached_data import CachedData
from pipeline.fit_head.fit import FitResult
from pipeline.fit_head.outcome import RequestResult
from pipeline.fit_head.plan import HeadRequest
from pipeline.fit_head.run import PlannedRun, fit_seed, run_spec, write_run
from pipeline.model import head_of_spec
from pipeline.processes import end_with_parent
from pipeline.relay import RelayedProgress, relay_to, relayed
from pipeline.store import FeatureStore

logger = logging.getLogger(__name__)

# With at least this number of fits per process, an uneven last round costs little.
ROUNDS_THAT_EVEN_OUT = 4


@dataclass(frozen=True)
class StoreRequest:
    """Location and selection of the features, for a worker process."""

    location: str
    scratch: Path
    num_segments: int | None = None
    num_views: int | None = None


@dataclass(frozen=True)
class SeedOutcome:
    """Result of a worker process: the result of a seed and the weights of its head, or an error."""

    result: SeedResult | None
    weights: Mapping[str, NDArray[Any]]
    failure: str = ""


def choose_num_processes(num_fits: int, num_cores: int) -> int:
    """Choose the number of processes that keeps every core busy until the last of `num_fits` equally long fits ends.

    Three fits on two cores run at once and share the cores, which takes 1.5 times as long as one fit; two and then one
    would take 2 times.

    >>> [choose_num_processes(num_fits, 2) for num_fits in (1, 2, 3, 4, 5, 7, 8, 33)]
    [1, 2, 3, 2, 3, 3, 2, 2]
    """
    if num_fits <= num_cores:
        return num_fits
    if num_fits >= ROUNDS_THAT_EVEN_OUT * num_cores:
        return num_cores
    return -(-num_fits // (num_fits // num_cores))


def fit_in_parallel(
    store: StoreRequest,
    runs: Mapping[HeadRequest, PlannedRun],
    num_processes: int,
    data: CachedData,
    backbone: nn.Module | None,
) -> Iterator[RequestResult]:
    """Fit the seeds of runs in `num_processes` processes, and write and yield each run when its last seed is done.

    Raises:
        PipelineError: a process was ended from outside.
    """
    outcomes: dict[HeadRequest, dict[int, SeedOutcome]] = defaultdict(dict)
    context = _process_context()
    with (
        relayed(context) as queue,
        ProcessPoolExecutor(
            num_processes, context, initializer=_start_process, initargs=(queue, logger.getEffectiveLevel())
        ) as pool,
    ):
        futures: dict[Future[SeedOutcome], tuple[HeadRequest, int]] = {
            pool.submit(fit_here, store, planned, seed): (request, seed)
            for request, planned in runs.items()
            for seed in planned.run.seeds
        }
        try:
            for future in as_completed(futures):
                request, seed = futures[future]
                outcomes[request][seed] = future.result()
                if len(outcomes[request]) == len(runs[request].run.seeds):
                    in_order = [outcomes[request][seed] for seed in runs[request].run.seeds]
                    yield _request_result(request, runs[request], in_order, data, backbone)
        except BrokenProcessPool as error:
            raise PipelineError(
                "A process that fitted heads was killed, perhaps for lack of memory. Finished runs are kept; run "
                "the command again with --jobs 1."
            ) from error
        finally:
            for future in futures:
                future.cancel()


def fit_here(request: StoreRequest, planned: PlannedRun, seed: int) -> SeedOutcome:
    """Fit one seed in this process; the main process shows its messages and progress."""
    try:
        result = fit_seed(planned, seed, _data_of_process(request), RelayedProgress)
    except PipelineError as error:
        return SeedOutcome(None, {}, str(error))
    # As arrays, because torch sends tensors through files that disappear with the process.
    weights = {name: tensor.numpy() for name, tensor in result.head.state_dict().items()}
    return SeedOutcome(_without_head(result), weights if seed == planned.run.seeds[0] else {})


@functools.lru_cache(maxsize=1)
def _data_of_process(request: StoreRequest) -> CachedData:
    """Return the data of a process, which loads each kind of features once for all its fits."""
    keep_memory_between_batches()
    source = FeatureStore.open(request.location)
    return CachedData(source, request.scratch, request.num_segments, request.num_views)


def _request_result(
    request: HeadRequest,
    planned: PlannedRun,
    outcomes: Sequence[SeedOutcome],
    data: CachedData,
    backbone: nn.Module | None,
) -> RequestResult:
    for outcome in outcomes:
        if outcome.result is None:
            return RequestResult(request, None, outcome.failure)
    results = [outcome.result for outcome in outcomes if outcome.result is not None]
    head = head_of_spec(run_spec(planned.run, data, results[0].best_epoch))
    head.load_state_dict({name: torch.from_numpy(array) for name, array in outcomes[0].weights.items()})
    return RequestResult(request, write_run(planned, data, backbone, results, head))


def _without_head(result: FitResult) -> SeedResult:
    return SeedResult(**{field.name: getattr(result, field.name) for field in fields(SeedResult)})


def _start_process(queue: Any, level: int) -> None:
    end_with_parent()
    relay_to(queue, level)


def _process_context() -> BaseContext:
    """Fork from a server that has imported torch and started no thread; spawn if there is no such server.

    Forks of this process would lack the threads of torch and of the store.
    """
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    return context
