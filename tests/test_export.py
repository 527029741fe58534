"""Every head as ONNX and as a program of torch.export: any batch size, and the scores of torch."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from click.testing import CliRunner
from torch import nn

from pipeline.cli import cli
from pipeline.errors import PipelineError
from pipeline.heads import HEADS
from pipeline.model_file import load_model
from pipeline.predict.export import Exportable, export_model, largest_difference
from tests.test_model import classifier, save

FAST = ("tsn", "lstm", "fcn3d")
EVERY = [pytest.param(head, marks=() if head in FAST else pytest.mark.slow) for head in HEADS]


@pytest.mark.parametrize("head", EVERY)
def test_onnx_gives_the_scores_of_torch_for_any_batch(head: str, tmp_path: Path) -> None:
    model, path = classifier(head), tmp_path / "m.onnx"
    exported = export_model(model, path)
    assert exported.difference < 1e-3
    # Once more from outside: a batch that the check did not have, against the classifier itself.
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    frames = torch.randint(0, 256, (4, 8, 3, 224, 224), dtype=torch.uint8)
    with torch.inference_mode():
        expected = model(frames).numpy()
    found = session.run(None, {"frames": frames.numpy()})[0]
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-3 * np.abs(expected).max())
    assert session.get_inputs()[0].shape == ["batch", 8, 3, 224, 224]
    assert session.get_inputs()[0].type == "tensor(uint8)"
    assert [entry.name for entry in tmp_path.iterdir()] == ["m.onnx"]  # one file, weights inside


@pytest.mark.parametrize(
    "head", [pytest.param(head, marks=() if head == "trn" else pytest.mark.slow) for head in HEADS]
)
def test_torch_export_gives_the_same_scores(head: str, tmp_path: Path) -> None:
    assert export_model(classifier(head), tmp_path / "m.pt2").difference < 1e-4


def test_the_command_writes_and_says_what(tmp_path: Path) -> None:
    save(tmp_path / "m.safetensors", classifier("mlp"))
    result = CliRunner().invoke(cli, ["export", str(tmp_path / "m.safetensors"), "--out", str(tmp_path / "m.pt2")])
    assert result.exit_code == 0, result.output
    assert "Frames (B, 8, 3, 224, 224) uint8 RGB -> scores (B, 3)" in result.stdout
    assert (tmp_path / "m.pt2").is_file()


def test_without_the_extra_the_way_to_it_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "onnxscript" else find_spec(name))
    with pytest.raises(PipelineError, match=r"needs onnxscript\. Install the extra: pip install 'st-pipeline\[onnx\]'"):
        export_model(classifier("tsn"), tmp_path / "m.onnx")


def test_another_suffix_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PipelineError, match=r"must end in \.onnx"):
        export_model(classifier("tsn"), tmp_path / "m.pb")


def test_scores_that_differ_leave_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.predict.export.largest_difference", lambda *arguments: float("nan"))
    with pytest.raises(PipelineError, match="differ from torch's"):
        export_model(classifier("tsn"), tmp_path / "m.pt2")
    assert list(tmp_path.iterdir()) == []


def test_a_difference_is_found() -> None:
    class Plus(nn.Module):
        def forward(self, frames: torch.Tensor) -> torch.Tensor:
            return frames.float().flatten(1).mean(1, keepdim=True)

    model = Plus()
    assert largest_difference(model, lambda frames: model(frames).numpy(), (2, 3, 4, 4)) == 0
    assert largest_difference(model, lambda frames: 1.5 * model(frames).numpy(), (2, 3, 4, 4)) == pytest.approx(0.5)


def test_the_exported_module_is_the_classifier(tmp_path: Path) -> None:
    save(tmp_path / "m.safetensors", classifier("fcn2d"))
    model = load_model(tmp_path / "m.safetensors")
    frames = torch.randint(0, 256, (2, 8, 3, 64, 64), dtype=torch.uint8)
    with torch.inference_mode():
        torch.testing.assert_close(Exportable(model)(frames), model(frames))
