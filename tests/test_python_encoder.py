"""Video encoders of a user: features of tubelets against the encoder called directly, and what stores say of them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.backbones import build_backbone, make_backbone
from pipeline.compare.complexity import describe_backbones
from pipeline.errors import PipelineError
from pipeline.extract.extract import extract_features
from pipeline.finetune.model import fresh_classifier
from pipeline.manifest import read_manifest
from pipeline.model_file import load_model
from pipeline.recipe import SamplingConfig, named_recipe
from pipeline.store.feature_store import FeatureStore
from pipeline.store_command.info import describe, info_text
from pipeline.store_command.recheck import recheck
from pipeline.video.decode import open_clip
from pipeline.video.render import render
from pipeline.video.views import test_view as view_of_test
from tests.support.clip_encoder import DifferenceEncoder
from tests.support.run_stages import extract_settings, fit_head
from tests.support.small_clips import CLASSES, write_clips

NAME = "python:tests.support.clip_encoder:difference_encoder"


def test_maps_are_the_tokens_at_their_places() -> None:
    backbone, record = build_backbone(NAME, "imagenet")
    assert (backbone.channels, backbone.map_size, backbone.clip_frames, backbone.frames_per_map) == (5, 2, 4, 2)
    assert (record.name, record.note) == ("imagenet", "weights of the factory")
    values = np.random.default_rng(0).integers(0, 256, (8, 32, 32, 3), dtype=np.uint8)
    frames = torch.from_numpy(values).permute(0, 3, 1, 2)
    with torch.no_grad():
        maps = backbone(frames)
        tokens = DifferenceEncoder()((frames.float() / 255 - 0.5).div(0.5).unflatten(0, (2, 4)))  # (2, 8, 5)
    assert maps.shape == (4, 5, 2, 2)
    for clip, step, row, column in ((0, 0, 0, 1), (1, 1, 1, 0)):
        token = tokens[clip, step * 4 + row * 2 + column]
        torch.testing.assert_close(maps[clip * 2 + step, :, row, column], token, rtol=1e-5, atol=1e-6)


def extract(folder: Path, num_segments: int = 4, **more: object) -> FeatureStore:
    request = extract_settings(
        backbone=NAME, weights="imagenet", num_segments=num_segments, views=1, compile="jit", dtype="float32",
        workers=0, **more,
    )  # fmt: skip
    extract_features(read_manifest(folder / "small.csv"), str(folder / "s.zarr"), request)
    return FeatureStore.open(folder / "s.zarr")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("encoder")
    write_clips(folder)
    extract(folder)
    return folder


def test_a_segment_is_a_tubelet(folder: Path) -> None:
    store = FeatureStore.open(folder / "s.zarr")
    manifest = read_manifest(folder / "small.csv")
    row = store.clips("val")[1]
    # Four segments are two clips of four frames: eight frames over the video.
    with open_clip(manifest.locate(next(clip for clip in manifest.clips if clip.clip_id == row.clip_id))) as reader:
        view = view_of_test(reader.num_frames, reader.height, reader.width, 8, SamplingConfig(), 0.875)
        frames = render(reader.read(view.frame_indices), view.crop, view.flip, 32)
    with torch.no_grad():
        expected = make_backbone(NAME).eval()(frames).permute(0, 2, 3, 1)
    np.testing.assert_allclose(store.read_spatial("test", row.row), expected.numpy(), rtol=2e-3, atol=2e-3)
    assert store.read_sampling("test", [row.row])[0, :4].tolist() == list(view.frame_indices[::2])
    assert store.settings.video_encoder
    assert "a video encoder, which mixes the frames of a clip" in info_text(describe(store))
    again = recheck(store, manifest, weights="imagenet", num_clips=2)
    assert (len(again.agreeing), again.differing) == (2, ())


def test_heads_fit_and_say_that_frames_are_mixed(folder: Path, tmp_path: Path) -> None:
    fit_head(
        store=folder / "s.zarr", head=("lstm",), out=tmp_path / "fit", precision="float32", threads=1, jobs=1,
        overrides={"epochs": 1, "batch_size": 4},
    )  # fmt: skip
    cell = tmp_path / "fit" / f"{NAME}-lstm"
    assert json.loads((cell / "metrics.json").read_text())["video_encoder"] is True
    with pytest.raises(PipelineError, match="has only the head for features of the video encoder"):
        load_model(cell / "model.safetensors")


def test_it_is_described() -> None:
    (row,) = describe_backbones([NAME])
    assert (row["channels"], row["map_size"], row["input_size"], row["parameters"]) == (5, 2, 32, 30)


def test_other_numbers_of_segments_are_refused(folder: Path) -> None:
    with pytest.raises(PipelineError, match=r"`num_segments` \(=3\) must be a multiple of 2"):
        extract(folder, 3, rebuild=True)
    with pytest.raises(PipelineError, match="reads clips, not single frames"):
        extract(folder, frames="all", rebuild=True)
    with pytest.raises(PipelineError, match="is a video encoder, which finetune cannot train"):
        fresh_classifier("lstm", NAME, "imagenet", CLASSES, 4, named_recipe("paper"), seed=0)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("python:tests.support.clip_encoder", "must be python:MODULE:FACTORY"),
        ("python:nowhere.at_all:make", "does not exist: No module named 'nowhere'"),
        ("python:tests.support.clip_encoder:missing", "does not exist: .*missing"),
        ("python:tests.support.clip_encoder:no_network", "must return a torch.nn.Module, but returns a int"),
        ("python:tests.support.clip_encoder:encoder_without_a_grid", "must have `num_frames`"),
        ("python:tests.support.clip_encoder:encoder_of_other_tokens", r"must return \(B, 16, C\)"),
    ],
)
def test_a_factory_that_cannot_be_is_a_sentence(name: str, words: str) -> None:
    with pytest.raises(PipelineError, match=words):
        make_backbone(name)


def test_only_its_own_weights_and_size_are_used() -> None:
    with pytest.raises(PipelineError, match="makes its weights"):
        build_backbone(NAME, "random")
    with pytest.raises(PipelineError, match="reads inputs of 32 pixels, not 64"):
        build_backbone(NAME, "imagenet", input_size=64)
