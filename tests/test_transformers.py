"""Video encoders of transformers with small random configurations, compared with the library called directly."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pipeline.backbones import build_backbone
from pipeline.backbones.torchvision_import import torchvision
from pipeline.errors import PipelineError
from pipeline.extract.extract import extract_features
from pipeline.manifest import read_manifest
from pipeline.store.feature_store import FeatureStore
from tests.support.run_stages import extract_settings
from tests.support.small_clips import write_clips

assert torchvision  # imported first: transformers imports it without the preparations that it may need
transformers: Any = pytest.importorskip("transformers")

SMALL = {"hidden_size": 16, "num_attention_heads": 2, "num_hidden_layers": 1, "patch_size": 16, "tubelet_size": 2}


def model_of(kind: str) -> Any:
    torch.manual_seed(3)
    if kind == "videomae":
        return transformers.VideoMAEModel(
            transformers.VideoMAEConfig(image_size=32, num_frames=4, intermediate_size=32, **SMALL)
        ).eval()
    more = {"pred_hidden_size": 16, "pred_num_attention_heads": 2, "pred_num_hidden_layers": 1}
    return transformers.VJEPA2Model(transformers.VJEPA2Config(crop_size=32, frames_per_clip=4, **SMALL, **more)).eval()


@pytest.mark.parametrize("kind", ["videomae", "vjepa2"])
def test_the_maps_are_the_tokens_of_the_library(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = model_of(kind)
    model.save_pretrained(tmp_path / "tiny")
    monkeypatch.chdir(tmp_path)
    backbone, record = build_backbone("transformers:tiny", "imagenet")
    assert (backbone.channels, backbone.map_size, backbone.clip_frames, backbone.frames_per_map) == (16, 2, 4, 2)
    assert (record.name, len(record.sha256)) == ("imagenet", 64)
    values = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3), dtype=np.uint8)
    frames = torch.from_numpy(values).permute(0, 3, 1, 2)
    mean, std = (torch.tensor(each).view(1, 3, 1, 1) for each in ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]))
    clip = ((frames.float() / 255 - mean) / std)[None]
    with torch.no_grad():
        maps = backbone(frames)  # (2, 16, 2, 2)
        tokens = model(clip).last_hidden_state if kind == "videomae" else model.get_vision_features(clip)
    torch.testing.assert_close(maps.permute(0, 2, 3, 1).reshape(8, 16), tokens[0], rtol=1e-4, atol=1e-5)


def test_random_weights_come_from_the_seed_and_are_extracted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model_of("vjepa2").config.save_pretrained(tmp_path / "tiny")
    monkeypatch.chdir(tmp_path)
    digests = [build_backbone("transformers:tiny", "random", seed=seed)[1].sha256 for seed in (1, 1, 2)]
    assert digests[0] == digests[1] != digests[2]
    manifest = read_manifest(write_clips(tmp_path))
    request = extract_settings(
        backbone="transformers:tiny", weights="random", num_segments=2, views=1, compile="jit", dtype="float32",
        workers=0,
    )  # fmt: skip
    extract_features(manifest, "s.zarr", request)
    store = FeatureStore.open("s.zarr")
    assert store.settings.video_encoder
    assert store.read_spatial("test", store.clips("val")[0].row).shape == (2, 2, 2, 16)
    with pytest.raises(PipelineError, match=r"The folder tiny has no model\.safetensors"):
        build_backbone("transformers:tiny", "imagenet")


def test_another_kind_of_model_is_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    transformers.ViTConfig().save_pretrained(tmp_path / "image")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(PipelineError, match="is a 'vit'; the known video encoders are videomae, vjepa2"):
        build_backbone("transformers:image", "random")
