"""Draw backgrounds of several kinds, with clutter, in random colours.

The kinds form two groups, so that validation clips can have kinds of backgrounds that no training clip has.
"""

from __future__ import annotations

import colorsys
from collections.abc import Callable, Sequence

import numpy as np
from PIL import Image, ImageDraw

from pipeline.registry import look_up

Colour = tuple[int, int, int]
Generator = np.random.Generator


def draw_background(generator: Generator, height: int, width: int, kinds: Sequence[str]) -> np.ndarray:
    """Draw a background of a kind chosen from `kinds`, with up to six objects.

    Shape:
        returns: (H, W, 3), uint8.

    Raises:
        PipelineError: a kind is unknown.
    """
    kind = kinds[int(generator.integers(len(kinds)))]
    pixels = look_up("background", kind, KINDS)(generator, height, width)
    image = Image.fromarray(pixels)
    _add_clutter(ImageDraw.Draw(image), generator, height, width, int(generator.integers(0, 7)))
    return _lit(generator, np.asarray(image))


def _gradient(generator: Generator, height: int, width: int) -> np.ndarray:
    """Draw a wall with a gradient of light."""
    rows, columns = _grid(height, width)
    turn = generator.uniform(0, 2 * np.pi)
    position = np.clip(0.5 + np.cos(turn) * (columns - 0.5) + np.sin(turn) * (rows - 0.5), 0, 1)
    return _between(_colour(generator), _colour(generator), position)


def _noise(generator: Generator, height: int, width: int) -> np.ndarray:
    """Draw soft patches at several scales, like plaster, carpet or blurred foliage."""
    total = np.zeros((height, width), np.float32)
    for cells in (3, 6, 12, 24, 48):
        coarse = generator.random((cells, cells), dtype=np.float32)
        fine = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
        total += np.asarray(fine) * generator.uniform(0.2, 1.0)
    total -= total.min()
    return _between(_colour(generator), _colour(generator), total / max(float(total.max()), 1e-6))


def _room(generator: Generator, height: int, width: int) -> np.ndarray:
    """Draw a wall, a floor and some furniture with vertical edges."""
    image = Image.new("RGB", (width, height), _colour(generator))
    draw = ImageDraw.Draw(image)
    floor = int(height * generator.uniform(0.55, 0.9))
    draw.rectangle((0, floor, width, height), fill=_colour(generator))
    for _ in range(int(generator.integers(2, 6))):
        left, wide = generator.uniform(-0.1, 0.9) * width, generator.uniform(0.08, 0.35) * width
        top = generator.uniform(0.05, 0.7) * height
        bottom = min(top + generator.uniform(0.15, 0.7) * height, height)
        draw.rectangle((left, top, left + wide, bottom), fill=_colour(generator), outline=_colour(generator))
    return np.asarray(image)


def _plaid(generator: Generator, height: int, width: int) -> np.ndarray:
    """Draw stripes in two directions, like cloth or tiles."""
    rows, columns = _grid(height, width)
    across = np.sin(columns * generator.uniform(10, 60) + generator.uniform(0, 6)) > generator.uniform(-0.7, 0.7)
    down = np.sin(rows * generator.uniform(10, 60) + generator.uniform(0, 6)) > generator.uniform(-0.7, 0.7)
    weight = 0.5 * across + 0.5 * down * (generator.random() < 0.7)
    return _between(_colour(generator), _colour(generator), weight.astype(np.float32))


def _blobs(generator: Generator, height: int, width: int) -> np.ndarray:
    """Draw overlapping round patches, some in skin-like colours."""
    image = Image.new("RGB", (width, height), _colour(generator))
    draw = ImageDraw.Draw(image)
    for _ in range(int(generator.integers(8, 25))):
        x, y = generator.uniform(0, width), generator.uniform(0, height)
        wide, high = generator.uniform(0.04, 0.25, 2) * min(height, width)
        draw.ellipse((x - wide, y - high, x + wide, y + high), fill=_colour(generator))
    return np.asarray(image)


