"""Columns of the table of heads, and the texts of their values."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from pipeline.compare.budget import MINUTES
from pipeline.compare.comparison import Comparison, Group, Row
from pipeline.compare.order_use import use_text
from pipeline.evaluation.metrics import METRICS
from pipeline.evaluation.selection import SELECTED_ON_REPORTED_MARK

GAP = "  "


@dataclass(frozen=True)
class Column:
    """One column. In a narrow terminal, columns with a high `priority` value are omitted first.

    value: number by which the report sorts the column, if its text does not start with it.
    """

    header: str
    text: Callable[[Row], str]
    priority: int
    is_measured: bool = False
    align: str = ">"
    value: Callable[[Row], float | str] | None = None


# Metrics with a separate column, in addition to top-1, which has its interval.
OTHER_SHARES = tuple(name for name, metric in METRICS.items() if metric.is_share and name != "top1")


def _metric_column(name: str, priority: int) -> Column:
    return Column(METRICS[name].label, lambda row: f"{row.metrics[name]:.1f}", priority)


def _calibrated_text(row: Row, name: str, decimals: int) -> str:
    value = row.run.calibrated.get(name)
    return "" if value is None else f"{value:.{decimals}f}"


COLUMNS = (
    Column("head", lambda row: marked_label(row), 0, align="<"),
    Column("maps", lambda row: row.complexity.maps if row.complexity else "", 6, align="<"),
    Column(
        "params",
        lambda row: count_text(row.complexity.parameters if row.complexity else None),
        1,
        value=lambda row: row.complexity.parameters if row.complexity else "",
    ),
    Column(
        "MACs",
        lambda row: count_text(row.complexity.macs if row.complexity else None),
        1,
        value=lambda row: row.complexity.macs if row.complexity else "",
    ),
    Column("top-1 [95 %]", lambda row: row.top1.text(), 0),
    Column("selected on", lambda row: row.run.selected_on, 7, align="<"),
    Column("seeds", lambda row: str(len(row.top1_of_seeds)), 1),
    *(_metric_column(name, priority) for priority, name in enumerate(OTHER_SHARES, start=4)),
    Column("NLL", lambda row: _calibrated_text(row, "loss", 3), 5),
    Column("ECE", lambda row: _calibrated_text(row, "ece", 1), 5),
    Column("pairs", lambda row: "" if row.pairs is None else f"{row.pairs.value:.1f}", 2),
    Column("shuffled", lambda row: drop_text(row, "shuffled"), 3),
    Column("reversed", lambda row: drop_text(row, "reversed"), 3),
    Column("order", lambda row: row.order or "", 4, align="<"),
    Column("uses order", use_text, 4, align="<"),
    Column("paper", lambda row: "" if row.paper_top1 is None else f"{row.paper_top1:.1f}", 2),
    Column("ms/clip", lambda row: "" if row.cost is None else f"{row.cost.latency_ms:.2f}", 6, is_measured=True),
    Column(
        "memory",
        lambda row: "" if row.cost is None else bytes_text(row.cost.memory_bytes),
        8,
        is_measured=True,
        value=lambda row: "" if row.cost is None else row.cost.memory_bytes,
    ),
    Column(
        "training",
        lambda row: "" if row.training_seconds is None else duration_text(row.training_seconds),
        7,
        is_measured=True,
        value=lambda row: "" if row.training_seconds is None else row.training_seconds,
    ),
    Column("time", lambda row: "" if row.time_share is None else f"{row.time_share:.1f} %", 7, is_measured=True),
)

# Descriptions of the columns, by their headers.
LEGEND = {
    "maps": "input of the head for each frame: one pooled vector, or the spatial map",
    "params, MACs": "parameters, and multiply-accumulates for one clip, of the spatiotemporal (ST) block only",
    "top-1": "percent of clips classified correctly, mean over seeds, with its 95 % interval over clips and seeds",
    "selected on": "split whose clips selected the epoch; dev: held-out training clips",
    "seeds": "number of trainings with different seeds that the row averages",
    **{METRICS[name].label: METRICS[name].meaning for name in OTHER_SHARES},
    "NLL": "negative log likelihood in nats, after temperature scaling on the selection clips",
    "ECE": "expected calibration error in percent, after temperature scaling on the selection clips",
    "pairs": "percent of clips whose label scores higher than its time-reverse; chance is 50",
    "shuffled, reversed": "points of top-1 lost (-) or gained (+) when the frames are in that order",
    "order": "blind: the head's scores cannot depend on the order of frames; ordered: they can",
    "uses order": "whether the 95 % interval of the pairs is above 50, or that of the loss on shuffled clips above 0",
    "paper": "top-1 of the paper's Table 3",
    "at": "expected best top-1 on the selection clips after so many trials, or core-minutes (min), of the search",
    "ms/clip, memory": "of the head only, with its features in memory, measured on this machine with one thread",
    "training": "time in which all seeds of the row were trained on this machine, and its search if it had one",
    "time": "share of the training time of all rows whose time is known on this machine",
}
_MEASURED_TERMS = {"ms/clip, memory", "training", "time"}


def marked_label(row: Row) -> str:
    """Return the row's label, with a mark if the reported clips selected the epoch."""
    return f"{row.label} {SELECTED_ON_REPORTED_MARK}" if row.run.is_selected_on_reported else row.label


