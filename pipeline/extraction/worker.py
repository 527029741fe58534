"""One worker: a block of clips -> its arrays in the store. Every process of an extraction runs this same code."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from pipeline.backbones import build_backbone
from pipeline.backbones.preprocessing import Preprocessing
from pipeline.errors import ClipError, PipelineError
from pipeline.extraction.blocks import KILLED_WORKER, BlockJob, ClipJob
from pipeline.extraction.compute import Compute
from pipeline.extraction.forward import Forward
from pipeline.extraction.provenance import digest_of, state_of
from pipeline.store.feature_store import FeatureStore
from pipeline.store.layout import TEST_VIEW
from pipeline.store.places import Phase, no_phase, place_of
from pipeline.store.record import DONE, FAILED, ClipRecord
from pipeline.store.settings import StoreSettings
from pipeline.store.writer import BlockBuilder, current_record, write_block
from pipeline.video.decode import open_clip
from pipeline.video.views import View, centre_crop, drawn_view, render, test_view


@dataclass(frozen=True)
class WorkerSetup:
    """All that a worker needs besides its blocks; plain data that travels between processes.

    weights_seed: of random weights. swapped_labels: the class index after mirroring, where flips swap sides.
    """

    location: str
    settings: StoreSettings
    classes: tuple[str, ...]
    block_clips: int
    compute: Compute
    weights: str
    weights_seed: int
    allow_squeezenet_weights: bool = False
    swapped_labels: tuple[int, ...] = ()


@dataclass(frozen=True)
class ClipFeatures:
    """The features of one clip in some views (or of all its frames), with what its file is."""

    record: ClipRecord
    pooled: dict[str, np.ndarray] = field(default_factory=dict)
    spatial: dict[str, np.ndarray | None] = field(default_factory=dict)
    sampling: dict[str, np.ndarray] = field(default_factory=dict)


@dataclass(frozen=True)
class BlockResult:
    """What became of a block, for whoever watches. `num_frames` went through the backbone."""

    computed: tuple[ClipRecord, ...]
    num_frames: int
    num_bytes: int


class Worker:
    """Holds the backbone, ready to run; computes blocks one by one."""

    def __init__(self, setup: WorkerSetup, on_phase: Phase = no_phase) -> None:
        # One thread: sums in float32 depend on the number of threads, and a process a core is fastest anyway.
        torch.set_num_threads(1)
        settings = setup.settings
        backbone, weights = build_backbone(
            settings.backbone, setup.weights, setup.weights_seed, setup.allow_squeezenet_weights
        )
        if weights.sha256 != settings.weights["sha256"]:
            raise PipelineError(
                f"The weights '{setup.weights}' of this worker have the sha256 {weights.sha256[:8]}…, the run's have "
                f"{settings.weights['sha256'][:8]}…. Give every machine the same weight file."
            )
        self.setup = setup
        self.settings = settings
        self.on_phase = on_phase
        self.place = place_of(setup.location)
        self._preprocessing = Preprocessing.from_dict(settings.preprocessing)
        self._forward = Forward(backbone, setup.compute)
        self._class_index = {label: index for index, label in enumerate(setup.classes)}

    def run(self, job: BlockJob, on_clip: Callable[[ClipRecord], None] = lambda record: None) -> BlockResult:
        """Compute a block, write it and mark it done.

        Raises:
            PipelineError: the disk is full, or rows that should be kept are damaged.
        """
        before = current_record(self.place, job.block)
        builder = BlockBuilder(self.settings, job.block, self.setup.block_clips, job.views)
        records = {clip.offset: clip for clip in job.kept}
        if before is not None:
            computed = {clip.offset: clip.views for clip in job.clips}
            done = [clip.offset for clip in before.clips if clip.status == DONE]
            for view in job.views:
                # A view that is written anew keeps the rows of the clips that are not computed in it.
                builder.copy_rows(self.place, before, view, [at for at in done if view not in computed.get(at, ())])
        num_frames = 0
        for clip in job.clips:
            features = self.features(clip)
            records[clip.offset] = features.record
            if features.record.status == DONE:
                for view, pooled in features.pooled.items():
                    num_frames += len(pooled)
                    if self.settings.frames == "all":
                        builder.add_frames(clip.offset, pooled)
                    else:
                        builder.add(clip.offset, view, pooled, features.spatial[view], features.sampling[view])
            else:
                builder.drop(clip.offset)
            on_clip(features.record)
        ordered = [records[offset] for offset in sorted(records)]
        record = write_block(self.place, builder, ordered, before, self.on_phase)
        grown = record.num_bytes - (before.num_bytes if before else 0)
        return BlockResult(tuple(records[clip.offset] for clip in job.clips), num_frames, grown)

    def agrees(self, job: BlockJob, tolerance: float = 0.0) -> bool:
        """Whether the clip of a job of one clip comes out as it stands in the store.

        Without a `tolerance` bit by bit: everything that may change a bit is in the store's settings. With one,
        relative to the largest value of the clip, for machines that round otherwise.
        """
        clip = job.clips[0]
        row = job.block * self.setup.block_clips + clip.offset
        store = FeatureStore.open(self.setup.location)
        found = self.features(clip)
        if found.record.status != DONE:
            return False
        if self.settings.frames == "all":
            return _close(store.read_frames(row), found.pooled[TEST_VIEW], tolerance)
        for view in clip.views:
            if not np.array_equal(store.read_sampling(view, [row])[0], found.sampling[view]):
                return False
            stored = store.read_pooled(view, [row])[0] if "pooled" in self.settings.maps else None
            if stored is not None and not _close(stored, found.pooled[view], tolerance):
                return False
            maps = found.spatial[view]
            if maps is not None and not _close(store.read_spatial(view, row), maps, tolerance):
                return False
        return True

    def features(self, clip: ClipJob) -> ClipFeatures:
        """The features of one clip; a clip that cannot be used is recorded with its reason instead."""
        state = state_of(clip.location)
        shape = (0, 0, 0)
        digest = ""
        try:
            digest = digest_of(clip.location)
            self.on_phase("decode", clip.clip_id)
            with open_clip(clip.location) as reader:
                shape = (reader.num_frames, reader.height, reader.width)
                views = self._views(clip, *shape)
                # One decode for all views: every frame that any of them shows, once.
                wanted = sorted({index for view in views for index in view.frame_indices})
                frames = reader.read(wanted)
            known = (clip.offset, clip.clip_id, clip.label, DONE, state.size, digest, state.modified_ns, *shape)
            found = ClipFeatures(ClipRecord(*known))
            self.on_phase("forward", clip.clip_id)
            for view in views:
                self._add_view(found, view, frames, wanted, clip.label)
            return found
        except ClipError as error:
            failed = (clip.offset, clip.clip_id, clip.label, FAILED, state.size, digest, state.modified_ns, *shape)
            return ClipFeatures(ClipRecord(*failed, error.kind, str(error)))

    def _add_view(self, found: ClipFeatures, view: View, frames: np.ndarray, wanted: Sequence[int], label: str) -> None:
        chosen = frames[np.searchsorted(wanted, view.frame_indices)]  # (T, H, W, 3)
        pixels = render(chosen, view.crop, view.flip, self._preprocessing.input_size)
        keep_maps = "spatial" in self.settings.maps
        found.pooled[view.name], found.spatial[view.name] = self._forward(pixels, keep_maps)
        index = self._class_index.get(label, -1)
        if view.flip and index >= 0 and self.setup.swapped_labels:
            index = self.setup.swapped_labels[index]
        box = (view.crop.top, view.crop.left, view.crop.height, view.crop.width)
        numbers = (*view.frame_indices, *box, int(view.flip), index)
        found.sampling[view.name] = np.array(numbers, dtype=np.int32)

    def _views(self, clip: ClipJob, num_frames: int, height: int, width: int) -> list[View]:
        settings, fraction = self.settings, self._preprocessing.crop_fraction
        if settings.frames == "all":
            crop = centre_crop(height, width, fraction)
            return [View(TEST_VIEW, tuple(range(num_frames)), crop, flip=False)]
        views = []
        if TEST_VIEW in clip.views:
            views.append(test_view(num_frames, height, width, settings.num_segments, settings.frame_choices, fraction))
        for draw in (int(view.partition("-")[2]) for view in clip.views if view != TEST_VIEW):
            view = drawn_view(
                draw,
                clip_id=clip.clip_id,
                seed=settings.seed,
                num_frames=num_frames,
                height=height,
                width=width,
                num_segments=settings.num_segments,
                choices=settings.frame_choices,
                crop_fraction=fraction,
            )
            views.append(view)
        return views


def set_aside(setup: WorkerSetup, job: BlockJob, reason: str) -> BlockResult:
    """Record the clips of a block as failed, because no worker could compute it; what it had before is kept."""
    place = place_of(setup.location)
    before = current_record(place, job.block)
    computed = []
    for clip in job.clips:
        state = state_of(clip.location)
        known = (clip.offset, clip.clip_id, clip.label, FAILED, state.size, "", state.modified_ns)
        computed.append(ClipRecord(*known, kind=KILLED_WORKER, reason=reason))
    records = {clip.offset: clip for clip in (*job.kept, *computed)}
    builder = BlockBuilder(setup.settings, job.block, setup.block_clips, () if before else job.views)
    write_block(place, builder, [records[offset] for offset in sorted(records)], before)
    return BlockResult(tuple(computed), 0, 0)


def _close(stored: np.ndarray, computed: np.ndarray, tolerance: float) -> bool:
    if stored.shape != computed.shape:
        return False
    if tolerance == 0:
        return bool(np.array_equal(stored, computed))
    scale = float(np.abs(computed).max(initial=0))
    return bool(np.allclose(stored.astype(np.float32), computed.astype(np.float32), rtol=0, atol=tolerance * scale))
