"""Table of the classes: each measure with its interval, whether the class needs order, and its reverse."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.evaluation.result_writer import csv_text
from pipeline.evaluation.statistics import Interval, accuracy_interval, paired_difference
from pipeline.temporality.measure import MEASURES, Measured
from pipeline.temporality.pairs import ReversePair

ALL_CLASSES = "all classes"


@dataclass(frozen=True)
class ClassRow:
    """Measures of a class in percent, and the points that order adds to what all frames in no order give.

    reverse: the class that is its reverse in time, confirmed; "" without one.
    """

    label: str
    num_clips: int
    measures: Mapping[str, Interval]
    order_gain: Interval
    reverse: str

    @property
    def needs_order(self) -> bool:
        """Whether order adds accuracy beyond the interval."""
        return self.order_gain.low > 0


def class_rows(found: Measured, pairs: Sequence[ReversePair]) -> list[ClassRow]:
    """Return a row for each class with reported clips, and one for all classes at the end."""
    reverse = {one: other for pair in pairs if pair.is_confirmed for one, other in (pair.labels, pair.labels[::-1])}
    rows = []
    for index, label in enumerate((*found.classes, ALL_CLASSES)):
        clips = np.full(len(found.labels), True) if label == ALL_CLASSES else found.labels == index
        if not clips.any():
            continue
        groups = None if found.groups is None else np.unique(found.groups[clips], return_inverse=True)[1]
        right = {name: values[:, clips] for name, values in found.right.items()}
        gain = paired_difference(right["ordered"] > 0, right["unordered"] > 0, groups=groups)
        measures = {name: accuracy_interval(right[name], groups=groups) for name in MEASURES}
        rows.append(ClassRow(label, int(clips.sum()), measures, gain.points, reverse.get(label, "")))
    return rows


def temporal_classes(rows: Sequence[ClassRow]) -> list[str]:
    """Return the classes that are shown to need order, or whose reverse is confirmed."""
    return [row.label for row in rows if row.label != ALL_CLASSES and (row.needs_order or row.reverse)]


def shown_text(num_shown: int, num_classes: int) -> str:
    """Return how many classes are in the list, as a claim about those only: the others may need order, too.

    >>> shown_text(0, 4)
    '0 of 4 classes are shown to need order or to have a reverse'
    """
    verb = "is" if num_shown == 1 else "are"
    return f"{num_shown} of {num_classes} classes {verb} shown to need order or to have a reverse"


def rows_csv(rows: Sequence[ClassRow]) -> str:
    """Return the rows as CSV, with the intervals."""
    names = [f"{name}{end}" for name in (*MEASURES, "order_gain") for end in ("", "_low", "_high")]
    return csv_text(
        ["label", "num_clips", *names, "needs_order", "reverse"],
        [
            [
                row.label,
                row.num_clips,
                *_numbers([*row.measures.values(), row.order_gain]),
                row.needs_order,
                row.reverse,
            ]
            for row in rows
        ],
    )


def pairs_csv(pairs: Sequence[ReversePair]) -> str:
    """Return the pairs as CSV, with the intervals."""
    names = [f"{name}{end}" for name in ("swapped_reversed", "swapped_in_order") for end in ("", "_low", "_high")]
    return csv_text(
        ["label", "reverse", "proposed", "confirmed", *names],
        [
            [
                *pair.labels,
                pair.is_proposed,
                pair.is_confirmed,
                *_numbers((pair.swapped_reversed, pair.swapped_in_order)),
            ]
            for pair in pairs
        ],
    )


def markdown(found: Measured, rows: Sequence[ClassRow], pairs: Sequence[ReversePair]) -> str:
    """Return both tables as Markdown, with what the columns mean."""
    header = ["class", "clips", *(name.replace("_", " ") for name in MEASURES), "order adds", "reverse"]
    lines = _markdown_lines(header, [_cells(row) for row in rows], num_text=1)
    confirmed = [pair for pair in pairs if pair.is_confirmed]
    rows_of_pairs = [
        [
            " / ".join(pair.labels),
            "yes" if pair.is_proposed else "no",
            pair.swapped_reversed.text(),
            pair.swapped_in_order.text(),
            "confirmed" if pair.is_confirmed else "not confirmed",
        ]
        for pair in pairs
    ]
    num_seeds = found.predicted.shape[0]
    groups = "" if found.groups is None else f" in {int(found.groups.max()) + 1:,} groups"
    parts = [
        f"{len(found.labels):,} clips{groups} of {found.reported_on}, {len(found.classes)} classes, "
        f"head `{found.head}`, {num_seeds} {'seed' if num_seeds == 1 else 'seeds'}; percent, with 95 % intervals over "
        f"{'groups of clips' if groups else 'clips'} and seeds.",
        "\n".join(lines),
        "\n".join(
            [
                *(f"- {name.replace('_', ' ')}: {text}" for name, text in MEASURES.items()),
                "- order adds: points of ordered over unordered on the same clips; with a star if the class is shown "
                "to need order: the interval is above 0",
                "- reverse: the class for which reversed clips are taken, if confirmed",
            ]
        ),
    ]
    if pairs:
        header = ["pair", "by text", "swapped when reversed", "swapped in order", ""]
        parts += [
            "### Classes that are each other's reverse",
            "\n".join(_markdown_lines(header, rows_of_pairs, num_text=1)),
        ]
    if confirmed:
        texts = ",".join(":".join(pair.labels) for pair in confirmed)
        parts.append(f'For the table of heads: `pipeline compare --pairs "{texts}"`.')
    return "\n\n".join(parts) + "\n"


def _cells(row: ClassRow) -> list[str]:
    gain = row.order_gain
    mark = " *" if row.needs_order else ""
    return [
        row.label,
        f"{row.num_clips:,}",
        *(interval.text() for interval in row.measures.values()),
        f"{gain.value:+.1f} [{gain.low:+.1f}, {gain.high:+.1f}]{mark}",
        row.reverse,
    ]


def _markdown_lines(header: Sequence[str], rows: Sequence[Sequence[str]], num_text: int) -> list[str]:
    rule = ["---"] * num_text + ["---:"] * (len(header) - num_text)
    return ["| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in (header, rule, *rows)]


def _numbers(intervals: Sequence[Interval]) -> list[float]:
    return [round(value, 4) + 0.0 for each in intervals for value in (each.value, each.low, each.high)]
