"""Command line of the torture programs: their common options, the time limit of a run, and how a run ends."""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections.abc import Iterable, Iterator


def make_parser(description: str | None, num_runs: int, what: str) -> argparse.ArgumentParser:
    """Create a parser with `--runs` and `--seed`; `what` names the runs."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=num_runs, help=f"Number of {what}.")
    parser.add_argument("--seed", type=int, default=0, help="Seed of the random choices.")
    return parser


def add_minutes(parser: argparse.ArgumentParser) -> None:
    """Add `--minutes`."""
    parser.add_argument("--minutes", type=float, default=math.inf, help="Stop after this time.")


def numbers_until(num_runs: int, max_seconds: float) -> Iterator[int]:
    """Yield the numbers of the runs, until `max_seconds` have passed."""
    end_seconds = time.monotonic() + max_seconds
    for number in range(num_runs):
        if time.monotonic() > end_seconds:
            return
        yield number


def finish(table: str, wrong: Iterable[str]) -> None:
    """Print the table and the failures, and exit with code 1 if there are any."""
    lines = list(wrong)
    print(table, *lines, sep="\n")
    sys.exit(1 if lines else 0)
