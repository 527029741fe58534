"""Hash a frame by the differences of brightness between neighbouring parts of it, to find frames that look alike.

The signs of the differences are the usual difference hash. Their sizes are kept, too: frames of other scenes share
many signs by chance, but hardly the sizes.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from pipeline.video.reader import Frame

SHORT, LONG = 8, 9
NUM_DIFFERENCES = 2 * SHORT * (LONG - 1)
# A frame whose parts differ by less than this, in grey levels, is black or plain: many clips have such frames.
MIN_CONTRAST = 1.0


def difference_hash(frame: Frame) -> bytes:
    """Return the differences of a frame's parts, to the right and downwards; empty if the frame is plain.

    Shape:
        frame: (H, W, 3), uint8 RGB. returns: 128 float16 of unit length.
    """
    grey = frame.mean(axis=2, dtype=np.float32)
    right = np.diff(_means(grey, SHORT, LONG), axis=1)
    down = np.diff(_means(grey, LONG, SHORT), axis=0)
    differences = np.concatenate([right.ravel(), down.ravel()])
    length = float(np.linalg.norm(differences))
    if length < MIN_CONTRAST * NUM_DIFFERENCES**0.5:
        return b""
    return (differences / length).astype(np.float16).tobytes()


def stack_hashes(hashes: list[bytes]) -> npt.NDArray[np.float32]:
    """Return hashes as vectors of unit length: (N, 128)."""
    vectors = np.frombuffer(b"".join(hashes), np.float16).astype(np.float32).reshape(-1, NUM_DIFFERENCES)
    unit: npt.NDArray[np.float32] = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return unit


def _means(grey: npt.NDArray[np.float32], num_rows: int, num_columns: int) -> npt.NDArray[np.float64]:
    """Return the mean of each part of an image that is divided into rows and columns. Shape: (H, W) -> (R, C)."""
    rows, columns = _bounds(grey.shape[0], num_rows), _bounds(grey.shape[1], num_columns)
    sums = np.zeros((grey.shape[0] + 1, grey.shape[1] + 1))
    sums[1:, 1:] = grey.cumsum(axis=0, dtype=np.float64).cumsum(axis=1)
    (top, bottom), (left, right) = rows, columns
    inside = sums[bottom][:, right] - sums[top][:, right] - sums[bottom][:, left] + sums[top][:, left]
    means: npt.NDArray[np.float64] = inside / np.outer(bottom - top, right - left)
    return means


def _bounds(size: int, num_parts: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Return the first pixel of each part, and the one after its last; parts of a tiny image share pixels."""
    starts = np.arange(num_parts) * size // num_parts
    return starts, np.maximum((np.arange(num_parts) + 1) * size // num_parts, starts + 1)
