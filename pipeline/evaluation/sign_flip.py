"""Exact sign-flip test of paired differences."""

from __future__ import annotations

import math
import sys

import numpy as np
from numpy.typing import NDArray

IntArray = NDArray[np.int64]

# The exact distribution takes this many additions at most, a few hundredths of a second; beyond, it is normal.
_MAX_ADDITIONS = 20_000_000


def sign_flip_test(differences: IntArray) -> float:
    """Return the two-sided p-value of a sum of differences, if each is as likely with the other sign.

    The p-value is the share of all 2^n choices of signs whose sum is at least as far from 0 as the given one. If all
    differences are equal up to their sign, this is the sign test (McNemar's exact test). The distribution is computed,
    not sampled, so only 2 / 2^n limits the p-value. With very many differences it is the normal one.

    Shape:
        differences: (N,), integers.

    Source: Fisher, The design of experiments, 1935, section 21; Pagano and Tritchler, On obtaining permutation
        distributions in polynomial time, 1983, for the computation.

    >>> sign_flip_test(np.array([1, 2, 4]))
    0.25
    >>> sign_flip_test(np.array([1, 1, 1, 1, 1]))
    0.0625
    >>> sign_flip_test(np.array([0, 0]))
    1.0
    """
    found = differences[differences != 0]
    if len(found) == 0:
        return 1.0
    # A common factor changes nothing but the length of the distribution.
    found = found // np.gcd.reduce(found)
    sizes = np.abs(found)
    num_sizes, total, distance = len(sizes), int(sizes.sum()), abs(int(found.sum()))
    if sizes.max() == 1:
        return sign_test((num_sizes + distance) // 2, (num_sizes - distance) // 2)
    if num_sizes * total > _MAX_ADDITIONS:
        return max(sys.float_info.min, math.erfc(distance / math.sqrt(2 * float((sizes.astype(float) ** 2).sum()))))
    # Element k is the probability that the differences with a minus sum to k; the sum of all is then total - 2 k.
    chances = np.zeros(total + 1)
    chances[0], reach = 1.0, 0
    for size in sizes.tolist():
        reach += size
        flipped = chances[: reach + 1 - size].copy()
        chances[size : reach + 1] += flipped
        chances[: reach + 1] /= 2
    # The distribution is symmetric: both tails are equal.
    tail = 2 * float(chances[: (total - distance) // 2 + 1].sum())
    return min(1.0, max(tail, sys.float_info.min))


def sign_test(num_plus: int, num_minus: int) -> float:
    """Return the exact two-sided p-value of the numbers of signs, if both signs are equally likely.

    For the clips on which only one of two heads is correct, this is McNemar's exact test. It is never 0.

    >>> sign_test(0, 5)
    0.0625
    >>> sign_test(0, 0)
    1.0
    """
    num_signs, fewer = num_plus + num_minus, min(num_plus, num_minus)
    if num_signs < 1000:
        # Integers are exact; as a float, 2**n overflows at n = 1024.
        p_value = 2 * sum(math.comb(num_signs, k) for k in range(fewer + 1)) / 2**num_signs
    else:
        from scipy.special import bdtr

        p_value = 2 * float(bdtr(fewer, num_signs, 0.5))
    return float(min(1.0, max(p_value, sys.float_info.min)))
