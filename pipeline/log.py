"""Set up the messages of a command: messages go to stderr through `logging`, results to stdout.

Every module has a logger (`logger = logging.getLogger(__name__)`). Nothing is shown until a command calls `configure`,
so that a program that imports the package controls its messages.
"""

from __future__ import annotations

import functools
import logging
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

PACKAGES = ("pipeline", "stages")
FORMAT = "%(message)s"


def configure(*, quiet: bool = False, verbose: bool = False) -> None:
    """Show messages on stderr: warnings only with `quiet`, each step of the work with `verbose`.

    A terminal gets them through rich, which keeps them above the progress bars; a pipe gets plain lines.
    """
    level = logging.WARNING if quiet else logging.DEBUG if verbose else logging.INFO
    handler = _TerminalHandler() if is_terminal() else _StderrHandler()
    handler.setFormatter(_Formatter(FORMAT))
    for name in PACKAGES:
        logger = logging.getLogger(name)
        logger.setLevel(level)
        logger.handlers = [handler]


def is_terminal() -> bool:
    """Return whether stderr is a terminal."""
    return sys.stderr.isatty()


@functools.cache
def console() -> Console:
    """Return the console that messages and progress bars share. It writes to the current `sys.stderr`."""
    from rich.console import Console

    return Console(stderr=True, highlight=False, soft_wrap=True)


class _StderrHandler(logging.Handler):
    """Write a line to the current `sys.stderr`, which tests and notebooks replace."""

    def emit(self, record: logging.LogRecord) -> None:
        sys.stderr.write(self.format(record) + "\n")
        sys.stderr.flush()


class _TerminalHandler(logging.Handler):
    """Print a line through rich, above the progress bars."""

    def emit(self, record: logging.LogRecord) -> None:
        console().print(self.format(record), markup=False)


class _Formatter(logging.Formatter):
    """Mark warnings; other messages are plain sentences."""

    def format(self, record: logging.LogRecord) -> str:
        text = super().format(record)
        return f"Warning: {text}" if record.levelno >= logging.WARNING else text
