"""Say which heads can read the order of frames, and which of these are shown to use it.

The certificate (`blind`, `ordered`) is a property of a head's definition. Use of order is a property of a fitted model:
it loses accuracy on shuffled clips, or tells labels apart that are each other's reverse in time.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np

from pipeline.compare.comparison import Group, Row
from pipeline.evaluation.statistics import MIN_CLIPS_OF_A_TEST, Interval, accuracy_interval
from pipeline.registry import BLIND, ORDERED

PAIRS_CHANCE = 50.0


def shuffled_loss(row: Row) -> Interval | None:
    """Return the points of top-1 that a row loses on shuffled clips, with a 95 % interval; None without the order test.

    The results keep no single clips of an order test, so the interval is that of two independent accuracies, each as
    uncertain as the row's top-1 at least: wider than a paired one.
    """
    drop = row.order_test_drops.get("shuffled")
    if drop is None:
        return None
    num_clips = len(row.run.predictions.clip_ids)
    num_right = round((row.top1.value - drop) / 100 * num_clips)
    own, shuffled = row.top1, accuracy_interval((np.arange(num_clips) < num_right)[None])
    width = (own.high - own.low) / 2
    half_width = math.hypot(width, max(width, (shuffled.high - shuffled.low) / 2))
    return Interval(drop, drop - half_width, drop + half_width)


def uses_order(row: Row) -> bool | None:
    """Return whether an interval shows that a fitted head uses order; None for a blind or unknown head."""
    if row.order != ORDERED:
        return None
    loss = shuffled_loss(row)
    return (row.pairs is not None and row.pairs.low > PAIRS_CHANCE) or (loss is not None and loss.low > 0)


def use_text(row: Row) -> str:
    """Return `yes`, `not shown`, or an empty text for a blind head."""
    return {True: "yes", False: "not shown", None: ""}[uses_order(row)]


def order_sentences(group: Group) -> list[str]:
    """Return sentences about the heads of a group that cannot read order, or are not shown to use it."""
    rows = group.rows
    blind = [row for row in rows if row.order == BLIND]
    told = [row for row in blind if row.pairs is not None and row.pairs.low > PAIRS_CHANCE]
    unused = [row for row in rows if uses_order(row) is False and row.order_test_drops]
    sentences: list[str] = []
    if blind:
        sentences.append(
            f"Blind to order by definition (100 random orders change no score): {_labels(blind)}. Nothing that they "
            "score well on needs the order of frames."
        )
        # Being first says something only beside a head that can read order, and on enough clips for a verdict.
        has_ordered = any(row.order == ORDERED for row in rows)
        if blind[0] is rows[0] and has_ordered and group.num_drawn >= MIN_CLIPS_OF_A_TEST:
            sentences.append(
                f"{rows[0].label} is blind and has the highest top-1: no head here that can read order scored higher."
            )
    if told:
        found = "; ".join(f"{row.label} {row.pairs.text()}" for row in told if row.pairs is not None)
        sentences.append(
            f"Warning: a blind head tells the pairs apart ({found}), so something else than order does, such as the "
            "appearance of the clips. The pairs of the other heads are no evidence of order either."
        )
    if unused:
        sentences.append(
            f"Ordered, but not shown to use order, neither by pairs (above {PAIRS_CHANCE:.0f}) nor by a loss on "
            f"shuffled clips (above 0): {_labels(unused)}."
        )
    return sentences


def _labels(rows: Iterable[Row]) -> str:
    return "; ".join(row.label for row in rows)
