"""Extraction by ONNX Runtime: the features of torch, or a sentence."""

from __future__ import annotations

import importlib
import importlib.metadata
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.backbones import build_backbone
from pipeline.errors import PipelineError
from pipeline.extract.compute import RunnerConfig
from pipeline.extract.forward import BackboneRunner
from pipeline.onnx_program import ONNX_PACKAGES, has_onnx
from pipeline.store import FeatureStore
from tests.support.run_stages import extract, store_verify
from tests.support.small_clips import write_clips

pytestmark = pytest.mark.skipif(not has_onnx(), reason="needs the extra onnx")


@pytest.mark.parametrize("name", ["squeezenet", "bninception", "torchvision:resnet18"])
def test_onnx_runtime_gives_the_features_of_torch(name: str) -> None:
    frames = torch.randint(0, 256, (3, 3, 224, 224), dtype=torch.uint8).contiguous(memory_format=torch.channels_last)
    found = {}
    for mode in ("eager", "onnxruntime"):
        backbone, _ = build_backbone(name, "random", seed=0)
        found[mode] = BackboneRunner(backbone, RunnerConfig("float32", mode, "", 2))(frames, keep_maps=True)
    for expected, values in zip(found["eager"], found["onnxruntime"], strict=True):
        assert values.shape == expected.shape
        assert values.flags.c_contiguous
        # A unit of float16 is 2^-10 of a value; the two engines round to different neighbours.
        np.testing.assert_allclose(values.astype(np.float64), expected.astype(np.float64), rtol=2**-9, atol=2e-4)


def test_a_backbone_that_onnx_gives_wrongly_or_not_at_all_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    backbone, _ = build_backbone("squeezenet", "random", seed=0)
    module = "pipeline.extract.forward"
    right = importlib.import_module(module).load_onnx

    def wrong(program: bytes, threads: int) -> Callable[[torch.Tensor], np.ndarray]:
        return lambda values: right(program, threads)(values) * 1.001

    monkeypatch.setattr(f"{module}.load_onnx", wrong)
    with pytest.raises(PipelineError, match=r"its maps of squeezenet differ from torch's by 0\.001 of their norm"):
        BackboneRunner(backbone, RunnerConfig("float32", "onnxruntime", "", 1))

    def failing(*given: object) -> None:
        raise RuntimeError("No such operation.\nMore lines.")

    monkeypatch.setattr(f"{module}.to_onnx", failing)
    with pytest.raises(
        PipelineError, match=r"squeezenet cannot be converted to ONNX \(No such operation\.\)\. Use jit"
    ):
        BackboneRunner(backbone, RunnerConfig("float32", "onnxruntime", "", 1))


def test_a_store_of_onnx_runtime_is_extended_and_checked_by_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    manifest = write_clips(tmp_path, num_train=2, num_val=1)
    request = {"manifest": manifest, "store": tmp_path / "s.zarr", "weights": "random", "num_segments": 2, "workers": 0}
    extract(**request, views=0, compile="onnxruntime")
    again = extract(**request, views=1)
    assert again.settings.compile_mode == "onnxruntime"
    assert again.settings.compute_dtype == "float32"
    assert again.num_checked_again > 0
    provenance = FeatureStore.open(tmp_path / "s.zarr").provenance
    assert {name: provenance["versions"][name] for name in ONNX_PACKAGES} == {
        name: importlib.metadata.version(name) for name in ONNX_PACKAGES
    }
    assert not store_verify(store=tmp_path / "s.zarr", samples=2)
    assert "differ" not in capsys.readouterr().out


def test_a_store_of_onnx_runtime_is_refused_with_both_modes_where_it_is_not_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest = write_clips(tmp_path, num_train=2, num_val=1)
    request = {"manifest": manifest, "store": tmp_path / "s.zarr", "weights": "random", "num_segments": 2, "workers": 0}
    extract(**request, views=0, compile="onnxruntime")
    monkeypatch.setattr("pipeline.extract.compute.has_onnx", lambda: False)
    with pytest.raises(PipelineError) as refused:
        extract(**request, views=1)  # `--compile auto`
    assert "onnxruntime" in str(refused.value)
    assert "compile_mode=jit" in str(refused.value)
    assert "use auto" not in str(refused.value)
