"""Variance of a mean over clips and seeds, split into the part of the clips and the part of the seeds.

All seeds of a row are scored on the same clips, so the two are crossed, and neither part shrinks with the size of the
other: 5,000 clips do not show the effect of another seed. Only this file handles the axis of the clips.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]

_NUM_STEPS, _NUM_STEPS_OF_TWO = 200, 48
_ROOT_TOLERANCE, _MAX_ROOT_STEPS = 1e-12, 100
# The log density of the seeds' variance is integrated down to this far below its peak.
_LOG_RANGE = 40.0


@dataclass(frozen=True)
class MeanVariance:
    """Variance of a mean: `clips` (> 0) plus `seeds`, each with its degrees of freedom.

    The clips' part is well known, unless the clips come from few groups; the seeds' part has few `degrees`.
    """

    clips: float
    seeds: float = 0.0
    degrees: float = math.inf
    clip_degrees: float = math.inf

    def tail(self, distance: float) -> float:
        """Return the probability that an error of the mean is at least `distance`, in either direction.

        The error is a normal one of the clips (t-distributed for groups of clips) plus a t-distributed one of the
        seeds. Satterthwaite's rule, one t for both, gives too many significant results if the variance of two or three
        seeds is small by chance.

        Source: Behrens-Fisher problem; Kim and Cohen, On the Behrens-Fisher problem: a review, 1998.
        """
        if distance <= 0:
            return 1.0
        num_steps = _NUM_STEPS if math.isinf(self.clip_degrees) else _NUM_STEPS_OF_TWO
        of_clips, clip_weights = _inverse_chi_squared(self.clip_degrees, num_steps)
        of_seeds, seed_weights = _inverse_chi_squared(self.degrees if self.seeds > 0 else math.inf, num_steps)
        variances = self.clips * of_clips[:, None] + max(self.seeds, 0.0) * of_seeds
        reached = distance / np.sqrt(2 * variances)
        return float(clip_weights @ _erfc(reached) @ seed_weights)

    def half_width(self, level: float) -> float:
        """Return the distance that an error does not exceed with probability `level`."""
        lowest = math.sqrt(self.clips + self.seeds) * normal_quantile(level)
        if self.seeds <= 0 and math.isinf(self.clip_degrees):
            return lowest
        highest = lowest
        while self.tail(highest) > 1 - level:
            highest *= 2
        return _root(lambda distance: self.tail(distance) - (1 - level), lowest / 2, highest)


def _erfc(values: FloatArray) -> FloatArray:
    if values.size > _NUM_STEPS:
        from scipy.special import erfc  # only for groups: its import takes longer than a comparison without them

        return np.asarray(erfc(values))
    return np.array([math.erfc(value) for value in values.ravel().tolist()]).reshape(values.shape)


def _inverse_chi_squared(degrees: float, num_steps: int) -> tuple[FloatArray, FloatArray]:
    """Return factors of a variance with so many degrees of freedom, and their probabilities.

    A t-distributed error is normal with a variance of 1 / u, where degrees * u has a chi-squared distribution.
    """
    if math.isinf(degrees):
        return np.ones(1), np.ones(1)
    half = degrees / 2
    reach = math.sqrt(2 * _LOG_RANGE / half)
    x = np.linspace(-_LOG_RANGE / half - reach, reach, num_steps)  # logarithms of u
    density = np.exp(half * (x - np.expm1(x)))
    return np.exp(-x), density / density.sum()


def normal_quantile(level: float) -> float:
    """Return the number of standard deviations that a normal error does not exceed with probability `level`."""
    return NormalDist().inv_cdf((1 + level) / 2)


def _root(function: Callable[[float], float], low: float, high: float) -> float:
    """Return the root of a decreasing function between two values, by the Illinois method (regula falsi)."""
    at_low, at_high = function(low), function(high)
    middle = low
    for _ in range(_MAX_ROOT_STEPS):
        previous, middle = middle, high - at_high * (high - low) / (at_high - at_low)
        value = function(middle)
        if value == 0 or abs(middle - previous) < _ROOT_TOLERANCE * middle:
            break
        if value > 0:
            low, at_low, at_high = middle, value, at_high / 2
        else:
            high, at_high, at_low = middle, value, at_low / 2
    return middle


def seed_variance(values: FloatArray) -> float:
    """Estimate the variance that seeds add to the mean of `values`; 0 with one seed, for which it is unknown.

    The means of seeds also differ because each seed misclassifies other clips by chance. This part belongs to the clips
    and is subtracted, as in an analysis of variance of clips crossed with seeds.

    Shape:
        values: (S, N), seeds by clips.
    """
    num_seeds, num_clips = values.shape
    if num_seeds == 1:
        return 0.0
    of_seeds = values.mean(axis=1)  # (S,)
    variance = float(of_seeds.var(ddof=1))
    if num_clips > 1:
        residuals = values - values.mean(axis=0) - of_seeds[:, None] + values.mean()
        variance -= float((residuals**2).sum()) / ((num_seeds - 1) * (num_clips - 1) * num_clips)
    # For equal seeds, the remainder is rounding.
    return variance / num_seeds if variance > 1e-15 else 0.0


def summed_seeds(a: FloatArray, b: FloatArray) -> tuple[float, float]:
    """Estimate the seeds' variance of the difference of two means, and its degrees of freedom by Welch's rule.

    Both sides get the larger of their two variances of a single seed: with two or three seeds, the smaller one is often
    small by chance, and the sum of both would give more than 6 % false alarms. A side of one seed adds nothing.

    Shape:
        a, b: (S, N) and (R, N), seeds by clips.
    """
    parts = [(seed_variance(side), len(side)) for side in (a, b) if len(side) > 1]
    total = sum(variance for variance, _ in parts)
    if total == 0:
        return 0.0, math.inf
    degrees = total**2 / sum(variance**2 / (num_seeds - 1) for variance, num_seeds in parts)
    of_one_seed = max(variance * num_seeds for variance, num_seeds in parts)
    return of_one_seed * sum(1 / num_seeds for _, num_seeds in parts), degrees


def design_effect(of_clips: FloatArray, groups: NDArray[np.int64]) -> float:
    """Return the variance of the mean if whole groups of clips are drawn, divided by that of independent clips.

    It is at least 1, and the number of clips per group if all values are equal, because then they do not tell.

    Shape:
        of_clips: (N,), one value per clip; groups: (N,), index of the group of each clip.

    Source: Kish, Survey sampling, 1965; the variance is that of Liang and Zeger, 1986, times G / (G - 1).
    """
    num_clips, num_groups = len(of_clips), int(groups.max()) + 1
    residuals = of_clips - of_clips.mean()
    squares = float((residuals**2).sum())
    if num_groups == 1:
        return float(num_clips)
    if squares < 1e-12:
        return num_clips / num_groups
    of_groups = np.bincount(groups, weights=residuals)
    ratio = float((of_groups**2).sum()) * num_groups / (num_groups - 1) / (squares * num_clips / (num_clips - 1))
    return max(1.0, ratio)


def padded_clips(of_clips: FloatArray, added: float, added_squares: float, effect: float = 1.0) -> tuple[float, float]:
    """Return mean and variance of the mean over clips, after adding pseudo-clips.

    Without them the mean of equal values, such as 33 correct of 33, would have no variance. The `added` clips have a
    mean of a half for an accuracy and of 0 for a difference (the caller chooses the origin), and the sum of squares
    `added_squares` around it. With a design `effect` above 1, the clips count as fewer independent ones.

    Shape:
        of_clips: (N,), one value per clip, as differences from the mean of the added clips.
    """
    num_clips = len(of_clips) / effect + added
    mean = float(of_clips.sum()) / effect / num_clips
    squares = float((of_clips**2).sum()) / effect + added_squares
    return mean, (squares / num_clips - mean**2) / num_clips
