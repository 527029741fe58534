"""What `make repro` prints at its end: whether the results are those in Git, and how far off they are if not."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY


def write_metrics(folder: Path, top1: float) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    report = {"top1": top1, "top1_low": top1 - 5, "top1_high": top1 + 5}
    (folder / "metrics.json").write_text(json.dumps({"report": report}))


def said(project: Path) -> str:
    script = REPOSITORY / "tools" / "demo_difference.py"
    return subprocess.check_output([sys.executable, script, "results"], cwd=project, text=True)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    for head in ("gru", "lstm"):
        write_metrics(tmp_path / "results" / head, 80.0)
    author = ("-c", "user.email=test@example.org", "-c", "user.name=test")
    for command in (["init", "--quiet"], ["add", "--all"], [*author, "commit", "--quiet", "--message", "results"]):
        subprocess.run(["git", *command], cwd=tmp_path, check=True)
    return tmp_path


def test_equal_results_are_said_to_be_equal(project: Path) -> None:
    assert said(project) == "All 2 metrics in results equal the committed ones, byte for byte.\n"


@pytest.mark.parametrize(("top1", "judgement"), [(84.9, "within"), (85.1, "OUTSIDE"), (74.9, "OUTSIDE")])
def test_a_difference_is_held_against_the_committed_interval(project: Path, top1: float, judgement: str) -> None:
    write_metrics(project / "results" / "lstm", top1)
    first, second = said(project).splitlines()
    assert first.startswith("1 of 2 metrics in results differ")
    assert second.split() == f"lstm 80.0 -> {top1}; {judgement} the committed interval, 75.0 to 85.0".split()


def test_results_that_are_not_in_git_are_not_compared(project: Path) -> None:
    write_metrics(project / "results" / "new", 80.0)
    assert "there is nothing to compare" in said(project)
