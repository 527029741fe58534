"""Curves of running fits, from the files that `fit-head` and `finetune` write beside their checkpoints."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from markupsafe import Markup

from pipeline.compare.training_curves import training_curves
from pipeline.errors import PipelineError
from pipeline.evaluation.predictions import read_csv
from pipeline.evaluation.result_writer import METRICS_FILE, RUNNING_SUFFIX


@dataclass(frozen=True)
class RunningFit:
    """A fit that has not written its result: the name of its folder, its seed or trial, and its curves so far."""

    name: str
    part: str
    num_epochs: int
    curves: Markup


def running_fits(place: Path) -> list[RunningFit]:
    """Return the running and interrupted fits below a folder, sorted by name.

    A file that is older than the metrics of its result folder is of a finished fit.
    """
    fits = []
    for path in sorted(place.rglob(f"*{RUNNING_SUFFIX}")):
        folder = _result_folder(path)
        metrics = folder / METRICS_FILE
        try:
            if metrics.is_file() and metrics.stat().st_mtime >= path.stat().st_mtime:
                continue
            history: pd.DataFrame = read_csv(path, str(path))
            curves = training_curves(history)
        except (OSError, PipelineError, KeyError, TypeError):
            continue  # removed by the fit that has just finished
        if curves is not None:
            fits.append(RunningFit(folder.name, path.name.removesuffix(RUNNING_SUFFIX), len(history), curves))
    return fits


def _result_folder(path: Path) -> Path:
    """Return the result folder of a file `.unfinished/seed-0….csv` or `checkpoints/seed-0/….csv`."""
    inside = (".unfinished", "checkpoints")
    return next((parent.parent for parent in path.parents if parent.name in inside), path.parent)
