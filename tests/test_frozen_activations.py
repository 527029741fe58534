"""Activations of frozen layers that are computed once: the same training as without, and the same after a kill."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from pipeline.backbones import build_backbone
from pipeline.errors import PipelineError
from pipeline.finetune import frozen as frozen_module
from pipeline.finetune.clip_loader import ClipLoader
from pipeline.finetune.frozen import why_not_cached
from pipeline.finetune.model import freeze_up_to, num_frozen_parts
from pipeline.recipe import named_recipe
from tests.conftest import REPOSITORY
from tests.support.killed_runs import finetune_command, kill_when
from tests.support.run_stages import finetune
from tests.support.small_clips import PLAIN, write_clips, write_model
from tests.support.training_fixtures import quick_model, small_manifest  # noqa: F401

OVERRIDES = {"lr": 0.01, "backbone_lr": 0.001, "schedule": "steps", "fixed_views": 2, **PLAIN}
QUICK: dict[str, Any] = {
    "precision": "float32", "threads": 1, "workers": 0, "accumulate": 1, "epochs": 4, "batch_size": 3,
    "freeze_until": "features.7", "overrides": OVERRIDES,
}  # fmt: skip
FILES = ("history.csv", "predictions.csv", "model.safetensors", "metrics.json")


@pytest.fixture(scope="module")
def cached(manifest: Path, model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("cached")
    finetune(manifest=manifest, init=model, out=out, **QUICK)
    return out / "squeezenet-mlp"


def files(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in FILES}


def test_the_training_is_that_without_the_cache(cached: Path, manifest: Path, model: Path, tmp_path: Path) -> None:
    """To rounding: the frozen layers compute other batches, for which convolutions may sum in another order."""
    finetune(manifest=manifest, init=model, out=tmp_path, **QUICK, cache_frozen=False)
    plain = load_file(tmp_path / "squeezenet-mlp" / "model.safetensors")
    before, after = load_file(model), load_file(cached / "model.safetensors")
    assert max(float((after[name] - value).abs().max()) for name, value in plain.items()) < 1e-6
    assert float((after["head.layers.1.weight"] - before["head.layers.1.weight"]).abs().max()) > 1e-3
    assert not torch.equal(before["backbone.features.9.squeeze.weight"], after["backbone.features.9.squeeze.weight"])
    assert torch.equal(before["backbone.features.7.squeeze.weight"], after["backbone.features.7.squeeze.weight"])


@pytest.mark.parametrize(
    ("backbone", "freeze_until", "more"),
    [
        ("bninception", "inception_3c_double_3x3_2_bn", {}),
        ("bninception", "inception_3c_3x3", {"checkpointing": True}),  # in the middle of a module
        ("squeezenet", "features.4", {"precision": "bfloat16", "augment_on_device": True}),
        ("squeezenet", "features.12", {}),
    ],
)
def test_other_networks_layers_and_types_train_alike(
    manifest: Path, tmp_path: Path, backbone: str, freeze_until: str, more: dict[str, Any]
) -> None:
    init = write_model(tmp_path / "model.safetensors", backbone=backbone, input_size=64)
    settings = {**QUICK, "epochs": 2, "freeze_until": freeze_until, **more}
    weights = []
    for cache in (True, False):
        out = tmp_path / str(cache)
        finetune(manifest=manifest, init=init, out=out, **settings, cache_frozen=cache)
        weights.append(load_file(out / f"{backbone}-mlp" / "model.safetensors"))
    before = load_file(init)
    changes = [float((weights[0][name] - value).abs().max()) for name, value in before.items()]
    differences = [float((weights[0][name] - weights[1][name]).abs().max()) for name in before]
    assert max(differences) <= 1e-6 < 1e-4 < max(changes)


def test_each_view_is_decoded_once_and_epochs_repeat_the_views(
    manifest: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded: list[tuple[str, int | None]] = []
    original = ClipLoader.samples

    def counted(self: ClipLoader, requests: Any, settings: Any) -> Any:
        for sample in original(self, requests, settings):
            decoded.append((sample.request.clip.clip_id, sample.request.epoch))
            yield sample

    monkeypatch.setattr(ClipLoader, "samples", counted)
    settings = {"manifest": manifest, "init": model, **QUICK}
    finetune(out=tmp_path / "cached", **settings)
    train, select = [f"clip{number:02d}" for number in range(7)], [f"clip{number:02d}" for number in range(7, 12)]
    expected = [(clip, view) for view in (0, 1) for clip in train] + [(clip, None) for clip in select]
    assert decoded == expected
    decoded.clear()
    finetune(out=tmp_path / "plain", **settings, cache_frozen=False)
    views = [view for _, view in decoded if view is not None]
    assert views == [0] * 7 + [0] * 7 + [1] * 7 + [0] * 7 + [1] * 7  # the start, then four epochs


def test_a_killed_training_leaves_no_file_and_goes_on_to_the_same_bytes(
    cached: Path, manifest: Path, model: Path, tmp_path: Path
) -> None:
    settings = {
        **QUICK, "manifest": str(manifest), "init": str(model), "out": str(tmp_path / "out"), "checkpoint_seconds": 0,
    }  # fmt: skip
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    folder = tmp_path / "out" / "squeezenet-mlp"
    kill_when((folder / "checkpoints" / "seed-0" / "step-00000007.pt").exists, settings, TMPDIR=str(scratch))
    (left,) = scratch.rglob("activations.bin")
    # 14 training and 5 test views of 2 frames: 3×3 maps of 256 channels behind features.8, a layer without parameters.
    assert left.stat().st_size == (14 + 5) * 2 * 3 * 3 * 256 * 4
    environment = {**os.environ, "TMPDIR": str(scratch)}
    subprocess.run(finetune_command(settings), cwd=REPOSITORY, env=environment, check=True, capture_output=True)
    assert not list(scratch.rglob("activations.bin"))
    assert files(folder) == files(cached)


def test_a_bad_clip_is_counted_once(model: Path, tmp_path: Path) -> None:
    manifest = write_clips(tmp_path)
    for path in (tmp_path / "clips" / "clip02").iterdir():
        path.unlink()
    metrics = finetune(manifest=manifest, init=model, out=tmp_path / "out", **QUICK)
    assert (metrics["num_failed"], metrics["num_train"]) == (1, 6)


def test_too_little_space_names_the_way_out(
    manifest: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Full:
        free = 1000

    monkeypatch.setattr(frozen_module.shutil, "disk_usage", lambda _: Full)
    with pytest.raises(PipelineError, match=r"GB are free. Set TMPDIR .*--fixed-views \(=2\).*--no-cache-frozen"):
        finetune(manifest=manifest, init=model, out=tmp_path, **QUICK)


def test_what_cannot_be_cached_is_said() -> None:
    backbone = build_backbone("squeezenet", "random")[0]
    assert why_not_cached(backbone, 1, False) == ["the first part of squeezenet is not frozen as a whole"]
    freeze_up_to(backbone, "features.6.squeeze")
    assert num_frozen_parts(backbone) == 6  # up to the pooling before the module that is frozen in part
    assert why_not_cached(backbone, 1, False) == []
    assert why_not_cached(backbone, 2, True) == ["there are several processes", "the backbone is compiled"]
    other = build_backbone("torchvision:resnet18", "random")[0]
    assert why_not_cached(other, 1, False) == ["torchvision:resnet18 is not divided into parts"]


@pytest.mark.parametrize("name", ["squeezenet", "squeezenet_bypass", "bninception"])
def test_the_parts_of_a_network_are_the_network(name: str) -> None:
    backbone = build_backbone(name, "random")[0].eval()
    inputs = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(backbone.run_parts(inputs), backbone.forward_features(inputs))
        half = backbone.run_parts(inputs, stop=5)
        assert torch.equal(backbone.run_parts(half, start=5), backbone.forward_features(inputs))
    names = [name for name, _ in backbone.named_parameters()]
    assert all(any(name.startswith(part.prefix) for part in backbone.parts()) for name in names)


def test_without_fixed_views_a_recipe_is_written_as_before() -> None:
    assert named_recipe("finetune").as_dict()["finetune"].keys() == {"min_steps", "ema_decay", "interpolate"}
    recipe = named_recipe("paper").with_overrides(fixed_views=3)
    assert recipe.as_dict()["finetune"]["fixed_views"] == 3
