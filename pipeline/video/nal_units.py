"""Parse NAL units of H.264 and HEVC packets to find the pictures of a packet."""

from __future__ import annotations

from collections.abc import Iterator

H264_IDR, H264_SEI, H264_SPS, H264_PPS = 5, 6, 7, 8
HEVC_IDR = (19, 20)
HEVC_SEI = (39, 40)
START_CODE = b"\0\0\1"


class Bits:
    """Read the bits of a NAL unit's payload in order, without emulation prevention bytes.

    Raises:
        IndexError: the payload is too short.
    """

    def __init__(self, payload: bytes) -> None:
        data = payload.replace(b"\0\0\3", b"\0\0")
        self._bits, self._num_left = int.from_bytes(data, "big"), 8 * len(data)

    def number(self, num_bits: int) -> int:
        """Read an unsigned number of a fixed width."""
        self._num_left -= num_bits
        if self._num_left < 0:
            raise IndexError("The payload ends within a number.")
        return self._bits >> self._num_left & (1 << num_bits) - 1

    def unsigned(self) -> int:
        """Read an unsigned Exp-Golomb number, ue(v): with as many leading zeros as bits after the first 1."""
        num_zeros = self._num_left - (self._bits & (1 << self._num_left) - 1).bit_length()
        self.number(num_zeros)
        return self.number(num_zeros + 1) - 1

    def signed(self) -> int:
        """Read a signed Exp-Golomb number, se(v)."""
        value = self.unsigned()
        return (value + 1) // 2 if value & 1 else -(value // 2)


def length_size(codec: str, extradata: bytes) -> int:
    """Return the size in bytes of the length fields of NAL units; 0 if start codes separate the units."""
    position = {"h264": 4, "hevc": 21}[codec]
    return (extradata[position] & 3) + 1 if len(extradata) > position and extradata[0] == 1 else 0


def nal_units(data: bytes, size: int) -> Iterator[bytes]:
    """Yield the NAL units of a packet, without their lengths of `size` bytes or (with 0) their start codes."""
    if size == 0:
        yield from (unit.rstrip(b"\0") for unit in data.split(START_CODE)[1:])
        return
    position = 0
    while position + size <= len(data):
        end = position + size + int.from_bytes(data[position : position + size], "big")
        yield data[position + size : end]
        position = end


def stored_parameter_sets(extradata: bytes, size: int) -> Iterator[bytes]:
    """Yield the H.264 parameter sets that a container stores before the packets, whose lengths have `size` bytes."""
    if size == 0:
        yield from nal_units(extradata, 0)
        return
    position = 5
    for mask in (31, 255):
        count, position = (extradata[position] & mask if position < len(extradata) else 0), position + 1
        for _ in range(count):
            end = position + 2 + int.from_bytes(extradata[position : position + 2], "big")
            yield extradata[position + 2 : end]
            position = end


def starts_with_idr(codec: str, data: bytes, size: int) -> bool:
    """Return whether the first picture of a packet is an IDR picture; a clip cut in an open group has none there."""
    for unit in nal_units(data, size):
        if codec == "h264" and unit and 1 <= unit[0] & 31 <= H264_IDR:
            return unit[0] & 31 == H264_IDR
        if codec == "hevc" and unit and unit[0] >> 1 & 63 < 32:
            return (unit[0] >> 1 & 63) in HEVC_IDR
    return True


def without_broken_sei(data: bytes, size: int) -> bytes:
    """Return an HEVC packet without truncated SEI messages.

    SEI messages are not needed for the picture, but a strict decoder rejects a picture with a truncated one.
    """
    units = list(nal_units(data, size))
    whole = [unit for unit in units if not (unit and unit[0] >> 1 & 63 in HEVC_SEI and _is_broken_sei(unit[2:]))]
    if len(whole) == len(units):
        return data
    return b"".join((len(unit).to_bytes(size, "big") if size else b"\0" + START_CODE) + unit for unit in whole)


def sei_types(payload: bytes) -> list[int]:
    """Return the types of the messages of an SEI unit, given without its header.

    Raises:
        IndexError: a message is truncated.
    """
    payload = payload.replace(b"\0\0\3", b"\0\0")
    types, position = [], 0
    while position < len(payload) and payload[position:] != b"\x80":
        numbers = []
        for _ in ("type", "size"):
            value = 0
            while payload[position] == 255:
                value, position = value + 255, position + 1
            value, position = value + payload[position], position + 1
            numbers.append(value)
        types.append(numbers[0])
        position += numbers[1]
    if position > len(payload):
        raise IndexError("The payload ends within a message.")
    return types


def _is_broken_sei(payload: bytes) -> bool:
    try:
        sei_types(payload)
    except IndexError:
        return True
    return False