def drop_text(row: Row, order_test: str) -> str:
    """Return the change of top-1 in points when the order changes: `-40.0` is a loss of 40 points."""
    drop = row.order_test_drops.get(order_test)
    return "" if drop is None else points_text(-drop)


def points_text(points: float) -> str:
    """Return a difference with its sign, but zero without one, because `-0.0` looks like a loss."""
    return f"{points:+.1f}" if abs(points) >= 0.05 else "0.0"


def count_text(count: int | None) -> str:
    """Return a count with three figures and its unit.

    >>> [count_text(count) for count in (0, 138_523, 4_726_555, 6_379_543_296)]
    ['0', '139 k', '4.73 M', '6.38 G']
    """
    if count is None:
        return ""
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        # 999,999 must not be written as "1000 k".
        if count >= size * 0.9995:
            return f"{count / size:#.3g}".rstrip(".") + f" {unit}"
    return str(count)


def bytes_text(num_bytes: int) -> str:
    """Return a size in MB, or in kB below 0.1 MB."""
    return f"{num_bytes / 1e6:.1f} MB" if num_bytes >= 1e5 else f"{num_bytes / 1e3:.0f} kB"


def duration_text(seconds: float) -> str:
    """Return a duration in its two largest units.

    >>> [duration_text(seconds) for seconds in (8.21, 72.0, 5000.0)]
    ['8.2 s', '1 min 12 s', '1 h 23 min']
    """
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def legend_of(comparison: Comparison, *, with_measured: bool = True, width: int | None = None) -> dict[str, str]:
    """Return the lines of `LEGEND` for the columns of a comparison, or for those of them that fit into `width`."""
    headers = {column.header for group in comparison.groups for column in used_columns(group, width)}
    return {
        term: text
        for term, text in LEGEND.items()
        if any(header.startswith(part) for part in term.split(", ") for header in headers)
        and (with_measured or term not in _MEASURED_TERMS)
    }


def used_columns(group: Group, width: int | None = None) -> list[Column]:
    """Return the columns with values for a group, or the most important ones of them that fit into `width`."""
    budgets = dict.fromkeys(header for row in group.rows for header in row.at_budgets)
    columns = [column for column in COLUMNS if any(column.text(row) for row in group.rows)]
    columns += [_budget_column(header) for header in budgets]
    while width is not None and needed_width(group, columns) > width:
        # Those of one priority go together.
        last = max(column.priority for column in columns)
        if last == 0:
            break
        columns = [column for column in columns if column.priority < last]
    return columns


def _budget_column(header: str) -> Column:
    # Seconds differ between machines, so a budget in minutes is not committed.
    return Column(header, lambda row: row.at_budgets.get(header, ""), 3, is_measured=header.endswith(MINUTES))


def needed_width(group: Group, columns: Sequence[Column]) -> int:
    """Return the characters that a table with these columns takes."""
    sizes = [max(len(column.header), *(len(column.text(row)) for row in group.rows)) for column in columns]
    return sum(sizes) + len(GAP) * (len(sizes) - 1)
