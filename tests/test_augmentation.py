"""Augmentations of `finetune`: what is drawn, for which epochs, and that nothing but clip, view and seed decides it."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageEnhance
from safetensors.torch import load_file
from scipy.stats import ks_2samp

from pipeline.backbones import build_backbone
from pipeline.backbones.torchvision_import import torchvision
from pipeline.compare.signature import signature_of
from pipeline.errors import PipelineError
from pipeline.evaluation.result_reader import read_run
from pipeline.finetune.augmentation import UNCHANGED, Augmentation, PixelChange, Rectangle, draw_rectangle, rising_crops
from pipeline.finetune.clip_loader import (
    ClipLoader,
    LabelledClip,
    Sample,
    SampleRequest,
    SampleSettings,
    collate,
    load_sample,
)
from pipeline.recipe import Crops, SamplingConfig, named_recipe
from pipeline.settings.search import OF_HEAD, OF_TRAINING, parse_space
from pipeline.video.crops import centre_crop, mild_crops, multiscale_crops
from tests.support.killed_runs import kill_when
from tests.support.run_stages import finetune
from tests.support.small_clips import PLAIN, T, labelled_clips, write_clips
from tests.support.training_fixtures import quick_model, small_manifest  # noqa: F401

CPU = torch.device("cpu")
SIDE = 64
PLAIN_SAMPLES = SampleSettings(num_segments=T, choices=SamplingConfig(), seed=4, input_size=SIDE)
COLOUR = (124, 116, 104)
STRONG = dataclasses.replace(PLAIN_SAMPLES, augmentation=Augmentation((), 0.4, 0.5, COLOUR))
QUICK: dict[str, Any] = {"precision": "float32", "threads": 1, "workers": 0, "accumulate": 1, "batch_size": 3}
ALL = {"crop_schedule": "rising", "color_jitter": 0.4, "erasing": 0.5}
RATES = {"lr": 0.01, "backbone_lr": 0.001, "schedule": "steps", **PLAIN}


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> tuple[LabelledClip, ...]:
    return labelled_clips(write_clips(tmp_path_factory.mktemp("clips")))


def pixels_of(sample: Sample) -> np.ndarray:
    assert sample.pixels is not None
    return sample.pixels.numpy()


def changes(augmentation: Augmentation, num_draws: int, side: int = 224) -> list[PixelChange | None]:
    return [augmentation.draw(3, f"clip{number}", 1, side) for number in range(num_draws)]


@pytest.mark.parametrize(
    ("crops", "num_epochs", "expected"),
    [
        ("multiscale", 1, ["multiscale"]),
        ("multiscale", 2, ["mild", "multiscale"]),
        ("published", 3, ["centre", "mild", "published"]),
        ("multiscale", 7, ["centre"] * 2 + ["mild"] * 2 + ["multiscale"] * 3),
        ("mild", 6, ["centre"] * 2 + ["mild"] * 4),
        ("centre", 3, ["centre"] * 3),
        ("multiscale", 0, []),
    ],
)
def test_crops_rise_in_thirds_to_those_of_the_recipe(crops: Crops, num_epochs: int, expected: list[str]) -> None:
    assert list(rising_crops(crops, num_epochs)) == expected


def test_each_third_differs_from_the_others_by_one_epoch_at_most() -> None:
    for num_epochs in range(1, 100):
        found = rising_crops("multiscale", num_epochs)
        levels = [("centre", "mild", "multiscale").index(crops) for crops in found]
        counts = [levels.count(level) for level in range(3)]
        assert levels == sorted(levels)
        assert sum(counts) == num_epochs
        assert max(counts) - min(counts) <= 1
        assert counts[2] == max(counts)


def test_an_epoch_draws_among_the_boxes_of_its_crops(clips: tuple[LabelledClip, ...]) -> None:
    settings = dataclasses.replace(PLAIN_SAMPLES, augmentation=Augmentation(rising_crops("multiscale", 30)))
    boxes = {epoch: {load_sample(SampleRequest(clip, epoch), settings).crop for clip in clips} for epoch in range(30)}
    few, many = set().union(*map(boxes.get, range(10, 20))), set().union(*map(boxes.get, range(20, 30)))  # type: ignore[arg-type]
    assert set().union(*map(boxes.get, range(10))) == {centre_crop(40, 56)}  # type: ignore[arg-type]
    assert few <= set(mild_crops(40, 56))
    assert len(few) > 10
    assert many <= set(multiscale_crops(40, 56))
    assert len(many) > 30
    # From the step to `crops` on, a view is that of the constant schedule.
    assert all(load_sample(SampleRequest(clip, 25), PLAIN_SAMPLES).crop in boxes[25] for clip in clips)
    assert load_sample(SampleRequest(clips[0]), settings).crop == centre_crop(40, 56)


def test_colours_are_those_of_pillow(clips: tuple[LabelledClip, ...]) -> None:
    """Pillow rounds to bytes after each step, in its own way: by hand 1 or 2 of 255 in each of the three steps."""
    augmentation = Augmentation(color_jitter=0.4)
    for clip in clips[:4]:
        request = SampleRequest(clip, 5)
        before = pixels_of(load_sample(request, PLAIN_SAMPLES))
        after = pixels_of(load_sample(request, dataclasses.replace(PLAIN_SAMPLES, augmentation=augmentation)))
        change = augmentation.draw(4, clip.clip_id, 1_000_005, SIDE)
        assert change is not None
        assert change.factors is not None
        assert change.erased is None
        for frame, found in zip(before, after, strict=True):
            image = Image.fromarray(frame)
            enhancers = (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color)
            for enhancer, factor in zip(enhancers, change.factors, strict=True):
                image = enhancer(image).enhance(factor)
            differences = np.abs(np.asarray(image).astype(int) - found)
            assert differences.max() <= 4
            assert differences.mean() < 1.5
        assert np.abs(before.astype(int) - after).mean() > 2


def test_factors_are_uniform_around_one() -> None:
    drawn = changes(Augmentation(color_jitter=0.4), 2000)
    factors = np.array([change.factors for change in drawn if change is not None])
    assert factors.shape == (2000, 3)
    for column in factors.T:
        assert ks_2samp(column, np.random.default_rng(0).uniform(0.6, 1.4, 20_000)).pvalue > 0.01
    assert np.abs(np.corrcoef(factors.T) - np.eye(3)).max() < 0.1


def test_rectangles_are_those_of_torchvision() -> None:
    stream = np.random.default_rng(1)
    found = [box for box in (draw_rectangle(stream, 224) for _ in range(3000)) if box is not None]
    torch.manual_seed(2)
    image = torch.zeros(3, 224, 224)
    params = [torchvision.transforms.RandomErasing.get_params(image, (0.02, 0.33), (0.3, 3.3)) for _ in range(3000)]
    ours = np.array([(box.top, box.left, box.height, box.width) for box in found])
    theirs = np.array([each[:4] for each in params])
    assert len(ours) == 3000
    assert (ours[:, :2] >= 0).all()
    assert (ours[:, :2] + ours[:, 2:] <= 224).all()
    for table in (ours, theirs):
        shares = table[:, 2] * table[:, 3] / 224**2
        assert shares.min() > 0.018
        assert shares.max() < 0.335
    for column in range(4):
        assert ks_2samp(ours[:, column], theirs[:, column]).pvalue > 0.01
    assert ks_2samp(ours[:, 2] * ours[:, 3], theirs[:, 2] * theirs[:, 3]).pvalue > 0.01


def test_one_share_of_the_views_is_erased() -> None:
    drawn = changes(Augmentation(erasing=0.25), 2000)
    num_erased = sum(change is not None for change in drawn)
    assert abs(num_erased - 500) < 4 * (2000 * 0.25 * 0.75) ** 0.5
    assert all(change is not None for change in changes(Augmentation(erasing=1.0), 100))


def test_the_same_rectangle_of_all_frames_is_erased_and_nothing_else(clips: tuple[LabelledClip, ...]) -> None:
    augmentation = Augmentation(erasing=1.0, colour=COLOUR)
    request = SampleRequest(clips[1], 2)
    before = pixels_of(load_sample(request, PLAIN_SAMPLES))
    after = pixels_of(load_sample(request, dataclasses.replace(PLAIN_SAMPLES, augmentation=augmentation)))
    change = augmentation.draw(4, clips[1].clip_id, 1_000_002, SIDE)
    assert change is not None
    assert isinstance(change.erased, Rectangle)
    box = change.erased
    expected = before.copy()
    expected[:, box.top : box.top + box.height, box.left : box.left + box.width] = COLOUR
    assert np.array_equal(after, expected)
    assert not np.array_equal(after, before)


@pytest.mark.parametrize("name", ["squeezenet", "bninception"])
def test_erased_pixels_are_zero_for_the_backbone(name: str) -> None:
    backbone = build_backbone(name, "random")[0]
    recipe = named_recipe("finetune").with_overrides(erasing=0.5)
    colour = Augmentation.of(recipe, backbone.preprocessing).colour
    pixels = torch.tensor(colour, dtype=torch.uint8).reshape(1, 3, 1, 1).expand(1, 3, 8, 8)
    # Half a grey value, in units of the preprocessing.
    half = 0.5 * backbone.preprocessing.scale / min(backbone.preprocessing.std)
    assert float(backbone.normalise(pixels).abs().max()) <= half * 1.001


def test_draws_differ_by_seed_clip_and_view_and_never_drift() -> None:
    augmentation = Augmentation(color_jitter=0.4, erasing=1.0)
    drawn = [augmentation.draw(*key, 224) for key in ((0, "a", 0), (1, "a", 0), (0, "b", 0), (0, "a", 1), (0, "a", 0))]
    assert drawn[0] == drawn[4]
    assert len(set(drawn[:4])) == 4


def test_one_augmentation_leaves_the_draws_of_the_other(clips: tuple[LabelledClip, ...]) -> None:
    both, colours, erasing = (Augmentation((), *strengths) for strengths in ((0.4, 1.0), (0.4, 0.0), (0.0, 1.0)))
    found = [each.draw(0, "clip", 7, 224) for each in (both, colours, erasing)]
    assert [None if change is None else change.factors is not None for change in found] == [True, True, False]
    assert found[0] is not None
    assert found[1] is not None
    assert found[2] is not None
    assert found[0].factors == found[1].factors
    assert found[0].erased == found[2].erased
    one, other = (load_sample(SampleRequest(clips[0], 3), settings) for settings in (PLAIN_SAMPLES, STRONG))
    assert (one.crop, one.flip, one.label) == (other.crop, other.flip, other.label)


def test_test_views_stay(clips: tuple[LabelledClip, ...]) -> None:
    for clip in clips:
        one, other = (load_sample(SampleRequest(clip), settings) for settings in (PLAIN_SAMPLES, STRONG))
        assert np.array_equal(pixels_of(one), pixels_of(other))


def test_samples_are_equal_for_any_number_of_workers_and_on_the_device(clips: tuple[LabelledClip, ...]) -> None:
    requests = [SampleRequest(clip, epoch) for epoch in (0, 1) for clip in clips]
    frames = []
    for num_workers, on_device in ((0, False), (2, False), (0, True)):
        settings = dataclasses.replace(STRONG, on_device=on_device)
        with ClipLoader(num_workers, num_ahead=5) as loader:
            samples = list(loader.samples(requests, settings))
        frames.append(torch.cat([collate([sample], settings, CPU).frames for sample in samples]).int())
    assert torch.equal(frames[0], frames[1])
    # Rendering on the device rounds about one pixel in a hundred otherwise, and the factors enlarge that.
    differences = (frames[0] - frames[2]).abs()
    assert float(differences.float().mean()) < 0.1
    assert int(differences.max()) <= 4


def test_without_augmentations_samples_are_those_of_the_recipe() -> None:
    for name in ("paper", "published-code", "finetune"):
        assert Augmentation.of(named_recipe(name), build_backbone("squeezenet", "random")[0].preprocessing) == UNCHANGED
    assert changes(UNCHANGED, 10) == [None] * 10


def test_cached_activations_of_frozen_layers_are_those_of_augmented_views(
    manifest: Path, model: Path, tmp_path: Path
) -> None:
    overrides = {**RATES, "fixed_views": 2, "color_jitter": 0.4, "erasing": 0.5}
    weights = []
    for name, values, cache in (("cached", overrides, True), ("frames", overrides, False), ("plain", RATES, False)):
        finetune(
            manifest=manifest, init=model, out=tmp_path / name, epochs=3, freeze_until="features.7", cache_frozen=cache,
            overrides={"fixed_views": 2, **values}, **QUICK,
        )  # fmt: skip
        weights.append(load_file(tmp_path / name / "squeezenet-mlp" / "model.safetensors"))
    differences = [max(float((weights[0][key] - other[key]).abs().max()) for key in other) for other in weights[1:]]
    assert differences[0] < 1e-6 < 1e-4 < differences[1]


def test_a_killed_training_goes_on_to_the_same_bytes_and_records_its_options(
    manifest: Path, model: Path, tmp_path: Path
) -> None:
    settings = {
        **QUICK, "manifest": str(manifest), "init": str(model), "epochs": 3, "overrides": {**RATES, **ALL},
        "checkpoint_seconds": 0,
    }  # fmt: skip
    finetune(**settings, out=tmp_path / "whole")
    killed = {**settings, "out": str(tmp_path / "killed")}
    folder = tmp_path / "killed" / "squeezenet-mlp"
    kill_when((folder / "checkpoints" / "seed-0" / "step-00000004.pt").exists, killed)
    finetune(**killed)
    for name in ("history.csv", "predictions.csv", "model.safetensors", "metrics.json"):
        assert (folder / name).read_bytes() == (tmp_path / "whole" / "squeezenet-mlp" / name).read_bytes()
    run = read_run(folder)
    assert {name: run.metrics["recipe"]["finetune"][name] for name in ALL} == ALL
    assert "crop_schedule rising, color_jitter 0.4, erasing 0.5" in signature_of([run])["view"]


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        ({}, "crops of the training views: mild in 1 epoch(s), multiscale in 1 epoch(s)"),
        # Seven clips in batches of three: nine steps are three epochs.
        ({"min_steps": 9}, "views: centre in 1 epoch(s), mild in 1 epoch(s), multiscale in 1 epoch(s)"),
        (
            {"crops": "centre"},
            "crop_schedule rising changes nothing, because crops is centre: pass --crops mild or multiscale",
        ),
    ],
)
def test_the_crops_of_all_epochs_are_said(
    manifest: Path, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], more: dict[str, Any], sentence: str
) -> None:
    overrides = {**RATES, "crop_schedule": "rising", **more}
    finetune(manifest=manifest, init=model, out=tmp_path, epochs=2, overrides=overrides, **QUICK)
    assert sentence in capsys.readouterr().err


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"color_jitter": 1.5}, r"`color_jitter` \(=1.5\) must be from 0 to 1"),
        ({"erasing": 2}, r"`erasing` \(=2\) must be from 0 to 1"),
        ({"erasing": -0.1}, r"`erasing` \(=-0.1\) must be float and not negative"),
        ({"crop_schedule": "falling"}, "must be one of 'constant', 'rising'"),
        ({"crop_schedule": "rising", "fixed_views": 3}, r"`fixed_views` \(=3\) repeats views.*Leave out one"),
    ],
)
def test_a_wrong_option_is_refused(overrides: dict[str, Any], message: str) -> None:
    with pytest.raises(PipelineError, match=message):
        named_recipe("finetune").with_overrides(**overrides)


def test_finetune_searches_them_and_fit_head_does_not_have_them() -> None:
    space = {"color-jitter": "0:0.5", "erasing": [0, 0.25], "crop-schedule": "constant,rising"}
    assert [name for name, _ in parse_space(space, OF_TRAINING)] == ["color_jitter", "crop_schedule", "erasing"]
    with pytest.raises(PipelineError, match="color-jitter"):
        parse_space({"color-jitter": "0:0.5"}, OF_HEAD)
