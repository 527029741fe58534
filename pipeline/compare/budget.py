"""Results against budget: what each head's search would have found with fewer trials or less time."""

from __future__ import annotations

import csv
import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.errors import PipelineError
from pipeline.evaluation.expected_best import BudgetCurve, crossings, expected_best
from pipeline.evaluation.result_reader import RunResult
from pipeline.evaluation.result_writer import TRIALS_FILE

if TYPE_CHECKING:
    from pipeline.compare.comparison import Row

DECIMALS = 4
MINUTES = "min"


@dataclass(frozen=True)
class TrialRow:
    """One row of `trials.csv`: its searched settings as text, its state, and top-1 of its best epoch in percent."""

    setting: Mapping[str, str]
    state: str
    top1: float


def read_trials(run: RunResult) -> list[TrialRow]:
    """Read the trials of a run; empty if its settings were not searched.

    Raises:
        PipelineError: `trials.csv` is missing or malformed.
    """
    search = run.metrics.get("search")
    if search is None:
        return []
    path: Path = run.folder / TRIALS_FILE
    try:
        with open(path, newline="", encoding="utf-8") as file:
            return [
                TrialRow({name: row[name] for name in search["space"]}, row["state"], float(row["select_top1"] or 0))
                for row in csv.DictReader(file)
            ]
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise PipelineError(f"{path} is missing or malformed ({error!r}). Fit the head again.") from error


@dataclass(frozen=True)
class Budget:
    """A budget of a search: a number of trials, or core-minutes."""

    amount: float
    is_time: bool

    @property
    def header(self) -> str:
        return f"at {self.amount:g} {MINUTES if self.is_time else 'trials'}"

    def num_trials(self, run: RunResult, num_tried: int) -> int | None:
        """Return the number of trials that the budget pays for; None if the times of the run are unknown here."""
        if not self.is_time:
            return int(self.amount)
        core_seconds = ((run.timing or {}).get("search") or {}).get("core_seconds")
        return None if not core_seconds else int(60 * self.amount * num_tried / core_seconds)


def parse_budgets(texts: Sequence[str]) -> list[Budget]:
    """Parse budgets such as `4` (trials) or `10min` (core-minutes).

    Raises:
        PipelineError: a text is neither.
    """
    found = []
    for text in texts:
        number = text.removesuffix(MINUTES)
        try:
            budget = Budget(float(number), is_time=number != text)
        except ValueError:
            budget = Budget(0, is_time=False)
        is_usable = 0 < budget.amount < math.inf and (budget.is_time or budget.amount.is_integer())
        if not is_usable:
            raise PipelineError(
                f"`--at-budget` (={text}) must be a number of trials, such as 4, or of core-minutes, such as 10min."
            )
        found.append(budget)
    return found


def scores_at(run: RunResult, budgets: Sequence[Budget]) -> dict[str, str]:
    """Return, by column header, the expected best top-1 on the selection clips within each budget.

    A budget beyond the search has the score of the whole search, marked with `≥`. There is no entry for a run without a
    search, for a time that is unknown on this machine, and for one too short for a trial.
    """
    trials = read_trials(run) if budgets else []
    if not trials:
        return {}
    curve = expected_best([trial.top1 for trial in trials])
    found = {}
    for budget in budgets:
        affordable = budget.num_trials(run, curve.num_trials)
        if affordable:
            mark = "≥ " if affordable > curve.num_trials else ""
            found[budget.header] = f"{mark}{curve.expected[min(affordable, curve.num_trials) - 1]:.1f}"
    return found


def budget_json(rows: Sequence[Row]) -> dict[str, Any]:
    """Return the entry `budget` of a group: a curve for each searched row, and the pairs whose order depends on k.

    Empty if no row was searched.

    Raises:
        PipelineError: a `trials.csv` is missing or malformed.
    """
    trials = {row.run.name: read_trials(row.run) for row in rows}
    trials = {name: found for name, found in trials.items() if found}
    if not trials:
        return {}
    curves = {name: expected_best([trial.top1 for trial in found]) for name, found in trials.items()}
    runs = {row.run.name: row.run for row in rows}
    return {
        "budget": {
            "rows": {
                name: {**_curve_json(curve), "at_end_of_range": settings_at_end(runs[name], trials[name])}
                for name, curve in curves.items()
            },
            "order_changes": [
                {"a": a, "b": b, "at_trials": found}
                for a, b in itertools.combinations(curves, 2)
                if (found := crossings(curves[a], curves[b]))
            ],
        }
    }


def settings_at_end(run: RunResult, trials: Sequence[TrialRow]) -> list[str]:
    """Return the searched numbers whose chosen value is the lowest or highest of three or more that were tried.

    The best value may lie outside the range of such a search.
    """
    found = []
    for name, chosen in run.metrics["search"]["chosen"].items():
        if isinstance(chosen, bool) or not isinstance(chosen, int | float):
            continue
        tried = {float(trial.setting[name]) for trial in trials}
        if len(tried) > 2 and chosen in (min(tried), max(tried)):
            found.append(name)
    return found


def _curve_json(curve: BudgetCurve) -> dict[str, Any]:
    columns = {"expected_top1": curve.expected, "low": curve.low, "high": curve.high}
    return {
        "trials": curve.num_trials,
        **{name: [round(value, DECIMALS) for value in values] for name, values in columns.items()},
    }
