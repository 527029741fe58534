"""Draw a long video, and cut clips out of it without loss."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.video.frame import VideoFrame


def write_long_video(
    path: Path, num_frames: int, *, gop: int = 25, rate: int = 25, width: int = 64, height: int = 48, **options: str
) -> Path:
    """Write moving noise as H.264 with B-frames, or as VP9 in WebM, with a key frame each `gop` frames."""
    generator = np.random.default_rng(num_frames)
    picture = generator.integers(0, 255, (height, width, 3)).repeat(1, axis=0).astype(np.uint8)
    codec, more = (
        ("libvpx-vp9", {"deadline": "realtime", "cpu-used": "8"}) if path.suffix == ".webm" else ("libx264", {})
    )
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate, options={**more, "g": str(gop), **options})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.codec_context.gop_size = gop
        for number in range(num_frames):
            frame = np.roll(picture, number, axis=1)
            frame[: height // 4] = number % 256  # no two neighbours are equal
            container.mux(stream.encode(VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    return path


def decoded(path: Path) -> Iterator[VideoFrame]:
    """Decode a video from its start, with PyAV alone."""
    with av.open(str(path)) as container:
        container.streams.video[0].codec_context.thread_type = "NONE"
        yield from container.decode(video=0)


def write_lossless(path: Path, frames: list[VideoFrame], rate: int = 25) -> Path:
    """Write decoded frames as FFV1, which keeps every value."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("ffv1", rate=rate)
        stream.width, stream.height, stream.pix_fmt = frames[0].width, frames[0].height, "yuv420p"
        for number, frame in enumerate(frames):
            frame.pts, frame.time_base = number, Fraction(1, rate)
            frame.pict_type = av.video.frame.PictureType.NONE
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path
