"""Read frames of an encoded video file with PyAV: decode once in order, select by ordinal.

There is no seeking, which stops at key frames and is four times as slow on clips with one key frame; `long_video` seeks
for intervals of long videos.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

from av.packet import Packet
from av.video.stream import VideoStream

from pipeline.errors import ClipError
from pipeline.video.limits import DEFAULT_LIMITS, ClipLimits
from pipeline.video.orientation import shown_size
from pipeline.video.reader import ClipReader, Frame
from pipeline.video.shown_frames import count_by_packets
from pipeline.video.video_decoder import Shown, VideoDecoder

MAX_KEPT_BYTES = 1 << 25  # packets of a longer clip are read a second time instead of being kept


class VideoFile(VideoDecoder, ClipReader):
    """A video file. All frames are counted and decoded in order; only requested ones are converted to RGB.

    Every read decodes up to the end, so damage anywhere in the clip is found, whichever frames are requested.

    Raises:
        ClipError: the file has no video, is truncated or damaged, or has frames of different sizes.
    """

    def __init__(self, path: Path, container_format: str | None = None, limits: ClipLimits = DEFAULT_LIMITS) -> None:
        VideoDecoder.__init__(self, path, container_format, limits)
        self._packets: list[Packet[VideoStream]] | None = []
        try:
            num_frames, times = self._counted()
            running = self._shown(self._packets)
            first = next(running, None)
            if first is None:
                raise ClipError("empty", f"{path} has a video stream, but not one frame in it.")
            # The first read continues decoding from here.
            self._running: Iterator[Shown] | None = itertools.chain([first], running)
            if self._checks.starts_in_open_group and times:
                # Frames before the first displayed one refer to frames that were cut off; every decoder drops them.
                num_frames = sum(time >= (first[0].pts or 0) for time in times)
        except BaseException:
            self._container.close()
            raise
        height, width = shown_size(*first)
        ClipReader.__init__(self, str(path), num_frames, height, width)

    def close(self) -> None:
        self._running, self._packets = None, []
        self._container.close()

    def _decoded(self, ordinals: list[int]) -> Iterator[Frame]:
        if self._running is None:
            self._reopen()
        frames, self._running = self._running or self._shown(self._packets), None
        wanted, num_frames = set(ordinals), 0
        for ordinal, (frame, matrix) in enumerate(frames):
            if ordinal in wanted:
                yield self._as_rgb(frame, matrix)
            num_frames += 1
        if num_frames != self.num_frames:
            raise ClipError(
                "corrupt",
                f"{self._path} is damaged: it holds {self.num_frames} frames, but {num_frames} can be decoded.",
            )

    def _reopen(self) -> None:
        """Open the file again with a new decoder."""
        self._container.close()
        self._container, self._stream = self._open()

    def _counted(self) -> tuple[int, list[int]]:
        """Count the frames: by their packets where a packet's frames are known, else by decoding them all.

        Returns the number of frames and, if packets are counted, the display time of each.
        """
        packets: list[Packet[VideoStream]] | None = self._packets
        num_packets = num_shown = num_bytes = 0
        times: list[int] = []
        count = count_by_packets(self._container.format.name, self._stream)
        for packet in self._demuxed():
            num_packets += 1
            num_bytes += packet.size
            if packets is not None:
                packets.append(packet)
                if num_bytes > MAX_KEPT_BYTES:
                    packets = None
            if count is not None and not packet.is_discard:
                num_shown += count(memoryview(packet))
                if packet.pts is not None and self._container.format.name != "avi":  # AVI has no display times
                    times.append(packet.pts)
        num_indexed = len(self._stream.index_entries)
        if num_indexed > num_packets:
            raise ClipError(
                "truncated",
                f"{self._path} is truncated: its index names {num_indexed} frames, but {num_packets} are there.",
            )
        self._packets = packets
        is_cut = self._checks.starts_in_open_group
        if packets is None:
            self._reopen()
        if count is None or (is_cut and not times):
            num_shown = sum(1 for _ in self._shown(self._packets))
            self._reopen()
        return num_shown, times
