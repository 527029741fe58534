"""Write the result folder of a run: metrics, history, predictions and confusion, and the times in a separate file.

Every figure in `metrics.json` is computed from the rounded scores of `predictions.csv`.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import PipelineError
from pipeline.evaluation import metrics
from pipeline.evaluation.checksums import CHECKSUMS_FILE, check_checksums, write_checksums
from pipeline.evaluation.columns import GROUP_COLUMN, SCORE_PREFIX, group_indices
from pipeline.evaluation.metrics import SCORE_DECIMALS, compute_metrics
from pipeline.evaluation.statistics import accuracy_interval
from pipeline.files import read_json, sha256_of_file, write_json, write_text

METRICS_FILE, HISTORY_FILE, PREDICTIONS_FILE = "metrics.json", "history.csv", "predictions.csv"
CONFUSION_FILE, TIMING_FILE, MODEL_FILE = "confusion.csv", "timing.json", "model.safetensors"
TRIALS_FILE = "trials.csv"
RUNNING_SUFFIX = ".history.csv"  # of the history of a running fit, beside its checkpoint
METRIC_DECIMALS = 4
HISTORY_COLUMNS = ("seed", "epoch", "lr", "train_loss", "train_top1", "select_loss", "select_top1")


@dataclass(frozen=True)
class EpochRecord:
    """One line of the history. `lr` is the rate at the start of the epoch; `select_*` are for the selection clips.

    Epochs count from 1. Epoch 0 is the initial model; `finetune` always lists it, `fit-head` only with `epochs` 0.
    """

    epoch: int
    lr: float
    train_loss: float | None
    train_top1: float | None
    select_loss: float | None
    select_top1: float | None


@dataclass(frozen=True)
class Selection:
    """The figures that selected the epoch, if other clips are reported: top-1 in percent, loss in nats.

    temperature: that of temperature scaling on the selection clips; None if it was not fitted.
    """

    num_clips: int
    top1: float
    loss: float
    temperature: float | None = None


@dataclass(frozen=True, kw_only=True)
class SeedResult:
    """The epochs of one seed, and the scores of its best one on the reported clips.

    selection: None if the reported clips selected the epoch, or no epoch was selected.

    Shape:
        labels: (N,), class indices; scores: (N, K), rounded by `round_scores`; order_tests: (N, K) each.
    """

    seed: int
    history: tuple[EpochRecord, ...]
    best_epoch: int
    clip_ids: tuple[str, ...]
    labels: NDArray[np.int64]
    scores: NDArray[np.float64]
    order_tests: Mapping[str, NDArray[np.float64]]
    seconds: float
    selection: Selection | None = None


def cell_name(backbone: str, head: str) -> str:
    """Return the folder name of a run, as in DVC's matrix: `squeezenet-trn`, `torchvision:resnet18-trn`."""
    return f"{backbone}-{head}"


def metrics_of(results: Sequence[SeedResult], groups: Mapping[str, str] | None = None) -> dict[str, Any]:
    """Compute `report`, `select`, `probes` and `ece` of a run: means over its seeds, and the interval of its top-1.

    `report` has the figures of the reported clips. `select` has those of the selection clips, if they are different.
    `top1_std` is over the seeds (n - 1 in the denominator; only with several seeds). `top1_low` and `top1_high` bound
    the 95 % interval over clips and seeds (with one seed, over clips; with `groups`, over groups of clips). `ece` is in
    percent. `calibrated` has loss and ece after temperature scaling on the selection clips, and the temperature.
    """
    of_seeds = [compute_metrics(result.scores, result.labels) for result in results]
    report = {name: _mean(of_seed[name] for of_seed in of_seeds) for name in of_seeds[0]}
    if len(results) > 1:
        report["top1_std"] = _rounded(float(np.std([of_seed["top1"] for of_seed in of_seeds], ddof=1)))
    right = np.stack([metrics.hits(result.scores, result.labels) for result in results])
    first = results[0]
    of_clips = None if groups is None else group_indices(first.clip_ids, map(groups.__getitem__, first.clip_ids))
    interval = accuracy_interval(right, groups=of_clips)
    report["top1_low"], report["top1_high"] = _rounded(interval.low), _rounded(interval.high)
    order_tests = {
        order_test: _mean(metrics.top1(result.order_tests[order_test], result.labels) for result in results)
        for order_test in results[0].order_tests
    }
    selections = [result.selection for result in results if result.selection is not None]
    temperatures = [selection.temperature for selection in selections if selection.temperature is not None]
    select = {
        name: _mean(getattr(selection, name) for selection in selections) for name in ("top1", "loss") if selections
    }
    return {
        **({"select": select} if select else {}),
        "report": report,
        "probes": order_tests,
        "ece": _mean(metrics.ece(result.scores, result.labels) for result in results),
        **({} if len(temperatures) < len(results) else {"calibrated": _calibrated(results, temperatures)}),
    }


def _calibrated(results: Sequence[SeedResult], temperatures: Sequence[float]) -> dict[str, float]:
    scaled = [result.scores / value for result, value in zip(results, temperatures, strict=True)]
    pairs = [(scores, result.labels) for scores, result in zip(scaled, results, strict=True)]
    return {
        "temperature": _mean(temperatures),
        "loss": _mean(metrics.cross_entropy(scores, labels) for scores, labels in pairs),
        "ece": _mean(metrics.ece(scores, labels) for scores, labels in pairs),
    }


