"""Video encoders: networks that map clips to tokens, with a map for each step in time."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from pipeline.backbones.backbone import Backbone
from pipeline.backbones.preprocessing import Preprocessing
from pipeline.errors import PipelineError, ShapeError


class VideoEncoder(Backbone):
    """A network that maps normalised clips (B, F, 3, H, W) to tokens (B, t·h·w, C).

    A segment of the store is one of the t steps in time, a tubelet of F / t frames. The network mixes the frames of a
    clip, so features of different segments are not independent.

    Raises:
        PipelineError: `num_frames` or `grid` is impossible, or the tokens do not fill the grid.
    """

    def __init__(
        self, name: str, encoder: nn.Module, num_frames: int, grid: tuple[int, int, int], preprocessing: Preprocessing
    ) -> None:
        self.name, self.preprocessing = name, preprocessing
        super().__init__()
        if num_frames < 2 or num_frames % grid[0] or grid[1] != grid[2]:
            raise PipelineError(
                f"The network of {name} must have at least 2 frames, a number that the t of its grid divides, and h "
                f"equal to w; it has `num_frames` (={num_frames}) and `grid` (={grid})."
            )
        self.clip_frames, self._grid = num_frames, grid
        self.frames_per_map, self.map_size = num_frames // grid[0], grid[1]
        self.encoder = encoder
        self.channels = self._num_channels()

    def tokens(self, clips: Tensor) -> Tensor:
        """Compute the tokens of normalised clips. Shape: (B, F, 3, H, W) -> (B, t·h·w, C)."""
        found: Tensor = self.encoder(clips)
        return found

    def forward_features(self, inputs: Tensor) -> Tensor:
        if len(inputs) % self.clip_frames:
            raise ShapeError(f"{self.name} reads clips of {self.clip_frames} frames, not {len(inputs)} frames.")
        tokens = self.tokens(inputs.unflatten(0, (-1, self.clip_frames)))  # (B, t·h·w, C)
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

    def set_input_size(self, size: int) -> None:
        if size != self.preprocessing.input_size:
            raise PipelineError(
                f"{self.name} reads inputs of {self.preprocessing.input_size} pixels, not {size}; its size is fixed."
            )

    def _num_channels(self) -> int:
        size = self.preprocessing.input_size
        first = next(self.encoder.parameters())
        clip = torch.zeros(self.clip_frames, 3, size, size, dtype=first.dtype, device=first.device)
        with torch.no_grad():
            return self.eval().forward_features(clip).shape[1]
