"""Of an H.264 stream only the pictures are decoded that the wanted frames need, with the pixels of a whole decode."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import pytest

from pipeline.errors import ClipError
from pipeline.prepare.gestures.encode import write_video
from pipeline.prepare.inspection import decode_clips
from pipeline.video.decode import open_clip
from pipeline.video.h264_pictures import SequenceParameters, SliceHeader
from pipeline.video.needed_pictures import Picture, are_times_in_display_order, needed_positions, picture_of
from pipeline.video.video_file import VideoFile
from tests.test_decode import plain_decode

NUM_FRAMES = 24
SEQUENCE = SequenceParameters(
    0, has_colour_planes=False, num_bits=4, allows_gaps=False, order_type=0, num_order_bits=4, has_only_frames=True
)


def picture(kind: str, time: int, order_lsb: int = 0, order_type: int = 0) -> Picture:
    """I: an IDR picture; P: another that others refer to; b: one that none refers to."""
    sequence = replace(SEQUENCE, order_type=order_type)
    return Picture(time, SliceHeader(sequence, kind == "I", kind in "IP", 0, False, order_lsb))


def pictures(kinds: str, times: Sequence[int], orders: Sequence[int], order_type: int = 0) -> list[Picture]:
    return [picture(*values, order_type) for values in zip(kinds, times, orders, strict=True)]


def moving_noise() -> np.ndarray:
    """Frames that are predicted from each other, with a change of scene."""
    draw = np.random.default_rng(0)
    scene = draw.integers(0, 255, (2, 6, 8, 3), np.uint8).repeat(8, axis=1).repeat(8, axis=2)
    return np.stack([np.roll(scene[number // 14], 3 * number, axis=1) for number in range(NUM_FRAMES)])


def opened(path: Path) -> VideoFile:
    reader = open_clip(path)
    assert isinstance(reader, VideoFile)
    return reader


# Decoding order I0 P3 b1 b2 P6 b4 b5 | I7 P8.
TWO_GROUPS = pictures("IPbbPbbIP", [0, 3, 1, 2, 6, 4, 5, 7, 8], [0, 6, 2, 4, 12, 8, 10, 0, 2])


@pytest.mark.parametrize(
    ("wanted", "needed"),
    [
        ({0}, [0]),
        ({1}, [0, 1, 2]),
        ({3}, [0, 1]),
        ({5}, [0, 1, 4, 6]),
        ({8}, [7, 8]),
        ({2, 7}, [0, 1, 3, 7]),
        (set(), []),
        (set(range(9)), list(range(9))),
    ],
)
def test_a_frame_needs_its_group_up_to_it_without_pictures_that_none_refers_to(
    wanted: set[int], needed: list[int]
) -> None:
    assert sorted(needed_positions(TWO_GROUPS, wanted)) == needed


def test_the_display_order_is_that_of_the_headers() -> None:
    assert are_times_in_display_order(TWO_GROUPS)
    swapped = [*TWO_GROUPS[:2], TWO_GROUPS[2]._replace(time=2), TWO_GROUPS[3]._replace(time=1), *TWO_GROUPS[4:]]
    assert not are_times_in_display_order(swapped)
    twice = [*TWO_GROUPS[:8], TWO_GROUPS[8]._replace(time=7)]
    assert not are_times_in_display_order(twice)


def test_order_counts_start_again_after_their_largest_value() -> None:
    # Four bits: 14 is followed by 0, in groups of one picture that others refer to and one between.
    numbers = [0, 4, 2, 8, 6, 12, 10, 16, 14, 20, 18]
    assert are_times_in_display_order(pictures("IPbPbPbPbPb", numbers, [number % 16 for number in numbers]))


def test_without_order_counts_the_display_order_is_that_of_decoding() -> None:
    assert are_times_in_display_order(pictures("IPP", [0, 1, 2], [0, 0, 0], order_type=2))
    assert not are_times_in_display_order(pictures("IPP", [0, 2, 1], [0, 0, 0], order_type=2))


def unit(*payload: int) -> bytes:
    return len(payload).to_bytes(4, "big") + bytes(payload)


@pytest.mark.parametrize(
    ("other", "can_be_left_out"),
    [
        (b"", True),
        (unit(9, 16), True),  # an access unit delimiter
        (unit(6, 5, 1, 0, 128), True),  # a message of user data
        (unit(6, 47, 1, 0, 128), False),  # the orientation of the display, which holds for later pictures
        (unit(6, 19, 1, 0, 128), False),  # film grain
        (unit(6, 5, 9, 0, 128), False),  # a truncated message
        (unit(7, 1, 2), True),  # the parameter set of the container
        (unit(7, 1, 3), False),  # another one
        (unit(14, 1), False),  # a prefix of scalable video
        (unit(0x61, 1), False),  # a slice that others refer to, in the same packet
    ],
)
def test_a_packet_with_something_that_holds_for_others_is_always_decoded(other: bytes, can_be_left_out: bool) -> None:
    header = picture("b", 1).header
    found = picture_of(other + unit(0x01, 2), 1, header, 4, {bytes((7, 1, 2))})
    assert found == (Picture(1, header) if can_be_left_out else None)


@pytest.mark.parametrize(
    "header",
    [
        None,
        picture("b", 1).header._replace(is_field=True),
        picture("b", 1, order_type=1).header,
    ],
)
def test_fields_and_other_orders_are_always_decoded(header: SliceHeader | None) -> None:
    assert picture_of(unit(0x01, 2), 1, header, 4, set()) is None


OPTIONS = {
    "three between": {"bf": "3", "x264-params": "b-adapt=0"},
    "pyramid": {"bf": "5", "x264-params": "b-adapt=0:b-pyramid=normal:ref=4:direct=temporal"},
    "groups": {"bf": "2", "x264-params": "keyint=7:min-keyint=7:open-gop=0"},
    "open groups": {"bf": "3", "x264-params": "keyint=7:open-gop=1:b-adapt=0"},
    "no order counts": {"bf": "0"},
    "repeated headers": {"bf": "2", "x264-params": "repeat-headers=1:aud=1:slices=2:keyint=9"},
    "weighted": {"bf": "3", "x264-params": "weightp=2:ref=6:b-adapt=2"},
}


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
@pytest.mark.parametrize("name", OPTIONS)
def test_any_frames_are_those_of_a_plain_decode(tmp_path: Path, name: str, suffix: str) -> None:
    path = tmp_path / f"clip{suffix}"
    write_video(path, moving_noise(), 12, "libx264", options={"preset": "medium", **OPTIONS[name]})
    whole, draw = plain_decode(path), random.Random(0)
    with opened(path) as reader:
        for _ in range(12):
            wanted = [draw.randrange(NUM_FRAMES) for _ in range(draw.randint(0, 5))]
            assert (reader.read(wanted) == whole[wanted]).all()


def num_decoded(path: Path, wanted: list[int], monkeypatch: pytest.MonkeyPatch, decodes_whole: bool = False) -> int:
    """Count the frames that the decoder gives when these are read."""
    shown, count = VideoFile._shown, 0

    def counted(*arguments: object) -> object:
        nonlocal count
        for each in shown(*arguments):  # type: ignore[arg-type]
            count += 1
            yield each

    with monkeypatch.context() as patched:
        patched.setattr(VideoFile, "_shown", counted)
        with opened(path) as reader:
            reader.decodes_whole = decodes_whole
            reader.read(wanted)
    return count


def test_only_needed_pictures_are_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "clip.mp4"
    options = {"bf": "2", "x264-params": "keyint=8:min-keyint=8:scenecut=0:b-adapt=0:b-pyramid=none:open-gop=0"}
    write_video(path, moving_noise(), 12, "libx264", options=options)
    # Three groups of eight: I0 P3 b1 b2 P6 b4 b5 P7. The first frame appears after I0 and P3 are decoded, for its size.
    assert num_decoded(path, [16], monkeypatch) == 2 + 1
    assert num_decoded(path, [22], monkeypatch) == 2 + 3
    assert num_decoded(path, [20], monkeypatch) == 2 + 4
    assert num_decoded(path, [20], monkeypatch, decodes_whole=True) == NUM_FRAMES


def test_a_large_clip_whose_packets_are_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "clip.mp4"
    write_video(path, moving_noise(), 12, "libx264", options={"bf": "3"})
    monkeypatch.setattr("pipeline.video.video_file.MAX_KEPT_BYTES", 1000)
    with opened(path) as reader:
        for wanted in ([3, 20], [5], [23]):
            assert (reader.read(wanted) == plain_decode(path)[wanted]).all()


def test_a_decoder_that_drops_a_frame_is_not_followed_by_times(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "clip.mp4"
    write_video(path, moving_noise(), 12, "libx264", options={"bf": "3"})
    shown, is_first = VideoFile._shown, True

    def dropping(*arguments: object) -> object:
        nonlocal is_first
        drops, is_first = is_first, False
        for index, each in enumerate(shown(*arguments)):  # type: ignore[arg-type]
            if not (drops and index == 2):
                yield each

    monkeypatch.setattr(VideoFile, "_shown", dropping)
    with opened(path) as reader:
        assert (reader.read([0, 12, 20]) == plain_decode(path)[[0, 12, 20]]).all()


@pytest.fixture
def damaged(tmp_path: Path) -> Path:
    """A clip whose last picture, to which none refers, is overwritten with zeros."""
    options = {"bf": "3", "x264-params": "b-adapt=0:b-pyramid=none:scenecut=0"}
    write_video(tmp_path / "sound.mp4", moving_noise(), 12, "libx264", options=options)
    with av.open(str(tmp_path / "sound.mp4")) as container:
        packets = [(packet.pts, bytes(packet)) for packet in container.demux(video=0) if packet.size]
    last = packets[-1][1]
    assert last[4] >> 5 == 0
    data = (tmp_path / "sound.mp4").read_bytes()
    assert data.count(last) == 1
    (tmp_path / "damaged.mp4").write_bytes(data.replace(last, last[:12] + bytes(len(last) - 12)))
    return tmp_path / "damaged.mp4"


def test_damage_is_found_where_it_is_decoded(damaged: Path) -> None:
    whole = plain_decode(damaged.with_name("sound.mp4"))
    with opened(damaged) as reader:
        assert (reader.read([4, 16]) == whole[[4, 16]]).all()
    for decodes_whole, wanted in ((True, [4, 16]), (False, range(NUM_FRAMES))):
        with opened(damaged) as reader:
            reader.decodes_whole = decodes_whole
            with pytest.raises(ClipError, match="damaged") as caught:
                reader.read(list(wanted))
        assert caught.value.kind == "corrupt"


def test_check_decodes_every_picture(damaged: Path) -> None:
    found = decode_clips([("damaged", str(damaged)), ("sound", str(damaged.with_name("sound.mp4")))])
    assert [clip.kind for clip in found] == ["corrupt", ""]
