"""Measure the costs of heads in another process, which imports torch while this one reads the results.

Every `compare` measures again, because times that were measured at different loads of a machine must not be compared.
While the heads are measured, this process waits.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from pipeline.errors import PipelineError
from pipeline.processes import start_forking_server
from pipeline.relay import RelayedPool, RelayedProgress

if TYPE_CHECKING:
    from pipeline.evaluation.result_reader import RunResult

PRELOADED = ("pipeline.compare.measure",)  # imports torch


@dataclass(frozen=True)
class HeadCost:
    """Cost of a head, measured on the CPU with one thread, fp32, one clip at a time.

    `latency_ms` is the median of the runs; `memory_bytes` is the size of the parameters, including the projection, and
    the peak memory of one clip without its features.
    """

    latency_ms: float
    memory_bytes: int


class MeasuredRun(NamedTuple):
    """What the cost of a run's head depends on. `name` is that of the run."""

    name: str
    head: str
    backbone: str
    num_segments: int
    num_classes: int
    metrics: Mapping[str, Any]
    model_path: Path


def start_server_early() -> None:
    """Start the server that forks the measuring process; it imports torch in the background."""
    start_forking_server(PRELOADED)


def measure_in_process(runs: Sequence[RunResult]) -> tuple[dict[str, HeadCost], str]:
    """Return the cost of each run's head by the run's name, and a description of the machine.

    Raises:
        PipelineError: a head does not support the sizes of its run, or the process was killed.
    """
    measured = [
        MeasuredRun(
            run.name, run.head, run.backbone, run.num_segments, len(run.predictions.classes), run.metrics,
            run.model_path,
        )
        for run in runs
    ]  # fmt: skip
    try:
        with RelayedPool(1, PRELOADED) as pool:
            return pool.submit(_measure_here, measured).result()
    except BrokenProcessPool as error:
        raise PipelineError(
            "The process that measured the heads was killed, perhaps for lack of memory. Run the command again, "
            "or with --no-latency."
        ) from error


def _measure_here(runs: Sequence[MeasuredRun]) -> tuple[dict[str, HeadCost], str]:
    from pipeline.compare.measure import machine_text, measure_runs

    return measure_runs(runs, RelayedProgress), machine_text()
