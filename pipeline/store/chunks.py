"""Encode and decode Zarr v3 chunks and shards without Zarr's event loop.

Each clip is compressed as soon as it is computed, so memory stays constant while a block is built. Reading a clip takes
one pread and one decompression. Tests read the written bytes with Zarr, and bytes of Zarr with this module.

Source: Zarr v3 specification, sharding-indexed codec: chunks, then for each its offset and length as little-endian
uint64 (all ones where it is missing), then the CRC-32C of that index.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import google_crc32c
import numpy as np
from numcodecs.zstd import Zstd

from pipeline.errors import PipelineError
from pipeline.store.layout import ZSTD_LEVEL, fill_value

MISSING = 2**64 - 1
_CODEC = Zstd(level=ZSTD_LEVEL, checksum=True)


def encode_chunk(values: np.ndarray) -> bytes:
    """Compress one chunk."""
    return bytes(_CODEC.encode(np.ascontiguousarray(values)))


def decode_chunk(data: bytes, out: np.ndarray) -> None:
    """Decompress one chunk into `out`, a contiguous array of the chunk's shape.

    Raises:
        PipelineError: the bytes are damaged.
    """
    try:
        if content_size(data) != out.nbytes:
            raise ValueError(f"it must hold {out.nbytes:,} bytes")
        # Decompress in place: copying from a temporary buffer costs as much as the decompression.
        _CODEC.decode(data, out=out.reshape(-1).view(np.uint8))
    except (RuntimeError, ValueError) as error:
        raise PipelineError(
            f"A chunk of the store is damaged ({error}). Run `pipeline store verify --repair`."
        ) from error


def decode_new(data: bytes, shape: tuple[int, ...]) -> np.ndarray:
    """Decompress one chunk into a new float16 array, after checking its decompressed size.

    Raises:
        PipelineError: the bytes are damaged.
    """
    size = content_size(data)
    if size != 2 * math.prod(shape):
        raise PipelineError(
            f"A chunk of the store is damaged (it holds {size:,} bytes instead of {2 * math.prod(shape):,}). "
            "Run `pipeline store verify --repair`."
        )
    out = np.empty(shape, dtype=np.float16)
    decode_chunk(data, out)
    return out


def content_size(frame: bytes) -> int:
    """Return the decompressed size in the header of a zstd frame, or -1 if it has none.

    Source: RFC 8878, Sec. 3.1.1.1 (frame header).
    """
    if len(frame) < 5 or frame[:4] != b"\x28\xb5\x2f\xfd":
        return -1
    descriptor = frame[4]
    size_flag, is_single = descriptor >> 6, descriptor >> 5 & 1
    num_bytes = (is_single, 2, 4, 8)[size_flag]
    start = 5 + (1 - is_single) + (0, 1, 2, 4)[descriptor & 3]
    if num_bytes == 0 or len(frame) < start + num_bytes:
        return -1
    return int.from_bytes(frame[start : start + num_bytes], "little") + (256 if num_bytes == 2 else 0)


def index_size(num_chunks: int) -> int:
    """Return the size of a shard's index in bytes."""
    return 16 * num_chunks + 4


def join_shard(chunks: Sequence[bytes | None]) -> bytes:
    """Join encoded chunks to a shard; None marks a missing chunk."""
    index = np.full((len(chunks), 2), MISSING, dtype="<u8")
    offset = 0
    for position, chunk in enumerate(chunks):
        if chunk is not None:
            index[position] = offset, len(chunk)
            offset += len(chunk)
    table = index.tobytes()
    checksum = int(google_crc32c.value(table)).to_bytes(4, "little")
    return b"".join([*(chunk for chunk in chunks if chunk is not None), table, checksum])


def read_index(tail: bytes, num_chunks: int) -> np.ndarray:
    """Read the offset and length of each chunk from the last bytes of a shard.

    Shape:
        returns: (num_chunks, 2), uint64.

    Raises:
        PipelineError: the index is damaged.
    """
    tail = tail[-index_size(num_chunks) :]
    table, checksum = tail[:-4], tail[-4:]
    if len(tail) != index_size(num_chunks) or int(google_crc32c.value(table)).to_bytes(4, "little") != checksum:
        raise PipelineError("The index of a shard is damaged. Run `pipeline store verify --repair`.")
    return np.frombuffer(table, dtype="<u8").reshape(num_chunks, 2)


def split_shard(shard: bytes, num_chunks: int) -> list[bytes | None]:
    """Split a shard into its encoded chunks."""
    index = read_index(shard, num_chunks)
    return [None if start == MISSING else shard[int(start) : int(start) + int(length)] for start, length in index]


def filled(shape: tuple[int, ...], dtype: np.dtype[Any]) -> np.ndarray:
    """Create an array of the values of unfinished rows."""
    return np.full(shape, fill_value(dtype), dtype=dtype)
