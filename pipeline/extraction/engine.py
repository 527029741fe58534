"""Runs the blocks of an extraction: in this process, or on Dask."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from pipeline.errors import PipelineError
from pipeline.extraction.blocks import BlockJob
from pipeline.extraction.worker import BlockResult, Worker, WorkerSetup
from pipeline.progress import Progress
from pipeline.store.feature_store import FeatureStore
from pipeline.store.locks import worker_lock
from pipeline.store.places import Phase, no_phase
from pipeline.store.record import DONE, FAILED, ClipRecord


@dataclass
class Tally:
    """What has been done so far, for whoever watches, and the limit on failed clips."""

    progress: Progress
    max_failed: int | None
    num_failed_before: int
    num_frames: int = 0
    num_bytes: int = 0
    failed: list[ClipRecord] = field(default_factory=list)
    started_at_seconds: float = field(default_factory=time.monotonic)

    def add_clip(self, record: ClipRecord) -> None:
        """Count one clip."""
        if record.status == FAILED:
            self.failed.append(record)
        self.progress.advance(1, self.note())

    def add_block(self, result: BlockResult) -> None:
        """Count what a finished block brought.

        Raises:
            PipelineError: more clips have failed than are allowed.
        """
        self.num_frames += result.num_frames
        self.num_bytes += result.num_bytes
        num_failed = self.num_failed_before + len(self.failed)
        if self.max_failed is not None and num_failed > self.max_failed:
            last = self.failed[-1] if self.failed else None
            example = f" The last: '{last.clip_id}', {last.kind}: {last.reason}" if last else ""
            raise PipelineError(
                f"{num_failed} clips have failed, more than --max-failed {self.max_failed} allows.{example} "
                "What is done is kept; mend the clips or raise --max-failed and run again."
            )

    def note(self) -> str:
        """Frames per second, bytes and failures, behind the progress."""
        rate = self.num_frames / max(time.monotonic() - self.started_at_seconds, 1e-9)
        return f"{rate:,.0f} frames/s, {self.num_bytes / 1e6:,.0f} MB, {len(self.failed)} failed"


def run_here(setup: WorkerSetup, jobs: Sequence[BlockJob], tally: Tally, on_phase: Phase = no_phase) -> None:
    """Run the blocks in this process, one after the other."""
    worker = Worker(setup, on_phase)
    for job in jobs:
        with worker_lock(worker.place):
            result = worker.run(job, tally.add_clip)
        tally.add_block(result)


def check_again(setup: WorkerSetup, store: FeatureStore, samples: Sequence[BlockJob]) -> list[str]:
    """Compute finished clips again and compare; the ids of those that now come out otherwise.

    The arrays must be equal bit by bit: everything that may change a bit is in the store's settings.
    """
    worker = Worker(setup)
    return [job.clips[0].clip_id for job in samples if not is_same(worker, store, job)]


def is_same(worker: Worker, store: FeatureStore, job: BlockJob, tolerance: float = 0.0) -> bool:
    """Whether the clip of a job of one clip gives the features that the store has.

    With a `tolerance`, relative to the largest value of the clip, for machines that round otherwise.
    """
    clip = job.clips[0]
    row = job.block * store.block_clips + clip.offset
    found = worker.features(clip)
    if found.record.status != DONE:
        return False
    if store.settings.frames == "all":
        return _close(store.read_frames(row), found.pooled["test"], tolerance)
    for view in clip.views:
        if not np.array_equal(store.read_sampling(view, [row])[0], found.sampling[view]):
            return False
        if "pooled" in store.settings.maps and not _close(
            store.read_pooled(view, [row])[0], found.pooled[view], tolerance
        ):
            return False
        maps = found.spatial[view]
        if maps is not None and not _close(store.read_spatial(view, row), maps, tolerance):
            return False
    return True


def _close(stored: np.ndarray, computed: np.ndarray, tolerance: float) -> bool:
    if stored.shape != computed.shape:
        return False
    if tolerance == 0:
        return bool(np.array_equal(stored, computed))
    scale = float(np.abs(computed).max(initial=0))
    return bool(np.allclose(stored.astype(np.float32), computed.astype(np.float32), rtol=0, atol=tolerance * scale))
