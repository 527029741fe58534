"""Decide how many fits run at once, and start the server that forks their processes. This module imports no torch."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from pipeline.fit_head.plan import HeadRequest
from pipeline.processes import num_cores, start_forking_server
from pipeline.registry import CONVOLUTIONAL_HEADS
from pipeline.settings.fit_head import FitHeadSettings

# What every worker process needs; the first optimiser of a process imports the second.
PRELOADED = ("pipeline.fit_head.workers", "torch._dynamo")
# With at least this number of fits per process, an uneven last round costs little.
ROUNDS_THAT_EVEN_OUT = 4


def choose_num_processes(num_fits: int, num_cores: int) -> int:
    """Choose the number of processes that keeps every core busy until the last of `num_fits` equally long fits ends.

    Three fits on two cores run at once and share the cores, which takes 1.5 times as long as one fit; two and then one
    would take 2 times.

    >>> [choose_num_processes(num_fits, 2) for num_fits in (1, 2, 3, 4, 5, 7, 8, 33)]
    [1, 2, 3, 2, 3, 3, 2, 2]
    """
    if num_fits <= num_cores:
        return num_fits
    if num_fits >= ROUNDS_THAT_EVEN_OUT * num_cores:
        return num_cores
    return -(-num_fits // (num_fits // num_cores))


def count_fits(request: HeadRequest) -> int:
    """Count the trials and seeds of a head."""
    num_trials = 0 if request.search is None else request.search.num_trials
    return num_trials + len(request.seeds)


def count_processes(settings: FitHeadSettings, requests: Iterable[HeadRequest]) -> int:
    """Return the number of processes on this machine for the fits of single-threaded heads."""
    num_fits = sum(count_fits(request) for request in requests)
    return min(choose_num_processes(num_fits, num_cores()) if settings.jobs is None else settings.jobs, num_fits)


def start_server_early(settings: FitHeadSettings, requests: Sequence[HeadRequest]) -> None:
    """Start the server of the worker processes if several fits will run at once.

    It imports torch while this process does, instead of after it.
    """
    together = [request for request in requests if _is_single_threaded(request)]
    if settings.scheduler is None and count_processes(settings, together) > 1:
        start_forking_server(PRELOADED)


def _is_single_threaded(request: HeadRequest) -> bool:
    """Return what `fit_all` will probably find; it also asks unfinished fits, and a measurement of the machine."""
    if request.device != "cpu":
        return False
    if request.threads is None:
        return request.search is not None or request.head not in CONVOLUTIONAL_HEADS
    return request.threads == 1
