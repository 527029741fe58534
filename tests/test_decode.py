"""Every kind of clip through the one door, against a plain decode of the whole clip."""

from __future__ import annotations

import itertools
import multiprocessing
from fractions import Fraction
from pathlib import Path

import av
import h5py
import numpy as np
import pytest
from PIL import Image

from pipeline.errors import ClipError, PipelineError
from pipeline.manifest import read_manifest
from pipeline.prepare.gestures.encode import encode_jpg, write_frame_folder, write_video
from pipeline.prepare.packing import pack
from pipeline.video import video_file
from pipeline.video.decode import open_clip
from pipeline.video.shown_frames import shown_in_vp8, shown_in_vp9


def drawn_frames(num_frames: int = 12, height: int = 48, width: int = 64) -> np.ndarray:
    """Frames that are all different and not symmetrical."""
    frames = np.full((num_frames, height, width, 3), 60, np.uint8)
    frames[:, : height // 3, : width // 2, 0] = 230
    for index in range(num_frames):
        frames[index, height // 2 :, (2 * index) % width : (2 * index) % width + 12] = (20, 200, 20 * index % 256)
    return frames


def plain_decode(path: Path | str) -> np.ndarray:
    with av.open(str(path)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


def read_all(location: Path | str) -> np.ndarray:
    with open_clip(location) as reader:
        frames = reader.read(range(reader.num_frames))
        assert frames.dtype == np.uint8
        assert frames.shape == (reader.num_frames, reader.height, reader.width, 3)
    return frames


def kind_of_failure(location: Path | str, *words: str) -> str:
    with pytest.raises(ClipError) as caught:
        read_all(location)
    for word in words:
        assert word in str(caught.value)
    return caught.value.kind


# Video files ---------------------------------------------------------------------------------------------------------

KINDS = {
    "vp9": ("clip.webm", "libvpx-vp9", "yuv420p", {}),
    "vp9 with hidden frames": (
        "clip.webm",
        "libvpx-vp9",
        "yuv420p",
        {"lag-in-frames": "16", "auto-alt-ref": "1", "deadline": "good", "cpu-used": "5"},
    ),
    "vp9 of full chroma": ("clip.webm", "libvpx-vp9", "yuv444p", {"profile": "1"}),
    "vp9 with alpha": ("clip.webm", "libvpx-vp9", "yuva420p", {"auto-alt-ref": "0"}),
    "h264 with b-frames": ("clip.mp4", "libx264", "yuv420p", {"bf": "3"}),
    "h264 grey": ("clip.mp4", "libx264", "gray", {}),
    "h264 of 10 bits": ("clip.mkv", "libx264", "yuv420p10le", {}),
    "h264 interlaced": ("clip.mp4", "libx264", "yuv420p", {"x264-params": "tff=1"}),
    "h265": ("clip.mp4", "libx265", "yuv420p", {"x265-params": "log-level=none:pools=1"}),
    "mpeg4 in avi": ("clip.avi", "mpeg4", "yuv420p", {}),
    "ffv1": ("clip.mkv", "ffv1", "bgra", {}),
    "gif": ("clip.gif", "gif", "rgb8", {}),
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_video_gives_the_frames_of_a_plain_decode(tmp_path: Path, kind: str) -> None:
    name, codec, pixel_format, options = KINDS[kind]
    frames = drawn_frames(30)
    write_video(tmp_path / name, frames, 12, codec, pixel_format=pixel_format, options=options)
    decoded = read_all(tmp_path / name)
    assert len(decoded) == 30
    assert (decoded == plain_decode(tmp_path / name)).all()
    if kind not in ("h264 grey", "gif"):  # without colours, or dithered
        assert np.abs(decoded.astype(int) - frames).mean() < 12


@pytest.fixture
def vp9_clip(tmp_path: Path) -> Path:
    write_video(tmp_path / "clip.webm", drawn_frames())
    return tmp_path / "clip.webm"


def test_any_order_and_doubles_are_allowed_and_a_reader_can_read_again(vp9_clip: Path) -> None:
    whole = plain_decode(vp9_clip)
    with open_clip(vp9_clip) as reader:
        for indices in ([5], [11, 0, 5, 5, 0], np.array([1, 2, 3]), [], range(12)):
            frames = reader.read(indices)
            assert frames.shape == (len(indices), 48, 64, 3)
            assert (frames == whole[list(indices)]).all()


@pytest.mark.parametrize("index", [-1, 12])
def test_a_frame_outside_the_clip_is_refused(vp9_clip: Path, index: int) -> None:
    with open_clip(vp9_clip) as reader, pytest.raises(ClipError, match="12 frames") as caught:
        reader.read([0, index])
    assert caught.value.kind == "short"


@pytest.mark.parametrize("suffix", [".jpg", ".txt", ".mp4", ".h5", "", ".png"])
def test_the_content_decides_not_the_suffix(vp9_clip: Path, suffix: str) -> None:
    renamed = vp9_clip.rename(vp9_clip.with_name("renamed" + suffix))
    assert (read_all(renamed) == plain_decode(renamed)).all()


@pytest.mark.parametrize("name", ["clip: one.webm", "pipe:0", "a'b %d é.webm", "-i.webm", "concat:x|y"])
def test_a_name_is_only_a_name(vp9_clip: Path, name: str) -> None:
    assert len(read_all(vp9_clip.rename(vp9_clip.with_name(name)))) == 12


def test_one_frame_is_a_clip(tmp_path: Path) -> None:
    write_video(tmp_path / "one.webm", drawn_frames(1))
    assert read_all(tmp_path / "one.webm").shape == (1, 48, 64, 3)


@pytest.mark.parametrize("size", [(1, 1), (17, 33), (101, 57)])
def test_odd_sizes(tmp_path: Path, size: tuple[int, int]) -> None:
    write_video(tmp_path / "odd.webm", drawn_frames(3, *size))
    assert read_all(tmp_path / "odd.webm").shape == (3, *size, 3)


def write_turned(path: Path, degrees: float, hflip: bool, vflip: bool) -> None:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        stream.set_display_rotation(degrees, hflip, vflip)
        for frame in drawn_frames(2):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame)))
        container.mux(stream.encode(None))


@pytest.mark.parametrize("vflip", [False, True])
@pytest.mark.parametrize("hflip", [False, True])
@pytest.mark.parametrize("quarter_turns", [0, 1, 2, 3])
def test_the_rotation_of_the_display_is_applied(tmp_path: Path, quarter_turns: int, hflip: bool, vflip: bool) -> None:
    write_turned(tmp_path / "turned.mp4", 90 * quarter_turns, hflip, vflip)
    # A quarter turn against the clock, as PyAV and FFmpeg count, then the mirroring.
    expected = np.rot90(plain_decode(tmp_path / "turned.mp4"), quarter_turns, axes=(1, 2))
    expected = expected[:, :: -1 if vflip else 1, :: -1 if hflip else 1]
    decoded = read_all(tmp_path / "turned.mp4")
    assert decoded.shape == ((2, 64, 48, 3) if quarter_turns % 2 else (2, 48, 64, 3))
    assert (decoded == expected).all()


def test_frames_at_uneven_times_are_counted_one_by_one(tmp_path: Path) -> None:
    frames = drawn_frames(9)
    with av.open(str(tmp_path / "uneven.mkv"), "w") as container:
        stream = container.add_stream("ffv1", rate=30)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "bgr0"
        for index, time in enumerate([0, 1, 2, 30, 31, 90, 91, 92, 300]):
            frame = av.VideoFrame.from_ndarray(frames[index]).reformat(format="bgr0")
            frame.pts, frame.time_base = time, Fraction(1, 30)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    assert (read_all(tmp_path / "uneven.mkv") == frames).all()  # ffv1 loses nothing


def write_in_two_sizes(path: Path) -> None:
    """A WebM file whose second half is smaller: packets of another file behind those of the first."""
    write_video(path.with_name("large.webm"), drawn_frames(5))
    write_video(path.with_name("small.webm"), drawn_frames(5, 24, 32))
    with (
        av.open(str(path.with_name("large.webm"))) as large,
        av.open(str(path.with_name("small.webm"))) as small,
        av.open(str(path), "w") as container,
    ):
        stream = container.add_stream_from_template(large.streams.video[0])
        for index, packet in enumerate(itertools.chain(large.demux(video=0), small.demux(video=0))):
            if packet.size:
                packet.stream, packet.pts, packet.dts = stream, 83 * index, 83 * index
                container.mux(packet)


def test_frames_of_changing_size_are_refused_with_both_sizes(tmp_path: Path) -> None:
    write_in_two_sizes(tmp_path / "clip.webm")
    assert kind_of_failure(tmp_path / "clip.webm", "32×24", "64×48") == "size-change"


def test_a_vp8_frame_that_is_not_shown_is_not_counted(tmp_path: Path) -> None:
    # libvpx stores VP8's alternate reference in a separate packet. Bit 4 of its first byte is the flag "show".
    assert [shown_in_vp8(memoryview(bytes([byte]))) for byte in (0b00010000, 0b00000000, 0b00110001)] == [1, 0, 1]


def test_frames_inside_a_vp9_packet_are_counted_by_their_first_bits() -> None:
    shown, hidden, repeat = b"\x82", b"\x80", b"\x88"
    assert [shown_in_vp9(memoryview(packet + b"\0\0")) for packet in (shown, hidden, repeat)] == [1, 0, 1]
    assert shown_in_vp9(memoryview(b"\xb1\0")) == 1  # profile 3 has one more bit before them
    marker = b"\xc9"  # an index of two frames, two bytes for each size
    index = marker + (3).to_bytes(2, "little") + (2).to_bytes(2, "little") + marker
    assert shown_in_vp9(memoryview(hidden + b"ab" + shown + b"c" + index)) == 1
    assert shown_in_vp9(memoryview(shown + b"ab" + shown + b"c" + index)) == 2


def test_packets_of_a_long_clip_are_not_kept(vp9_clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = plain_decode(vp9_clip)
    monkeypatch.setattr(video_file, "MAX_KEPT_BYTES", 1000)
    with open_clip(vp9_clip) as reader:
        assert reader.num_frames == 12
        assert (reader.read([3, 11]) == whole[[3, 11]]).all()
        assert (reader.read([0]) == whole[[0]]).all()


def test_a_clip_that_changes_its_count_while_decoding_is_refused(
    vp9_clip: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(video_file, "count_by_packets", lambda *_: lambda packet: 2)
    assert kind_of_failure(vp9_clip, "24 frames", "12") == "corrupt"


def test_no_frame_threads(vp9_clip: Path) -> None:
    with open_clip(vp9_clip) as reader:
        assert isinstance(reader, video_file.VideoFile)
        context = reader._stream.codec_context
        assert context.thread_type.name == "NONE"
        assert context.thread_count == 1


@pytest.mark.shared
@pytest.mark.parametrize("name", ["bikes.mp4", "bigbuckbunny.mp4", "carphone_pristine.mp4"])
def test_longer_real_videos(shared: Path, name: str) -> None:
    path = shared / "clips" / name
    with av.open(str(path)) as container:
        frames = {}
        for index, frame in enumerate(container.decode(video=0)):
            if index in (0, 57, 100):
                frames[index] = frame.to_ndarray(format="rgb24")
    with open_clip(path) as reader:
        assert reader.num_frames == index + 1
        for wanted, pixels in zip(sorted(frames), reader.read(sorted(frames)), strict=True):
            assert (pixels == frames[wanted]).all()


@pytest.mark.shared
def test_the_real_clips_have_the_frames_of_an_independent_count(shared: Path) -> None:
    manifest = read_manifest(shared / "clips" / "arms" / "arms.csv")
    for clip in manifest.clips[::4]:
        location = manifest.locate(clip)
        assert (read_all(location) == plain_decode(location)).all()


# Folders of frames ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("template", "first_number"),
    [("{:05d}.jpg", 1), ("{:05d}.jpg", 0), ("img_{:06d}.jpg", 1), ("{}.JPG", 1), ("frame 3-{:02d}.Jpeg", 0)],
)
def test_a_folder_in_any_template_gives_its_frames_in_order(tmp_path: Path, template: str, first_number: int) -> None:
    write_frame_folder(tmp_path / "clip", drawn_frames(), template, first_number=first_number)
    paths = [tmp_path / "clip" / template.format(first_number + index) for index in range(12)]
    by_pillow = np.stack([np.asarray(Image.open(path)) for path in paths])
    assert (read_all(tmp_path / "clip") == by_pillow).all()
    with open_clip(tmp_path / "clip") as reader:
        assert (reader.read([9, 0, 9]) == by_pillow[[9, 0, 9]]).all()


def save_numbered(folder: Path, *images: Image.Image, suffixes: tuple[str, ...] = (".png",)) -> None:
    folder.mkdir()
    for number, (image, suffix) in enumerate(zip(images, itertools.cycle(suffixes), strict=False), start=1):
        image.save(folder / f"{number:03d}{suffix}")


def test_images_of_every_kind_become_rgb(tmp_path: Path) -> None:
    colours = Image.fromarray(drawn_frames(1)[0])
    images = {
        "png": (colours, ".png"),
        "alpha": (colours.convert("RGBA"), ".png"),
        "palette": (colours.quantize(16), ".png"),
        "grey": (colours.convert("L"), ".png"),
        "bmp": (colours, ".BMP"),
        "tiff": (colours, ".tif"),
    }
    for name, (image, suffix) in images.items():
        save_numbered(tmp_path / name, image, suffixes=(suffix,))
        assert (read_all(tmp_path / name)[0] == np.asarray(image.convert("RGB"))).all()


def test_jpgs_of_cameras_and_printers(tmp_path: Path) -> None:
    colours = Image.fromarray(drawn_frames(1)[0])
    for name, image in {"grey": colours.convert("L"), "cmyk": colours.convert("CMYK")}.items():
        save_numbered(tmp_path / name, image, suffixes=(".jpg",))
        by_pillow = np.asarray(Image.open(tmp_path / name / "001.jpg").convert("RGB"))
        assert (read_all(tmp_path / name)[0] == by_pillow).all()


def test_sixteen_bits_are_scaled_not_cut_off(tmp_path: Path) -> None:
    grey = np.arange(256, dtype=np.uint16).reshape(16, 16) * 257
    save_numbered(tmp_path / "deep", Image.fromarray(grey))
    assert (read_all(tmp_path / "deep")[0, :, :, 1] == np.arange(256).reshape(16, 16)).all()


def test_suffixes_may_be_mixed_and_other_files_lie_about(tmp_path: Path) -> None:
    images = [Image.fromarray(frame) for frame in drawn_frames(4)]
    save_numbered(tmp_path / "clip", *images, suffixes=(".jpg", ".PNG"))
    for name in ("Thumbs.db", ".00001.jpg", "notes.txt"):
        (tmp_path / "clip" / name).write_text("no frame")
    assert len(read_all(tmp_path / "clip")) == 4


def test_the_content_of_an_image_decides_not_its_suffix(tmp_path: Path) -> None:
    save_numbered(tmp_path / "clip", Image.fromarray(drawn_frames(1)[0]))
    (tmp_path / "clip" / "001.png").rename(tmp_path / "clip" / "001.jpg")
    assert (read_all(tmp_path / "clip") == drawn_frames(1)).all()


@pytest.mark.parametrize(("removed", "missing"), [("00005.jpg", "number 5"), ("00001.jpg", "number 1")])
def test_a_gap_is_named(tmp_path: Path, removed: str, missing: str) -> None:
    write_frame_folder(tmp_path / "clip", drawn_frames())
    (tmp_path / "clip" / removed).unlink()
    assert kind_of_failure(tmp_path / "clip", missing, "up to 12") == "frame-gap"


def test_a_number_twice_is_named(tmp_path: Path) -> None:
    write_frame_folder(tmp_path / "clip", drawn_frames())
    (tmp_path / "clip" / "5.jpg").write_bytes((tmp_path / "clip" / "00005.jpg").read_bytes())
    assert kind_of_failure(tmp_path / "clip", "00005.jpg", "5.jpg") == "frame-twice"


@pytest.mark.parametrize("extra", ["cover.jpg", "other_00001.jpg"])
def test_an_image_of_another_template_is_named(tmp_path: Path, extra: str) -> None:
    write_frame_folder(tmp_path / "clip", drawn_frames())
    (tmp_path / "clip" / extra).write_bytes((tmp_path / "clip" / "00001.jpg").read_bytes())
    assert kind_of_failure(tmp_path / "clip", extra) == "frame-name"


def test_frames_of_different_sizes_in_a_folder_are_refused(tmp_path: Path) -> None:
    write_frame_folder(tmp_path / "clip", drawn_frames())
    (tmp_path / "clip" / "00007.jpg").write_bytes(encode_jpg(drawn_frames(1, 24, 32)[0]))
    assert kind_of_failure(tmp_path / "clip", "00007.jpg", "32×24", "64×48") == "size-change"


@pytest.mark.parametrize(
    ("content", "kind"), [(b"", "empty"), (b"no image at all", "unreadable"), (b"\xff\xd8\xff", "unreadable")]
)
def test_a_frame_that_is_no_image_is_named(tmp_path: Path, content: bytes, kind: str) -> None:
    write_frame_folder(tmp_path / "clip", drawn_frames())
    (tmp_path / "clip" / "00007.jpg").write_bytes(content)
    assert kind_of_failure(tmp_path / "clip", "00007.jpg") == kind


@pytest.mark.parametrize("suffix", [".jpg", ".png"])
def test_a_truncated_image_is_never_filled_up(tmp_path: Path, suffix: str) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8)
    save_numbered(tmp_path / "clip", Image.fromarray(noise), suffixes=(suffix,))
    path = tmp_path / "clip" / f"001{suffix}"
    path.write_bytes(path.read_bytes()[:-200])
    assert kind_of_failure(tmp_path / "clip", path.name) == "corrupt"


def test_a_folder_without_images_is_empty(tmp_path: Path) -> None:
    (tmp_path / "clip").mkdir()
    assert kind_of_failure(tmp_path / "clip") == "empty"


def test_a_still_image_is_a_clip_of_one_frame(tmp_path: Path) -> None:
    for name in ("still.png", "still.webm", "still.bmp"):
        Image.fromarray(drawn_frames(1)[0]).save(tmp_path / name, format="BMP" if name.endswith("bmp") else "PNG")
        assert (read_all(tmp_path / name) == drawn_frames(1)).all()


# Packed in HDF5 ------------------------------------------------------------------------------------------------------


@pytest.fixture
def folders(tmp_path: Path) -> list[tuple[str, Path]]:
    names = [f"class {index % 2}/{index:05d}" for index in range(5)]
    for index, name in enumerate(names):
        write_frame_folder(tmp_path / "frames" / name, drawn_frames(3 + index))
    return [(name, tmp_path / "frames" / name) for name in names]


def test_packed_clips_are_the_folders_they_were(tmp_path: Path, folders: list[tuple[str, Path]]) -> None:
    seen: list[str] = []
    summary = pack(tmp_path / "packed.h5", folders, on_clip=seen.append)
    assert (summary.num_packed, summary.num_already_there, summary.failed) == (5, 0, {})
    assert seen == [name for name, _ in folders]
    for name, folder in folders:
        assert (read_all(f"{tmp_path / 'packed.h5'}::{name}") == read_all(folder)).all()
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["frames", "packed.h5"]


def test_a_packed_file_can_be_read_with_h5py_alone(tmp_path: Path, folders: list[tuple[str, Path]]) -> None:
    pack(tmp_path / "packed.h5", folders)
    with h5py.File(tmp_path / "packed.h5") as file:
        data = file["class 1/00003"]
        sizes = data.attrs["frame_sizes"]
        starts = np.cumsum(sizes) - sizes
        images = [data[start : start + size].tobytes() for start, size in zip(starts, sizes, strict=True)]
    files = sorted(folders[3][1].iterdir())
    assert images == [file.read_bytes() for file in files]


def test_packing_goes_on_where_it_was(tmp_path: Path, folders: list[tuple[str, Path]]) -> None:
    def stop_at_the_third(name: str) -> None:
        if name == folders[2][0]:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pack(tmp_path / "packed.h5", folders, clips_a_part=2, on_clip=stop_at_the_third)
    assert not (tmp_path / "packed.h5").exists()
    summary = pack(tmp_path / "packed.h5", folders, clips_a_part=2)
    assert (summary.num_packed, summary.num_already_there) == (3, 2)
    pack(tmp_path / "whole.h5", folders)
    with h5py.File(tmp_path / "packed.h5") as stopped, h5py.File(tmp_path / "whole.h5") as whole:
        for name, _ in folders:
            assert (stopped[name][()] == whole[name][()]).all()


def test_further_clips_are_added_to_a_packed_file(tmp_path: Path, folders: list[tuple[str, Path]]) -> None:
    pack(tmp_path / "packed.h5", folders[:2])
    summary = pack(tmp_path / "packed.h5", folders)
    assert (summary.num_packed, summary.num_already_there) == (3, 2)
    assert len(read_all(f"{tmp_path / 'packed.h5'}::{folders[4][0]}")) == 7


def test_a_bad_folder_is_left_out_with_its_reason(tmp_path: Path, folders: list[tuple[str, Path]]) -> None:
    (folders[1][1] / "00002.jpg").unlink()
    summary = pack(tmp_path / "packed.h5", folders)
    assert summary.num_packed == 4
    assert {name: error.kind for name, error in summary.failed.items()} == {folders[1][0]: "frame-gap"}
    assert kind_of_failure(f"{tmp_path / 'packed.h5'}::{folders[1][0]}") == "missing"


def test_two_packings_of_one_file_are_refused(tmp_path: Path, folders: list[tuple[str, Path]]) -> None:
    def pack_again(name: str) -> None:
        with pytest.raises(PipelineError, match="Another process"):
            pack(tmp_path / "packed.h5", folders)

    assert pack(tmp_path / "packed.h5", folders, on_clip=pack_again).num_packed == 5


def test_names_that_hdf5_cannot_hold_are_refused(tmp_path: Path, folders: list[tuple[str, Path]]) -> None:
    for name in ("", "a//b", "../a", "/a"):
        with pytest.raises(PipelineError, match="clip name"):
            pack(tmp_path / "packed.h5", [(name, folders[0][1])])
    with pytest.raises(PipelineError, match="folder of another"):
        pack(tmp_path / "other.h5", [("a", folders[0][1]), ("a/b", folders[1][1])])


def test_rows_of_variable_length_are_read_too(tmp_path: Path) -> None:
    frames = drawn_frames(4)
    with h5py.File(tmp_path / "rows.h5", "w") as file:
        rows = file.create_dataset("clip", 4, h5py.vlen_dtype(np.uint8))
        for index, frame in enumerate(frames):
            rows[index] = np.frombuffer(encode_jpg(frame), np.uint8)
    write_frame_folder(tmp_path / "clip", frames)
    assert (read_all(f"{tmp_path / 'rows.h5'}::clip") == read_all(tmp_path / "clip")).all()


def test_what_is_wrong_in_a_packed_file_is_named(tmp_path: Path, folders: list[tuple[str, Path]]) -> None:
    path = tmp_path / "packed.h5"
    pack(path, folders)
    with h5py.File(path, "a") as file:
        file["numbers"] = np.zeros(3)
        file["none"] = np.zeros(0, np.uint8)
        file["none"].attrs["frame_sizes"] = np.zeros(0, np.int32)
        file["sum"] = np.zeros(5, np.uint8)
        file["sum"].attrs["frame_sizes"] = [3, 3]
        file["noise"] = np.arange(100, dtype=np.uint8)
        file["noise"].attrs["frame_sizes"] = [100]
    kinds = {"numbers": "unreadable", "none": "empty", "sum": "corrupt", "noise": "unreadable", "nowhere": "missing"}
    for name, kind in {**kinds, "class 0": "unreadable", "": "missing"}.items():
        assert kind_of_failure(f"{path}::{name}", str(path)) == kind
    (tmp_path / "text.h5").write_text("no HDF5")
    assert kind_of_failure(f"{tmp_path / 'text.h5'}::a") == "unreadable"
    assert kind_of_failure(f"{tmp_path / 'absent.h5'}::a") == "missing"


def count_frames(location: str) -> int:
    return len(read_all(location))


def test_packed_clips_are_read_in_many_processes(tmp_path: Path, folders: list[tuple[str, Path]]) -> None:
    pack(tmp_path / "packed.h5", folders)
    locations = [f"{tmp_path / 'packed.h5'}::{name}" for name, _ in folders]
    with open_clip(locations[0]), multiprocessing.get_context("spawn").Pool(2) as pool:
        assert pool.map(count_frames, locations) == [3, 4, 5, 6, 7]
