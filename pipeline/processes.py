"""End worker processes with their parent, also if the parent is killed."""

from __future__ import annotations

import ctypes
import gc
import multiprocessing
import os
import resource
import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from multiprocessing.context import BaseContext
from typing import Any

_PR_SET_PDEATHSIG = 1  # of prctl(2)
PARENT_OF_SERVER = "ST_PIPELINE_PARENT_OF_SERVER"


def num_cores() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def end_with_parent() -> None:
    """End this worker process when its parent ends. It, or `start_worker`, is the initializer of every process pool.

    A killed parent does not close its queues, so its workers would wait for work forever.
    """
    threading.Thread(target=_wait_for_end_of_parent, name="end-with-parent", daemon=True).start()


def start_worker(initializer: str, *arguments: Any) -> None:
    """Watch the parent, then import and call `module:function`.

    The initializer is a text, because a new process imports the module of a function before it calls the function. A
    module that imports torch takes seconds, in which nothing would watch the parent. Modules that the server has
    imported stay until the end, so the collector need not visit their objects again and again.
    """
    end_with_parent()
    gc.freeze()
    gc.enable()  # it is off in the server
    module, _, name = initializer.partition(":")
    getattr(import_module(module), name)(*arguments)


def _wait_for_end_of_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def forking_context(preloaded: Sequence[str]) -> BaseContext:
    """Return a context that forks from a server which has imported some modules and started no thread.

    The server watches this process while it imports; spawn if there is no such server.
    """
    if not _can_fork_from_server():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    os.environ[PARENT_OF_SERVER] = str(os.getpid())
    context.set_forkserver_preload(["pipeline.watched_server", *preloaded])
    return context


def start_forking_server(preloaded: Sequence[str]) -> None:
    """Start the server of `forking_context` with the same modules, which it imports while this process goes on."""
    if _can_fork_from_server():
        from multiprocessing import forkserver

        forking_context(preloaded)
        with without_interrupts():
            forkserver.ensure_running()


def _can_fork_from_server() -> bool:
    return "forkserver" in multiprocessing.get_all_start_methods()


@contextmanager
def without_interrupts() -> Iterator[None]:
    """Start worker processes that Ctrl-C does not reach; this process handles an interrupt after the block.

    A terminal sends Ctrl-C to all processes of a command. In a worker that is still importing, it would print a
    traceback; a worker that is half started would, too.
    """
    from multiprocessing import resource_tracker  # only where processes start: every command imports this module

    resource_tracker.ensure_running()  # its start would unblock the signal
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        with _later_interrupts():
            yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


@contextmanager
def _later_interrupts() -> Iterator[None]:
    """Handle interrupts after the block: other threads do not block the signal, and the main thread runs its handler.

    Only the main thread may change the handler.
    """
    handler = signal.getsignal(signal.SIGINT)
    if not callable(handler) or threading.current_thread() is not threading.main_thread():
        yield
        return
    arrived: list[int] = []
    signal.signal(signal.SIGINT, lambda number, frame: arrived.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)
        if arrived:
            signal.raise_signal(signal.SIGINT)  # blocked until the mask is restored


def allow_many_files() -> int:
    """Raise the limit on open files as far as this process may, and return it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return sys.maxsize if hard == resource.RLIM_INFINITY else hard


def die_with_parent(parent: int) -> None:
    """Let the kernel kill this process when its parent, a process id, ends; where it cannot, let a thread do so."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # it ended before
            os._exit(1)
    else:
        threading.Thread(target=_wait_for_other_parent, args=(parent,), name="die-with-parent", daemon=True).start()


def _wait_for_other_parent(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(1.0)
    os._exit(1)
