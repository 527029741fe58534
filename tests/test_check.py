"""`pipeline check`: each kind of damage is found in clips made for it, and a sound data set has none."""

from __future__ import annotations

import csv
import resource
import time
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

from pipeline.cli import cli
from pipeline.manifest import Clip, read_manifest, write_manifest
from pipeline.prepare.gestures.encode import write_frame_folder, write_video
from pipeline.prepare.packing import pack


def frames(seed: int, num_frames: int = 5) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (num_frames, 32, 48, 3), dtype=np.uint8)


def check(tmp_path: Path, *arguments: str) -> Result:
    return CliRunner().invoke(cli, ["check", str(tmp_path / "m.csv"), *arguments], catch_exceptions=False)


def findings(tmp_path: Path) -> list[tuple[str, str]]:
    with open(tmp_path / "f.csv", encoding="utf-8", newline="") as file:
        return [(row["kind"], row["clip_id"]) for row in csv.DictReader(file)]


@pytest.fixture(autouse=True)
def without_params(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("workers", ["0", "1"])
def test_a_sound_data_set_has_no_findings(tmp_path: Path, workers: str) -> None:
    write_video(tmp_path / "a.webm", frames(0, 7), fps=12)
    write_frame_folder(tmp_path / "b", frames(1))
    write_frame_folder(tmp_path / "folder", frames(2))
    pack(tmp_path / "p.h5", [("c", tmp_path / "folder")])
    clips = [
        Clip("a", "a.webm", "up", "train", ("7",)),
        Clip("b", "b", "up", "val", ("5",)),
        Clip("c", "p.h5::c", "", "test", ("",)),
    ]
    write_manifest(tmp_path / "m.csv", clips, ["up"], ["num_frames"])
    result = check(tmp_path, "--decode", "--workers", workers, "--out", "f.csv")
    assert result.exit_code == 0, result.output
    assert findings(tmp_path) == []
    assert "Decoded 3 clips, 17 frames." in result.stdout
    assert "Frames per clip: 5 to 7, median 5." in result.stdout
    assert "48×32 (3)" in result.stdout
    assert "unknown (2), 12 (1)" in result.stdout
    assert "No problem was found." in result.stdout
    assert result.stdout.splitlines()[2:6] == [
        "class       train  val  test",
        "up              1    1     0",
        "(no label)      0    0     1",
        "all             1    1     1",
    ]


def test_everything_that_is_wrong_is_found(tmp_path: Path) -> None:
    write_video(tmp_path / "a.webm", frames(0, 6), fps=12)
    whole = (tmp_path / "a.webm").read_bytes()
    (tmp_path / "again.webm").write_bytes(whole)
    (tmp_path / "other-label.webm").write_bytes(whole)
    (tmp_path / "val.webm").write_bytes(whole)
    (tmp_path / "cut.webm").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "empty.webm").write_bytes(b"")
    (tmp_path / "text.webm").write_bytes(b"not a video at all, only text")
    write_frame_folder(tmp_path / "gap", frames(1))
    (tmp_path / "gap" / "00003.jpg").unlink()
    write_frame_folder(tmp_path / "jpgs", frames(2))
    pack(tmp_path / "p.h5", [("jpgs", tmp_path / "jpgs")])
    rows = [
        ("a", "a.webm", "up", "train", "9"),
        ("again", "again.webm", "up", "train", ""),
        ("label", "other-label.webm", "down", "train", ""),
        ("val", "val.webm", "up", "val", ""),
        ("cut", "cut.webm", "up", "train", ""),
        ("empty", "empty.webm", "up", "train", ""),
        ("text", "text.webm", "up", "train", ""),
        ("gone", "gone.webm", "up", "train", ""),
        ("gap", "gap", "up", "train", ""),
        ("jpgs", "jpgs", "up", "train", ""),
        ("packed", "p.h5::jpgs", "up", "val", ""),
        ("packed-gone", "p.h5::nothing", "up", "val", ""),
    ]
    write_manifest(tmp_path / "m.csv", [Clip(*row[:4], row[4:]) for row in rows], ["up", "down"], ["num_frames"])
    result = check(tmp_path, "--decode", "--workers", "0", "--out", "f.csv")
    assert result.exit_code == 1
    assert sorted(findings(tmp_path)) == sorted(
        [
            ("frame-count", "a"),
            ("duplicate", "again"),
            ("two-labels", "label"),
            ("two-splits", "val"),
            ("truncated", "cut"),
            ("empty", "empty"),
            ("unreadable", "text"),
            ("missing", "gone"),
            ("frame-gap", "gap"),
            ("two-splits", "packed"),  # the same images as the folder, packed
            ("missing", "packed-gone"),
            ("class-missing", ""),
        ]
    )
    assert "a.webm has 6 frames, but 9 in the manifest." in result.stdout
    assert "No clip of the class 'down' is in the split val." in result.stdout
    assert "12 findings in" in result.stderr
    assert "Traceback" not in result.output


