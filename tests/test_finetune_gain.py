"""Training end to end is judged against the model that it starts from: fresh views, mixed weights, averages, seeds."""

from __future__ import annotations

import csv
import json
import math
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from pipeline.evaluation.result_reader import read_run
from pipeline.finetune.clip_loader import FIRST_FRESH_DRAW
from pipeline.finetune.gain import gain_over_start
from pipeline.finetune.interpolation import ALPHAS, interpolate, mixed
from pipeline.finetune.moving_average import MovingAverage
from pipeline.finetune.prepared import with_min_steps
from pipeline.finetune.scoring import ScoredClips
from pipeline.manifest import read_manifest
from pipeline.model_file import load_model
from pipeline.recipe import SamplingConfig, named_recipe, recipe_from_dict
from pipeline.video.decode import open_clip
from pipeline.video.render import render
from pipeline.video.views import drawn_view
from tests.support.run_stages import compare, finetune
from tests.support.small_clips import CLASSES, PLAIN, T
from tests.support.training_fixtures import initial_model, small_manifest  # noqa: F401

CELL = "squeezenet-mlp"
QUICK: dict[str, Any] = {
    "precision": "float32",
    "threads": 1,
    "workers": 0,
    "epochs": 2,
    "accumulate": 1,
    "batch_size": 3,
}
SWITCHES = {"lr": 0.01, "backbone_lr": 0.001, **PLAIN}


def scored(correct: list[int], loss: float = 1.0) -> ScoredClips:
    """Scores of two classes: clip n is correct where `correct[n]` is 1; the larger the loss, the smaller the scores."""
    margin = np.where(np.array(correct) == 1, 1.0, -1.0) / loss
    ids = tuple(f"clip-{index}" for index in range(len(correct)))
    labels = np.zeros(len(correct), np.int64)
    return ScoredClips(ids, labels, np.stack([margin, -margin], axis=1), {}, ())


def test_the_ends_of_the_line_are_exact_and_counters_are_those_of_the_end() -> None:
    start = {"weight": torch.tensor([0.1, -3e7]), "steps": torch.tensor(1)}
    end = {"weight": torch.tensor([1 / 3, 1e-9]), "steps": torch.tensor(7)}
    assert torch.equal(mixed(start, end, 0.0)["weight"], start["weight"])
    assert torch.equal(mixed(start, end, 1.0)["weight"], end["weight"])
    assert mixed({"weight": torch.tensor([2.0])}, {"weight": torch.tensor([6.0])}, 0.25)["weight"].item() == 3.0
    assert mixed(start, end, 0.5)["steps"].item() == 7


