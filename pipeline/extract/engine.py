"""Run the blocks of an extraction in this process; `cluster.py` runs them on Dask."""

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

    bar: Progress
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
        self.bar.advance(1, self.note())

    def add_block(self, result: BlockResult) -> None:
        """Count the results of a finished block.

        Raises:
            PipelineError: more clips have failed than are allowed.
        """
        self.num_bytes += result.num_bytes
        self.check()

    def check(self) -> None:
        """Check the number of failed clips, including those of earlier runs, against --max-failed.

        Raises:
            PipelineError: more clips have failed than are allowed.
        """
        num_failed = self.num_failed_before + len(self.failed)
        if self.max_failed is not None and num_failed > self.max_failed:
            last = self.failed[-1] if self.failed else None
            example = f" The last: '{last.clip_id}', {last.kind}: {last.reason}" if last else ""
            raise PipelineError(
                f"{num_failed} clips have failed, more than --max-failed {self.max_failed} allows.{example} "
                "Finished blocks are kept; repair the clips or raise --max-failed and run again."
            )

    def note(self) -> str:
        """Return frames per second, bytes and failures as a note for the progress bar."""
        rate = self.num_frames / max(time.monotonic() - self.started_at_seconds, 1e-9)
        return f"{rate:,.0f} frames/s, {self.num_bytes / 1e6:,.0f} MB, {len(self.failed)} failed"


class Engine(ABC):
    """Interface that computes blocks, used as a context manager."""

    num_workers: int

    @abstractmethod
    def differing(self, samples: Sequence[BlockJob]) -> list[str]:
        """Compute finished clips again, one per job, and return the ids of those that differ from the store."""

    @abstractmethod
    def run(self, jobs: Sequence[BlockJob], progress: ExtractionProgress) -> None:
        """Compute these blocks and write them with their records.

        Raises:
            PipelineError: a full disk, too many failed clips, no worker left.
        """

    def __enter__(self) -> Engine:
        return self

    def __exit__(self, *exception: object) -> None:
        return None


class LocalEngine(Engine):
    """Run one block after another in this process."""

    num_workers = 0

    def __init__(self, setup: WorkerConfig, on_phase: Phase = no_phase) -> None:
        self._setup = setup
        self._on_phase = on_phase

    @cached_property
    def _worker(self) -> Worker:
        keep_memory_between_batches()
        return Worker(self._setup, self._on_phase)

    def differing(self, samples: Sequence[BlockJob]) -> list[str]:
        return [job.clips[0].clip_id for job in samples if not self._worker.matches_store(job)]

    def run(self, jobs: Sequence[BlockJob], progress: ExtractionProgress) -> None:
        # Close the generator immediately, also after an error, to end the threads that decode ahead.
        with worker_lock(self._worker.objects), closing(self._worker.run_all(jobs, progress.add_clip)) as results:
            for result in results:
                progress.add_block(result)
