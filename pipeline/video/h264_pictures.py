"""Find lost pictures of an H.264 stream by the numbers in its slices.

Each reference picture increments `frame_num` by one. A jump means that a picture is lost; the pictures that refer to it
are then wrong, although decoders do not report them.
"""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.video.nal_units import H264_IDR, H264_PPS, H264_SPS, Bits, nal_units, parameter_sets

# Profiles whose parameter sets contain additional fields on colours.
HIGH_PROFILES = frozenset({100, 110, 122, 244, 44, 83, 86, 118, 128, 138, 139, 134, 135})


@dataclass(frozen=True)
class SequenceParameters:
    """Fields of a sequence parameter set that determine the numbers of pictures."""

    sps_id: int
    has_colour_planes: bool
    num_bits: int
    allows_gaps: bool


class FrameNumbers:
    """Track `frame_num` over the packets of a stream."""

    def __init__(self, length_size: int, extradata: bytes) -> None:
        self._length_size = length_size
        self._sequences: dict[int, SequenceParameters] = {}
        self._sequence_of_picture: dict[int, int] = {}
        self._last: int | None = None
        for unit in parameter_sets(extradata) if length_size else nal_units(extradata, 0):
            self._unit(unit)

    def gap(self, packet: bytes) -> str | None:
        """Return what is missing before the pictures of a packet, as part of a sentence, or None."""
        found = None
        for unit in nal_units(packet, self._length_size):
            found = self._unit(unit) or found
        return found

    def end(self) -> str | None:
        """Return None: the numbers do not show whether pictures are missing at the end."""
        return None

    def _unit(self, unit: bytes) -> str | None:
        try:
            kind = unit[0] & 31
            if kind == H264_SPS:
                sequence = _sequence_parameters(unit)
                self._sequences[sequence.sps_id] = sequence
            elif kind == H264_PPS:
                bits = Bits(unit[1:16])
                self._sequence_of_picture[bits.unsigned()] = bits.unsigned()
            elif kind in (1, 2, H264_IDR):
                return self._slice(unit, kind)
        except (IndexError, KeyError):
            pass  # a damaged header, which the decoder reports
        return None

    def _slice(self, unit: bytes, kind: int) -> str | None:
        bits = Bits(unit[1:24])
        if bits.unsigned():
            return None  # another slice of the same picture
        bits.unsigned()  # slice type
        sequence = self._sequences[self._sequence_of_picture[bits.unsigned()]]
        if sequence.has_colour_planes:
            bits.number(2)
        number, last = bits.number(sequence.num_bits), self._last
        is_reference = unit[0] >> 5 & 3
        if is_reference or last is None or kind == H264_IDR:
            self._last = number
        if last is None or kind == H264_IDR or sequence.allows_gaps:
            return None
        if number in (last, (last + 1) % (1 << sequence.num_bits)):
            return None
        return f"the numbers of its pictures jump from {last} to {number}"


def _sequence_parameters(unit: bytes) -> SequenceParameters:
    bits = Bits(unit[4:])
    sps_id, has_colour_planes = bits.unsigned(), False
    if unit[1] in HIGH_PROFILES:
        chroma = bits.unsigned()
        has_colour_planes = chroma == 3 and bool(bits.number(1))
        bits.unsigned(), bits.unsigned(), bits.number(1)  # bits of luma and chroma, lossless
        if bits.number(1):
            for index in range(12 if chroma == 3 else 8):
                if bits.number(1):
                    _skip_scaling_list(bits, 16 if index < 6 else 64)
    num_bits = bits.unsigned() + 4
    order_type = bits.unsigned()
    if order_type == 0:
        bits.unsigned()
    elif order_type == 1:
        bits.number(1), bits.signed(), bits.signed()
        for _ in range(bits.unsigned()):
            bits.signed()
    bits.unsigned()  # number of reference pictures
    return SequenceParameters(sps_id, has_colour_planes, num_bits, bool(bits.number(1)))


def _skip_scaling_list(bits: Bits, size: int) -> None:
    last = following = 8
    for _ in range(size):
        if following:
            following = (last + bits.signed()) % 256
        last = following or last
