"""Drawn hands and stills: the numbers kept with an image are those that one sees in it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from pipeline.bundled.stills import MASK_STRIDE, TARGET_NAMES, draw_stills
from pipeline.errors import PipelineError
from pipeline.prepare.gestures.backgrounds import KINDS, draw_background
from pipeline.prepare.gestures.hands import HandPose, paint_hand, random_look
from pipeline.prepare.gestures.seeding import generator_for

UPRIGHT = HandPose(x=0.0, y=0.0, size=0.12, angle=0.0, openness=1.0, spread=0.2)
LOOK = replace(random_look(generator_for("look")), side=1)


def coverage(pose: HandPose, size: int = 96, side: int = 1) -> np.ndarray:
    return paint_hand(np.zeros((size, size, 3), np.uint8), replace(LOOK, side=side), pose).astype(float) / 255


def centre(cover: np.ndarray) -> np.ndarray:
    """The centre of mass, x and y from the middle, in fractions of the side."""
    rows, columns = np.indices(cover.shape)
    weights = cover / cover.sum()
    return np.array([(weights * (columns + 0.5)).sum(), (weights * (rows + 0.5)).sum()]) / len(cover) - 0.5


def test_a_moved_hand_is_the_same_hand_elsewhere() -> None:
    here = coverage(UPRIGHT)
    # 12 of 96 pixels right, 6 down: whole pixels, so the pixels are equal but for the arm that leaves the image.
    there = coverage(replace(UPRIGHT, x=12 / 96, y=6 / 96))
    assert np.allclose(here[20:80, 20:80], there[26:86, 32:92], atol=0.02)


def test_angle_is_clockwise() -> None:
    assert np.abs(coverage(replace(UPRIGHT, angle=np.pi / 2)) - np.rot90(coverage(UPRIGHT), k=-1)).mean() < 0.02


def test_mirrored_pose_is_the_mirrored_image() -> None:
    pose = replace(UPRIGHT, x=0.11, angle=0.4)
    mirrored = coverage(replace(pose, x=-0.11, angle=-0.4), side=-1)
    assert np.abs(mirrored - coverage(pose)[:, ::-1]).mean() < 0.02


def test_size_openness_and_spread_are_seen() -> None:
    areas = [coverage(replace(UPRIGHT, size=size)).sum() for size in (0.06, 0.09, 0.13)]
    assert areas[0] < areas[1] < areas[2]
    heights = [np.flatnonzero(coverage(replace(UPRIGHT, openness=o)).max(1) > 0.5)[0] for o in (0.0, 0.6, 1.0)]
    assert heights[0] > heights[1] > heights[2]
    upper = [coverage(replace(UPRIGHT, spread=spread))[:40].max(0) > 0.5 for spread in (0.02, 0.2, 0.36)]
    widths = [np.ptp(np.flatnonzero(row)) for row in upper]
    assert widths[0] < widths[1] < widths[2]


def test_painting_changes_only_what_the_hand_and_sleeve_cover() -> None:
    frame = np.full((80, 100, 3), 77, np.uint8)
    cover = paint_hand(frame, LOOK, UPRIGHT)
    assert cover.shape == (80, 100)
    assert (frame[:20, :20] == 77).all()
    inside = cover == 255
    assert inside.sum() > 300
    assert (frame[inside] != 77).any(1).mean() > 0.9


def test_a_hand_out_of_sight_changes_nothing() -> None:
    frame = np.full((40, 40, 3), 9, np.uint8)
    cover = paint_hand(frame, LOOK, replace(UPRIGHT, x=0.0, y=3.0))
    assert not cover.any()
    assert (frame == 9).all()


def test_same_seed_same_stills() -> None:
    first, again, other = draw_stills(3, 0, 6, 48), draw_stills(3, 0, 6, 48), draw_stills(3, 1, 6, 48)
    assert np.array_equal(first.images, again.images)
    assert np.array_equal(first.targets, again.targets)
    assert np.array_equal(first.masks, again.masks)
    assert not np.array_equal(first.images, other.images)


def test_targets_tell_what_is_in_the_image() -> None:
    stills = draw_stills(0, 0, 200, 64)
    assert stills.images.shape == (200, 64, 64, 3)
    assert stills.targets.shape == (200, len(TARGET_NAMES))
    assert stills.masks.shape == (200, 64 // MASK_STRIDE, 64 // MASK_STRIDE)
    target = dict(zip(TARGET_NAMES, stills.targets.T, strict=True))
    absent = target["present"] == 0
    assert 0 < absent.sum() < 40
    assert not stills.masks[absent].any()
    assert not stills.targets[absent].any()
    # Hands wholly inside: the mask's centre lies within a hand's length of the pose.
    inside = ~absent & (np.abs(target["x"]) < 0.25) & (np.abs(target["y"]) < 0.25) & (np.exp(target["log_size"]) < 0.1)
    assert inside.sum() > 10
    for index in np.flatnonzero(inside):
        away = centre(stills.masks[index].astype(float)) - (target["x"][index], target["y"][index])
        assert np.hypot(*away) < 2.5 * np.exp(target["log_size"][index])


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_backgrounds_are_drawn_and_differ(kind: str) -> None:
    first, second = (draw_background(generator_for(kind, number), 40, 56, (kind,)) for number in range(2))
    assert first.shape == (40, 56, 3)
    assert first.dtype == np.uint8
    assert not np.array_equal(first, second)


def test_unknown_background_is_refused() -> None:
    with pytest.raises(PipelineError, match="Did you mean 'waves'"):
        draw_background(generator_for("x"), 8, 8, ("wave",))
