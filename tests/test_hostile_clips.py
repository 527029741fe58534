"""A hostile entry of a manifest costs a run only that clip, and each run gives the same reason."""

from __future__ import annotations

import hashlib
import io
import os
import socket
import struct
import time
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
from PIL import Image

from pipeline.errors import ClipError
from pipeline.extract.provenance import digest_of, state_of
from pipeline.manifest import Clip, read_manifest, write_manifest
from pipeline.prepare.gestures.encode import encode_jpg, write_frame_folder, write_video
from pipeline.prepare.inspection import decode_clips, stat_clips
from pipeline.store import FeatureStore
from pipeline.video import video_decoder
from pipeline.video.decode import open_clip
from pipeline.video.limits import ClipLimits
from tests.support.oddities import pictures, write_clip
from tests.support.run_stages import extract

MAX_SECONDS = 20.0


def huge_jpg() -> bytes:
    data = bytearray(encode_jpg(pictures(1)[0]))
    place = data.find(b"\xff\xc0")
    data[place + 5 : place + 9] = struct.pack(">HH", 65500, 65500)
    return bytes(data)


def huge_png() -> bytes:
    buffer = io.BytesIO()
    Image.new("1", (30000, 30000)).save(buffer, "PNG")
    return buffer.getvalue()


def folder_of(*frames: bytes) -> Callable[[Path], str]:
    def make(path: Path) -> str:
        path.mkdir()
        for number, frame in enumerate(frames, 1):
            (path / f"{number}.jpg").write_bytes(frame)
        return path.name

    return make


def holding(data: bytes) -> Callable[[Path], str]:
    def make(path: Path) -> str:
        path.write_bytes(data)
        return path.name

    return make


def pipe(path: Path) -> str:
    os.mkfifo(path)
    return path.name


def pipe_as_hdf5(path: Path) -> str:
    return f"{pipe(path)}::clip"


def socket_file(path: Path) -> str:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
    return path.name


def device(path: Path) -> str:
    path.symlink_to("/dev/zero")
    return path.name


def loop(path: Path) -> str:
    path.symlink_to(path)
    return path.name


def empty_folder(path: Path) -> str:
    path.mkdir()
    return path.name


def folder_with_a_pipe(path: Path) -> str:
    write_frame_folder(path, pictures(3))
    (path / "00001.jpg").unlink()
    os.mkfifo(path / "00001.jpg")
    return path.name


def folder_below_a_file(path: Path) -> str:
    path.write_bytes(b"x")
    return f"{path.name}/frames"


def hdf5(build: Callable[[h5py.File], object]) -> Callable[[Path], str]:
    def make(path: Path) -> str:
        with h5py.File(path, "w") as file:
            build(file)
        return f"{path.name}::clip"

    return make


def sparse(file: h5py.File) -> None:
    data = file.create_dataset("clip", shape=(1 << 44,), dtype=np.uint8, chunks=(1 << 20,))
    data.attrs["frame_sizes"] = np.array([1 << 43, 1 << 43], np.int64)


def many_rows(file: h5py.File) -> None:
    file.create_dataset("clip", shape=(1 << 44,), dtype=h5py.vlen_dtype(np.uint8), chunks=(1 << 16,))


def huge_image(file: h5py.File) -> None:
    data = file.create_dataset("clip", shape=(520 << 20,), dtype=np.uint8, chunks=(1 << 24,))
    data.attrs["frame_sizes"] = np.array([520 << 20], np.int64)


def negative_sizes(file: h5py.File) -> None:
    file["clip"] = np.zeros(10, np.uint8)
    file["clip"].attrs["frame_sizes"] = [-5, 15]


def sizes_in_words(file: h5py.File) -> None:
    file["clip"] = np.zeros(10, np.uint8)
    file["clip"].attrs["frame_sizes"] = "ten"


def link_within(file: h5py.File) -> None:
    file["clip"] = h5py.SoftLink("/clip")


