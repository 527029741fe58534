"""A video encoder of your own: `python:MODULE:FACTORY`, a function that returns a network from clips to tokens."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from pipeline.backbones.preprocessing import IMAGENET_RGB, Preprocessing
from pipeline.backbones.video_encoder import VideoEncoder
from pipeline.errors import PipelineError


class PythonEncoder(VideoEncoder):
    """A video encoder that a function without parameters builds, with its weights.

    The network maps normalised clips (B, F, 3, H, W) to tokens (B, t·h·w, C) and has three attributes:

    - `num_frames`: F, the number of frames of a clip.
    - `grid`: (t, h, w), the order and number of its tokens; t divides F, and h equals w.
    - `preprocessing`: a mapping with `mean`, `std`, `input_size`, `crop_fraction`; what is missing is as for ImageNet.

    Raises:
        PipelineError: there is no such function, or it does not return such a network.
    """

    has_own_weights = True

    def __init__(self, name: str) -> None:
        encoder, full_name = _called(name), f"python:{name}"
        super().__init__(full_name, encoder, *_declared(encoder, full_name), _preprocessing(encoder, full_name))

    def initialise(self, seed: int) -> None:
        raise PipelineError(f"The factory of {self.name} makes its weights; use --weights imagenet, or a file.")


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
    return num_frames, grid


def _preprocessing(encoder: Any, name: str) -> Preprocessing:
    given = getattr(encoder, "preprocessing", {})
    if not isinstance(given, Mapping):
        raise PipelineError(f"`preprocessing` of the network of {name} must be a mapping, not {type(given).__name__}.")
    return Preprocessing.from_dict({**IMAGENET_RGB.as_dict(), **given})
