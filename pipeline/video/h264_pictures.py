"""Find lost pictures of an H.264 stream by the numbers in its slices.

Each reference picture increments `frame_num` by one. A jump means that a picture is lost; the pictures that refer to it
are then wrong, although decoders do not report them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from pipeline.video.nal_units import H264_IDR, H264_PPS, H264_SPS, Bits, nal_units, stored_parameter_sets

# Profiles whose parameter sets contain additional fields on colours.
HIGH_PROFILES = frozenset({100, 110, 122, 244, 44, 83, 86, 118, 128, 138, 139, 134, 135})


@dataclass(frozen=True)
class SequenceParameters:
    """Fields of a sequence parameter set that determine the numbers and the display order of pictures.

    order_type: `pic_order_cnt_type`. num_order_bits: bits of `pic_order_cnt_lsb`, with type 0.
    """

    sps_id: int
    has_colour_planes: bool
    num_bits: int
    allows_gaps: bool
    order_type: int
    num_order_bits: int
    has_only_frames: bool


class SliceHeader(NamedTuple):
    """Start of the header of a picture's first slice. order_lsb: `pic_order_cnt_lsb`, 0 with another type than 0."""

    sequence: SequenceParameters
    is_idr: bool
    is_reference: bool
    number: int
    is_field: bool
    order_lsb: int


class FrameNumbers:
    """Track `frame_num` over the packets of a stream."""

    def __init__(self, length_size: int, extradata: bytes) -> None:
        self._length_size = length_size
        self._sequences: dict[int, SequenceParameters] = {}
        self._sequence_of_picture: dict[int, int] = {}
        self._last: int | None = None
        self.header: SliceHeader | None = None
        """Header of the last picture; None if it cannot be read."""
        for unit in stored_parameter_sets(extradata, length_size):
            self._unit(unit)

    def gap(self, packet: bytes) -> str | None:
        """Return what is missing before the pictures of a packet, as part of a sentence, or None."""
        found = self.header = None
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
        self.header = header = _slice_header(bits, sequence, kind == H264_IDR, bool(unit[0] >> 5 & 3))
        number, last = header.number, self._last
        if header.is_reference or last is None or header.is_idr:
            self._last = number
        if last is None or header.is_idr or sequence.allows_gaps:
            return None
        if number in (last, (last + 1) % (1 << sequence.num_bits)):
            return None
        return f"the numbers of its pictures jump from {last} to {number}"


def _slice_header(bits: Bits, sequence: SequenceParameters, is_idr: bool, is_reference: bool) -> SliceHeader:
    if sequence.has_colour_planes:
        bits.number(2)
    number = bits.number(sequence.num_bits)
    is_field = not sequence.has_only_frames and bool(bits.number(1))
    if is_field:
        bits.number(1)
    if is_idr:
        bits.unsigned()
    order_lsb = bits.number(sequence.num_order_bits) if sequence.order_type == 0 else 0
    return SliceHeader(sequence, is_idr, is_reference, number, is_field, order_lsb)


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
    num_order_bits = bits.unsigned() + 4 if order_type == 0 else 0
    if order_type == 1:
        bits.number(1), bits.signed(), bits.signed()
        for _ in range(bits.unsigned()):
            bits.signed()
    bits.unsigned()  # number of reference pictures
    allows_gaps = bool(bits.number(1))
    bits.unsigned(), bits.unsigned()  # width and height
    has_only_frames = bool(bits.number(1))
    return SequenceParameters(
        sps_id, has_colour_planes, num_bits, allows_gaps, order_type, num_order_bits, has_only_frames
    )


def _skip_scaling_list(bits: Bits, size: int) -> None:
    last = following = 8
    for _ in range(size):
        if following:
            following = (last + bits.signed()) % 256
        last = following or last
