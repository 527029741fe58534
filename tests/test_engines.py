"""Extraction by ONNX Runtime and OpenVINO: the features of torch, or a sentence."""

from __future__ import annotations

import dataclasses
import importlib
import importlib.metadata
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.backbones import Backbone, build_backbone
from pipeline.backbones.preprocessing import IMAGENET_RGB
from pipeline.devices import has_compiler
from pipeline.errors import PipelineError
from pipeline.extract.compute import RunnerConfig, bfloat16_error
from pipeline.extract.forward import BackboneRunner
from pipeline.onnx_program import ENGINES, has_engine
from pipeline.store import FeatureStore
from tests.support.run_stages import extract, store_verify
from tests.support.small_clips import write_clips

needs = {
    engine: pytest.mark.skipif(not has_engine(engine), reason=f"needs the packages of {engine}") for engine in ENGINES
}
every_engine = pytest.mark.parametrize("engine", [pytest.param(engine, marks=mark) for engine, mark in needs.items()])
BACKBONES = ("squeezenet", "bninception", "torchvision:resnet18")


class TwoConvolutions(Backbone):
    """A backbone that is compiled in seconds."""

    name, channels, map_size = "two_convolutions", 16, 16
    preprocessing = dataclasses.replace(IMAGENET_RGB, input_size=32)

    def __init__(self) -> None:
        super().__init__()
        self.layers = torch.nn.Sequential(
            torch.nn.Conv2d(3, 16, 3, stride=2, padding=1), torch.nn.ReLU(), torch.nn.Conv2d(16, 16, 1)
        )

    def forward_features(self, inputs: torch.Tensor) -> torch.Tensor:
        maps: torch.Tensor = self.layers(inputs)
        return maps


