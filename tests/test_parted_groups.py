"""Groups of clips: found in paths, kept together by drawn splits, and reported where splits part them."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from pipeline.errors import PipelineError
from pipeline.intervals import Interval
from pipeline.manifest import Clip, Manifest, read_manifest
from pipeline.prepare.findings import find
from pipeline.prepare.groups import parted_recordings
from pipeline.prepare.inspection import Inspected
from pipeline.settings.prepare import PrepareSettings
from stages import prepare


def clips_of(names: dict[str, str], **changes: str) -> list[Clip]:
    return [Clip(name, f"{name}.mp4", "wave", split, **changes) for name, split in names.items()]


def write_people(root: Path) -> None:
    for label in ("wave", "nod"):
        for person in range(10):
            for take in range(3):
                path = root / label / f"person{person:02d}_take{take}.mp4"
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(b"\0")


def test_folders_are_split_by_groups_of_their_paths(tmp_path: Path) -> None:
    write_people(tmp_path / "clips")
    out = tmp_path / "m.csv"
    prepare.run(PrepareSettings(dataset="folders", root=tmp_path / "clips", out=out, group_by=r"(person\d+)_"))
    manifest = read_manifest(out, tmp_path / "clips")
    sides = {(clip.group, clip.split) for clip in manifest.clips}
    assert {group for group, _ in sides} == {f"person{n:02d}" for n in range(10)}
    assert len(sides) == 10
    assert sum(split == "val" for _, split in sides) == 2  # a fifth of 10 persons
    # The same file again, with the groups read from it.
    assert manifest.extra_columns == ("group",)


def test_without_groups_prepare_says_that_a_recording_is_parted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_people(tmp_path / "clips")
    prepare.run(PrepareSettings(dataset="folders", root=tmp_path / "clips", out=tmp_path / "m.csv"))
    assert "recordings, going by the names of the clips, have clips in several splits" in caplog.text
    assert "--group-by" in caplog.text


@pytest.mark.parametrize(
    ("pattern", "match"), [("(", "not a regular expression"), (r"actor(\d+)", r"finds no group in nod/person00_take0")]
)
def test_patterns_that_find_nothing(tmp_path: Path, pattern: str, match: str) -> None:
    write_people(tmp_path / "clips")
    settings = PrepareSettings(dataset="folders", root=tmp_path / "clips", out=tmp_path / "m.csv", group_by=pattern)
    with pytest.raises(PipelineError, match=match):
        prepare.run(settings)


def test_check_finds_parted_groups_and_recordings(tmp_path: Path) -> None:
    names = {"a": "train", "b": "val", "c": "train"}
    with_groups = [dataclasses.replace(clip, group=group) for clip, group in zip(clips_of(names), "xxy", strict=True)]
    manifest = Manifest(tmp_path / "m.csv", tmp_path, tuple(with_groups), ("wave",))
    findings = find(manifest, {name: Inspected(name) for name in names})
    assert [(f.kind, f.text) for f in findings] == [("group-in-splits", "The group x has a in train, b in val.")]


def test_names_of_one_recording() -> None:
    names = {f"walk_g{g:02d}_c{c:02d}": "val" if c == 2 else "train" for g in range(4) for c in range(3)}
    parted = parted_recordings(clips_of(names))
    assert [name for name, _ in parted] == [f"walk_g{g:02d}_c" for g in range(4)]
    # Groups, if there are any, say what belongs together.
    assert parted_recordings(clips_of(names, group="all")) == []


@pytest.mark.parametrize("name", ["{:05d}", "clip{:03d}", "swipe-left-{}", "cam1_{:04d}"])
def test_numbered_clips_are_no_recordings(name: str) -> None:
    assert parted_recordings(clips_of({name.format(n): "val" if n % 2 else "train" for n in range(20)})) == []


def test_intervals_of_one_video_are_one_recording() -> None:
    clips = clips_of({"a": "train", "b": "val"})
    bounds = {"a": Interval("1", "2", "seconds"), "b": Interval("2", "3", "seconds")}
    parts = [dataclasses.replace(clip, path="long.mp4", interval=bounds[clip.clip_id]) for clip in clips]
    assert [name for name, _ in parted_recordings(parts)] == ["long.mp4"]
