"""Choose the settings of an extraction, and compare them with those of an existing store."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import torch
from torch import Tensor

from pipeline.backbones import Backbone, WeightsRecord
from pipeline.calibration import Calibration, multiplies_bfloat16_fast
from pipeline.devices import find_device
from pipeline.errors import ClipError, PipelineError
from pipeline.extract import compute as computing
from pipeline.extract.clip_steps import WorkerConfig
from pipeline.extract.compute import RunnerConfig
from pipeline.extract.speeds import BackboneSpeeds
from pipeline.manifest import Manifest
from pipeline.recipe import SamplingConfig
from pipeline.settings.extract import ExtractSettings
from pipeline.store.feature_store import FeatureStore
from pipeline.store.settings import MAP_KINDS, StoreSettings
from pipeline.store.writer import TRAIN_SPLIT
from pipeline.video.decode import open_clip
from pipeline.video.flips import swapped_labels
from pipeline.video.limits import ClipLimits
from pipeline.video.render import render
from pipeline.video.views import TRANSFORM_VERSION, test_view

logger = logging.getLogger(__name__)


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
        if compile_mode == "auto" and computing.can_compile(store.settings.compile_mode, request.device, dtype):
            compile_mode = store.settings.compile_mode
    # An existing store keeps its batch size, whatever views are requested and however much memory is free.
    if backbone.clip_frames > 1:
        _check_video_encoder(backbone, request)
        batch_frames = backbone.clip_frames
    elif store is None:
        batch_frames = computing.choose_batch_frames(request.device, num_segments, 1 + num_draws)
    else:
        batch_frames = store.settings.batch_frames
    speeds = BackboneSpeeds(backbone, request.device, batch_frames, Calibration(request.calibration))
    trial = None
    if dtype == "auto" and compile_mode == "onnxruntime":
        dtype = "float32"
    if dtype == "auto" and multiplies_bfloat16_fast(request.device, request.calibration):
        trial = _frames_for_trial(manifest, backbone, (num_segments or 8) * backbone.frames_per_map)
    dtype, about_dtype = computing.choose_dtype(dtype, request.device, backbone, trial, speeds)
    compile_mode, about_compile = computing.choose_compile_mode(compile_mode, request.device, num_frames, dtype, speeds)
    capability = computing.capability_of(request.device)
    maps = tuple(kind for kind in MAP_KINDS if kind in request.maps)
    settings = StoreSettings(
        backbone=backbone.name,
        weights=weights.as_dict(),
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
        video_encoder=backbone.clip_frames > 1,
        store_dtype=request.store_dtype,
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


def _check_video_encoder(backbone: Backbone, request: ExtractSettings) -> None:
    maps_per_clip = backbone.clip_frames // backbone.frames_per_map
    if request.frames == "all":
        raise PipelineError(f"{backbone.name} reads clips, not single frames: use --frames segments.")
    if request.num_segments % maps_per_clip:
        raise PipelineError(
            f"`num_segments` (={request.num_segments}) must be a multiple of {maps_per_clip}: {backbone.name} computes "
            f"{maps_per_clip} segments from {backbone.clip_frames} frames."
        )


def _map_size(backbone: Backbone, asked: int | None) -> int:
    if asked is not None and asked > backbone.map_size:
        raise PipelineError(
            f"`map_size` (={asked}) must be at most {backbone.map_size}, the size of the maps of {backbone.name}."
        )
    return backbone.map_size if asked is None else asked


def _frames_for_trial(manifest: Manifest, backbone: Backbone, num_frames: int) -> Tensor | None:
    """Return test frames of the first few clips that decode, to try a number type on, or None."""
    found: list[Tensor] = []
    for clip in manifest.clips[:20]:
        try:
            with open_clip(manifest.locate(clip)) as reader:
                fraction, size = backbone.preprocessing.crop_fraction, backbone.preprocessing.input_size
                shape = (reader.num_frames, reader.height, reader.width)
                view = test_view(*shape, num_frames, SamplingConfig(), fraction)
                found.append(render(reader.read(view.frame_indices), view.crop, view.flip, size))
        except ClipError:
            continue
        if len(found) == 2:
            break
    return torch.cat(found) if found else None
