"""Open a clip of any supported format for reading its frames."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import BinaryIO

from pipeline.errors import ClipError
from pipeline.intervals import Interval, split_location
from pipeline.manifest import HDF5_SEPARATOR
from pipeline.supervised import decoding, refuse_fatal_clip
from pipeline.video.frame_folder import FrameFolder, StillImage
from pipeline.video.image_ends import JPG_MAGIC, PNG_MAGIC, is_jpg_stream, is_moving_png
from pipeline.video.images import TIFF_MAGICS, is_image, is_moving_webp
from pipeline.video.interval_reader import PartOfClip, VideoInterval
from pipeline.video.limits import DEFAULT_LIMITS, ClipLimits, open_file
from pipeline.video.long_video import UnlistedFramesError
from pipeline.video.moving_image import MovingImage, has_several_images
from pipeline.video.reader import ClipReader
from pipeline.video.suffixes import suffix_of
from pipeline.video.video_file import VideoFile

__all__ = ["ClipReader", "open_clip"]


def open_clip(location: str | Path, limits: ClipLimits = DEFAULT_LIMITS) -> ClipReader:
    """Open a clip: a video file, a folder of numbered images, a still or moving image, or ``file.h5::clip``.

    An interval of a clip is opened by ``clip#t=START,END`` in seconds or ``clip#frames=START,END``. The format is
    detected from the content, not from the suffix. Use the result as a context manager.

    Raises:
        ClipError: it is missing, empty, exceeds a limit, or cannot be read; `kind` groups the reasons.
    """
    whole, interval = split_location(str(location))
    refuse_fatal_clip(str(location))
    with decoding(str(location), limits.as_tuple()):
        reader = _opened(whole, interval, limits)
        if interval is not None and not isinstance(reader, VideoInterval):
            reader = PartOfClip(str(location), reader, interval)
    reader.opened_as = str(location)
    return reader


def _opened(location: str, interval: Interval | None, limits: ClipLimits) -> ClipReader:
    """Open a clip; of a video file whose frames can be listed, only the interval."""
    file, separator, member = location.partition(HDF5_SEPARATOR)
    path = Path(file)
    try:
        if not path.exists():
            raise ClipError("missing", f"{path} does not exist.")
        if path.is_dir() and not separator:
            return FrameFolder(path, limits)
        with open_file(path) as opened:
            num_bytes = os.fstat(opened.fileno()).st_size
            if num_bytes == 0:
                raise ClipError("empty", f"{path} is empty (0 bytes).")
            if separator:
                # h5py takes a tenth of a second to import, and most clips are not in HDF5 files.
                from pipeline.video.packed import PackedClip

                return PackedClip(path, member, limits)
            limits.check_bytes(str(path), num_bytes)
            start = opened.read(32)
            if is_image(start):
                return _opened_image(path, opened, start, limits)
    except OSError as error:
        raise ClipError("unreadable", f"{path} cannot be read ({error.strerror}).") from error
    except ValueError as error:  # the path contains a zero byte
        raise ClipError("missing", f"{path!s} cannot be a path ({error}).") from error
    if interval is not None:
        with contextlib.suppress(UnlistedFramesError):
            return VideoInterval(location + interval.fragment, path, interval, limits)
    return VideoFile(path, limits=limits)


def is_moving_image(path: Path) -> bool:
    """Return whether a file is an animated PNG or WebP."""
    if suffix_of(path.name) not in (".png", ".webp") or not path.is_file():
        return False
    try:
        with open_file(path) as opened:
            start = opened.read(32)
            return is_moving_webp(start) or (start.startswith(PNG_MAGIC) and is_moving_png(opened))
    except OSError:
        return False


def _opened_image(path: Path, opened: BinaryIO, start: bytes, limits: ClipLimits) -> ClipReader:
    """Open a file with the signature of an image: a still image, or an animated one."""
    if start.startswith(JPG_MAGIC) and is_jpg_stream(opened):
        return VideoFile(path, "mjpeg", limits)
    is_moving = (
        is_moving_webp(start)
        or (start.startswith(PNG_MAGIC) and is_moving_png(opened))
        or (start.startswith(TIFF_MAGICS) and has_several_images(path))
    )
    return MovingImage(path, limits) if is_moving else StillImage(path, limits)
