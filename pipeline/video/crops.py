"""Crop boxes: the centre crop of the test view, and the 50 boxes from which a training view draws one.

Source: paper, Sec. 3.5; TSN's multi-scale fixed crops (`GroupMultiScaleCrop` of its published code).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

CROP_SCALES = (1.0, 0.875, 0.75, 0.66)
MILD_SCALES = CROP_SCALES[:2]
# The published code sets a side to the input size if they differ by fewer pixels than this.
SNAP_PIXELS = 3


@dataclass(frozen=True, slots=True)
class CropBox:
    """A box in pixels of the source frame. Its edges may lie between pixels."""

    top: float
    left: float
    height: float
    width: float


def centre_crop(height: int, width: int, fraction: float = 0.875) -> CropBox:
    """Return the centred square whose side is `fraction` of the short side, without rounding.

    Resizing the short side to 256 pixels and cropping 224 of them shows this box (224 / 256 = 0.875).
    """
    side = min(height, width) * fraction
    return CropBox((height - side) / 2, (width - side) / 2, side, side)


def multiscale_crops(height: int, width: int) -> tuple[CropBox, ...]:
    """Return the 50 boxes of the recipes `paper` and `cached`: exact sides and exact places.

    Sides are 1, .875, .75 and .66 of the short side; of the 16 pairs of height and width those 10 at most one step
    apart; each at the four corners and in the centre.
    """
    return _exact_crops(height, width, CROP_SCALES)


def mild_crops(height: int, width: int) -> tuple[CropBox, ...]:
    """Return those 20 of the 50 boxes whose sides are 1 or .875 of the short side, for small data sets."""
    return _exact_crops(height, width, MILD_SCALES)


def published_crops(height: int, width: int, input_size: int = 224) -> tuple[CropBox, ...]:
    """Return the 50 boxes of the published code, in whole pixels.

    They differ from `multiscale_crops` in three ways: sides are cut to whole pixels; a side within 2 pixels of
    `input_size` becomes `input_size`, unless the frame is smaller (the published code then adds a black border); and
    places are 0, 2 or 4 quarters of the free space, a quarter in whole pixels, so a corner box can end up to 3 pixels
    before the edge.
    """
    short_side = min(height, width)
    sides = [max(1, int(short_side * scale)) for scale in CROP_SCALES]
    sides = [min(input_size, short_side) if abs(side - input_size) < SNAP_PIXELS else side for side in sides]
    boxes: list[CropBox] = []
    for box_height, box_width in _close_pairs(sides):
        quarter_rows, quarter_columns = (height - box_height) // 4, (width - box_width) // 4
        boxes += _five_places(
            4 * quarter_rows, 4 * quarter_columns, 2 * quarter_rows, 2 * quarter_columns, box_height, box_width
        )
    return tuple(boxes)


def _exact_crops(height: int, width: int, scales: Sequence[float]) -> tuple[CropBox, ...]:
    short_side = min(height, width)
    boxes: list[CropBox] = []
    for box_height, box_width in _close_pairs([short_side * scale for scale in scales]):
        bottom, right = height - box_height, width - box_width
        boxes += _five_places(bottom, right, bottom / 2, right / 2, box_height, box_width)
    return tuple(boxes)


def _close_pairs(sides: Sequence[float]) -> list[tuple[float, float]]:
    return [
        (box_height, box_width)
        for row, box_height in enumerate(sides)
        for column, box_width in enumerate(sides)
        if abs(row - column) <= 1
    ]


def _five_places(
    bottom: float, right: float, middle_row: float, middle_column: float, height: float, width: float
) -> list[CropBox]:
    places = ((0, 0), (0, right), (bottom, 0), (bottom, right), (middle_row, middle_column))
    return [CropBox(top, left, height, width) for top, left in places]