@pytest.mark.parametrize(
    ("top1s", "losses", "best"),
    [
        ([50, 75, 100, 75, 75], [1, 1, 1, 1, 1], 0.5),
        ([100, 75, 75, 75, 75], [9, 1, 1, 1, 1], 0.0),  # the initial model is kept, although its loss is the highest
        ([100, 100, 100, 100, 100], [5, 4, 3, 2, 1], 1.0),  # a tie: the lowest loss
        ([75, 75, 75, 75, 75], [1, 1, 1, 1, 1], 0.0),  # a further tie: the smallest change
    ],
)
def test_the_best_weights_of_the_line_are_chosen(top1s: list[int], losses: list[float], best: float) -> None:
    start, end = {"w": torch.zeros(1)}, {"w": torch.ones(1)}
    table = {
        alpha: scored([1] * (top1 // 25) + [0] * (4 - top1 // 25), loss)
        for alpha, top1, loss in zip(ALPHAS, top1s, losses, strict=True)
    }
    found, weights, chosen = interpolate(start, end, table[1.0], lambda values: table[float(values["w"])])
    assert found.alpha == best == weights["w"].item()
    assert chosen is table[best]
    assert [round(top1) for top1, _ in found.curve.values()] == top1s


def test_a_harmful_training_ends_as_the_initial_model(manifest: Path, model: Path, tmp_path: Path) -> None:
    """With a rate that destroys the model, every mixed model is worse on the selection clips than the initial one."""
    before = finetune(manifest=manifest, init=model, out=tmp_path / "none", **{**QUICK, "epochs": 0}, overrides=PLAIN)
    settings = {"schedule": "steps", "lr": 30.0, "backbone_lr": 3.0, "interpolate": "start", **PLAIN}
    metrics = finetune(manifest=manifest, init=model, out=tmp_path, **QUICK, overrides=settings)
    curve = {point["alpha"]: point for point in metrics["interpolation"]["0"]["curve"]}
    assert tuple(curve) == ALPHAS
    alpha = metrics["interpolation"]["0"]["alpha"]
    assert curve[alpha]["top1"] >= curve[0.0]["top1"] == pytest.approx(before["report"]["top1"], abs=1e-3)
    assert alpha == 0
    assert metrics["best_epoch"] == 0
    assert metrics["gain"]["points"] == 0
    found = load_file(tmp_path / CELL / "model.safetensors")
    assert all(torch.equal(value, found[name]) for name, value in load_file(model).items())


def test_the_moving_average_is_that_of_torch() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    own = MovingAverage(model, 0.9)
    reference = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.9), use_buffers=True)
    reference.update_parameters(model)  # its first call copies
    optimiser = torch.optim.SGD(model.parameters(), 0.1)
    for _ in range(5):
        optimiser.zero_grad()
        model(torch.randn(8, 3)).square().sum().backward()
        optimiser.step()
        own.update()
        reference.update_parameters(model)
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    expected = reference.module.state_dict()
    with own.applied():
        for name, value in model.state_dict().items():
            if value.is_floating_point():
                torch.testing.assert_close(value, expected[name])
                assert not torch.equal(value, weights[name])
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())


def test_a_training_with_an_average_goes_on_to_the_same_bytes(manifest: Path, model: Path, tmp_path: Path) -> None:
    settings = {**QUICK, "manifest": manifest, "init": model, "out": tmp_path, "checkpoint_seconds": 0}
    settings |= {"keep_checkpoints": 9, "overrides": {**SWITCHES, "ema_decay": 0.5}}
    finetune(**settings)
    folder = tmp_path / CELL
    before = {name: (folder / name).read_bytes() for name in ("model.safetensors", "history.csv", "metrics.json")}
    for step in (5, 6):
        (folder / "checkpoints" / "seed-0" / f"step-{step:08d}.pt").unlink()
    finetune(**settings)
    assert {name: (folder / name).read_bytes() for name in before} == before


def test_epoch_0_has_the_loss_of_the_initial_model_on_fresh_training_views(
    manifest: Path, model: Path, tmp_path: Path
) -> None:
    finetune(manifest=manifest, init=model, out=tmp_path, **{**QUICK, "epochs": 1}, overrides=SWITCHES)
    with open(tmp_path / CELL / "history.csv", newline="") as opened:
        first = next(csv.DictReader(opened))
    data, network = read_manifest(manifest), load_model(model).eval()
    losses, right = [], 0
    for clip in data.clips:
        if clip.split != "train":
            continue
        reader = open_clip(data.locate(clip))
        frames = reader.read(range(reader.num_frames))
        view = drawn_view(
            FIRST_FRESH_DRAW, clip_id=clip.clip_id, seed=0, num_frames=len(frames), height=frames.shape[1],
            width=frames.shape[2], num_segments=T, choices=SamplingConfig(),
        )  # fmt: skip
        pixels = render(frames[list(view.frame_indices)], view.crop, view.flip)
        with torch.inference_mode():
            scores = network(pixels[None])
        label = CLASSES.index(clip.label)
        losses.append(float(nn.functional.cross_entropy(scores, torch.tensor([label]))))
        right += int(scores.argmax()) == label
    assert float(first["train_loss"]) == pytest.approx(np.mean(losses), abs=1e-4)
    assert float(first["train_top1"]) == pytest.approx(100 * right / len(losses), abs=1e-3)
    assert first["epoch"] == "0"


def test_few_clips_get_more_epochs() -> None:
    recipe = named_recipe("finetune").with_overrides(min_steps=200, epochs=8, batch_size=16)
    assert with_min_steps(recipe, 116).training.epochs == math.ceil(200 / 8)  # eight batches an epoch
    assert with_min_steps(recipe, 4000).training.epochs == 8
    assert with_min_steps(named_recipe("paper"), 10).training.epochs == 60


