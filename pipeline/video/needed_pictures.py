"""Find the pictures of an H.264 stream that must be decoded for some of its frames.

A picture that no other refers to (`nal_ref_idc` 0) is needed only for its own frame. A group of pictures starts with an
IDR picture; those behind its last wanted picture are not needed, and none of a group without a wanted picture. The
wanted frames have the same pixels as if all were decoded.

Source: Rec. ITU-T H.264, 7.4.1 (`nal_ref_idc`, types of NAL units), 7.4.1.2.4 (IDR pictures), D.1 (SEI messages).
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple

from pipeline.video.h264_pictures import SliceHeader
from pipeline.video.nal_units import H264_IDR, H264_PPS, H264_SEI, H264_SPS, nal_units, sei_types

SLICE, DELIMITER, FILLER = 1, 9, 12
# Messages on their own picture alone: buffering period, timing, user data (registered or not), recovery point.
PASSING_SEI = frozenset({0, 1, 4, 5, 6})
ORDER_BY_NUMBERS, ORDER_OF_DECODING = 0, 2  # values of `pic_order_cnt_type`


class Picture(NamedTuple):
    """A picture of a stream. time: its display time in units of the stream."""

    time: int
    header: SliceHeader


def picture_of(
    packet: bytes, time: int | None, header: SliceHeader | None, size: int, known: Collection[bytes]
) -> Picture | None:
    """Return the picture of a packet, or None if leaving the packet out might change other pictures.

    Parameter sets that are not among the `known` ones and other messages than `PASSING_SEI` hold for later pictures.
    """
    if time is None or header is None or header.is_field:
        return None
    if header.sequence.order_type not in (ORDER_BY_NUMBERS, ORDER_OF_DECODING):
        return None
    for unit in nal_units(packet, size):
        kind = unit[0] & 31 if unit else 0
        if kind in (SLICE, H264_IDR):
            if bool(unit[0] >> 5 & 3) != header.is_reference:
                return None
        elif kind == H264_SEI:
            try:
                if not PASSING_SEI.issuperset(sei_types(unit[1:])):
                    return None
            except IndexError:
                return None
        elif kind in (H264_SPS, H264_PPS):
            if unit not in known:
                return None
        elif kind not in (DELIMITER, FILLER):
            return None
    return Picture(time, header)


def needed_positions(pictures: Sequence[Picture], wanted_times: Collection[int]) -> Iterator[int]:
    """Yield the positions of the pictures without which the wanted ones cannot be decoded, last to first.

    Args:
        pictures: in decoding order.
    """
    is_needed_later = False
    for position in reversed(range(len(pictures))):
        time, header = pictures[position]
        is_wanted = time in wanted_times
        if is_wanted or (header.is_reference and is_needed_later):
            yield position
        is_needed_later = (is_needed_later or is_wanted) and not header.is_idr


def are_times_in_display_order(pictures: Sequence[Picture]) -> bool:
    """Return whether all display times differ, and order the pictures as their headers do.

    Args:
        pictures: in decoding order.

    Source: Rec. ITU-T H.264, 8.2.1.1 and 8.2.1.3 (picture order count).
    """
    orders: list[tuple[int, int, int]] = []  # group of pictures, order in it, display time
    group = high = low = 0
    for position, (time, header) in enumerate(pictures):
        if header.is_idr:
            group, high, low = group + 1, 0, 0
        if header.sequence.order_type == ORDER_OF_DECODING:
            orders.append((group, position, time))
            continue
        period = 1 << header.sequence.num_order_bits
        high_here = high
        if low - header.order_lsb >= period // 2:
            high_here += period
        elif header.order_lsb - low > period // 2:
            high_here -= period
        orders.append((group, high_here + header.order_lsb, time))
        if header.is_reference:
            high, low = high_here, header.order_lsb
    return all(here[:2] < following[:2] and here[2] < following[2] for here, following in pairwise(sorted(orders)))
