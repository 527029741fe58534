"""Extract a manifest into a store: choose the settings, plan the blocks, run them, summarise."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path

from pipeline.backbones import build_backbone
from pipeline.backbones.timm_name import with_taps
from pipeline.errors import PipelineError
from pipeline.extract import compute as computing
from pipeline.extract.blocks import BlockJob, absent_clips, located, plan_blocks, sample_of_done, views_of
from pipeline.extract.clip_steps import WorkerConfig
from pipeline.extract.engine import Engine, ExtractionProgress, LocalEngine
from pipeline.extract.fatal_suspects import without_fatal_clips
from pipeline.extract.provenance import clip_exists
from pipeline.extract.resolve import resolve_settings
from pipeline.manifest import Manifest
from pipeline.onnx_program import ENGINES
from pipeline.progress import Progress
from pipeline.registry import WEIGHTS_NAMES
from pipeline.settings.extract import ExtractSettings
from pipeline.store.attributes import OldFormatError, has_store
from pipeline.store.clearing import check_location_is_free, remove_store
from pipeline.store.feature_store import FeatureStore
from pipeline.store.locks import writer_lock
from pipeline.store.object_store import ObjectStore, Phase, no_phase, open_object_store, path_from
from pipeline.store.repair import repair_metadata
from pipeline.store.settings import StoreSettings
from pipeline.store.table import ClipRow
from pipeline.store.upgrade import remove_leftovers, upgrade
from pipeline.store.verify import Corruption, find_corruption
from pipeline.store.writer import TRAIN_SPLIT, assign_rows, default_block_clips, delete_record, ensure_views

logger = logging.getLogger(__name__)

NUM_CHECKED_AGAIN = 3
PACKAGES = ("torch", "torchvision", "av", "numpy", "zarr", "numcodecs", "simplejpeg", "pillow")


@dataclass(frozen=True)
class ExtractionSummary:
    """Summary of an extraction and of the resulting store."""

    location: str
    settings: StoreSettings
    num_clips: int
    num_computed: int
    num_checked_again: int
    num_workers: int
    num_frames: int
    num_bytes: int
    seconds: float
    failed: tuple[ClipRow, ...]
    views: tuple[str, ...]


def extract_features(
    manifest: Manifest,
    location: str,
    request: ExtractSettings,
    on_phase: Phase = no_phase,
    damage: Sequence[Corruption] = (),
) -> ExtractionSummary:
    """Extract the features of a manifest's clips into a store; features that it already has are kept.

    damage: corruption that `find_corruption` found in the store; the damaged blocks are computed again.

    Raises:
        PipelineError: settings that differ from the store's, another writer, too many failed clips, a full disk, or
            finished clips that give other features when computed again.
    """
    started_at_seconds = time.monotonic()
    objects = open_object_store(location)
    if "://" not in location:
        location = str(Path(location).absolute())
        objects = open_object_store(location)
    with writer_lock(objects):
        backbone, weights = build_backbone(
            with_taps(request.backbone, request.taps),
            request.weights,
            request.seed,
            request.allow_squeezenet_weights,
            request.input_size,
        )
        store_exists = has_store(objects)
        if not store_exists:
            check_location_is_free(objects)
        objects.remove_parts()
        store = _opened(objects) if store_exists and not request.rebuild else None
        setup = resolve_settings(manifest, location, request, backbone, weights, store)
        if store is not None:
            for sentence in repair_metadata(store, manifest.clips):
                logger.warning(sentence)
            store.forget(item.block for item in damage if item.block >= 0)
        else:
            # Check the whole request before anything is deleted.
            remove_store(objects)
            size = request.block_clips or default_block_clips(len(manifest.clips))
            engine = ENGINES.get(setup.settings.compile_mode)
            packages = (*PACKAGES, *backbone.packages, *(engine.packages if engine else ()))
            provenance = {
                "manifest": path_from(location, manifest.path),
                "root": path_from(location, manifest.root),
                "weights": request.weights if weights.name in WEIGHTS_NAMES else path_from(location, request.weights),
                "weights_note": weights.note,
                # Without the tag of a build such as +cpu, which does not affect the store.
                "versions": {name: version(name).partition("+")[0] for name in packages},
            }
            store = FeatureStore.create(location, setup.settings, manifest.classes, size, provenance)
        setup = replace(setup, block_clips=store.block_clips)
        num_draws = 0 if setup.settings.frames == "all" else request.views
        assign_rows(store, manifest.clips)
        ensure_views(store, _needed_views(manifest, num_draws))
        jobs = plan_blocks(store, manifest, num_draws)
        jobs, samples = _with_samples(store, manifest, jobs, num_draws)
        jobs = without_fatal_clips(store, jobs, setup.limits)
        num_workers = choose_num_workers(request, setup.settings, jobs) if jobs else 0
        progress = _progress_of(store, jobs, request.max_failed)
        progress.check()
        if jobs:
            num_workers = _run(_engine(setup, request, num_workers, on_phase), store, jobs, samples, progress)
            # Remove incomplete files of killed workers; a finished store has none.
            objects.remove_parts()
        for block in store.forgotten - {job.block for job in jobs}:
            delete_record(objects, block)  # the manifest has no clip of it
        store.remember()
        _log_absent(store, manifest)
    return ExtractionSummary(
        location=location,
        settings=setup.settings,
        num_clips=store.num_clips,
        num_computed=sum(job.num_clips for job in jobs),
        num_checked_again=len(samples),
        num_workers=num_workers,
        num_frames=progress.num_frames,
        num_bytes=progress.num_bytes,
        seconds=time.monotonic() - started_at_seconds,
        failed=tuple(clip for clip in store.table() if clip.status == "failed"),
        views=store.views,
    )


def _opened(objects: ObjectStore) -> FeatureStore:
    """Open a store to extend it; upgrade a store of an older format."""
    try:
        store = FeatureStore.open(objects.location, "r+")
    except OldFormatError:
        logger.info(upgrade(objects))
        store = FeatureStore.open(objects.location, "r+")
    remove_leftovers(objects)
    return store


def choose_num_workers(request: ExtractSettings, settings: StoreSettings, jobs: Sequence[BlockJob]) -> int:
    """Return the number of processes to start; by default all that fit, or none if starting them takes longer."""
    if request.scheduler is not None:
        return 0
    if request.workers is not None:
        return request.workers
    num_frames = sum(len(clip.views) for job in jobs for clip in job.clips) * (settings.num_segments or 40)
    if request.device != "cpu" or num_frames < computing.FRAMES_WORTH_COMPILING:
        return 0
    # Importing Dask takes long, and a small extraction does not need it.
    from pipeline.extract.cluster import num_local_workers

    num_workers = min(num_local_workers(), len(jobs))
    return num_workers if num_workers > 1 else 0


def _engine(setup: WorkerConfig, request: ExtractSettings, num_workers: int, on_phase: Phase) -> Engine:
    if request.scheduler is None and num_workers == 0:
        return LocalEngine(setup, on_phase)
    from pipeline.extract.cluster import DaskEngine

    return DaskEngine(setup, num_workers, request.scheduler, on_phase)


def _progress_of(store: FeatureStore, jobs: Sequence[BlockJob], max_failed: int | None) -> ExtractionProgress:
    due = {job.block * store.block_clips + clip.offset for job in jobs for clip in job.clips}
    failed_before = sum(clip.status == "failed" and clip.row not in due for clip in store.table())
    return ExtractionProgress(
        Progress("extract", store.num_clips, done=store.num_clips - len(due)), max_failed, failed_before
    )


def _run(
    engine: Engine,
    store: FeatureStore,
    jobs: Sequence[BlockJob],
    samples: Sequence[BlockJob],
    progress: ExtractionProgress,
) -> int:
    """Check the samples, run the jobs, and return the number of worker processes."""
    try:
        with engine, progress.bar:
            others = engine.differing(samples)
            if others:
                raise PipelineError(
                    f"Clips of the store {store.objects.location} ({', '.join(others)}) give other features when "
                    "computed again: decoder, torch or this package have changed since. Extract into another --store, "
                    "or pass --rebuild."
                )
            engine.run(jobs, progress)
            return engine.num_workers
    except KeyboardInterrupt:
        raise PipelineError(
            f"Stopped at {progress.bar.done:,} of {progress.bar.total:,} clips. Finished blocks are in "
            f"{store.objects.location}; run the same command again to resume."
        ) from None


def _with_samples(
    store: FeatureStore, manifest: Manifest, jobs: list[BlockJob], num_draws: int
) -> tuple[list[BlockJob], list[BlockJob]]:
    """Return the jobs, including damaged blocks, and a few finished clips to compute again before anything is added."""
    if not jobs or not store.records:
        return jobs, []
    known = [located(job, manifest) for job in sample_of_done(store, jobs, NUM_CHECKED_AGAIN)]
    samples = [job for job in known if clip_exists(job.clips[0].location)]
    damaged = {job.block for job in samples if find_corruption(store, [job.block])}
    if damaged:
        store.forget(damaged)
        jobs = plan_blocks(store, manifest, num_draws)
    return jobs, [job for job in samples if job.block not in damaged]


def _log_absent(store: FeatureStore, manifest: Manifest) -> None:
    absent = absent_clips(store, manifest)
    if absent:
        clip = next(clip for clip in manifest.clips if clip.clip_id == absent[0])
        logger.warning(
            f"{len(absent):,} finished clips have no file any more (the first: {manifest.locate(clip)}). Their "
            "features are kept; missing views cannot be added."
        )


def _needed_views(manifest: Manifest, num_draws: int) -> tuple[str, ...]:
    has_train = any(clip.split == TRAIN_SPLIT for clip in manifest.clips)
    return views_of(TRAIN_SPLIT if has_train else "", num_draws)
