"""Export a saved model to ONNX or `torch.export`, and check that it gives the scores of torch."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from pipeline.backbones import pooled
from pipeline.errors import PipelineError
from pipeline.files import atomic_path
from pipeline.model import Classifier
from pipeline.onnx_program import Run, capture, load_onnx, require_engine, to_onnx

INPUT, OUTPUT = "frames", "scores"
BATCH = "batch"
# Other batch sizes than that of the example (2), so that a fixed batch size is detected.
CHECKED_BATCHES = (1, 3)
EXAMPLE_BATCH = 2
CHECK_SEED = 0


@dataclass(frozen=True)
class Exported:
    """The exported file, and the difference of its scores from torch's, relative to the largest score."""

    path: Path
    kind: str
    input_shape: tuple[int, int, int, int]
    num_bytes: int
    difference: float
    batches: tuple[int, ...]


class Exportable(nn.Module):
    """A classifier in float32 whose batch size stays dynamic when it is traced.

    Shape:
        frames: (B, T, 3, S, S) uint8 RGB. returns: (B, K), class scores before softmax.
    """

    def __init__(self, classifier: Classifier) -> None:
        super().__init__()
        self.backbone, self.head = classifier.backbone, classifier.head
        self.num_segments = classifier.spec.num_segments

    def forward(self, frames: Tensor) -> Tensor:
        maps = self.backbone(frames.flatten(0, 1))  # (B·T, C, h, w)
        if self.head.reads == "pooled":
            maps = pooled(maps)[:, :, None, None]
        scores: Tensor = self.head(maps.unflatten(0, (-1, self.num_segments)))
        return scores


def export_model(classifier: Classifier, path: Path, tolerance: float = 1e-3) -> Exported:
    """Write a classifier to `path`, `.onnx` or `.pt2`, with any batch size, and compare its scores with torch's.

    The file is written only if the check passes.

    Raises:
        PipelineError: the suffix is not supported, the packages of ONNX are missing, or the scores differ.
    """
    kinds = {".onnx": ("ONNX", _write_onnx), ".pt2": ("torch.export", _write_program)}
    if path.suffix not in kinds:
        raise PipelineError(f"{path} must end in .onnx, or in .pt2 for torch.export.")
    kind, write = kinds[path.suffix]
    if path.suffix == ".onnx":
        require_engine("onnxruntime", "Export to ONNX", "write a .pt2, which needs no further package")
    spec = classifier.spec
    size = int(spec.preprocessing["input_size"])
    shape = (spec.num_segments, 3, size, size)
    model = Exportable(classifier).eval()
    with atomic_path(path) as aside:
        run = write(model, _frames(EXAMPLE_BATCH, shape), aside)
        difference = largest_difference(model, run, shape)
        # `not <=` is also true for NaN.
        if not difference <= tolerance:
            raise PipelineError(
                f"The {kind} program of {spec.head} gives scores that differ from torch's by {difference:.2g} of the "
                f"largest, more than `tolerance` (={tolerance:g}). Nothing was written to {path}."
            )
        num_bytes = aside.stat().st_size
    return Exported(path, kind, shape, num_bytes, difference, CHECKED_BATCHES)


def largest_difference(model: nn.Module, run: Run, shape: Sequence[int]) -> float:
    """Return the largest difference of scores on batches of random frames, relative to the largest score."""
    differences = []
    for batch in CHECKED_BATCHES:
        frames = _frames(batch, shape)
        with torch.inference_mode():
            expected = model(frames).numpy()
        found = run(frames)
        if found.shape != expected.shape:
            raise PipelineError(f"The exported program returns the shape {found.shape}, torch {expected.shape}.")
        differences.append(float(np.abs(found - expected).max() / max(float(np.abs(expected).max()), 1e-12)))
    return max(differences)


def _write_program(model: nn.Module, example: Tensor, path: Path) -> Run:
    program = _captured(model, example)
    # Through memory: torch requires its suffix, which a temporary file does not have.
    archive = io.BytesIO()
    torch.export.save(program, archive)
    path.write_bytes(archive.getvalue())
    loaded = torch.export.load(io.BytesIO(path.read_bytes())).module()

    def run(frames: Tensor) -> NDArray[np.float32]:
        with torch.inference_mode():
            scores: NDArray[np.float32] = loaded(frames).numpy()
        return scores

    return run


def _write_onnx(model: nn.Module, example: Tensor, path: Path) -> Run:
    program = to_onnx(_captured(model, example), INPUT, OUTPUT, {INPUT: {0: BATCH}})
    # One file: separate weights would be lost when the file is moved.
    program.save(path, external_data=False)
    return load_onnx(path)


def _captured(model: nn.Module, example: Tensor) -> torch.export.ExportedProgram:
    return capture(model, example, {INPUT: {0: torch.export.Dim(BATCH)}})


def _frames(batch: int, shape: Sequence[int]) -> Tensor:
    generator = torch.Generator().manual_seed(CHECK_SEED + batch)
    return torch.randint(0, 256, (batch, *shape), dtype=torch.uint8, generator=generator)
