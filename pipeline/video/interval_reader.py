"""Open an interval of a clip as a clip: the same frames as those of a file that was cut there without loss."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from fractions import Fraction
from pathlib import Path

import numpy as np

from pipeline.errors import ClipError
from pipeline.intervals import FRAMES, Interval
from pipeline.video.limits import ClipLimits
from pipeline.video.long_video import long_video
from pipeline.video.orientation import shown_size
from pipeline.video.reader import ClipReader, Frame
from pipeline.video.video_decoder import Shown
from pipeline.video.video_file import VideoFile

# Manifests give times in milliseconds: a frame within half of one counts as at that time.
TOLERANCE_SECONDS = Fraction(1, 2000)


class VideoInterval(ClipReader):
    """An interval of a video file, decoded from the nearest key frame.

    Raises:
        UnlistedFramesError: the format does not tell the times of frames.
        ClipError: it is outside the video, or its frames cannot be decoded.
    """

    def __init__(self, location: str, path: Path, interval: Interval, limits: ClipLimits) -> None:
        self._limits = limits
        with ExitStack() as stack:
            self._video = stack.enter_context(long_video(path, limits))
            self._first, self._end = frame_range(location, interval, self._video.times_seconds)
            shown = next(self._frames(location))
            super().__init__(location, self._end - self._first, *shown_size(*shown))
            self._open = stack.pop_all()

    @property
    def frames_per_second(self) -> float | None:
        """Frame rate in the file's header, or None."""
        return self._video.frames_per_second

    def close(self) -> None:
        self._open.close()

    def _frames(self, location: str) -> Iterator[Shown]:
        return self._video.frames(self._first, self._end, location, self._limits)

    def _decoded(self, ordinals: list[int]) -> Iterator[Frame]:
        wanted = set(ordinals)
        for ordinal, shown in enumerate(self._frames(self.location)):
            self._check_size(f"frame {ordinal}", *shown_size(*shown))
            if ordinal in wanted:
                yield self._video.as_rgb(shown)


class PartOfClip(ClipReader):
    """An interval of a clip that is opened whole, such as a folder of frames."""

    def __init__(self, location: str, whole: ClipReader, interval: Interval) -> None:
        self._whole = whole
        try:
            times: Sequence[Fraction] | None = None
            rate = whole.frames_per_second if isinstance(whole, VideoFile) else None
            if rate:
                times = [ordinal / Fraction(rate).limit_denominator(1001) for ordinal in range(whole.num_frames)]
            elif interval.unit == FRAMES:
                times = [Fraction(ordinal) for ordinal in range(whole.num_frames)]
            else:
                raise ClipError(
                    "unreadable", f"{location} is in seconds, but images have no rate. Give the interval in frames."
                )
            self._first, end = frame_range(location, interval, times)
        except BaseException:
            whole.close()
            raise
        super().__init__(location, end - self._first, whole.height, whole.width)

    def close(self) -> None:
        self._whole.close()

    def _decoded(self, ordinals: list[int]) -> Iterator[Frame]:
        return self._whole.stream(np.array(ordinals) + self._first)


def frame_range(location: str, interval: Interval, times_seconds: Sequence[Fraction]) -> tuple[int, int]:
    """Return the ordinals of the first frame of an interval, and of the one after its last frame.

    A frame is in the interval from its start up to, but without, its end.

    Raises:
        ClipError: the interval is outside the clip, or holds no frame.
    """
    start, end = interval.bounds
    if end <= start:
        raise ClipError("short", f"{location} ends at {interval.end}, which is not after its start {interval.start}.")
    num_frames = len(times_seconds)
    gap = times_seconds[-1] - times_seconds[-2] if num_frames > 1 else Fraction(0)
    length_seconds = times_seconds[-1] + gap
    if interval.unit == FRAMES:
        first, last = int(start), int(end)
        is_outside = last > num_frames
    else:
        first, last = (bisect_left(times_seconds, bound - TOLERANCE_SECONDS) for bound in (start, end))
        # The end may be rounded up, to the time after the last frame or a little more.
        is_outside = first >= num_frames or end > length_seconds + gap
    if is_outside:
        raise ClipError(
            "short",
            f"{location} is outside its video, which has {num_frames:,} frames in {float(length_seconds):.2f} s.",
        )
    if first == last:
        raise ClipError("short", f"{location} holds no frame: the nearest is at {float(times_seconds[first]):.3f} s.")
    return first, last
