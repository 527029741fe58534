"""Place the names of the points of a plot so that each is readable and next to its point."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.transforms import Bbox
from numpy.typing import NDArray

# Points nearer than this cover each other.
COVERING_POINTS = 5.0
# Possible positions of a label relative to its point, the best first: (x, y) in points, and its anchor.
_PLACES = (
    (7, 0, "left", "center"),
    (-7, 0, "right", "center"),
    (0, 7, "center", "bottom"),
    (0, -7, "center", "top"),
    (6, 6, "left", "bottom"),
    (-6, 6, "right", "bottom"),
    (6, -6, "left", "top"),
    (-6, -6, "right", "top"),
    (7, 14, "left", "bottom"),
    (7, -14, "left", "top"),
    (-7, 14, "right", "bottom"),
    (-7, -14, "right", "top"),
    (9, 24, "left", "bottom"),
    (9, -24, "left", "top"),
    (-9, 24, "right", "bottom"),
    (-9, -24, "right", "top"),
)


def place_labels(
    figure: Figure,
    axes: Axes,
    points: Sequence[tuple[float, float, str]],
    colour: str,
    lines: Sequence[Sequence[tuple[float, float]]] = (),
) -> None:
    """Write each name next to its point, if possible where it covers no point, name or line.

    Points that cover each other share one text, with a line for each, the upper first.
    """
    # Matplotlib finds the limits of the axes, which determine the positions of points, only if they are read.
    axes.get_xlim()
    axes.get_ylim()
    renderer = figure.canvas.get_renderer()  # type: ignore[attr-defined]
    points = _joined(figure, axes, points)
    taken = [_box_around(axes, x, y) for x, y, _ in points]
    centres = [axes.transData.transform((x, y)) for x, y, _ in points]
    steps = [
        np.linspace(one, other, max(2, int(np.abs(other - one).max() / 4)))
        for line in lines
        for one, other in itertools.pairwise(axes.transData.transform(list(line)))
    ]
    crossed = np.concatenate([np.empty((0, 2)), *steps])  # pixels on the lines
    frame = axes.get_window_extent(renderer)
    for own_index, (x, y, name) in enumerate(points):
        best = None
        for place in _PLACES:
            text = axes.annotate(
                name,
                (x, y),
                xytext=place[:2],
                textcoords="offset points",
                ha=place[2],
                va=place[3],
                fontsize=8,
                color=colour,
                zorder=5,
            )
            box = text.get_window_extent(renderer)
            own = _box_around(axes, x, y)
            clashes = 3 * sum(box.overlaps(other) for other in taken if other.bounds != own.bounds)
            is_inside = (crossed >= np.asarray(box.min) - 1) & (crossed <= np.asarray(box.max) + 1)
            clashes += bool(is_inside.all(axis=1).any())
            # A name nearer to another point would be read as the name of that point.
            clashes += 4 * (min(range(len(points)), key=lambda index: _distance(box, centres[index])) != own_index)
            clashes += 0 if frame.x0 <= box.x0 and box.x1 <= frame.x1 else 6
            if best is None or clashes < best[0]:
                if best is not None:
                    best[1].remove()
                best = (clashes, text, box)
            else:
                text.remove()
            if clashes == 0:
                break
        if best is not None:
            taken.append(best[2])


def _joined(figure: Figure, axes: Axes, points: Sequence[tuple[float, float, str]]) -> list[tuple[float, float, str]]:
    """Return the points, after joining each point that covers the one above it."""
    radius = COVERING_POINTS * figure.dpi / 72
    joined: list[tuple[float, float, str]] = []
    for x, y, name in sorted(points, key=lambda point: -point[1]):
        pixel = axes.transData.transform((x, y))
        for index, (other_x, other_y, names) in enumerate(joined):
            if np.abs(pixel - axes.transData.transform((other_x, other_y))).max() < radius:
                joined[index] = (other_x, other_y, f"{names}\n{name}")
                break
        else:
            joined.append((x, y, name))
    return joined


def _distance(box: Bbox, pixel: NDArray[np.float64]) -> float:
    """Return the distance from a pixel to the nearest edge of a box; zero inside it."""
    x, y = pixel
    return float(np.hypot(max(box.x0 - x, 0, x - box.x1), max(box.y0 - y, 0, y - box.y1)))


def _box_around_pixel(centre: NDArray[np.float64], radius_pixels: float) -> Bbox:
    return Bbox.from_extents(*(centre - radius_pixels), *(centre + radius_pixels))


def _box_around(axes: Axes, x: float, y: float) -> Bbox:
    return _box_around_pixel(axes.transData.transform((x, y)), radius_pixels=5)
