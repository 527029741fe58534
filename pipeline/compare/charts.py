"""Small charts as SVG text: lines, and the confusion matrix of a head.

A report has dozens of them, and drawn by matplotlib they would take longer than everything else. Colours are the
variables of the page (`--main`, `--muted`, …), so that they follow its light or dark theme.
"""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup, escape
from numpy.typing import NDArray
from PIL import Image

WIDTH, HEIGHT = 260, 96
LEFT, RIGHT, BOTTOM, GAP = 40, 8, 30, 12
FONT_SIZE, LETTER_WIDTH = 9.0, 5.4  # of the average letter, in pixels
MAX_SCALE = 1.6  # maximum scale of a chart, relative to its size
MAX_LABELLED_CLASSES = 30
# Readable on light and dark backgrounds; green and orange also differ in lightness, for colour-blind readers.
CORRECT, WRONG = (0x3F, 0x8F, 0x5F), (0xF0, 0x8A, 0x3C)

Point = tuple[float, float]


@dataclass(frozen=True)
class Line:
    """A line of a panel, with a marker at each point if `has_markers`; a single point is a marker.

    name: text of the legend. end_name: text at the right end of the line. band: an area around it, (x, low, high).
    """

    points: Sequence[Point]
    colour: str = "main"
    width: float = 1.6
    opacity: float = 1.0
    dash: str = ""
    name: str = ""
    end_name: str = ""
    has_markers: bool = False
    band: Sequence[tuple[float, float, float]] = ()


@dataclass(frozen=True)
class Panel:
    """Lines over a common x axis. `y_range` is fixed, or found from the lines."""

    lines: Sequence[Line]
    y_label: str
    y_range: tuple[float, float] | None = None
    height: int = HEIGHT


def line_chart(panels: Sequence[Panel], x_label: str, *, is_log_x: bool = False, width: int = WIDTH) -> Markup:
    """Return panels one above the other, with one x axis, as an SVG element."""
    every_x = [x for panel in panels for line in panel.lines for x, _ in line.points]
    low, high = min(every_x), max(every_x)
    longest = max(len(line.end_name) for panel in panels for line in panel.lines)
    end = width - RIGHT - 4 - LETTER_WIDTH * longest
    place_x = _scale((low, high), LEFT + 4, end, is_log=is_log_x)
    parts: list[str] = []
    top = 6
    for index, panel in enumerate(panels):
        bottom = top + panel.height
        parts += _panel(panel, place_x, top, bottom, width)
        if index == len(panels) - 1:
            ticks = log_ticks(low, high) if is_log_x else [tick for tick in ticks_of(low, high, 6) if tick == int(tick)]
            parts += [_text(place_x(tick), bottom + 12, f"{tick:g}", "middle") for tick in ticks]
            parts.append(_text((LEFT + width - RIGHT) / 2, bottom + 25, x_label, "middle"))
        top = bottom + GAP
    return svg_element(width, top - GAP + BOTTOM, parts)


def confusion_chart(counts: NDArray[np.float64], classes: Sequence[str]) -> Markup:
    """Return how the clips of each class were classified, in percent of the class; the diagonal is correct.

    Shape:
        counts: (K, K), rows are labels, columns are predicted classes.
    """
    totals = counts.sum(axis=1, keepdims=True)
    shares = np.divide(counts, totals, out=np.zeros_like(counts), where=totals > 0)
    num_classes = len(classes)
    has_labels = num_classes <= MAX_LABELLED_CLASSES
    left = 14 + (LETTER_WIDTH * max(map(len, classes)) + 20 if has_labels else 6)
    cell = max(11.0, 168 / num_classes) if has_labels else 200 / num_classes
    side = cell * num_classes
    bottom = 4 + side
    address = _picture(shares)
    parts = [
        f'<image x="{left:g}" y="4" width="{side:g}" height="{side:g}" preserveAspectRatio="none" '
        f'style="image-rendering:pixelated" href="{address}"/>'
    ]
    if has_labels:
        lines = [index * cell for index in range(num_classes + 1)]
        path = "".join(f"M{left + at:g} 4V{bottom:g}M{left:g} {4 + at:g}H{left + side:g}" for at in lines)
        parts.append(f'<path d="{path}" stroke="var(--grid)" stroke-width=".5" fill="none"/>')
        # Names only at the rows; columns have the number of their row, so that long names leave room for the matrix.
        for index, label in enumerate(classes):
            middle = (index + 0.5) * cell
            parts.append(_text(left - 4, 4 + middle + 3, f"{label}  {index}", "end"))
            parts.append(_text(left + middle, bottom + 10, str(index), "middle"))
    parts.append(_text(left + side / 2, bottom + 22, "predicted", "middle"))
    parts.append(_vertical_text(9, 4 + side / 2, "label"))
    return svg_element(left + side + 4, bottom + 26, parts)


def svg_element(width: float, height: float, parts: Sequence[str]) -> Markup:
    """Return an SVG element that scales with the page."""
    return Markup(
        f'<svg viewBox="0 0 {width:g} {height:g}" style="max-width:{MAX_SCALE * width:.0f}px" role="img" '
        f'font-size="{FONT_SIZE:g}">{"".join(parts)}</svg>'
    )


