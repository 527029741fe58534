"""Decode an image to RGB: JPG by libjpeg-turbo (simplejpeg, twice as fast, equal pixels), other formats by Pillow.

The format is detected from the content, not from the name. EXIF orientation is not applied, transparency is dropped.
"""

from __future__ import annotations

import io
import struct
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import simplejpeg
from PIL import Image, UnidentifiedImageError

from pipeline.errors import ClipError
from pipeline.video.image_ends import JPG_MAGIC, PNG_MAGIC
from pipeline.video.limits import DEFAULT_LIMITS, ClipLimits
from pipeline.video.reader import Frame

TIFF_MAGICS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
IMAGE_MAGICS = (JPG_MAGIC, PNG_MAGIC, b"BM", *TIFF_MAGICS)
# Colour spaces that simplejpeg decodes to RGB; CMYK and similar ones are decoded by Pillow.
JPG_COLOURS = frozenset({"YCbCr", "RGB", "Gray"})
JPG_ERRORS = (ValueError, KeyError)  # raised by simplejpeg for damaged files
# Raised by Pillow for damaged files of various formats.
IMAGE_ERRORS = (OSError, SyntaxError, ValueError, EOFError, struct.error, zlib.error, IndexError, KeyError, TypeError)


def is_image(start: bytes) -> bool:
    """Return whether a file that starts with these bytes is an image; a GIF counts as a video."""
    return start.startswith(IMAGE_MAGICS) or is_webp(start)


def is_webp(start: bytes) -> bool:
    """Return whether a file that starts with these bytes is a WebP."""
    return start[:4] == b"RIFF" and start[8:12] == b"WEBP"


def image_size(data: bytes, what: str, limits: ClipLimits = DEFAULT_LIMITS) -> tuple[int, int]:
    """Return (height, width) of an encoded image, from its header.

    Raises:
        ClipError: it is not an image, or has too many pixels.
    """
    size = _size_of_plain_jpg(data, what, limits)
    if size is not None:
        return size
    with open_image(data, what, limits) as image:
        return image.height, image.width


def decode_image(data: bytes, what: str, limits: ClipLimits = DEFAULT_LIMITS) -> Frame:
    """Decode an image; `what` names it in messages.

    Shape:
        returns: (H, W, 3), uint8 RGB.

    Raises:
        ClipError: it is not an image, or damaged. A JPG for which libjpeg only warns counts as damaged.
    """
    if _size_of_plain_jpg(data, what, limits) is not None:
        try:
            pixels: Frame = simplejpeg.decode_jpeg(data, colorspace="RGB")
        except JPG_ERRORS as error:
            raise _damaged(what, error) from error
        return pixels
    with open_image(data, what, limits) as image:
        if image.format in ("PNG", "WEBP") and num_images(image) > 1:
            raise ClipError(
                "unreadable", f"{what} holds {num_images(image)} images, but must hold one to be a frame of a clip."
            )
        return rgb_of(image, what)


def is_moving_webp(start: bytes) -> bool:
    """Return whether a WebP is animated, by the flag in its chunk ``VP8X``."""
    return is_webp(start) and start[12:16] == b"VP8X" and bool(start[20] & 2)


@contextmanager
def without_warnings() -> Iterator[None]:
    """Silence Pillow's warnings: damage is an error, and `ClipLimits` limits the pixels."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def num_images(image: Image.Image) -> int:
    """Return the number of images in an opened image file."""
    with without_warnings():
        return int(getattr(image, "n_frames", 1))


def rgb_of(image: Image.Image, what: str) -> Frame:
    """Return the pixels of an opened image; `what` names it in messages.

    Shape:
        returns: (H, W, 3), uint8 RGB.

    Raises:
        ClipError: it is damaged.
    """
    try:
        if image.mode.startswith("I;16"):  # Pillow would clip 16-bit values to 8 bits instead of scaling them
            grey = (np.asarray(image, dtype=np.uint16) >> 8).astype(np.uint8)
            return np.repeat(grey[:, :, None], 3, axis=2)
        with without_warnings():
            return np.array(image.convert("RGB"))
    except IMAGE_ERRORS as error:
        raise _damaged(what, error) from error


def open_image(data: bytes, what: str, limits: ClipLimits = DEFAULT_LIMITS) -> Image.Image:
    """Open an encoded image with Pillow; `what` names it in messages.

    Raises:
        ClipError: it is not an image, or has too many pixels.
    """
    if not data:
        raise ClipError("empty", f"{what} is empty (0 bytes).")
    try:
        with without_warnings():
            image = Image.open(io.BytesIO(data))
    except UnidentifiedImageError:  # Pillow's message contains a memory address
        raise ClipError("unreadable", f"{what} is not an image that can be read (its format is not known).") from None
    except Image.DecompressionBombError as error:
        raise ClipError("too-large", f"{what} has too many pixels ({error}).") from error
    except IMAGE_ERRORS as error:
        raise ClipError("unreadable", f"{what} is not an image that can be read ({error}).") from error
    limits.check_pixels(what, image.height, image.width)
    return image


def _size_of_plain_jpg(data: bytes, what: str, limits: ClipLimits) -> tuple[int, int] | None:
    """Return (height, width) of a JPG that simplejpeg decodes to RGB, from its header; None for other data.

    Raises:
        ClipError: it has too many pixels.
    """
    if not data.startswith(JPG_MAGIC):
        return None
    try:
        height, width, colours, _ = simplejpeg.decode_jpeg_header(data, strict=False)
    except JPG_ERRORS:
        return None
    if colours not in JPG_COLOURS:
        return None
    limits.check_pixels(what, int(height), int(width))
    return int(height), int(width)


def _damaged(what: str, error: BaseException) -> ClipError:
    return ClipError("corrupt", f"{what} is damaged: {error}.")
