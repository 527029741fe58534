"""The programs of `benchmarks/` follow the code that they measure: each can be imported, and the short ones run."""

from __future__ import annotations

import importlib

import pytest

from benchmarks.verdicts import alarm_rate, coverage
from tests.conftest import REPOSITORY

MODULES = sorted(path.stem for path in (REPOSITORY / "benchmarks").glob("*.py") if path.stem != "__init__")


@pytest.mark.parametrize("name", MODULES)
def test_a_benchmark_imports_what_it_measures(name: str) -> None:
    importlib.import_module(f"benchmarks.{name}")


def test_two_seeds_give_no_verdict_and_so_no_false_alarm() -> None:
    assert alarm_rate(2, 70.0, "4", 2, 56, 20) == 0.0


def test_the_interval_covers_most_of_the_time() -> None:
    assert coverage(90.0, 0.0, 3, 56, 40) >= 80.0  # 95 expected; 32 or fewer of 40 has a chance of 1 in 10,000