def ticks_of(low: float, high: float, num_ticks: int) -> list[float]:
    """Return round values from `low` to `high`, about `num_ticks` of them.

    >>> ticks_of(0, 100, 5)
    [0.0, 20.0, 40.0, 60.0, 80.0, 100.0]
    >>> ticks_of(1, 20, 6)
    [5.0, 10.0, 15.0, 20.0]
    """
    raw = max(high - low, 1e-12) / num_ticks
    size = 10.0 ** math.floor(math.log10(raw))
    step = size * next(factor for factor in (1, 2, 5, 10) if factor * size >= raw * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [round(index * step, 12) for index in range(first, math.floor(high / step + 1e-9) + 1)]


def log_ticks(low: float, high: float) -> list[float]:
    """Return the powers of ten between two values, or both values if there is at most one.

    >>> log_ticks(0.0001, 0.01)
    [0.0001, 0.001, 0.01]
    """
    first, last = math.ceil(math.log10(low) - 1e-9), math.floor(math.log10(high) + 1e-9)
    powers = [float(f"1e{power}") for power in range(first, last + 1)]
    return powers if len(powers) > 1 else sorted({low, high})


def _panel(panel: Panel, place_x: Callable[[float], float], top: float, bottom: float, width: int) -> list[str]:
    values = [y for line in panel.lines for _, y in line.points]
    values += [y for line in panel.lines for _, low, high in line.band for y in (low, high)]
    low, high = panel.y_range or (min(values), max(values))
    if panel.y_range is None:
        margin = 0.08 * (high - low) or 0.5
        low, high = low - margin, high + margin
    place_y = _scale((low, high), bottom, top)
    parts = []
    for tick in ticks_of(low, high, max(3, panel.height // 28)):
        y = place_y(tick)
        parts.append(f'<path d="M{LEFT} {y:.1f}H{width - RIGHT}" stroke="var(--grid)" stroke-width=".7"/>')
        parts.append(_text(LEFT - 4, y + 3, f"{tick:g}", "end"))
    parts.append(_vertical_text(9, (top + bottom) / 2, panel.y_label))
    for line in panel.lines:
        places = [(place_x(x), place_y(y)) for x, y in line.points]
        colour = f"var(--{line.colour})"
        if line.band:
            edge = [(x, high) for x, _, high in line.band] + [(x, low) for x, low, _ in reversed(line.band)]
            around = " ".join(f"{place_x(x):.1f},{place_y(y):.1f}" for x, y in edge)
            parts.append(f'<polygon points="{around}" fill="{colour}" opacity=".18"/>')
        if len(places) == 1:
            parts.append(f'<circle cx="{places[0][0]:.1f}" cy="{places[0][1]:.1f}" r="2.6" fill="{colour}"/>')
            continue
        path = "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in places)
        dash = f' stroke-dasharray="{line.dash}"' if line.dash else ""
        opacity = f' opacity="{line.opacity:g}"' if line.opacity < 1 else ""
        stroke = f'stroke="{colour}" stroke-width="{line.width:g}" stroke-linejoin="round"'
        parts.append(f'<path d="{path}" fill="none" {stroke}{dash}{opacity}/>')
        if line.has_markers:
            parts += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="1.9" fill="{colour}"/>' for x, y in places]
    parts += _end_names(panel, place_x, place_y)
    right = float(width - RIGHT)
    for line in reversed([line for line in panel.lines if line.name]):
        parts.append(_text(right, top + 8, line.name, "end"))
        right -= LETTER_WIDTH * len(line.name) + 5
        dash = f' stroke-dasharray="{line.dash}"' if line.dash else ""
        start = f"M{right - 14:.1f} {top + 5}h14"
        parts.append(f'<path d="{start}" stroke="var(--{line.colour})" stroke-width="1.6"{dash}/>')
        right -= 24
    return parts


def _end_names(panel: Panel, place_x: Callable[[float], float], place_y: Callable[[float], float]) -> list[str]:
    """Return the names at the right ends of the lines, moved down where they would cover each other."""
    parts = []
    lowest = -math.inf
    named = [line for line in panel.lines if line.end_name]
    for line in sorted(named, key=lambda line: place_y(line.points[-1][1])):
        x, y = line.points[-1]
        lowest = max(place_y(y) + 3, lowest + FONT_SIZE)
        parts.append(_text(place_x(x) + 4, lowest, line.end_name, "start"))
    return parts


def _scale(values: Point, start: float, end: float, *, is_log: bool = False) -> Callable[[float], float]:
    """Return the function from values of an axis to pixels; equal values are in the middle."""
    low, high = (math.log(value) for value in values) if is_log else values
    if high == low:
        return lambda value: (start + end) / 2
    return lambda value: start + ((math.log(value) if is_log else value) - low) / (high - low) * (end - start)


def _text(x: float, y: float, text: str, anchor: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="var(--muted)">{escape(text)}</text>'


def _vertical_text(x: float, y: float, text: str) -> str:
    turned = f'transform="translate({x:.1f} {y:.1f}) rotate(-90)" text-anchor="middle" fill="var(--muted)"'
    return f"<text {turned}>{escape(text)}</text>"


def _picture(shares: NDArray[np.float64]) -> str:
    """Return the cells of a confusion matrix as a PNG in a data URL; the strength of a colour is the share."""
    num_classes = len(shares)
    pixels = np.empty((num_classes, num_classes, 4), dtype=np.uint8)
    pixels[..., :3] = WRONG
    pixels[np.eye(num_classes, dtype=bool), :3] = CORRECT
    pixels[..., 3] = np.round(np.sqrt(shares) * 0.95 * 255)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
