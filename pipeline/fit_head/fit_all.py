"""Fit the heads that are not finished: those of one thread side by side, the others one after another."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from torch import nn

from pipeline.devices import num_cores
from pipeline.errors import PipelineError
from pipeline.fit_head.cached_data import CachedData
from pipeline.fit_head.compute import choose_compute
from pipeline.fit_head.outcome import RequestResult, RunOutcome
from pipeline.fit_head.plan import HeadRequest
from pipeline.fit_head.run import HeadRun, PlannedRun, backbone_of_store, fit_run, plan_run
from pipeline.fit_head.workers import StoreRequest, choose_num_processes, fit_in_parallel
from pipeline.heads import HEADS
from pipeline.settings.fit_head import FitHeadSettings
from pipeline.store import FeatureStore


def fit_all(
    settings: FitHeadSettings, requests: Sequence[HeadRequest], source: FeatureStore
) -> Iterator[RequestResult]:
    """Fit heads and yield the result of each as soon as it is done; one that fails keeps no other from being fitted.

    Raises:
        PipelineError: a head that the store cannot serve, or a device that is not there, before the first fit.
    """
    data = CachedData(source, settings.out, settings.num_segments, settings.views)
    runs = {request: _planned(request, settings, data) for request in requests}
    for request, planned in runs.items():
        if planned.finished is not None:
            yield RequestResult(request, RunOutcome(planned.finished, planned.folder, was_finished=True))
    left = {request: planned for request, planned in runs.items() if planned.finished is None}
    if not left:
        return
    backbone = backbone_of_store(source.settings, settings.weights or source.provenance.get("weights"))
    together = {request: planned for request, planned in left.items() if _is_single_threaded(planned)}
    num_fits = sum(len(request.seeds) for request in together)
    num_processes = choose_num_processes(num_fits, num_cores())
    if settings.jobs is not None:
        num_processes = min(settings.jobs, num_fits)
    if num_processes > 1:
        store = StoreRequest(settings.store, settings.out, settings.num_segments, settings.views)
        yield from fit_in_parallel(store, together, num_processes, data, backbone)
        left = {request: planned for request, planned in left.items() if request not in together}
    yield from _one_by_one(left, data, backbone)


def _planned(request: HeadRequest, settings: FitHeadSettings, data: CachedData) -> PlannedRun:
    data.check_maps(HEADS[request.head].reads, request.head)
    compute = choose_compute(request.head, request.device, request.precision, request.threads, settings.loaders)
    run = HeadRun(request.head, request.recipe, request.seeds, compute)
    return plan_run(run, data, request.out, settings.force)


def _is_single_threaded(planned: PlannedRun) -> bool:
    return planned.run.compute.threads == 1 and planned.run.compute.device.type == "cpu"


def _one_by_one(
    runs: Mapping[HeadRequest, PlannedRun], data: CachedData, backbone: nn.Module
) -> Iterator[RequestResult]:
    for request, planned in runs.items():
        try:
            outcome = fit_run(planned, data, backbone)
        except PipelineError as error:
            yield RequestResult(request, None, str(error))
        else:
            yield RequestResult(request, outcome)
