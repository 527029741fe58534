"""Axis letters, the same in every file, and one check of a shape against them.

B batch (clips), T segments, C channels, H height, W width, K classes, N frames (B and T folded together).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from pipeline.errors import ShapeError


class HasShape(Protocol):
    """Anything with a shape: a torch tensor, a numpy array, a Zarr array."""

    @property
    def shape(self) -> Sequence[int]: ...


def check_shape(name: str, value: HasShape, axes: str, **sizes: int) -> dict[str, int]:
    """Check that `value` has the axes named in `axes` and return the size of each.

    `axes` is a string such as ``"B T C 1 1"``: a letter takes any size, or the one given in `sizes`; a digit is a
    size that must hold.

    Raises:
        ShapeError: another number of axes, or a size that differs.

    >>> import numpy as np
    >>> check_shape("features", np.zeros((2, 8, 512, 1, 1)), "B T C 1 1", T=8)
    {'B': 2, 'T': 8, 'C': 512}
    """
    names = axes.split()
    shape = tuple(int(size) for size in value.shape)
    wanted = ", ".join(f"{axis}={sizes[axis]}" if axis in sizes else axis for axis in names)
    if len(shape) != len(names):
        raise ShapeError(f"`{name}` must have the axes ({wanted}), but has the shape {shape}.")
    found: dict[str, int] = {}
    for axis, size in zip(names, shape, strict=True):
        expected = int(axis) if axis.isdigit() else sizes.get(axis, found.get(axis))
        if expected is not None and size != expected:
            raise ShapeError(f"`{name}` must have the axes ({wanted}), but has {axis}={size} in its shape {shape}.")
        if not axis.isdigit():
            found[axis] = size
    return found
