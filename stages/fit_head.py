"""`pipeline fit-head`: cached features -> fitted heads, one result folder each."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import click
from torch import nn

from pipeline.devices import num_cores
from pipeline.errors import PipelineError
from pipeline.fit_head.cached_data import CachedData
from pipeline.fit_head.plan import plan_tasks
from pipeline.fit_head.run import PlannedRun, RunOutcome, backbone_of_store, fit_run, plan_run
from pipeline.fit_head.table import table_text
from pipeline.fit_head.workers import FitTask, StoreRequest, TaskResult, choose_num_processes, fit_in_parallel
from pipeline.settings.fit_head import FitHeadSettings
from pipeline.store import FeatureStore


def run(settings: FitHeadSettings) -> list[RunOutcome]:
    """Fit heads on a store and print their table; with several recipes, each gets its own folder below `out`.

    Seeds of heads that are fitted with one thread are fitted side by side in as many processes as keep the cores busy,
    or in `jobs`; the other heads follow one by one. A run that diverges does not keep the others from being fitted; it
    is named at the end. Neither order nor `jobs` changes a result.

    Raises:
        PipelineError: anything that the user can mend.
    """
    source = FeatureStore.open(settings.store)
    if source.num_pending:
        _say(f"{source.num_pending} of {source.num_clips} clips of the store are not extracted yet; going on without.")
    data = CachedData(source, settings.out, _say, settings.num_segments, settings.views)
    tasks = plan_tasks(settings, data, _say)
    results = list(_reported(_results(settings, tasks, source, data)))
    # In the order in which the heads were named, whichever was done first.
    results.sort(key=lambda result: tasks.index(result.task))
    outcomes = [result.outcome for result in results if result.outcome is not None]
    if outcomes:
        click.echo(table_text([outcome.metrics for outcome in outcomes]))
    failures = [result.failure for result in results if result.failure]
    if failures and len(tasks) == 1:
        raise PipelineError(failures[0])
    if failures:
        raise PipelineError(f"{len(failures)} of {len(tasks)} runs failed. " + " ".join(failures))
    return outcomes


def _results(
    settings: FitHeadSettings, tasks: Sequence[FitTask], source: FeatureStore, data: CachedData
) -> Iterator[TaskResult]:
    """Yield the result of each task as it is done: finished ones, then those fitted side by side, then the others."""
    runs = {task: plan_run(task.run, data, task.out, task.force) for task in tasks}
    for task, planned in runs.items():
        if planned.finished is not None:
            yield TaskResult(task, RunOutcome(planned.finished, planned.folder, was_finished=True))
    left = {task: planned for task, planned in runs.items() if planned.finished is None}
    if not left:
        return
    weights = settings.weights or source.provenance.get("weights")
    backbone = backbone_of_store(source.settings, weights)
    together = {task: planned for task, planned in left.items() if _shares_cores(task)}
    num_fits = sum(len(task.run.seeds) for task in together)
    num_processes = choose_num_processes(num_fits, num_cores())
    if settings.jobs is not None:
        num_processes = min(settings.jobs, num_fits)
    if num_processes > 1:
        request = StoreRequest(settings.store, settings.out, settings.num_segments, settings.views)
        yield from fit_in_parallel(request, together, num_processes, data, backbone)
        left = {task: planned for task, planned in left.items() if task not in together}
    yield from _one_by_one(left, data, backbone)


def _shares_cores(task: FitTask) -> bool:
    return task.run.compute.threads == 1 and task.run.compute.device.type == "cpu"


def _one_by_one(runs: Mapping[FitTask, PlannedRun], data: CachedData, backbone: nn.Module) -> Iterator[TaskResult]:
    """Fit runs in this process; one that fails does not keep the others from being fitted."""
    for task, planned in runs.items():
        try:
            outcome = fit_run(planned, data, backbone, _say)
        except PipelineError as error:
            yield TaskResult(task, None, str(error))
        else:
            yield TaskResult(task, outcome)


def _reported(results: Iterable[TaskResult]) -> Iterator[TaskResult]:
    """Report each cell as soon as it is done."""
    for result in results:
        for line in result.said:
            _say(line)
        if result.outcome is None:
            _say(f"{result.task.run.head} failed: {result.failure}")
        elif result.outcome.was_finished:
            _say(f"{result.outcome.folder} was finished with these settings; --force fits it again.")
        else:
            _say(f"{result.outcome.folder}: {_reported_text(result.outcome.metrics)}")
        yield result


def _reported_text(metrics: Mapping[str, Any]) -> str:
    return f"{metrics['reported_on']} top-1 {metrics['report']['top1']:.1f} %"


def _say(text: str) -> None:
    click.echo(text, err=True)
