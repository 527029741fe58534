"""Trials of a search: their states, the choice of the best one, `trials.csv`, and the figures of a search."""

from __future__ import annotations

import csv
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.errors import PipelineError
from pipeline.evaluation.checksums import check_checksums
from pipeline.evaluation.result_writer import TIMING_FILE, TRIALS_FILE, csv_text
from pipeline.files import read_json
from pipeline.search.curve import Curve
from pipeline.settings.search import Search

COMPLETE, PRUNED, FAILED = "complete", "pruned", "failed"
STATES = (COMPLETE, PRUNED, FAILED)
MIXED_COLUMN = "alpha"


@dataclass(frozen=True)
class Trial:
    """One setting of a search and its fit. digest: that of everything that determines the curve."""

    number: int
    setting: Mapping[str, Any]
    curve: Curve
    state: str
    digest: str

    @property
    def score(self) -> tuple[float, float]:
        """Top-1 and negative loss on the selection clips, of the best epoch or of the best weights on the way to it."""
        return self.curve.score


def choose_trial(trials: Sequence[Trial]) -> Trial:
    """Return the complete trial with the best epoch; in a tie, the first. Without a complete one, a pruned one.

    Raises:
        PipelineError: every trial failed.
    """
    usable = [trial for trial in trials if trial.state != FAILED]
    if not usable:
        raise PipelineError(f"All {len(trials)} trials failed. The first: {trials[0].curve.failure}")
    return max(usable, key=lambda trial: (trial.state == COMPLETE, trial.score, -trial.number))


def search_metrics(search: Search, trials: Sequence[Trial]) -> dict[str, Any]:
    """Return the entry `search` of the metrics: what was searched, its cost in epochs, and the chosen setting.

    Trials with equal settings are one fit, whose epochs count once.
    """
    chosen, states = choose_trial(trials), Counter(trial.state for trial in trials)
    fits = {trial.digest: trial.curve for trial in trials}
    top1, negative_loss = chosen.score
    return {
        **search.as_dict(),
        "trials": len(trials),
        **{state: states[state] for state in STATES},
        "epochs": sum(curve.num_epochs for curve in fits.values()),
        "chosen_trial": chosen.number,
        "chosen": dict(chosen.setting),
        "select": {"top1": top1, "loss": -negative_loss},
    }


def search_timing(trials: Sequence[Trial], num_threads: int) -> dict[str, Any]:
    """Return the measured cost of a search, and the digests by which a longer search finds its curves."""
    fits = {trial.digest: trial.curve for trial in trials}
    return {
        "core_seconds": round(num_threads * sum(curve.seconds for curve in fits.values()), 3),
        "seconds_of_trials": [round(trial.curve.seconds, 3) for trial in trials],
        "digests_of_trials": [trial.digest for trial in trials],
    }


def trials_text(trials: Sequence[Trial]) -> str:
    """Return `trials.csv`: a row per trial, with its settings and the selection scores of each epoch as lists.

    There is a column `alpha` if weights between the initial ones and those of the best epoch were scored.
    """
    names = list(trials[0].setting)
    has_mixed = any(trial.curve.mixed is not None for trial in trials)
    rows = []
    for trial in trials:
        curve, has_epoch = trial.curve, trial.curve.num_epochs > 0
        values = {
            "trial": trial.number,
            **{name: _plain(trial.setting[name]) for name in names},
            "state": trial.state,
            "epochs": curve.num_epochs,
            "best_epoch": curve.chosen_epoch,
            **({MIXED_COLUMN: "" if curve.mixed is None else curve.mixed[0]} if has_mixed else {}),
            "select_top1": trial.score[0] if has_epoch else "",
            "select_loss": -trial.score[1] if has_epoch else "",
            "top1_by_epoch": json.dumps(curve.top1),
            "loss_by_epoch": json.dumps(curve.loss),
            "reason": curve.failure,
        }
        rows.append(values)
    return csv_text(list(rows[0]), [list(values.values()) for values in rows])


def read_curves(folder: Path) -> dict[str, Curve]:
    """Return the curves of the trials of a finished search by digest; empty if there is none, or a file was changed."""
    try:
        check_checksums(folder)
        with open(folder / TRIALS_FILE, newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        timing = read_json(folder / TIMING_FILE)["search"]
        columns = (timing["digests_of_trials"], timing["seconds_of_trials"], rows)
        return {
            digest: Curve(*_curves_of(row), is_over=row["state"] == COMPLETE, seconds=seconds, mixed=_mixed_of(row))
            for digest, seconds, row in zip(*columns, strict=True)
            if row["state"] != FAILED
        }
    except (PipelineError, OSError, ValueError, KeyError, TypeError):
        return {}  # fitted again


def _curves_of(row: Mapping[str, str]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    return tuple(json.loads(row["top1_by_epoch"])), tuple(json.loads(row["loss_by_epoch"]))


def _mixed_of(row: Mapping[str, str]) -> tuple[float, float, float] | None:
    if not row.get(MIXED_COLUMN):
        return None
    return float(row[MIXED_COLUMN]), float(row["select_top1"]), float(row["select_loss"])


def _plain(value: Any) -> Any:
    return json.dumps(value) if isinstance(value, tuple) else value
