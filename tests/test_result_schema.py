"""Result folders of strangers: values of wrong types, under right checksums, are refused by name; nothing hangs."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from pipeline.errors import PipelineError
from pipeline.evaluation.checksums import write_checksums
from pipeline.evaluation.result_reader import read_run
from pipeline.evaluation.result_schema import METRICS, TIMING
from tests.conftest import REPOSITORY

RESULTS = REPOSITORY / "results"
FILES = ("metrics.json", "predictions.csv", "history.csv", "confusion.csv")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A result of the demo, with times."""
    shutil.copytree(RESULTS / "fit_head" / "squeezenet-mlp", tmp_path / "squeezenet-mlp")
    timing = {"total_seconds": 1.5, "search": {"core_seconds": 3.0, "seconds_of_trials": [1.0, 2.0]}}
    (tmp_path / "squeezenet-mlp" / "timing.json").write_text(json.dumps(timing))
    return tmp_path / "squeezenet-mlp"


def change(path: Path, keys: str, value: Any) -> None:
    """Replace the value at some keys, and write the checksums that fit."""
    values = json.loads(path.read_text())
    *parents, last = keys.split(".")
    inner = values
    for key in parents:
        inner = inner[key]
    inner[last] = value
    path.write_text(json.dumps(values))
    write_checksums(path.parent, FILES)


@pytest.mark.parametrize(
    ("keys", "value", "expected"),
    [
        ("head", 7, "`head` (=7) must be a text"),
        ("head", "mlp\nx", "`head` (='mlp\\nx') must be a text"),
        ("head", None, "lacks head"),
        ("weights", [], "`weights` (=[]) must be a JSON object"),
        ("weights.name", None, "lacks weights.name"),
        ("weights.sha256", {}, "`weights.sha256` (={}) must be a text"),
        ("num_segments", True, "`num_segments` (=True) must be a whole number"),
        ("num_segments", 10**30, "must be a whole number"),
        ("num_segments", "8", "`num_segments` (='8') must be a whole number"),
        ("report.top1", "90", "`report.top1` (='90') must be a finite number"),
        ("report.top1", 10**400, "must be a finite number"),
        ("recipe.training.step_epochs", [[]], "`recipe.training.step_epochs` (=[[]]) must be"),
        ("probes", 1, "`probes` (=1) must be a JSON object"),
        ("st_block.macs", -1, "`st_block.macs` (=-1) must be a whole number"),
        ("calibrated", "x" * 99, f"`calibrated` (='{'x' * 56}...) must be a JSON object"),
    ],
)
def test_a_value_of_a_wrong_type_is_named(folder: Path, keys: str, value: Any, expected: str) -> None:
    change(folder / "metrics.json", keys, value)
    with pytest.raises(PipelineError) as raised:
        read_run(folder)
    assert expected in str(raised.value)
    assert str(folder / "metrics.json") in str(raised.value)


@pytest.mark.parametrize("value", [{}, "a\0b", [1], True, 10**400])
@pytest.mark.parametrize("keys", ["total_seconds", "search.core_seconds", "search.seconds_of_trials"])
def test_times_of_wrong_types_are_named(folder: Path, keys: str, value: Any) -> None:
    if keys.endswith("trials") and value == [1]:
        value = [None]
    change(folder / "timing.json", keys, value)
    with pytest.raises(PipelineError, match=rf"timing.json: `{keys}` .* must be"):
        read_run(folder)


def test_nested_brackets_are_a_sentence(folder: Path) -> None:
    (folder / "metrics.json").write_text("[" * 200_000)
    write_checksums(folder, FILES)
    with pytest.raises(PipelineError, match="cannot be read as JSON: it is nested too deeply"):
        read_run(folder)


@pytest.mark.parametrize("column", ["epoch", "select_top1", "train_loss", "seed"])
@pytest.mark.parametrize("text", ["../../x", "inf", "1e999"])
def test_a_history_of_text_is_named(folder: Path, column: str, text: str) -> None:
    header, *rows = (folder / "history.csv").read_text().splitlines()
    cells = rows[0].split(",")
    cells[header.split(",").index(column)] = text
    (folder / "history.csv").write_text("\n".join([header, ",".join(cells), *rows[1:], ""]))
    write_checksums(folder, FILES)
    with pytest.raises(PipelineError, match=f"history.csv: the column {column} has a value that is not a finite"):
        read_run(folder)


@pytest.mark.timeout(20)
@pytest.mark.parametrize("name", [*FILES, "SHA256SUMS", "timing.json"])
@pytest.mark.parametrize("has_checksums", [True, False])
def test_a_pipe_in_place_of_a_file_does_not_block(folder: Path, name: str, has_checksums: bool) -> None:
    if not has_checksums:
        (folder / "SHA256SUMS").unlink()
    (folder / name).unlink(missing_ok=True)
    os.mkfifo(folder / name)
    if name in ("timing.json", "history.csv", "confusion.csv") and not (has_checksums and name != "timing.json"):
        read_run(folder)  # not needed
    else:
        with pytest.raises(PipelineError):
            read_run(folder)


def test_the_schema_knows_every_key_that_is_written() -> None:
    paths = sorted(RESULTS.glob("*/*/metrics.json"))
    assert {path.parent.parent.name for path in paths} >= {"fit_head", "finetune"}
    for path in paths:
        for key in json.loads(path.read_text()):
            assert key in METRICS, f"{path}: {key}"
    assert isinstance(TIMING["search"], Mapping)
