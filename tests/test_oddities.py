"""Odd clips in every container and codec: the frames of a plain decode, or a true reason."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import pytest
from av.packet import Packet
from PIL import Image, ImageOps

from pipeline.errors import ClipError
from pipeline.prepare.gestures.encode import encode_jpg
from pipeline.video.decode import open_clip
from pipeline.video.transport_stream import PACKET_BYTES, file_without_repetitions
from tests.support.oddities import (
    NUM_FRAMES,
    PAIRS,
    copy_packets,
    from_second_key_frame,
    pictures,
    plain_decode,
    without_packet,
    write_clip,
)

Maker = Callable[[Path, Path], object]
TEXT = b"Downloaded from the archive of clips.\n"

ODDITIES: dict[str, Maker] = {
    "as it was written": lambda whole, odd: odd.write_bytes(whole.read_bytes()),
    "cut at its second key frame": lambda whole, odd: copy_packets(whole, odd, from_second_key_frame),
    "cut at any frame": lambda whole, odd: copy_packets(whole, odd, lambda packets: packets[3:]),
    "starting at 5 s": lambda whole, odd: copy_packets(whole, odd, lambda packets: packets, later_by=5),
    "a packet lost": lambda whole, odd: copy_packets(whole, odd, without_packet(5)),
    "text behind": lambda whole, odd: odd.write_bytes(whole.read_bytes() + TEXT),
    "zeros behind": lambda whole, odd: odd.write_bytes(whole.read_bytes() + bytes(3000)),
}
# PyAV cannot copy packets of AV1 without another decoder; a GIF or PNG is no stream of packets.
UNCOPIED = {"av1", "gif", "apng"}
# A lost frame is found where the codec numbers its frames or names those that a frame needs.
TELLS_A_LOSS = {"h264", "hevc", "mpeg1", "mpeg2"}
# Frames that need an earlier one are refused by these decoders; others show them over grey, as FFmpeg does.
REFUSES_A_START = {"hevc", "vp8", "vp9"}


def expected_refusal(container: str, codec: str, oddity: str) -> str | None:
    """The kind of failure that a combination must come to; None where it must be read.

    NUT and IVF have bytes behind their last packet read as one more packet, by FFmpeg too.
    """
    if oddity == "a packet lost" and codec in TELLS_A_LOSS:
        return "corrupt"
    if oddity == "cut at any frame" and codec in REFUSES_A_START:
        return "corrupt"
    if (container, oddity) == ("ivf", "text behind"):
        return "truncated"
    if container == "nut" and oddity in ("text behind", "zeros behind"):
        return "corrupt"
    return None


@pytest.fixture(scope="module")
def whole_clips(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], Path]:
    folder = tmp_path_factory.mktemp("whole")
    return {(container, codec): write_clip(folder / f"{codec}.{container}", codec) for container, codec in PAIRS}


@pytest.mark.parametrize("oddity", ODDITIES)
@pytest.mark.parametrize(("container", "codec"), PAIRS)
def test_an_odd_clip_is_read_as_ffmpeg_shows_it_or_refused_with_its_reason(
    container: str, codec: str, oddity: str, whole_clips: dict[tuple[str, str], Path], tmp_path: Path
) -> None:
    if "behind" not in oddity and "written" not in oddity and codec in UNCOPIED:
        pytest.skip("packets of this codec cannot be copied here")
    whole, odd = whole_clips[container, codec], tmp_path / f"odd.{container}"
    ODDITIES[oddity](whole, odd)
    kind = expected_refusal(container, codec, oddity)
    if kind is not None:
        with pytest.raises(ClipError, match=str(odd)) as caught, open_clip(odd) as reader:
            reader.read(range(reader.num_frames))
        assert caught.value.kind == kind
        return
    expected = plain_decode(odd)
    assert expected is not None
    with open_clip(odd) as reader:
        frames = reader.read(range(reader.num_frames))
        again = reader.read([0, reader.num_frames - 1])
    np.testing.assert_array_equal(frames, expected)
    np.testing.assert_array_equal(again, expected[[0, -1]])


# Oddities of one format ----------------------------------------------------------------------------------------------


def read_all(path: Path) -> np.ndarray:
    with open_clip(path) as reader:
        return reader.read(range(reader.num_frames))


def refusal(path: Path, *words: str) -> str:
    with pytest.raises(ClipError) as caught:
        read_all(path)
    for word in words:
        assert word in str(caught.value)
    return caught.value.kind


def with_unit_before(number: int, unit: bytes) -> Callable[[list[Packet]], list[Packet]]:
    """Put a NAL unit before the picture of one packet."""

    def change(packets: list[Packet]) -> list[Packet]:
        old = packets[number]
        new = Packet(len(unit).to_bytes(4, "big") + unit + bytes(old))
        new.pts, new.dts, new.time_base, new.is_keyframe = old.pts, old.dts, old.time_base, old.is_keyframe
        return [*packets[:number], new, *packets[number + 1 :]]

    return change


# A message of type 5 that promises 200 bytes and has 3, and one of type 1 (H.264: times of a picture) of 5 and 1.
BROKEN_SEI = {
    "h264": (b"\x06\x05\xc8abc\x80", b"\x06\x01\x05\x01\x80"),
    "hevc": (b"\x4e\x01\x05\xc8abc\x80", b"\x4e\x01\x01\x09\x01\x80"),
}


@pytest.mark.parametrize("container", ["mkv", "mp4", "ts"])
@pytest.mark.parametrize("codec", ["h264", "hevc"])
def test_a_message_cut_short_damages_no_frame(tmp_path: Path, codec: str, container: str) -> None:
    whole = write_clip(tmp_path / "whole.mkv", codec)
    expected = plain_decode(whole)
    assert expected is not None
    for number, unit in enumerate(BROKEN_SEI[codec]):
        odd = copy_packets(whole, tmp_path / f"{number}.{container}", with_unit_before(4, unit))
        np.testing.assert_array_equal(read_all(odd), expected)


@pytest.mark.parametrize("codec", ["h264", "hevc"])
def test_a_damaged_slice_is_refused_also_behind_a_message_cut_short(tmp_path: Path, codec: str) -> None:
    whole = write_clip(tmp_path / "whole.mkv", codec)
    odd = copy_packets(whole, tmp_path / "odd.mkv", with_unit_before(4, BROKEN_SEI[codec][0]))
    with av.open(str(odd)) as container:
        packet = next(bytes(packet) for packet in container.demux(video=0))
    odd.write_bytes(odd.read_bytes().replace(packet[-300:], bytes(300)))
    assert refusal(odd) == "corrupt"


@pytest.mark.parametrize("lost", range(1, 24))
def test_every_lost_reference_of_h264_is_found_by_its_number(tmp_path: Path, lost: int) -> None:
    whole = write_clip(tmp_path / "whole.mkv", "h264", **{"x264-params": "bframes=0:ref=1:keyint=60:scenecut=0"})
    odd = copy_packets(whole, tmp_path / "odd.mkv", without_packet(lost))
    if lost == 23:  # the last one: nothing behind it tells
        assert len(read_all(odd)) == 23
    else:
        assert refusal(odd, f"from {(lost - 1) % 16} to {(lost + 1) % 16}") == "corrupt"  # they are numbers of 4 bits


@pytest.mark.parametrize("container", ["mkv", "mpg", "ts"])
@pytest.mark.parametrize("lost", [1, 2, 4, 5, 9, 12])
def test_a_lost_picture_within_a_group_of_mpeg2_is_found(tmp_path: Path, lost: int, container: str) -> None:
    whole = write_clip(tmp_path / "whole.mkv", "mpeg2", bf="0")
    odd = copy_packets(whole, tmp_path / f"odd.{container}", without_packet(lost))
    assert refusal(odd, f"lacks number {lost % 8}") == "corrupt"


@pytest.mark.parametrize(
    "parameters",
    [
        "interlaced=1:keyint=12",
        "intra-refresh=1:keyint=8",
        "bframes=3:b-pyramid=strict:weightp=2:keyint=250",
        "slices=3:keyint=10",
        "cqm=jvt:keyint=9",
        "keyint=1",
        "bframes=16:b-adapt=2:ref=16",
    ],
)
def test_no_frame_of_a_whole_h264_clip_is_taken_for_lost(tmp_path: Path, parameters: str) -> None:
    frames = np.concatenate([pictures()] * 3)
    whole = write_clip(tmp_path / "whole.mp4", "h264", frames, **{"x264-params": parameters + ":log=-1"})
    np.testing.assert_array_equal(read_all(whole), plain_decode(whole))


def with_riff_length(path: Path, difference: int) -> None:
    data = bytearray(path.read_bytes())
    data[4:8] = (len(data) - 8 + difference).to_bytes(4, "little")
    path.write_bytes(data)


@pytest.mark.parametrize("codec", ["h264", "mpeg4", "mjpeg", "ffv1"])
def test_an_avi_with_a_wrong_length_or_a_cut_index_is_whole_and_a_cut_film_is_not(tmp_path: Path, codec: str) -> None:
    clip = write_clip(tmp_path / "clip.avi", codec)
    expected = plain_decode(clip)
    assert expected is not None
    with_riff_length(clip, 8)
    np.testing.assert_array_equal(read_all(clip), expected)
    whole = clip.read_bytes()
    index = whole.rfind(b"idx1")
    for end in (index, index + 3, index + 100, len(whole) - 1):
        clip.write_bytes(whole[:end])
        np.testing.assert_array_equal(plain_decode(clip), expected)
        np.testing.assert_array_equal(read_all(clip), expected)
    for missing in (1, 2, 39, 300):
        clip.write_bytes(whole[: index - missing])
        assert refusal(clip) == "truncated"


@pytest.mark.parametrize("text", [b"Downloaded by a tool", b"\0\0\0\0text", b"www.example.org/clip", b"</html>\n"])
def test_any_text_behind_an_mp4_is_left_alone_and_a_cut_one_is_refused(tmp_path: Path, text: bytes) -> None:
    clip = write_clip(tmp_path / "clip.mp4", "h264")
    data = clip.read_bytes()
    clip.write_bytes(data + text)
    assert len(read_all(clip)) == NUM_FRAMES
    clip.write_bytes(data[:-20])
    assert refusal(clip) in ("truncated", "unreadable")


@pytest.mark.parametrize("box", [b"free", b"skip", b"uuid", b"udta", b"meta", b"mfra"])
def test_a_box_that_is_cut_behind_the_film_of_an_mp4_is_left_alone(tmp_path: Path, box: bytes) -> None:
    clip = write_clip(tmp_path / "clip.mp4", "h264")
    data, expected = clip.read_bytes(), plain_decode(clip)
    clip.write_bytes(data + (1000).to_bytes(4, "big") + box + bytes(200))
    np.testing.assert_array_equal(plain_decode(clip), expected)
    np.testing.assert_array_equal(read_all(clip), expected)


@pytest.mark.parametrize("box", [b"mdat", b"moof", b"moov"])
def test_a_box_of_frames_that_is_cut_is_refused(tmp_path: Path, box: bytes) -> None:
    clip = write_clip(tmp_path / "clip.mp4", "h264")
    clip.write_bytes(clip.read_bytes() + (1000).to_bytes(4, "big") + box + bytes(200))
    assert refusal(clip) == "truncated"


def test_an_mp4_that_is_cut_in_its_frames_is_refused_wherever_its_index_is(tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "clip.mp4", "h264")
    data = clip.read_bytes()
    for end in range(len(data) // 4, len(data) - 1, len(data) // 8):
        clip.write_bytes(data[:end])
        assert refusal(clip) in ("truncated", "unreadable")


def packets_of(stream: bytes) -> list[bytes]:
    return [stream[start : start + PACKET_BYTES] for start in range(0, len(stream), PACKET_BYTES)]


@pytest.mark.parametrize("codec", ["h264", "hevc", "mpeg2"])
def test_packets_of_a_transport_stream_may_be_sent_twice(tmp_path: Path, codec: str) -> None:
    clip = write_clip(tmp_path / "clip.ts", codec)
    expected, packets = plain_decode(clip), packets_of(clip.read_bytes())
    np.testing.assert_array_equal(read_all(clip), expected)
    repeated = [{number} for number in range(0, len(packets), 7)] + [set(range(len(packets)))]
    for numbers in repeated:
        clip.write_bytes(b"".join(packet * (1 + (number in numbers)) for number, packet in enumerate(packets)))
        np.testing.assert_array_equal(read_all(clip), expected)
    for lost in range(20, len(packets) - 8, 7):  # the encoder's message at the start is no part of a frame
        left = packets[:lost] + packets[lost + 1 :]
        clip.write_bytes(b"".join([left[0], *left]))  # one is sent twice, and another one is lost
        if packets[lost][1] & 0x1F == 1:  # of the film
            assert refusal(clip) in ("truncated", "corrupt")


def test_a_transport_stream_without_its_repeated_packets_is_read_at_any_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    packets = packets_of(write_clip(tmp_path / "clip.ts", "mpeg2").read_bytes())
    whole = b"".join(packets)
    assert file_without_repetitions(tmp_path / "clip.ts") is None
    (tmp_path / "clip.ts").write_bytes(b"".join(packet * (1 + number % 2) for number, packet in enumerate(packets)))
    for num_packets in (1, 5, 1000):
        monkeypatch.setattr("pipeline.video.transport_stream.PACKETS_AT_ONCE", num_packets)
        file = file_without_repetitions(tmp_path / "clip.ts")
        assert file is not None
        with file:
            assert file.read() == whole
            for start, length in ((0, 10), (187, 2), (300, 4000), (len(whole) - 5, 5)):
                assert file.seek(start) == start
                assert file.read(length) == whole[start : start + length]
            assert file.seek(-7, 2) == len(whole) - 7
            assert file.read() == whole[-7:]


def tiffs_in_mov(path: Path) -> np.ndarray:
    """Write a film of TIFF images, each with a tag for its resolution, which FFmpeg does not know."""
    frames = np.random.default_rng(0).integers(0, 256, (4, 48, 64, 3), dtype=np.uint8)
    with av.open(str(path), "w") as out:
        stream = out.add_stream("tiff", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "rgb24"
        for index, picture in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts = index
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    return frames


def test_tiff_images_in_a_mov_are_a_film(tmp_path: Path) -> None:
    expected = tiffs_in_mov(tmp_path / "clip.mov")
    np.testing.assert_array_equal(plain_decode(tmp_path / "clip.mov"), expected)
    np.testing.assert_array_equal(read_all(tmp_path / "clip.mov"), expected)


def test_a_damaged_tiff_image_in_a_mov_is_refused(tmp_path: Path) -> None:
    tiffs_in_mov(clip := tmp_path / "clip.mov")
    whole = clip.read_bytes()
    strips = whole.find(b"II*\0", 10_000) + 8
    # Runs of 128 equal bytes, far more than a row has; a first byte that has no meaning.
    for damage in (b"\x81" * 600, b"\x80" * 30):
        clip.write_bytes(whole[:strips] + damage + whole[strips + len(damage) :])
        assert plain_decode(clip) is not None
        assert refusal(clip, "damaged") == "corrupt"


@pytest.mark.parametrize(
    "behind",
    [b"", b"!\xfe\x05hello\0", b"!\xff\x0bXMP DataXMP\x03abc\0", b"\0" * 5000, b"text", b"!\xfe\x05hello\0\0\0"],
)
def test_a_gif_may_have_an_extension_or_padding_behind_its_last_image(tmp_path: Path, behind: bytes) -> None:
    clip = write_clip(tmp_path / "clip.gif", "gif")
    expected, data = read_all(clip), clip.read_bytes()
    clip.write_bytes(data[:-1] + behind + b";" if behind.startswith(b"!") else data + behind)
    np.testing.assert_array_equal(read_all(clip), expected)


def test_a_gif_may_lack_its_end_mark_and_nothing_else(tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "clip.gif", "gif")
    expected, data = plain_decode(clip), clip.read_bytes()
    for behind in (b"", b"!\xfe\x05hello\0", b"\0\0\0"):
        clip.write_bytes(data[:-1] + behind)
        np.testing.assert_array_equal(plain_decode(clip), expected)
        np.testing.assert_array_equal(read_all(clip), expected)
    control = b"!\xf9\x04\0\0\0\0\0"  # it announces an image
    for cut in (
        data[:-2],
        data[:-3],
        data[:-40],
        data[:-1] + control,
        data[:-1] + b"!\xfe\x05hel",
        data[:-1] + b"text",
    ):
        clip.write_bytes(cut)
        assert refusal(clip) == "truncated"


def jpgs(frames: np.ndarray) -> list[bytes]:
    return [encode_jpg(frame) for frame in frames]


def test_jpgs_one_after_the_other_are_a_film_and_one_is_a_still(tmp_path: Path) -> None:
    frames = pictures(5)
    images = jpgs(frames)
    for name, padding in {"film.mjpeg": b"", "film.jpg": b"", "padded": b"\0\0\0"}.items():
        (tmp_path / name).write_bytes(padding.join(images) + padding)
        np.testing.assert_array_equal(read_all(tmp_path / name), plain_decode(tmp_path / name, "mjpeg"))
        assert len(read_all(tmp_path / name)) == 5
    (tmp_path / "cut.mjpeg").write_bytes(b"".join(images)[:-50])
    assert refusal(tmp_path / "cut.mjpeg") == "truncated"
    for name, more in {"still": b"", "motion photo": b"\0\0\0\x18ftypmp42" + bytes(40)}.items():
        (tmp_path / name).write_bytes(images[0] + more)
        assert len(read_all(tmp_path / name)) == 1


def test_a_photograph_with_a_preview_in_it_is_a_still(tmp_path: Path) -> None:
    first, second = jpgs(pictures(2))
    thumbnail = b"\xff\xe1" + (len(second) + 8).to_bytes(2, "big") + b"Exif\0\0" + second
    (tmp_path / "exif.jpg").write_bytes(first[:2] + thumbnail + first[2:])
    index = b"\xff\xe2\0\x08MPF\0ab"
    (tmp_path / "mpf.jpg").write_bytes(first[:2] + index + first[2:] + second)
    for name in ("exif.jpg", "mpf.jpg"):
        assert len(read_all(tmp_path / name)) == 1


@pytest.mark.parametrize("suffix", ["webp", "png", "tif"])
def test_a_moving_image_is_a_film(tmp_path: Path, suffix: str) -> None:
    frames = pictures(6)
    first, *others = [Image.fromarray(frame) for frame in frames]
    clip = tmp_path / f"clip.{suffix}"
    options = {"lossless": True} if suffix == "webp" else {}
    first.save(clip, save_all=True, append_images=others, duration=40, **options)
    np.testing.assert_array_equal(read_all(clip), frames)
    with open_clip(clip) as reader:
        np.testing.assert_array_equal(reader.read([4, 0, 4]), frames[[4, 0, 4]])
    data = clip.read_bytes()
    clip.write_bytes(data[:-60])
    assert refusal(clip, str(clip)) in ("truncated", "corrupt")


def test_the_image_before_the_film_of_a_png_is_no_frame(tmp_path: Path) -> None:
    first, *others = [Image.fromarray(frame) for frame in pictures(4)]
    first.save(tmp_path / "clip.png", save_all=True, append_images=others, default_image=True)
    np.testing.assert_array_equal(read_all(tmp_path / "clip.png"), pictures(4)[1:])


def test_data_missing_in_a_moving_png_are_never_filled_up(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (3, 48, 64, 3), np.uint8)
    first, *others = [Image.fromarray(frame) for frame in noise]
    first.save(tmp_path / "clip.png", save_all=True, append_images=others)
    data = bytearray((tmp_path / "clip.png").read_bytes())
    place = data.rfind(b"fdAT") + 2000
    data[place : place + 200] = bytes(200)
    (tmp_path / "clip.png").write_bytes(data)
    assert refusal(tmp_path / "clip.png") == "corrupt"


@pytest.mark.parametrize("suffix", ["webp", "png"])
def test_a_moving_image_is_no_frame_of_a_folder(tmp_path: Path, suffix: str) -> None:
    images = [Image.fromarray(frame) for frame in pictures(3)]
    (tmp_path / "clip").mkdir()
    images[0].save(tmp_path / "clip" / f"1.{suffix}", save_all=True, append_images=images[1:], lossless=True)
    assert refusal(tmp_path / "clip", f"1.{suffix} holds 3 images") == "unreadable"


@pytest.mark.parametrize("orientation", [1, 6, 3, 8])
@pytest.mark.parametrize("container", ["avi", "mov", "mkv", "mjpeg"])
def test_jpgs_with_exif_are_shown_in_their_orientation(tmp_path: Path, container: str, orientation: int) -> None:
    """PyAV ended with a ValueError, because it does not know all kinds of side data."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    images = []
    for picture in pictures(4):
        Image.fromarray(picture).save(buffer := io.BytesIO(), "jpeg", quality=95, exif=exif)
        images.append(buffer.getvalue())
    (tmp_path / "source.mjpeg").write_bytes(b"".join(images))
    clip = tmp_path / f"clip.{container}"
    if container == "mjpeg":
        clip.write_bytes(b"".join(images))
    else:
        copy_packets(tmp_path / "source.mjpeg", clip, lambda packets: packets)
    plain = plain_decode(clip, "mjpeg" if container == "mjpeg" else None)
    assert plain is not None
    turns = {1: 0, 6: -1, 3: 2, 8: 1}[orientation]
    np.testing.assert_array_equal(read_all(clip), np.rot90(plain, turns, axes=(1, 2)))
    turned = ImageOps.exif_transpose(Image.open(io.BytesIO(images[0])))
    assert turned.size == read_all(clip).shape[2:0:-1]


