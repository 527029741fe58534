"""Class weights and label smoothing: loss and first step of both training loops, against arithmetic in numpy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from pipeline.evaluation.selection import SplitPlan
from pipeline.finetune.clip_loader import ClipLoader, SampleRequest, SampleSettings, collate
from pipeline.finetune.distributed import World
from pipeline.finetune.model import fresh_classifier
from pipeline.finetune.state import ClipData, TrainingPlan
from pipeline.finetune.trainer import Finetuner
from pipeline.fit_head.features import load_pooled
from pipeline.fit_head.fit import HeadDataset, fit_head
from pipeline.fit_head.stored_clips import labelled_rows
from pipeline.heads import build_head
from pipeline.recipe import named_recipe
from pipeline.runtime import Runtime
from pipeline.training.checkpoints import CheckpointFolder
from tests.support.memory_source import C, T, make_source
from tests.support.small_clips import CLASSES, labelled_clips, write_clips

CPU = torch.device("cpu")
NUM_CLIPS, NUM_SEGMENTS, LR = 7, 2, 0.1
# Three clips of the first class and two of each other one: 7 / (3 · 3) and 7 / (3 · 2).
BALANCED = np.array([7 / 9, 7 / 6, 7 / 6])
# One step of plain gradient descent on all clips.
RECIPE = named_recipe("paper").with_overrides(
    dropout=0.0, lr=LR, backbone_lr=0.0, momentum=0.0, weight_decay=0.0, clip_norm=0.0, schedule="steps", epochs=1,
    batch_size=NUM_CLIPS,
)  # fmt: skip
SWITCHES: list[dict[str, Any]] = [
    {},
    {"class_weights": "balanced"},
    {"label_smoothing": 0.2},
    {"class_weights": "balanced", "label_smoothing": 0.2},
]


def expected(
    vectors: NDArray[np.float64], state: dict[str, torch.Tensor], labels: NDArray[np.int64], switches: dict[str, Any]
) -> tuple[float, NDArray[np.float64]]:
    """The loss of the head TSN before the step, and the bias of its projection after it.

    Shape:
        vectors: (N, C), features averaged over the segments; labels: (N,).
    """
    weight, bias = (state[f"projection.{name}"].double().numpy() for name in ("weight", "bias"))
    of_class = BALANCED if "class_weights" in switches else np.ones(3)
    smoothing = switches.get("label_smoothing", 0.0)
    scores = vectors @ weight.T + bias  # (N, 3)
    shares = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
    targets = of_class * ((1 - smoothing) * np.eye(3)[labels] + smoothing / 3)  # (N, 3)
    total = of_class[labels].sum()
    loss = -(targets * np.log(shares)).sum() / total
    gradient = (shares * targets.sum(axis=1, keepdims=True) - targets).sum(axis=0) / total
    return float(loss), bias - LR * gradient


@pytest.mark.parametrize("switches", SWITCHES)
def test_fit_head_weighs_classes_and_smooths_labels(switches: dict[str, Any], tmp_path: Path) -> None:
    source = make_source(num_train=NUM_CLIPS, num_val=3)
    parts = [labelled_rows(source, split, ["test"]) for split in ("train", "val")]
    train, val = (load_pooled(source, rows, tmp_path) for rows in parts)
    data = HeadDataset(train, val, val, 3, T, C, source.settings.backbone)
    torch.manual_seed(0)
    start = build_head("tsn", in_channels=C, num_segments=T, num_classes=3).state_dict()
    result = fit_head(data, "tsn", RECIPE.with_overrides(**switches), 0, Runtime(CPU, "float32", threads=1))
    vectors = train.gather(train.sequential_order()).double().mean(dim=1)[..., 0, 0].numpy()
    loss, bias = expected(vectors, start, train.labels[0], switches)
    assert result.history[0].train_loss == pytest.approx(loss, rel=1e-5)
    np.testing.assert_allclose(result.head.projection.bias.detach().numpy(), bias, atol=1e-6)


@pytest.mark.parametrize("switches", SWITCHES)
def test_finetune_weighs_classes_and_smooths_labels(switches: dict[str, Any], tmp_path: Path) -> None:
    manifest = write_clips(tmp_path, num_train=NUM_CLIPS, num_val=2)
    train, val = (labelled_clips(manifest, split) for split in ("train", "val"))
    recipe = RECIPE.with_overrides(**switches)
    samples = SampleSettings(NUM_SEGMENTS, recipe.frames, seed=0, input_size=64)
    classifier = fresh_classifier("tsn", "squeezenet", "random", CLASSES, NUM_SEGMENTS, recipe, seed=0)
    start = {name: value.clone() for name, value in classifier.head.state_dict().items()}
    with ClipLoader(0, num_ahead=1) as loader:
        batch = collate(list(loader.samples((SampleRequest(clip, 0) for clip in train), samples)), samples, CPU)
        with torch.inference_mode():
            vectors = classifier.features(batch.frames).double().mean(dim=1)[..., 0, 0].numpy()
        # In two parts, of four and of three clips.
        settings, checkpoints = TrainingPlan(recipe, accumulate=2), CheckpointFolder(tmp_path / "checkpoints", "")
        data = ClipData(train, val, val, samples, SplitPlan("val", "val"))
        tuner = Finetuner(classifier, data, settings, Runtime(CPU, "float32"), loader, checkpoints, World())
        tuner.run()
    loss, bias = expected(vectors, start, batch.labels.numpy(), switches)
    assert tuner.state.history[0].train_loss == pytest.approx(loss, rel=1e-5)
    np.testing.assert_allclose(classifier.head.projection.bias.detach().numpy(), bias, atol=1e-6)
