"""How long a video file should be, by its own outermost boxes: the sure sign of a copy that broke off.

A decoder often reads a truncated file without complaint and gives fewer frames. The outermost elements of MP4, Matroska
(WebM) and AVI say where they end, and moving images have a mark at their end, so nothing has to be decoded to see that
the end is missing. Bytes after the end are ignored.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import BinaryIO

from pipeline.video.image_ends import missing_image_end

EBML_MAGIC = b"\x1a\x45\xdf\xa3"
SEGMENT_ID = b"\x18\x53\x80\x67"
MP4_FIRST_BOXES = (b"ftyp", b"moov", b"mdat", b"free", b"skip", b"wide", b"pnot", b"styp")
# All that stand outermost. Whatever else there is behind the last of them is no box, such as a line of text.
MP4_BOXES = (*MP4_FIRST_BOXES, b"moof", b"mfra", b"sidx", b"ssix", b"uuid", b"meta", b"udta", b"prft", b"emsg", b"pdin")


def missing_end(path: Path) -> str | None:
    """What is missing at the end of a video file, as part of a sentence; None where nothing is known to be."""
    size_bytes = os.path.getsize(path)
    with open(path, "rb") as file:
        start = file.read(12)
        if start[:4] == EBML_MAGIC:
            return _promise(_end_of_segment(file), size_bytes)
        if start[4:8] in MP4_FIRST_BOXES:
            return _missing_box(file, size_bytes)
        if start[:4] == b"RIFF":
            length = int.from_bytes(start[4:8], "little")
            if length in (0, 0xFFFFFFFF) or (start[8:12] == b"AVI " and _ends_with_avi_index(file, size_bytes)):
                return None
            return _promise(8 + length, size_bytes)
        return missing_image_end(file, start)


def _promise(end: int | None, size_bytes: int) -> str | None:
    if end is None or end <= size_bytes:
        return None
    return f"by its header it has {end:,} bytes, but only {size_bytes:,} are there"


def _missing_box(file: BinaryIO, size_bytes: int) -> str | None:
    """Walk the top-level boxes of an MP4 or MOV file."""
    position, has_index = 0, False
    while position + 8 <= size_bytes:
        file.seek(position)
        header = file.read(16)
        length = int.from_bytes(header[:4], "big")
        if length == 1:
            length = int.from_bytes(header[8:16], "big")
        elif length == 0:
            length = size_bytes - position
        if length < 8 or header[4:8] not in MP4_BOXES:
            break
        has_index |= header[4:8] in (b"moov", b"moof")
        position += length
    if position > size_bytes:
        return _promise(position, size_bytes)
    return None if has_index else "the index of its frames ('moov') is missing"


def _ends_with_avi_index(file: BinaryIO, size_bytes: int) -> bool:
    """Whether the chunks of an AVI end with its index exactly at the file's end, whatever length its header names.

    Some programs write the size of the file there, which is 8 too large.
    """
    position, identifier = 12, b""
    while position + 8 <= size_bytes:
        file.seek(position)
        header = file.read(8)
        length = int.from_bytes(header[4:], "little")
        identifier, position = header[:4], position + 8 + length + (length & 1)
    return identifier == b"idx1" and position == size_bytes


def _end_of_segment(file: BinaryIO) -> int | None:
    """Where the segment of a Matroska file ends; None where it does not say so (a live stream)."""
    position = len(EBML_MAGIC)
    header_bytes, length = _variable_number(file, position)
    if length is None:
        return None
    position += header_bytes + length
    while True:
        file.seek(position)
        identifier = file.read(4)
        if identifier == SEGMENT_ID:
            header_bytes, length = _variable_number(file, position + 4)
            return None if length is None else position + 4 + header_bytes + length
        if identifier[:1] not in (b"\xec", b"\xbf"):  # anything but padding or a checksum before the segment
            return None
        header_bytes, length = _variable_number(file, position + 1)
        if length is None:
            return None
        position += 1 + header_bytes + length


def _variable_number(file: BinaryIO, position: int) -> tuple[int, int | None]:
    """An EBML number: how many bytes it takes, and its value; None for "not known"."""
    file.seek(position)
    data = file.read(8)
    if not data or data[0] == 0:
        return 0, None
    num_bytes = 9 - data[0].bit_length()
    value = int.from_bytes(data[:num_bytes], "big") & ((1 << 7 * num_bytes) - 1)
    return num_bytes, None if value == (1 << 7 * num_bytes) - 1 else value
