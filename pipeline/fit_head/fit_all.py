"""Fit the heads that are not finished: single-threaded fits in parallel, the others one after another."""

from __future__ import annotations

import logging
import os
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import replace

from pipeline.allocator import keep_memory_between_batches
from pipeline.calibration import Calibration
from pipeline.errors import PipelineError
from pipeline.evaluation.selection import TRAIN
from pipeline.fit_head.cached_data import CachedData
from pipeline.fit_head.compute import HeadSizes, choose_compute
from pipeline.fit_head.estimate import MIN_CLIPS, estimate_text, seconds_of_fit
from pipeline.fit_head.outcome import RequestResult, RunOutcome
from pipeline.fit_head.parallel import count_fits, count_processes
from pipeline.fit_head.plan import AUTO, HeadRequest
from pipeline.fit_head.run import HeadRun, PlannedRun, backbone_of_store, plan_run, unfinished_compute
from pipeline.fit_head.schedule import ThisProcess, fit_scheduled
from pipeline.fit_head.shared_tables import SharedTables
from pipeline.fit_head.steps import run_steps
from pipeline.fit_head.workers import Processes, StoreRequest
from pipeline.folder_lock import folder_lock
from pipeline.heads import HEADS
from pipeline.recipe import Recipe
from pipeline.scratch import temporary_folder
from pipeline.settings.fit_head import FitHeadSettings
from pipeline.store import FeatureStore

logger = logging.getLogger(__name__)


def fit_all(
    settings: FitHeadSettings, requests: Sequence[HeadRequest], source: FeatureStore
) -> Iterator[RequestResult]:
    """Fit heads and yield the result of each as soon as it is done; a failed head does not stop the others.

    Raises:
        PipelineError: before the first fit: the store does not have the features of a head, the device does not exist,
            or another process writes to a result folder.
    """
    data = CachedData(source, settings.out, settings.num_segments, settings.views)
    runs = {request: _planned(request, settings, data) for request in requests}
    for request, planned in runs.items():
        if planned.finished is not None:
            yield RequestResult(request, RunOutcome(planned.finished, planned.folder, was_finished=True))
    left = {request: planned for request, planned in runs.items() if planned.finished is None}
    with ExitStack() as locks:
        for planned in left.values():
            locks.enter_context(folder_lock(planned.folder))
        if left:
            yield from _fit(left, settings, source, data)


def _fit(
    left: Mapping[HeadRequest, PlannedRun], settings: FitHeadSettings, source: FeatureStore, data: CachedData
) -> Iterator[RequestResult]:
    keep_memory_between_batches(of_any_size=True)  # the maps of a batch take 44 MB as float32
    backbone = backbone_of_store(source.settings, settings.weights or source.provenance.get("weights"))
    for planned in left.values():
        planned.write_unfinished()
    if settings.scheduler is not None:
        # Workers have other working directories.
        left = {request: replace(planned, folder=planned.folder.absolute()) for request, planned in left.items()}
    steps = {request: run_steps(planned, data, backbone, settings.force) for request, planned in left.items()}
    together = {request: steps[request] for request, planned in left.items() if _is_single_threaded(planned)}
    num_processes = count_processes(settings, together)
    if settings.scheduler is None:
        _announce_time(left, data, settings, num_processes)
    if settings.scheduler is not None and together:
        from pipeline.fit_head.cluster import Cluster  # imports Dask

        with Cluster(_store_request(settings), settings.scheduler) as pool:
            yield from fit_scheduled(together, pool)
    elif num_processes > 1:
        with temporary_folder("features") as folder, data.sharing(folder) as shared:
            _load_features(data, [left[request] for request in together])
            with Processes(_store_request(settings, shared), num_processes) as pool:
                yield from fit_scheduled(together, pool)
    else:
        together = {}
    yield from fit_scheduled(
        {request: each for request, each in steps.items() if request not in together}, ThisProcess(data)
    )


def _announce_time(
    left: Mapping[HeadRequest, PlannedRun], data: CachedData, settings: FitHeadSettings, num_slots: int
) -> None:
    """Log how long the runs will take, unless that is less than an estimate is worth."""
    clips = {recipe: _num_clips(data, recipe) for recipe in {request.recipe for request in left}}
    trained = (clips[request.recipe][0] * request.recipe.training.epochs * count_fits(request) for request in left)
    if sum(trained) < MIN_CLIPS:
        return
    calibration = Calibration(settings.calibration)
    together: dict[str, float] = defaultdict(float)
    alone: dict[str, float] = defaultdict(float)
    for request, planned in left.items():
        run = planned.run
        seconds = seconds_of_fit(run, *clips[request.recipe], _sizes(run.head, data), calibration)
        where = together if _is_single_threaded(planned) and num_slots > 1 else alone
        where[run.head] += count_fits(request) * seconds
    logger.info(estimate_text(together, alone, num_slots))


def _num_clips(data: CachedData, recipe: Recipe) -> tuple[int, int]:
    """Return the numbers of clips that an epoch trains and scores."""
    plan = data.plan(recipe.training)
    return len(data.rows_of(TRAIN, plan).clips), len(data.rows_of(plan.selected_on, plan).clips)


def _store_request(settings: FitHeadSettings, shared: SharedTables | None = None) -> StoreRequest:
    location = settings.store if "://" in settings.store else os.path.abspath(settings.store)
    return StoreRequest(location, settings.out, shared, settings.num_segments, settings.views)


def _load_features(data: CachedData, runs: Sequence[PlannedRun]) -> None:
    for run in (planned.run for planned in runs):
        with suppress(PipelineError):  # the fits report it, each for its head
            data.of(HEADS[run.head].reads, run.recipe)


def _planned(request: HeadRequest, settings: FitHeadSettings, data: CachedData) -> PlannedRun:
    reads = HEADS[request.head].reads
    data.check_maps(reads, request.head)
    store, sizes = data.source.settings, _sizes(request.head, data)
    # An unfinished fit is resumed with its number type and threads, whatever would be measured now.
    begun = unfinished_compute(request.folder(store.backbone))
    precision = begun.get("precision", AUTO) if request.precision == AUTO else request.precision
    # The trials of a search keep all cores busy with one thread each, which also makes them equal on every machine.
    unnamed = None if request.search is None else 1
    threads = begun.get("threads", unnamed) if request.threads is None else request.threads
    calibration = Calibration(settings.calibration)
    compute = choose_compute(request.head, request.device, precision, threads, settings.loaders, sizes, calibration)
    run = HeadRun(request.head, request.recipe, request.seeds, compute, request.search)
    return plan_run(run, data, request.out, settings.force)


def _sizes(head: str, data: CachedData) -> HeadSizes:
    store = data.source.settings
    map_size = store.map_size if HEADS[head].reads == "spatial" else 1
    return HeadSizes(store.channels, data.num_segments, len(data.source.classes), map_size)


def _is_single_threaded(planned: PlannedRun) -> bool:
    return planned.run.compute.threads == 1 and planned.run.compute.device.type == "cpu"
