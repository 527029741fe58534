"""A short run of the torture with mutants: one extraction ends, counts each, and keeps none that is read wrongly."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.torture.mutants import Result, as_table, run

TRANSIENT = {"no-memory", "io-error", "open-files", "killed-worker"}


def check(result: Result, num_mutants: int) -> None:
    assert result.exit_code == 0
    assert result.wrong == []
    outcomes = result.outcomes.values()
    assert sum(outcome.num_kept + outcome.failed.total() for outcome in outcomes) == num_mutants
    # Damage is never taken for a shortage, which each run would try again.
    assert not TRANSIENT & {kind for outcome in outcomes for kind in outcome.failed}
    assert f"| all | {num_mutants:,} |" in as_table(result)


def test_a_few_mutants_of_every_kind(tmp_path: Path) -> None:
    # The memory of another command is not counted.
    subprocess.run([sys.executable, "-c", "b'x' * 3_100_000_000"], check=True)
    result = run(165, seed=0, folder=tmp_path / "run")
    check(result, 165)
    assert len(result.outcomes) > 50
    assert sum(outcome.num_kept for outcome in result.outcomes.values()) > 20
    assert result.peak_bytes < 3e9


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2])
def test_many_mutants(tmp_path: Path, seed: int) -> None:
    check(run(1500, seed, tmp_path / "run"), 1500)