Maker = Callable[[Path], str]
HOSTILE: dict[str, tuple[Maker, str]] = {
    "pipe.mp4": (pipe, "unreadable"),
    "pipe.h5": (pipe_as_hdf5, "unreadable"),
    "socket.mp4": (socket_file, "unreadable"),
    "device.mp4": (device, "unreadable"),
    "loop.mp4": (loop, "missing"),
    "folder.mp4": (empty_folder, "empty"),
    "folder_with_a_pipe": (folder_with_a_pipe, "unreadable"),
    "below_a_file.mp4": (folder_below_a_file, "missing"),
    "zero_byte": (lambda path: "a\0b.mp4", "missing"),
    "long_name": (lambda path: "n" * 5000 + ".mp4", "unreadable"),
    "huge_jpg": (folder_of(*[huge_jpg()] * 8), "too-large"),
    "huge.jpg": (holding(huge_jpg()), "too-large"),
    "huge.png": (holding(huge_png()), "too-large"),
    "no_image": (folder_of(b"no image at all"), "unreadable"),
    "sparse.h5": (hdf5(sparse), "too-large"),
    "many_rows.h5": (hdf5(many_rows), "too-large"),
    "huge_image.h5": (hdf5(huge_image), "too-large"),
    "negative.h5": (hdf5(negative_sizes), "corrupt"),
    "words.h5": (hdf5(sizes_in_words), "unreadable"),
    "text.h5": (hdf5(lambda file: file.create_dataset("clip", data="text")), "unreadable"),
    "texts.h5": (hdf5(lambda file: file.create_dataset("clip", data=["a", "b"])), "unreadable"),
    "number.h5": (hdf5(lambda file: file.create_dataset("clip", data=3)), "unreadable"),
    "group.h5": (hdf5(lambda file: file.create_group("clip")), "unreadable"),
    "link.h5": (hdf5(link_within), "unreadable"),
    "no_hdf5.h5": (lambda path: holding(b"text")(path) + "::clip", "unreadable"),
}


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("hostile")
    write_video(root / "sound.webm", pictures(6))
    paths = {name: make(root / name) for name, (make, _) in HOSTILE.items()}
    clips = [Clip(name, path, "up", "train") for name, path in paths.items()] + [
        Clip("sound", "sound.webm", "up", "train")
    ]
    write_manifest(root / "m.csv", clips, ["up"])
    return root / "m.csv"


def digest_or_kind(location: str) -> str:
    try:
        return digest_of(location)
    except ClipError as error:
        return error.kind


@pytest.mark.parametrize("name", HOSTILE)
def test_each_is_refused_at_once_with_its_kind(name: str, manifest: Path) -> None:
    read = read_manifest(manifest)
    clip = next(clip for clip in read.clips if clip.clip_id == name)
    location, kind = read.locate(clip), HOSTILE[name][1]
    started_at_seconds = time.monotonic()
    state_of(location)
    with pytest.raises(ClipError) as caught, open_clip(location) as reader:
        reader.read([0])
    assert caught.value.kind == kind
    assert " at 0x" not in str(caught.value)
    (seen,) = decode_clips([(name, location)])
    assert (seen.kind, seen.reason) == (kind, str(caught.value))
    assert stat_clips([(name, location)])[0].kind in ("", kind, "missing", "unreadable")
    digest = digest_or_kind(location)
    assert digest in ("", kind) or len(digest) == 64
    assert time.monotonic() - started_at_seconds < MAX_SECONDS


def test_a_run_over_all_of_them_ends_counts_each_and_says_the_same_twice(manifest: Path, tmp_path: Path) -> None:
    records = []
    for name in ("one", "two"):
        summary = extract(
            manifest=manifest,
            store=tmp_path / f"{name}.zarr",
            weights="random",
            num_segments=2,
            views=0,
            dtype="float32",
            compile="eager",
            workers=0,
        )
        assert {clip.clip_id: clip.kind for clip in summary.failed} == {key: kind for key, (_, kind) in HOSTILE.items()}
        store = FeatureStore.open(tmp_path / f"{name}.zarr")
        assert [clip.clip_id for clip in store.clips()] == ["sound"]
        records.append([(clip.clip_id, clip.kind, clip.reason, clip.digest) for clip in store.table()])
    assert records[0] == records[1]


