"""Extract a manifest into a store: choose the settings, plan the blocks, run them, summarise."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path

import torch
from torch import Tensor

from pipeline.backbones import Backbone, WeightsRecord, build_backbone
from pipeline.calibration import Calibration, multiplies_bfloat16_fast
from pipeline.devices import find_device, has_compiler
from pipeline.errors import ClipError, PipelineError
from pipeline.extract import compute as computing
from pipeline.extract.blocks import BlockJob, absent_clips, located, plan_blocks, sample_of_done, views_of
from pipeline.extract.clip_steps import WorkerConfig
from pipeline.extract.compute import RunnerConfig
from pipeline.extract.engine import Engine, ExtractionProgress, LocalEngine
from pipeline.extract.provenance import clip_exists
from pipeline.extract.speeds import BackboneSpeeds
from pipeline.manifest import Manifest
from pipeline.progress import Progress
from pipeline.recipe import SamplingConfig
from pipeline.registry import WEIGHTS_NAMES
from pipeline.settings.extract import ExtractSettings
from pipeline.store.attributes import OldFormatError, has_store
from pipeline.store.clearing import check_location_is_free, remove_store
from pipeline.store.feature_store import FeatureStore
from pipeline.store.locks import writer_lock
from pipeline.store.object_store import ObjectStore, Phase, no_phase, open_object_store, path_from
from pipeline.store.repair import repair_metadata
from pipeline.store.settings import MAP_KINDS, StoreSettings
from pipeline.store.table import ClipRow
from pipeline.store.upgrade import remove_leftovers, upgrade
from pipeline.store.verify import Corruption, find_corruption
from pipeline.store.writer import TRAIN_SPLIT, assign_rows, default_block_clips, delete_record, ensure_views
from pipeline.video.decode import open_clip
from pipeline.video.flips import swapped_labels
from pipeline.video.limits import ClipLimits
from pipeline.video.render import render
from pipeline.video.views import TRANSFORM_VERSION, test_view

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
            request.backbone, request.weights, request.seed, request.allow_squeezenet_weights
        )
        clip_exists = has_store(objects)
        if not clip_exists:
            check_location_is_free(objects)
        objects.remove_parts()
        store = _opened(objects) if clip_exists and not request.rebuild else None
        setup = resolve_settings(manifest, location, request, backbone, weights, store)
        if store is not None:
            for sentence in repair_metadata(store, manifest.clips):
                logger.warning(sentence)
            store.forget(item.block for item in damage if item.block >= 0)
        else:
            # Check the whole request before anything is deleted.
            remove_store(objects)
            size = request.block_clips or default_block_clips(len(manifest.clips))
            provenance = {
                "manifest": path_from(location, manifest.path),
                "root": path_from(location, manifest.root),
                "weights": request.weights if weights.name in WEIGHTS_NAMES else path_from(location, request.weights),
                "weights_note": weights.note,
                # Without the tag of a build such as +cpu, which does not affect the store.
                "versions": {name: version(name).partition("+")[0] for name in PACKAGES},
            }
            store = FeatureStore.create(location, setup.settings, manifest.classes, size, provenance)
        setup = replace(setup, block_clips=store.block_clips)
        num_draws = 0 if setup.settings.frames == "all" else request.views
        assign_rows(store, manifest.clips)
        ensure_views(store, _needed_views(manifest, num_draws))
        jobs = plan_blocks(store, manifest, num_draws)
        jobs, samples = _with_samples(store, manifest, jobs, num_draws)
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


def resolve_settings(
    manifest: Manifest,
    location: str,
    request: ExtractSettings,
    backbone: Backbone,
    weights: WeightsRecord,
    store: FeatureStore | None,
) -> WorkerConfig:
    """Choose the settings of all workers, and log choices that are not obvious.

    Raises:
        PipelineError: the store exists and has other settings.
    """
    is_all = request.frames == "all"
    num_segments = 0 if is_all else request.num_segments
    num_draws = 0 if is_all else request.views
    num_train = sum(clip.split == TRAIN_SPLIT for clip in manifest.clips)
    num_frames = (len(manifest.clips) + num_train * num_draws) * (num_segments or 40)
    find_device(request.device)
    dtype, compile_mode = request.dtype, request.compile
    if store is not None:
        dtype = store.settings.compute_dtype if dtype == "auto" else dtype
        if compile_mode == "auto" and (store.settings.compile_mode != "inductor" or has_compiler()):
            compile_mode = store.settings.compile_mode
    # An existing store keeps its batch size, whatever views are requested and however much memory is free.
    if store is None:
        batch_frames = computing.choose_batch_frames(request.device, num_segments, 1 + num_draws)
    else:
        batch_frames = store.settings.batch_frames
    speeds = BackboneSpeeds(backbone, request.device, batch_frames, Calibration(request.calibration))
    trial = None
    if dtype == "auto" and multiplies_bfloat16_fast(request.device):
        trial = _frames_for_trial(manifest, backbone, num_segments or 8)
    dtype, about_dtype = computing.choose_dtype(dtype, request.device, backbone, trial, speeds)
    compile_mode, about_compile = computing.choose_compile_mode(compile_mode, request.device, num_frames, dtype, speeds)
    capability = computing.capability_of(request.device)
    maps = tuple(kind for kind in MAP_KINDS if kind in request.maps)
    settings = StoreSettings(
        backbone=backbone.name,
        weights={"name": weights.name, "sha256": weights.sha256},
        compute_dtype=dtype,
        capability=capability,
        compile_mode=compile_mode,
        batch_frames=batch_frames,
        transform_version=TRANSFORM_VERSION,
        frame_choices=request.frame_choices,
        num_segments=num_segments,
        seed=request.seed,
        maps=("pooled",) if is_all else maps,
        channels=backbone.channels,
        map_size=_map_size(backbone, request.map_size),
        preprocessing=backbone.preprocessing.as_dict(),
        frames="all" if is_all else "segments",
    )
    if store is not None:
        check_settings_match(store, settings, manifest.classes)
        settings = store.settings
    swaps = settings.frame_choices.flip == "swap"
    setup = WorkerConfig(
        location=location,
        settings=settings,
        classes=manifest.classes,
        block_clips=0,
        compute=RunnerConfig(dtype, compile_mode, capability, batch_frames, request.device),
        weights=request.weights,
        weights_seed=request.seed,
        allow_squeezenet_weights=request.allow_squeezenet_weights,
        swapped_labels=tuple(swapped_labels(manifest.classes)) if swaps else (),
        decode_threads=request.decode_threads,
        limits=ClipLimits.of(request),
    )
    about_weights = f"Weights '{weights.name}': {weights.note}." if weights.note else ""
    for sentence in filter(None, (about_weights, about_dtype, about_compile)):
        logger.info(sentence)
    return setup


def _map_size(backbone: Backbone, asked: int | None) -> int:
    if asked is not None and asked > backbone.map_size:
        raise PipelineError(
            f"`map_size` (={asked}) must be at most {backbone.map_size}, the size of the maps of {backbone.name}."
        )
    return backbone.map_size if asked is None else asked


def check_settings_match(store: FeatureStore, settings: StoreSettings, classes: Sequence[str]) -> None:
    """Check that the settings equal those of an existing store; the message names each difference.

    Raises:
        PipelineError: a setting or the order of classes differs.
    """
    wrong = store.settings.differences(settings)
    made = [store.settings.described(name) for name in wrong]
    asked = [settings.described(name) for name in wrong]
    if store.classes != tuple(classes):
        made.append(f"classes={','.join(store.classes)}")
        asked.append(f"classes={','.join(classes)}")
    lacking = [kind for kind in settings.maps if kind not in store.settings.maps]
    if lacking:
        made.append(f"maps={','.join(store.settings.maps)}")
        asked.append(f"maps={','.join(settings.maps)}")
    if made:
        raise PipelineError(
            f"The store {store.objects.location} was made with {', '.join(made)}, but the request has "
            f"{', '.join(asked)}. Extract into another --store, or pass --rebuild."
        )


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
                    "computed again: decoder, torch or transform have changed since. Extract into another --store, or "
                    "pass --rebuild."
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


def _frames_for_trial(manifest: Manifest, backbone: Backbone, num_segments: int) -> Tensor | None:
    """Return test frames of the first few clips that decode, to try a number type on, or None."""
    found: list[Tensor] = []
    for clip in manifest.clips[:20]:
        try:
            with open_clip(manifest.locate(clip)) as reader:
                fraction, size = backbone.preprocessing.crop_fraction, backbone.preprocessing.input_size
                shape = (reader.num_frames, reader.height, reader.width)
                view = test_view(*shape, num_segments, SamplingConfig(), fraction)
                found.append(render(reader.read(view.frame_indices), view.crop, view.flip, size))
        except ClipError:
            continue
        if len(found) == 2:
            break
    return torch.cat(found) if found else None
