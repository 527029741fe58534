"""Heads learn 24 clips by heart, end to end with their backbone: training loss under 0.05, training top-1 100 %."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest

from pipeline.heads import HEADS
from pipeline.manifest import Clip, write_manifest
from pipeline.prepare.gestures.encode import write_frame_folder
from tests.support.run_stages import finetune
from tests.support.small_clips import PLAIN

NUM_CLIPS, NUM_FRAMES, SIDE = 24, 4, 64
EPOCHS = {"squeezenet": 20, "bninception": 30}
# BNInception starts from random weights here, so its batch norms use the statistics of the batch. Frozen ones (mean 0,
# variance 1) do not fit random weights: the features of a clip then differ from their mean over all clips by a tenth of
# it, otherwise by nine tenths, and LSTM and 2D-FCN need more epochs.
PARTIAL_BN = {"squeezenet": "backbone", "bninception": "off"}
# With batch norms of the batch, a larger rate sometimes raises the loss late in the training.
BACKBONE_LR = {"squeezenet": 1e-3, "bninception": 3e-4}
OVERRIDES = {"lr": 1e-3, "weight_decay": 0.0, "interpolate": "off", "select_on": "val", **PLAIN}
CLASSES = ("bar_left", "bar_right", "bar_top", "bar_bottom")


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six clips of each class: a bright bar at one side of noise. The same clips train and select."""
    folder = tmp_path_factory.mktemp("by-heart")
    generator = np.random.default_rng(1)
    clips = []
    for number in range(NUM_CLIPS):
        side = number % len(CLASSES)
        frames = generator.integers(0, 100, (NUM_FRAMES, SIDE, SIDE, 3), np.uint8)
        frames[:, :, :24] += 150
        name = f"clip{number:02d}"
        write_frame_folder(folder / name, np.rot90(frames, side, axes=(1, 2)).copy())
        clips += [Clip(f"{name}-{split}", name, CLASSES[side], split) for split in ("train", "val")]
    write_manifest(folder / "by-heart.csv", clips, CLASSES)
    return folder / "by-heart.csv"


# One head for each kind of input and aggregation always runs with SqueezeNet, the others with `make test-all`.
QUICK = ("mlp", "gru", "fcn3d")
TRAINED = sorted(name for name, head in HEADS.items() if not head.is_closed_form)
PAIRS = [
    *(pytest.param("squeezenet", head, marks=[] if head in QUICK else pytest.mark.slow) for head in TRAINED),
    *(pytest.param("bninception", head, marks=pytest.mark.slow) for head in TRAINED),
]


@pytest.mark.parametrize(("backbone", "head"), PAIRS)
def test_24_clips_are_learnt_by_heart(manifest: Path, tmp_path: Path, backbone: str, head: str) -> None:
    metrics = finetune(
        manifest=manifest,
        head=head,
        backbone=backbone,
        weights="bundled" if backbone == "squeezenet" else "random",
        num_segments=NUM_FRAMES,
        input_size=SIDE,
        out=tmp_path,
        recipe="finetune",
        precision="float32",
        threads=1,
        workers=0,
        epochs=EPOCHS[backbone],
        batch_size=8,
        overrides={**OVERRIDES, "partial_bn": PARTIAL_BN[backbone], "backbone_lr": BACKBONE_LR[backbone]},
    )
    assert (metrics["num_train"], metrics["input_size"]) == (NUM_CLIPS, SIDE)
    with open(tmp_path / f"{backbone}-{head}" / "history.csv", newline="") as file:
        last = list(csv.DictReader(file))[-1]
    assert float(last["train_top1"]) == 100
    assert float(last["train_loss"]) < 0.05
