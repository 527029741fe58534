"""Read an MPEG transport stream without its repeated packets.

A packet may be sent twice in a row (ISO/IEC 13818-1, 2.4.3.3). FFmpeg takes the second one for data: the frame gets
bytes that it does not have, and counts as damaged.
"""

from __future__ import annotations

import io
import mmap
from pathlib import Path
from typing import Any

import numpy as np

PACKET_BYTES, SYNC = 188, 0x47
# Packets whose headers are compared at once, to limit the memory: 188 MB of the file.
PACKETS_AT_ONCE = 1_000_000


def file_without_repetitions(path: Path) -> io.BufferedReader | None:
    """Open a transport stream as a file without its repeated packets; None if there are none, or it is another file."""
    with open(path, "rb") as file:
        start = file.read(PACKET_BYTES + 1)
        if len(start) <= PACKET_BYTES or not start[0] == start[PACKET_BYTES] == SYNC:
            return None
        data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    repeated = repeated_packets(data)
    if not len(repeated):
        data.close()
        return None
    return io.BufferedReader(_Without(data, repeated), buffer_size=1 << 16)


def repeated_packets(data: mmap.mmap | bytes) -> np.ndarray:
    """Return the numbers of the packets that repeat the one before them in the same stream. Shape: (N,), int64."""
    num_packets = len(data) // PACKET_BYTES
    packets = np.frombuffer(data, np.uint8, num_packets * PACKET_BYTES).reshape(num_packets, PACKET_BYTES)
    found: list[int] = []
    last = np.empty(0, dtype=np.int64)  # the last packet of each stream
    for start in range(0, num_packets, PACKETS_AT_ONCE):
        numbers = np.concatenate([last, np.arange(start, min(start + PACKETS_AT_ONCE, num_packets))])
        header = packets[numbers, :4].astype(np.int64)
        identifiers = (header[:, 1] & 0x1F) << 8 | header[:, 2]
        order = np.argsort(identifiers, kind="stable")
        numbers, header, identifiers = numbers[order], header[order], identifiers[order]
        is_same_stream = identifiers[1:] == identifiers[:-1]
        # The counter in the last four bits advances with each packet that has a payload.
        is_likely = is_same_stream & (header[1:] == header[:-1]).all(axis=1) & (header[1:, 3] & 0x10 > 0)
        for at in np.flatnonzero(is_likely):
            if np.array_equal(packets[numbers[at]], packets[numbers[at + 1]]):
                found.append(int(numbers[at + 1]))
        last = numbers[np.append(~is_same_stream, True)]
    return np.array(sorted(found), dtype=np.int64)


class _Without(io.RawIOBase):
    """The bytes of a file without some of its packets, given by their numbers."""

    def __init__(self, data: mmap.mmap, omitted: np.ndarray) -> None:
        self._data, self._omitted, self._position = data, omitted, 0
        self._size = len(data) - PACKET_BYTES * len(omitted)
        # The number of kept packets before each omitted one.
        self._num_kept = omitted - np.arange(len(omitted))

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        self._position = max(0, start + offset)
        return self._position

    def readinto(self, buffer: Any) -> int:
        num_before = int(np.searchsorted(self._num_kept, self._position // PACKET_BYTES, side="right"))
        start = self._position + PACKET_BYTES * num_before
        end = PACKET_BYTES * int(self._omitted[num_before]) if num_before < len(self._omitted) else len(self._data)
        part = self._data[start : min(end, start + len(buffer))]
        buffer[: len(part)] = part
        self._position += len(part)
        return len(part)

    def close(self) -> None:
        if not self.closed:
            self._data.close()
        super().close()
