"""Intervals of an accuracy, tests of a difference between two rows, and rank correlation.

An accuracy comes from a matrix `correct` of shape (S, N): seeds by clips, true (or 1) where the prediction was right,
false (or 0) where not; a half is a tie. Clips and seeds are both taken as drawn at random: an interval says what
another validation set and another start would change. Nothing is resampled, so that a p-value has no floor.
`python -m benchmarks.verdicts` measures how often intervals cover and how often tests raise a false alarm.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import PipelineError
from pipeline.evaluation.variance import MeanVariance, padded_clips, seed_variance, summed_seeds
from pipeline.shapes import check_shape

LEVEL = 0.95
# The least number of clips with which a sign test can reach 5 %: 2 / 2**6 is below it, 2 / 2**5 is not.
MIN_CLIPS_OF_A_TEST = 6
# Two seeds may agree by chance, and then seem to leave nothing to chance (`python -m benchmarks.verdicts`).
MIN_SEEDS = 3
# Differences of mean correctness below this are rounding: a clip counts as equally often right on both sides.
_TIE = 1e-9

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
    """Accuracy of `a` minus accuracy of `b` on the same clips, in points, with its interval and a test.

    `knows_seeds` is true where both sides have at least `MIN_SEEDS` seeds. Without it, too little is known of what
    another start would change. `only_a` and `only_b` count the clips that one side has right more often than the other,
    over its seeds.
    """

    points: Interval
    p_value: float
    test: str
    knows_seeds: bool
    only_a: int
    only_b: int


def accuracy_interval(correct: BoolArray | FloatArray, *, level: float = LEVEL) -> Interval:
    """Compute the accuracy in percent, mean over seeds, with its interval.

    With one seed this is Wilson's score interval: of clips alone, since one seed says nothing about another. With
    several, the Agresti-Coull interval with the variance of the mean over clips and seeds.

    Shape:
        correct: (S, N), seeds by clips.

    Raises:
        ShapeError: `correct` does not have two axes.
        PipelineError: there is no clip.

    Source: Agresti and Coull, Approximate is better than "exact", 1998, for both intervals of one seed.
    """
    sizes = check_shape("correct", correct, "S N")
    _check_not_empty(correct)
    values = correct.astype(np.float64)
    accuracy = float(values.mean())
    from scipy.special import ndtri  # takes half a second, and most commands need it late or not at all

    added = float(ndtri((1 + level) / 2)) ** 2
    # Clips are added of which half are right: their correctness lies a half from the mean of a half.
    shift, clips = padded_clips(values.mean(axis=0) - 0.5, added, added / 4)
    if sizes["S"] == 1:
        num_clips = sizes["N"]
        squares = num_clips * accuracy * (1 - accuracy) + added / 4
        half_width = math.sqrt(added * squares) / (num_clips + added)
    else:
        half_width = MeanVariance(clips, seed_variance(values), sizes["S"] - 1).half_width(level)
    return _interval(accuracy, 0.5 + shift, half_width, 0.0)


def paired_difference(a: BoolArray, b: BoolArray, *, same_seeds: bool = False, level: float = LEVEL) -> Difference:
    """Compare two rows on the same clips, so that clips which are hard for both cancel out.

    The p-value is the larger of two: of a test of the mean difference over clips and seeds, and of the exact sign test
    over clips (does one side have a clip right in more of its seeds?). With one seed each the latter is McNemar's test
    and stands alone.

    With `same_seeds` row s of both is one start of one head, then and now, and the seeds are compared pair by pair.

    Shape:
        a, b: (S, N) and (R, N), seeds by clips; column n is the same clip in both.

    Raises:
        ShapeError: the two have different numbers of clips, or of seeds although these are the same.
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
    mean, clips = padded_clips(of_clips, 2.0, 1.0)
    if same_seeds:
        variance = MeanVariance(clips, seed_variance(of_a - of_b), max(1, len(a) - 1))
    else:
        variance = MeanVariance(clips, *summed_seeds(of_a, of_b))
    only_a, only_b = int((of_clips > _TIE).sum()), int((of_clips < -_TIE).sum())
    p_value = sign_test(only_a, only_b)
    is_single = len(a) == 1 and len(b) == 1
    if not is_single:
        p_value = max(p_value, variance.tail(abs(mean)))
    if same_seeds and bool((a == b).all()):
        # The same predictions again: nothing has changed, and nothing is uncertain about it.
        points = Interval(0.0, 0.0, 0.0)
    else:
        points = _interval(value, mean, variance.half_width(level), -1.0)
    test = "McNemar" if is_single else "clips and seeds"
    return Difference(points, p_value, test, min(len(a), len(b)) >= MIN_SEEDS, only_a, only_b)


def sign_test(num_plus: int, num_minus: int) -> float:
    """Return the exact two-sided p-value of so many signs of each kind, where each is as likely as the other.

    Of the clips that one of two heads alone has right, this is McNemar's exact test. Never 0, however many signs.

    >>> sign_test(0, 5)
    0.0625
    >>> sign_test(0, 0)
    1.0
    """
    num_signs, fewer = num_plus + num_minus, min(num_plus, num_minus)
    if num_signs < 1000:
        # Whole numbers stay exact; 2**n leaves the range of floats at 1024.
        p_value = 2 * sum(math.comb(num_signs, k) for k in range(fewer + 1)) / 2**num_signs
    else:
        from scipy.special import bdtr

        p_value = 2 * float(bdtr(fewer, num_signs, 0.5))
    return float(min(1.0, max(p_value, sys.float_info.min)))


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


def _interval(value: float, centre: float, half_width: float, lowest: float) -> Interval:
    """Return an interval in percent, cut off at `lowest` and 1, that holds its value whatever rounding does."""
    low, high = max(lowest, centre - half_width), min(1.0, centre + half_width)
    return Interval(100 * value, 100 * min(low, value), 100 * max(high, value))


def _mean_ranks(values: Sequence[float]) -> FloatArray:
    array = np.asarray(values, dtype=np.float64)
    _, inverse, counts = np.unique(array, return_inverse=True, return_counts=True)
    last_rank = np.cumsum(counts)
    return np.asarray((last_rank - (counts - 1) / 2)[inverse], dtype=np.float64)
