"""Clips of different splits whose middle frames look alike: found by hashes, reported by `check` and `prepare`."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from pipeline.cli import cli
from pipeline.manifest import Clip, read_manifest, write_manifest
from pipeline.prepare import middle_frames
from pipeline.prepare.difference_hash import difference_hash, stack_hashes
from pipeline.prepare.gestures.encode import write_frame_folder
from pipeline.prepare.look_alikes import MIN_SIMILARITY, look_alikes
from pipeline.prepare.middle_frames import hash_middle_frames, spread_clips
from tests.conftest import REPOSITORY


def scene(seed: int, height: int = 96, width: int = 144) -> np.ndarray:
    """Draw a picture with soft patches, as of a place: (H, W, 3)."""
    coarse = np.random.default_rng(seed).integers(0, 256, (8, 10, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))


def take(seed: int, position: int) -> np.ndarray:
    """Draw three frames of a place in which a small thing moves: (3, H, W, 3)."""
    frames = np.repeat(scene(seed)[None], 3, axis=0)
    for number in range(3):
        frames[number, 40:50, position + number : position + number + 8] = 255
    return frames


def similarity(first: np.ndarray, second: np.ndarray) -> float:
    vectors = stack_hashes([difference_hash(first), difference_hash(second)])
    return float(vectors[0] @ vectors[1])


def test_signs_are_those_of_a_difference_hash() -> None:
    picture = scene(0, 72, 144)
    grey = Image.fromarray(picture.mean(axis=2).astype(np.float32))
    right = np.diff(np.asarray(grey.resize((9, 8), Image.Resampling.BOX)), axis=1)
    down = np.diff(np.asarray(grey.resize((8, 9), Image.Resampling.BOX)), axis=0)
    expected = np.concatenate([right.ravel(), down.ravel()])
    (found,) = stack_hashes([difference_hash(picture)])
    np.testing.assert_allclose(found, expected / np.linalg.norm(expected), atol=2e-3)


def test_size_and_light_change_little_and_places_much() -> None:
    picture = scene(1)
    smaller = np.asarray(Image.fromarray(picture).resize((90, 60)))
    darker = (picture * 0.6 + 10).astype(np.uint8)
    assert similarity(picture, smaller) > MIN_SIMILARITY
    assert similarity(picture, darker) > MIN_SIMILARITY
    assert max(similarity(picture, scene(seed)) for seed in range(2, 40)) < 0.7


def test_plain_frames_have_no_hash() -> None:
    noise = np.random.default_rng(0).integers(0, 3, (96, 144, 3), dtype=np.uint8)
    assert difference_hash(noise) == b""
    assert difference_hash(np.zeros((2, 3, 3), np.uint8)) == b""
    assert difference_hash(np.random.default_rng(0).integers(0, 256, (2, 3, 3), dtype=np.uint8))


def test_the_pairs_are_those_of_comparing_all() -> None:
    generator = np.random.default_rng(3)
    vectors = generator.normal(size=(600, 128))
    # Copies with more and more noise, some of which stay above the threshold.
    vectors[300:] = vectors[:300] + generator.normal(size=(300, 128)) * np.linspace(0, 0.3, 300)[:, None]
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    splits = generator.choice(["train", "val", "test"], 600, p=[0.6, 0.2, 0.2])
    clips = [Clip(str(number), f"{number}.mp4", "up", str(split)) for number, split in enumerate(splits)]
    hash_of = {str(number): vector.astype(np.float16).tobytes() for number, vector in enumerate(vectors)}
    unit = stack_hashes(list(hash_of.values()))
    expected = set()
    for number in np.flatnonzero(splits != "train"):
        similar = np.where(splits != splits[number], unit @ unit[number], -1)
        if similar.max() > MIN_SIMILARITY:
            expected.add(frozenset((str(number), str(similar.argmax()))))
    pairs = look_alikes(clips, hash_of)
    assert len(expected) > 30
    assert {frozenset((pair.clip.clip_id, pair.other.clip_id)) for pair in pairs} == expected
    assert all(pair.clip.split != "train" for pair in pairs)
    in_groups = [dataclasses.replace(clip, group="g") for clip in clips]
    assert look_alikes(in_groups, hash_of) == []


@pytest.fixture
def clips(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Clips of two classes in eight places, two clips from each."""
    monkeypatch.chdir(tmp_path)
    for place in range(8):
        for part in "ab":
            label = "up" if place < 4 else "down"
            write_frame_folder(tmp_path / "clips" / label / f"{part}{chr(97 + place)}", take(place, ord(part) % 60))
    return tmp_path / "clips"


