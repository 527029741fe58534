"""Interface of an opened clip, independent of its format."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from itertools import pairwise
from types import TracebackType
from typing import Self

import numpy as np
import numpy.typing as npt

from pipeline.errors import ClipError
from pipeline.supervised import decoding

Frame = npt.NDArray[np.uint8]  # (H, W, 3), RGB
Frames = npt.NDArray[np.uint8]  # (T, H, W, 3), RGB


class ClipReader(ABC):
    """An opened clip. Use it as a context manager; one reader belongs to one thread.

    `num_frames` is counted, not taken from a header. `height` and `width` are those of the displayed frames, after
    rotation. Transparency is dropped; colours are not changed.

    opened_as: location that was given to `open_clip`. decodes_whole: whether to decode all pictures of a video,
        whichever frames are read, so that damage in any of them is an error.
    """

    opened_as = ""
    decodes_whole = False

    def __init__(self, location: str, num_frames: int, height: int, width: int) -> None:
        self.location = location
        self.num_frames, self.height, self.width = num_frames, height, width

    def read(self, indices: Sequence[int] | npt.NDArray[np.int64]) -> Frames:
        """Read the frames with these ordinals, in this order; an ordinal may occur more than once.

        Shape:
            returns: (T, H, W, 3), uint8 RGB, T = len(indices).

        Raises:
            ClipError: a frame cannot be decoded; it is never replaced by another.
        """
        wanted = np.asarray(indices, dtype=np.int64).reshape(-1)
        outside = wanted[(wanted < 0) | (wanted >= self.num_frames)]
        if outside.size:
            raise self._outside(int(outside[0]))
        ordinals, positions = np.unique(wanted, return_inverse=True)
        frames = np.empty((len(ordinals), self.height, self.width, 3), np.uint8)
        num_read = 0
        with decoding(self.opened_as or self.location):
            for frame in self._decoded([int(ordinal) for ordinal in ordinals]):
                frames[num_read] = frame
                num_read += 1
        if num_read != len(ordinals):
            raise AssertionError(f"{type(self).__name__} gave {num_read} frames for {len(ordinals)} ordinals.")
        in_order = len(positions) == len(ordinals) and bool((positions == np.arange(len(positions))).all())
        return frames if in_order else frames[positions]

    def stream(self, ordinals: Sequence[int] | npt.NDArray[np.int64]) -> Iterator[Frame]:
        """Yield the frames with these strictly increasing ordinals, with memory for one frame.

        Raises:
            ClipError: a frame cannot be decoded; damage after the last one is reported at the end.
        """
        wanted = [int(ordinal) for ordinal in ordinals]
        if any(later <= earlier for earlier, later in pairwise(wanted)):
            raise ValueError("`ordinals` must increase strictly; `read` accepts any order.")
        if wanted and not 0 <= wanted[0] <= wanted[-1] < self.num_frames:
            raise self._outside(wanted[0] if wanted[0] < 0 else wanted[-1])
        return self._announced(self._decoded(wanted))

    def _announced(self, frames: Iterator[Frame]) -> Iterator[Frame]:
        """Announce the decoding of each frame, without the time that the caller spends on it."""
        while True:
            with decoding(self.opened_as or self.location):
                frame = next(frames, None)
            if frame is None:
                return
            yield frame

    @abstractmethod
    def _decoded(self, ordinals: list[int]) -> Iterator[Frame]:
        """Yield the frames with these increasing ordinals, after checking their sizes."""

    def _outside(self, ordinal: int) -> ClipError:
        return ClipError(
            "short",
            f"{self.location} has {self.num_frames} frames (0 to {self.num_frames - 1}), "
            f"but frame {ordinal} was asked for.",
        )

    def _check_size(self, what: str, height: int, width: int) -> None:
        if (height, width) != (self.height, self.width):
            raise size_change(self.location, what, (height, width), (self.height, self.width))

    @abstractmethod
    def close(self) -> None:
        """Close files and decoders."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


def size_change(location: str, what: str, size: tuple[int, int], first_size: tuple[int, int]) -> ClipError:
    """Return the error for a frame whose size differs from that of the first; sizes as (height, width)."""
    (height, width), (first_height, first_width) = size, first_size
    return ClipError(
        "size-change",
        f"{location}: all frames of a clip must have one size, but {what} is {width}×{height} "
        f"and the first is {first_width}×{first_height} pixels (width×height).",
    )
