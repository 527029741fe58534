"""The drawn demo clips: the same pixels each time, and a label that only the order of frames tells."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from pipeline.errors import PipelineError
from pipeline.manifest import classes_path, read_manifest
from pipeline.prepare.gestures import data_set as module
from pipeline.prepare.gestures.backgrounds import HELD_OUT_KINDS, KINDS, TRAIN_KINDS
from pipeline.prepare.gestures.data_set import GestureSettings, draw_clip, draw_gesture, list_clips, write_gestures
from pipeline.prepare.gestures.hands import HandLook, HandPose
from pipeline.prepare.gestures.motion import GESTURES, Gesture, draw_poses
from pipeline.prepare.gestures.seeding import generator_for
from tests.support.run_stages import prepare

SMALL = GestureSettings(train_clips=1, val_clips=1, width=64, height=48, min_frames=8, max_frames=12)
PAIRS = sorted({gesture.pair for gesture in GESTURES} - {""})


def pair_of(name: str) -> tuple[Gesture, Gesture]:
    """Both members of a pair: the one that plays the path forwards, and the one that plays it backwards."""
    forwards, backwards = sorted((g for g in GESTURES if g.pair == name), key=lambda gesture: gesture.is_reversed)
    assert (forwards.is_reversed, backwards.is_reversed) == (False, True)
    assert forwards.path is backwards.path
    return forwards, backwards


def test_there_are_pairs_and_gestures_without_a_direction() -> None:
    assert len(GESTURES) >= 12
    assert len({gesture.label for gesture in GESTURES}) == len(GESTURES)
    assert len(PAIRS) >= 5
    assert sum(gesture.pair == "" for gesture in GESTURES) >= 2
    for name in PAIRS:
        pair_of(name)


def test_same_seed_same_pixels_and_another_seed_others() -> None:
    clip = list_clips(SMALL)[0]
    frames = draw_clip(SMALL, clip)
    assert np.array_equal(frames, draw_clip(SMALL, clip))
    other = draw_clip(replace(SMALL, seed=1), clip)
    assert other.shape != frames.shape or not np.array_equal(other, frames)


def test_counts_do_not_change_a_clip() -> None:
    more = replace(SMALL, train_clips=3, val_clips=2)
    by_id = {clip.clip_id: clip for clip in list_clips(more)}
    for clip in list_clips(SMALL)[::9]:
        assert np.array_equal(draw_clip(SMALL, clip), draw_clip(more, by_id[clip.clip_id]))


@pytest.mark.parametrize("name", PAIRS)
def test_partner_is_the_same_film_backwards(name: str) -> None:
    forwards, backwards = pair_of(name)
    for key in ("a", "b"):
        film = draw_gesture(SMALL, forwards, "train", key)
        assert np.array_equal(film[::-1], draw_gesture(SMALL, backwards, "train", key))
        assert not np.array_equal(film, film[::-1])


def test_looks_do_not_depend_on_the_gesture(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the hand, clips of all gestures with one key are equal; and the hand has the same look in all."""
    looks: list[HandLook] = []

    def note_look(frame: np.ndarray, look: HandLook, pose: HandPose) -> np.ndarray:
        looks.append(look)
        return np.zeros(frame.shape[:2], np.uint8)

    monkeypatch.setattr(module, "paint_hand", note_look)
    empty = [draw_gesture(SMALL, gesture, "val", "key") for gesture in GESTURES]
    for gesture, film in zip(GESTURES, empty, strict=True):
        assert np.array_equal(film[::-1] if gesture.is_reversed else film, empty[-1])
    assert len(set(looks)) == 1


