"""The boxes of views, against arithmetic by hand and against the published code's rule written out here."""

from __future__ import annotations

from collections import Counter

import pytest

from pipeline.video.crops import CropBox, centre_crop, mild_crops, multiscale_crops, published_crops


def tsn_boxes(width: int, height: int, input_size: int = 224) -> list[tuple[int, int, int, int]]:
    """`GroupMultiScaleCrop` of TSN's published code with five places: (left, top, width, height) of each box."""
    base = min(width, height)
    sizes = [int(base * scale) for scale in [1, 0.875, 0.75, 0.66]]
    heights = [input_size if abs(size - input_size) < 3 else size for size in sizes]
    widths = [input_size if abs(size - input_size) < 3 else size for size in sizes]
    boxes = []
    for i, h in enumerate(heights):
        for j, w in enumerate(widths):
            if abs(i - j) <= 1:
                w_step, h_step = (width - w) // 4, (height - h) // 4
                places = [(0, 0), (4 * w_step, 0), (0, 4 * h_step), (4 * w_step, 4 * h_step), (2 * w_step, 2 * h_step)]
                boxes += [(x, y, w, h) for x, y in places]
    return boxes


def as_tuples(boxes: tuple[CropBox, ...]) -> list[tuple[float, float, float, float]]:
    return [(box.left, box.top, box.width, box.height) for box in boxes]


def test_centre_crop_is_what_resize_to_256_and_crop_of_224_sees() -> None:
    assert centre_crop(256, 340) == CropBox(16, 58, 224, 224)
    assert centre_crop(100, 176) == CropBox(6.25, 44.25, 87.5, 87.5)  # 0.875 * 100; (176 - 87.5) / 2
    assert centre_crop(320, 240) == CropBox(55, 15, 210, 210)
    assert centre_crop(1080, 1920) == CropBox(67.5, 487.5, 945, 945)
    assert centre_crop(100, 176, 1.0) == CropBox(0, 38, 100, 100)


# The sides at 100x176 are 100, 87.5, 75, 66. Each row by hand: height, width, lowest top, rightmost left.
CROPS_AT_100_BY_176 = [
    (100, 100, 0, 76),
    (100, 87.5, 0, 88.5),
    (87.5, 100, 12.5, 76),
    (87.5, 87.5, 12.5, 88.5),
    (87.5, 75, 12.5, 101),
    (75, 87.5, 25, 88.5),
    (75, 75, 25, 101),
    (75, 66, 25, 110),
    (66, 75, 34, 101),
    (66, 66, 34, 110),
]


def test_the_fifty_crops_are_those_computed_by_hand() -> None:
    expected = []
    for height, width, bottom, right in CROPS_AT_100_BY_176:
        places = [(0, 0), (0, right), (bottom, 0), (bottom, right), (bottom / 2, right / 2)]
        expected += [CropBox(top, left, height, width) for top, left in places]
    assert multiscale_crops(100, 176) == tuple(expected)


def test_the_sides_of_the_crops_at_240_by_320() -> None:
    boxes = multiscale_crops(240, 320)
    # .875, .75 and .66 of 240 are 210, 180 and 158.4.
    assert Counter((round(box.height, 9), round(box.width, 9)) for box in boxes) == {
        pair: 5
        for pair in [
            (240, 240), (240, 210), (210, 240), (210, 210), (210, 180), (180, 210), (180, 180), (180, 158.4),
            (158.4, 180), (158.4, 158.4),
        ]
    }  # fmt: skip
    assert len(set(boxes)) == 46  # the 10 boxes as high as the frame have upper and lower corners in one place


def test_mild_crops_are_the_large_ones_of_the_50() -> None:
    boxes = mild_crops(240, 320)
    assert len(boxes) == 20
    assert set(boxes) == {box for box in multiscale_crops(240, 320) if min(box.height, box.width) >= 0.875 * 240}


@pytest.mark.parametrize(
    ("width", "height"),
    [(176, 100), (160, 120), (320, 240), (427, 240), (340, 256), (455, 256), (299, 226), (500, 333)],
)
def test_published_crops_are_those_of_the_published_code(width: int, height: int) -> None:
    for input_size in (224, 299):
        assert as_tuples(published_crops(height, width, input_size)) == tsn_boxes(width, height, input_size)


def test_published_crops_by_hand() -> None:
    boxes = published_crops(100, 176)
    # Sides 87 and 75: quarters of the free space are (100 - 87) // 4 = 3 rows and (176 - 75) // 4 = 25 columns.
    assert [box for box in boxes if (box.height, box.width) == (87, 75)] == [
        CropBox(top, left, 87, 75) for top, left in [(0, 0), (0, 100), (12, 0), (12, 100), (6, 50)]
    ]
    # .875 of 258 is 225.75, cut to 225 and set to 224; .875 of 254 is 222.25, cut to 222 and set to 224.
    for short_side in (254, 258):
        assert {box.height for box in published_crops(short_side, 400)} >= {short_side, 224}
    # A side never exceeds the frame: 223 would be set to 224.
    assert max(box.height for box in published_crops(223, 400)) == 223


def test_a_published_corner_box_ends_up_to_three_pixels_before_the_edge() -> None:
    # 175 - 100 = 75 columns are free, a quarter is 18, four are 72.
    lefts = {box.left for box in published_crops(100, 175) if box.width == 100}
    assert lefts == {0, 36, 72}


@pytest.mark.parametrize("size", [(1, 1), (2, 7), (101, 99), (223, 300), (226, 226), (720, 1280)])
def test_crops_lie_inside_the_frame(size: tuple[int, int]) -> None:
    boxes = [centre_crop(*size), *multiscale_crops(*size), *published_crops(*size)]
    assert len(boxes) == 101
    for box in boxes:
        assert box.height > 0
        assert box.width > 0
        assert box.top >= 0
        assert box.left >= 0
        assert box.top + box.height <= size[0] + 1e-9
        assert box.left + box.width <= size[1] + 1e-9
