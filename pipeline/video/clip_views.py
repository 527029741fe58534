"""Load the views of one clip: decode every frame that a view shows once, and render each view."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from pipeline.clip_errors import clip_errors
from pipeline.video.decode import open_clip
from pipeline.video.limits import DEFAULT_LIMITS, ClipLimits
from pipeline.video.reader import ClipReader
from pipeline.video.render import render
from pipeline.video.views import View

ViewChooser = Callable[[int, int, int], Sequence[View]]
"""Callable that chooses the views of a clip from its number of frames, height and width in pixels."""


@dataclass(frozen=True)
class ClipViews:
    """Rendered views of one clip.

    Shape:
        pixels: one (T, 3, S, S) uint8 for each view.
    """

    location: str
    num_frames: int
    height: int
    width: int
    views: tuple[View, ...]
    pixels: tuple[Tensor, ...]


def load_clip_views(
    location: str, choose_views: ViewChooser, input_size: int, limits: ClipLimits = DEFAULT_LIMITS
) -> ClipViews:
    """Decode a clip once and render its views at `input_size` pixels.

    Raises:
        ClipError: the clip cannot be used.
    """
    with clip_errors(location):
        with open_clip(location, limits) as reader:
            views = tuple(choose_views(reader.num_frames, reader.height, reader.width))
            frame_indices, frames = read_frames(reader, views)
        pixels = tuple(
            render(frames, view.crop, view.flip, input_size, np.searchsorted(frame_indices, view.frame_indices))
            for view in views
        )
    return ClipViews(location, reader.num_frames, reader.height, reader.width, views, pixels)


def read_frames(reader: ClipReader, views: Sequence[View]) -> tuple[list[int], np.ndarray]:
    """Read each frame that a view shows, once. Shape: (F, H, W, 3), with the F frame indices in order."""
    frame_indices = sorted({index for view in views for index in view.frame_indices})
    return frame_indices, reader.read(frame_indices)
