"""The recipe `published-code` against the published training written out in `published_code.py`, in float64."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from pipeline.evaluation.selection import SplitPlan
from pipeline.finetune.clip_loader import ClipLoader, SampleRequest, SampleSettings, collate
from pipeline.finetune.distributed import World
from pipeline.finetune.model import fresh_classifier
from pipeline.finetune.state import ClipData, TrainingPlan
from pipeline.finetune.trainer import Finetuner
from pipeline.fit_head import fit as fit_module
from pipeline.fit_head.features import batches, load_pooled
from pipeline.fit_head.fit import HeadDataset, fit_head
from pipeline.fit_head.spatial_features import MapCache, open_spatial
from pipeline.fit_head.stored_clips import labelled_rows
from pipeline.heads import HEADS, build_head, trn
from pipeline.recipe import named_recipe
from pipeline.runtime import Runtime
from pipeline.training.checkpoints import CheckpointFolder
from tests.support import published_code
from tests.support.memory_source import C, T, make_source
from tests.support.small_clips import CLASSES, labelled_clips, write_clips

CPU = torch.device("cpu")
NUM_EPOCHS, LAST_DROP = 3, 2
NUM_SEGMENTS = 2  # of the clips that finetune reads
# Six steps, two an epoch. Without dropout there are no random numbers but TRN's tuples.
RECIPE = named_recipe("published-code").with_overrides(
    dropout=0.0, mlp_dropout=0.0, epochs=NUM_EPOCHS, step_epochs=(LAST_DROP,), batch_size=2
)
CELLS = [*((name, "squeezenet") for name in published_code.BLOCKS), ("fcn2d", "bninception")]
NUM_NORMS = {"squeezenet": 0, "bninception": 69}
# Random backbones give smaller gradients than the published norm of 20 would clip.
FINETUNE_RECIPE = RECIPE.with_overrides(clip_norm=1.5)
QUICK_CELLS = [("lstm", "squeezenet"), ("fcn2d", "squeezenet"), ("fcn2d", "bninception")]


def learning_rates() -> list[float]:
    return [1e-3 if epoch < LAST_DROP else 1e-4 for epoch in range(NUM_EPOCHS)]


def same(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=0, atol=1e-9, msg=lambda text, name=name: f"{name}: {text}")


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[list[tuple[int, ...]]]:
    """The tuples that TRN draws while it trains, in their order."""
    tuples: list[list[tuple[int, ...]]] = []
    draw = trn.drawn_tuples

    def recording(num_segments: int, scale: int, size: int, generator: Any = None) -> list[tuple[int, ...]]:
        found = draw(num_segments, scale, size, generator)
        if generator is None:
            tuples.append(found)
        return found

    monkeypatch.setattr(trn, "drawn_tuples", recording)
    return tuples


def head_data(name: str, backbone: str, folder: Path) -> HeadDataset:
    """Four clips to train on, with features so large that gradients are clipped."""
    source = make_source(num_train=4, num_val=3)
    source.maps = {view: 4000 * values[:, :, :2, :2] for view, values in source.maps.items()}
    if HEADS[name].reads == "spatial":
        cache = MapCache(0)
        train = open_spatial(source, labelled_rows(source, "train", ["train-0"]), cache)
        val = open_spatial(source, labelled_rows(source, "val", ["test"]), cache)
        return HeadDataset(train, val, val, 3, T, C, backbone)
    rows = [labelled_rows(source, split, [view]) for split, view in (("train", "train-0"), ("val", "test"))]
    train, val = (load_pooled(source, of_split, folder) for of_split in rows)
    return HeadDataset(train, val, val, 3, T, C, backbone)


@pytest.mark.parametrize(("name", "backbone"), CELLS)
def test_fit_head_takes_the_published_steps(
    name: str, backbone: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, drawn: list[list[tuple[int, ...]]]
) -> None:
    def double_head(*arguments: Any, **settings: Any) -> torch.nn.Module:
        return build_head(*arguments, **settings).double()

    monkeypatch.setattr(fit_module, "build_head", double_head)
    data = head_data(name, backbone, tmp_path)
    checkpoint = tmp_path / "last.pt"
    fit_head(data, name, RECIPE, 0, Runtime(CPU, "float32", threads=1), checkpoint=checkpoint, checkpoint_seconds=0)
    found = torch.load(checkpoint, weights_only=True)["state"]["training"]["model"]

    torch.manual_seed(0)
    sizes = {"in_channels": C, "num_segments": T, "num_classes": 3}
    start = double_head(name, **sizes, choices=RECIPE.head).state_dict()
    network = published_code.Network(name, C, T, 3).double()
    network.load_head(start)
    if isinstance(network.block, published_code.TRN):
        network.block.tuples = list(drawn)
    epochs = [
        (lr, [(one.features, one.labels) for one in batches(data.train, data.train.shuffled_order(0, epoch), 2)])
        for epoch, lr in enumerate(learning_rates())
    ]
    trained = published_code.trained_parameters(network, NUM_NORMS[backbone])
    norms = published_code.train_steps(network, trained, epochs, weight_decay=5e-4, clip_norm=20)
    assert len(norms) == 6
    assert max(norms) > 20
    same(found, network.head_state())
    assert all(not torch.equal(start[f"projection.{part}"], found[f"projection.{part}"]) for part in ("weight", "bias"))


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> ClipData:
    """Four clips to train on, as frames of 64×64 pixels so that a step of float64 is quick."""
    manifest = write_clips(tmp_path_factory.mktemp("clips"), num_train=4, num_val=2)
    train, val = (labelled_clips(manifest, split) for split in ("train", "val"))
    return ClipData(
        train, val, val, SampleSettings(NUM_SEGMENTS, RECIPE.frames, seed=0, input_size=64), SplitPlan("val", "val")
    )


def batches_of_frames(data: ClipData, epoch: int) -> list[tuple[Tensor, Tensor]]:
    order = np.random.default_rng([0, epoch]).permutation(len(data.train)).tolist()
    with ClipLoader(0, num_ahead=1) as loader:
        samples = list(loader.samples((SampleRequest(data.train[index], epoch) for index in order), data.samples))
    found = [collate(samples[start : start + 2], data.samples, CPU) for start in (0, 2)]
    return [(batch.frames, batch.labels) for batch in found]


@pytest.mark.parametrize(
    ("name", "backbone"),
    [cell if cell in QUICK_CELLS else pytest.param(*cell, marks=pytest.mark.slow) for cell in CELLS],
)
def test_finetune_takes_the_published_steps(
    name: str,
    backbone: str,
    clips: ClipData,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    drawn: list[list[tuple[int, ...]]],
) -> None:
    monkeypatch.setattr("pipeline.model.pooled", lambda maps: maps.mean((2, 3)))  # in float64, not rounded to float32
    classifier = fresh_classifier(name, backbone, "random", CLASSES, NUM_SEGMENTS, FINETUNE_RECIPE, seed=0).double()
    start = copy.deepcopy(classifier)
    settings, checkpoints = TrainingPlan(FINETUNE_RECIPE), CheckpointFolder(tmp_path, "", num_kept=1)
    precision = Runtime(CPU, "float32")
    with ClipLoader(0, num_ahead=2) as loader:
        Finetuner(classifier, clips, settings, precision, loader, checkpoints, World()).run()

    network = published_code.Network(name, start.spec.in_channels, NUM_SEGMENTS, len(CLASSES), start.backbone)
    network.double().load_head(start.head.state_dict())
    if isinstance(network.block, published_code.TRN):
        network.block.tuples = list(drawn)
    epochs = [(lr, batches_of_frames(clips, epoch)) for epoch, lr in enumerate(learning_rates())]
    trained = published_code.trained_parameters(network)
    norms = published_code.train_steps(network, trained, epochs, weight_decay=5e-4, clip_norm=1.5)
    assert max(norms) > 1.5
    same(classifier.head.state_dict(), network.head_state())
    same(classifier.backbone.state_dict(), start.backbone.state_dict())
