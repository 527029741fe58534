"""Expected best score of a search as a function of its budget, from one search in random order.

Source: J. Dodge, S. Gururangan, D. Card, R. Schwartz, N. A. Smith: Show Your Work: Improved Reporting of Experimental
Results, EMNLP 2019, Sec. 3. They draw trials with replacement, which is biased; here they are drawn without, as in
R. Tang et al.: Showing Your Work Doesn't Always Work, ACL 2020, Sec. 3.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import comb

LOW, HIGH = 0.025, 0.975


@dataclass(frozen=True)
class BudgetCurve:
    """Best selection score after k = 1 … n trials in random order: mean, and the range of 95 % of all orders."""

    expected: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]

    @property
    def num_trials(self) -> int:
        return len(self.expected)


def expected_best(scores: Sequence[float]) -> BudgetCurve:
    """Compute the expected best of k of n trials for each k; a failed trial has the score 0.

    Of all sets of k trials, the share C(i, k) / C(n, k) has its best among the i lowest scores, and C(i, k - 1) sets
    have the score with i lower ones as their best.

    >>> expected_best([10.0, 20.0, 60.0]).expected
    (30.0, 46.666666666666664, 60.0)
    """
    ordered, num = sorted(scores), len(scores)
    expected, low, high = [], [], []
    for size in range(1, num + 1):
        num_sets = comb(num, size)
        expected.append(sum(score * comb(index, size - 1) for index, score in enumerate(ordered)) / num_sets)
        shares = [comb(index, size) / num_sets for index in range(1, num + 1)]
        low.append(next(score for score, share in zip(ordered, shares, strict=True) if share >= LOW))
        high.append(next(score for score, share in zip(ordered, shares, strict=True) if share >= HIGH))
    return BudgetCurve(tuple(expected), tuple(low), tuple(high))


def crossings(one: BudgetCurve, other: BudgetCurve) -> list[int]:
    """Return the numbers of trials at which the order of two curves differs from that at the budget before.

    Equal values keep the order before them.

    >>> crossings(expected_best([10.0, 20.0, 60.0]), expected_best([35.0, 35.0, 35.0]))
    [2]
    """
    found: list[int] = []
    sign = 0
    for size, (a, b) in enumerate(zip(one.expected, other.expected, strict=False), start=1):
        now = (a > b) - (a < b)
        if sign and now and now != sign:
            found.append(size)
        sign = now or sign
    return found