def _shelves(generator: Generator, height: int, width: int) -> np.ndarray:
    """Draw shelves with books: many vertical rectangles in rows."""
    image = Image.new("RGB", (width, height), _colour(generator))
    draw = ImageDraw.Draw(image)
    num_rows = int(generator.integers(2, 5))
    for row in range(num_rows):
        top, bottom = height * row / num_rows, height * (row + 1) / num_rows
        left = 0.0
        while left < width:
            wide = generator.uniform(0.02, 0.09) * width
            upper = top + generator.uniform(0.05, 0.4) * (bottom - top)
            draw.rectangle((left, upper, left + wide, bottom - 2), fill=_colour(generator))
            left += wide + generator.uniform(0.0, 0.02) * width
        draw.line((0, bottom - 1, width, bottom - 1), fill=_colour(generator), width=max(2, height // 40))
    return np.asarray(image)


def _waves(generator: Generator, height: int, width: int) -> np.ndarray:
    """Draw curved bands, like curtains or hills."""
    rows, columns = _grid(height, width)
    bend = generator.uniform(0.02, 0.12) * np.sin(columns * generator.uniform(4, 14) + generator.uniform(0, 6))
    if generator.random() < 0.5:
        rows, columns, bend = columns, rows, bend.T if height == width else 0.08 * np.sin(7 * rows)
    position = 0.5 + 0.5 * np.sin((rows + bend) * generator.uniform(8, 40) + generator.uniform(0, 6))
    return _between(_colour(generator), _colour(generator), position.astype(np.float32))


def _leaves(generator: Generator, height: int, width: int) -> np.ndarray:
    """Draw many small pointed shapes of similar hues."""
    hue = generator.random()
    image = Image.new("RGB", (width, height), _colour(generator, hue))
    draw = ImageDraw.Draw(image)
    short = min(height, width)
    for _ in range(int(generator.integers(40, 110))):
        x, y, turn = generator.uniform(0, width), generator.uniform(0, height), generator.uniform(0, np.pi)
        long, wide = generator.uniform(0.03, 0.14) * short, generator.uniform(0.01, 0.05) * short
        along, over = np.array([np.cos(turn), np.sin(turn)]), np.array([-np.sin(turn), np.cos(turn)])
        corners = [along * long, over * wide, -along * long, -over * wide]
        draw.polygon(
            [(x + a, y + b) for a, b in corners], fill=_colour(generator, hue + generator.uniform(-0.08, 0.08))
        )
    return np.asarray(image)


def _add_clutter(draw: ImageDraw.ImageDraw, generator: Generator, height: int, width: int, count: int) -> None:
    """Draw objects other than hands: discs, boxes, sticks and stars, some in skin colours."""
    short = min(height, width)
    for _ in range(count):
        x, y, turn = generator.uniform(0, width), generator.uniform(0, height), generator.uniform(0, 2 * np.pi)
        radius = generator.uniform(0.04, 0.16) * short
        colour = _colour(generator, generator.uniform(0.03, 0.09) if generator.random() < 0.4 else None)
        form = generator.integers(4)
        if form == 0:
            draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=colour)
        elif form == 1:
            draw.regular_polygon((x, y, radius), int(generator.integers(3, 7)), np.degrees(turn), fill=colour)
        elif form == 2:
            reach = np.array([np.cos(turn), np.sin(turn)]) * radius * generator.uniform(1, 5)
            ends = (x - reach[0], y - reach[1], x + reach[0], y + reach[1])
            draw.line(ends, fill=colour, width=max(2, int(radius * 0.5)))
        else:
            num_points = 2 * int(generator.integers(4, 8))
            angles = turn + np.arange(num_points) * 2 * np.pi / num_points
            reach = radius * np.where(np.arange(num_points) % 2, 0.45, 1.3)
            draw.polygon(list(zip(x + reach * np.cos(angles), y + reach * np.sin(angles), strict=True)), fill=colour)


def _lit(generator: Generator, pixels: np.ndarray) -> np.ndarray:
    gain = generator.uniform(0.6, 1.15)
    return np.clip(pixels * gain + generator.uniform(-15, 25), 0, 255).astype(np.uint8)


def _grid(height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    rows = np.linspace(0, 1, height, dtype=np.float32)[:, None]
    columns = np.linspace(0, 1, width, dtype=np.float32)[None, :]
    return rows, columns


def _between(first: Colour, second: Colour, weight: np.ndarray) -> np.ndarray:
    start, end = np.array(first, np.float32), np.array(second, np.float32)
    return np.asarray(start + (end - start) * weight[:, :, None], np.float32).round().astype(np.uint8)


def _colour(generator: Generator, hue: float | None = None) -> Colour:
    drawn = generator.random() if hue is None else hue % 1.0
    red, green, blue = colorsys.hsv_to_rgb(drawn, generator.uniform(0.0, 0.8), generator.uniform(0.1, 1.0))
    return round(255 * red), round(255 * green), round(255 * blue)


KINDS: dict[str, Callable[[Generator, int, int], np.ndarray]] = {
    "gradient": _gradient,
    "noise": _noise,
    "room": _room,
    "plaid": _plaid,
    "blobs": _blobs,
    "shelves": _shelves,
    "waves": _waves,
    "leaves": _leaves,
}
TRAIN_KINDS = ("gradient", "noise", "room", "plaid", "blobs")
HELD_OUT_KINDS = ("shelves", "waves", "leaves")
