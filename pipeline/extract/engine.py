"""Runs the blocks of an extraction: in this process, or on Dask (`cluster.py`)."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, field
from functools import cached_property

from pipeline.allocator import keep_memory_between_batches
from pipeline.errors import PipelineError
from pipeline.extract.blocks import BlockJob
from pipeline.extract.clip_steps import WorkerConfig
from pipeline.extract.worker import BlockResult, ComputedClip, Worker
from pipeline.progress import Progress
from pipeline.store.locks import worker_lock
from pipeline.store.object_store import Phase, no_phase
from pipeline.store.record import FAILED, ClipRecord


@dataclass
class ExtractionProgress:
    """Progress of an extraction, and its limit on failed clips."""

    progress: Progress
    max_failed: int | None
    num_failed_before: int
    num_frames: int = 0
    num_bytes: int = 0
    failed: list[ClipRecord] = field(default_factory=list)
    started_at_seconds: float = field(default_factory=time.monotonic)

    def add_clip(self, clip: ComputedClip) -> None:
        """Count one clip."""
        self.num_frames += clip.num_frames
        if clip.record.status == FAILED:
            self.failed.append(clip.record)
        self.progress.advance(1, self.note())

    def add_block(self, result: BlockResult) -> None:
        """Count what a finished block brought.

        Raises:
            PipelineError: more clips have failed than are allowed.
        """
        self.num_bytes += result.num_bytes
        self.check()

    def check(self) -> None:
        """Hold the failed clips, those of earlier runs among them, against what is allowed.

        Raises:
            PipelineError: there are more.
        """
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


class Engine(ABC):
    """Where blocks are computed. Use it as a context manager."""

    num_workers: int

    @abstractmethod
    def differing(self, samples: Sequence[BlockJob]) -> list[str]:
        """Of finished clips (one a job), the ids of those that come out otherwise when computed again."""

    @abstractmethod
    def run(self, jobs: Sequence[BlockJob], tally: ExtractionProgress) -> None:
        """Compute, write and mark these blocks.

        Raises:
            PipelineError: a full disk, too many failed clips, no worker left.
        """

    def __enter__(self) -> Engine:
        return self

    def __exit__(self, *exception: object) -> None:
        return None


class LocalEngine(Engine):
    """One block after the other, here."""

    num_workers = 0

    def __init__(self, setup: WorkerConfig, on_phase: Phase = no_phase) -> None:
        self._setup, self._on_phase = setup, on_phase

    @cached_property
    def _worker(self) -> Worker:
        keep_memory_between_batches()
        return Worker(self._setup, self._on_phase)

    def differing(self, samples: Sequence[BlockJob]) -> list[str]:
        return [job.clips[0].clip_id for job in samples if not self._worker.matches_store(job)]

    def run(self, jobs: Sequence[BlockJob], tally: ExtractionProgress) -> None:
        # Closed here and now, also after an error: threads that decode ahead end with it.
        with worker_lock(self._worker.objects), closing(self._worker.run_all(jobs, tally.add_clip)) as results:
            for result in results:
                tally.add_block(result)
