"""Count the displayed frames of a packet from its first bits, so that a clip is counted without decoding."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from av.video.stream import VideoStream

from pipeline.video.image_ends import gif_blocks, gif_start

FIELD_ORDER_UNKNOWN, FIELD_ORDER_PROGRESSIVE = 0, 1

# Codecs whose packets contain one displayed frame each, in a container that separates frames.
_ONE_FRAME_A_PACKET = frozenset({"h264", "hevc", "av1", "libdav1d", "mjpeg", "gif", "ffv1", "rawvideo", "prores"})
_CONTAINERS_OF_WHOLE_FRAMES = frozenset({"mov", "matroska", "gif", "avi"})


def count_by_packets(container_format: str, stream: VideoStream) -> Callable[[memoryview], int] | None:
    """Return a function that counts the frames of one packet of a stream; None if decoding is needed.

    Decoding is needed if fields are in separate packets (interlaced video), if packets contain a frame and the next
    one (MPEG-4 in AVI), and for streams that can be cut anywhere (MPEG-TS).
    """
    if container_format.split(",")[0] not in _CONTAINERS_OF_WHOLE_FRAMES:
        return None
    codec = stream.codec_context.name
    if codec in _ONE_FRAME_A_PACKET and stream.codec_context.field_order in (
        FIELD_ORDER_UNKNOWN,
        FIELD_ORDER_PROGRESSIVE,
    ):
        return _one
    return _COUNTED_BY_BITS.get(codec)


def _one(packet: memoryview) -> int:
    return 1


def shown_in_vp8(packet: memoryview) -> int:
    """Count the shown frames of VP8 in WebM, which stores reference-only frames as separate packets."""
    return packet[0] >> 4 & 1


def shown_in_vp9(packet: memoryview) -> int:
    """Count the shown frames of a VP9 packet: one frame, or a superframe with an index of sizes at its end."""
    marker = packet[-1]
    if marker >> 5 != 0b110:
        return _is_shown_vp9(packet[0])
    num_frames, num_bytes = (marker & 7) + 1, (marker >> 3 & 3) + 1
    index_size = 2 + num_bytes * num_frames
    if len(packet) < index_size or packet[-index_size] != marker:
        return _is_shown_vp9(packet[0])
    index, position, num_shown = packet[len(packet) - index_size + 1 : -1], 0, 0
    for frame in range(num_frames):
        size = int.from_bytes(index[frame * num_bytes : (frame + 1) * num_bytes], "little")
        if size and position < len(packet) - index_size:
            num_shown += _is_shown_vp9(packet[position])
        position += size
    return num_shown


def _is_shown_vp9(first_byte: int) -> int:
    # Marker (2 bits), profile (2, and one more for profile 3), show an earlier frame, type, show this frame.
    if first_byte & 0b00110000 == 0b00110000:
        return int(bool(first_byte & 0b00000101))
    return int(bool(first_byte & 0b00001010))


def shown_in_gif(packet: memoryview) -> int:
    """Count the image of a GIF packet; a packet with only an extension, such as a comment, has none."""
    return int(any(kind == 0x2C for kind, _, _ in gif_blocks(packet, gif_start(packet))))


_COUNTED_BY_BITS: Mapping[str, Callable[[memoryview], int]] = {
    "vp8": shown_in_vp8,
    "libvpx": shown_in_vp8,
    "vp9": shown_in_vp9,
    "libvpx-vp9": shown_in_vp9,
}
