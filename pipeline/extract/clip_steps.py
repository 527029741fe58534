"""Steps of one clip: decode and render, run the backbone, collect the features as arrays."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from pipeline.backbones import build_backbone
from pipeline.backbones.preprocessing import Preprocessing, stated_input_size
from pipeline.clip_errors import clip_errors
from pipeline.errors import ClipError, PipelineError
from pipeline.extract.blocks import ClipJob
from pipeline.extract.compute import RunnerConfig
from pipeline.extract.forward import BackboneRunner, Pending
from pipeline.extract.provenance import digest_of, state_of
from pipeline.store.layout import TEST_VIEW, row_dtype
from pipeline.store.object_store import Phase
from pipeline.store.record import DONE, FAILED, ClipRecord
from pipeline.store.settings import StoreSettings, fingerprint_of
from pipeline.supervised import decoding, refuse_fatal_clip
from pipeline.video.clip_views import load_clip_views
from pipeline.video.crops import centre_crop
from pipeline.video.limits import DEFAULT_LIMITS, ClipLimits
from pipeline.video.views import View, ViewConfig
from pipeline.video.watchdog import DECODE, DECODED


@dataclass(frozen=True)
class WorkerConfig:
    """Configuration of a worker, as plain data that can be sent to other processes.

    weights_seed: seed of random weights. swapped_labels: class index after mirroring, if flips swap sides.
    decode_threads: None: chosen by the device and the cores of the worker's machine.
    """

    location: str
    settings: StoreSettings
    classes: tuple[str, ...]
    block_clips: int
    compute: RunnerConfig
    weights: str
    weights_seed: int
    allow_squeezenet_weights: bool = False
    swapped_labels: tuple[int, ...] = ()
    decode_threads: int | None = None
    limits: ClipLimits = DEFAULT_LIMITS

    @property
    def fingerprint(self) -> str:
        """Fingerprint of the store, for its records."""
        return fingerprint_of(self.settings, self.classes)


@dataclass(frozen=True)
class DecodedClip:
    """A clip with the frames of its views, ready for the backbone; a failed clip has no views."""

    record: ClipRecord
    views: tuple[View, ...] = ()
    pixels: tuple[Tensor, ...] = ()


@dataclass(frozen=True)
class PendingClip:
    """A clip that was submitted to the backbone."""

    record: ClipRecord
    views: tuple[View, ...] = ()
    pending: tuple[Pending, ...] = ()


@dataclass(frozen=True)
class ClipFeatures:
    """Features of one clip in some views, or of all its frames, with size and digest of its file."""

    record: ClipRecord
    pooled: dict[str, np.ndarray] = field(default_factory=dict)
    spatial: dict[str, np.ndarray | None] = field(default_factory=dict)
    sampling: dict[str, np.ndarray] = field(default_factory=dict)


class FeatureExtractor:
    """Extract features of clips with a backbone. A clip that fails in any step is recorded with its reason."""

    def __init__(self, setup: WorkerConfig, on_phase: Phase) -> None:
        settings = setup.settings
        backbone, weights = build_backbone(
            settings.backbone,
            setup.weights,
            setup.weights_seed,
            setup.allow_squeezenet_weights,
            stated_input_size(settings.preprocessing),
        )
        if weights.sha256 != settings.weights["sha256"]:
            raise PipelineError(
                f"The weights '{setup.weights}' of this worker have the sha256 {weights.sha256[:8]}…, those of the run "
                f"{settings.weights['sha256'][:8]}…. Give every machine the same weight file."
            )
        self.setup, self.settings = setup, settings
        self._on_phase = on_phase
        self._preprocessing = Preprocessing.from_dict(settings.preprocessing)
        self._forward = BackboneRunner(backbone, setup.compute, settings.map_size)
        self._is_cuda = setup.compute.device.startswith("cuda")
        self._class_index = {label: index for index, label in enumerate(setup.classes)}
        # Batches longer than a view hold all views of a clip.
        self._frames_per_map = backbone.frames_per_map
        self._num_frames = settings.num_segments * self._frames_per_map  # of a view
        self._joins_views = 0 < self._num_frames < settings.batch_frames

    def features(self, clip: ClipJob) -> ClipFeatures:
        """Extract the features of one clip; a clip that cannot be used is recorded with its reason instead."""
        return self.collect(self.submit(self.decode(clip)))

    def decode(self, clip: ClipJob) -> DecodedClip:
        """Decode a clip once and render all views, in pinned memory for a GPU. First step; any thread."""
        state = state_of(clip.location)
        record = ClipRecord(clip.offset, clip.clip_id, clip.label, DONE, state.size, "", state.modified_ns)

        def choose_views(num_frames: int, height: int, width: int) -> list[View]:
            nonlocal record
            record = record._replace(num_frames=num_frames, height=height, width=width)
            return self._views(clip, num_frames, height, width)

        try:
            if clip.fault is not None:
                raise ClipError(clip.fault.kind, clip.fault.reason)
            refuse_fatal_clip(clip.location)
            self._on_phase(DECODE, clip.clip_id)
            try:
                # Reading may block too, for example on a file of another machine.
                with decoding(clip.location, self.setup.limits.as_tuple()):
                    with clip_errors(clip.location):
                        record = record._replace(digest=digest_of(clip.location, self.setup.limits))
                    loaded = load_clip_views(
                        clip.location, choose_views, self._preprocessing.input_size, self.setup.limits
                    )
            finally:
                self._on_phase(DECODED, clip.clip_id)
            pixels = loaded.pixels
            if self._joins_views:
                with clip_errors(clip.location):
                    pixels = (torch.cat(pixels),)
            if self._is_cuda:
                pixels = tuple(of_view.pin_memory() for of_view in pixels)
            return DecodedClip(record, loaded.views, pixels)
        except ClipError as error:
            return DecodedClip(_failed(record, error, clip))

    def submit(self, clip: DecodedClip) -> PendingClip:
        """Submit the frames to the backbone. Second step; always in the same thread."""
        if clip.record.status == DONE:
            self._on_phase("forward", clip.record.clip_id)
        keep_maps = "spatial" in self.settings.maps
        return PendingClip(
            clip.record, clip.views, tuple(self._forward.submit(pixels, keep_maps) for pixels in clip.pixels)
        )

    def collect(self, clip: PendingClip) -> ClipFeatures:
        """Collect the features of each view from the backbone. Third step; any thread."""
        found = ClipFeatures(clip.record)
        try:
            arrays = [pending.result() for pending in clip.pending]
        except ClipError as error:
            return ClipFeatures(_failed(clip.record, error))
        if self._joins_views and clip.views:
            ((pooled, maps),) = arrays
            ends = np.cumsum([len(view.frame_indices) for view in clip.views])[:-1]
            every = np.split(maps, ends) if maps is not None else [None] * len(clip.views)
            arrays = list(zip(np.split(pooled, ends), every, strict=True))
        for view, (pooled, maps) in zip(clip.views, arrays, strict=True):
            found.pooled[view.name], found.spatial[view.name] = pooled, maps
            found.sampling[view.name] = self._sampling(view, clip.record.label)
        return found

    def _sampling(self, view: View, label: str) -> np.ndarray:
        index = self._class_index.get(label, -1)
        if view.flip and index >= 0 and self.setup.swapped_labels:
            index = self.setup.swapped_labels[index]
        box = (view.crop.top, view.crop.left, view.crop.height, view.crop.width)
        frames = view.frame_indices[:: self._frames_per_map]  # the first frame of each segment
        return np.array((*frames, *box, int(view.flip), index), dtype=row_dtype(self.settings, "sampling"))

    def _views(self, clip: ClipJob, num_frames: int, height: int, width: int) -> list[View]:
        settings, fraction = self.settings, self._preprocessing.crop_fraction
        if settings.frames == "all":
            crop = centre_crop(height, width, fraction)
            return [View(TEST_VIEW, tuple(range(num_frames)), crop, flip=False)]
        shape = (num_frames, height, width)
        config = ViewConfig(
            self._num_frames, settings.frame_choices, fraction, self._preprocessing.input_size, settings.seed
        )
        views = [config.test(*shape)] if TEST_VIEW in clip.views else []
        for view in clip.views:
            if view != TEST_VIEW:
                views.append(config.draw(int(view.partition("-")[2]), clip.clip_id, *shape))
        return views


def _failed(record: ClipRecord, error: ClipError, clip: ClipJob | None = None) -> ClipRecord:
    # Use paths as in the manifest, so that the record is equal in every copy of the data set.
    reason = str(error) if clip is None or not clip.path else str(error).replace(clip.location, clip.path)
    return record._replace(status=FAILED, kind=error.kind, reason=reason)
