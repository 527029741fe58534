"""Fit the heads that are not finished: single-threaded ones in parallel, the others one after another."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence

from torch import nn

from pipeline.allocator import keep_memory_between_batches
from pipeline.calibration import Calibration
from pipeline.devices import num_cores
from pipeline.errors import PipelineError
from pipeline.fit_head.cached_data import CachedData
from pipeline.fit_head.compute import HeadSizes, choose_compute
from pipeline.fit_head.outcome import RequestResult, RunOutcome
from pipeline.fit_head.plan import AUTO, HeadRequest
from pipeline.fit_head.run import HeadRun, PlannedRun, backbone_of_store, fit_run, plan_run, unfinished_compute
from pipeline.fit_head.workers import StoreRequest, choose_num_processes, fit_in_parallel
from pipeline.heads import HEADS
from pipeline.settings.fit_head import FitHeadSettings
from pipeline.store import FeatureStore

logger = logging.getLogger(__name__)


def fit_all(
    settings: FitHeadSettings, requests: Sequence[HeadRequest], source: FeatureStore
) -> Iterator[RequestResult]:
    """Fit heads and yield the result of each as soon as it is done; a failed head does not stop the others.

    Raises:
        PipelineError: before the first fit: the store does not have the features of a head, or the device does not
            exist.
    """
    data = CachedData(source, settings.out, settings.num_segments, settings.views)
    runs = {request: _planned(request, settings, data) for request in requests}
    for request, planned in runs.items():
        if planned.finished is not None:
            yield RequestResult(request, RunOutcome(planned.finished, planned.folder, was_finished=True))
    left = {request: planned for request, planned in runs.items() if planned.finished is None}
    if not left:
        return
    keep_memory_between_batches()
    backbone = backbone_of_store(source.settings, settings.weights or source.provenance.get("weights"))
    for planned in left.values():
        planned.write_unfinished()
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
    reads = HEADS[request.head].reads
    data.check_maps(reads, request.head)
    store = data.source.settings
    map_size = store.map_size if reads == "spatial" else 1
    sizes = HeadSizes(store.channels, data.num_segments, len(data.source.classes), map_size)
    # An unfinished fit is resumed with its number type and threads, whatever would be measured now.
    begun = unfinished_compute(request.folder(store.backbone))
    precision = begun.get("precision", AUTO) if request.precision == AUTO else request.precision
    threads = begun.get("threads") if request.threads is None else request.threads
    calibration = Calibration(settings.calibration)
    compute = choose_compute(request.head, request.device, precision, threads, settings.loaders, sizes, calibration)
    run = HeadRun(request.head, request.recipe, request.seeds, compute)
    return plan_run(run, data, request.out, settings.force)


def _is_single_threaded(planned: PlannedRun) -> bool:
    return planned.run.compute.threads == 1 and planned.run.compute.device.type == "cpu"


def _one_by_one(
    runs: Mapping[HeadRequest, PlannedRun], data: CachedData, backbone: nn.Module | None
) -> Iterator[RequestResult]:
    for request, planned in runs.items():
        try:
            outcome = fit_run(planned, data, backbone)
        except PipelineError as error:
            yield RequestResult(request, None, str(error))
        else:
            yield RequestResult(request, outcome)
