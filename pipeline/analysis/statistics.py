"""Uncertainty of an accuracy, tests of a difference between two heads, and rank correlation.

An accuracy comes from a matrix `correct` of shape (S, N): seeds by clips, true (or 1) where the prediction was right,
false (or 0) where not; a half is a tie. The bootstrap draws clips with replacement, and seeds as well where there are
several, so that an interval covers both what another validation set and what another start would change.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import PipelineError
from pipeline.shapes import check_shape

NUM_RESAMPLES = 10_000
LEVEL = 0.95
BOOTSTRAP_SEED = 20_240_229
# Resamples are drawn in pieces of at most this many numbers, so that memory stays flat for large data sets.
_NUMBERS_AT_ONCE = 4_000_000

BoolArray = NDArray[np.bool_]
FloatArray = NDArray[np.float64]


@dataclass(frozen=True)
class Interval:
    """A value with the interval around it, in the unit of the value (percent, or points for a difference)."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Difference:
    """Accuracy of `a` minus accuracy of `b` on the same clips, in points, with its interval and two tests.

    `p_value` is that of McNemar's exact test where each side has one seed, otherwise of the paired bootstrap.
    `only_a` and `only_b` count the clips that one side alone has right, over all pairs of a seed with its counterpart.
    """

    points: Interval
    p_value: float
    test: str
    only_a: int
    only_b: int


def accuracy_interval(
    correct: BoolArray | FloatArray, *, num_resamples: int = NUM_RESAMPLES, level: float = LEVEL
) -> Interval:
    """Accuracy in percent, mean over seeds, with its percentile bootstrap interval.

    Shape:
        correct: (S, N), seeds by clips.

    Raises:
        ShapeError: `correct` does not have two axes.
        PipelineError: there is no clip.
    """
    check_shape("correct", correct, "S N")
    _check_not_empty(correct)
    samples = _resampled_means([correct], [1.0], num_resamples) * 100
    low, high = _percentiles(samples, level)
    return Interval(float(correct.mean()) * 100, low, high)


def paired_difference(
    a: BoolArray,
    b: BoolArray,
    *,
    same_seeds: bool = False,
    num_resamples: int = NUM_RESAMPLES,
    level: float = LEVEL,
) -> Difference:
    """Compare two heads on the same clips: the clips are drawn together, so what is hard for both cancels out.

    With `same_seeds` the seeds are drawn together as well: row s of both is one start of one head, then and now.

    Shape:
        a, b: (S, N) and (R, N), seeds by clips; column n is the same clip in both.

    Raises:
        ShapeError: the two have different numbers of clips, or of seeds although these are the same.
        PipelineError: there is no clip.
    """
    sizes = check_shape("a", a, "S N")
    if same_seeds:
        check_shape("b", b, "S N", S=sizes["S"], N=sizes["N"])
    else:
        check_shape("b", b, "R N", N=sizes["N"])
    _check_not_empty(a)
    if same_seeds:
        samples = _resampled_means([a.astype(np.float64) - b], [1.0], num_resamples) * 100
    else:
        samples = _resampled_means([a, b], [1.0, -1.0], num_resamples) * 100
    low, high = _percentiles(samples, level)
    points = Interval(float(a.mean() - b.mean()) * 100, low, high)
    if len(a) == 1 and len(b) == 1:
        only_a, only_b = int((a & ~b).sum()), int((b & ~a).sum())
        return Difference(points, mcnemar_p_value(only_a, only_b), "McNemar", only_a, only_b)
    # The added one keeps a p-value from being 0, which no finite number of resamples can show.
    tail = min(int((samples <= 0).sum()), int((samples >= 0).sum()))
    p_value = min(1.0, 2 * (tail + 1) / (num_resamples + 1))
    num_pairs = min(len(a), len(b))
    only_a = int((a[:num_pairs] & ~b[:num_pairs]).sum())
    only_b = int((b[:num_pairs] & ~a[:num_pairs]).sum())
    return Difference(points, p_value, "paired bootstrap", only_a, only_b)


