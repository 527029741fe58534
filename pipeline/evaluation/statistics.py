"""Confidence intervals of an accuracy, significance tests of a difference, and rank correlation.

An accuracy is computed from a matrix `correct` of shape (S, N), seeds by clips: true (or 1) for a correct prediction,
false (or 0) for a wrong one, and a half for a tie. Clips and seeds are both regarded as random samples: an interval
includes the effect of other clips and other seeds. Nothing is resampled, so only the number of clips limits a p-value
(`smallest_p_value`).

Clips of one group (of one person or recording) are not independent. With `groups`, whole groups are the random sample:
the variance is that of the groups, with one degree of freedom fewer than groups, and the sign-flip test flips groups.
`python -m benchmarks.verdicts` measures the coverage of intervals and the false alarms of tests.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import PipelineError
from pipeline.evaluation.sign_flip import sign_flip_test
from pipeline.evaluation.variance import (
    MeanVariance,
    design_effect,
    normal_quantile,
    padded_clips,
    seed_variance,
    summed_seeds,
)
from pipeline.shapes import check_shape

LEVEL = 0.95
# The minimum number of clips for which a sign-flip test can reach 5 %: 2 / 2**6 is below it, 2 / 2**5 is not.
MIN_CLIPS_OF_A_TEST = 6
# Two seeds may agree by chance, and then their variance seems to be zero (`python -m benchmarks.verdicts`).
MIN_SEEDS = 3

BoolArray = NDArray[np.bool_]
FloatArray = NDArray[np.float64]
Groups = NDArray[np.int64]


@dataclass(frozen=True)
class Interval:
    """A value and its confidence interval, in the unit of the value (percent, or points for a difference)."""

    value: float
    low: float
    high: float

    def text(self) -> str:
        """Return the value with its interval, to one decimal.

        >>> Interval(96.04, 92.6, 97.8).text()
        '96.0 [92.6, 97.8]'
        """
        return f"{self.value:.1f} [{self.low:.1f}, {self.high:.1f}]"


@dataclass(frozen=True)
class Difference:
    """Accuracy of `a` minus accuracy of `b` on the same clips, in points, with its interval and a test.

    `knows_seeds` is whether both sides have at least `MIN_SEEDS` seeds; with fewer, the effect of the seed is unknown.
    `only_a` and `only_b` count the clips on which one side is correct in a larger share of its seeds.
    """

    points: Interval
    p_value: float
    test: str
    knows_seeds: bool
    only_a: int
    only_b: int


def accuracy_interval(
    correct: BoolArray | FloatArray, *, groups: Groups | None = None, level: float = LEVEL
) -> Interval:
    """Compute the accuracy in percent, averaged over seeds, with its interval.

    With one seed this is Wilson's score interval over clips. With several seeds it is the Agresti-Coull interval with
    the variance of the mean over clips and seeds.

    Shape:
        correct: (S, N), seeds by clips; groups: (N,), index of the group of each clip.

    Raises:
        ShapeError: `correct` does not have two axes.
        PipelineError: there is no clip.

    Source: Agresti and Coull, Approximate is better than "exact", 1998, for both intervals of one seed.
    """
    sizes = check_shape("correct", correct, "S N")
    _check_not_empty(correct)
    values = correct.astype(np.float64)
    accuracy = float(values.mean())
    added = normal_quantile(level) ** 2
    # Half of the added clips are correct: each differs by a half from their mean of a half.
    of_clips = values.mean(axis=0)
    effect, clip_degrees = _clustering(of_clips, groups)
    shift, clips = padded_clips(of_clips - 0.5, added, added / 4, effect)
    if groups is not None:
        seeds = seed_variance(values)
        half_width = MeanVariance(clips, seeds, max(1, sizes["S"] - 1), clip_degrees).half_width(level)
    elif sizes["S"] == 1:
        num_clips = sizes["N"]
        squares = num_clips * accuracy * (1 - accuracy) + added / 4
        half_width = math.sqrt(added * squares) / (num_clips + added)
    else:
        half_width = MeanVariance(clips, seed_variance(values), sizes["S"] - 1).half_width(level)
    return _interval(accuracy, 0.5 + shift, half_width, 0.0)


def paired_difference(
    a: BoolArray, b: BoolArray, *, groups: Groups | None = None, same_seeds: bool = False, level: float = LEVEL
) -> Difference:
    """Compare two rows on the same clips, so that shared difficulty cancels.

    The p-value is the larger of two: of a test of the mean difference over clips and seeds, and of the exact sign-flip
    test over clips, in which the two sides change places on any of them. With one seed each, the latter is McNemar's
    test and the only one.

    With `same_seeds`, row s of both has the same seed of one head, before and now, and seeds are compared pair by pair.

    Shape:
        a, b: (S, N) and (R, N), seeds by clips; column n is the same clip in both.
        groups: (N,), index of the group of each clip.

    Raises:
        ShapeError: the two have different numbers of clips, or of seeds with `same_seeds`.
        PipelineError: there is no clip.

    Source: Agresti and Min, Simple improved confidence intervals for comparing matched proportions, 2005, for the
        clips' part: two clips are added, one of them discordant by a half to either side.
    """
    sizes = check_shape("a", a, "S N")
    if same_seeds:
        check_shape("b", b, "S N", S=sizes["S"], N=sizes["N"])
    else:
        check_shape("b", b, "R N", N=sizes["N"])
    _check_not_empty(a)
    of_a, of_b = a.astype(np.float64), b.astype(np.float64)
    of_clips = of_a.mean(axis=0) - of_b.mean(axis=0)  # (N,)
    value = float(of_clips.mean())
    effect, clip_degrees = _clustering(of_clips, groups)
    # The added clips belong to no group: the effect of groups multiplies the variance with them.
    mean, clips = padded_clips(of_clips, 2.0, 1.0)
    clips *= effect
    if same_seeds:
        variance = MeanVariance(clips, seed_variance(of_a - of_b), max(1, len(a) - 1), clip_degrees)
    else:
        variance = MeanVariance(clips, *summed_seeds(of_a, of_b), clip_degrees)
    # Differences of counts, in units of 1 / (S * R) of a clip: integers, so that equal ones are exactly equal.
    counts = a.sum(axis=0, dtype=np.int64) * len(b) - b.sum(axis=0, dtype=np.int64) * len(a)
    p_value = sign_flip_test(counts if groups is None else np.bincount(groups, counts).astype(np.int64))
    is_single = len(a) == 1 and len(b) == 1 and groups is None
    if not is_single:
        p_value = max(p_value, variance.tail(abs(mean)))
    if same_seeds and bool((a == b).all()):
        # Identical predictions: the difference is exactly zero.
        points = Interval(0.0, 0.0, 0.0)
    else:
        points = _interval(value, mean, variance.half_width(level), -1.0)
    test = "McNemar" if is_single else "clips and seeds" if groups is None else "groups of clips and seeds"
    only_a, only_b = int((counts > 0).sum()), int((counts < 0).sum())
    return Difference(points, p_value, test, min(len(a), len(b)) >= MIN_SEEDS, only_a, only_b)


def smallest_detectable(difference: Difference) -> float:
    """Return the true difference in points that this test would find with a probability of about 80 %, at 5 %.

    A test finds a difference that exceeds the half-width of its interval; 80 % of the errors are above -0.84 standard
    deviations.
    """
    half_width = (difference.points.high - difference.points.low) / 2
    return half_width * (1 + normal_quantile(0.6) / normal_quantile(LEVEL))


def smallest_p_value(num_drawn: int) -> float:
    """Return the smallest p-value that `paired_difference` can give for a number of clips, or of groups of clips.

    The sign-flip test gives it if every clip or group favours the same side equally: 2 of all 2^n choices of signs are
    then as far from 0. (With very many differences, its normal approximation may be slightly below.)

    >>> smallest_p_value(7)
    0.015625
    """
    return 2.0 ** (1 - num_drawn)


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjust p-values for testing many pairs (Holm's step-down rule), in the given order.

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
    """Compute Spearman's rank correlation; equal values share the mean of their ranks.

    It is None if it is not defined: for fewer than two values, or if all values of one side are equal.

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


def _clustering(of_clips: FloatArray, groups: Groups | None) -> tuple[float, float]:
    """Return design effect and degrees of freedom of the clips' variance: 1 and infinity for independent clips."""
    if groups is None:
        return 1.0, math.inf
    check_shape("groups", groups, "N", N=len(of_clips))
    return design_effect(of_clips, groups), max(1, int(groups.max()))


def _check_not_empty(correct: BoolArray | FloatArray) -> None:
    if correct.size == 0:
        raise PipelineError("There is no labelled clip to score. An accuracy needs at least one.")


def _interval(value: float, centre: float, half_width: float, lowest: float) -> Interval:
    """Return an interval in percent, limited to `lowest` and 1, that contains its value despite rounding."""
    low, high = max(lowest, centre - half_width), min(1.0, centre + half_width)
    return Interval(100 * value, 100 * min(low, value), 100 * max(high, value))


def _mean_ranks(values: Sequence[float]) -> FloatArray:
    array = np.asarray(values, dtype=np.float64)
    _, inverse, counts = np.unique(array, return_inverse=True, return_counts=True)
    last_rank = np.cumsum(counts)
    return np.asarray((last_rank - (counts - 1) / 2)[inverse], dtype=np.float64)
