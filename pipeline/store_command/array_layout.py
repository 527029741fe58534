"""Convert imported arrays to the pooled features and channels-last maps of a store.

(T, C)            pooled features of T segments or frames
(T, C, H, W)      feature maps; pooled features are their mean
(T, tokens, C)    tokens of a transformer; a square number of them is a map, row by row
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import ClipError, PipelineError

Float16 = NDArray[np.float16]
LARGEST = float(np.finfo(np.float16).max)
AXES = {2: "(T, C)", 3: "(T, tokens, C)", 4: "(T, C, H, W)"}


@dataclass(frozen=True)
class ArrayLayout:
    """Shape of all arrays of an import.

    shape: `shape[0]` is the number of segments, or any number if each array holds all frames.
    class_tokens: number of tokens before those of the patches, which are left out.
    """

    shape: tuple[int, ...]
    has_all_frames: bool
    has_maps: bool
    class_tokens: int = 0

    @property
    def num_segments(self) -> int:
        return 0 if self.has_all_frames else self.shape[0]

    @property
    def channels(self) -> int:
        return self.shape[1] if len(self.shape) == 4 else self.shape[-1]

    @property
    def map_size(self) -> int:
        """Height and width of the maps; 1 without maps."""
        if not self.has_maps:
            return 1
        return self.shape[2] if len(self.shape) == 4 else math.isqrt(self.shape[1] - self.class_tokens)

    def check(self, shape: tuple[int, ...], where: str) -> None:
        """Check the shape of an array.

        Raises:
            ClipError: it is not that of the others.
        """
        if self.has_all_frames and len(shape) == len(self.shape) and shape[1:] == self.shape[1:] and shape[0] > 0:
            return
        if shape == self.shape:
            return
        text = f"{where} has the shape {shape}, most arrays have {self.shape}."
        if shape[1:] == self.shape[1:]:
            text += " If they hold one feature per frame, of any number of frames, import them with --frames all."
        raise ClipError("other-shape", text)

    def convert(self, array: NDArray[Any], where: str) -> tuple[Float16, Float16 | None]:
        """Return pooled features and maps.

        Shape:
            array: the shape of this layout.
            returns: (T, C) and (T, H, W, C), or None without maps.

        Raises:
            ClipError: a value is not finite, or beyond float16.
        """
        if len(self.shape) == 4:
            maps = array.transpose(0, 2, 3, 1)  # (T, H, W, C)
        elif len(self.shape) == 3:
            maps = array[:, self.class_tokens :]  # (T, N, C)
        else:
            return _float16(array, where), None
        pooled = maps.reshape(len(array), -1, self.channels).mean(
            axis=1, dtype=np.promote_types(array.dtype, "float32")
        )
        if not self.has_maps:
            return _float16(pooled, where), None
        size = self.map_size
        return _float16(pooled, where), _float16(maps.reshape(len(array), size, size, self.channels), where)


def choose_layout(
    shapes: Iterable[tuple[int, ...]], has_all_frames: bool, wants_maps: bool, class_tokens: int
) -> ArrayLayout:
    """Choose the layout of most arrays; `has_all_frames` ignores their lengths.

    Raises:
        PipelineError: that shape cannot be imported.
    """
    counts = Counter((0, *shape[1:]) if has_all_frames else shape for shape in shapes)
    shape = counts.most_common(1)[0][0]
    if len(shape) not in AXES or 0 in shape[has_all_frames:]:
        raise PipelineError(f"Arrays of the shape {shape} are not features; they must be {', '.join(AXES.values())}.")
    if class_tokens and (len(shape) != 3 or class_tokens >= shape[1]):
        raise PipelineError(
            f"`class-tokens` (={class_tokens}) is for arrays {AXES[3]} with more tokens than that, but most arrays "
            f"have the shape {shape}."
        )
    layout = ArrayLayout(shape, has_all_frames, wants_maps and len(shape) > 2 and not has_all_frames, class_tokens)
    if layout.has_maps:
        height, width = (shape[2], shape[3]) if len(shape) == 4 else (layout.map_size, -1)
        num_tokens = shape[1] - class_tokens
        if len(shape) == 4 and height != width:
            raise PipelineError(
                f"The maps of the arrays are {height}×{width}, and maps of a store are square. Average or crop them, "
                "or import their mean with --maps pooled."
            )
        if len(shape) == 3 and height**2 != num_tokens:
            raise PipelineError(
                f"The arrays have {num_tokens} tokens, which is no square map. If some stand for the whole frame, give "
                "their number (--class-tokens 1); or import the mean of all with --maps pooled."
            )
    return layout


def _float16(values: NDArray[Any], where: str) -> Float16:
    if not np.isfinite(values).all():
        raise ClipError("overflow", f"{where} holds NaN or infinity.")
    largest = float(np.abs(values).max(initial=0.0))
    if largest > LARGEST:
        raise ClipError("overflow", f"{where} holds {largest:.4g}, beyond the range of float16 ({LARGEST:.0f}).")
    return np.ascontiguousarray(values, dtype=np.float16)
