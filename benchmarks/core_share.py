"""Measure which share of all cores a `pipeline fit-head` uses, until its last fit starts and over the whole command."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from contextlib import suppress
from typing import NamedTuple

import psutil

from pipeline.processes import num_cores


class CoreShare(NamedTuple):
    """Wall and processor seconds of a command, and its share of all cores. `until_last` ends when the last fit starts.

    `until_last` includes start-up: imports, opening the store, and starting the processes.
    """

    wall_seconds: float
    cpu_seconds: float
    last_start_seconds: float
    until_last: float
    in_all: float


def measure_core_share(arguments: list[str]) -> CoreShare:
    """Run `pipeline fit-head` with arguments and measure its use of the cores.

    Raises:
        subprocess.CalledProcessError: the command failed.
    """
    command = [sys.executable, "-m", "pipeline", "fit-head", *arguments, "--verbose"]
    started_at_seconds = time.monotonic()
    process = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert process.stderr is not None
    marks: list[tuple[float, float]] = [(0.0, 0.0)]  # wall and processor seconds at each line
    last_start = 0
    for line in process.stderr:
        marks.append((time.monotonic() - started_at_seconds, _cpu_seconds(process.pid)))
        if line.rstrip().endswith(": starts"):
            last_start = len(marks) - 1
    if process.wait():
        raise subprocess.CalledProcessError(process.returncode, command)
    wall_seconds = time.monotonic() - started_at_seconds
    last_wall, last_cpu = marks[last_start]
    cpu_seconds = marks[-1][1]
    return CoreShare(
        wall_seconds,
        cpu_seconds,
        last_wall,
        last_cpu / last_wall / num_cores() if last_wall else 0.0,
        cpu_seconds / wall_seconds / num_cores(),
    )


def _cpu_seconds(pid: int) -> float:
    """Return the processor seconds of a process and its children, running and ended."""
    total = 0.0
    with suppress(psutil.NoSuchProcess):
        root = psutil.Process(pid)
        for process in (root, *root.children(recursive=True)):
            times = process.cpu_times()
            total += times.user + times.system + times.children_user + times.children_system
    return total
