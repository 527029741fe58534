"""Unusual clips, valid and damaged, in every container and codec that this machine can write."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.packet import Packet

NUM_FRAMES, HEIGHT, WIDTH, RATE, GROUP = 24, 48, 64, 25, 8
Change = Callable[[list[Packet]], Sequence[Packet]]

X264 = {"x264-params": f"open-gop=1:bframes=3:b-pyramid=normal:b-adapt=0:keyint={GROUP}:min-keyint={GROUP}:scenecut=0"}
X265 = {
    "x265-params": f"open-gop=1:bframes=3:keyint={GROUP}:min-keyint={GROUP}:scenecut=0:pools=1:frame-threads=1"
    ":log-level=none"
}
PLAIN = {"g": str(GROUP)}
VP8 = {**PLAIN, "deadline": "realtime", "cpu-used": "8", "auto-alt-ref": "0"}
AV1 = {**PLAIN, "preset": "12", "svtav1-params": "lp=1"}
# FFmpeg's encoder, its options and its pixel format.
CODECS: dict[str, tuple[str, dict[str, str], str]] = {
    "h264": ("libx264", X264, "yuv420p"),
    "hevc": ("libx265", X265, "yuv420p"),
    "vp8": ("libvpx", VP8, "yuv420p"),
    "vp9": ("libvpx-vp9", VP8, "yuv420p"),
    "av1": ("libsvtav1", AV1, "yuv420p"),
    "mpeg4": ("mpeg4", {**PLAIN, "bf": "0"}, "yuv420p"),
    "mpeg2": ("mpeg2video", {**PLAIN, "bf": "2"}, "yuv420p"),
    "mpeg1": ("mpeg1video", PLAIN, "yuv420p"),
    "flv1": ("flv", PLAIN, "yuv420p"),
    "wmv2": ("wmv2", PLAIN, "yuv420p"),
    "mjpeg": ("mjpeg", {}, "yuvj420p"),
    "ffv1": ("ffv1", {"level": "3", "slicecrc": "1", "g": "1"}, "yuv420p"),
    "prores": ("prores_ks", {}, "yuv422p10le"),
    "gif": ("gif", {}, "rgb8"),
    "apng": ("apng", {}, "rgb24"),
}
CONTAINERS: dict[str, tuple[str, ...]] = {
    "mp4": ("h264", "hevc", "vp9", "av1", "mpeg4"),
    "mov": ("h264", "hevc", "mjpeg", "prores"),
    "mkv": ("h264", "hevc", "vp8", "vp9", "av1", "mpeg4", "mpeg2", "mjpeg", "ffv1"),
    "webm": ("vp8", "vp9", "av1"),
    "avi": ("h264", "mpeg4", "mjpeg", "ffv1"),
    "ts": ("h264", "hevc", "mpeg2"),
    "mpg": ("mpeg1", "mpeg2"),
    "flv": ("flv1", "h264"),
    "asf": ("wmv2",),
    "mxf": ("mpeg2",),
    "nut": ("ffv1", "mpeg4"),
    "ivf": ("vp8", "vp9", "av1"),
    "ogv": ("vp8",),
    "h264": ("h264",),
    "hevc": ("hevc",),
    "mjpeg": ("mjpeg",),
    "gif": ("gif",),
    "apng": ("apng",),
}
PAIRS = [(container, codec) for container, codecs in CONTAINERS.items() for codec in codecs]
FORMAT_OF_SUFFIX = {"ts": "mpegts", "mkv": "matroska", "ogv": "ogg", "mpg": "mpeg"}


def pictures(count: int = NUM_FRAMES) -> np.ndarray:
    """Draw frames that all differ: (count, H, W, 3)."""
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    frames = np.zeros((count, HEIGHT, WIDTH, 3), np.uint8)
    for i in range(count):
        frames[i, ..., 0], frames[i, ..., 1] = (3 * x + 9 * i) % 256, (4 * y + 5 * i) % 256
        frames[i, ..., 2] = (11 * i) % 256
        frames[i, 10:22, (5 * i) % (WIDTH - 12) : (5 * i) % (WIDTH - 12) + 12] = 255
    return frames


def write_clip(path: Path, codec: str, frames: np.ndarray | None = None, **more: str) -> Path:
    """Encode frames (those of `pictures` by default); the container follows from the suffix."""
    name, options, pixels = CODECS[codec]
    suffix = path.suffix[1:]
    with av.open(str(path), "w", format=FORMAT_OF_SUFFIX.get(suffix, suffix)) as out:
        stream = out.add_stream(name, rate=RATE)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, pixels
        stream.codec_context.thread_count = 1
        stream.options = {**options, **more}
        for index, picture in enumerate(pictures() if frames is None else frames):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24").reformat(format=pixels)
            frame.pts, frame.time_base = index, Fraction(1, RATE)
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    return path


def copy_packets(source: Path, target: Path, change: Change, later_by: int = 0) -> Path:
    """Copy the packets of a clip, modified, to another file without encoding; times start at `later_by` seconds."""
    suffix = target.suffix[1:]
    with (
        av.open(str(source)) as old,
        av.open(str(target), "w", format=FORMAT_OF_SUFFIX.get(suffix, suffix)) as new,
    ):
        stream = old.streams.video[0]
        copied = new.add_stream_from_template(stream)
        packets = change([packet for packet in old.demux(stream) if packet.size])
        start = min((packet.dts for packet in packets if packet.dts is not None), default=0)
        shift = int(later_by / stream.time_base) - start
        for packet in packets:
            packet.pts = None if packet.pts is None else packet.pts + shift
            packet.dts = None if packet.dts is None else packet.dts + shift
            packet.stream = copied
            new.mux(packet)
    return target


def from_second_key_frame(packets: list[Packet]) -> list[Packet]:
    keys = [index for index, packet in enumerate(packets) if packet.is_keyframe]
    return packets[keys[1] :] if len(keys) > 1 else packets


def without_packet(number: int) -> Change:
    return lambda packets: packets[:number] + packets[number + 1 :]


def plain_decode(path: Path, container_format: str | None = None) -> np.ndarray | None:
    """Decode a clip with plain FFmpeg; return None if it stops with an error or decodes no frame."""
    try:
        with av.open(str(path), format=container_format) as container:
            container.streams.video[0].thread_type = "NONE"
            frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    except av.FFmpegError:
        return None
    return np.stack(frames) if frames else None
