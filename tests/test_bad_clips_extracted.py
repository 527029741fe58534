"""Clips of all kinds in one extraction: each has the features of its frames, or a reason; the run ends well."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from PIL import Image

from pipeline.backbones import build_backbone
from pipeline.extract.extract import ExtractionSummary, extract_features
from pipeline.manifest import Clip, read_manifest, write_manifest
from pipeline.prepare.gestures.encode import write_frame_folder, write_video
from pipeline.store import FeatureStore
from pipeline.store.verify import find_corruption
from tests.support.run_stages import extract, extract_settings
from tests.test_bad_clips import damage_one_packet, lose_one_packet, small_frames, write_sound
from tests.test_decode import plain_decode, write_in_two_sizes, write_turned
from tests.test_extraction import arrays_of

T = 2
PixelsOrKind = np.ndarray | str
"""What a clip must come to: its frames (L, H, W, 3), found without our decoder, or the kind of its failure."""
Maker = Callable[[Path], PixelsOrKind]


def video(codec: str, pixel_format: str = "yuv420p", **options: str) -> Maker:
    def make(path: Path) -> PixelsOrKind:
        write_video(path, small_frames(), 12, codec, pixel_format=pixel_format, options=options)
        return plain_decode(path)

    return make


def of_size(num_frames: int, height: int, width: int) -> Maker:
    def make(path: Path) -> PixelsOrKind:
        frames = np.random.default_rng(0).integers(0, 256, (num_frames, height, width, 3), dtype=np.uint8)
        write_video(path, frames)
        return plain_decode(path)

    return make


def cut(codec: str, fraction: float, kind: str) -> Maker:
    """A file that was cut off after its first part."""

    def make(path: Path) -> PixelsOrKind:
        write_video(path, small_frames(), 12, codec, pixel_format="rgb8" if codec == "gif" else "yuv420p")
        data = path.read_bytes()
        path.write_bytes(data[: int(len(data) * fraction)])
        return kind

    return make


def holding(data: bytes, kind: str) -> Maker:
    def make(path: Path) -> PixelsOrKind:
        path.write_bytes(data)
        return kind

    return make


def nowhere(path: Path) -> PixelsOrKind:
    return "missing"


def sound(path: Path) -> PixelsOrKind:
    write_sound(path)
    return "no-video"


def two_sizes(path: Path) -> PixelsOrKind:
    write_in_two_sizes(path)
    return "size-change"


def damaged_packet(path: Path) -> PixelsOrKind:
    write_video(path.with_name("whole.mp4"), small_frames(), 12, "libx264")
    damage_one_packet(path.with_name("whole.mp4"), path, 4)
    return "corrupt"


def lost_packet(path: Path) -> PixelsOrKind:
    write_video(path.with_name("whole.webm"), small_frames())
    lose_one_packet(path.with_name("whole.webm"), path, 4)
    return "corrupt"


def turned(path: Path) -> PixelsOrKind:
    write_turned(path, 90, hflip=False, vflip=False)
    return np.rot90(plain_decode(path), 1, axes=(1, 2))


def uneven_times(path: Path) -> PixelsOrKind:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("ffv1", rate=30)
        stream.width, stream.height, stream.pix_fmt = 56, 40, "bgr0"
        for pixels, time in zip(small_frames(), [0, 1, 2, 30, 31, 90, 91, 92, 300, 301], strict=True):
            frame = av.VideoFrame.from_ndarray(pixels).reformat(format="bgr0")
            frame.pts, frame.time_base = time, Fraction(1, 30)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return small_frames()  # ffv1 loses nothing


def misnamed(path: Path) -> PixelsOrKind:
    write_video(path.with_suffix(".webm"), small_frames())
    path.with_suffix(".webm").rename(path)
    return plain_decode(path)


def still(path: Path) -> PixelsOrKind:
    Image.fromarray(small_frames()[0]).save(path)
    return small_frames()[:1]


def folder(path: Path) -> PixelsOrKind:
    write_frame_folder(path, small_frames())
    return np.stack([np.asarray(Image.open(frame)) for frame in sorted(path.iterdir())])


def folder_with_a_gap(path: Path) -> PixelsOrKind:
    write_frame_folder(path, small_frames())
    (path / "00005.jpg").unlink()
    return "frame-gap"


def folder_with_a_cut_frame(path: Path) -> PixelsOrKind:
    write_frame_folder(path, small_frames())
    # One that is looked at: of a folder, other frames are not read.
    (path / "00003.jpg").write_bytes((path / "00003.jpg").read_bytes()[:-200])
    return "corrupt"


def empty_folder(path: Path) -> PixelsOrKind:
    path.mkdir()
    return "empty"


MAKERS: dict[str, Maker] = {
    "missing.webm": nowhere,
    "zero_bytes.webm": holding(b"", "empty"),
    "text.webm": holding(b"hello\n" * 100, "unreadable"),
    "playlist.m3u8": holding(b"#EXTM3U\n#EXTINF:1,\nvp9.webm\n", "unreadable"),
    "sound.mp4": sound,
    "cut_at_a_tenth.webm": cut("libvpx-vp9", 0.1, "truncated"),
    "cut_in_half.webm": cut("libvpx-vp9", 0.5, "truncated"),
    "cut_near_its_end.webm": cut("libvpx-vp9", 0.97, "truncated"),
    "cut_in_half.mp4": cut("libx264", 0.5, "truncated"),
    "cut_near_its_end.mp4": cut("libx264", 0.97, "truncated"),
    "cut_in_half.avi": cut("mpeg4", 0.5, "truncated"),
    "cut_in_half.gif": cut("gif", 0.5, "truncated"),
    "two_sizes.webm": two_sizes,
    "damaged_packet.mp4": damaged_packet,
    "lost_packet.webm": lost_packet,
    "gap": folder_with_a_gap,
    "cut_frame": folder_with_a_cut_frame,
    "empty_folder": empty_folder,
    "vp9.webm": video("libvpx-vp9"),
    "hidden_frames.webm": video("libvpx-vp9", **{"lag-in-frames": "16", "auto-alt-ref": "1", "deadline": "good"}),
    "one_frame.webm": of_size(1, 40, 56),
    "odd_size.webm": of_size(4, 33, 17),
    "one_pixel.webm": of_size(3, 1, 1),
    "turned.mp4": turned,
    "grey.mp4": video("libx264", "gray"),
    "ten_bits.mkv": video("libx264", "yuv420p10le"),
    "alpha.webm": video("libvpx-vp9", "yuva420p", **{"auto-alt-ref": "0"}),
    "animated.gif": video("gif", "rgb8"),
    "wrong_suffix.jpg": misnamed,
    "uneven_times.mkv": uneven_times,
    "still.png": still,
    "frames": folder,
}


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> dict[str, PixelsOrKind]:
    """What each clip must come to; the clips lie beside the manifest `m.csv`."""
    root = tmp_path_factory.mktemp("clips")
    found = {str(root / name): make(root / name) for name, make in MAKERS.items()}
    clips = [Clip(name, name, "wave", "train" if number % 2 else "val") for number, name in enumerate(MAKERS)]
    write_manifest(root / "m.csv", clips, ["wave"])
    return found


def run(manifest: Path, location: Path) -> ExtractionSummary:
    return extract(
        manifest=manifest,
        store=location,
        weights="random",
        num_segments=T,
        views=0,
        dtype="float32",
        compile="eager",
        workers=0,
    )


def maps_of(frames: np.ndarray) -> torch.Tensor:
    """The features of the test view, worked out by hand: the middle of each half, the centre, resized.

    Shape:
        frames:  (L, H, W, 3), uint8.
        returns: (T, C, h, w)
    """
    num_frames, height, width, _ = frames.shape
    side = min(height, width) * 0.875
    left, top = (width - side) / 2, (height - side) / 2
    chosen = [int(num_frames * (2 * segment + 1) / (2 * T)) for segment in range(T)]
    resized = [
        Image.fromarray(frames[index]).resize(
            (224, 224), Image.Resampling.BILINEAR, (left, top, left + side, top + side)
        )
        for index in chosen
    ]
    pixels = torch.from_numpy(np.stack([np.asarray(image) for image in resized])).permute(0, 3, 1, 2)
    backbone, _ = build_backbone("squeezenet", "random", seed=0)
    with torch.no_grad():
        return backbone.eval()(pixels)


def test_every_clip_has_the_features_of_its_frames_or_its_reason(
    expected: dict[str, PixelsOrKind], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = Path(next(iter(expected))).parent
    summary = run(root / "m.csv", tmp_path / "s.zarr")
    said = capsys.readouterr().out
    store = FeatureStore.open(tmp_path / "s.zarr")
    assert summary.num_clips == store.num_clips == len(expected)
    assert find_corruption(store) == []

    kinds = {Path(path).name: kind for path, kind in expected.items() if isinstance(kind, str)}
    assert {clip.clip_id: clip.kind for clip in summary.failed} == kinds
    assert {clip.clip_id for clip in store.table() if clip.status == "failed"} == set(kinds)
    for clip in summary.failed:
        assert clip.path in clip.reason  # as the manifest has it, in every copy of the data
        assert str(root) not in clip.reason
    for kind, count in Counter(kinds.values()).items():
        assert f"Failed, {kind}: {count}\n" in said + "\n"

    done = {clip.clip_id: clip for clip in store.clips()}
    assert set(done) | set(kinds) == set(MAKERS)
    for path, frames in expected.items():
        if isinstance(frames, str):
            continue
        clip = done[Path(path).name]
        assert (clip.num_frames, clip.height, clip.width) == frames.shape[:3], path
        maps = maps_of(frames)
        stored = torch.from_numpy(store.read_spatial("test", clip.row)).float().permute(0, 3, 1, 2)
        torch.testing.assert_close(stored, maps, rtol=2e-3, atol=2e-4, msg=lambda text, path=path: f"{path}: {text}")
        pooled = torch.from_numpy(store.read_pooled("test", [clip.row])[0]).float()
        torch.testing.assert_close(pooled, maps.mean((2, 3)), rtol=2e-3, atol=2e-4)
    again = run(root / "m.csv", tmp_path / "s.zarr")
    assert (again.num_computed, len(again.failed)) == (0, len(kinds))


def test_threads_that_decode_ahead_come_to_the_same(expected: dict[str, PixelsOrKind], tmp_path: Path) -> None:
    manifest = read_manifest(Path(next(iter(expected))).parent / "m.csv")
    tables = []
    for threads in (0, 4):
        request = extract_settings(
            weights="random",
            num_segments=T,
            views=1,
            maps=("pooled",),
            dtype="float32",
            compile="eager",
            workers=0,
            decode_threads=threads,
        )
        extract_features(manifest, str(tmp_path / f"{threads}.zarr"), request)
        tables.append(FeatureStore.open(tmp_path / f"{threads}.zarr").table())
    assert tables[0] == tables[1]
    assert arrays_of(tmp_path / "0.zarr") == arrays_of(tmp_path / "4.zarr")
