"""The contract of a backbone: uint8 frames in, feature maps of a declared size out."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from pipeline.backbones.blocks import blocks_of_children
from pipeline.backbones.download import PublishedWeights, fetch
from pipeline.backbones.initialisation import initialise_he
from pipeline.backbones.preprocessing import Preprocessing
from pipeline.errors import PipelineError, ShapeError

# Bounds of the side of the input, in pixels.
MIN_INPUT_SIZE, MAX_INPUT_SIZE = 32, 1024


class BackbonePart(NamedTuple):
    """A part of a network. prefix: that of the names of its parameters."""

    run: Callable[[Tensor], Tensor]
    prefix: str


class Backbone(nn.Module):
    """A 2D network whose feature maps the heads read.

    A subclass declares `name`, `channels`, `map_size` and `preprocessing` and implements `forward_features`. The
    declaration is for square inputs of `preprocessing.input_size` pixels; a test checks it for every backbone.

    Normalisation is part of the module, so frames are copied to the device as bytes. It is always in float32: the
    constants stay exact when the module is cast to bfloat16.

    Shape:
        frames:  (N, 3, H, W) uint8, RGB; any memory format, channels_last is the fastest.
        returns: (N, C, h, w), float; (N / frames_per_map, C, h, w) for a video encoder, with N a multiple of
            clip_frames.

    Source: paper, Sec. 3.2 (feature extraction by a 2D CNN without its last pooling and classifier).
    """

    name: str
    channels: int
    map_size: int
    preprocessing: Preprocessing
    ignored_prefixes: tuple[str, ...] = ()
    """Prefixes of keys in weight files that belong to the classifier, which is not part of a backbone."""
    imagenet: PublishedWeights | None = None
    """The published ImageNet weights."""
    clip_frames: int = 1
    """Number of frames that the network reads together: 1 for an image network, more for a video encoder."""
    frames_per_map: int = 1
    """Number of successive frames from which a map is computed; it divides `clip_frames`."""
    has_own_weights = False
    """Whether the network is built with its weights, so that `imagenet` reads no file."""
    packages: tuple[str, ...] = ()
    """Packages that define the layers, whose versions a store records, besides those that every store names."""
    license: str = ""
    """The licence of the published weights, if it is known."""
    named_input_size: int | None = None
    """The input size that the name asks for, such as 112 in `timm:NAME@112`."""
    weights_come_from: str = ""
    """The backbone whose weights have the same keys and shapes, if this one has no published weights."""
    has_blocks = False
    """Whether `forward_features` runs its parts through `run_block`, so that `recompute` saves memory."""
    recompute = False
    """Whether the backward pass recomputes the activations inside each block, instead of storing them."""

    _pixel_scale: Tensor
    _pixel_shift: Tensor

    def __init__(self) -> None:
        super().__init__()
        scale, shift = _affine(self.preprocessing)
        # Not persistent: preprocessing is part of the declaration, not of weight files.
        self.register_buffer("_pixel_scale", scale, persistent=False)
        self.register_buffer("_pixel_shift", shift, persistent=False)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        # `.to(bfloat16)` would round the constants and `.to_empty()` lose them: only the device changes.
        super()._apply(fn, recurse)
        scale, shift = _affine(self.preprocessing)
        self._pixel_scale = scale.to(self._pixel_scale.device)
        self._pixel_shift = shift.to(self._pixel_shift.device)
        return self

    def normalise(self, frames: Tensor) -> Tensor:
        """Normalise uint8 RGB frames for the first layer, in the type of the weights.

        Shape:
            frames:  (N, 3, H, W) uint8.
            returns: the same, float.
        """
        pixels = frames.to(torch.float32)
        if self.preprocessing.channel_order == "BGR":
            pixels = pixels.flip(1)
        return (pixels * self._pixel_scale + self._pixel_shift).to(self.weight_dtype)

    @property
    def weight_dtype(self) -> torch.dtype:
        """The type of the first weight, in which the layers compute without autocast."""
        return next(self.parameters()).dtype

    def forward(self, frames: Tensor) -> Tensor:
        """Normalise the frames and compute their feature maps.

        Raises:
            ShapeError: the frames are not uint8 of shape (N, 3, H, W).
        """
        if frames.dtype != torch.uint8 or frames.ndim != 4 or frames.shape[1] != 3:
            raise ShapeError(
                f"`frames` must be uint8 with the axes (N, 3, H, W), "
                f"but is {frames.dtype} of shape {tuple(frames.shape)}."
            )
        return self.forward_features(self.normalise(frames))

    def forward_features(self, inputs: Tensor) -> Tensor:
        """Compute the feature maps of normalised frames.

        Shape:
            inputs:  (N, 3, H, W), float.
            returns: (N, C, h, w), float.
        """
        raise NotImplementedError(f"{type(self).__name__} does not implement forward_features().")

    def reduce_maps(self, maps: Tensor, size: int) -> Tensor:
        """Average feature maps to `size` × `size`, in float32; if this is `map_size`, they are returned unchanged.

        Shape:
            maps:    (N, C, h, w).
            returns: (N, C, size, size).
        """
        return maps if size == self.map_size else nn.functional.adaptive_avg_pool2d(maps.float(), size)

    def run_block(self, block: Callable[[Tensor], Tensor], inputs: Tensor) -> Tensor:
        """Run one part of the network; with `recompute`, only its inputs are stored for the backward pass."""
        if not self.recompute or not torch.is_grad_enabled():
            return block(inputs)
        outputs: Tensor = checkpoint(block, inputs, use_reentrant=False)
        return outputs

    def parts(self) -> Sequence[BackbonePart]:
        """Return the functions whose composition is `forward_features`; empty if the network is not divided."""
        return ()

    def run_parts(self, inputs: Tensor, start: int = 0, stop: int | None = None) -> Tensor:
        """Run some of the parts, such as those behind frozen ones.

        Shape:
            inputs:  (N, 3, H, W) normalised, or the outputs of part `start - 1`.
        """
        for part in self.parts()[start:stop]:
            inputs = self.run_block(part.run, inputs)
        return inputs

    def block_of_parameters(self) -> dict[str, int]:
        """Return the number of the block of each parameter, by name; block 0 reads the input."""
        return blocks_of_children(self)

    def initialise(self, seed: int) -> None:
        """Set random weights: the same seed gives the same weights on every machine."""
        initialise_he(self, seed)

    def set_input_size(self, size: int) -> None:
        """Declare another side of the square input, in pixels; the size of the maps follows from it.

        Raises:
            PipelineError: the size is out of range, or the network has no map for it.
        """
        if size == self.preprocessing.input_size:
            return
        if not MIN_INPUT_SIZE <= size <= MAX_INPUT_SIZE:
            raise PipelineError(f"`input_size` (={size}) must be from {MIN_INPUT_SIZE} to {MAX_INPUT_SIZE} pixels.")
        try:
            with torch.inference_mode():
                maps = self.eval().forward_features(torch.zeros(self.clip_frames, 3, size, size))
        except (RuntimeError, AssertionError, ValueError) as error:  # transformers assert their size
            raise PipelineError(
                f"Backbone '{self.name}' cannot read inputs of {size} pixels ({error}). Leave out --input-size."
            ) from error
        self.preprocessing = dataclasses.replace(self.preprocessing, input_size=size)
        self.map_size = maps.shape[-1]

    def weight_tensors(self) -> dict[str, Tensor]:
        """Return the tensors that a weight file sets, by their names in the file."""
        return self.state_dict()

    def published_file(self) -> tuple[Path, str]:
        """Return the path of the published weights and their SHA-256; they are downloaded once.

        Raises:
            PipelineError: there are none, or they cannot be downloaded.
        """
        if self.imagenet is None:
            raise PipelineError(
                f"No ImageNet weights of {self.name} are known; pass the path of a weight file, or 'random'."
            )
        return fetch(self.imagenet)

    def convert_tensors(self, tensors: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """Rename the tensors of a weight file in another format of the same network; by default, there is none."""
        return tensors

    def extra_repr(self) -> str:
        return f"{self.name}: {self.channels}×{self.map_size}×{self.map_size}"

    def __call__(self, *args: Any, **kwargs: Any) -> Tensor:
        result: Tensor = super().__call__(*args, **kwargs)
        return result


def pooled(maps: Tensor) -> Tensor:
    """Compute the mean of each feature map, summed in float32 for maps of any type.

    Shape:
        maps:    (N, C, h, w).
        returns: (N, C), float32.
    """
    return maps.mean(dim=(2, 3), dtype=torch.float32)


def _affine(preprocessing: Preprocessing) -> tuple[Tensor, Tensor]:
    # (x * scale - mean) / std as one multiplication and one addition, computed in float64.
    std = torch.tensor(preprocessing.std, dtype=torch.float64)
    mean = torch.tensor(preprocessing.mean, dtype=torch.float64)
    factor, shift = preprocessing.scale / std, -mean / std
    return factor.float().view(1, 3, 1, 1), shift.float().view(1, 3, 1, 1)
