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
from pipeline.fit_head.run import RunOutcome, backbone_of_store, run_head
from pipeline.fit_head.table import table_text
from pipeline.fit_head.workers import FitTask, StoreRequest, TaskResult, fit_in_parallel
from pipeline.settings.fit_head import FitHeadSettings
from pipeline.store import FeatureStore


def run(settings: FitHeadSettings) -> list[RunOutcome]:
    """Fit heads on a store and print their table; with several recipes, each gets its own folder below `out`.

    With `jobs` above 1 (by default the number of cores), runs of one thread are fitted side by side in as many
    processes; the others follow one by one. A run that diverges does not keep the others from being fitted; it is
    named at the end. Neither order nor `jobs` changes a result.

    Raises:
        PipelineError: anything that the user can mend.
    """
    source = FeatureStore.open(settings.store)
    if source.num_pending:
        _say(f"{source.num_pending} of {source.num_clips} clips of the store are not extracted yet; going on without.")
    weights = settings.weights or source.provenance.get("weights")
    request = StoreRequest(settings.store, settings.out, settings.num_segments, settings.views, weights)
    data = CachedData(source, settings.out, _say, settings.num_segments, settings.views)
    tasks = plan_tasks(settings, data, _say)
    backbone = backbone_of_store(source.settings, weights)
    together = [task for task in tasks if task.run.compute.threads == 1 and task.run.compute.device.type == "cpu"]
    jobs = min(num_cores() if settings.jobs is None else settings.jobs, len(together))
    if jobs < 2:
        together = []
    results = list(_reported(fit_in_parallel(request, together, jobs))) if together else []
    results += _reported(_one_by_one([task for task in tasks if task not in together], data, backbone, len(tasks) > 1))
    # In the order in which the heads were named, whichever was done first.
    results.sort(key=lambda result: tasks.index(result.task))
    outcomes = [result.outcome for result in results if result.outcome is not None]
    if outcomes:
        click.echo(table_text([outcome.metrics for outcome in outcomes]))
    failures = [result.failure for result in results if result.failure]
    if failures:
        raise PipelineError(f"{len(failures)} of {len(tasks)} runs failed. " + " ".join(failures))
    return outcomes


def _one_by_one(tasks: Sequence[FitTask], data: CachedData, backbone: nn.Module, goes_on: bool) -> Iterator[TaskResult]:
    """Fit runs in this process. With `goes_on`, one that fails does not keep the others from being fitted."""
    for task in tasks:
        try:
            outcome = run_head(task.run, data, backbone, task.out, _say, force=task.force)
        except PipelineError as error:
            if not goes_on:
                raise
            yield TaskResult(task, None, str(error), ())
        else:
            yield TaskResult(task, outcome, "", ())


def _reported(results: Iterable[TaskResult]) -> Iterator[TaskResult]:
    """Report each run as soon as it is done."""
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
