"""Views: ways of looking at a clip. Which frames, which box of each, mirrored or not, and the pixels that follow.

A view is plain numbers, worked out before anything is decoded, so it can be stored beside the features. A drawn view
depends on the seed, the clip's id and the draw's number alone: it is the same in every process, on every machine, and
whatever other views there are.

Source: paper, Sec. 3.1 and 3.5; the 50 crops are those of TSN's multi-scale fixed crops.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

from pipeline.errors import PipelineError
from pipeline.recipe import FrameChoices
from pipeline.shapes import check_shape
from pipeline.video.sampling import drawn_frame_indices, test_frame_indices

# Raise it when any rule here or in `sampling` changes: it is part of a store's fingerprint.
TRANSFORM_VERSION = 1

TEST_VIEW = "test"
CROP_SCALES = (1.0, 0.875, 0.75, 0.66)


@dataclass(frozen=True, slots=True)
class CropBox:
    """A box in pixels of the source frame."""

    top: int
    left: int
    height: int
    width: int


@dataclass(frozen=True, slots=True)
class View:
    """One way of looking at one clip: the same box and mirroring for all of its frames."""

    name: str
    frame_indices: tuple[int, ...]
    crop: CropBox
    flip: bool


def train_view_name(draw: int) -> str:
    """The name of a training draw: ``train-0``, ``train-1``, …"""
    return f"train-{draw}"


def centre_crop(height: int, width: int, fraction: float = 0.875) -> CropBox:
    """The square in the middle whose side is `fraction` of the short side.

    In source pixels it is what "short side to 256, centre crop of 224" sees (224 / 256 = 0.875).
    """
    side = max(1, int(min(height, width) * fraction))
    return CropBox((height - side) // 2, (width - side) // 2, side, side)


def multiscale_crops(height: int, width: int) -> tuple[CropBox, ...]:
    """The 50 boxes of which a training view takes one.

    Sides are 1, .875, .75 and .66 of the short side; of the 16 pairs of height and width those 10 at most one step
    apart; each at the four corners and in the centre. On very small frames some boxes are equal.
    """
    short_side = min(height, width)
    sides = [max(1, int(short_side * scale)) for scale in CROP_SCALES]
    boxes: list[CropBox] = []
    for row, box_height in enumerate(sides):
        for column, box_width in enumerate(sides):
            if abs(row - column) > 1:
                continue
            bottom, right = height - box_height, width - box_width
            places = ((0, 0), (0, right), (bottom, 0), (bottom, right), (bottom // 2, right // 2))
            boxes += [CropBox(top, left, box_height, box_width) for top, left in places]
    return tuple(boxes)


def test_view(
    num_frames: int,
    height: int,
    width: int,
    num_segments: int,
    choices: FrameChoices,
    crop_fraction: float = 0.875,  # noqa: PT028
) -> View:
    """The view that is scored: equidistant frames, centre crop, never mirrored."""
    indices = test_frame_indices(num_frames, num_segments, choices.short_clip)
    return View(TEST_VIEW, tuple(indices.tolist()), centre_crop(height, width, crop_fraction), flip=False)


def drawn_view(
    draw: int,
    *,
    clip_id: str,
    seed: int,
    num_frames: int,
    height: int,
    width: int,
    num_segments: int,
    choices: FrameChoices,
    crop_fraction: float = 0.875,
) -> View:
    """Training draw number `draw` of a clip: a random frame of each segment, one of the crops, mirrored or not.

    Frames, crop and mirroring each have their own stream of numbers, so a change of one choice leaves the others.
    """
    frames = _generator(seed, clip_id, draw, "frames")
    indices = drawn_frame_indices(num_frames, num_segments, frames, choices.sampler)
    if choices.crops == "multiscale":
        boxes = multiscale_crops(height, width)
        crop = boxes[int(_generator(seed, clip_id, draw, "crop").random() * len(boxes))]
    elif choices.crops == "centre":
        crop = centre_crop(height, width, crop_fraction)
    else:
        raise PipelineError(f"`crops` (={choices.crops!r}) must be 'multiscale' or 'centre'.")
    flip = choices.flip != "off" and _generator(seed, clip_id, draw, "flip").random() < 0.5
    return View(train_view_name(draw), tuple(indices.tolist()), crop, bool(flip))


def render(frames: npt.NDArray[np.uint8], crop: CropBox, flip: bool, size: int = 224) -> Tensor:
    """The pixels of a view: the box, resized to a square, antialiased, in 8 bits throughout.

    The pixels equal those of torchvision's antialiased bilinear resize of the box as uint8.

    Shape:
        frames:  (T, H, W, 3), uint8 RGB.
        returns: (T, 3, size, size), uint8, channels last in memory (four times as fast as contiguous).

    Raises:
        ShapeError: another shape.
        PipelineError: another type, or a box that leaves the frame.
    """
    sizes = check_shape("frames", frames, "T H W 3")
    if frames.dtype != np.uint8:
        raise PipelineError(f"`frames` must be uint8, but is {frames.dtype}.")
    bottom, right = crop.top + crop.height, crop.left + crop.width
    inside = crop.top >= 0 and crop.left >= 0 and bottom <= sizes["H"] and right <= sizes["W"]
    if not inside or crop.height < 1 or crop.width < 1:
        raise PipelineError(f"{crop} must lie inside the frame of {sizes['H']}×{sizes['W']} pixels (height×width).")
    box = np.array(frames[:, crop.top : bottom, crop.left : right], order="C")  # (T, h, w, 3), its own memory
    pixels = torch.from_numpy(box).permute(0, 3, 1, 2)  # (T, 3, h, w), channels last
    resized = F.interpolate(pixels, size=(size, size), mode="bilinear", align_corners=False, antialias=True)
    if flip:
        resized = resized.flip(3)
    return resized.contiguous(memory_format=torch.channels_last)


def _generator(seed: int, clip_id: str, draw: int, purpose: str) -> np.random.Generator:
    # A hash of the words themselves: Python's own `hash` of a string differs from process to process.
    digest = hashlib.sha256("\0".join((str(seed), clip_id, str(draw), purpose)).encode()).digest()
    return np.random.Generator(np.random.PCG64(int.from_bytes(digest[:16], "big")))


# pytest would collect the function by its name wherever a test module imports it.
test_view.__test__ = False  # type: ignore[attr-defined]
