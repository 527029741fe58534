"""Render a view: resize a box of each frame to a square in one pass, as `PIL.Image.resize(box=...)` does.

`render` uses bytes on the CPU, `render_on_device` floating point on any device; both use the same `Window` of the box
and agree up to rounding. A box without a window is resized by Pillow on the CPU, which takes about seven times as long.
Among the usual frame sizes, only those with a short side of 256 and an odd long side have such boxes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from pipeline.errors import PipelineError
from pipeline.shapes import check_shape
from pipeline.video.crops import CropBox
from pipeline.video.resampling import Window, window_along

# `torch.nn.functional.interpolate` calls it too, but cannot pass both a scale and a size.
_resize: Callable[..., Tensor] = torch.ops.aten._upsample_bilinear2d_aa
# Tolerance for a box outside the frame, because its edges are sums of floating point numbers.
EDGE_TOLERANCE = 1e-6


def render(
    frames: npt.NDArray[np.uint8],
    crop: CropBox,
    flip: bool,
    size: int = 224,
    positions: Sequence[int] | npt.NDArray[np.intp] | None = None,
) -> Tensor:
    """Render a view from whole frames, antialiased, in 8 bits throughout.

    `positions` selects and orders the frames of the view (None: all frames). Only the pixels of the box are copied,
    unlike with ``frames[positions]``.

    Shape:
        frames:  (T, H, W, 3), uint8 RGB.
        returns: (T, 3, size, size), uint8, channels last in memory (four times as fast as contiguous); T is here the
            number of positions.

    Raises:
        ShapeError: another shape.
        PipelineError: another type, or a box that leaves the frame.
    """
    sizes = check_shape("frames", frames, "T H W 3")
    if frames.dtype != np.uint8:
        raise PipelineError(f"`frames` must be uint8, but is {frames.dtype}.")
    height, width = sizes["H"], sizes["W"]
    _check_inside(crop, height, width)
    chosen = np.arange(len(frames)) if positions is None else np.asarray(positions, dtype=np.intp)
    windows = _windows(crop, size, height, width)
    if windows is None:
        resized = _resized_by_pillow(frames[chosen], crop, size)
    else:
        rows, columns = windows
        box = _cut(frames, chosen, rows, columns)
        pixels = torch.from_numpy(box).permute(0, 3, 1, 2)  # (T, 3, h, w), channels last
        sides = [rows.num_skipped + size, columns.num_skipped + size]
        resized = _resize(pixels, sides, False, 1 / rows.scale, 1 / columns.scale)
        resized = resized[:, :, rows.num_skipped :, columns.num_skipped :]
    if flip:
        resized = resized.flip(3)
    return resized.contiguous(memory_format=torch.channels_last)


def render_on_device(frames: Tensor, crop: CropBox, flip: bool, size: int) -> Tensor:
    """Render a view on the device of its frames; pixels may differ from those of `render` by 1 of 255.

    Shape:
        frames: (T, H, W, 3) uint8. returns: (T, size, size, 3) uint8.
    """
    windows = _windows(crop, size, *frames.shape[1:3])
    if windows is None:
        rendered = render(frames.cpu().numpy(), crop, flip, size).permute(0, 2, 3, 1)
        return rendered.to(frames.device)
    rows, columns = windows
    box = frames[:, max(rows.start, 0) : rows.stop, max(columns.start, 0) : columns.stop]
    pixels = box.permute(0, 3, 1, 2).float()  # (T, 3, h, w)
    margins = (max(-columns.start, 0), 0, max(-rows.start, 0), 0)
    if any(margins):
        pixels = F.pad(pixels, margins, mode="replicate")
    # Resize rows, round to bytes, then resize columns: the order and the rounding of the kernel for bytes.
    pixels = _resize(pixels, [pixels.shape[2], columns.num_skipped + size], False, 1.0, 1 / columns.scale)
    pixels = pixels[..., columns.num_skipped :].add(0.5).floor_()
    pixels = _resize(pixels, [rows.num_skipped + size, size], False, 1 / rows.scale, 1.0)
    pixels = pixels[:, :, rows.num_skipped :].add(0.5).floor_()
    if flip:
        pixels = pixels.flip(3)
    return pixels.clamp_(0, 255).to(torch.uint8).permute(0, 2, 3, 1).contiguous()


def _check_inside(crop: CropBox, height: int, width: int) -> None:
    bottom, right = crop.top + crop.height, crop.left + crop.width
    inside = min(crop.top, crop.left) >= 0 and max(bottom - height, right - width) <= EDGE_TOLERANCE
    if not inside or crop.height <= 0 or crop.width <= 0:
        raise PipelineError(f"{crop} must lie inside the frame of {height}×{width} pixels (height×width).")


def _windows(crop: CropBox, size: int, height: int, width: int) -> tuple[Window, Window] | None:
    rows = window_along(crop.top, crop.height, size, height)
    columns = window_along(crop.left, crop.width, size, width)
    return None if rows is None or columns is None else (rows, columns)


def _cut(
    frames: npt.NDArray[np.uint8], positions: npt.NDArray[np.intp], rows: Window, columns: Window
) -> npt.NDArray[np.uint8]:
    """Copy the source pixels of two windows; pixels before the frame repeat its edge."""
    box = frames[positions, max(rows.start, 0) : rows.stop, max(columns.start, 0) : columns.stop]
    margins = (max(-rows.start, 0), max(-columns.start, 0))
    if any(margins):
        return np.pad(box, ((0, 0), (margins[0], 0), (margins[1], 0), (0, 0)), mode="edge")
    return np.ascontiguousarray(box)


def _resized_by_pillow(frames: npt.NDArray[np.uint8], crop: CropBox, size: int) -> Tensor:
    height, width = frames.shape[1:3]
    # Pillow does not accept a box outside the frame.
    bottom, right = min(crop.top + crop.height, height), min(crop.left + crop.width, width)
    box = (crop.left, crop.top, right, bottom)
    images = [Image.fromarray(frame).resize((size, size), Image.Resampling.BILINEAR, box=box) for frame in frames]
    return torch.from_numpy(np.stack([np.asarray(image) for image in images])).permute(0, 3, 1, 2)
