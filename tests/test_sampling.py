from __future__ import annotations

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
    # 37 frames in 8 segments by hand: edges 0 4.625 9.25 13.875 18.5 23.125 27.75 32.375 37. A frame across an edge
    # belongs to both segments.
    edges = [(0, 5), (4, 10), (9, 14), (13, 19), (18, 24), (23, 28), (27, 33), (32, 37)]
    assert frames_seen(37, "covering") == [set(range(first, stop)) for first, stop in edges]


@pytest.mark.parametrize(("num_frames", "num_segments"), [(20, 8), (37, 8), (12, 8), (70, 16), (5, 8), (10, 3)])
def test_covering_draws_every_frame_equally_often(num_frames: int, num_segments: int) -> None:
    generator, num_draws = np.random.default_rng(4), 20_000
    draws = np.stack([drawn_frame_indices(num_frames, num_segments, generator) for _ in range(num_draws)])
    counts = np.bincount(draws.ravel(), minlength=num_frames)
    expected = num_draws * num_segments / num_frames
    assert np.abs(counts - expected).max() < 5 * np.sqrt(expected)
    # Segments of whole frames, the rule before, draw the frames of a short segment up to half as often again.
    assert 5 * np.sqrt(expected) < 0.1 * expected


def test_covering_frames_are_those_of_mmaction2() -> None:
    for num_frames in (1, 5, 8, 20, 37):
        drawn = drawn_frame_indices(num_frames, 8, np.random.default_rng(5))
        # `SampleFrames._get_train_clips` with `keep_tail_frames`: the offsets are np.random.uniform(0, interval).
        interval = num_frames / 8
        offsets = np.random.default_rng(5).random(8) * interval
        assert drawn.tolist() == (np.arange(8) * interval + offsets).astype(int).tolist()


class LargestNumbers(np.random.Generator):
    """Draws the largest number below 1 every time."""

    def random(self, size: int) -> np.ndarray:  # type: ignore[override]
        return np.full(size, np.nextafter(1.0, 0.0))


def test_the_largest_draw_stays_in_the_clip() -> None:
    generator = LargestNumbers(np.random.PCG64(0))
    for num_frames in (1, 3, 8, 37):
        assert drawn_frame_indices(num_frames, 8, generator)[-1] == num_frames - 1


def published_test_indices(num_frames: int, num_segments: int) -> list[int]:
    """`TSNDataSet._get_test_indices` of the published code for RGB frames, counted from 0."""
    if num_frames > num_segments:
        tick = num_frames / float(num_segments)
        return [int(tick / 2.0 + tick * x) for x in range(num_segments)]
    return [0] * num_segments


def test_the_float_formula_is_that_of_the_published_code() -> None:
    for num_segments in range(1, 33):
        for num_frames in range(1, 1001):
            found = test_frame_indices(num_frames, num_segments, "first", "float").tolist()
            assert found == published_test_indices(num_frames, num_segments)


def test_the_float_formula_gives_the_frame_before_in_some_clips() -> None:
    differing: dict[int, int] = {}
    for num_segments in range(1, 33):
        for num_frames in range(1, 1001):
            exact = test_frame_indices(num_frames, num_segments)
            difference = exact - test_frame_indices(num_frames, num_segments, "formula", "float")
            if difference.any():
                # A middle that is a whole number was rounded down.
                assert set(difference.tolist()) == {0, 1}
                differing[num_segments] = differing.get(num_segments, 0) + 1
    assert set(differing) == {7, *range(9, 16), *range(18, 32)}
    assert sum(differing.values()) == 1415


def test_floor_segments_never_reach_the_last_frames() -> None:
    # 37 // 8 = 4, so the frames 32 to 36 (37 mod 8 = 5 of them) are never seen.
    assert frames_seen(37, "floor") == [set(range(4 * k, 4 * k + 4)) for k in range(8)]


@pytest.mark.parametrize("sampler", ["covering", "floor"])
def test_as_many_frames_as_segments_gives_each_frame_once(sampler: str) -> None:
    assert drawn_frame_indices(8, 8, np.random.default_rng(0), sampler).tolist() == list(range(8))


def test_a_short_clip_repeats_frames_in_order_when_covering_and_is_its_first_frame_with_floor() -> None:
    generator = np.random.default_rng(0)
    # Edges by hand: 0 0.375 0.75 1.125 1.5 1.875 2.25 2.625 3.
    choices = [{0}, {0}, {0, 1}, {1}, {1}, {1, 2}, {2}, {2}]
    for _ in range(50):
        indices = drawn_frame_indices(3, 8, generator, "covering").tolist()
        assert all(index in allowed for index, allowed in zip(indices, choices, strict=True))
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
    with pytest.raises(PipelineError, match="'double'"):
        test_frame_indices(8, 8, "first", "double")
    with pytest.raises(PipelineError, match="num_segments"):
        test_frame_indices(8, 0)
