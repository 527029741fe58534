"""Result folders in the format of `fit-head` with drawn scores, for the tests of comparison, gate and report."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np

CLASSES = ("swipe_left", "swipe_right", "still")
PROBE_DROPS = {"shuffled": 20, "reversed": 40, "repeated": 50}


def write_cell(
    folder: Path,
    *,
    head: str = "lstm",
    accuracy: float = 0.8,
    num_clips: int = 60,
    num_seeds: int = 1,
    seed: int = 0,
    backbone: str = "squeezenet",
    weights: str = "bundled",
    classes: tuple[str, ...] = CLASSES,
    recipe: str = "cached",
    num_segments: int = 8,
    seconds: float | None = 3.0,
    **metrics: Any,
) -> Path:
    """Write a result with about `accuracy` correct clips; the same clips are hard for every head."""
    generator = np.random.default_rng(seed)
    difficulty = np.linspace(0, 1, num_clips, endpoint=False)
    np.random.default_rng(99).shuffle(difficulty)
    labels = np.arange(num_clips) % len(classes)
    rows: list[list[str]] = []
    scores_of_seeds = []
    for fit in range(num_seeds):
        noisy = difficulty + generator.normal(0, 0.03, num_clips)
        right = np.where(noisy < accuracy, labels, (labels + 1) % len(classes))
        scores = generator.normal(0, 0.1, (num_clips, len(classes)))
        scores[np.arange(num_clips), right] += 3
        scores_of_seeds.append(scores)
        for clip in range(num_clips):
            texts = [repr(float(value)) for value in scores[clip]]
            rows.append([f"clip{clip:03d}", classes[labels[clip]], classes[right[clip]], str(fit), *texts])
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "predictions.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["clip_id", "label", "predicted", "seed", *(f"score:{label}" for label in classes)])
        writer.writerows(rows)
    values = [_metrics(scores, labels) for scores in scores_of_seeds]
    report = {name: float(np.mean([value[name] for value in values])) for name in values[0]}
    write_json(
        folder / "metrics.json",
        {
            "head": head,
            "backbone": backbone,
            "weights": {"name": weights, "sha256": "ab" * 32},
            "recipe": recipe,
            "num_segments": num_segments,
            "num_seeds": num_seeds,
            "num_train": 3 * num_clips,
            "selected_on": "dev",
            "reported_on": "val",
            "num_report": num_clips,
            "num_failed": 0,
            "report": {**report, "loss": 0.5},
            "probes": {order_test: report["top1"] - drop for order_test, drop in PROBE_DROPS.items()},
            "ece": 4.0,
            **metrics,
        },
    )
    with open(folder / "history.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["seed", "epoch", "train_loss", "select_loss", "select_top1", "lr"])
        for fit in range(num_seeds):
            for epoch in range(1, 6):
                loss = 1.0 / epoch
                writer.writerow([fit, epoch, loss, loss + 0.1, 100 * accuracy * epoch / 5, 0.001])
    if seconds is not None:
        write_json(folder / "timing.json", {"total_seconds": seconds})
    return folder


def write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value), encoding="utf-8")


def _metrics(scores: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Compute top-1, top-5 and mean class accuracy, independently of the pipeline."""
    ranked = np.argsort(-scores, axis=1)
    right = ranked[:, 0] == labels
    among_five = (ranked[:, :5] == labels[:, None]).any(axis=1)
    per_class = [right[labels == label].mean() for label in np.unique(labels)]
    return {
        "top1": 100 * float(right.mean()),
        "top5": 100 * float(among_five.mean()),
        "mean_class_accuracy": 100 * float(np.mean(per_class)),
    }
