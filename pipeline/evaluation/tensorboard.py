"""Write the curves of a result folder as TensorBoard event files, if the package `tensorboard` is installed."""

from __future__ import annotations

import importlib.util
import math
import shutil
from pathlib import Path

from pipeline.errors import PipelineError
from pipeline.evaluation.result_writer import HISTORY_FILE

EVENTS_FOLDER = "tensorboard"
TAGS = {
    "lr": "lr",
    "train_loss": "loss/train",
    "select_loss": "loss/selection",
    "train_top1": "top1/train",
    "select_top1": "top1/selection",
}


def check_tensorboard() -> None:
    """Check that event files can be written, before anything is trained.

    Raises:
        PipelineError: the package `tensorboard` is not installed.
    """
    if importlib.util.find_spec("tensorboard") is None:
        raise PipelineError("`--tensorboard` needs the package tensorboard: pip install tensorboard.")


def write_events(folder: Path) -> Path:
    """Write the history of each seed of a result folder to `tensorboard/seed-N`, in place of earlier event files."""
    # Imported late: torch and pandas take seconds, and few runs write event files.
    from torch.utils.tensorboard import SummaryWriter

    from pipeline.evaluation.predictions import read_csv

    out = folder / EVENTS_FOLDER
    shutil.rmtree(out, ignore_errors=True)
    path = folder / HISTORY_FILE
    history = read_csv(path, str(path))
    for seed, rows in history.groupby("seed"):
        with SummaryWriter(str(out / f"seed-{seed}")) as writer:
            for row in rows.to_dict("records"):
                for column, tag in TAGS.items():
                    if not math.isnan(row.get(column, math.nan)):
                        writer.add_scalar(tag, row[column], int(row["epoch"]))
    return out
