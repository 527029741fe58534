"""Intervals, paired tests and rank correlation against SciPy and against numbers worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.stats

from pipeline.analysis.statistics import (
    accuracy_interval,
    holm,
    mcnemar_p_value,
    paired_difference,
    rank_correlation,
)
from pipeline.errors import PipelineError, ShapeError


def drawn(accuracy: float, num_seeds: int, num_clips: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).random((num_seeds, num_clips)) < accuracy


def test_interval_of_one_seed_is_that_of_a_binomial() -> None:
    correct = drawn(0.7, 1, 400, seed=0)
    interval = accuracy_interval(correct)
    wanted = scipy.stats.binom(400, correct.mean()).ppf([0.025, 0.975]) / 4
    assert interval.value == pytest.approx(100 * correct.mean())
    assert [interval.low, interval.high] == pytest.approx(wanted, abs=0.3)


def test_interval_covers_the_true_accuracy_about_as_often_as_it_says() -> None:
    intervals = [accuracy_interval(drawn(0.6, 1, 200, seed), num_resamples=500) for seed in range(300)]
    covered = sum(interval.low <= 60 <= interval.high for interval in intervals) / 300
    assert 0.91 <= covered <= 0.98


def test_seeds_that_differ_widen_the_interval() -> None:
    clips = np.arange(1000)
    steady = np.stack([clips % 2 == 0] * 3)
    uneven = np.stack([clips % 10 < 2, clips % 10 < 5, clips % 10 < 8])
    assert steady.mean() == uneven.mean() == 0.5
    narrow, wide = accuracy_interval(steady), accuracy_interval(uneven)
    assert wide.high - wide.low > 3 * (narrow.high - narrow.low)


def test_interval_is_the_same_each_time() -> None:
    correct = drawn(0.5, 2, 50, seed=3)
    assert accuracy_interval(correct) == accuracy_interval(correct)


def test_bootstrap_agrees_with_drawing_clips_one_by_one() -> None:
    a, b = drawn(0.8, 2, 120, seed=1), drawn(0.7, 3, 120, seed=2)
    generator = np.random.default_rng(4)
    samples = []
    for _ in range(8000):
        clips = generator.integers(0, 120, 120)
        seeds_a, seeds_b = generator.integers(0, 2, 2), generator.integers(0, 3, 3)
        samples.append(100 * (a[seeds_a][:, clips].mean() - b[seeds_b][:, clips].mean()))
    found = paired_difference(a, b)
    assert [found.points.low, found.points.high] == pytest.approx(np.quantile(samples, [0.025, 0.975]), abs=0.5)


def test_paired_test_sees_what_unpaired_intervals_do_not() -> None:
    hard = drawn(0.6, 1, 500, seed=5)
    better = hard | drawn(0.08, 1, 500, seed=6)
    low, high = accuracy_interval(hard), accuracy_interval(better)
    assert low.high > high.low, "the two intervals overlap"
    found = paired_difference(better, hard)
    assert found.points.low > 0
    assert found.p_value < 0.001
    assert (found.only_a, found.only_b, found.test) == (int((better & ~hard).sum()), 0, "McNemar")


def test_equal_heads_differ_by_nothing() -> None:
    correct = drawn(0.7, 1, 100, seed=7)
    found = paired_difference(correct, correct)
    assert (found.points.value, found.points.low, found.points.high, found.p_value) == (0, 0, 0, 1)
    several = drawn(0.7, 3, 100, seed=7)
    assert paired_difference(several, several).p_value > 0.5


def test_equal_fits_of_several_seeds_differ_by_nothing_where_their_seeds_are_paired() -> None:
    several = drawn(0.7, 3, 100, seed=7)
    found = paired_difference(several, several, same_seeds=True)
    assert (found.points.value, found.points.low, found.points.high, found.p_value) == (0, 0, 0, 1)


def test_paired_seeds_agree_with_drawing_clips_and_seeds_one_by_one() -> None:
    a, b = drawn(0.8, 3, 120, seed=1), drawn(0.7, 3, 120, seed=2)
    generator = np.random.default_rng(4)
    samples = []
    for _ in range(8000):
        clips, seeds = generator.integers(0, 120, 120), generator.integers(0, 3, 3)
        samples.append(100 * (a[seeds][:, clips].mean() - b[seeds][:, clips].mean()))
    found = paired_difference(a, b, same_seeds=True)
    assert [found.points.low, found.points.high] == pytest.approx(np.quantile(samples, [0.025, 0.975]), abs=0.5)
    with pytest.raises(ShapeError, match="S=3"):
        paired_difference(a, b[:2], same_seeds=True)


def test_several_seeds_use_the_bootstrap() -> None:
    found = paired_difference(drawn(0.9, 3, 200, seed=8), drawn(0.5, 3, 200, seed=9))
    assert found.test == "paired bootstrap"
    assert found.p_value < 0.001
    assert found.p_value > 0


@pytest.mark.parametrize(("only_a", "only_b"), [(0, 1), (3, 9), (10, 10), (1, 40), (300, 420), (900, 1000)])
def test_mcnemar_is_the_exact_binomial_test(only_a: int, only_b: int) -> None:
    wanted = scipy.stats.binomtest(only_a, only_a + only_b, 0.5).pvalue
    assert mcnemar_p_value(only_a, only_b) == pytest.approx(wanted)
    assert mcnemar_p_value(only_b, only_a) == pytest.approx(wanted)


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []


@pytest.mark.parametrize("seed", range(5))
def test_rank_correlation_agrees_with_scipy_with_ties(seed: int) -> None:
    generator = np.random.default_rng(seed)
    a, b = generator.integers(0, 5, 11).tolist(), generator.normal(size=11).tolist()
    assert rank_correlation(a, b) == pytest.approx(scipy.stats.spearmanr(a, b).statistic)


def test_rank_correlation_is_none_where_it_is_not_defined() -> None:
    assert rank_correlation([1], [2]) is None
    assert rank_correlation([1, 1, 1], [1, 2, 3]) is None
    assert rank_correlation([], []) is None
    with pytest.raises(PipelineError, match="in pairs"):
        rank_correlation([1, 2], [1])


def test_bad_shapes_are_named() -> None:
    with pytest.raises(ShapeError, match=r"`correct` must have the axes \(S, N\)"):
        accuracy_interval(np.ones(4, dtype=bool))
    with pytest.raises(ShapeError, match="N=4"):
        paired_difference(np.ones((1, 4), dtype=bool), np.ones((1, 5), dtype=bool))
    with pytest.raises(PipelineError, match="no labelled clip"):
        accuracy_interval(np.ones((1, 0), dtype=bool))
