from __future__ import annotations

import itertools

import numpy as np
import pytest

from pipeline.errors import ClipError, PipelineError
from pipeline.video.sampling import drawn_frame_indices, test_frame_indices


@pytest.mark.parametrize(
    ("num_frames", "num_segments", "expected"),
    [
        # By hand: int(L / 2N + k L / N).
        (40, 8, [2, 7, 12, 17, 22, 27, 32, 37]),  # 2.5 + 5 k
        (37, 8, [2, 6, 11, 16, 20, 25, 30, 34]),  # 2.3125 + 4.625 k
        (8, 8, [0, 1, 2, 3, 4, 5, 6, 7]),  # 0.5 + k
        (9, 8, [0, 1, 2, 3, 5, 6, 7, 8]),  # 0.5625 + 1.125 k
        (5, 8, [0, 0, 1, 2, 2, 3, 4, 4]),  # 0.3125 + 0.625 k
        (1, 8, [0] * 8),
        (3, 4, [0, 1, 1, 2]),  # 0.375 + 0.75 k
        (10, 3, [1, 5, 8]),  # 1.67, 5, 8.33: in floating point the middle one can fall below 5
        (100, 1, [50]),
    ],
)
def test_test_frames_are_the_middles_of_the_segments(num_frames: int, num_segments: int, expected: list[int]) -> None:
    assert test_frame_indices(num_frames, num_segments).tolist() == expected


def test_first_gives_the_first_frame_up_to_as_many_frames_as_segments() -> None:
    assert test_frame_indices(8, 8, "first").tolist() == [0] * 8
    assert test_frame_indices(5, 8, "first").tolist() == [0] * 8
    assert test_frame_indices(9, 8, "first").tolist() == test_frame_indices(9, 8).tolist()


@pytest.mark.parametrize("num_segments", [1, 3, 8, 16])
@pytest.mark.parametrize("num_frames", [1, 2, 7, 8, 9, 16, 37, 70])
def test_indices_lie_in_the_clip_and_never_fall(num_frames: int, num_segments: int) -> None:
    generator = np.random.default_rng(0)
    drawn = [drawn_frame_indices(num_frames, num_segments, generator, s) for s in ("covering", "floor")]
    for indices in [test_frame_indices(num_frames, num_segments), *drawn]:
        assert indices.shape == (num_segments,)
        assert indices.dtype == np.int64
        assert 0 <= indices.min() <= indices.max() < num_frames
        assert (np.diff(indices) >= 0).all()


def frames_seen(num_frames: int, sampler: str, num_draws: int = 400) -> list[set[int]]:
    generator = np.random.default_rng(1)
    draws = np.stack([drawn_frame_indices(num_frames, 8, generator, sampler) for _ in range(num_draws)])
    return [set(column.tolist()) for column in draws.T]


def test_covering_segments_reach_from_the_first_frame_to_the_last() -> None:
    # 37 frames in 8 segments by hand: edges 0 4 9 13 18 23 27 32 37.
    edges = [0, 4, 9, 13, 18, 23, 27, 32, 37]
    assert frames_seen(37, "covering") == [set(range(a, b)) for a, b in itertools.pairwise(edges)]


def test_floor_segments_never_reach_the_last_frames() -> None:
    # 37 // 8 = 4, so the frames 32 to 36 (37 mod 8 = 5 of them) are never seen.
    assert frames_seen(37, "floor") == [set(range(4 * k, 4 * k + 4)) for k in range(8)]


@pytest.mark.parametrize("sampler", ["covering", "floor"])
def test_as_many_frames_as_segments_gives_each_frame_once(sampler: str) -> None:
    assert drawn_frame_indices(8, 8, np.random.default_rng(0), sampler).tolist() == list(range(8))


def test_a_short_clip_repeats_frames_in_order_when_covering_and_is_its_first_frame_with_floor() -> None:
    generator = np.random.default_rng(0)
    assert drawn_frame_indices(3, 8, generator, "covering").tolist() == [0, 0, 0, 1, 1, 1, 2, 2]
    assert drawn_frame_indices(3, 8, generator, "floor").tolist() == [0] * 8


@pytest.mark.parametrize("sampler", ["covering", "floor"])
def test_frames_of_a_segment_are_equally_likely(sampler: str) -> None:
    generator = np.random.default_rng(2)
    draws = np.stack([drawn_frame_indices(40, 8, generator, sampler) for _ in range(4000)])
    counts = np.bincount(draws.ravel(), minlength=40)
    assert np.abs(counts - 800).max() < 5 * np.sqrt(800)  # five standard deviations


def test_a_clip_without_frames_is_a_clip_error() -> None:
    with pytest.raises(ClipError, match="at least one frame"):
        test_frame_indices(0, 8)
    with pytest.raises(ClipError, match="at least one frame"):
        drawn_frame_indices(0, 8, np.random.default_rng(0))


def test_unknown_choices_are_named() -> None:
    with pytest.raises(PipelineError, match="'middle'"):
        drawn_frame_indices(8, 8, np.random.default_rng(0), "middle")
    with pytest.raises(PipelineError, match="'repeat'"):
        test_frame_indices(8, 8, "repeat")
    with pytest.raises(PipelineError, match="num_segments"):
        test_frame_indices(8, 0)