def test_check_reports_look_alikes(clips: Path, tmp_path: Path) -> None:
    rows = [Clip("a", "up/aa", "up", "train"), Clip("b", "up/ba", "up", "val"), Clip("c", "down/ae", "down", "val")]
    rows.append(Clip("d", "down/ah", "down", "train"))
    write_manifest(tmp_path / "m.csv", rows, ["up", "down"])
    command = ["check", "m.csv", "--root", str(clips)]
    result = CliRunner().invoke(cli, [*command, "--decode", "--workers", "0"])
    assert result.exit_code == 1
    assert "look-alike-in-splits: 1\n  b: The middle frames of a (train), b (val) look alike" in result.stdout
    assert "1 findings" in result.stderr
    # Without decoding, no frame is known.
    assert CliRunner().invoke(cli, command).exit_code == 0


def test_equal_clips_are_reported_once(clips: Path, tmp_path: Path) -> None:
    write_frame_folder(clips / "up" / "copy", take(0, ord("a") % 60))
    rows = [Clip("a", "up/aa", "up", "train"), Clip("b", "up/copy", "up", "val")]
    write_manifest(tmp_path / "m.csv", rows, ["up"])
    result = CliRunner().invoke(cli, ["check", "m.csv", "--root", str(clips), "--decode", "--workers", "0"])
    assert "two-splits: 1" in result.stdout
    assert "look-alike" not in result.stdout


def test_prepare_says_that_a_drawn_split_parts_look_alikes(clips: Path, tmp_path: Path) -> None:
    command = ["prepare", "folders", str(clips), "--out", "m.csv"]
    result = CliRunner().invoke(cli, command)
    assert result.exit_code == 0, result.output
    manifest = read_manifest(tmp_path / "m.csv", clips)
    split_of = {clip.clip_id: clip.split for clip in manifest.clips}
    places = {name[-1]: {split for clip, split in split_of.items() if clip[-1] == name[-1]} for name in split_of}
    num_parted = sum(len(splits) > 1 for splits in places.values())
    assert num_parted
    assert f"{num_parted} pairs of clips in different splits look alike" in result.stderr
    assert "--group-by" in result.stderr
    # The groups that the sentence asks for; the split is as it was drawn without them.
    grouped = CliRunner().invoke(cli, [*command, "--group-by", "(.)$"])
    assert grouped.exit_code == 0, grouped.output
    assert "look alike" not in grouped.stderr
    # A given split is as its author made it.
    write_frame_folder(tmp_path / "given/train/up/a", take(0, 3))
    write_frame_folder(tmp_path / "given/val/up/b", take(0, 30))
    given = CliRunner().invoke(cli, ["prepare", "folders", "given", "--out", "given.csv"])
    assert given.exit_code == 0, given.output
    assert "look alike" not in given.stderr


def test_a_clip_that_crashes_or_blocks_its_decoder_stops_no_comparison(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = os.pathsep.join((str(REPOSITORY / "tests" / "support" / "fatal_decoder"), str(REPOSITORY)))
    monkeypatch.setenv("PYTHONPATH", path)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0})
    for name in ("sound", "crash", "spin"):
        write_frame_folder(tmp_path / name, take(0, 3))
    of = {name: (name, str(tmp_path / name)) for name in ("sound", "crash", "spin", "missing")}
    assert list(hash_middle_frames([of["missing"], of["sound"], of["crash"]])) == ["sound"]
    assert list(hash_middle_frames([of["sound"], of["spin"]], max_seconds=10)) == ["sound"]


def test_many_clips_are_compared_in_runs_of_neighbours() -> None:
    many = [Clip(str(number), f"{number}.mp4", "up", "train") for number in range(7_001)]
    numbers = [int(clip.clip_id) for clip in spread_clips(many)]
    assert len(numbers) == len(set(numbers)) == middle_frames.MAX_CLIPS
    assert numbers[:20] == list(range(20))
    assert numbers[-20:] == list(range(6_981, 7_001))
    assert spread_clips(many[:2_000]) == many[:2_000]