def some_frames(number: int) -> torch.Tensor:
    frames = torch.randint(0, 256, (number, 3, 224, 224), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    return frames.contiguous(memory_format=torch.channels_last)


def features(name: str, frames: torch.Tensor, mode: str, dtype: str = "float32") -> tuple[np.ndarray, np.ndarray]:
    backbone, _ = build_backbone(name, "random", seed=0)
    vectors, maps = BackboneRunner(backbone, RunnerConfig(dtype, mode, "", 2))(frames, keep_maps=True)
    assert maps is not None
    return vectors, maps


@every_engine
@pytest.mark.parametrize("name", BACKBONES)
def test_an_engine_gives_the_features_of_torch(engine: str, name: str) -> None:
    frames = some_frames(3)  # a whole batch and a padded one
    for expected, values in zip(features(name, frames, "eager"), features(name, frames, engine), strict=True):
        assert values.shape == expected.shape
        assert values.flags.c_contiguous
        # A unit of float16 is 2^-10 of a value; the two engines round to different neighbours.
        np.testing.assert_allclose(values.astype(np.float64), expected.astype(np.float64), rtol=2**-9, atol=2e-4)


def has_bfloat16_in_openvino() -> bool:
    openvino = importlib.import_module("openvino")
    return "BF16" in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


@needs["openvino"]
@pytest.mark.parametrize("name", BACKBONES)
def test_openvino_in_bfloat16_is_as_exact_as_torch_or_refused(name: str) -> None:
    if not has_bfloat16_in_openvino():
        with pytest.raises(PipelineError, match="only on processors that have instructions for it"):
            features(name, some_frames(2), "openvino", "bfloat16")
        return
    frames = some_frames(4)
    exact = features(name, frames, "eager")[1].astype(np.float64)
    found = features(name, frames, "openvino", "bfloat16")[1].astype(np.float64)
    error = float(np.linalg.norm(found - exact) / np.linalg.norm(exact))
    expected = bfloat16_error(build_backbone(name, "random", seed=0)[0], frames)
    assert 0.3 * expected < error < 1.2 * expected  # bfloat16 has 8 bits: a smaller error would be of another type


@needs["openvino"]
def test_openvino_does_not_bind_its_threads_to_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise several processes can share the first core."""
    core = importlib.import_module("openvino").Core
    compile_model, made = core.compile_model, []

    def noted(*given: object) -> object:
        made.append(compile_model(*given))
        return made[-1]

    monkeypatch.setattr(core, "compile_model", noted)
    features("squeezenet", some_frames(2), "openvino")
    assert [model.get_property("ENABLE_CPU_PINNING") for model in made] == [False]


@every_engine
def test_a_backbone_that_an_engine_gives_wrongly_or_not_at_all_is_refused(
    engine: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = "pipeline.extract.converted"
    load = {"onnxruntime": "load_onnx", "openvino": "load_openvino"}[engine]
    right = getattr(importlib.import_module(module), load)

    def wrong(*given: object) -> Callable[[torch.Tensor], np.ndarray]:
        return lambda values: right(*given)(values) * 1.001

    monkeypatch.setattr(f"{module}.{load}", wrong)
    with pytest.raises(PipelineError, match=r"its maps of squeezenet differ from torch's by 0\.001 of their norm"):
        features("squeezenet", some_frames(1), engine)

    def failing(*given: object) -> None:
        raise RuntimeError("No such operation.\nMore lines.")

    monkeypatch.setattr(f"{module}.to_onnx", failing)
    expected = rf"{engine}, but squeezenet cannot be converted for it \(No such operation\.\)\. Use jit\."
    with pytest.raises(PipelineError, match=expected):
        features("squeezenet", some_frames(1), engine)


@every_engine
def test_a_store_of_an_engine_is_extended_and_checked_by_it(
    engine: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    manifest = write_clips(tmp_path, num_train=2, num_val=1)
    request = {"manifest": manifest, "store": tmp_path / "s.zarr", "weights": "random", "num_segments": 2, "workers": 0}
    extract(**request, views=0, compile=engine, dtype="float32")
    again = extract(**request, views=1)
    assert again.settings.compile_mode == engine
    assert again.settings.compute_dtype == "float32"
    assert again.num_checked_again > 0
    provenance = FeatureStore.open(tmp_path / "s.zarr").provenance
    packages = ENGINES[engine].packages
    assert {name: provenance["versions"][name] for name in packages} == {
        name: importlib.metadata.version(name).partition("+")[0] for name in packages
    }
    assert not store_verify(store=tmp_path / "s.zarr", samples=2)
    assert "differ" not in capsys.readouterr().out


@every_engine
def test_a_store_of_an_engine_is_refused_with_both_modes_where_it_is_not_installed(
    engine: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest = write_clips(tmp_path, num_train=2, num_val=1)
    request = {"manifest": manifest, "store": tmp_path / "s.zarr", "weights": "random", "num_segments": 2, "workers": 0}
    extract(**request, views=0, compile=engine, dtype="float32")
    monkeypatch.setattr("pipeline.extract.compute.has_engine", lambda engine: False)
    with pytest.raises(PipelineError) as refused:
        extract(**request, views=1)  # `--compile auto`
    assert engine in str(refused.value)
    assert "compile_mode=jit" in str(refused.value)
    assert "use auto" not in str(refused.value)


@pytest.mark.skipif(not has_compiler(), reason="needs a C++ compiler")
@pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="needs oneDNN")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of inductor
def test_inductor_packs_the_weights_once_for_whole_and_padded_batches() -> None:
    """`torch.compile(options={"freezing": True})` packed them for each batch, and compiled again for a padded one."""
    frames = some_frames(3)[:, :, :32, :32]
    with torch._dynamo.config.patch(recompile_limit=1):  # a process may have any number of runners
        for _ in range(2):
            runner = BackboneRunner(TwoConvolutions(), RunnerConfig("float32", "inductor", "", 2))
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        _, maps = runner(frames[[0, 1, 0]].contiguous(memory_format=torch.channels_last), keep_maps=True)
    assert maps is not None
    np.testing.assert_array_equal(maps[0], maps[2])
    names = {event.key for event in profile.key_averages()}
    assert "mkldnn::_convolution_pointwise" in names
    assert "aten::mkldnn_convolution" not in names


def test_a_backbone_that_torch_cannot_compile_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """`auto` then takes another way."""
    backbone, _ = build_backbone("squeezenet", "random", seed=0)
    compute = type(backbone).forward

    def by_value(module: torch.nn.Module, frames: torch.Tensor) -> torch.Tensor:
        return compute(module, frames) if frames.sum() < 10**9 else compute(module, frames.flip(0))

    monkeypatch.setattr(type(backbone), "forward", by_value)
    with pytest.raises(
        PipelineError, match=r"`compile` is inductor, but squeezenet cannot be compiled \(.*\)\. Use jit"
    ):
        BackboneRunner(backbone, RunnerConfig("float32", "inductor", "", 1))


@needs["onnxruntime"]
def test_onnx_runtime_alone_makes_auto_float32(tmp_path: Path) -> None:
    manifest = write_clips(tmp_path, num_train=2, num_val=1)
    request = {"manifest": manifest, "store": tmp_path / "s.zarr", "weights": "random", "num_segments": 2, "workers": 0}
    assert extract(**request, views=0, compile="onnxruntime").settings.compute_dtype == "float32"
