"""Read clips that are folders of numbered images, as in Jester, and still images as clips of one frame."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

from pipeline.errors import ClipError
from pipeline.video.images import decode_image, image_size
from pipeline.video.limits import DEFAULT_LIMITS, ClipLimits, Stopwatch, chunks_of, open_file
from pipeline.video.reader import ClipReader, Frame
from pipeline.video.suffixes import IMAGE_SUFFIXES, is_image_name

_NUMBERED = re.compile(r"(.*?)(\d+)$")


class FrameFolder(ClipReader):
    """A folder of images named by one template with a number (``00001.jpg``, ``img_00001.jpg``), counted from 0 or 1.

    Suffixes may differ and be in capitals. Other files are ignored, except for images without a number.

    Raises:
        ClipError: no images, a gap in the numbers, a number twice, more than one template, or an unreadable image.
    """

    def __init__(self, path: Path, limits: ClipLimits = DEFAULT_LIMITS) -> None:
        self._folder, self._names = path, numbered_images(path)
        self._limits, self._watch = limits, Stopwatch(str(path), limits)
        height, width = image_size(self.encoded(0), self._path(0), limits)
        super().__init__(str(path), len(self._names), height, width)

    def close(self) -> None:
        """Do nothing: no file stays open."""

    def encoded(self, ordinal: int) -> bytes:
        """Return the encoded image of one frame."""
        path = self._path(ordinal)
        try:
            with open_file(path) as file:
                num_bytes = os.fstat(file.fileno()).st_size
                self._limits.check_image_bytes(path, num_bytes)
                self._limits.check_bytes(path, num_bytes)
                data = b"".join(chunks_of(file))
        except OSError as error:
            raise ClipError("unreadable", f"{path} cannot be read ({error.strerror}).") from error
        if not data:
            raise ClipError("empty", f"{path} is empty (0 bytes).")
        return data

    def _decoded(self, ordinals: list[int]) -> Iterator[Frame]:
        for ordinal in ordinals:
            with self._watch.running():
                frame = decode_image(self.encoded(ordinal), self._path(ordinal), self._limits)
            self._check_size(self._names[ordinal], *frame.shape[:2])
            yield frame

    def _path(self, ordinal: int) -> str:
        return os.path.join(self._folder, self._names[ordinal])


class StillImage(FrameFolder):
    """A still image, read as a clip of one frame."""

    def __init__(self, path: Path, limits: ClipLimits = DEFAULT_LIMITS) -> None:
        self._folder, self._names = path.parent, (path.name,)
        self._limits, self._watch = limits, Stopwatch(str(path), limits)
        height, width = image_size(self.encoded(0), str(path), limits)
        ClipReader.__init__(self, str(path), 1, height, width)


def numbered_images(folder: Path) -> tuple[str, ...]:
    """Return the names of a folder's images in the order of their numbers, which must start at 0 or 1 without a gap.

    Raises:
        ClipError: the numbers have a gap or a duplicate, or the names do not fit one template.
    """
    try:
        names = os.listdir(folder)
    except FileNotFoundError as error:
        raise ClipError("missing", f"{folder} does not exist.") from error
    except OSError as error:
        raise ClipError("unreadable", f"{folder} cannot be read ({error.strerror}).") from error
    by_number: dict[int, str] = {}
    prefixes: dict[str, str] = {}
    for name in sorted(names):
        if not is_image_name(name):
            continue
        stem = os.path.splitext(name)[0]
        match = _NUMBERED.match(stem)
        if match is None:
            raise ClipError("frame-name", f"{folder}: each image must have a number before its suffix, unlike {name}.")
        prefix, number = match[1], int(match[2])
        prefixes.setdefault(prefix, name)
        if len(prefixes) > 1:
            both = " and ".join(prefixes.values())
            raise ClipError("frame-name", f"{folder}: all images must be named by one template, unlike {both}.")
        if number in by_number:
            raise ClipError("frame-twice", f"{folder} has frame {number} twice: {by_number[number]} and {name}.")
        by_number[number] = name
    if not by_number:
        raise ClipError("empty", f"{folder} has no images ({', '.join(sorted(IMAGE_SUFFIXES))}).")
    start = min(min(by_number), 1)
    for number in range(start, start + len(by_number)):
        if number not in by_number:
            raise ClipError(
                "frame-gap",
                f"{folder}: frames must be numbered from 0 or 1 without a gap, but number {number} is missing "
                f"(there are {len(by_number)}, up to {max(by_number)}).",
            )
    return tuple(by_number[number] for number in sorted(by_number))
