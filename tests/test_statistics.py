"""Intervals, paired tests and rank correlation against SciPy and against numbers worked out by hand."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import scipy.stats
from scipy.integrate import quad

from benchmarks.verdicts import coverage, draw_rows
from pipeline.errors import PipelineError, ShapeError
from pipeline.evaluation import sign_flip
from pipeline.evaluation.sign_flip import sign_flip_test, sign_test
from pipeline.evaluation.statistics import accuracy_interval, holm, paired_difference, rank_correlation
from pipeline.evaluation.variance import MeanVariance, seed_variance, summed_seeds


def drawn(accuracy: float, num_seeds: int, num_clips: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).random((num_seeds, num_clips)) < accuracy


@pytest.mark.parametrize(
    ("num_right", "num_clips"), [(33, 33), (0, 33), (32, 33), (1, 1), (0, 1), (105, 210), (4951, 5000)]
)
def test_interval_of_one_seed_is_wilsons(num_right: int, num_clips: int) -> None:
    interval = accuracy_interval(np.arange(num_clips)[None] < num_right)
    wanted = scipy.stats.binomtest(num_right, num_clips).proportion_ci(0.95, method="wilson")
    assert interval.value == pytest.approx(100 * num_right / num_clips)
    assert [interval.low, interval.high] == pytest.approx([100 * wanted.low, 100 * wanted.high])


def test_all_clips_right_leaves_room_for_wrong_ones() -> None:
    for num_seeds in (1, 2, 5):
        interval = accuracy_interval(np.ones((num_seeds, 33), dtype=bool))
        assert interval.low < 91
        assert interval.value == interval.high == 100


def test_seeds_that_agree_on_every_clip_give_the_agresti_coull_interval() -> None:
    # 30 of 40 right, thrice: z² = 3.8415 clips are added, half of them right.
    interval = accuracy_interval(np.tile(np.arange(40) < 30, (3, 1)))
    num_clips = 40 + 1.959964**2
    share = (30 + 1.959964**2 / 2) / num_clips
    half_width = 1.959964 * math.sqrt(share * (1 - share) / num_clips)
    assert [interval.low, interval.high] == pytest.approx([100 * (share - half_width), 100 * (share + half_width)])


def test_a_value_lies_in_its_interval() -> None:
    generator = np.random.default_rng(0)
    for trial in range(300):
        num_seeds, num_clips = generator.integers(1, 5), generator.integers(1, 30)
        share = generator.choice([0, 0.02, 0.5, 0.98, 1])
        a, b = (generator.random((num_seeds, num_clips)) < share for _ in range(2))
        for interval in (
            accuracy_interval(a),
            paired_difference(a, b).points,
            paired_difference(a, b, same_seeds=True).points,
        ):
            assert interval.low <= interval.value <= interval.high, trial
            assert -100 <= interval.low <= interval.high <= 100


@pytest.mark.parametrize("num_clips", [20, 33, 210])
@pytest.mark.parametrize(("accuracy", "least", "most"), [(50.0, 92.0, 98.5), (90.0, 92.0, 99.0), (99.0, 95.0, 100.0)])
def test_intervals_of_three_seeds_cover(num_clips: int, accuracy: float, least: float, most: float) -> None:
    assert least <= coverage(accuracy, 1.0, 3, num_clips, 400) <= most


def test_seeds_that_differ_widen_the_interval() -> None:
    clips = np.arange(1000)
    steady = np.stack([clips % 2 == 0] * 3)
    uneven = np.stack([clips % 10 < 2, clips % 10 < 5, clips % 10 < 8])
    assert steady.mean() == uneven.mean() == 0.5
    narrow, wide = accuracy_interval(steady), accuracy_interval(uneven)
    assert wide.high - wide.low > 3 * (narrow.high - narrow.low)


def test_variance_of_seeds_by_hand() -> None:
    assert seed_variance(np.array([[1.0, 1, 0, 1]])) == 0
    # Means 1 and 0 vary by 0.5; clips do not depend on the seed; two seeds halve it.
    assert seed_variance(np.array([[1.0, 1, 1, 1], [0, 0, 0, 0]])) == pytest.approx(0.25)
    # Means 0.5 and 0.25 vary by 0.03125, and so much comes from the one clip that differs: 0.375 / 3 / 4.
    assert seed_variance(np.array([[1.0, 1, 0, 0], [1, 0, 0, 0]])) == 0
    # Means 1 and 0.25 vary by 0.28125. Residuals are ±0.375 once and ±0.125 thrice: 0.375 / 3 / 4 = 0.03125.
    assert seed_variance(np.array([[1.0, 1, 1, 1], [1, 0, 0, 0]])) == pytest.approx((0.28125 - 0.03125) / 2)


def test_both_sides_of_a_difference_get_the_larger_spread_of_seeds() -> None:
    uneven, steady = np.array([[1.0, 1, 1, 1], [0, 0, 0, 0]]), np.array([[1.0, 1, 0, 0]] * 3)
    # One seed of the uneven row varies by 0.5; 0.5 / 2 + 0.5 / 3 in all. What is known of it has one degree of freedom.
    assert summed_seeds(uneven, steady) == summed_seeds(steady, uneven) == pytest.approx((0.5 / 2 + 0.5 / 3, 1))
    # A row of one seed adds nothing that is known.
    assert summed_seeds(uneven, steady[:1]) == pytest.approx((0.25, 1))
    assert summed_seeds(steady, steady) == (0, math.inf)


@pytest.mark.parametrize("distance", [0.5, 3.0, 40.0])
@pytest.mark.parametrize("degrees", [1, 2, 4.5, 300])
def test_tail_of_seeds_alone_is_students(degrees: float, distance: float) -> None:
    wanted = 2 * scipy.stats.t.sf(distance / 2, degrees)
    assert MeanVariance(1e-12, 4.0, degrees).tail(distance) == pytest.approx(wanted, rel=1e-3)


@pytest.mark.parametrize(("clips", "seeds", "degrees", "distance"), [(1, 1, 2, 3), (1, 0.1, 1, 3), (0.1, 1, 4, 6)])
def test_tail_is_that_of_a_normal_and_a_t_error_together(
    clips: float, seeds: float, degrees: int, distance: float
) -> None:
    def beyond(z: float) -> float:
        sides = [(distance + sign * z * math.sqrt(clips)) / math.sqrt(seeds) for sign in (-1, 1)]
        return float(scipy.stats.norm.pdf(z) * sum(scipy.stats.t.sf(side, degrees) for side in sides))

    wanted = quad(beyond, -12, 12, epsabs=1e-14, limit=400)[0]
    variance = MeanVariance(clips, seeds, degrees)
    assert variance.tail(distance) == pytest.approx(wanted, rel=1e-6)
    assert variance.tail(variance.half_width(0.95)) == pytest.approx(0.05)


def test_interval_of_a_difference_of_one_seed_is_agresti_and_mins() -> None:
    # Of 100 clips a alone has 9 right, b alone 2; half a clip is added to each of the four kinds.
    clips = np.arange(100)
    a, b = (clips < 9)[None], ((clips >= 9) & (clips < 11))[None]
    found = paired_difference(a, b).points
    centre, spread = 7 / 102, math.sqrt((9.5 + 2.5) - 7**2 / 102) / 102
    assert found.value == pytest.approx(7)
    assert [found.low, found.high] == pytest.approx(
        [100 * (centre - 1.959964 * spread), 100 * (centre + 1.959964 * spread)]
    )


def test_paired_test_sees_what_unpaired_intervals_do_not() -> None:
    hard = drawn(0.6, 1, 500, seed=5)
    better = hard | drawn(0.08, 1, 500, seed=6)
    low, high = accuracy_interval(hard), accuracy_interval(better)
    assert low.high > high.low, "the two intervals overlap"
    found = paired_difference(better, hard)
    assert found.points.low > 0
    assert found.p_value < 0.001
    assert (found.only_a, found.only_b, found.test) == (int((better & ~hard).sum()), 0, "McNemar")


@pytest.mark.parametrize("num_seeds", [1, 2, 3, 5])
def test_few_discordant_clips_are_no_evidence_whatever_the_number_of_seeds(num_seeds: int) -> None:
    a = np.ones((num_seeds, 100), dtype=bool)
    b = a.copy()
    b[:, :4] = False
    assert paired_difference(a, b).p_value == paired_difference(b, a).p_value == 0.125
    assert paired_difference(a[:, :1], b[:, :1]).p_value == 1


def all_sign_flips(values: np.ndarray) -> float:
    """Count the choices of signs that are at least as extreme, with every choice written down."""
    signs = np.array(list(itertools.product((-1, 1), repeat=len(values))))
    return float((np.abs(signs @ values) >= abs(values.sum())).mean())


@pytest.mark.parametrize("trial", range(20))
def test_sign_flip_test_counts_all_choices_of_signs(trial: int) -> None:
    generator = np.random.default_rng(trial)
    values = generator.integers(-4, 6, generator.integers(1, 13))
    wanted = pytest.approx(all_sign_flips(values))
    assert sign_flip_test(values) == sign_flip_test(-values) == sign_flip_test(35 * values) == wanted


def test_sign_flip_test_is_scipys_permutation_test_of_paired_samples() -> None:
    a, b = np.random.default_rng(0).integers(0, 9, (2, 12))
    result = scipy.stats.permutation_test(
        (a, b), lambda x, y, axis: (x - y).sum(axis=axis), permutation_type="samples", vectorized=True, n_resamples=5000
    )
    assert sign_flip_test(a - b) == pytest.approx(result.pvalue)


def test_sign_flip_test_of_very_many_differences_is_the_normal_test(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(1).integers(-5, 6, 2_000) + (np.arange(2_000) % 20 == 0)
    exact = sign_flip_test(values)
    monkeypatch.setattr(sign_flip, "_MAX_ADDITIONS", 0)
    assert exact == pytest.approx(sign_flip_test(values), rel=0.02)
    assert 0 < sign_flip_test(np.tile([3, 2], 100_000)) < 1e-300


@pytest.mark.parametrize("trial", range(20))
def test_no_p_value_is_below_the_sign_flip_test_over_clips(trial: int) -> None:
    generator = np.random.default_rng(trial)
    of_a, of_b = generator.integers(1, 4, 2)
    a, b = drawn(0.9, of_a, 11, seed=trial), drawn(generator.choice([0.5, 0.8]), of_b, 11, seed=trial)
    wanted = all_sign_flips(np.round((a.mean(axis=0) - b.mean(axis=0)) * of_a * of_b))
    assert paired_difference(a, b).p_value >= wanted * (1 - 1e-9)


def test_clear_differences_have_no_floor_of_their_p_value_and_never_0() -> None:
    right, wrong = np.ones((5, 300), dtype=bool), drawn(0.05, 5, 300, seed=0)
    assert 0 < paired_difference(right, wrong).p_value < 1e-8
    assert paired_difference(np.ones((3, 5000), dtype=bool), np.zeros((3, 5000), dtype=bool)).p_value > 0
    assert paired_difference(np.ones((1, 5000), dtype=bool), np.zeros((1, 5000), dtype=bool)).p_value > 0


def test_starts_of_unknown_spread_are_named() -> None:
    one, three = drawn(0.7, 1, 50, seed=0), drawn(0.7, 3, 50, seed=1)
    assert [paired_difference(a, b).knows_seeds for a, b in ((one, one), (one, three), (three, three))] == [
        False,
        False,
        True,
    ]


@pytest.mark.parametrize("spreads", [(4.0, 4.0), (0.0, 4.0)])
def test_equal_heads_whose_seeds_differ_are_seldom_told_apart(spreads: tuple[float, float]) -> None:
    generator = np.random.default_rng(0)
    alarms = 0
    for _ in range(600):
        a, b = draw_rows(generator, [70.0, 70.0], spreads, 2, 1000)
        alarms += paired_difference(a, b).p_value < 0.05
    # A true rate of 5 % gives more than 45 once in 500 times.
    assert alarms <= 45


def test_equal_heads_differ_by_nothing() -> None:
    for num_seeds in (1, 3):
        correct = drawn(0.7, num_seeds, 100, seed=7)
        found = paired_difference(correct, correct)
        assert (found.points.value, found.p_value) == (0, 1)
        assert found.points.low < 0 < found.points.high


@pytest.mark.parametrize("num_seeds", [1, 3])
def test_the_same_predictions_again_have_no_interval(num_seeds: int) -> None:
    correct = drawn(0.7, num_seeds, 100, seed=7)
    found = paired_difference(correct, correct, same_seeds=True)
    assert (found.points.value, found.points.low, found.points.high, found.p_value) == (0, 0, 0, 1)


def test_paired_seeds_leave_out_what_is_common_to_both() -> None:
    generator = np.random.default_rng(4)
    start = np.array([0.5, 0.7, 0.9])[:, None]
    hardness = generator.random((3, 400))
    before, after = hardness < start, hardness < start - 0.06
    paired, apart = paired_difference(after, before, same_seeds=True), paired_difference(after, before)
    assert paired.points.high - paired.points.low < 0.5 * (apart.points.high - apart.points.low)
    assert paired.p_value < 0.01 < apart.p_value
    with pytest.raises(ShapeError, match="S=3"):
        paired_difference(before, after[:2], same_seeds=True)


@pytest.mark.parametrize(("plus", "minus"), [(0, 1), (3, 9), (10, 10), (1, 40), (300, 420), (900, 1000)])
def test_sign_test_is_the_exact_binomial_test(plus: int, minus: int) -> None:
    wanted = scipy.stats.binomtest(plus, plus + minus, 0.5).pvalue
    assert sign_test(plus, minus) == sign_test(minus, plus) == pytest.approx(wanted)


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
