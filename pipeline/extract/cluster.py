"""Run an extraction on Dask: on local processes, or on a running cluster.

A worker process builds its backbone once and computes one block at a time with one thread. Blocks are sent as plain
data; workers write the features, which are never sent. The number of submitted blocks follows the number of workers, so
a dying worker affects one block: Dask runs it on another worker, and gives up after it has killed several workers.
Several extractions may share a cluster: each uses separate names and removes them at its end.
"""

from __future__ import annotations

import logging
import threading
import time
import uuid
from collections.abc import Iterator, Sequence
from concurrent.futures import CancelledError
from contextlib import ExitStack, suppress
from itertools import chain, islice
from typing import Any, cast

import dask
from dask.system import CPU_COUNT
from distributed import Client, Future, KilledWorker, LocalCluster, WorkerPlugin, get_worker, wait
from distributed.comm.core import CommClosedError
from distributed.system import MEMORY_LIMIT
from distributed.utils import silence_logging_cmgr

from pipeline.allocator import keep_memory_between_batches
from pipeline.cluster_client import SECONDS_TO_CONNECT, ask_scheduler
from pipeline.errors import TRANSIENT_KINDS, PipelineError, transient_kind
from pipeline.extract.blocks import BlockJob
from pipeline.extract.clip_steps import WorkerConfig
from pipeline.extract.engine import Engine, ExtractionProgress
from pipeline.extract.worker import BlockResult, Worker, record_block_failure
from pipeline.processes import allow_many_files, without_interrupts
from pipeline.scratch import temporary_folder
from pipeline.store.locks import worker_lock
from pipeline.store.object_store import Phase, no_phase
from pipeline.video.fatal_clips import find_fatal_clips
from pipeline.video.watchdog import Watchdog

SECONDS_TO_ANSWER = 20
SECONDS_BETWEEN_LOOKS = 5
SECONDS_WITHOUT_WORKERS = 120

# Maximum number of open files of the scheduler's process: measured 38, 50 and 72 with 1, 2 and 4 workers.
OPEN_FILES, OPEN_FILES_PER_WORKER = 30, 12

# Maximum memory of a worker: torch and a prepared backbone (0.5 to 0.6 GB), a block with its views, and a reserve.
WORKER_BYTES = 3 << 29

