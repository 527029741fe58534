"""The programs of `benchmarks/` follow the code that they measure: each can be imported, and the short ones run."""

from __future__ import annotations

import importlib
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.gpu import _guarded
from benchmarks.verdicts import alarm_rate, coverage
from pipeline.errors import PipelineError
from tests.conftest import REPOSITORY

MODULES = sorted(path.stem for path in (REPOSITORY / "benchmarks").glob("*.py") if path.stem != "__init__")


@pytest.mark.parametrize("name", MODULES)
def test_a_benchmark_imports_what_it_measures(name: str) -> None:
    importlib.import_module(f"benchmarks.{name}")


def test_two_seeds_give_no_verdict_and_so_no_false_alarm() -> None:
    assert alarm_rate(2, 70.0, "4", 2, 56, 20) == 0.0


def test_the_interval_covers_most_of_the_time() -> None:
    assert coverage(90.0, 0.0, 3, 56, 40) >= 80.0  # 95 expected; 32 or fewer of 40 has a chance of 1 in 10,000


def test_a_part_that_fails_is_a_row_and_the_others_go_on() -> None:
    def fails() -> str:
        raise PipelineError("no memory\nat all")

    assert list(_guarded("step", "x", fails)) == [("step", "x", "failed: no memory", "")]
    assert list(_guarded("step", "x", lambda: ("1", "2"))) == [("step", "x", "1", "2")]


@pytest.mark.slow
def test_the_program_of_the_gpu_runs_on_the_cpu_in_miniature(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks.gpu", "--device", "cpu", "--small", "--out", str(tmp_path / "gpu.md")]
    subprocess.run(command, cwd=REPOSITORY, check=True, capture_output=True)
    lines = (tmp_path / "gpu.md").read_text().splitlines()
    parts = {line.split("|")[1].strip() for line in lines[4:]}
    assert parts == {
        "CUDA tests",
        "training step",
        "finetune, whole",
        "two processes",
        "demo",
        "extraction",
        "fit-head",
    }
    assert not [line for line in lines if "failed" in line]
