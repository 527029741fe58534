"""Sample frames of a clip: one from each of N equal segments. Pure functions of numbers.

Source: paper, Sec. 3.1 (N equal segments, a random frame of each in training, equidistant ones in testing).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from pipeline.errors import ClipError, PipelineError

FrameIndices = npt.NDArray[np.int64]


def test_frame_indices(
    num_frames: int,
    num_segments: int,
    short_clip: str = "formula",  # noqa: PT028
    test_frames: str = "exact",  # noqa: PT028
) -> FrameIndices:
    """Return the frames of the test view: the middle of each segment, ``int(L / 2N + k L / N)`` for k = 0 … N-1.

    A clip with fewer frames than segments repeats frames, in order. With `short_clip` = ``"first"`` a clip with at
    most N frames gives its first frame for every segment, as the published code does.

    `test_frames` = ``"exact"`` computes the formula in integers. ``"float"`` computes it in floating point, as the
    published code does: if a middle is an integer, rounding can give the frame before it.

    Shape:
        returns: (T,), int64, non-decreasing.

    Raises:
        ClipError: the clip has no frames.
        PipelineError: no segments, or an unknown `short_clip` or `test_frames`.
    """
    _check_counts(num_frames, num_segments)
    if short_clip not in ("formula", "first"):
        raise PipelineError(f"`short_clip` (={short_clip!r}) must be 'formula' or 'first'.")
    if test_frames not in ("exact", "float"):
        raise PipelineError(f"`test_frames` (={test_frames!r}) must be 'exact' or 'float'.")
    segments = np.arange(num_segments, dtype=np.int64)
    if short_clip == "first" and num_frames <= num_segments:
        return np.zeros_like(segments)
    if test_frames == "float":
        tick = num_frames / num_segments
        return (tick / 2 + tick * segments).astype(np.int64)
    return (2 * segments + 1) * num_frames // (2 * num_segments)


def drawn_frame_indices(
    num_frames: int,
    num_segments: int,
    generator: np.random.Generator,
    sampler: str = "covering",
) -> FrameIndices:
    """Draw one random frame of each segment, for a training view.

    `covering`: segment k reaches from ``k L / N`` to ``(k + 1) L / N`` and a point in it is drawn uniformly, so every
    frame of the clip is drawn equally often. A frame across the edge of two segments can be drawn by both.
    `floor`: segments of ``L // N`` frames from the first on, so the last L mod N are never seen; with L < N the first
    frame for every segment (published code).

    Shape:
        returns: (T,), int64, non-decreasing.

    Raises:
        ClipError: the clip has no frames.
        PipelineError: no segments, or an unknown `sampler`.

    Source: the edges of `covering` are those of mmaction2's `SampleFrames`; `floor` is the published code's rule.
    """
    _check_counts(num_frames, num_segments)
    segments = np.arange(num_segments, dtype=np.int64)
    # Draw one double per segment, so that the numbers do not depend on how NumPy draws integers.
    draws = generator.random(num_segments)
    if sampler == "covering":
        indices = ((segments + draws) * num_frames / num_segments).astype(np.int64)
        # `segments + draws` can round up to N.
        return np.minimum(indices, num_frames - 1)
    if sampler == "floor":
        length = num_frames // num_segments
        return segments * length + (draws * max(length, 1)).astype(np.int64)
    raise PipelineError(f"`sampler` (={sampler!r}) must be 'covering' or 'floor'.")


def _check_counts(num_frames: int, num_segments: int) -> None:
    if num_segments < 1:
        raise PipelineError(f"`num_segments` (={num_segments}) must be at least 1.")
    if num_frames < 1:
        raise ClipError("empty", f"A clip needs at least one frame to sample from, but has {num_frames}.")


# pytest would collect the function by its name wherever a test module imports it.
test_frame_indices.__test__ = False  # type: ignore[attr-defined]
