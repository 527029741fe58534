"""`pipeline fit-head`: fit heads on cached features, with one result folder each. Finished heads need no torch."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from typing import Any

import click

from pipeline.collection import lasting_imports
from pipeline.errors import PipelineError
from pipeline.evaluation.tensorboard import check_tensorboard, write_events
from pipeline.fit_head.finished import find_finished
from pipeline.fit_head.outcome import RequestResult, RunOutcome
from pipeline.fit_head.parallel import start_server_early
from pipeline.fit_head.plan import HeadRequest, plan_requests
from pipeline.fit_head.stored_clips import StoredClips
from pipeline.fit_head.table import table_text
from pipeline.registry import is_same_backbone
from pipeline.settings.fit_head import FitHeadSettings
from pipeline.store import FeatureStore

logger = logging.getLogger(__name__)


def run(settings: FitHeadSettings) -> list[RunOutcome]:
    """Fit heads on a store and print their table; with several recipes, each gets a folder in `out`.

    Seeds of single-threaded heads are fitted in parallel, in `jobs` processes (by default as many as keep the cores
    busy); the other heads follow one by one. A diverging run does not stop the others; it is reported at the end.
    Neither the order nor `jobs` affects a result.

    Raises:
        PipelineError: data or settings are wrong.
    """
    if settings.tensorboard:
        check_tensorboard()
    source = FeatureStore.open(settings.store)
    stored = source.settings.backbone
    if settings.backbone is not None and not is_same_backbone(settings.backbone, stored):
        raise PipelineError(
            f"`backbone` is {settings.backbone}, but the store {settings.store} has features of {stored}. "
            f"Name the store of {settings.backbone}, or leave out --backbone."
        )
    if source.num_pending:
        logger.info(
            f"{source.num_pending} of {source.num_clips} clips of the store are not extracted yet and are not used."
        )
    clips = StoredClips(source, settings.num_segments, settings.views)
    requests = plan_requests(settings, clips)
    results = []
    try:
        for result in _results(settings, requests, source, clips):
            _report(result)
            if settings.tensorboard and result.outcome is not None:
                write_events(result.outcome.folder)
            results.append(result)
    except KeyboardInterrupt:
        raise PipelineError(
            f"Stopped. {len(results)} of {len(requests)} heads are finished; the same command continues with the "
            "others from their last checkpoints."
        ) from None
    # In the order of the request, not of completion.
    results.sort(key=lambda result: requests.index(result.request))
    outcomes = [result.outcome for result in results if result.outcome is not None]
    if outcomes:
        click.echo(table_text([outcome.metrics for outcome in outcomes]))
    failures = [result.failure for result in results if result.failure]
    if failures and len(requests) == 1:
        raise PipelineError(failures[0])
    if failures:
        raise PipelineError(f"{len(failures)} of {len(requests)} runs failed. " + " ".join(failures))
    return outcomes


def _results(
    settings: FitHeadSettings,
    requests: list[HeadRequest],
    source: FeatureStore,
    clips: StoredClips,
) -> Iterator[RequestResult]:
    """Yield the result of each request as it is done, the finished ones first."""
    found = {request: None if settings.force else find_finished(request, clips) for request in requests}
    for request, metrics in found.items():
        if metrics is not None:
            outcome = RunOutcome(metrics, request.folder(source.settings.backbone), was_finished=True)
            yield RequestResult(request, outcome)
    left = [request for request, metrics in found.items() if metrics is None]
    if left:
        start_server_early(settings, left)
        with lasting_imports():
            from pipeline.fit_head.fit_all import fit_all  # imports torch

        yield from fit_all(settings, left, source)


def _report(result: RequestResult) -> None:
    if result.outcome is None:
        logger.warning(f"{result.request.head} failed: {result.failure}")
    elif result.outcome.was_finished:
        logger.info(f"{result.outcome.folder} was finished with these settings; --force fits it again.")
    else:
        logger.info(f"{result.outcome.folder}: {_reported_text(result.outcome.metrics)}")


def _reported_text(metrics: Mapping[str, Any]) -> str:
    return f"{metrics['reported_on']} top-1 {metrics['report']['top1']:.1f} %"
