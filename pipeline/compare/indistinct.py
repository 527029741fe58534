"""What a group of rows does not show: rows that cannot be told apart, differences too small to see, unstable ranks."""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Sequence

from pipeline.compare.comparison import SIGNIFICANCE, Group, Row
from pipeline.evaluation.statistics import (
    MIN_CLIPS_OF_A_TEST,
    MIN_SEEDS,
    rank_correlation,
    smallest_detectable,
    smallest_p_value,
)


def detectable_sentence(group: Group) -> str | None:
    """Return the smallest difference that the median pair of rows would show; None without a pair that is tested.

    If the clips, or their groups, are too few for any pair to be significant, the sentence says this instead.
    """
    tests = [test for test in group.tests if test.difference.knows_seeds]
    if not tests:
        return None
    smallest = min(1.0, len(tests) * smallest_p_value(group.num_drawn))
    if smallest >= SIGNIFICANCE and not any(test.is_significant for test in tests):
        return _too_few_sentence(group, len(tests), smallest)
    sizes = [smallest_detectable(test.difference) for test in tests]
    seeds = sorted({len(row.top1_of_seeds) for row in group.rows if row.knows_seeds})
    predictions = group.rows[0].run.predictions
    groups = "" if predictions.num_groups is None else f" in {predictions.num_groups:,} groups"
    return (
        f"Differences under {statistics.median(sizes):.1f} points of top-1 are likely to be missed with these "
        f"{len(predictions.clip_ids):,} clips{groups} and {' or '.join(map(str, seeds))} seeds (median pair, 5 %, "
        "power 80 %)."
    )


def _too_few_sentence(group: Group, num_pairs: int, smallest: float) -> str:
    """Return that no pair can be significant: its p-value, adjusted for all pairs, is never below `smallest`."""
    drawn = "clip" if group.rows[0].run.predictions.num_groups is None else "group"
    pairs = _counted(num_pairs, "pair")
    without = f" without {group.rows[0].label}" if group.has_best else ""
    adjusted = f", adjusted for {pairs}," if num_pairs > 1 else ""
    sentence = (
        f"With {_counted(group.num_drawn, drawn)} and {pairs} of rows, no pair{without} can be told apart: the "
        f"smallest possible p-value{adjusted} is {smallest:.2g}."
    )
    if group.has_best or group.num_drawn < MIN_CLIPS_OF_A_TEST:
        return sentence
    return (
        f"{sentence} Only a row that is better than every other row can be named, because this claim needs no "
        "adjustment."
    )


def _counted(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def indistinct_sets(group: Group) -> list[list[Row]]:
    """Return the largest runs of neighbouring rows of which no two are significantly different.

    Rows with too few seeds are left out. A row may be in several sets: that two rows cannot be told apart from a third
    does not mean that they are equal.
    """
    known = [row for row in group.rows if row.knows_seeds]
    found: list[list[Row]] = []
    last_end = 0
    for start in range(len(known)):
        end = start + 1
        while end < len(known) and not any(group.are_distinct(row, known[end]) for row in known[start:end]):
            end += 1
        if end > last_end and end - start > 1:
            found.append(known[start:end])
        last_end = max(last_end, end)
    return found


def indistinct_sentence(group: Group) -> str | None:
    """Return the sets of rows that cannot be told apart; None if there is none."""
    sets = indistinct_sets(group)
    if not sets:
        return None
    return f"Not told apart: {'; '.join('{' + ', '.join(row.label for row in members) + '}' for members in sets)}."


def rank_sentence(rows: Sequence[Row]) -> str | None:
    """Return how far single seeds agree on the order of the rows; None for fewer than four rows of several seeds.

    It is the mean of Spearman's rank correlation over pairs of seeds; seed s of every row is regarded as one study.
    """
    known = [row for row in rows if row.knows_seeds]
    if len(known) < 4:
        return None
    num_seeds = min(len(row.top1_of_seeds) for row in known)
    studies = [[row.top1_of_seeds[seed] for row in known] for seed in range(num_seeds)]
    values = [rank_correlation(a, b) for a, b in itertools.combinations(studies, 2)]
    defined = [value for value in values if value is not None]
    if not defined:
        return None
    num_first = sum(max(study) == study[0] for study in studies)
    return (
        f"Rank correlation of the rows between single seeds: {statistics.fmean(defined):+.2f} on average; the best row "
        f"is first in {num_first} of {num_seeds} seeds ({len(known)} rows of at least {MIN_SEEDS} seeds)."
    )
