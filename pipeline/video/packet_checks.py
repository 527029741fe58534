"""Find damage in packets that decoders do not report: lost pictures, a cut in an open group of pictures."""

from __future__ import annotations

from typing import cast

from av.packet import Packet
from av.video.stream import VideoStream

from pipeline.video.h264_pictures import FrameNumbers
from pipeline.video.mpeg2_pictures import TemporalReferences
from pipeline.video.nal_units import length_size, starts_with_idr, without_broken_sei
from pipeline.video.shown_frames import shown_in_gif

# Decoders report every error ("explode"), except for H.264: its decoder would then reject undamaged clips too, such as
# one cut without encoding, and it marks damaged frames anyway.
STRICT, LENIENT = "explode", "0"
LENIENT_CODECS = frozenset({"h264"})


class PacketChecks:
    """Check the packets of one stream in order."""

    def __init__(self, stream: VideoStream) -> None:
        self._codec = stream.codec_context.name
        self.error_detection = LENIENT if self._codec in LENIENT_CODECS else STRICT
        self.starts_in_open_group: bool | None = None
        """Whether the first picture is not an IDR picture; None before the first packet."""
        self._numbers: FrameNumbers | TemporalReferences | None = None
        self._length_size = 0
        if self._codec in ("h264", "hevc"):
            extradata = bytes(stream.codec_context.extradata or b"")
            self._length_size = length_size(self._codec, extradata)
            self._numbers = FrameNumbers(self._length_size, extradata) if self._codec == "h264" else None
        elif self._codec in ("mpeg1video", "mpeg2video"):
            self._numbers = TemporalReferences()

    def lost_before(self, packet: Packet[VideoStream]) -> str | None:
        """Return what is missing before a packet, as part of a sentence, or None."""
        if self.starts_in_open_group is None:
            self.starts_in_open_group = self._codec in ("h264", "hevc") and not starts_with_idr(
                self._codec, bytes(packet), self._length_size
            )
        return self._numbers.gap(bytes(packet)) if self._numbers else None

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
