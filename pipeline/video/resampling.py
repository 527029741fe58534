"""Resize a box with fractional edges along one axis by a function that starts at a whole pixel.

The kernel is the antialiased bilinear one of `PIL.Image.resize(box=...)`: a triangle of half-width max(scale, 1), where
scale is the number of source pixels per output pixel. Output pixel i has its centre at ``offset + scale * (i + 0.5)``;
the kernel may reach beyond the box, but not beyond the frame.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

# Each output pixel before the box takes as long as one in it.
MAX_SKIPPED = 128
# Largest shift of an output pixel, in units of max(scale, 1) source pixels. The mean shift is at most half of it.
MAX_SHIFT = 1 / 64


@dataclass(frozen=True, slots=True)
class Window:
    """Parameters with which torch's resize, which starts at a whole pixel, computes the pixels of any box.

    Cut the source pixels `start` to `stop`, resize them with `scale` source pixels per output pixel, and drop the first
    `num_skipped` output pixels. Where `start` is negative, the first source pixel is repeated before the frame.
    """

    start: int
    stop: int
    scale: float
    num_skipped: int


@functools.lru_cache(maxsize=4096)
def window_along(offset: float, extent: float, size: int, num_pixels: int) -> Window | None:
    """Find the window that shows the box from `offset` to ``offset + extent`` as `size` pixels; None if there is none.

    The window that drops the fewest pixels is taken of those that shift no output pixel by more than `MAX_SHIFT`. Along
    the short side, "resize to R, centre crop of S" has a window without any shift, at R - S even: it drops (R - S) / 2.
    """
    scale = extent / size
    support = max(scale, 1.0)
    for num_skipped in range(MAX_SKIPPED + 1):
        start = round(offset - scale * num_skipped)
        # Repeated pixels do not change the result of two taps, but that of a wider kernel.
        if start < 0 and scale > 1:
            return None
        # The kernel of the first output pixel must not be cut, except by the edge of the frame.
        if start > 0 and scale * (num_skipped + 0.5) < support - 0.5:
            continue
        # A slightly different scale makes the shift zero in the middle of the box, and largest at its edges.
        error = start + scale * num_skipped - offset
        middle = num_skipped + size / 2
        if abs(error) * (size / 2) / middle <= MAX_SHIFT * support:
            stop = min(num_pixels, math.ceil(offset + extent + support))
            return Window(start, stop, scale - error / middle, num_skipped)
    return None
