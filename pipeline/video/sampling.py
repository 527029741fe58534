"""Which frames of a clip are seen: one of each of N equal segments. Pure functions of numbers.

Source: paper, Sec. 3.1 (N equal segments, a random frame of each in training, equidistant ones in testing).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from pipeline.errors import ClipError, PipelineError

FrameIndices = npt.NDArray[np.int64]


def test_frame_indices(num_frames: int, num_segments: int, short_clip: str = "formula") -> FrameIndices:  # noqa: PT028
    """The frames of the test view: the middle of each segment, ``int(L / 2N + k L / N)`` for k = 0 … N-1.

    A clip with fewer frames than segments repeats frames, in order. With `short_clip` = ``"first"`` a clip with at
    most N frames gives its first frame for every segment, as the published code does.

    Shape:
        returns: (T,), int64, never falling.

    Raises:
        ClipError: the clip has no frames.
        PipelineError: no segments, or an unknown `short_clip`.
    """
    _check_counts(num_frames, num_segments)
    if short_clip not in ("formula", "first"):
        raise PipelineError(f"`short_clip` (={short_clip!r}) must be 'formula' or 'first'.")
    segments = np.arange(num_segments, dtype=np.int64)
    if short_clip == "first" and num_frames <= num_segments:
        return np.zeros_like(segments)
    # In whole numbers, so that no rounding of L / N can move a frame.
    return (2 * segments + 1) * num_frames // (2 * num_segments)


def drawn_frame_indices(
    num_frames: int,
    num_segments: int,
    generator: np.random.Generator,
    sampler: str = "covering",
) -> FrameIndices:
    """One random frame of each segment, for a training view.

    `covering`: segment k has the frames from ``k L // N`` up to ``(k + 1) L // N``, so every frame of the clip can be
    drawn, and none is drawn twice unless L < N; then each segment has the one frame ``k L // N``.
    `floor`: segments of ``L // N`` frames from the first on, so the last L mod N are never seen; with L < N the first
    frame for every segment (published code).

    Shape:
        returns: (T,), int64, never falling.

    Raises:
        ClipError: the clip has no frames.
        PipelineError: no segments, or an unknown `sampler`.
    """
    _check_counts(num_frames, num_segments)
    if sampler == "covering":
        edges = np.arange(num_segments + 1, dtype=np.int64) * num_frames // num_segments
    elif sampler == "floor":
        edges = np.arange(num_segments + 1, dtype=np.int64) * (num_frames // num_segments)
    else:
        raise PipelineError(f"`sampler` (={sampler!r}) must be 'covering' or 'floor'.")
    num_choices = np.maximum(np.diff(edges), 1)
    # One double a segment, whatever the length: the stream of numbers then does not depend on numpy's way of
    # drawing integers.
    offsets = (generator.random(num_segments) * num_choices).astype(np.int64)
    return edges[:-1] + offsets


def _check_counts(num_frames: int, num_segments: int) -> None:
    if num_segments < 1:
        raise PipelineError(f"`num_segments` (={num_segments}) must be at least 1.")
    if num_frames < 1:
        raise ClipError("empty", f"A clip needs at least one frame to sample from, but has {num_frames}.")


# pytest would collect the function by its name wherever a test module imports it.
test_frame_indices.__test__ = False  # type: ignore[attr-defined]
