"""A video encoder of your own: `python:MODULE:FACTORY`, a function that returns a network from clips to tokens."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.backbones.backbone import Backbone
from pipeline.backbones.preprocessing import IMAGENET_RGB, Preprocessing
from pipeline.errors import PipelineError, ShapeError


class PythonEncoder(Backbone):
    """A video encoder that a function without parameters builds, with its weights.

    The network maps normalised clips (B, F, 3, H, W) to tokens (B, t·h·w, C) and has three attributes:

    - `num_frames`: F, the number of frames of a clip.
    - `grid`: (t, h, w), the order and number of its tokens; t divides F, and h equals w.
    - `preprocessing`: a mapping with `mean`, `std`, `input_size`, `crop_fraction`; what is missing is as for ImageNet.

    A segment of the store is one of the t steps in time, a tubelet of F / t frames. The network mixes the frames of a
    clip, so features of different segments are not independent.

    Raises:
        PipelineError: there is no such function, or it does not return such a network.
    """

    has_own_weights = True

    def __init__(self, name: str) -> None:
        encoder = _called(name)
        self.name = f"python:{name}"
        self.clip_frames, self._grid = _declared(encoder, self.name)
        self.preprocessing = _preprocessing(encoder, self.name)
        super().__init__()
        self.frames_per_map, self.map_size = self.clip_frames // self._grid[0], self._grid[1]
        self.encoder = encoder
        self.channels = _channels(self)

    def forward_features(self, inputs: Tensor) -> Tensor:
        if len(inputs) % self.clip_frames:
            raise ShapeError(f"{self.name} reads clips of {self.clip_frames} frames, not {len(inputs)} frames.")
        tokens = self.encoder(inputs.unflatten(0, (-1, self.clip_frames)))  # (B, t·h·w, C)
        steps, height, width = self._grid
        if tokens.ndim != 3 or tokens.shape[1] != steps * height * width:
            raise ShapeError(
                f"The network of {self.name} must return (B, {steps * height * width}, C) for its grid {self._grid}, "
                f"but returns {tuple(tokens.shape)}."
            )
        maps: Tensor = tokens.unflatten(1, self._grid).flatten(0, 1).permute(0, 3, 1, 2)  # (B·t, C, h, w)
        return maps

    def weight_tensors(self) -> dict[str, Tensor]:
        return self.encoder.state_dict()

    def initialise(self, seed: int) -> None:
        raise PipelineError(f"The factory of {self.name} makes its weights; use --weights imagenet, or a file.")

    def set_input_size(self, size: int) -> None:
        if size != self.preprocessing.input_size:
            raise PipelineError(
                f"{self.name} reads inputs of {self.preprocessing.input_size} pixels, not {size}; its factory decides."
            )


def _called(name: str) -> nn.Module:
    module, colon, function = name.partition(":")
    if not (module and colon and function):
        raise PipelineError(f"'python:{name}' must be python:MODULE:FACTORY, such as python:encoders:tiny_vit.")
    folder = str(Path.cwd())
    if folder not in sys.path:
        sys.path.append(folder)  # a module beside the study; the `pipeline` script does not look there
    try:
        factory = getattr(importlib.import_module(module), function)
    except (ModuleNotFoundError, AttributeError) as error:
        raise PipelineError(
            f"python:{name} does not exist: {error}. The module is looked up in {folder} too."
        ) from error
    encoder = factory()
    if not isinstance(encoder, nn.Module):
        raise PipelineError(f"python:{name} must return a torch.nn.Module, but returns a {type(encoder).__name__}.")
    return encoder


def _declared(encoder: Any, name: str) -> tuple[int, tuple[int, int, int]]:
    num_frames, grid = getattr(encoder, "num_frames", None), tuple(getattr(encoder, "grid", ()))
    numbers = (num_frames, *grid)
    if len(grid) != 3 or not all(type(number) is int and number > 0 for number in numbers):
        raise PipelineError(
            f"The network of {name} must have `num_frames` (={num_frames!r}) and `grid` (={grid!r}), three integers "
            "(t, h, w)."
        )
    assert isinstance(num_frames, int)
    if num_frames < 2 or num_frames % grid[0] or grid[1] != grid[2]:
        raise PipelineError(
            f"The network of {name} must have at least 2 frames, a number that the t of its grid divides, and h equal "
            f"to w; it has `num_frames` (={num_frames}) and `grid` (={grid})."
        )
    return num_frames, grid


def _preprocessing(encoder: Any, name: str) -> Preprocessing:
    given = getattr(encoder, "preprocessing", {})
    if not isinstance(given, Mapping):
        raise PipelineError(f"`preprocessing` of the network of {name} must be a mapping, not {type(given).__name__}.")
    return Preprocessing.from_dict({**IMAGENET_RGB.as_dict(), **given})


def _channels(backbone: PythonEncoder) -> int:
    size = backbone.preprocessing.input_size
    with torch.no_grad():
        first = next(backbone.encoder.parameters())
        clip = torch.zeros(backbone.clip_frames, 3, size, size, dtype=first.dtype, device=first.device)
        return backbone.eval().forward_features(clip).shape[1]
