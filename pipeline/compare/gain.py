"""Say and draw what training end to end gained over the model that it started from."""

from __future__ import annotations

from markupsafe import Markup

from pipeline.compare.charts import Line, Panel, line_chart
from pipeline.compare.comparison import Row
from pipeline.evaluation.result_reader import RunResult
from pipeline.evaluation.statistics import MIN_SEEDS


def gain_sentence(row: Row) -> str | None:
    """Return the paired gain of a row over its start in one sentence; None if it has no start."""
    gain = row.run.metrics.get("gain")
    if gain is None:
        return None
    num_seeds = len(row.top1_of_seeds)
    points = f"{gain['points']:+.1f} points [{gain['low']:+.1f}, {gain['high']:+.1f}] over its start of"
    is_significant = gain["low"] > 0 or gain["high"] < 0
    result = "" if is_significant else ", which is not significant"
    few = "" if num_seeds >= MIN_SEEDS else "; the effect of another seed is unknown"
    seeds = "1 seed" if num_seeds == 1 else f"{num_seeds} seeds"
    return (
        f"{row.label}, trained end to end: {points} {gain['start_top1']:.1f} %{result} "
        f"({seeds}, paired over {gain['num_clips']:,} clips{few})."
    )


def interpolation_chart(run: RunResult) -> Markup | None:
    """Draw top-1 of the selection clips against the share of the trained weights, a line for each seed."""
    found = run.metrics.get("interpolation")
    if not found:
        return None
    lines = [
        Line([(point["alpha"], point["top1"]) for point in of_seed["curve"]], has_markers=True)
        for of_seed in found.values()
    ]
    return line_chart([Panel(lines, "top-1 %")], "share of the trained weights")
