"""Find truncated video files by the lengths in their top-level boxes.

Decoders often read a truncated file without an error and return fewer frames. The top-level elements of MP4, Matroska
(WebM) and AVI contain their lengths, and animated images have an end marker, so a missing end is found without
decoding. Bytes after the end are ignored.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import BinaryIO

from pipeline.video.image_ends import missing_image_end

EBML_MAGIC = b"\x1a\x45\xdf\xa3"
SEGMENT_ID = b"\x18\x53\x80\x67"
MP4_FIRST_BOXES = (b"ftyp", b"moov", b"mdat", b"free", b"skip", b"wide", b"pnot", b"styp")
BOXES_WITH_FRAMES = (b"moov", b"mdat", b"moof")
# All top-level boxes. Other data after the last box, such as a line of text, is not a box.
MP4_BOXES = (*MP4_FIRST_BOXES, b"moof", b"mfra", b"sidx", b"ssix", b"uuid", b"meta", b"udta", b"prft", b"emsg", b"pdin")


def missing_end(path: Path) -> str | None:
    """Return what is missing at the end of a video file, as part of a sentence, or None."""
    size_bytes = os.path.getsize(path)
    with open(path, "rb") as file:
        start = file.read(12)
        if start[:4] == EBML_MAGIC:
            return _promise(_end_of_segment(file), size_bytes)
        if start[4:8] in MP4_FIRST_BOXES:
            return _missing_box(file, size_bytes)
        if start[:4] == b"RIFF":
            length = int.from_bytes(start[4:8], "little")
            if length in (0, 0xFFFFFFFF) or (start[8:12] == b"AVI " and _has_whole_avi_frames(file, size_bytes)):
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
        if position + length > size_bytes and header[4:8] not in BOXES_WITH_FRAMES:
            break  # nothing that is shown is missing
        has_index |= header[4:8] in (b"moov", b"moof")
        position += length
    if position > size_bytes:
        return _promise(position, size_bytes)
    return None if has_index else "the index of its frames ('moov') is missing"


def _has_whole_avi_frames(file: BinaryIO, size_bytes: int) -> bool:
    """Return whether the list of frames of an AVI is complete; the index behind it may be cut or missing.

    The length in the header is not reliable: some programs write the size of the file, which is 8 bytes too large.
    """
    position = 12
    while position + 12 <= size_bytes:
        file.seek(position)
        header = file.read(12)
        length = int.from_bytes(header[4:8], "little")
        position += 8 + length + (length & 1)
        if header[:4] == b"LIST" and header[8:] == b"movi":
            return position <= size_bytes
    return False


def _end_of_segment(file: BinaryIO) -> int | None:
    """Return the end of the segment of a Matroska file; None if its length is unknown (a live stream)."""
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
        if identifier[:1] not in (b"\xec", b"\xbf"):  # other data than padding or a checksum before the segment
            return None
        header_bytes, length = _variable_number(file, position + 1)
        if length is None:
            return None
        position += 1 + header_bytes + length


def _variable_number(file: BinaryIO, position: int) -> tuple[int, int | None]:
    """Read an EBML number: its size in bytes, and its value; None means "unknown"."""
    file.seek(position)
    data = file.read(8)
    if not data or data[0] == 0:
        return 0, None
    num_bytes = 9 - data[0].bit_length()
    value = int.from_bytes(data[:num_bytes], "big") & ((1 << 7 * num_bytes) - 1)
    return num_bytes, None if value == (1 << 7 * num_bytes) - 1 else value