def orientation_sei(codec: str, quarter_turns: int) -> bytes:
    """A message of type 47: not cancelled, not mirrored, the angle in 1/65536 of a turn, and that it persists."""
    persists = "010" if codec == "h264" else "1"  # H.264: ue(1), a period of 1; and no extension
    bits = "000" + f"{quarter_turns * 16384:016b}" + persists + ("0" if codec == "h264" else "")
    bits = (bits + "1").ljust(-(-len(bits + "1") // 8) * 8, "0") if len(bits) % 8 else bits
    payload = int(bits, 2).to_bytes(len(bits) // 8, "big")
    header = b"\x06" if codec == "h264" else b"\x4e\x01"
    return header + bytes([47, len(payload)]) + payload.replace(b"\0\0", b"\0\0") + b"\x80"


@pytest.mark.parametrize("quarter_turns", [1, 2, 3])
@pytest.mark.parametrize("container", ["mkv", "mp4", "ts"])
@pytest.mark.parametrize("codec", ["h264", "hevc"])
def test_an_orientation_in_the_stream_holds_for_all_frames_behind_it(
    tmp_path: Path, codec: str, container: str, quarter_turns: int
) -> None:
    whole = write_clip(tmp_path / "whole.mkv", codec)
    plain = plain_decode(whole)
    turned = copy_packets(
        whole, tmp_path / f"turned.{container}", with_unit_before(0, orientation_sei(codec, quarter_turns))
    )
    np.testing.assert_array_equal(read_all(turned), np.rot90(plain, quarter_turns, axes=(1, 2)))