def test_validation_backgrounds_are_of_kinds_that_training_never_shows(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not set(TRAIN_KINDS) & set(HELD_OUT_KINDS)
    assert set(TRAIN_KINDS) | set(HELD_OUT_KINDS) == set(KINDS)
    seen: dict[str, set[tuple[str, ...]]] = {"train": set(), "val": set(), "test": set()}
    draw = module.draw_background
    for split, kinds_seen in seen.items():

        def note_kinds(
            generator: np.random.Generator,
            height: int,
            width: int,
            kinds: tuple[str, ...],
            into: set[tuple[str, ...]] = kinds_seen,
        ) -> np.ndarray:
            into.add(tuple(kinds))
            return draw(generator, height, width, kinds)

        monkeypatch.setattr(module, "draw_background", note_kinds)
        draw_gesture(SMALL, GESTURES[0], split, "key")
    assert seen == {"train": {TRAIN_KINDS}, "val": {HELD_OUT_KINDS}, "test": {HELD_OUT_KINDS}}


def poses_as_numbers(gesture: Gesture, key: str, num_frames: int = 20) -> np.ndarray:
    poses = draw_poses(generator_for("gesture-motion", 0, key), gesture, num_frames)
    numbers = np.array([(p.x, p.y, np.log(p.size), p.angle, p.openness, p.spread) for p in poses])
    return numbers[::-1] if gesture.is_reversed else numbers


def ridge_accuracy(train: np.ndarray, train_labels: np.ndarray, test: np.ndarray, test_labels: np.ndarray) -> float:
    """A linear classifier of two classes, -1 and 1, on standardised numbers."""
    mean, spread = train.mean(0), train.std(0) + 1e-6
    train, test = (train - mean) / spread, (test - mean) / spread
    gram = train.T @ train + 0.1 * len(train) * np.eye(train.shape[1])
    scores = test @ np.linalg.solve(gram, train.T @ train_labels)
    return float((np.sign(scores) == test_labels).mean())


def with_squares(numbers: np.ndarray) -> np.ndarray:
    """All products of two, so that the linear classifier is a quadratic one."""
    rows, columns = np.triu_indices(numbers.shape[1])
    return np.concatenate([numbers, numbers[:, rows] * numbers[:, columns]], axis=1)


@pytest.mark.parametrize("name", PAIRS)
def test_one_pose_says_nothing_within_a_pair_but_two_in_order_do(name: str) -> None:
    """An observer who reads the pose of any one frame without error is at chance; the first against the last tells.

    300 clips are judged, each once: beyond 4 standard deviations, 0.116, chance stays once in 16,000 tests.
    """
    numbers, labels = [], []
    for sign, gesture in zip((1, -1), pair_of(name), strict=True):
        for index in range(350):
            numbers.append(poses_as_numbers(gesture, f"{gesture.label} {index}"))
            labels.append(sign)
    clips, signs = np.array(numbers), np.array(labels)
    order = np.random.default_rng(0).permutation(len(clips))
    train, test = order[300:], order[:300]
    # A frame known to be the first would tell where the hand sets out: the observer is not told which one it is.
    picks = np.random.default_rng(1).integers(0, 20, len(clips))
    single = with_squares(clips[np.arange(len(clips)), picks])
    accuracy = ridge_accuracy(single[train], signs[train], single[test], signs[test])
    assert abs(accuracy - 0.5) < 4 * np.sqrt(0.25 / len(test))
    change = clips[:, -1] - clips[:, 0]
    assert ridge_accuracy(change[train], signs[train], change[test], signs[test]) > 0.95


def test_pixels_of_one_frame_are_at_chance_within_the_pairs() -> None:
    """A linear probe on a random frame of each drawn clip, over all pairs, on clips that it was not fitted to."""
    settings = replace(SMALL, width=40, height=30, min_frames=3, max_frames=3)
    hits, count = 0.0, 0
    for name in PAIRS:
        frames, labels = [], []
        generator = np.random.default_rng(len(name))
        for sign, gesture in zip((1, -1), pair_of(name), strict=True):
            for index in range(60):
                film = draw_gesture(settings, gesture, "train", f"{gesture.label} {index}")
                small = Image.fromarray(film[int(generator.integers(3))]).resize((10, 8), Image.Resampling.BOX)
                frames.append(np.asarray(small, np.float32).ravel())
                labels.append(sign)
        pixels, signs = np.array(frames), np.array(labels)
        order = generator.permutation(len(pixels))
        train, test = order[60:], order[:60]
        hits += 60 * ridge_accuracy(pixels[train], signs[train], pixels[test], signs[test])
        count += 60
    # Four standard deviations of a fair coin.
    assert abs(hits / count - 0.5) < 4 * np.sqrt(0.25 / count)


def test_lengths_and_speeds_vary() -> None:
    clips = list_clips(replace(GestureSettings(), train_clips=2, val_clips=1, width=16, height=16))[:20]
    lengths = {len(draw_clip(replace(GestureSettings(), width=16, height=16), clip)) for clip in clips}
    assert len(lengths) > 10
    assert min(lengths) >= 20
    assert max(lengths) <= 70
    middles = {float(poses_as_numbers(GESTURES[1], str(key))[10, 0]) for key in range(10)}
    assert len(middles) == 10


def tree(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


def test_manifest_is_valid_and_true_whatever_the_number_of_processes(tmp_path: Path) -> None:
    for processes in (1, 2):
        write_gestures(tmp_path / f"{processes}.csv", tmp_path / f"clips{processes}", SMALL, processes)
    assert tree(tmp_path / "clips1") == tree(tmp_path / "clips2")
    assert (tmp_path / "1.csv").read_bytes() == (tmp_path / "2.csv").read_bytes()

    manifest = read_manifest(tmp_path / "1.csv", tmp_path / "clips1")
    assert manifest.classes == tuple(gesture.label for gesture in GESTURES)
    assert manifest.splits == ("train", "val", "test")
    assert manifest.extra_columns == ("pair", "num_frames")
    for split in manifest.splits:
        assert sorted(clip.label for clip in manifest.in_split(split)) == sorted(manifest.classes)
    for clip in manifest.clips[::5]:
        with av.open(manifest.locate(clip)) as container:
            assert container.streams.video[0].codec_context.name in ("vp9", "libvpx-vp9")
            frames = list(container.decode(video=0))
        assert len(frames) == int(clip.extra[1])
        assert (frames[0].width, frames[0].height) == (SMALL.width, SMALL.height)


def test_encoded_frames_look_like_the_drawn_ones(tmp_path: Path) -> None:
    settings = replace(GestureSettings(), train_clips=1, val_clips=1)
    clip = list_clips(settings)[3]
    drawn = draw_clip(settings, clip)
    module.write_video(tmp_path / "clip.webm", drawn, settings.fps)
    with av.open(str(tmp_path / "clip.webm")) as container:
        shown = np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])
    assert shown.shape == drawn.shape
    assert np.abs(shown.astype(int) - drawn).mean() < 8


