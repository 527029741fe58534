"""Find truncated GIF, PNG and JPG files by their blocks."""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from typing import BinaryIO

GIF_MAGICS = (b"GIF87a", b"GIF89a")
PNG_MAGIC = b"\x89PNG\r\n\x1a\n"
JPG_MAGIC = b"\xff\xd8\xff"
# Padding that programs write between and after images.
PADDING = b"\0\r\n "


def missing_image_end(file: BinaryIO, start: bytes) -> str | None:
    """Return what is missing at the end of a GIF, PNG or stream of JPGs, as part of a sentence, or None."""
    if start.startswith(GIF_MAGICS):
        return _missing_gif_end(_mapped(file))
    if start.startswith(PNG_MAGIC):
        return _missing_png_end(_mapped(file))
    if start.startswith(JPG_MAGIC):
        return None if _ends_with_jpg(_mapped(file)) else "the mark that ends its last JPG is missing"
    return None


def is_moving_png(file: BinaryIO) -> bool:
    """Return whether a PNG is animated: it has a chunk ``acTL`` before its first pixels."""
    for kind, _, _ in _png_chunks(_mapped(file)):
        if kind in (b"acTL", b"IDAT"):
            return kind == b"acTL"
    return False


def is_jpg_stream(file: BinaryIO) -> bool:
    """Return whether a file is a sequence of JPGs, as cameras write videos without a container (``.mjpeg``).

    A photograph that lists additional images (MPF: previews, depth) is not a video.
    """
    data = _mapped(file)
    position = 2
    while (length := int.from_bytes(data[position + 2 : position + 4], "big")) >= 2 and data[position] == 0xFF:
        marker, payload = data[position + 1], data[position + 4 : position + 8]
        if marker == 0xE2 and payload == b"MPF\0":
            return False
        if marker == 0xDA:
            break
        position += 2 + length
        if position + 4 > len(data):
            return False
    # In the coded pixels, the byte 0xFF is never followed by the byte of an end marker.
    end = data.find(b"\xff\xd9", position)
    return end >= 0 and data[end + 2 : end + 1024].lstrip(PADDING).startswith(JPG_MAGIC)


def _mapped(file: BinaryIO) -> mmap.mmap:
    return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)


def gif_start(data: bytes | memoryview | mmap.mmap) -> int:
    """Return the position of the first block of a GIF, after its header."""
    return 13 + _colours(data, 10) if bytes(data[:6]) in GIF_MAGICS else 0


def gif_blocks(data: bytes | memoryview | mmap.mmap, position: int) -> Iterator[tuple[int, int, int]]:
    """Yield the blocks of a GIF from `position` on: kind, start and end; a block that is cut ends behind the data.

    Kind 0x21 is an extension, 0x2C an image, 0x3B the end.
    """
    while position < len(data):
        kind, start = data[position], position
        if kind in PADDING:
            position += 1
            continue
        if kind not in (0x21, 0x2C):
            yield kind, start, start + 1
            return
        position += 2 if kind == 0x21 else 11 + _colours(data, position + 9)
        while position < len(data) and data[position]:
            position += 1 + data[position]
        position += 1
        yield kind, start, position


def _missing_gif_end(data: mmap.mmap) -> str | None:
    """Accept a GIF without the mark at its end if nothing else can be missing: it ends with a whole image or text."""
    has_image = ends_whole = False
    for kind, start, end in gif_blocks(data, gif_start(data)):
        if kind == 0x3B:
            return None
        has_image |= kind == 0x2C
        # A control block (0xF9) belongs to the image after it.
        ends_whole = end <= len(data) and (kind == 0x2C or (kind == 0x21 and data[start + 1] != 0xF9))
    return None if has_image and ends_whole else "the mark that ends a GIF is missing"


def _colours(data: bytes | memoryview | mmap.mmap, position: int) -> int:
    """Return the size in bytes of the colour table that the flags at `position` declare."""
    flags = data[position] if position < len(data) else 0
    return 3 << (flags & 7) + 1 if flags & 0x80 else 0


def _png_chunks(data: mmap.mmap) -> list[tuple[bytes, int, int]]:
    """Yield the chunks of a PNG, as (kind, start of the data, length), up to the end of the file."""
    chunks, position = [], len(PNG_MAGIC)
    while position + 12 <= len(data):
        length, kind = int.from_bytes(data[position : position + 4], "big"), data[position + 4 : position + 8]
        if position + 12 + length > len(data):
            break
        chunks.append((kind, position + 8, length))
        position += 12 + length
        if kind == b"IEND":
            break
    return chunks


def _missing_png_end(data: mmap.mmap) -> str | None:
    chunks = _png_chunks(data)
    if not chunks or chunks[-1][0] != b"IEND":
        return "the mark that ends a PNG is missing"
    declared = next((int.from_bytes(data[start : start + 4], "big") for kind, start, _ in chunks if kind == b"acTL"), 0)
    num_frames = sum(kind == b"fcTL" for kind, _, _ in chunks)
    return None if num_frames >= declared else f"its header declares {declared} frames, but it has {num_frames}"


def _ends_with_jpg(data: mmap.mmap) -> bool:
    """Return whether no part of a JPG follows the last end marker; padding or text may follow."""
    end = data.rfind(b"\xff\xd9")
    return end >= 0 and data.find(b"\xff", end + 2) < 0
