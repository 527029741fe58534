"""State which head of a table is better than which, as far as the paired tests show it."""

from __future__ import annotations

from collections.abc import Sequence

from pipeline.compare.comparison import SIGNIFICANCE, Group, Row
from pipeline.evaluation.statistics import MIN_CLIPS_OF_A_TEST, MIN_SEEDS


def verdict_of(group: Group) -> str:
    """Return a sentence that names the best row, or the reason why no row can be called better.

    "Better than the other 3" selects rows by their results, so these p-values are adjusted over all pairs.
    """
    best, others = group.rows[0], group.rows[1:]
    if not others:
        return f"{best.label} is the only row: there is nothing to compare it with."
    highest = f"{best.label} has the highest top-1, {best.top1.value:.1f} %"
    tests = [group.test_of(best, row) for row in others]
    tested = [(row, test) for row, test in zip(others, tests, strict=True) if test.difference.knows_seeds]
    not_known = "the effect of another seed is unknown"
    if not best.knows_seeds:
        return f"{highest}. {_few_seeds_text([best])}: {not_known}, so it is not called better."
    few_seeds = [row for row in others if not row.knows_seeds]
    labels = "; ".join(row.label for row in few_seeds)
    unknown = f" {_few_seeds_text(few_seeds)}, so {not_known}: {labels}." if few_seeds else ""
    if not tested:
        return f"{highest}.{unknown}"
    if group.num_drawn < MIN_CLIPS_OF_A_TEST:
        has_groups = best.run.predictions.num_groups is not None
        what = f"Fewer than {MIN_CLIPS_OF_A_TEST} {'groups of clips' if has_groups else 'clips'}"
        return f"{highest}. {what} are too few to call a row better.{unknown}"
    rule = f"paired tests, {100 * SIGNIFICANCE:.0f} %"
    if group.has_best:
        second = tested[0][0]
        compared = "every other row" + (f" of {MIN_SEEDS} or more seeds" if few_seeds else "")
        lead = f"{best.top1.value - second.top1.value:.1f} points above the next, {second.label}"
        return f"{best.label} is better than {compared} ({rule}): top-1 {best.top1.value:.1f} %, {lead}.{unknown}"
    level = [row.label for row, test in tested if not test.is_significant]
    num_worse = len(tested) - len(level)
    rest = ""
    if num_worse:
        rest = f" It is better than {'the one other row' if num_worse == 1 else f'the other {num_worse}'}."
    elif not any(test.is_significant for test in group.tests):
        rest = " No row is significantly better than another."
    rule = f"{rule}, Holm over all pairs"
    return f"{highest}; not significantly different from it ({rule}): {'; '.join(level)}.{rest}{unknown}"


def _few_seeds_text(rows: Sequence[Row]) -> str:
    return "One seed" if all(len(row.top1_of_seeds) == 1 for row in rows) else f"Fewer than {MIN_SEEDS} seeds"