def test_jpg_switch_writes_folders_of_numbered_frames(tmp_path: Path) -> None:
    settings = replace(SMALL, frames="jpg", min_frames=3, max_frames=4)
    write_gestures(tmp_path / "jpg.csv", tmp_path / "clips", settings, 1)
    manifest = read_manifest(tmp_path / "jpg.csv", tmp_path / "clips")
    for clip in manifest.clips[::9]:
        names = sorted(os.listdir(manifest.locate(clip)))
        assert names == [f"{number:05d}.jpg" for number in range(1, int(clip.extra[1]) + 1)]
        with Image.open(Path(manifest.locate(clip)) / names[0]) as image:
            assert image.size == (SMALL.width, SMALL.height)


def test_a_second_run_draws_only_what_is_missing(tmp_path: Path) -> None:
    settings = replace(SMALL, min_frames=3, max_frames=3)
    out, root = tmp_path / "g.csv", tmp_path / "clips"
    write_gestures(out, root, settings, 1)
    before = {path: path.stat().st_mtime_ns for path in root.rglob("*.webm")}
    first_rows = out.read_text().splitlines()
    next(iter(sorted(before))).unlink()
    write_gestures(out, root, replace(settings, val_clips=2, test_clips=1), 1)
    after = {path: path.stat().st_mtime_ns for path in root.rglob("*.webm")}
    assert len(after) == len(before) + len(GESTURES)
    assert sum(after[path] != time for path, time in before.items()) == 1
    assert set(first_rows) < set(out.read_text().splitlines())


def test_other_settings_draw_everything_again(tmp_path: Path) -> None:
    settings = replace(SMALL, min_frames=3, max_frames=3)
    write_gestures(tmp_path / "g.csv", tmp_path / "clips", settings, 1)
    before = tree(tmp_path / "clips")
    write_gestures(tmp_path / "g.csv", tmp_path / "clips", replace(settings, seed=5), 1)
    after = tree(tmp_path / "clips")
    assert before.keys() == after.keys()
    assert all(after[name] != content for name, content in before.items())


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"frames": "png"}, "webm, jpg"),
        ({"train_clips": 0}, "train_clips"),
        ({"width": 63}, "even"),
        ({"min_frames": 20}, "max_frames"),
    ],
)
def test_settings_that_cannot_be_are_refused(change: dict[str, object], words: str) -> None:
    with pytest.raises(PipelineError, match=words):
        replace(SMALL, **change)  # type: ignore[arg-type]


def test_prepare_stage_writes_and_reads_back(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "manifests" / "gestures.csv"
    manifest = prepare(
        "gestures",
        tmp_path / "clips",
        out=out,
        classes=classes_path(out),
        train_clips=1,
        val_clips=1,
        width=32,
        height=32,
        min_frames=2,
        max_frames=2,
        workers=1,
    )
    assert len(manifest.clips) == 3 * len(GESTURES)
    assert all(Path(manifest.locate(clip)).is_file() for clip in manifest.clips)
    assert "42 clips (train 14, val 14, test 14)" in capsys.readouterr().out


def test_prepare_stage_refuses_what_it_cannot_do(tmp_path: Path) -> None:
    out = tmp_path / "g.csv"
    with pytest.raises(PipelineError, match="Did you mean 'gestures'"):
        prepare("gesture", tmp_path, out=out)
    with pytest.raises(PipelineError, match="folder to draw into"):
        prepare("gestures", None, out=out)
    with pytest.raises(PipelineError, match="accepts no list"):
        prepare("gestures", tmp_path, lists=["list.txt"], out=out)
    with pytest.raises(PipelineError, match="`out` is required"):
        prepare("gestures", tmp_path)
    with pytest.raises(PipelineError, match=r"g\.classes\.csv"):
        prepare("gestures", tmp_path, out=out, classes=tmp_path / "other.csv")
