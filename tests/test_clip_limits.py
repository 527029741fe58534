"""Every command that decodes clips has the limits on a clip, and a clip beyond one costs nothing but itself."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from pipeline.cli import cli
from pipeline.prepare.gestures.encode import write_frame_folder
from tests.support.small_clips import write_clips, write_model

LARGE = ("clip00", "clip08")  # of 7 to train on and 5 to validate on


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("limits")
    write_clips(folder)
    write_model(folder / "model.safetensors")
    for name in LARGE:
        shutil.rmtree(folder / "clips" / name)
        write_frame_folder(folder / "clips" / name, np.zeros((4, 120, 130, 3), np.uint8))
    return folder


def run(*arguments: object) -> tuple[int, str, str]:
    done = CliRunner().invoke(cli, list(map(str, arguments)))
    return done.exit_code, done.stdout, done.stderr


@pytest.mark.parametrize(("pixels", "num_failed"), [(120 * 130 - 1, 1), (120 * 130, 0)])
def test_predict_and_evaluate_and_finetune_hold_clips_to_the_limits(
    folder: Path, tmp_path: Path, pixels: int, num_failed: int
) -> None:
    limit, model = ("--max-clip-pixels", pixels), folder / "model.safetensors"
    videos = [folder / "clips" / name for name in ("clip07", "clip08", "clip09")]
    code, said, messages = run("predict", model, *videos, "--format", "json", *limit)
    kinds = [clip.get("error", {}).get("kind") for clip in json.loads(said)]
    assert (code, kinds) == (num_failed, [None, "too-large" if num_failed else None, None])
    assert ("of --max-clip-pixels" in messages) == bool(num_failed)
    code, said, _ = run("evaluate", model, "--manifest", folder / "small.csv", "--split", "val", "--json", *limit)
    assert (code, json.loads(said)["num_failed"]) == (0, num_failed)
    short = ("--epochs", 1, "--batch-size", 4, "--workers", 0, "--threads", 1, "--precision", "float32")
    tuning = ("--init", model, "--manifest", folder / "small.csv", "--out", tmp_path, *short)
    assert run("finetune", *tuning, *limit)[0] == 0
    metrics = json.loads((tmp_path / "squeezenet-mlp" / "metrics.json").read_text())
    # One of the clips to train on, and one of those to validate on.
    assert (metrics["num_failed"], metrics["num_train"]) == (2 * num_failed, 7 - num_failed)


def test_a_timeline_is_held_to_the_limits(folder: Path, tmp_path: Path) -> None:
    arguments = (folder / "model.safetensors", folder / "clips" / "clip08", "--timeline", tmp_path / "t.png")
    code, _, messages = run("predict", *arguments, "--max-clip-bytes", "10")
    assert code == 1
    assert "of --max-clip-bytes" in messages
