"""Schedule the fits of all runs as one list: trials and seeds of every head, the longest ones first.

Every free slot of the pool gets the fit that is expected to take longest, by the measured seconds of an epoch of its
head. The first fit of each head comes before all others, because it is the measurement. The results do not depend on
the order.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass, field
from typing import Any, Protocol

from pipeline.errors import PipelineError
from pipeline.fit_head.cached_data import CachedData
from pipeline.fit_head.outcome import RequestResult
from pipeline.fit_head.plan import HeadRequest
from pipeline.fit_head.steps import RunSteps
from pipeline.fit_head.tasks import Outcome, ProgressMaker, Task
from pipeline.progress import Progress

logger = logging.getLogger(__name__)


class Pool(Protocol):
    """Processes that fit tasks. `num_slots` is the number of fits that run at once."""

    @property
    def num_slots(self) -> int: ...
    def submit(self, task: Task) -> Future[Any]: ...


class ThisProcess:
    """A pool of one slot that fits each task at once in this process."""

    num_slots = 1

    def __init__(self, data: CachedData, progress_of: ProgressMaker = Progress) -> None:
        self._data, self._progress_of = data, progress_of

    def submit(self, task: Task) -> Future[Any]:
        future: Future[Any] = Future()
        future.set_result(task.fit(self._data, self._progress_of))
        return future


@dataclass
class _Batch:
    """Fits of a run that may run at once: those that wait, and the outcomes of the others by position."""

    tasks: Sequence[Task]
    waiting: list[int] = field(init=False)
    outcomes: dict[int, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.waiting = list(range(len(self.tasks)))

    @property
    def is_done(self) -> bool:
        return len(self.outcomes) == len(self.tasks)


class _Costs:
    """Measured seconds of an epoch of each head."""

    def __init__(self) -> None:
        self._seconds: dict[str, float] = defaultdict(float)
        self._epochs: dict[str, int] = defaultdict(int)
        self._started: dict[str, int] = defaultdict(int)

    def start(self, task: Task) -> None:
        self._started[task.run.head] += 1

    def add(self, task: Task, outcome: Outcome) -> None:
        self._seconds[task.run.head] += outcome.seconds
        self._epochs[task.run.head] += outcome.num_epochs

    def priority(self, task: Task) -> tuple[float, float]:
        """Return a key that is larger for fits that should start earlier."""
        head = task.run.head
        if self._started[head] == 0:
            return 2.0, 0.0
        if self._epochs[head] == 0:
            return 0.0, 0.0  # being measured
        return 1.0, task.run.recipe.training.epochs * self._seconds[head] / self._epochs[head]


def fit_scheduled(runs: Mapping[HeadRequest, RunSteps], pool: Pool) -> Iterator[RequestResult]:
    """Run the steps of all runs on a pool, and yield the result of each run when it is written.

    A run that fails does not stop the others.
    """
    batches: dict[HeadRequest, _Batch] = {}
    running: dict[Future[Any], tuple[HeadRequest, int, Task]] = {}
    costs = _Costs()

    def advance(request: HeadRequest, outcomes: Sequence[Any] | None) -> RequestResult | None:
        batches.pop(request, None)
        try:
            tasks = next(runs[request]) if outcomes is None else runs[request].send(outcomes)
        except StopIteration as stop:
            return RequestResult(request, stop.value)
        except PipelineError as error:
            return RequestResult(request, None, str(error))
        batches[request] = _Batch(tasks)
        return None

    def fill() -> None:
        while len(running) < pool.num_slots:
            waiting = [(request, batch) for request, batch in batches.items() if batch.waiting]
            if not waiting:
                return
            if pool.num_slots == 1:
                request, batch = waiting[0]  # so that a kill leaves as many finished runs as possible
            else:
                request, batch = max(waiting, key=lambda item: costs.priority(item[1].tasks[item[1].waiting[0]]))
            index = batch.waiting.pop(0)
            task = batch.tasks[index]
            costs.start(task)
            logger.debug(f"{task.name}: starts")
            running[pool.submit(task)] = request, index, task

    for request in runs:
        if (result := advance(request, None)) is not None:
            yield result
    while batches:
        fill()
        for future in wait(running, return_when=FIRST_COMPLETED).done:
            request, index, task = running.pop(future)
            try:
                outcome = future.result()
            except PipelineError as error:  # the fit was lost with its worker
                if batches.pop(request, None) is not None:
                    yield RequestResult(request, None, str(error))
                continue
            task.keep(outcome)
            costs.add(task, outcome)
            if request in batches:
                batches[request].outcomes[index] = outcome
        fill()  # before results are written, so that no core waits
        for request, batch in list(batches.items()):
            if batch.is_done:
                result = advance(request, [batch.outcomes[index] for index in range(len(batch.tasks))])
                if result is not None:
                    yield result