def mcnemar_p_value(only_a: int, only_b: int) -> float:
    """The exact two-sided p-value of McNemar's test, from the clips that one of two heads alone has right.

    Were both heads equally good, each such clip would fall to either side like a fair coin.

    >>> mcnemar_p_value(0, 5)
    0.0625
    >>> mcnemar_p_value(0, 0)
    1.0
    """
    num_coins, fewer = only_a + only_b, min(only_a, only_b)
    # Whole numbers stay exact however many clips there are.
    tail = sum(math.comb(num_coins, heads) for heads in range(fewer + 1))
    return min(1.0, 2 * tail / 2**num_coins) if num_coins < 1000 else _mcnemar_large(num_coins, fewer)


def holm(p_values: Sequence[float]) -> list[float]:
    """P-values adjusted for testing many pairs at once (Holm's step-down rule), in the order given.

    >>> holm([0.01, 0.04, 0.03])
    [0.03, 0.06, 0.06]
    """
    order = sorted(range(len(p_values)), key=p_values.__getitem__)
    adjusted = [0.0] * len(p_values)
    largest = 0.0
    for step, index in enumerate(order):
        largest = max(largest, min(1.0, p_values[index] * (len(p_values) - step)))
        adjusted[index] = largest
    return adjusted


def rank_correlation(a: Sequence[float], b: Sequence[float]) -> float | None:
    """Spearman's rank correlation; equal values share the mean of their ranks.

    None where it is not defined: fewer than two values, or all values of one side equal.

    Raises:
        PipelineError: the two have different lengths.
    """
    if len(a) != len(b):
        raise PipelineError(f"A rank correlation needs values in pairs, but got {len(a)} and {len(b)} of them.")
    if len(a) < 2:
        return None
    ranks_a, ranks_b = _mean_ranks(a), _mean_ranks(b)
    centred_a, centred_b = ranks_a - ranks_a.mean(), ranks_b - ranks_b.mean()
    spread = math.sqrt(float(centred_a @ centred_a) * float(centred_b @ centred_b))
    return float(centred_a @ centred_b) / spread if spread > 0 else None


def _check_not_empty(correct: BoolArray | FloatArray) -> None:
    if correct.size == 0:
        raise PipelineError("There is no labelled clip to score. An accuracy needs at least one.")


def _mcnemar_large(num_coins: int, fewer: int) -> float:
    # 2**n leaves the range of floats at 1024 coins; the distribution function does not.
    from scipy.stats import binom

    return min(1.0, 2 * float(binom.cdf(fewer, num_coins, 0.5)))


def _resampled_means(sides: Sequence[BoolArray | FloatArray], signs: list[float], num_resamples: int) -> FloatArray:
    """Means of the signed sides under the bootstrap, one for each resample.

    Clips with the same pattern of right and wrong over all seeds of all sides are exchangeable, so drawing N clips is
    one multinomial draw over the few patterns: exact, and independent of how many clips there are.
    """
    generator = np.random.Generator(np.random.PCG64(BOOTSTRAP_SEED))
    num_clips = sides[0].shape[1]
    patterns, counts = np.unique(np.concatenate(sides).T, axis=0, return_counts=True)  # (P, seeds of all sides)
    rows_at_once = max(1, _NUMBERS_AT_ONCE // len(patterns))
    means: list[FloatArray] = []
    for start in range(0, num_resamples, rows_at_once):
        rows = min(rows_at_once, num_resamples - start)
        drawn = generator.multinomial(num_clips, counts / num_clips, size=rows)  # (rows, P)
        right = drawn @ patterns.astype(np.float64)  # (rows, seeds of all sides)
        total = np.zeros(rows)
        column = 0
        for side, sign in zip(sides, signs, strict=True):
            num_seeds = len(side)
            weights = generator.multinomial(num_seeds, [1 / num_seeds] * num_seeds, size=rows) / num_seeds
            total += sign * (right[:, column : column + num_seeds] * weights).sum(axis=1) / num_clips
            column += num_seeds
        means.append(total)
    return np.concatenate(means)


def _percentiles(samples: FloatArray, level: float) -> tuple[float, float]:
    low, high = np.quantile(samples, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def _mean_ranks(values: Sequence[float]) -> FloatArray:
    array = np.asarray(values, dtype=np.float64)
    _, inverse, counts = np.unique(array, return_inverse=True, return_counts=True)
    last_rank = np.cumsum(counts)
    return np.asarray((last_rank - (counts - 1) / 2)[inverse], dtype=np.float64)
