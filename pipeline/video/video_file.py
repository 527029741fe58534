"""Read frames of an encoded video file with PyAV: decode once in order, select by ordinal.

Of an H.264 stream, only the pictures that the requested frames need are decoded; of other streams, all. There is no
seeking, which stops at key frames and is four times as slow on clips with one key frame; `long_video` seeks for
intervals of long videos.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

from av.packet import Packet
from av.video.stream import VideoStream

from pipeline.errors import ClipError
from pipeline.video.limits import DEFAULT_LIMITS, ClipLimits
from pipeline.video.needed_pictures import Picture, are_times_in_display_order, needed_positions
from pipeline.video.orientation import shown_size
from pipeline.video.reader import ClipReader, Frame
from pipeline.video.shown_frames import count_by_packets
from pipeline.video.video_decoder import Shown, VideoDecoder

MAX_KEPT_BYTES = 1 << 25  # packets of a longer clip are read a second time instead of being kept


class VideoFile(VideoDecoder, ClipReader):
    """A video file. All frames are counted, and decoded in order; only requested ones are converted to RGB.

    Damage is found in all pictures that are decoded: with `decodes_whole`, and without it in other streams than H.264,
    anywhere in the clip. Lost pictures are found anywhere, because all packets are read.

    Raises:
        ClipError: the file has no video, is truncated or damaged, or has frames of different sizes.
    """

    def __init__(self, path: Path, container_format: str | None = None, limits: ClipLimits = DEFAULT_LIMITS) -> None:
        VideoDecoder.__init__(self, path, container_format, limits)
        self._packets: list[Packet[VideoStream]] | None = []
        self._pictures: list[Picture] = []  # of all packets, if packets can be left out; else empty
        try:
            num_frames, times = self._counted()
            running = self._shown_from_start()
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
        frames, num_read = self._started(), 0
        wanted_times = self._times_of(ordinals)
        if not self.decodes_whole and self._leave_out_for(wanted_times):
            for pixels in self._expected(frames, wanted_times):
                yield pixels
                num_read += 1
            if num_read == len(ordinals):
                return
            frames = self._started()
        yield from self._selected(frames, ordinals[num_read:])

    def _started(self) -> Iterator[Shown]:
        """Return the frames from the first one on: of the decoder that the constructor started, or of a new one."""
        if self._running is None:
            self._reopen()
            return self._shown_from_start()
        running, self._running = self._running, None
        return running

    def _selected(self, frames: Iterator[Shown], ordinals: list[int]) -> Iterator[Frame]:
        """Decode all frames, and yield those with these ordinals."""
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

    def _shown_from_start(self) -> Iterator[Shown]:
        self._left_out, self._num_fed = frozenset[int](), 0
        return self._shown(self._fed())

    def _fed(self) -> Iterator[Packet[VideoStream]]:
        """Yield the packets for the decoder, without those that are left out."""
        for position, packet in enumerate(self._demuxed() if self._packets is None else self._packets):
            if position not in self._left_out:
                self._num_fed = position + 1
                yield packet

    def _times_of(self, ordinals: list[int]) -> set[int]:
        """Return the display times of frames if packets can be left out, else nothing."""
        times = sorted(picture.time for picture in self._pictures)
        return {times[ordinal] for ordinal in ordinals} if times else set()

    def _leave_out_for(self, wanted_times: set[int]) -> bool:
        """Leave out the packets from here on that these frames do not need; return whether there are any."""
        needed = set(needed_positions(self._pictures, wanted_times))
        self._left_out = frozenset(range(self._num_fed, len(self._pictures))) - needed
        return bool(self._left_out)

    def _expected(self, frames: Iterator[Shown], wanted_times: set[int]) -> Iterator[Frame]:
        """Yield the frames with these times, as long as the decoder gives the frame of each packet it is fed.

        A decoder that drops or reorders frames cannot be followed by their display times.
        """
        kept = (picture.time for place, picture in enumerate(self._pictures) if place not in self._left_out)
        for time, (frame, matrix) in zip(sorted(kept), frames, strict=False):
            if frame.pts != time:
                return
            if time in wanted_times:
                yield self._as_rgb(frame, matrix)

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
        pictures: list[Picture | None] = []
        count = count_by_packets(self._container.format.name, self._stream)
        for packet in self._demuxed():
            num_packets += 1
            num_bytes += packet.size
            pictures.append(self._checks.picture(packet))
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
        known = [picture for picture in pictures if picture is not None]
        if not is_cut and len(times) == len(known) == num_packets and are_times_in_display_order(known):
            self._pictures = known
        if packets is None:
            self._reopen()
        if count is None or (is_cut and not times):
            num_shown = sum(1 for _ in self._shown(self._packets))
            self._reopen()
        return num_shown, times