@pytest.mark.skipif(not Path("/proc/version").exists(), reason="needs /proc, whose files have content and no size")
@pytest.mark.parametrize("make", ["link", "frames"])
def test_a_file_without_an_end_is_empty(tmp_path: Path, make: str) -> None:
    if make == "link":
        location = tmp_path / "clip.mp4"
        location.symlink_to("/proc/version")
    else:
        location = tmp_path / "frames"
        write_frame_folder(location, pictures(2))
        (location / "00003.jpg").symlink_to("/proc/version")
    assert digest_of(str(location)) == digest_of(str(location))
    with pytest.raises(ClipError, match="is empty") as caught, open_clip(location) as reader:
        reader.read(range(reader.num_frames))
    assert caught.value.kind == "empty"
    if make == "link":
        assert digest_of(str(location)) == hashlib.sha256(b"").hexdigest()
        with pytest.raises(ClipError, match="is empty"):
            open_clip(f"{location}::clip")


def test_rows_of_variable_length_have_one_digest(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "rows.h5", "w") as file:
        rows = file.create_dataset("clip", 3, h5py.vlen_dtype(np.uint8))
        for index, frame in enumerate(pictures(3)):
            rows[index] = np.frombuffer(encode_jpg(frame), np.uint8)
    location = f"{tmp_path / 'rows.h5'}::clip"
    before = digest_of(location)
    padding = [bytearray(1000 + number) for number in range(1000)]  # other addresses in memory
    assert digest_of(location) == before
    assert len(padding) == 1000
    with h5py.File(tmp_path / "rows.h5", "a") as file:
        file["clip"][1] = np.frombuffer(b"other", np.uint8)
    assert digest_of(location) != before


@pytest.mark.parametrize("kind", ["video", "frames", "moving", "packed"])
@pytest.mark.parametrize(
    ("limits", "words"),
    [
        (ClipLimits(max_pixels=1000), "64×48 pixels, more than the 1,000 of --max-clip-pixels"),
        (ClipLimits(max_bytes=100), "bytes"),
        (ClipLimits(max_seconds=0), "--max-clip-seconds"),
    ],
)
def test_limits_hold_for_clips_of_every_kind(tmp_path: Path, kind: str, limits: ClipLimits, words: str) -> None:
    images = [Image.fromarray(frame) for frame in pictures(3)]
    if kind == "video":
        location: Path | str = write_clip(tmp_path / "clip.mp4", "h264")
    elif kind == "frames":
        write_frame_folder(tmp_path / "clip", pictures(3))
        location = tmp_path / "clip"
    elif kind == "moving":
        location = tmp_path / "clip.webp"
        images[0].save(location, save_all=True, append_images=images[1:])
    else:
        with h5py.File(tmp_path / "p.h5", "w") as file:
            data = b"".join(encode_jpg(frame) for frame in pictures(1))
            file["clip"] = np.frombuffer(data, np.uint8)
            file["clip"].attrs["frame_sizes"] = [len(data)]
        location = f"{tmp_path / 'p.h5'}::clip"
    with open_clip(location) as reader:
        reader.read([0])
    with pytest.raises(ClipError) as caught, open_clip(location, limits) as reader:
        reader.read([0])
    assert caught.value.kind == "too-large"
    assert words in str(caught.value)


def test_the_time_between_frames_does_not_count(tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "clip.mp4", "h264")
    with open_clip(clip, ClipLimits(max_seconds=0.5)) as reader:
        for _ in reader.stream(range(12)):
            time.sleep(0.06)


def test_a_demuxer_that_does_not_come_back_is_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clip = write_clip(tmp_path / "clip.mp4", "h264")
    opened = []

    def slow(*arguments: object, **options: object) -> object:
        opened.append(options["timeout"])
        raise video_decoder.av.ExitError(1, "Immediate exit requested")

    monkeypatch.setattr(video_decoder.av, "open", slow)
    with pytest.raises(ClipError, match="--max-clip-seconds") as caught, open_clip(clip, ClipLimits(max_seconds=7)):
        pass
    assert caught.value.kind == "too-large"
    assert opened == [7]
