"""Training end to end can learn a few clips by heart, with every head and both backbones of the paper."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from pipeline.heads import HEADS
from tests.support.run_stages import finetune, prepare

NUM_SEGMENTS, INPUT_SIZE = 4, 96


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two drawn clips of each of 14 classes to train on."""
    folder = tmp_path_factory.mktemp("gestures")
    prepare("gestures", folder / "clips", out=folder / "g.csv", train_clips=2, val_clips=1, test_clips=0, max_frames=24)
    return folder / "g.csv"


@pytest.mark.slow
@pytest.mark.parametrize("backbone", ["squeezenet", "bninception"])
@pytest.mark.parametrize("head", [name for name in HEADS if name != "tsn"])
def test_it_learns_28_clips_by_heart(manifest: Path, tmp_path: Path, head: str, backbone: str) -> None:
    finetune(
        manifest=manifest,
        root=manifest.parent / "clips",
        head=head,
        backbone=backbone,
        weights="bundled" if backbone == "squeezenet" else "random",
        num_segments=NUM_SEGMENTS,
        input_size=INPUT_SIZE,
        recipe="finetune",
        out=tmp_path,
        precision="float32",
        epochs=40,
        batch_size=14,
        overrides={"lr": 1e-3, "backbone_lr": 1e-3, "dropout": 0.0, "select_on": "val", "warmup_epochs": 4.0},
    )
    with open(tmp_path / f"{backbone}-{head}" / "history.csv", newline="") as opened:
        history = list(csv.DictReader(opened))
    assert float(history[-1]["train_loss"]) < 0.05
    assert float(history[-1]["train_top1"]) == 100


@pytest.mark.slow
def test_the_order_blind_head_learns_one_of_each_reversed_pair(manifest: Path, tmp_path: Path) -> None:
    """TSN sees the frames of a clip without their order, so it can learn the clips by heart, but needs their looks."""
    finetune(
        manifest=manifest, root=manifest.parent / "clips", head="tsn", backbone="squeezenet", weights="bundled",
        num_segments=NUM_SEGMENTS, input_size=INPUT_SIZE, recipe="finetune", out=tmp_path, precision="float32",
        epochs=40, batch_size=14,
        overrides={"lr": 1e-3, "backbone_lr": 1e-3, "dropout": 0.0, "select_on": "val", "warmup_epochs": 4.0},
    )  # fmt: skip
    with open(tmp_path / "squeezenet-tsn" / "history.csv", newline="") as opened:
        history = list(csv.DictReader(opened))
    assert float(history[-1]["train_loss"]) < float(history[1]["train_loss"])
