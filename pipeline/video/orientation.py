"""Rotate and mirror the frames of a video for display."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import numpy as np
from av.sidedata import sidedata
from av.video.frame import VideoFrame

from pipeline.video.reader import Frame

Matrix = tuple[int, int, int, int]
"""a, b, c, d of x' = a x + c y, y' = b x + d y; None for no change."""


def _unknown_type(cls: Any, number: object) -> Any:
    """Create a member of PyAV's enumeration for a type that it lacks, such as EXIF or the views of MV-HEVC.

    Without it, no side data of a frame with such a type can be read.
    """
    member = object.__new__(cls)
    member._name_, member._value_ = f"TYPE_{number}", number
    return member


sidedata.Type._missing_ = classmethod(_unknown_type)  # type: ignore[method-assign,assignment]


class Orientation:
    """Track the orientation over the frames of a clip, in display order.

    A container gives it with every frame. An SEI message in the stream is at the first frame only and applies to all
    frames after it.
    """

    def __init__(self) -> None:
        self._matrix: Matrix | None = None

    def of(self, frame: VideoFrame) -> Matrix | None:
        """Return the orientation of the next frame."""
        # PyAV's stub has only one of the keys; the value is a buffer of nine numbers.
        side_data = cast(Mapping[str, bytes], frame.side_data)
        if "DISPLAYMATRIX" in side_data:
            a, b, _, c, d = (int(value) for value in np.frombuffer(side_data["DISPLAYMATRIX"], "=i4")[:5])
            self._matrix = None if (b, c) == (0, 0) and a > 0 and d > 0 else (a, b, c, d)
        return self._matrix


def shown_size(frame: VideoFrame, matrix: Matrix | None) -> tuple[int, int]:
    """Return (height, width) of a frame after rotation."""
    is_turned = matrix is not None and abs(matrix[1]) > abs(matrix[0])
    return (frame.width, frame.height) if is_turned else (frame.height, frame.width)


def as_shown(pixels: Frame, matrix: Matrix | None) -> Frame:
    """Rotate and mirror a frame by the nearest of the eight orientations, the only ones that phones write.

    Shape:
        pixels:  (H, W, 3)
        returns: (H, W, 3), or (W, H, 3) for a quarter turn.
    """
    if matrix is None:
        return pixels
    a, b, c, d = matrix
    if abs(b) > abs(a):
        pixels, a, d = pixels.swapaxes(0, 1), c, b
    return pixels[:: -1 if d < 0 else 1, :: -1 if a < 0 else 1]