def test_options_of_finetune_are_written_only_where_they_are_set() -> None:
    assert "finetune" not in named_recipe("cached").as_dict()
    recipe = named_recipe("paper").with_overrides(ema_decay=0.5)
    assert recipe.as_dict()["finetune"] == {"min_steps": 0, "ema_decay": 0.5, "interpolate": "off"}
    assert recipe_from_dict(json.loads(json.dumps(recipe.as_dict()))) == recipe


def test_the_gain_pairs_clips_before_and_after() -> None:
    start = {f"clip-{index}": int(index < 4) for index in range(10)}
    after = [scored([1, 1, 1, 0, 1, 1, 1, 1, 1, 0]), scored([1, 1, 1, 1, 1, 1, 1, 0, 0, 0])]
    gain = gain_over_start([(each, start) for each in after])
    assert gain is not None
    assert gain["start_top1"] == 40.0
    assert gain["points"] == pytest.approx(100 * (8 + 7) / 20 - 40)
    assert gain["low"] < gain["points"] < gain["high"]
    assert gain["num_clips"] == 10
    assert gain_over_start([(after[0], None)]) is None


def test_a_clip_that_one_side_lacks_is_left_out_of_the_gain() -> None:
    gain = gain_over_start([(scored([1, 1, 0]), {"clip-0": 0, "clip-2": 0})])
    assert gain is not None
    assert (gain["num_clips"], gain["points"]) == (2, 50.0)


def test_several_seeds_start_from_one_model(manifest: Path, model: Path, tmp_path: Path) -> None:
    settings = {**QUICK, "epochs": 1, "manifest": manifest, "init": model, "overrides": SWITCHES}
    metrics = finetune(out=tmp_path / "two", seeds=2, **settings)
    alone = [finetune(out=tmp_path / f"seed-{seed}", seed=seed, **settings) for seed in (0, 1)]
    run = read_run(tmp_path / "two" / CELL)
    assert metrics["num_seeds"] == 2
    for seed in (0, 1):
        one = read_run(tmp_path / f"seed-{seed}" / CELL)
        assert np.array_equal(run.predictions.scores[seed], one.predictions.scores[0])
    assert not np.array_equal(run.predictions.scores[0], run.predictions.scores[1])
    mean = np.mean([each["gain"]["points"] for each in alone])
    assert metrics["gain"]["points"] == pytest.approx(mean, abs=1e-3)
    first, both = (load_file(tmp_path / name / CELL / "model.safetensors") for name in ("seed-0", "two"))
    assert all(torch.equal(value, both[name]) for name, value in first.items())


def test_the_time_of_a_seed_does_not_count_in_another(manifest: Path, model: Path, tmp_path: Path) -> None:
    started_at_seconds = time.monotonic()
    finetune(manifest=manifest, init=model, out=tmp_path, seeds=3, overrides=SWITCHES, **{**QUICK, "epochs": 1})
    elapsed_seconds = time.monotonic() - started_at_seconds
    timing = json.loads((tmp_path / CELL / "timing.json").read_text())
    assert 0 < timing["total_seconds"] < elapsed_seconds


def test_the_table_and_the_report_show_the_gain_over_the_start(manifest: Path, model: Path, tmp_path: Path) -> None:
    settings = {**QUICK, "epochs": 1, "overrides": {**SWITCHES, "interpolate": "start"}}
    metrics = finetune(manifest=manifest, init=model, out=tmp_path / "finetune", **settings)
    compare([tmp_path / "finetune"], out=tmp_path / "compare", latency=False)
    gain = metrics["gain"]
    stated = f"{gain['points']:+.1f} points [{gain['low']:+.1f}, {gain['high']:+.1f}] over its start of"
    assert stated in (tmp_path / "compare" / "table.md").read_text()
    rows = json.loads((tmp_path / "compare" / "comparison.json").read_text())["groups"][0]["rows"]
    assert rows[0]["gain"] == json.loads(json.dumps(gain))
    assert "share of the trained weights" in (tmp_path / "compare" / "report.html").read_text()
