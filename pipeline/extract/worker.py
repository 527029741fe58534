"""Worker that computes blocks of clips and writes their arrays to the store. All processes run the same code.

A clip takes three steps: decode and render, run the backbone, compress into the block. With threads (for a GPU),
decoding runs ahead of the backbone and compression behind it, a block is written while the next one is computed, and
the calling thread only starts the backbone. Without threads, the steps follow each other.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import NamedTuple

import numpy as np
import torch

from pipeline.extract.blocks import KILLED_WORKER, BlockJob, ClipJob
from pipeline.extract.clip_steps import ClipFeatures, DecodedClip, FeatureExtractor, PendingClip, WorkerConfig
from pipeline.extract.compute import choose_decode_threads
from pipeline.extract.provenance import state_of
from pipeline.prefetch import open_executor, prefetch
from pipeline.store.feature_store import FeatureStore
from pipeline.store.layout import TEST_VIEW
from pipeline.store.object_store import Phase, no_phase, open_object_store
from pipeline.store.quantise import as_stored
from pipeline.store.record import DONE, FAILED, BlockRecord, ClipRecord, current_record
from pipeline.store.writer import BlockBuilder, write_block


class ComputedClip(NamedTuple):
    """Result of one clip. `num_frames` is the number of frames that the backbone computed."""

    record: ClipRecord
    num_frames: int


@dataclass(frozen=True)
class ComputedBlock:
    """A computed block, ready to be written. `before` is its existing record."""

    job: BlockJob
    builder: BlockBuilder
    clips: tuple[ComputedClip, ...]
    before: BlockRecord | None


@dataclass(frozen=True)
class BlockResult:
    """Results of one block. `num_bytes` is the growth of the store."""

    clips: tuple[ComputedClip, ...]
    num_bytes: int


class Worker:
    """Compute blocks with one backbone."""

    def __init__(self, setup: WorkerConfig, on_phase: Phase = no_phase) -> None:
        # One thread, because float32 sums depend on the number of threads, and one process per core is fastest.
        torch.set_num_threads(1)
        self.setup, self.settings = setup, setup.settings
        self.on_phase = on_phase
        self.objects = open_object_store(setup.location)
        self._steps = FeatureExtractor(setup, on_phase)
        self._num_threads = choose_decode_threads(setup.decode_threads, setup.compute.device)
        # Maximum number of clips that wait for the backbone, and of clips that wait for compression: one per thread,
        # and two.
        self._num_ahead = self._num_threads + 2 if self._num_threads else 1

    def features(self, clip: ClipJob) -> ClipFeatures:
        """Extract the features of one clip; a clip that cannot be used is recorded with its reason instead."""
        return self._steps.features(clip)

    def run(self, job: BlockJob) -> BlockResult:
        """Compute a block, write it and its record.

        Raises:
            PipelineError: the disk is full, or rows to keep are damaged.
        """
        (result,) = self.run_all([job])
        return result

    def run_all(
        self, jobs: Sequence[BlockJob], on_clip: Callable[[ComputedClip], None] = lambda clip: None
    ) -> Generator[BlockResult]:
        """Compute blocks, write them and their records in order; call `on_clip` for each clip, in this thread.

        Raises:
            PipelineError: the disk is full, or rows to keep are damaged.
        """
        clips = (clip for job in jobs for clip in job.clips)
        with open_executor(self._num_threads, "extraction") as executor:
            rendered = prefetch(executor, self._steps.decode, clips, self._num_ahead)
            blocks = (self._compute_block(job, rendered, executor, on_clip) for job in jobs)
            yield from prefetch(executor, self._write_block, blocks, min(self._num_ahead, 2))

    def _compute_block(
        self,
        job: BlockJob,
        rendered: Iterator[DecodedClip],
        executor: Executor,
        on_clip: Callable[[ComputedClip], None],
    ) -> ComputedBlock:
        before = None if job.ignores_record else current_record(self.objects, job.block, self.setup.fingerprint)
        builder = BlockBuilder(self.settings, job.block, self.setup.block_clips, job.views, self.setup.fingerprint)
        if before is not None:
            computed = {clip.offset: clip.views for clip in job.clips}
            done = [clip.offset for clip in before.clips if clip.status == DONE]
            for view in job.views:
                # A rewritten view keeps the rows of clips that are not computed again.
                builder.copy_rows(self.objects, before, view, [at for at in done if view not in computed.get(at, ())])
        clips = []
        begun = map(self._steps.submit, islice(rendered, job.num_clips))
        for clip in prefetch(executor, partial(self._add_clip, builder), begun, self._num_ahead):
            clips.append(clip)
            on_clip(clip)
        return ComputedBlock(job, builder, tuple(clips), before)

    def _add_clip(self, builder: BlockBuilder, clip: PendingClip) -> ComputedClip:
        """Compress the features of a clip into its block."""
        features = self._steps.collect(clip)
        at = features.record.offset
        if features.record.status != DONE:
            builder.drop(at)
            return ComputedClip(features.record, 0)
        for view, pooled in features.pooled.items():
            if self.settings.frames == "all":
                builder.add_frames(at, pooled)
            else:
                builder.add(at, view, pooled, features.spatial[view], features.sampling[view])
        return ComputedClip(features.record, sum(len(pooled) for pooled in features.pooled.values()))

    def _write_block(self, block: ComputedBlock) -> BlockResult:
        clips = sorted((*block.job.kept, *(clip.record for clip in block.clips)))
        record = write_block(self.objects, block.builder, clips, block.before, self.on_phase)
        grown = record.num_bytes - (block.before.num_bytes if block.before else 0)
        return BlockResult(block.clips, grown)

    def matches_store(self, job: BlockJob, tolerance: float = 0.0) -> bool:
        """Return whether the clip of a job of one clip agrees with the features in the store.

        tolerance: 0 compares bit by bit, because the store's settings include everything that affects a bit; a larger
            value is relative to the largest value of the clip, for machines with other rounding.
        """
        clip = job.clips[0]
        row = job.block * self.setup.block_clips + clip.offset
        store = FeatureStore.open(self.setup.location, "r+")
        found = self.features(clip)
        if found.record.status != DONE:
            return False
        if self.settings.frames == "all":
            return _close(store.read_frames(row), found.pooled[TEST_VIEW], tolerance)
        for view in clip.views:
            if not np.array_equal(store.read_sampling(view, [row])[0], found.sampling[view]):
                return False
            stored = store.read_pooled(view, [row])[0] if "pooled" in self.settings.maps else None
            dtype = self.settings.store_dtype
            if stored is not None and not _close(stored, as_stored(found.pooled[view], dtype), tolerance):
                return False
            maps = found.spatial[view]
            if maps is not None and not _close(store.read_spatial(view, row), as_stored(maps, dtype), tolerance):
                return False
        return True


def record_block_failure(setup: WorkerConfig, job: BlockJob, reason: str) -> BlockResult:
    """Record the clips of a block as failed, because no worker could compute it; finished clips are kept."""
    objects = open_object_store(setup.location)
    before = None if job.ignores_record else current_record(objects, job.block, setup.fingerprint)
    computed = []
    for clip in job.clips:
        state = state_of(clip.location)
        known = (clip.offset, clip.clip_id, clip.label, FAILED, state.size, "", state.modified_ns)
        computed.append(ClipRecord(*known, kind=KILLED_WORKER, reason=reason))
    records = {clip.offset: clip for clip in (*job.kept, *computed)}
    views = () if before else job.views
    builder = BlockBuilder(setup.settings, job.block, setup.block_clips, views, setup.fingerprint)
    write_block(objects, builder, [records[offset] for offset in sorted(records)], before)
    return BlockResult(tuple(ComputedClip(clip, 0) for clip in computed), 0)


def _close(stored: np.ndarray, computed: np.ndarray, tolerance: float) -> bool:
    if stored.shape != computed.shape:
        return False
    if tolerance == 0:
        return bool(np.array_equal(stored, computed))
    scale = float(np.abs(computed).max(initial=0))
    return bool(np.allclose(stored.astype(np.float32), computed.astype(np.float32), rtol=0, atol=tolerance * scale))
