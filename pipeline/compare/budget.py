"""Results against budget: what each head's search would have found with fewer trials, for `comparison.json`."""

from __future__ import annotations

import csv
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.compare.comparison import Row
from pipeline.errors import PipelineError
from pipeline.evaluation.expected_best import BudgetCurve, crossings, expected_best
from pipeline.evaluation.result_reader import RunResult
from pipeline.evaluation.result_writer import TRIALS_FILE

DECIMALS = 4


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
