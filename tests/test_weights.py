"""Loading weights: names, files, keys, shapes, and the record of what was loaded."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from pipeline.backbones import Backbone, build_backbone, weights
from pipeline.backbones.download import PublishedWeights
from pipeline.backbones.weights import BUNDLED_FOLDER, WeightsRecord, digest_of_tensors
from pipeline.errors import PipelineError
from pipeline.registry import BACKBONE_NAMES


def random_backbone(name: str = "squeezenet", seed: int = 5) -> Backbone:
    return build_backbone(name, "random", seed=seed)[0]


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def write(path: Path, tensors: dict[str, torch.Tensor], metadata: dict[str, str] | None = None) -> Path:
    if path.suffix == ".safetensors":
        save_file(tensors, path, metadata)
    else:
        torch.save(tensors, path)
    return path


@pytest.mark.parametrize("name", BACKBONE_NAMES)
def test_random_weights_follow_from_the_seed_alone(name: str) -> None:
    torch.manual_seed(1)
    state = torch.get_rng_state()
    first, record = build_backbone(name, "random", seed=7)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(2)
    second, again = build_backbone(name, "random", seed=7)
    assert record == again == WeightsRecord("random", digest_of_tensors(second.state_dict()), "seed 7")
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))
    assert build_backbone(name, "random", seed=8)[1].sha256 != record.sha256


def test_random_weights_are_he_uniform() -> None:
    layer = random_backbone().get_submodule("features.12.expand3x3")
    weight = layer.weight.detach()
    fan_in = 64 * 9
    assert float(weight.abs().max()) <= (6 / fan_in) ** 0.5
    assert float(weight.var()) == pytest.approx(2 / fan_in, rel=0.02)
    assert float(layer.bias.detach().abs().max()) == 0


def test_random_weights_of_torchvision_leave_the_generator_alone() -> None:
    state = torch.get_rng_state()
    first = build_backbone("torchvision:mobilenet_v3_small", "random", seed=1)[1]
    assert torch.equal(torch.get_rng_state(), state)
    assert build_backbone("torchvision:mobilenet_v3_small", "random", seed=1)[1] == first
    assert build_backbone("torchvision:mobilenet_v3_small", "random", seed=2)[1] != first


@pytest.mark.parametrize("name", ["squeezenet", "bninception", "torchvision:mobilenet_v3_small"])
@pytest.mark.parametrize("suffix", [".pth", ".pt", ".safetensors"])
@pytest.mark.parametrize("with_classifier", [False, True])
def test_a_file_gives_back_the_same_maps(name: str, suffix: str, with_classifier: bool, tmp_path: Path) -> None:
    source = random_backbone(name)
    tensors = dict(source.weight_tensors())
    if with_classifier:
        tensors[source.ignored_prefixes[0] + ("weight" if source.ignored_prefixes[0].endswith(".") else "")] = (
            torch.zeros(10, 1)
        )
    path = write(tmp_path / f"weights{suffix}", tensors)
    loaded, record = build_backbone(name, str(path), seed=99)
    assert record == WeightsRecord(path.name, sha256(path))
    assert digest_of_tensors(loaded.weight_tensors()) == digest_of_tensors(source.weight_tensors())


def test_files_of_the_old_format_and_without_batch_counts_load(tmp_path: Path) -> None:
    source = random_backbone("bninception")
    tensors = {key: value for key, value in source.state_dict().items() if "num_batches_tracked" not in key}
    path = tmp_path / "old.pth"
    torch.save(tensors, path, _use_new_zipfile_serialization=False)
    loaded, _ = build_backbone("bninception", str(path))
    assert digest_of_tensors(loaded.state_dict()) == digest_of_tensors(source.state_dict())


def test_half_precision_files_load_into_float32(tmp_path: Path) -> None:
    tensors = {key: value.half() for key, value in random_backbone().state_dict().items()}
    loaded, _ = build_backbone("squeezenet", str(write(tmp_path / "half.safetensors", tensors)))
    assert all(value.dtype == torch.float32 for value in loaded.parameters())
    assert all(torch.equal(value.half(), tensors[key]) for key, value in loaded.state_dict().items())


def test_missing_and_unexpected_keys_are_listed(tmp_path: Path) -> None:
    tensors = dict(random_backbone().state_dict())
    del tensors["features.0.bias"], tensors["features.7.squeeze.weight"]
    tensors["module.extra"] = torch.zeros(1)
    path = write(tmp_path / "weights.pth", tensors)
    with pytest.raises(PipelineError) as caught:
        build_backbone("squeezenet", str(path))
    assert str(caught.value) == (
        f"The weight file {path} does not fit the backbone squeezenet: missing keys: features.0.bias, "
        "features.7.squeeze.weight; unexpected keys: module.extra."
    )


def test_shapes_and_values_that_cannot_be_are_named(tmp_path: Path) -> None:
    tensors = dict(random_backbone().state_dict())
    tensors["features.0.weight"] = torch.zeros(64, 3, 7, 7)
    tensors["features.3.squeeze.bias"] = torch.full((16,), float("nan"))
    with pytest.raises(PipelineError) as caught:
        build_backbone("squeezenet", str(write(tmp_path / "weights.safetensors", tensors)))
    assert "features.0.weight has (64, 3, 7, 7), must have (64, 3, 3, 3)" in str(caught.value)
    assert "values that are not finite: features.3.squeeze.bias" in str(caught.value)


def test_a_file_that_does_not_fit_changes_nothing(tmp_path: Path) -> None:
    backbone = random_backbone()
    before = digest_of_tensors(backbone.state_dict())
    tensors = {key: value + 1 for key, value in backbone.state_dict().items()}
    del tensors["features.12.expand3x3.bias"]
    with pytest.raises(PipelineError):
        weights.load_weights(backbone, str(write(tmp_path / "weights.pth", tensors)))
    assert digest_of_tensors(backbone.state_dict()) == before


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("damage", ["empty", "text", "cut"])
def test_damaged_files_are_refused(suffix: str, damage: str, tmp_path: Path) -> None:
    path = write(tmp_path / f"weights{suffix}", dict(random_backbone().state_dict()))
    content = {"empty": b"", "text": b"not weights\n" * 20, "cut": path.read_bytes()[:-1000]}[damage]
    path.write_bytes(content)
    with pytest.raises(PipelineError, match="cannot be read"):
        build_backbone("squeezenet", str(path))


def test_code_in_a_file_is_never_run(tmp_path: Path) -> None:
    class Payload:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return eval, ("open('ran', 'w')",)

    path = tmp_path / "weights.pth"
    torch.save({"features.0.weight": Payload()}, path)
    with pytest.raises(PipelineError, match="must contain only tensors"):
        build_backbone("squeezenet", str(path))
    assert not Path("ran").exists()


def test_a_file_with_more_than_tensors_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.pth"
    torch.save({"state_dict": {}, "epoch": 3}, path)
    with pytest.raises(PipelineError, match="must contain only a state dict"):
        build_backbone("squeezenet", str(path))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("imagnet", "Did you mean 'imagenet'"),
        ("nowhere/weights.pth", "There is no weight file nowhere/weights.pth"),
    ],
)
def test_unknown_weights_are_named(given: str, message: str) -> None:
    with pytest.raises(PipelineError, match=message):
        build_backbone("squeezenet", given)


def test_a_file_of_another_kind_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "weights.bin"
    path.write_bytes(b"x")
    with pytest.raises(PipelineError, match=r"must end in \.pth, \.pt, \.safetensors"):
        build_backbone("squeezenet", str(path))


def test_squeezenet_weights_enter_the_bypass_on_request_alone(tmp_path: Path) -> None:
    path = write(tmp_path / "weights.pth", dict(random_backbone().state_dict()))
    with pytest.raises(PipelineError, match=r"not for squeezenet_bypass.*allow_squeezenet_weights"):
        build_backbone("squeezenet_bypass", str(path))
    _, record = build_backbone("squeezenet_bypass", str(path), allow_squeezenet_weights=True)
    assert record.note == "weights of squeezenet, loaded into squeezenet_bypass on request"
    assert record.sha256 == sha256(path)


def test_a_file_that_says_what_it_was_made_for_is_held_to_it(tmp_path: Path) -> None:
    tensors = dict(random_backbone().state_dict())
    path = write(tmp_path / "bypass.safetensors", tensors, {"backbone": "squeezenet_bypass"})
    assert build_backbone("squeezenet_bypass", str(path))[1].note == ""
    for allow in (False, True):
        with pytest.raises(PipelineError, match="made for squeezenet_bypass, not for squeezenet"):
            build_backbone("squeezenet", str(path), allow_squeezenet_weights=allow)


def test_bundled_weights_load_or_their_absence_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    tensors = {key: value.half() for key, value in random_backbone().state_dict().items()}
    monkeypatch.setattr(weights, "BUNDLED_FOLDER", tmp_path)
    with pytest.raises(PipelineError, match=r"No weights are bundled for squeezenet .*there are: none"):
        build_backbone("squeezenet")
    path = write(tmp_path / "squeezenet.safetensors", tensors, {"backbone": "squeezenet"})
    assert build_backbone("squeezenet")[1] == WeightsRecord("bundled", sha256(path))
    with pytest.raises(PipelineError, match="made for squeezenet"):
        build_backbone("squeezenet_bypass")
    assert build_backbone("squeezenet_bypass", allow_squeezenet_weights=True)[1].note.startswith(
        "weights of squeezenet"
    )
    with pytest.raises(PipelineError, match="there are: squeezenet"):
        build_backbone("bninception")


@pytest.mark.skipif(not (BUNDLED_FOLDER / "squeezenet.safetensors").is_file(), reason="none are bundled yet")
def test_the_bundled_file_is_small_and_fits() -> None:
    path = BUNDLED_FOLDER / "squeezenet.safetensors"
    assert path.stat().st_size < 1_600_000
    assert build_backbone("squeezenet", "bundled")[1] == WeightsRecord("bundled", sha256(path))


def test_imagenet_weights_come_from_the_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A file that a person put into torch's cache is found there, checked, and never asked for again."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    folder = tmp_path / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    tensors = dict(random_backbone().state_dict())
    path = write(folder / "squeezenet1_1-00000000.pth", tensors)
    published = PublishedWeights(f"http://127.0.0.1:9/{path.name}", sha256(path)[:8])
    monkeypatch.setattr("pipeline.backbones.squeezenet.SqueezeNet.imagenet", published)
    assert build_backbone("squeezenet", "imagenet")[1] == WeightsRecord("imagenet", sha256(path))
    with pytest.raises(PipelineError, match="made for squeezenet"):
        build_backbone("squeezenet_bypass", "imagenet")


@pytest.mark.shared
@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
def test_real_weights_load(shared: Path, suffix: str) -> None:
    path = shared / "weights" / f"squeezenet1_1_imagenet.{suffix}"
    backbone, record = build_backbone("squeezenet", str(path))
    assert record == WeightsRecord(path.name, sha256(path))
    assert sum(value.numel() for value in backbone.parameters()) == 722_496