def write_results(
    folder: Path,
    about: Mapping[str, Any],
    classes: Sequence[str],
    results: Sequence[SeedResult],
    timing: Mapping[str, Any],
    more: Mapping[str, str] | None = None,
    groups: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Write the files of a run except its model, with their checksums as the last of those in Git; return the metrics.

    The metrics start with `about`: head, backbone, weights, recipe, num_segments, selected_on, reported_on,
    num_train, num_failed, …. `more` are the texts of further files by name. `groups` has the group of each reported
    clip, if the data set has groups.
    """
    first = results[0]
    values = {
        **about,
        "version": version("st-pipeline"),
        "num_seeds": len(results),
        **({"num_select": first.selection.num_clips} if first.selection is not None else {}),
        "num_report": len(first.labels),
        "best_epoch": first.best_epoch,
        **metrics_of(results, groups),
    }
    write_text(folder / HISTORY_FILE, _history_text((result.seed, result.history) for result in results))
    write_text(folder / PREDICTIONS_FILE, _predictions_text(classes, results, groups))
    write_text(folder / CONFUSION_FILE, _confusion_text(classes, results))
    write_json(folder / METRICS_FILE, values)
    further = {} if more is None else more
    for name, text in further.items():
        write_text(folder / name, text)
    if TRIALS_FILE not in further:
        (folder / TRIALS_FILE).unlink(missing_ok=True)  # of an earlier run, with a search
    write_checksums(folder, (METRICS_FILE, HISTORY_FILE, PREDICTIONS_FILE, CONFUSION_FILE, *further))
    seconds = {str(result.seed): round(result.seconds, 3) for result in results}
    written = sha256_of_file(folder / METRICS_FILE)
    write_json(folder / TIMING_FILE, {**timing, "seconds_of_seeds": seconds, "metrics_sha256": written})
    return values


def read_finished(folder: Path, digest: str) -> dict[str, Any] | None:
    """Return the metrics of a complete, undamaged run with the same digest of settings, else None."""
    names = (METRICS_FILE, HISTORY_FILE, PREDICTIONS_FILE, CONFUSION_FILE, CHECKSUMS_FILE, TIMING_FILE, MODEL_FILE)
    if not all((folder / name).is_file() for name in names):
        return None
    try:
        check_checksums(folder)
    except PipelineError:
        return None  # fitted and written again
    timing = _read_json(folder / TIMING_FILE)
    is_same = timing.get("settings_digest") == digest
    if not is_same or timing.get("metrics_sha256") != sha256_of_file(folder / METRICS_FILE):
        return None
    return read_metrics(folder)


def read_metrics(folder: Path) -> dict[str, Any]:
    """Read `metrics.json` of a result folder; return an empty mapping if it cannot be read."""
    return _read_json(folder / METRICS_FILE)


def write_running(folder: Path, name: str, seed: int, history: Sequence[EpochRecord]) -> None:
    """Write the history of a running fit, for `pipeline report --serve`."""
    write_text(folder / f"{name}{RUNNING_SUFFIX}", _history_text([(seed, history)]))


def _history_text(of_seeds: Iterable[tuple[int, Sequence[EpochRecord]]]) -> str:
    rows = (
        [seed, record.epoch, *(_number(getattr(record, name)) for name in HISTORY_COLUMNS[2:])]
        for seed, history in of_seeds
        for record in history
    )
    return csv_text(HISTORY_COLUMNS, rows)


def _predictions_text(classes: Sequence[str], results: Sequence[SeedResult], groups: Mapping[str, str] | None) -> str:
    columns = ["clip_id", "label", "predicted", "seed", *([] if groups is None else [GROUP_COLUMN])]
    header = [*columns, *(f"{SCORE_PREFIX}{label}" for label in classes)]
    rows = (
        [
            *(clip_id, classes[label], classes[predicted], result.seed),
            *([] if groups is None else [groups[clip_id]]),
            *(f"{score:.{SCORE_DECIMALS}f}" for score in scores),
        ]
        for result in results
        for clip_id, label, predicted, scores in zip(
            result.clip_ids,
            result.labels.tolist(),
            metrics.predicted_classes(result.scores).tolist(),
            result.scores.tolist(),
            strict=True,
        )
    )
    return csv_text(header, rows)


def _confusion_text(classes: Sequence[str], results: Sequence[SeedResult]) -> str:
    """Return a CSV with a row for each label and a column for each predicted class; clips are summed over seeds."""
    matrix = sum(metrics.confusion_matrix(result.scores, result.labels) for result in results)
    rows = ([label, *counts] for label, counts in zip(classes, np.asarray(matrix).tolist(), strict=True))
    return csv_text(["label", *classes], rows)


def csv_text(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """Return a CSV with a header."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    return text.getvalue()


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.6g}"


def _mean(values: Iterable[float]) -> float:
    return _rounded(float(np.mean(list(values))))


def _rounded(value: float) -> float:
    return round(value, METRIC_DECIMALS)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        values = read_json(path)
    except (OSError, ValueError):
        # An unreadable file does not belong to a finished run; it is written again.
        return {}
    return values if isinstance(values, dict) else {}
