"""Messages and progress: plain lines in a pipe, bars on a terminal, nothing that `--quiet` turns off."""

from __future__ import annotations

import io
import logging
import os
import struct
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from logging.handlers import QueueHandler
from pathlib import Path
from typing import Any

import pytest

from pipeline import log, relay
from pipeline.progress import Progress, tracked
from pipeline.relay import RelayedPool, RelayedProgress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def restored_loggers() -> Iterator[None]:
    loggers = [logging.getLogger(name) for name in log.PACKAGES]
    before = [(logger.handlers, logger.level) for logger in loggers]
    log.console.cache_clear()
    yield
    log.console.cache_clear()
    for logger, (handlers, level) in zip(loggers, before, strict=True):
        logger.handlers, logger.level = handlers, level


def test_a_pipe_gets_plain_lines(capsys: pytest.CaptureFixture[str]) -> None:
    log.configure()
    with Progress("extract", 4) as progress:
        progress.advance(3)
        progress.advance(1, note="1 failed")
    (line,) = capsys.readouterr().err.splitlines()  # fast work prints its end alone
    assert line.startswith("extract: 4/4 clips, ")
    assert line.endswith(", 1 failed")


def test_a_terminal_gets_a_bar_and_messages_above_it(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = Terminal()
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setenv("TERM", "xterm")
    log.configure()
    with Progress("fit", 2, unit="epochs") as progress:
        progress.advance(1)
        logging.getLogger("pipeline.any").info("a [message] in between")
        progress.advance(1)
    text = stream.getvalue()
    assert "fit: 2/2 epochs" in text
    assert "━" in text
    assert text.index("a [message] in between") < text.rindex("fit: 2/2 epochs")


def test_quiet_leaves_warnings_alone(capsys: pytest.CaptureFixture[str]) -> None:
    log.configure(quiet=True)
    assert list(tracked([1, 2], "measuring", 2)) == [1, 2]
    logging.getLogger("stages.any").warning("one clip failed")
    assert capsys.readouterr().err == "Warning: one clip failed\n"


def test_verbose_shows_each_step(capsys: pytest.CaptureFixture[str]) -> None:
    for verbose in (False, True):
        log.configure(verbose=verbose)
        logging.getLogger("pipeline.any").debug("a step")
    assert capsys.readouterr().err == "a step\n"


def work(number: int) -> int:
    """Report progress and a message, as a fit in a worker process does."""
    with RelayedProgress(f"work {number}", 3) as progress:
        progress.advance(3)
    logging.getLogger("pipeline.any").warning(f"message {number}")
    return number


@pytest.mark.parametrize("is_terminal", [False, True])
def test_worker_processes_report_through_the_main_process(is_terminal: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    stream = Terminal() if is_terminal else io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setenv("TERM", "xterm")
    log.configure()
    with RelayedPool(2, ()) as pool:
        assert [future.result() for future in [pool.submit(work, number) for number in range(2)]] == [0, 1]
    text = stream.getvalue()
    assert ("work 0: 3/3 clips" in text) is is_terminal  # a bar each on a terminal; in a pipe the results alone
    for number in range(2):
        assert text.count(f"Warning: message {number}") == 1


def test_an_interrupt_ends_the_tasks_that_still_run() -> None:
    with suppress(KeyboardInterrupt), RelayedPool(1, ()) as pool:
        sleeping = pool.submit(time.sleep, 600)
        while not sleeping.running():
            time.sleep(0.01)
        raise KeyboardInterrupt
    assert isinstance(sleeping.exception(timeout=0), BrokenProcessPool)


def hold_the_lock(marker: Path) -> None:
    """Hold the lock of the queue to the main process, as a process does that is killed while it sends a message."""
    with queue_to_main_process()._wlock:
        marker.touch()
        time.sleep(600)


def send_half_a_message(marker: Path) -> None:
    os.write(queue_to_main_process()._writer.fileno(), struct.pack("!i", 1000) + b"half")
    marker.touch()
    time.sleep(600)


def queue_to_main_process() -> Any:
    (handler,) = logging.getLogger("pipeline").handlers
    assert isinstance(handler, QueueHandler)
    return handler.queue


@pytest.mark.parametrize("task", [hold_the_lock, send_half_a_message])
def test_an_interrupt_while_a_process_sends_a_message(task: Callable[[Path], None], tmp_path: Path) -> None:
    """The main process waited forever for the lock of the queue, or for the rest of the message."""
    ended = threading.Event()

    def interrupted() -> None:
        with suppress(RuntimeError), RelayedPool(1, ()) as pool:
            pool.submit(task, tmp_path / "marker")
            while not (tmp_path / "marker").exists():
                time.sleep(0.01)
            raise RuntimeError
        ended.set()

    threading.Thread(target=interrupted, daemon=True).start()
    assert ended.wait(60)


def test_all_messages_are_shown_however_slow_the_terminal_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relay, "MAX_SECONDS_OF_A_RECORD", 0.05)
    shown: list[str] = []

    def slow(record: logging.LogRecord) -> bool:
        time.sleep(0.2)
        shown.append(record.getMessage())
        return False

    logger = logging.getLogger("pipeline.any")
    logger.addFilter(slow)
    try:
        with RelayedPool(1, ()) as pool:
            for number in range(5):
                pool.submit(work, number).result()
    finally:
        logger.removeFilter(slow)
    assert shown == [f"message {number}" for number in range(5)]


def test_the_bars_end_also_if_the_end_of_the_pool_is_interrupted(monkeypatch: pytest.MonkeyPatch) -> None:
    shutdown, stop = ProcessPoolExecutor.shutdown, relay._Listener.stop
    stopped: list[relay._Listener] = []

    def interrupted(pool: ProcessPoolExecutor, **options: bool) -> None:
        shutdown(pool, **options)
        raise KeyboardInterrupt

    def noted(listener: relay._Listener) -> None:
        stop(listener)
        stopped.append(listener)

    monkeypatch.setattr(ProcessPoolExecutor, "shutdown", interrupted)
    monkeypatch.setattr(relay._Listener, "stop", noted)
    with pytest.raises(KeyboardInterrupt), RelayedPool(1, ()) as pool:
        assert pool.submit(abs, -1).result() == 1
    assert len(stopped) == 1
