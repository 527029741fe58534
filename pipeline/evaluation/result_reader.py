"""Read result folders: each is one fitted head, whose metrics are recomputed from its per-clip predictions.

A run is a folder `<stage>/<backbone>-<head>` with `metrics.json`, `predictions.csv`, `history.csv` and, if it was
fitted on this machine, `timing.json` and `model.safetensors`. If an accuracy in `metrics.json` differs from the
predictions, the two files are from different runs, which is an error.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from pipeline.errors import PipelineError
from pipeline.evaluation.checksums import check_checksums
from pipeline.evaluation.metrics import METRICS
from pipeline.evaluation.predictions import (
    Predictions,
    read_csv,
    read_predictions,
)
from pipeline.evaluation.result_schema import check_metrics, check_timing
from pipeline.evaluation.result_writer import (
    HISTORY_COLUMNS,
    HISTORY_FILE,
    METRICS_FILE,
    MODEL_FILE,
    PREDICTIONS_FILE,
    TIMING_FILE,
)
from pipeline.evaluation.selection import VAL, is_marked
from pipeline.files import read_json

# metrics.json has four decimals; with up to 500,000 clips, one clip changes an accuracy by more than this.
TOLERANCE_POINTS = 0.0002


@dataclass(frozen=True)
class RunResult:
    """One fitted head: its settings and metrics, its predictions, and the history of its training."""

    folder: Path
    metrics: Mapping[str, Any]
    predictions: Predictions
    history: pd.DataFrame | None
    timing: Mapping[str, Any] | None

    @property
    def name(self) -> str:
        """The last two parts of its folder, such as `fit_head/squeezenet-trn`."""
        return "/".join(self.folder.absolute().parts[-2:])

    @property
    def head(self) -> str:
        return str(self.metrics["head"])

    @property
    def backbone(self) -> str:
        return str(self.metrics["backbone"])

    @property
    def weights(self) -> str:
        return str(self.metrics["weights"]["name"])

    @property
    def recipe(self) -> str:
        """Name of the recipe; metrics.json has only the name or all options."""
        recipe = self.metrics["recipe"]
        return str(recipe["name"]) if isinstance(recipe, Mapping) else str(recipe)

    @property
    def num_segments(self) -> int:
        return int(self.metrics["num_segments"])

    @property
    def is_finetuned(self) -> bool:
        stage = self.metrics.get("stage")
        return str(stage) == "finetune" if stage is not None else self.folder.absolute().parent.name == "finetune"

    @property
    def selected_on(self) -> str:
        return str(self.metrics["selected_on"])

    @property
    def reported_on(self) -> str:
        return str(self.metrics["reported_on"])

    @property
    def is_selected_on_reported(self) -> bool:
        """Whether the reported clips also selected the epoch, which makes the accuracy too high."""
        return is_marked(self.metrics)

    @property
    def calibrated(self) -> Mapping[str, float]:
        """Loss, ECE and temperature after temperature scaling; empty if they were not computed."""
        return self.metrics.get("calibrated") or {}

    @property
    def model_path(self) -> Path:
        return self.folder / MODEL_FILE

    def metrics_from_predictions(self) -> dict[str, float]:
        """Compute every metric in percent from the predictions, averaged over seeds."""
        labels = self.predictions.labels
        return {
            name: float(np.mean([metric.compute(scores, labels) for scores in self.predictions.scores]))
            for name, metric in METRICS.items()
            if metric.is_share
        }


def find_runs(places: Iterable[Path | str]) -> list[Path]:
    """Return the result folders among and inside `places`, each once, sorted by name.

    Raises:
        PipelineError: a place does not exist, or none of them contains a result.
    """
    found: dict[Path, Path] = {}
    folders = [Path(place) for place in places]
    for place in folders:
        if not place.is_dir():
            raise PipelineError(
                f"There is no folder {place}. Give folders that `pipeline fit-head` wrote, or their parent."
            )
        for metrics in sorted(place.rglob(METRICS_FILE)):
            found.setdefault(metrics.parent.resolve(), metrics.parent)
    if not found:
        raise PipelineError(
            f"There is no {METRICS_FILE} in {', '.join(map(str, folders))}. `pipeline fit-head` writes it."
        )
    return list(found.values())


def read_run(folder: Path) -> RunResult:
    """Read one result folder; check its files against their checksums, and its metrics against its predictions.

    Raises:
        PipelineError: a file is missing or malformed, or metrics.json has another accuracy than predictions.csv.
    """
    check_checksums(folder)
    metrics = with_splits(_read_json(folder / METRICS_FILE))
    check_metrics(metrics, str(folder / METRICS_FILE))
    predictions_path = folder / PREDICTIONS_FILE
    if not predictions_path.is_file():
        raise PipelineError(f"{folder} has no {PREDICTIONS_FILE}, from which every accuracy comes. Fit the head again.")
    history_path, timing_path = folder / HISTORY_FILE, folder / TIMING_FILE
    run = RunResult(
        folder=folder,
        metrics=metrics,
        predictions=read_predictions(predictions_path, str(predictions_path)),
        history=_read_history(history_path) if history_path.is_file() else None,
        timing=_read_timing(timing_path) if timing_path.is_file() else None,
    )
    _check_against_metrics(run)
    return run


def with_splits(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """Return metrics in the current format: version 0.1 selected and reported on `val` and used the key `val`."""
    if "report" in metrics or not isinstance(metrics.get("val"), dict):
        return dict(metrics)
    others = {key: value for key, value in metrics.items() if key not in ("val", "num_val")}
    return {
        "selected_on": VAL,
        "reported_on": VAL,
        "num_report": metrics.get("num_val"),
        **others,
        "report": metrics["val"],
    }


def _check_against_metrics(run: RunResult) -> None:
    for name, value in run.metrics_from_predictions().items():
        stated = run.metrics["report"].get(name)
        if stated is None or abs(float(stated) - value) > TOLERANCE_POINTS:
            raise PipelineError(
                f"{run.name}: metrics.json has report.{name} = {stated}, but predictions.csv gives {value:.4f}. "
                "The two files are not from the same run; fit the head again."
            )


def _read_history(path: Path) -> pd.DataFrame:
    # Version 0.1 always selected on `val` and named the columns after it.
    history = read_csv(path, str(path)).rename(columns={"val_loss": "select_loss", "val_top1": "select_top1"})
    # Without a row, columns have no type; an empty cell is a missing number.
    for column in [] if history.empty else history.columns.intersection(list(HISTORY_COLUMNS)):
        if not pd.api.types.is_numeric_dtype(history[column]) or np.isinf(history[column]).any():
            raise PipelineError(
                f"{path}: the column {column} has a value that is not a finite number. Fit the head again."
            )
    return history


def _read_timing(path: Path) -> dict[str, Any]:
    timing = _read_json(path)
    check_timing(timing, str(path))
    return timing


def _read_json(path: Path) -> dict[str, Any]:
    try:
        values = read_json(path)
    except (OSError, ValueError) as error:
        raise PipelineError(f"{path} cannot be read as JSON: {error}. Fit the head again.") from error
    if not isinstance(values, dict):
        raise PipelineError(f"{path} must contain one JSON object. Fit the head again.")
    return values
