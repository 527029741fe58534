"""Variance of a mean over clips and seeds, split into the part of the clips and the part of the seeds.

All seeds of a row are scored on the same clips, so the two are crossed, and neither part shrinks with the size of the
other: 5,000 clips do not show the effect of another seed. Only this file handles the axis of the clips.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]

_NUM_STEPS = 200
# The log density of the seeds' variance is integrated down to this far below its peak.
_LOG_RANGE = 40.0


@dataclass(frozen=True)
class MeanVariance:
    """Variance of a mean: `clips` (> 0), which is well known, plus `seeds`, which has few `degrees` of freedom."""

    clips: float
    seeds: float = 0.0
    degrees: float = math.inf

    def tail(self, distance: float) -> float:
        """Return the probability that an error of the mean is at least `distance`, in either direction.

        The error is a normal one of the clips plus a t-distributed one of the seeds. Satterthwaite's rule, one t for
        both, gives too many significant results if the variance of two or three seeds is small by chance.

        Source: Behrens-Fisher problem; Kim and Cohen, On the Behrens-Fisher problem: a review, 1998.
        """
        from scipy.special import ndtr  # imported late: it takes half a second, and few commands need it

        if distance <= 0:
            return 1.0
        if self.seeds <= 0:
            return 2 * float(ndtr(-distance / math.sqrt(self.clips)))
        # t is normal with a variance of 1 / u, where degrees * u has a chi-squared distribution; x is the log of u.
        half = self.degrees / 2
        reach = math.sqrt(2 * _LOG_RANGE / half)
        x = np.linspace(-_LOG_RANGE / half - reach, reach, _NUM_STEPS)
        density = np.exp(half * (x - np.expm1(x)))
        tails = 2 * ndtr(-distance / np.sqrt(self.clips + self.seeds * np.exp(-x)))
        return float(tails @ density / density.sum())

    def half_width(self, level: float) -> float:
        """Return the distance that an error does not exceed with probability `level`."""
        from scipy.optimize import brentq
        from scipy.special import ndtri

        lowest = math.sqrt(self.clips + self.seeds) * float(ndtri((1 + level) / 2))
        if self.seeds <= 0:
            return lowest
        highest = lowest
        while self.tail(highest) > 1 - level:
            highest *= 2
        return float(brentq(lambda distance: self.tail(distance) - (1 - level), lowest / 2, highest, rtol=1e-9))


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


def padded_clips(of_clips: FloatArray, added: float, added_squares: float) -> tuple[float, float]:
    """Return mean and variance of the mean over clips, after adding pseudo-clips.

    Without them the mean of equal values, such as 33 correct of 33, would have no variance. The `added` clips have a
    mean of a half for an accuracy and of 0 for a difference (the caller chooses the origin), and the sum of squares
    `added_squares` around it.

    Shape:
        of_clips: (N,), one value per clip, as differences from the mean of the added clips.
    """
    num_clips = len(of_clips) + added
    mean = float(of_clips.sum()) / num_clips
    squares = float((of_clips**2).sum()) + added_squares
    return mean, (squares / num_clips - mean**2) / num_clips