# Most of a worker's memory is the backbone, which Dask can neither spill nor wait for. Only the hard limit is useful,
# an equal share of the memory of the machine or its container. The profiler, which samples the stack 100 times a
# second, is off because the event loop shares a core with the backbone. For the same reason, periodic callbacks have
# longer intervals: beside two workers they take 2 % of a core, and 6 % at Dask's default intervals.
LOCAL_CONFIG = {
    "distributed.worker.memory.target": False,
    "distributed.worker.memory.spill": False,
    "distributed.worker.memory.pause": False,
    "distributed.worker.memory.terminate": 0.95,
    "distributed.worker.profile.enabled": False,
    "distributed.worker.memory.monitor-interval": "500ms",
    "distributed.admin.tick.interval": "1s",
    "distributed.admin.tick.cycle": "5s",
    "distributed.admin.system-monitor.interval": "5s",
    "distributed.worker.daemon": True,
    "distributed.nanny.pre-spawn-environ": {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"},
    "distributed.scheduler.allowed-failures": 2,
    "distributed.comm.timeouts.connect": "60s",
}


def num_local_workers() -> int:
    """Return the number of processes for this machine or container: one per core, limited by memory and open files."""
    num_by_files = (allow_many_files() - OPEN_FILES) // OPEN_FILES_PER_WORKER
    return max(1, min(CPU_COUNT, MEMORY_LIMIT // WORKER_BYTES, num_by_files))


class ExtractionPlugin(WorkerPlugin):
    """Keep one `Worker` in each Dask worker, including workers that are started later."""

    def __init__(self, name: str, setup: WorkerConfig, on_phase: Phase) -> None:
        self.name = name
        self._setup, self._on_phase = setup, on_phase
        self._worker: Worker | None = None
        self._lock: threading.Lock | None = None

    def setup(self, worker: Any) -> None:
        """Store Dask's worker; the first block builds the backbone, outside the event loop."""
        self._lock = threading.Lock()
        self._worker = None

    def run(self, job: BlockJob) -> BlockResult:
        """Compute a block; one at a time, even if the Dask worker has several threads."""
        if self._lock is None:
            raise RuntimeError("the plugin was not set up by a Dask worker")
        with self._lock:
            worker = self._built()
            with worker_lock(worker.objects):
                return worker.run(job)

    def matches_store(self, job: BlockJob) -> bool:
        """Return whether a finished clip agrees with the features in the store."""
        if self._lock is None:
            raise RuntimeError("the plugin was not set up by a Dask worker")
        with self._lock:
            return self._built().matches_store(job)

    def _built(self) -> Worker:
        if self._worker is None:
            keep_memory_between_batches()
            self._worker = Worker(self._setup, Watchdog(self._setup.limits, self._on_phase).on_phase)
        return self._worker


class DaskEngine(Engine):
    """Run blocks on the workers of a Dask cluster."""

    def __init__(
        self, setup: WorkerConfig, num_workers: int, scheduler: str | None = None, on_phase: Phase = no_phase
    ) -> None:
        self._setup, self._on_phase = setup, on_phase
        self._asked, self._scheduler = num_workers, scheduler
        self._stack = ExitStack()
        self._client: Client | None = None
        self._name = f"extraction-{uuid.uuid4().hex}"
        self._workers_seen_at_seconds = time.monotonic()
        self.num_workers = num_workers
        self._is_silent = False

    def __enter__(self) -> DaskEngine:
        with ExitStack() as stack:
            if self._scheduler is None:
                folder = str(stack.enter_context(temporary_folder("dask")))
                # The scheduler takes its folder from the configuration alone.
                stack.enter_context(dask.config.set({**LOCAL_CONFIG, "temporary-directory": folder}))
                address: Any = stack.enter_context(self._local_cluster(folder))
            else:
                address = self._scheduler
                # Failures are reported as sentences; Dask's log would add tracebacks.
                stack.enter_context(silence_logging_cmgr(logging.CRITICAL))
            try:
                if self._scheduler is not None:
                    ask_scheduler(self._scheduler, SECONDS_TO_CONNECT)
                self._client = Client(address, timeout=SECONDS_TO_CONNECT)
                stack.callback(self._close_client)
            except (OSError, TimeoutError, ValueError) as error:
                raise PipelineError(
                    f"No Dask scheduler answers at {self._scheduler} ({error}). Start one with `dask scheduler`, "
                    "or use --workers N for processes on this machine."
                ) from error
            self._client.register_plugin(ExtractionPlugin(self._name, self._setup, self._on_phase))
            if self._scheduler is not None:
                stack.callback(self._unregister_plugin)
                self._wait_for_a_worker()
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *exception: object) -> None:
        self._stack.close()

    def _local_cluster(self, folder: str) -> LocalCluster:
        """Start worker processes on this machine.

        Raises:
            PipelineError: too few open files are allowed, or another shortage prevents it.
        """
        num_allowed, num_needed = allow_many_files(), OPEN_FILES + self._asked * OPEN_FILES_PER_WORKER
        if num_allowed < num_needed:
            raise PipelineError(
                f"--workers {self._asked} needs about {num_needed} open files, but `ulimit -n` allows {num_allowed}. "
                "Raise it, or lower --workers; --workers 0 starts no processes."
            )
        try:
            with without_interrupts():
                return LocalCluster(
                    n_workers=self._asked, threads_per_worker=1, processes=True, dashboard_address=":0",
                    local_directory=folder, silence_logs=logging.CRITICAL,
                )  # fmt: skip
        except (OSError, RuntimeError, TimeoutError) as error:
            kind = transient_kind(error)
            if not kind:
                raise
            raise PipelineError(
                f"The worker processes could not be started: {TRANSIENT_KINDS[kind]}. Lower --workers, or use "
                "--workers 0, which starts none, and run the same command again."
            ) from error

    def _unregister_plugin(self) -> None:
        """Remove this run's backbone from the workers of a cluster that keeps running."""
        if self.client.status == "running" and not self._is_silent:
            with suppress(OSError):
                self.client.unregister_worker_plugin(self._name)

    def _close_client(self) -> None:
        # A scheduler that does not answer cannot unregister it either.
        with suppress(TimeoutError, OSError):
            self.client.close(timeout=2 if self._is_silent else 2 * SECONDS_TO_CONNECT)

    @property
    def client(self) -> Client:
        """Client of the scheduler, inside the `with` block."""
        if self._client is None:
            raise RuntimeError("DaskEngine is used as a context manager")
        return self._client

    def differing(self, samples: Sequence[BlockJob]) -> list[str]:
        futures = [
            self.client.submit(_agrees, self._name, job, key=f"{self._name}-check-{number}", pure=False)
            for number, job in enumerate(samples)
        ]
        waiting = list(futures)
        while waiting:
            for future in self._finished(waiting):
                waiting.remove(future)
            if waiting:
                self._num_workers_now()
        agree = self.client.gather(futures)
        return [job.clips[0].clip_id for job, same in zip(samples, agree, strict=True) if not same]

    def run(self, jobs: Sequence[BlockJob], progress: ExtractionProgress) -> None:
        waiting = iter(jobs)
        job_of: dict[Future[Any], BlockJob] = {}
        self._workers_seen_at_seconds = time.monotonic()
        try:
            self._fill_workers(waiting, job_of)
            while job_of:
                for future in self._finished(list(job_of)):
                    again = self._count(future, job_of.pop(future), progress)
                    waiting = chain([again] if again else [], waiting)
                self._fill_workers(waiting, job_of)
        except (CancelledError, CommClosedError) as error:
            raise PipelineError(
                "The connection to the Dask cluster is lost. Finished blocks are kept; start the cluster and run the "
                "same command again."
            ) from error
        finally:
            if not self._is_silent:
                self.client.cancel(list(job_of), force=True)

    def _fill_workers(self, waiting: Iterator[BlockJob], job_of: dict[Future[Any], BlockJob]) -> None:
        """Submit blocks until every worker has one, and at least one."""
        num_wanted = max(1, self._num_workers_now()) - len(job_of)
        for job in islice(waiting, max(0, num_wanted)):
            key = f"{self._name}-block-{job.block}-{sum(clip.fault is not None for clip in job.clips)}"
            job_of[self.client.submit(_run_block, self._name, job, key=key, pure=False)] = job

    def _num_workers_now(self) -> int:
        """Count the connected workers; Dask runs the blocks of a lost worker again.

        Raises:
            PipelineError: there was none for too long, or the scheduler does not answer.
        """
        num_workers = len(self._scheduler_identity().get("workers", ()))
        self.num_workers = max(self.num_workers, num_workers)
        now_seconds = time.monotonic()
        if num_workers:
            self._workers_seen_at_seconds = now_seconds
        elif now_seconds - self._workers_seen_at_seconds > SECONDS_WITHOUT_WORKERS:
            raise PipelineError(
                f"No worker has been connected for {SECONDS_WITHOUT_WORKERS} s. Finished blocks are kept; start "
                "workers and run the same command again, or use --workers 0 to see in this process why they end."
            )
        return num_workers

    def _scheduler_identity(self) -> dict[str, Any]:
        """Return the scheduler's description of its workers, or an empty one if the connection is lost."""
        scheduler = self.client.scheduler
        if self.client.status != "running" or scheduler is None:
            return {}
        try:
            answer: dict[str, Any] = self.client.sync(
                scheduler.identity, n_workers=-1, callback_timeout=SECONDS_TO_ANSWER
            )
            return answer
        except TimeoutError as error:
            self._is_silent = True
            raise PipelineError(
                f"The Dask scheduler has not answered for {SECONDS_TO_ANSWER} s. Finished blocks are kept; check the "
                "cluster, and run the same command again."
            ) from error
        except OSError:
            return {}

    @staticmethod
    def _finished(futures: list[Future[Any]]) -> Sequence[Future[Any]]:
        """Return the finished futures; after a timeout, there may be none."""
        try:
            return list(wait(futures, timeout=SECONDS_BETWEEN_LOOKS, return_when="FIRST_COMPLETED").done)
        except TimeoutError:
            return []

    def _count(self, future: Future[Any], job: BlockJob, progress: ExtractionProgress) -> BlockJob | None:
        """Count a finished block; if it killed its workers, return it with the fatal clips marked, to run it again."""
        error = future.exception() if future.status == "error" else None
        if isinstance(error, KilledWorker):
            fatal = find_fatal_clips([clip.location for clip in job.clips if not clip.fault], self._setup.limits)
            if fatal:
                return job.with_faults({location: error.failure("") for location, error in fatal.items()})
            # Write it in this process, because the block kills every worker.
            reason = (
                f"Block {job.block} killed every worker that tried it (out of memory, or a crash in a decoder). "
                "Its clips are recorded as failed; the next extraction tries them again. Fewer --workers have more "
                "memory each."
            )
            result = record_block_failure(self._setup, job, reason)
        else:
            result = future.result()
        for clip in result.clips:
            progress.add_clip(clip)
        progress.add_block(result)
        return None

    def _wait_for_a_worker(self) -> None:
        try:
            self.client.wait_for_workers(1, timeout=SECONDS_WITHOUT_WORKERS)
        except TimeoutError as error:
            raise PipelineError(
                f"The Dask scheduler has no workers after {SECONDS_WITHOUT_WORKERS} s. Start some with `dask worker`."
            ) from error


def _plugin(name: str) -> ExtractionPlugin:
    return cast(ExtractionPlugin, get_worker().plugins[name])


def _run_block(name: str, job: BlockJob) -> BlockResult:
    return _plugin(name).run(job)


def _agrees(name: str, job: BlockJob) -> bool:
    return _plugin(name).matches_store(job)