def test_without_decoding_only_files_and_the_manifest_are_looked_at(tmp_path: Path) -> None:
    (tmp_path / "text.webm").write_bytes(b"no video")
    (tmp_path / "empty.webm").write_bytes(b"")
    clips = [
        Clip("a", "text.webm", "up", "train"),
        Clip("b", "text.webm", "up", "val"),
        Clip("c", "empty.webm", "up", "train"),
        Clip("d", "none.webm", "up", "train"),
    ]
    write_manifest(tmp_path / "m.csv", clips, ["up"])
    result = check(tmp_path, "--out", "f.csv")
    assert result.exit_code == 1
    assert findings(tmp_path) == [("empty", "c"), ("missing", "d"), ("two-splits", "b")]
    assert "The clips a and b have the same path: splits train and val." in result.stdout
    assert "Decoded" not in result.stdout


@pytest.mark.slow
def test_as_many_clips_as_something_something_has_take_seconds(tmp_path: Path) -> None:
    num_clips = 220_847
    videos = tmp_path / "20bn-something-something-v2"
    videos.mkdir()
    labels = [f"Doing something {index}" for index in range(174)]
    splits = {"train": 168_913, "validation": 24_777, "test": 27_157}
    (tmp_path / "labels").mkdir()
    quoted = ", ".join(f'"{label}": "{index}"' for index, label in enumerate(labels))
    (tmp_path / "labels" / "labels.json").write_text("{" + quoted + "}")
    number = 0
    for split, count in splits.items():
        ids = range(number, number + count)
        template = "" if split == "test" else ', "template": "Doing [something] {}"'
        rows = ",".join(f'{{"id": "{i}"{template.format(i % 174)}}}' for i in ids)
        (tmp_path / "labels" / f"{split}.json").write_text(f"[{rows}]")
        number += count
    for clip in range(num_clips):
        (videos / f"{clip}.webm").touch()
    before_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    seconds = {}
    started = time.monotonic()
    result = CliRunner().invoke(cli, ["prepare", "something-v2", str(tmp_path), "--out", str(tmp_path / "m.csv")])
    assert result.exit_code == 0, result.output
    assert "were published" not in result.stderr
    seconds["prepare"] = time.monotonic() - started
    started = time.monotonic()
    manifest = read_manifest(tmp_path / "m.csv", tmp_path)
    seconds["read"] = time.monotonic() - started
    assert len(manifest.clips) == num_clips
    started = time.monotonic()
    result = check(tmp_path, "--root", str(tmp_path), "--out", "f.csv")
    seconds["check"] = time.monotonic() - started
    assert "empty: 220,847" in result.stdout
    grown_mib = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before_kib) / 1024
    figures = ", ".join(f"{name} {value:.1f} s" for name, value in seconds.items()) + f", {grown_mib:.0f} MiB"
    (tmp_path / "figures.txt").write_text(figures)
    assert max(seconds.values()) < 60, figures
    assert grown_mib < 800, figures
