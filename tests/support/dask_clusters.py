"""A Dask scheduler and workers in separate processes, on loopback."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

Process = subprocess.Popen[bytes]


def free_port() -> int:
    with socket.socket() as order_test:
        order_test.bind(("127.0.0.1", 0))
        return int(order_test.getsockname()[1])


@contextmanager
def dask_cluster(folder: Path, num_workers: int) -> Iterator[tuple[str, Process, list[Process]]]:
    """Start a scheduler and workers as a user starts them; yield the address, the scheduler, the workers."""
    port = free_port()
    address = f"tcp://127.0.0.1:{port}"
    scheduler = _start("scheduler", "--host", "127.0.0.1", "--port", str(port), "--no-dashboard")
    # Without a nanny: a worker that dies is gone, as with its machine.
    options = ["--nthreads", "1", "--no-nanny", "--no-dashboard", "--memory-limit", "0", "--local-directory", folder]
    workers = [_start("worker", address, *map(str, options)) for _ in range(num_workers)]
    try:
        yield address, scheduler, workers
    finally:
        for process in (*workers, scheduler):
            process.kill()
            process.wait()


def _start(*arguments: str) -> Process:
    started = [sys.executable, "-m", "distributed.cli.dask_" + arguments[0], *arguments[1:]]
    # A separate process group: Ctrl-C at the extraction does not reach it.
    return subprocess.Popen(
        started,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        start_new_session=True,
    )
