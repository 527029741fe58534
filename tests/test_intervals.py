"""Intervals of long videos: the frames of a clip that was cut there without loss, and errors for impossible ones."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from pipeline.errors import ClipError, PipelineError
from pipeline.extract.extract import extract_features
from pipeline.extract.provenance import digest_of
from pipeline.intervals import split_location
from pipeline.manifest import Manifest, read_manifest
from pipeline.prepare.findings import find
from pipeline.prepare.inspection import decode_clips
from pipeline.settings.extract import ExtractSettings
from pipeline.store.feature_store import FeatureStore
from pipeline.video import long_video
from pipeline.video.decode import open_clip
from pipeline.video.interval_reader import VideoInterval
from tests.support.long_videos import decoded, write_long_video, write_lossless

NUM_FRAMES, RATE = 110, 25
RANGES = [(0, 3), (3, 8), (24, 26), (25, 30), (40, 60), (99, 110), (10, 90)]


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_long_video(tmp_path_factory.mktemp("long") / "long.mp4", NUM_FRAMES)


@pytest.fixture(scope="module")
def pixels(video: Path) -> np.ndarray:
    """All frames as the pipeline reads them from the start."""
    with open_clip(video) as reader:
        return reader.read(range(reader.num_frames))


def manifest_of(folder: Path, rows: list[str], header: str = "clip_id,path,label,split,start,end") -> Manifest:
    path = folder / "clips.csv"
    path.write_text("\n".join([header, *rows]) + "\n")
    (folder / "clips.classes.csv").write_text("class_id,label\n0,a\n1,b\n")
    return read_manifest(path)


@pytest.mark.parametrize(
    "options", [{}, {"x264-params": "open-gop=1:bframes=3"}, {"name": "v.webm"}, {"name": "v.mkv"}]
)
def test_an_interval_has_the_frames_of_a_lossless_cut(tmp_path: Path, options: dict[str, str]) -> None:
    name = options.pop("name", "v.mp4") if options else "v.mp4"
    video = write_long_video(tmp_path / name, NUM_FRAMES, **options)
    for first, end in RANGES:
        frames = [frame for number, frame in enumerate(decoded(video)) if first <= number < end]
        cut = write_lossless(tmp_path / "cut.mkv", frames)
        with open_clip(cut) as whole, open_clip(f"{video}#frames={first},{end}") as part:
            assert isinstance(part, VideoInterval)
            assert (part.num_frames, part.height, part.width) == (end - first, whole.height, whole.width)
            np.testing.assert_array_equal(part.read(range(end - first)), whole.read(range(end - first)))
            # A second read, of some frames in any order.
            np.testing.assert_array_equal(part.read([end - first - 1, 0]), whole.read([end - first - 1, 0]))


def test_seconds_select_frames_exactly(video: Path, pixels: np.ndarray) -> None:
    times = [Fraction(number, RATE) for number in range(NUM_FRAMES)]
    for start, end in [("0", "0.12"), ("1", "1.2"), ("0.3996", "0.44"), ("1.001", "2.0"), ("4.2", "4.41")]:
        # By hand: a frame within half a millisecond of a bound counts as at it.
        wanted = [
            n
            for n, t in enumerate(times)
            if Fraction(start) <= t + Fraction(1, 2000) and t + Fraction(1, 2000) < Fraction(end)
        ]
        with open_clip(f"{video}#t={start},{end}") as part:
            np.testing.assert_array_equal(part.read(range(part.num_frames)), pixels[wanted])


def test_neighbouring_intervals_are_decoded_once(video: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seeks: list[int] = []
    seek = long_video.LongVideo._seek
    monkeypatch.setattr(
        long_video.LongVideo, "_seek", lambda self, ordinal: (seeks.append(ordinal), seek(self, ordinal))[1]
    )
    monkeypatch.setattr(long_video, "_idle", long_video._IdleVideos())
    for first, end in [(26, 30), (30, 34), (40, 44), (76, 80), (30, 31)]:
        with open_clip(f"{video}#frames={first},{end}") as part:
            part.read([0, end - first - 1])
    # A clip that begins in the group of the last one goes on; others begin at their key frame, also backwards. The
    # second use of a reader, here the read after the first frame, decodes its clip again.
    assert set(seeks) <= {25, 75}
    assert seeks.count(75) <= 2


def test_other_clips_have_intervals_too(tmp_path: Path, video: Path, pixels: np.ndarray) -> None:
    frames = [frame for number, frame in enumerate(decoded(video)) if number < 20]
    avi = write_lossless(tmp_path / "short.avi", frames)
    with open_clip(f"{avi}#t=0.2,0.4") as part:
        assert not isinstance(part, VideoInterval)
        np.testing.assert_array_equal(part.read([0, 4]), pixels[[5, 9]])
    folder = tmp_path / "frames"
    folder.mkdir()
    for number in range(6):
        frames[number].to_image().save(folder / f"{number:03d}.png")
    with open_clip(f"{folder}#frames=2,5") as part:
        np.testing.assert_array_equal(part.read([0, 2]), pixels[[2, 4]])
    with pytest.raises(ClipError, match="images have no rate"):
        open_clip(f"{folder}#t=1,2")


@pytest.mark.parametrize(
    ("fragment", "match"),
    [
        ("#frames=100,111", "outside its video, which has 110 frames in 4.40 s"),
        ("#t=4.4,4.5", "outside its video"),
        ("#t=4,4.6", "outside its video"),
        ("#t=1.01,1.03", "holds no frame: the nearest is at 1.040 s"),
        ("#t=2,1", "ends at 1, which is not after its start 2"),
        ("#t=2,2.0", "ends at 2.0, which is not after its start 2"),
        ("#frames=30,10", "ends at 10, which is not after its start 30"),
    ],
)
def test_an_interval_outside_its_video_is_a_bad_clip(video: Path, fragment: str, match: str) -> None:
    with pytest.raises(ClipError, match=match) as caught:
        open_clip(f"{video}{fragment}")
    assert caught.value.kind == "short"


@pytest.mark.parametrize(
    ("header", "rows", "match"),
    [
        ("start,end", ["2,1"], r"line 2: the interval ends at 1, which is not after its start 2"),
        ("start,end", ["1,1.0"], r"line 2: the interval ends at 1\.0"),
        ("start,end", ["1,"], r"line 2: the end '' of an interval must be a number of seconds .* both bounds"),
        ("start,end", ["-1,2"], r"the start '-1'"),
        ("start,end", ["nan,2"], r"the start 'nan'"),
        ("start,end,unit", ["1.5,2,frames"], r"the start '1\.5' .* must be a frame number"),
        ("start,end,unit", ["1,2,hours"], r"the unit 'hours' .* one of seconds, frames"),
        ("start,end,unit", ["1,2,", "1,2,frames"], r"line 3: the interval is in frames, .*line 2 in seconds"),
        ("start", ["1"], "has a column start alone"),
    ],
)  # fmt: skip
def test_impossible_intervals_name_their_line(tmp_path: Path, header: str, rows: list[str], match: str) -> None:
    lines = [f"c{number},long.mp4,a,train,{row}" for number, row in enumerate(rows)]
    with pytest.raises(PipelineError, match=match):
        manifest_of(tmp_path, lines, f"clip_id,path,label,split,{header}")


def test_a_manifest_gives_locations_of_intervals(tmp_path: Path) -> None:
    rows = ["c0,long.mp4,a,train,1,2.50,", "c1,other.mp4,b,val,,,", "c2,x.h5::m,b,val,0,3,seconds"]
    manifest = manifest_of(tmp_path, rows, "clip_id,path,label,split,start,end,unit")
    locations = [manifest.locate(clip) for clip in manifest.clips]
    root = str(tmp_path)
    assert locations == [f"{root}/long.mp4#t=1,2.50", f"{root}/other.mp4", f"{root}/x.h5::m#t=0,3"]
    assert split_location(locations[1]) == (locations[1], None)
    assert manifest.clips[0].extra == ("1", "2.50", "")


def test_features_are_those_of_cut_clips_and_follow_their_interval(tmp_path: Path, video: Path) -> None:
    frames = list(decoded(video))
    (tmp_path / "long.mp4").symlink_to(video)
    rows, cuts = [], []
    for number, (first, end) in enumerate([(0, 5), (26, 31), (31, 40)]):
        write_lossless(tmp_path / f"cut{number}.mkv", frames[first:end])
        rows.append(f"c{number},long.mp4,a,test,{first / RATE},{end / RATE}")
        cuts.append(f"c{number},cut{number}.mkv,a,test")
    rows.append("c9,long.mp4,b,test,4,9")
    options = {"weights": "random", "num_segments": 2, "maps": ("pooled",), "workers": 0, "dtype": "float32"}
    stores = []
    for name, manifest in (
        ("cut", manifest_of(tmp_path, cuts, "clip_id,path,label,split")), ("long", manifest_of(tmp_path, rows)),
    ):  # fmt: skip
        where = str(tmp_path / f"{name}.zarr")
        request = ExtractSettings(manifest=manifest.path, store=where, compile="eager", **options)  # type: ignore[arg-type]
        extract_features(manifest, where, request)
        stores.append(FeatureStore.open(where))
    of_cuts, of_video = stores
    clips = of_cuts.clips()
    np.testing.assert_array_equal(
        of_cuts.read_pooled("test", [clip.row for clip in clips]),
        of_video.read_pooled("test", [clip.row for clip in of_video.clips()]),
    )
    (bad,) = [clip for clip in of_video.table() if clip.status == "failed"]
    assert (bad.clip_id, bad.kind) == ("c9", "short")
    assert "outside its video" in bad.reason
    # Another interval of the same file is another clip; the others are kept.
    rows[0] = "c0,long.mp4,a,test,1,1.2"
    request = ExtractSettings(manifest=manifest.path, store=where, compile="eager", **options)  # type: ignore[arg-type]
    assert extract_features(manifest_of(tmp_path, rows), where, request).num_computed == 1
    assert digest_of(f"{video}#t=1,2") == digest_of(str(video)) + "#t=1,2"


def test_check_reads_intervals(tmp_path: Path, video: Path) -> None:
    (tmp_path / "long.mp4").symlink_to(video)
    rows = ["c0,long.mp4,a,train,0,1", "c1,long.mp4,b,train,1,2", "c2,long.mp4,b,train,1,2", "c3,long.mp4,b,train,4,9"]
    manifest = manifest_of(tmp_path, rows)
    seen = {found.clip_id: found for found in decode_clips([(c.clip_id, manifest.locate(c)) for c in manifest.clips])}
    assert (seen["c0"].num_frames, seen["c0"].rate) == (25, 25.0)
    kinds = {(finding.kind, finding.clip_id) for finding in find(manifest, seen)}
    assert kinds == {("duplicate", "c2"), ("short", "c3")}
