"""The programs of `benchmarks/` follow the code that they measure: each can be imported, and the short ones run."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from benchmarks import from_scratch, heads, two_roads
from benchmarks.extraction import rate_of_blocks
from benchmarks.gpu import _guarded
from benchmarks.search_flattery import optimism
from benchmarks.verdicts import alarm_rate, coverage
from pipeline.errors import PipelineError
from pipeline.evaluation.result_reader import read_run
from pipeline.heads import build_head
from tests.conftest import REPOSITORY
from tests.support.run_stages import extract, fit_head
from tests.support.training_fixtures import small_manifest  # noqa: F401

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


def test_a_search_judged_on_other_clips_is_not_optimistic_and_one_judged_on_the_reported_clips_is() -> None:
    # 40 settings of equal accuracy: the best of 40 normal errors of 4.6 points is 2.16 deviations too high.
    correct = np.random.default_rng(1).random((40, 300)) < 0.7
    other, same = optimism(correct, num_splits=500)
    assert abs(other.points) < 1
    assert same.points == pytest.approx(2.16 * 4.58, abs=2)


@pytest.mark.slow
def test_both_ways_are_trained_with_all_seeds_and_compared(manifest: Path, tmp_path: Path) -> None:
    arguments = ["--manifest", str(manifest), "--root", str(manifest.parent), "--weights", "random"]
    arguments += ["--input-size", "64", "--fit-epochs", "2", "--finetune-epochs", "1", "--head", "mlp", "--views", "1"]
    arguments += ["--num-segments", "2", "--seeds", "2", "--threads", "1", "--work", str(tmp_path / "work")]
    arguments += ["--plot", str(tmp_path / "plot.svg"), "--out", str(tmp_path / "table.md")]
    result = CliRunner().invoke(two_roads.main, arguments, catch_exceptions=False)
    assert result.exit_code == 0
    rows = [line.split("|")[1:-1] for line in (tmp_path / "table.md").read_text().splitlines() if line.startswith("|")]
    ways = {row[0].strip(): row for row in rows[2:]}
    assert list(ways) == [two_roads.CACHED, two_roads.EQUAL_TIME, two_roads.EQUAL_EPOCHS]
    assert [ways[name][1].strip() for name in (two_roads.CACHED, two_roads.EQUAL_EPOCHS)] == ["3", "3"]
    assert (tmp_path / "plot.svg").stat().st_size > 0


@pytest.mark.slow
def test_trainings_from_scratch_are_paired_with_a_fitted_head(manifest: Path, tmp_path: Path) -> None:
    store, fitted = tmp_path / "store.zarr", tmp_path / "fit_head"
    extract(
        manifest=manifest, store=store, weights="random", num_segments=2, views=1, maps="pooled", input_size=64,
        compile="eager", dtype="float32", workers=0,
    )  # fmt: skip
    fit_head(store=store, head="mlp", out=fitted, overrides={"epochs": 2}, seeds=2)
    arguments = ["--manifest", str(manifest), "--fitted", str(fitted / "squeezenet-mlp"), "--epochs", "1,2"]
    arguments += ["--seeds", "2", "--threads", "1", "--precision", "float32", "--out", str(tmp_path / "table.md")]
    result = CliRunner().invoke(from_scratch.main, [*arguments, "--work", str(tmp_path)], catch_exceptions=False)
    assert result.exit_code == 0
    rows = [line.split("|")[1:-1] for line in (tmp_path / "table.md").read_text().splitlines() if line.startswith("|")]
    assert [[cell.strip() for cell in row[:3]] for row in rows[2:]] == [
        ["frozen features", "", "2"], ["from scratch", "1", "2"], ["from scratch", "2", "2"],
    ]  # fmt: skip
    for row, epochs in zip(rows[3:], (1, 2), strict=True):
        own = read_run(tmp_path / f"epochs-{epochs}" / "squeezenet-mlp").metrics["report"]["top1"]
        other = read_run(fitted / "squeezenet-mlp").metrics["report"]["top1"]
        assert float(row[5].split("[")[0]) == pytest.approx(own, abs=0.05)
        assert float(row[6].split("[")[0]) == pytest.approx(own - other, abs=0.05)


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
@pytest.mark.parametrize("name", heads.trained_heads())
def test_a_measured_training_step_changes_the_parameters_of_every_trained_head(name: str, dtype: str) -> None:
    head = build_head(name, in_channels=16, num_segments=4, num_classes=3)
    before = [parameter.detach().clone() for parameter in head.parameters()]
    heads.training_step(head, heads.features_of(head, batch=4, map_size=3, device="cpu"), dtype)()
    assert not all(torch.equal(new, old) for new, old in zip(head.parameters(), before, strict=True))


def printed_by(*command: str) -> str:
    """Return what a benchmark prints."""
    done = subprocess.run(
        [sys.executable, "-m", *command], cwd=REPOSITORY, check=True, stdout=subprocess.PIPE, text=True
    )
    return done.stdout


def test_the_rate_of_an_extraction_is_that_of_its_blocks_without_start_up(tmp_path: Path) -> None:
    # Two workers: the first files come before compilation, the first two blocks after it, and then one block a second.
    times = {"zarr.json": 0, "clips.json": 0, "attributes.json": 0} | {f"{block:06d}.json": 60 for block in (0, 1)}
    times |= {f"{block:06d}.json": 59 + block for block in range(2, 10)}
    for name, seconds in times.items():
        path = tmp_path / "records" / name
        path.parent.mkdir(exist_ok=True)
        path.touch()
        os.utime(path, (seconds, seconds))
    assert rate_of_blocks(tmp_path, num_clips=320, num_workers=2) == pytest.approx(32)


@pytest.mark.slow
def test_peers_run_in_miniature_and_have_the_same_features() -> None:
    options = ["--kind", "jpg", "--clips", "24", "--rounds", "1", "--seconds", "0.1", "--compile", "eager"]
    lines = printed_by("benchmarks.peers", *options).splitlines()  # fails if the features differ
    for way in ("ours, auto", "ours, float32", "plain script", "torchvision", "eager torch"):
        assert sum(line.startswith(way) for line in lines) == {"ours, float32": 3, "eager torch": 1}.get(way, 2)


@pytest.mark.slow
def test_growth_runs_in_miniature() -> None:
    counts = ["--pooled", "600,1200", "--spatial", "600", "--table", "600,2400"]
    lines = printed_by("benchmarks.growth", *counts).splitlines()
    assert sum(" clips: " in line for line in lines) == 5
    assert not [line for line in lines if "not measured" in line]
    assert lines[-1].startswith("not linear")


@pytest.mark.slow
def test_a_whole_fit_is_measured_in_miniature() -> None:
    lines = printed_by(
        "benchmarks.whole_fit", "--heads", "fcn3d", "--clips", "48", "--rounds", "1", "--map-size", "3"
    ).splitlines()
    assert [line.split(": ")[0] for line in lines[1:]] == ["fcn3d, maps from the store", "fcn3d, maps in memory"]
