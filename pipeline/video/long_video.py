"""Decode ranges of a long video from the nearest key frame, or from the last decoded frame if it is nearer.

The displayed frames are listed once, from their packets. Decoding from a key frame gives the same pixels as decoding
from the start, because a frame that is shown after a key frame refers to no frame before it.
"""

from __future__ import annotations

import os
import threading
from bisect import bisect_left, bisect_right
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path

from pipeline.errors import ClipError
from pipeline.video.limits import ClipLimits, Stopwatch
from pipeline.video.packet_checks import PacketChecks
from pipeline.video.reader import Frame
from pipeline.video.shown_frames import count_by_packets
from pipeline.video.video_decoder import DECODING_ERRORS, Shown, VideoDecoder, cause_of

MAX_IDLE = 2


class UnlistedFramesError(Exception):
    """The frames of a video cannot be listed without decoding them."""


class LongVideo(VideoDecoder):
    """A video with a list of its frames; one thread uses it at a time.

    times_seconds: display time of each frame after the first one, as exact numbers.

    Raises:
        UnlistedFramesError: the format does not tell the times of frames.
        ClipError: the file has no video, or is truncated.
    """

    def __init__(self, path: Path, limits: ClipLimits) -> None:
        super().__init__(path, None, limits)
        try:
            self._pts, keys = self._listed()
        except BaseException:
            self._container.close()
            raise
        self._ordinal_of = {pts: ordinal for ordinal, pts in enumerate(self._pts)}
        self._keys = [self._ordinal_of[pts] for pts in keys]
        base = self._stream.time_base or Fraction(1)
        self.times_seconds = [(pts - self._pts[0]) * base for pts in self._pts]
        self._running: Iterator[Shown] = iter(())
        self._next: int | None = None  # ordinal of the next frame of `_running`

    def frames(self, first: int, end: int, location: str, limits: ClipLimits) -> Iterator[Shown]:
        """Yield the frames from ordinal `first` up to `end`.

        Raises:
            ClipError: one of them cannot be decoded. `location` names the clip in the message.
        """
        self._watch = Stopwatch(location, limits)
        key = self._keys[max(bisect_right(self._keys, first) - 1, 0)]
        position, self._next = self._next, None  # after an error, the next range starts at a key frame
        if position is None or not key <= position <= first:
            self._seek(key)
            position = key
        for ordinal in range(position, end):
            shown = next(self._running, None)
            if shown is None or self._ordinal_of.get(shown[0].pts or 0) != ordinal:
                raise ClipError("corrupt", f"{location} is damaged: frame {ordinal} of the video cannot be decoded.")
            if ordinal == end - 1:
                self._next = end
            if ordinal >= first:
                yield shown

    def as_rgb(self, shown: Shown) -> Frame:
        """Return the pixels of a frame as it is shown. Shape: (H, W, 3), uint8."""
        return self._as_rgb(*shown)

    def close(self) -> None:
        """Close the file and the decoder."""
        self._running = iter(())
        self._container.close()

    def _seek(self, ordinal: int) -> None:
        pts = self._pts[ordinal]
        try:
            self._container.seek(pts, stream=self._stream)
        except DECODING_ERRORS as error:
            raise self._corrupt(error) from cause_of(error, self._path)
        self._checks = PacketChecks(self._stream)
        self._running = self._shown(since=pts)

    def _listed(self) -> tuple[list[int], list[int]]:
        """Return the display times of the frames, and those of the key frames, in the time base of the stream."""
        count = count_by_packets(self._container.format.name, self._stream)
        if count is None or self._container.format.name == "avi":
            raise UnlistedFramesError
        times, keys = [], []
        try:
            for packet in self._container.demux(self._stream):
                num_shown = 0 if not packet.size or packet.is_discard else count(memoryview(packet))
                if num_shown and (packet.pts is None or num_shown > 1):
                    raise UnlistedFramesError
                if num_shown and packet.pts is not None:
                    times.append(packet.pts)
                    keys += [packet.pts] if packet.is_keyframe else []
        except DECODING_ERRORS as error:
            raise self._corrupt(error) from cause_of(error, self._path)
        if not keys or len(set(times)) != len(times):
            raise UnlistedFramesError
        times.sort()
        # Frames that are shown before the first key frame refer to frames that were cut off.
        return times[bisect_left(times, min(keys)) :], sorted(keys)


class _IdleVideos:
    """Videos that were opened for an interval and wait for the next one."""

    def __init__(self) -> None:
        self._videos: OrderedDict[tuple[str, int, int], LongVideo] = OrderedDict()
        self._lock = threading.Lock()

    def take(self, key: tuple[str, int, int]) -> LongVideo | None:
        with self._lock:
            return self._videos.pop(key, None)

    def give(self, key: tuple[str, int, int], video: LongVideo) -> None:
        with self._lock:
            known = [self._videos.pop(key)] if key in self._videos else []
            self._videos[key] = video
            known += [self._videos.popitem(last=False)[1] for _ in range(len(self._videos) - MAX_IDLE)]
        for other in known:
            other.close()


_idle = _IdleVideos()


@contextmanager
def long_video(path: Path, limits: ClipLimits) -> Iterator[LongVideo]:
    """Open a video, or go on with one that this process has opened for another interval.

    The pixels do not depend on it: only the time does.

    Raises:
        UnlistedFramesError: the format does not tell the times of frames.
        ClipError: the file has no video, or is truncated.
    """
    found = os.stat(path)
    key = (os.path.abspath(path), found.st_size, found.st_mtime_ns)
    video = _idle.take(key) or LongVideo(path, limits)
    try:
        yield video
    except BaseException:
        video.close()
        raise
    _idle.give(key, video)
