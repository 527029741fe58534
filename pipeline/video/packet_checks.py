"""Find damage in packets that decoders do not report: lost pictures, a cut in an open group of pictures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import numpy as np
from av.packet import Packet
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from pipeline.errors import ClipError
from pipeline.video.h264_pictures import FrameNumbers
from pipeline.video.images import decode_image
from pipeline.video.limits import ClipLimits
from pipeline.video.mpeg2_pictures import TemporalReferences
from pipeline.video.nal_units import length_size, starts_with_idr, stored_parameter_sets, without_broken_sei
from pipeline.video.needed_pictures import Picture, picture_of
from pipeline.video.shown_frames import shown_in_gif

# Decoders report every error ("explode"), with two exceptions that would reject sound clips. H.264: clips that were cut
# without encoding; it marks damaged frames anyway. TIFF: tags that the decoder does not know; see `damage_in`.
STRICT, LENIENT = "explode", "0"
LENIENT_CODECS = frozenset({"h264", "tiff"})
# Pixel formats that all decoders convert to the same RGB values.
EXACT_FORMATS = ("rgb24", "gray", "pal8")


class PacketChecks:
    """Check the packets of one stream in order."""

    def __init__(self, stream: VideoStream) -> None:
        self._codec = stream.codec_context.name
        self.error_detection = LENIENT if self._codec in LENIENT_CODECS else STRICT
        self.starts_in_open_group: bool | None = None
        """Whether the first picture is not an IDR picture; None before the first packet."""
        self._numbers: FrameNumbers | TemporalReferences | None = None
        self._length_size, self._parameter_sets = 0, frozenset[bytes]()
        if self._codec in ("h264", "hevc"):
            extradata = bytes(stream.codec_context.extradata or b"")
            self._length_size = length_size(self._codec, extradata)
            if self._codec == "h264":
                self._parameter_sets = frozenset(stored_parameter_sets(extradata, self._length_size))
                self._numbers = FrameNumbers(self._length_size, extradata)
        elif self._codec in ("mpeg1video", "mpeg2video"):
            self._numbers = TemporalReferences()

    def lost_before(self, packet: Packet[VideoStream]) -> str | None:
        """Return what is missing before a packet, as part of a sentence, or None."""
        if self.starts_in_open_group is None:
            self.starts_in_open_group = self._codec in ("h264", "hevc") and not starts_with_idr(
                self._codec, bytes(packet), self._length_size
            )
        return self._numbers.gap(bytes(packet)) if self._numbers else None

    def picture(self, packet: Packet[VideoStream]) -> Picture | None:
        """Return the picture of the last checked packet if its packet can be left out where it is not needed."""
        if not isinstance(self._numbers, FrameNumbers) or packet.is_discard:
            return None
        return picture_of(bytes(packet), packet.pts, self._numbers.header, self._length_size, self._parameter_sets)

    def damage_in(self, packet: Packet[VideoStream], frames: Sequence[VideoFrame], limits: ClipLimits) -> str | None:
        """Return the damage of a packet that its decoder does not report, as part of a sentence, or None.

        A TIFF is decoded by Pillow too. Two decoders fill up damaged pixels in different ways.
        """
        if self._codec != "tiff":
            return None
        try:
            pixels = decode_image(bytes(packet), "a frame", limits)
        except ClipError as error:
            if error.kind not in ("corrupt", "unreadable"):
                raise
            return str(error).rstrip(".")
        exact = [frame.to_ndarray(format="rgb24") for frame in frames if frame.format.name in EXACT_FORMATS]
        return None if all(np.array_equal(shown, pixels) for shown in exact) else "a frame has damaged pixels"

    def lost_at_end(self) -> str | None:
        """Return what is missing at the end of the stream, as part of a sentence, or None."""
        return self._numbers.end() if self._numbers else None

    def decodable(self, packet: Packet[VideoStream]) -> Packet[VideoStream] | None:
        """Return the packet for the decoder, or None to skip it.

        HEVC packets lose truncated SEI messages, and GIF packets the data after the last image.
        """
        if self._codec == "gif" and not shown_in_gif(memoryview(packet)):
            return None
        if self._codec != "hevc":
            return packet
        data = bytes(packet)
        sound = without_broken_sei(data, self._length_size)
        if sound is data:
            return packet
        mended = cast("Packet[VideoStream]", Packet(sound))
        mended.stream, mended.time_base = packet.stream, packet.time_base
        mended.pts, mended.dts, mended.is_keyframe = packet.pts, packet.dts, packet.is_keyframe
        return mended
