"""Compute some finished clips again from their files and compare them with the store."""

from __future__ import annotations

from typing import NamedTuple

from pipeline.calibration import multiplies_bfloat16_fast
from pipeline.errors import ClipError
from pipeline.extract.blocks import located, sample_of_done
from pipeline.extract.clip_steps import WorkerConfig
from pipeline.extract.compute import RunnerConfig, can_compile, capability_of, device_like
from pipeline.extract.provenance import clip_exists, digest_of
from pipeline.extract.worker import Worker
from pipeline.manifest import Manifest
from pipeline.store.feature_store import FeatureStore
from pipeline.store.quantise import MAX_CODE
from pipeline.store.settings import StoreSettings
from pipeline.video.flips import swapped_labels

# Tolerance relative to a clip's largest value, on a machine with other rounding: the error of bfloat16, or a few units
# of float16.
TOLERANCES = {"bfloat16": 0.05, "float32": 0.002}


class Recheck(NamedTuple):
    """Ids of checked clips by result.

    tolerance: 0 on a machine like that of the extraction, else the tolerance of the number type.
    """

    agreeing: tuple[str, ...]
    differing: tuple[str, ...]
    changed: tuple[str, ...]
    absent: tuple[str, ...]
    tolerance: float


def recheck(store: FeatureStore, manifest: Manifest, *, weights: str, num_clips: int) -> Recheck:
    """Compute a sample of the finished clips with unchanged files again.

    Raises:
        PipelineError: the weights are not those of the store.
    """
    settings = store.settings
    compute = compute_like(settings)
    as_stored = (settings.capability, settings.compile_mode, settings.compute_dtype)
    is_same = (compute.capability, compute.compile_mode, compute.dtype) == as_stored
    tolerance = 0.0 if is_same else TOLERANCES[settings.compute_dtype]
    if not is_same and settings.store_dtype == "int8":
        tolerance += 2 / MAX_CODE  # other rounding can change a code by one
    known = {clip.clip_id for clip in manifest.clips}
    samples = (job for job in sample_of_done(store, (), num_clips) if job.clips[0].clip_id in known)
    digests = {clip.clip_id: clip.digest for clip in store.table()}
    ids: dict[str, list[str]] = {"agreeing": [], "differing": [], "changed": [], "absent": []}
    worker: Worker | None = None
    for job in (located(sample, manifest) for sample in samples):
        clip = job.clips[0]
        if not clip_exists(clip.location):
            ids["absent"].append(clip.clip_id)
        elif _digest(clip.location) != digests[clip.clip_id]:
            ids["changed"].append(clip.clip_id)
        else:
            worker = worker or worker_like(store, weights)
            ids["agreeing" if worker.matches_store(job, tolerance) else "differing"].append(clip.clip_id)
    return Recheck(**{name: tuple(found) for name, found in ids.items()}, tolerance=tolerance)


def _digest(location: str) -> str:
    try:
        return digest_of(location)
    except ClipError:
        return "unreadable"


def compute_like(settings: StoreSettings) -> RunnerConfig:
    """Return the configuration with which a store was computed, as far as this machine supports it."""
    device = device_like(settings.capability)
    dtype = settings.compute_dtype if multiplies_bfloat16_fast(device) else "float32"
    mode = settings.compile_mode if can_compile(settings.compile_mode, device, dtype) else "jit"
    return RunnerConfig(dtype, mode, capability_of(device), settings.batch_frames, device)


def worker_like(store: FeatureStore, weights: str) -> Worker:
    """Create a worker that computes clips as the store was computed, as far as this machine supports it.

    Raises:
        PipelineError: the weights are not those of the store.
    """
    settings = store.settings
    swaps = settings.frame_choices.flip == "swap"
    return Worker(
        WorkerConfig(
            location=store.objects.location,
            settings=settings,
            classes=store.classes,
            block_clips=store.block_clips,
            compute=compute_like(settings),
            weights=weights,
            weights_seed=settings.seed,
            # The SHA-256 in the store identifies the weights, so the exception granted at extraction applies again.
            allow_squeezenet_weights=True,
            swapped_labels=tuple(swapped_labels(store.classes)) if swaps else (),
        )
    )
