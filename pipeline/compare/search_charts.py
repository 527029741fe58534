"""Charts of the searches of a group: expected best against budget, and selection score against each setting."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from pipeline.compare.budget import TrialRow, read_trials, settings_at_end
from pipeline.compare.charts import Line, Panel, line_chart
from pipeline.compare.comparison import Row
from pipeline.evaluation.expected_best import BudgetCurve, crossings, expected_best

COLOURS = ("main", "second", "third", "muted", "ink")
DASHES = ("", "5 3", "2 2")
MAX_SETTINGS = 3
BUDGET_WIDTH, BUDGET_HEIGHT = 420, 220


@dataclass(frozen=True)
class SearchPage:
    """Charts of the search of one row; `settings` are name, chart, and whether the best value is at an end."""

    label: str
    best: BudgetCurve
    budget: Markup
    settings: list[tuple[str, Markup, bool]]


def search_pages(rows: Sequence[Row]) -> list[SearchPage]:
    """Return the charts of the rows with a search of at least two trials."""
    pages = []
    for row in rows:
        trials = read_trials(row.run)
        if len(trials) < 2:
            continue
        best = expected_best([trial.top1 for trial in trials])
        at_end = settings_at_end(row.run, trials)
        settings = [
            (name, _setting_chart(trials, name), name in at_end) for name in numeric_settings(trials)[:MAX_SETTINGS]
        ]
        pages.append(SearchPage(row.label, best, _budget_of_one(best), settings))
    return pages


def budget_chart(pages: Sequence[SearchPage]) -> Markup | None:
    """Return the expected best of all searches against the number of trials; None without a search."""
    if not pages:
        return None
    lines = [
        Line(
            _curve(page.best.expected),
            colour=COLOURS[index % len(COLOURS)],
            dash=DASHES[index // len(COLOURS) % len(DASHES)],
            end_name=page.label,
        )
        for index, page in enumerate(pages)
    ]
    panel = Panel(lines, "expected best top-1 (%)", height=BUDGET_HEIGHT)
    return line_chart([panel], "trials", width=BUDGET_WIDTH)


def budget_note(pages: Sequence[SearchPage]) -> str:
    """Return a sentence about the pairs whose order depends on the budget."""
    changes = [
        f"{one.label} and {other.label} at {', '.join(map(str, found))} trials"
        for one, other in itertools.combinations(pages, 2)
        if (found := crossings(one.best, other.best))
    ]
    if not changes:
        return "No pair of heads changes its order with the budget." if len(pages) > 1 else ""
    return f"Pairs that change their order: {'; '.join(changes)}."


def numeric_settings(trials: Sequence[TrialRow]) -> list[str]:
    """Return the names of the settings with at least two positive numbers as values; `lr` first."""
    names = [name for name in trials[0].setting if len({_number(trial, name) for trial in trials} - {None}) > 1]
    return sorted(names, key=lambda name: name != "lr")


def _budget_of_one(best: BudgetCurve) -> Markup:
    band = [(float(k), low, high) for k, (low, high) in enumerate(zip(best.low, best.high, strict=True), start=1)]
    return line_chart([Panel([Line(_curve(best.expected), band=band)], "top-1 (%)")], "trials")


def _setting_chart(trials: Sequence[TrialRow], name: str) -> Markup:
    values = [(_number(trial, name), trial.top1) for trial in trials]
    points = [Line([(value, top1)], colour="second") for value, top1 in values if value is not None]
    return line_chart([Panel(points, "top-1 (%)")], name.replace("_", " "), is_log_x=True)


def _number(trial: TrialRow, name: str) -> float | None:
    try:
        value = float(trial.setting[name])
    except ValueError:
        return None
    return value if value > 0 else None


def _curve(values: Sequence[float]) -> list[tuple[float, float]]:
    return [(float(k), value) for k, value in enumerate(values, start=1)]
