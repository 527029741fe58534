"""Damaged clips: each is decoded as a plain full decode does it, or refused as a ClipError; nothing else, no hang."""

from __future__ import annotations

import contextlib
import random
import time
from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np
import pytest

from pipeline.errors import ClipError
from pipeline.prepare.gestures.encode import write_frame_folder, write_video
from pipeline.prepare.packing import pack
from pipeline.video.decode import open_clip

KINDS = ("webm", "mp4", "avi", "gif", "jpg", "h5")
CODEC_OF_KIND = {"webm": "libvpx-vp9", "mp4": "libx264", "avi": "mpeg4", "gif": "gif"}
MAX_SECONDS = 20.0


def small_frames() -> np.ndarray:
    rows = np.arange(10)[:, None, None] * 9 + np.arange(40)[None, :, None] * 3 + np.arange(56)[None, None, :]
    return np.stack([rows % 256, (rows * 2) % 256, 255 - rows % 256], axis=-1).astype(np.uint8)


@pytest.fixture(scope="module")
def intact(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One small clip of each kind: the file to be damaged."""
    folder = tmp_path_factory.mktemp("intact")
    paths = {}
    for kind, codec in CODEC_OF_KIND.items():
        paths[kind] = folder / f"clip.{kind}"
        pixel_format = "rgb8" if kind == "gif" else "yuv420p"
        write_video(paths[kind], small_frames(), 12, codec, pixel_format=pixel_format)
    write_frame_folder(folder / "frames", small_frames())
    paths["jpg"] = folder / "frames" / "00004.jpg"
    paths["h5"] = folder / "clip.h5"
    pack(paths["h5"], [("clip", folder / "frames")])
    return paths


def damaged_copies(data: bytes, seed: int, count: int) -> Iterator[tuple[str, bytes]]:
    """Copies cut short, with bytes flipped, a stretch overwritten, or a stretch taken out."""
    draw = random.Random(seed)
    for number in range(count):
        place = draw.randrange(1, len(data))
        stretch = draw.randrange(1, 40)
        if number % 4 == 0:
            yield f"cut at {place}", data[:place]
        elif number % 4 == 1:
            copy = bytearray(data)
            for _ in range(draw.choice((1, 3, 30))):
                copy[draw.randrange(len(copy))] ^= 1 << draw.randrange(8)
            yield "flipped", bytes(copy)
        elif number % 4 == 2:
            yield f"overwritten at {place}", data[:place] + draw.randbytes(stretch) + data[place + stretch :]
        else:
            yield f"taken out at {place}", data[:place] + data[place + stretch :]


def plain_decodes(path: Path) -> list[np.ndarray]:
    """What a plain decode gives; in each of the eight orientations where the damage made up a display matrix."""
    with av.open(str(path), metadata_errors="ignore") as container:
        frames = list(container.decode(video=0))
    pixels = np.stack([frame.to_ndarray(format="rgb24") for frame in frames])
    if "DISPLAYMATRIX" not in frames[0].side_data:
        return [pixels]
    return [np.rot90(side, turns, axes=(1, 2)) for side in (pixels, pixels[:, :, ::-1]) for turns in range(4)]


def check_damaged(kind: str, intact: dict[str, Path], folder: Path, seed: int, count: int) -> dict[str, int]:
    """Decode damaged copies; returns how many were decoded and how many refused."""
    outcomes = {"decoded": 0, "refused": 0, "cut and decoded": 0}
    if kind == "jpg":
        write_frame_folder(folder / "frames", small_frames())
        path, location = folder / "frames" / "00004.jpg", str(folder / "frames")
    else:
        path = folder / f"damaged.{kind}"
        location = f"{path}::clip" if kind == "h5" else str(path)
    for what, data in damaged_copies(intact[kind].read_bytes(), seed, count):
        path.write_bytes(data)
        started_at = time.monotonic()
        try:
            with open_clip(location) as reader:
                frames = reader.read(range(reader.num_frames))
        except ClipError as error:
            outcomes["refused"] += bool(error.kind) and str(path.parent) in str(error)
        else:
            outcomes["decoded"] += 1
            outcomes["cut and decoded"] += what.startswith("cut")
            if kind in CODEC_OF_KIND:
                assert any(np.array_equal(frames, expected) for expected in plain_decodes(path)), what
            else:
                assert len(frames) == 10, what
        assert time.monotonic() - started_at < MAX_SECONDS, what
    assert outcomes["decoded"] + outcomes["refused"] == count  # every refusal has a kind and names the place
    return outcomes


@pytest.mark.parametrize("kind", KINDS)
def test_damaged_copies_are_decoded_as_plainly_or_refused(kind: str, intact: dict[str, Path], tmp_path: Path) -> None:
    outcomes = check_damaged(kind, intact, tmp_path, seed=1, count=24)
    assert outcomes["refused"] >= 6  # at least those that were cut short
    assert outcomes["cut and decoded"] == 0


@pytest.mark.slow
@pytest.mark.parametrize("seed", [2, 3, 4])
@pytest.mark.parametrize("kind", KINDS)
def test_hundreds_of_damaged_copies(kind: str, seed: int, intact: dict[str, Path], tmp_path: Path) -> None:
    outcomes = check_damaged(kind, intact, tmp_path, seed, count=400)
    assert outcomes["cut and decoded"] <= (1 if kind == "gif" else 0)  # only the byte behind a GIF's last can be spared


@pytest.mark.slow
@pytest.mark.shared
@pytest.mark.parametrize("seed", [5, 6])
def test_damaged_copies_of_real_clips(shared: Path, seed: int, tmp_path: Path) -> None:
    clips = sorted((shared / "clips" / "arms").glob("*/*.mp4"))[::17]
    for number, clip in enumerate(clips):
        outcomes = check_damaged("mp4", {"mp4": clip}, tmp_path, 100 * seed + number, count=40)
        assert outcomes["cut and decoded"] == 0


@pytest.mark.parametrize("kind", ["webm", "mp4", "gif", "avi"])
def test_a_video_cut_anywhere_is_never_shorter_in_silence(kind: str, intact: dict[str, Path], tmp_path: Path) -> None:
    data = intact[kind].read_bytes()
    with open_clip(intact[kind]) as reader:
        whole = np.stack(reader.read(range(reader.num_frames)))
    num_read = 0
    for place in range(0, len(data) - 1, max(1, len(data) // 60)):
        (tmp_path / "cut").write_bytes(data[:place])
        with contextlib.suppress(ClipError), open_clip(tmp_path / "cut") as reader:
            # Only the index behind the frames of an AVI is cut.
            np.testing.assert_array_equal(np.stack(reader.read(range(reader.num_frames))), whole)
            num_read += 1
    assert num_read <= (2 if kind == "avi" else 0)


def expect(kind: str, location: Path | str, *words: str) -> None:
    with pytest.raises(ClipError) as caught, open_clip(location) as reader:
        reader.read([0])
    assert caught.value.kind == kind
    for word in (str(location), *words):
        assert word in str(caught.value)


def test_what_is_no_clip_at_all(tmp_path: Path) -> None:
    expect("missing", tmp_path / "nowhere.webm", "does not exist")
    (tmp_path / "empty.webm").touch()
    expect("empty", tmp_path / "empty.webm")
    for name in ("text.webm", "text.txt", "text.ans"):
        (tmp_path / name).write_text("hello\n" * 100)
        expect("unreadable", tmp_path / name)
    (tmp_path / "list.m3u8").write_text("#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nclip.webm\n")
    expect("unreadable", tmp_path / "list.m3u8")
    (tmp_path / "list.ffconcat").write_text("ffconcat version 1.0\nfile clip.webm\n")
    expect("unreadable", tmp_path / "list.ffconcat")


def write_sound(path: Path) -> None:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=44100)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 44100), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 44100
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def test_sound_alone_is_no_video(tmp_path: Path) -> None:
    write_sound(tmp_path / "sound.mp4")
    expect("no-video", tmp_path / "sound.mp4")


def damage_one_packet(source: Path, target: Path, number: int) -> None:
    """Overwrite the packet of frame `number` in place, the container left whole."""
    with av.open(str(source)) as container:
        packets = [bytes(packet) for packet in container.demux(video=0) if packet.size]
    data = source.read_bytes()
    start = data.index(packets[number])
    noise = random.Random(0).randbytes(len(packets[number]) - 5)
    target.write_bytes(data[: start + 5] + noise + data[start + len(packets[number]) :])


def lose_one_packet(source: Path, target: Path, number: int) -> None:
    """Put zeros in the place of packet `number`, the container left whole."""
    with av.open(str(source)) as container:
        packet = next(bytes(packet) for index, packet in enumerate(container.demux(video=0)) if index == number)
    target.write_bytes(source.read_bytes().replace(packet, b"\0" * len(packet)))


def test_a_damaged_packet_in_the_middle_of_h264_is_corrupt(intact: dict[str, Path], tmp_path: Path) -> None:
    damage_one_packet(intact["mp4"], tmp_path / "damaged.mp4", 4)
    expect("corrupt", tmp_path / "damaged.mp4")


def test_a_lost_packet_in_the_middle_of_vp9_is_corrupt(intact: dict[str, Path], tmp_path: Path) -> None:
    lose_one_packet(intact["webm"], tmp_path / "lost.webm", 4)
    expect("corrupt", tmp_path / "lost.webm")
