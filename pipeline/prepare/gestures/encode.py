"""Write frames as a clip on disk: an encoded video file, or a folder of numbered JPG frames.

Equal frames give equal bytes: one encoder thread, and a container without dates or random ids. A clip is written to a
temporary path and then moved, so a killed process leaves no incomplete clip.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import numpy.typing as npt
import simplejpeg

from pipeline.errors import PipelineError
from pipeline.files import atomic_path
from pipeline.shapes import check_shape

FORMAT_OF_SUFFIX = {
    ".webm": "webm",
    ".mkv": "matroska",
    ".mp4": "mp4",
    ".mov": "mov",
    ".avi": "avi",
    ".gif": "gif",
}

# The fastest settings with good visual quality, and exactly one frame per packet. x264 runs without its macroblock
# tree, which reads uninitialised memory, so that equal frames always give equal bytes.
OPTIONS_OF_CODEC: Mapping[str, Mapping[str, str]] = {
    "libvpx-vp9": {"deadline": "realtime", "cpu-used": "8", "crf": "32", "b": "0", "lag-in-frames": "0", "row-mt": "0"},
    "libx264": {"preset": "veryfast", "crf": "20", "mbtree": "0"},
}


def write_video(
    path: Path | str,
    frames: npt.NDArray[np.uint8],
    fps: int | float = 12,
    codec: str = "libvpx-vp9",
    *,
    pixel_format: str = "yuv420p",
    key_frame_distance_frames: int = 240,
    options: Mapping[str, str] | None = None,
) -> None:
    """Encode `frames` as a video file; the suffix of `path` determines the container.

    Shape:
        frames: (T, H, W, 3), uint8 RGB.

    Raises:
        PipelineError: no frames, another shape or type, or a suffix of an unknown container.
    """
    path = Path(path)
    _check_frames(frames)
    if path.suffix.lower() not in FORMAT_OF_SUFFIX:
        known = ", ".join(FORMAT_OF_SUFFIX)
        raise PipelineError(f"The suffix of {path} must name a container, one of {known}.")
    num_frames, height, width, _ = frames.shape
    rate = Fraction(fps).limit_denominator(1001)
    with (
        atomic_path(path) as aside,
        # Bit-exact: no date, random id or version in the file.
        av.open(
            str(aside), "w", format=FORMAT_OF_SUFFIX[path.suffix.lower()], options={"fflags": "+bitexact"}
        ) as container,
    ):
        stream = container.add_stream(codec, rate=rate)
        if not isinstance(stream, av.VideoStream):
            raise PipelineError(f"`codec` (={codec!r}) must name a codec for video.")
        stream.width, stream.height, stream.pix_fmt = width, height, pixel_format
        stream.codec_context.gop_size = key_frame_distance_frames
        stream.codec_context.thread_count = 1
        stream.codec_context.flags |= av.codec.context.Flags.bitexact
        stream.codec_context.options = {**OPTIONS_OF_CODEC.get(codec, {}), **(options or {})}
        # One converter for all frames, with one thread: creating one per frame would take longer than encoding.
        reformatter = av.video.reformatter.VideoReformatter()
        for index in range(num_frames):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(frames[index]), format="rgb24")
            frame = reformatter.reformat(frame, format=pixel_format, threads=1)
            frame.pts, frame.time_base = index, 1 / rate
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def write_frame_folder(
    path: Path | str,
    frames: npt.NDArray[np.uint8],
    template: str = "{:05d}.jpg",
    quality: int = 90,
    first_number: int = 1,
) -> None:
    """Write `frames` as a folder of numbered JPG files, as in Jester. An existing folder is replaced.

    Shape:
        frames: (T, H, W, 3), uint8 RGB.

    Raises:
        PipelineError: no frames, or another shape or type.
    """
    path = Path(path)
    _check_frames(frames)
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part"))
    try:
        aside.chmod(0o755)
        folder = aside / "new"
        folder.mkdir()
        for number, frame in enumerate(frames, start=first_number):
            (folder / template.format(number)).write_bytes(encode_jpg(frame, quality))
        if path.exists():
            os.replace(path, aside / "old")
        os.replace(folder, path)
    finally:
        shutil.rmtree(aside)


def encode_jpg(frame: npt.NDArray[np.uint8], quality: int = 90) -> bytes:
    """Encode a frame as JPG with 4:2:0 chroma subsampling, as cameras and data sets do.

    Shape:
        frame: (H, W, 3), uint8 RGB.
    """
    data: bytes = simplejpeg.encode_jpeg(np.ascontiguousarray(frame), quality=quality, colorsubsampling="420")
    return data


def _check_frames(frames: npt.NDArray[np.uint8]) -> None:
    sizes = check_shape("frames", frames, "T H W 3")
    if frames.dtype != np.uint8:
        raise PipelineError(f"`frames` must be uint8, but is {frames.dtype}.")
    if 0 in sizes.values():
        raise PipelineError(f"`frames` must hold at least one frame of at least one pixel, but has {sizes}.")
