"""What the packets of a stream tell that its decoder does not: lost pictures, a cut in an open group of pictures."""

from __future__ import annotations

from typing import cast

from av.packet import Packet
from av.video.stream import VideoStream

from pipeline.video.h264_pictures import FrameNumbers
from pipeline.video.mpeg2_pictures import TemporalReferences
from pipeline.video.nal_units import length_size, starts_with_idr, without_broken_sei
from pipeline.video.shown_frames import shown_in_gif

# Every decoder is to refuse whatever it finds wrong ("explode"). Only that of H.264 also refuses sound clips then, such
# as one that was cut without encoding, and marks damaged frames anyway.
STRICT, LENIENT = "explode", "0"
LENIENT_CODECS = frozenset({"h264"})


class PacketChecks:
    """Follows the packets of one stream in order."""

    def __init__(self, stream: VideoStream) -> None:
        self._codec = stream.codec_context.name
        self.error_detection = LENIENT if self._codec in LENIENT_CODECS else STRICT
        self.starts_in_open_group: bool | None = None
        """Whether the first picture is none that a stream starts with; None before the first packet."""
        self._numbers: FrameNumbers | TemporalReferences | None = None
        self._length_size = 0
        if self._codec in ("h264", "hevc"):
            extradata = bytes(stream.codec_context.extradata or b"")
            self._length_size = length_size(self._codec, extradata)
            self._numbers = FrameNumbers(self._length_size, extradata) if self._codec == "h264" else None
        elif self._codec in ("mpeg1video", "mpeg2video"):
            self._numbers = TemporalReferences()

    def lost_before(self, packet: Packet[VideoStream]) -> str | None:
        """Return what is missing before a packet, as part of a sentence; None where nothing is known to be."""
        if self.starts_in_open_group is None:
            self.starts_in_open_group = self._codec in ("h264", "hevc") and not starts_with_idr(
                self._codec, bytes(packet), self._length_size
            )
        return self._numbers.gap(bytes(packet)) if self._numbers else None

    def lost_at_end(self) -> str | None:
        """Return what is missing in what came last."""
        return self._numbers.end() if self._numbers else None

    def decodable(self, packet: Packet[VideoStream]) -> Packet[VideoStream] | None:
        """Return the packet as its decoder is to have it, None where it is to have nothing.

        HEVC goes without messages that are cut short, GIF without what stands behind its last image.
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
