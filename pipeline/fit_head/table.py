"""Format the table that `fit-head` prints."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.evaluation.selection import SELECTED_ON_REPORTED_MARK, SELECTED_ON_REPORTED_NOTE, is_marked
from pipeline.tables import table_lines


def table_text(metrics: Sequence[Mapping[str, Any]]) -> str:
    """Return a table of runs, with accuracies in percent."""
    header = [
        "backbone",
        "head",
        "recipe",
        "seeds",
        "selected on",
        "reported on",
        "top-1",
        "95 % interval",
        "top-5",
        "class mean",
        "top-1 shuffled",
    ]
    rows = []
    for values in metrics:
        report = values["report"]
        backbone = values["backbone"] + (" (random)" if values["weights"]["name"] == "random" else "")
        rows.append(
            [
                backbone,
                values["head"] + (f" {SELECTED_ON_REPORTED_MARK}" if is_marked(values) else ""),
                values["recipe"]["name"],
                str(values["num_seeds"]),
                values["selected_on"],
                values["reported_on"],
                f"{report['top1']:.1f}" + (f" ± {report['top1_std']:.1f}" if "top1_std" in report else ""),
                f"{report['top1_low']:.1f} to {report['top1_high']:.1f}",
                f"{report['top5']:.1f}",
                f"{report['mean_class_accuracy']:.1f}",
                f"{values['probes']['shuffled']:.1f}",
            ]
        )
    lines = table_lines(header, rows, [False] * len(header))
    if any(is_marked(values) for values in metrics):
        lines.append(SELECTED_ON_REPORTED_NOTE)
    return "\n".join(lines)
