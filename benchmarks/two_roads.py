"""Question: what is better in equal time: training end to end from scratch, or cache, head and a short finetune?

Both ways start with the same backbone weights and clips. One extracts features, fits a head on them and finetunes
briefly; the other trains end to end from the beginning, for as many epochs as fit into the time of the first. The plot
shows top-1 of the selection clips after each epoch against wall time, including the start-up of each stage.

    python -m benchmarks.two_roads --manifest data_manifests/gestures.csv --root data/gestures --weights bundled
"""

from __future__ import annotations

import argparse
import csv
import json
import math
import time
from pathlib import Path
from typing import Any

import matplotlib

import stages.extract
import stages.finetune
import stages.fit_head
from benchmarks.heads import machine
from pipeline.settings.extract import ExtractSettings
from pipeline.settings.finetune import FinetuneSettings
from pipeline.settings.fit_head import FitHeadSettings

matplotlib.use("Agg")
from matplotlib import pyplot as plt

Point = tuple[float, float]


def history_of(cell: Path) -> list[dict[str, str]]:
    """Read the epochs of a cell, without the initial model."""
    with open(cell / "history.csv", newline="", encoding="utf-8") as file:
        return [row for row in csv.DictReader(file) if row["epoch"] != "0"]


def points_of_finetune(cell: Path, began_at_seconds: float) -> list[Point]:
    """Return wall time and top-1 at the end of each epoch."""
    timing = json.loads((cell / "timing.json").read_text())
    return [
        (began_at_seconds + times["seconds_at_end"], float(row["select_top1"]))
        for times, row in zip(timing["epochs"], history_of(cell), strict=True)
    ]


def cached_road(arguments: argparse.Namespace, out: Path) -> tuple[dict[str, Any], list[Point]]:
    """Extract, fit and finetune; return the time of each stage, and the accuracy over time."""
    clips = {"manifest": arguments.manifest, "root": arguments.root}
    cell = f"{arguments.backbone}-{arguments.head}"
    clock = Clock()
    stages.extract.run(ExtractSettings(
        **clips, store=str(out / "store.zarr"), backbone=arguments.backbone, weights=arguments.weights,
        num_segments=arguments.num_segments, views=arguments.views, maps=arguments.maps, rebuild=True,
    ))  # fmt: skip
    seconds: dict[str, Any] = {"extract": clock.seconds()}
    stages.fit_head.run(
        FitHeadSettings(store=str(out / "store.zarr"), head=arguments.head, out=out / "fit_head", force=True)
    )
    seconds["fit_head"] = clock.seconds() - seconds["extract"]
    epochs = history_of(out / "fit_head" / cell)
    # All epochs of a fit take the same time.
    points = [
        (seconds["extract"] + seconds["fit_head"] * (index + 1) / len(epochs), float(row["select_top1"]))
        for index, row in enumerate(epochs)
    ]
    began_at_seconds = clock.seconds()
    init = out / "fit_head" / cell / "model.safetensors"
    stages.finetune.run(FinetuneSettings(
        **clips, init=str(init), out=out / "finetune", device=arguments.device,
        overrides=overrides_of(arguments, arguments.finetune_epochs), force=True,
    ))  # fmt: skip
    seconds["finetune"] = clock.seconds() - began_at_seconds
    points += points_of_finetune(out / "finetune" / cell, began_at_seconds)
    seconds["total"] = clock.seconds()
    return seconds, points


def scratch_road(arguments: argparse.Namespace, out: Path, num_epochs: int) -> tuple[dict[str, Any], list[Point]]:
    """Train end to end from the backbone's weights and a new head."""
    clock = Clock()
    stages.finetune.run(FinetuneSettings(
        manifest=arguments.manifest, root=arguments.root, init="none", backbone=arguments.backbone,
        head=arguments.head, weights=arguments.weights, num_segments=arguments.num_segments, out=out / "scratch",
        device=arguments.device, overrides=overrides_of(arguments, num_epochs), force=True,
    ))  # fmt: skip
    cell = out / "scratch" / f"{arguments.backbone}-{arguments.head}"
    return {"total": clock.seconds(), "epochs": num_epochs}, points_of_finetune(cell, 0.0)


class Clock:
    """Clock of the wall time since its creation."""

    def __init__(self) -> None:
        self._started_at_seconds = time.monotonic()

    def seconds(self) -> float:
        return time.monotonic() - self._started_at_seconds


def overrides_of(arguments: argparse.Namespace, num_epochs: int) -> dict[str, float]:
    """Return the number of epochs, and the learning rates, which are the same for both ways."""
    return {"epochs": num_epochs, "lr": arguments.lr, "backbone_lr": arguments.backbone_lr}


def draw(path: Path, roads: dict[str, list[Point]], title: str) -> None:
    """Plot accuracy against wall time, one line for each way."""
    figure, axes = plt.subplots(figsize=(7, 4.2), layout="constrained")
    for (name, points), marker in zip(roads.items(), ("o", "s"), strict=True):
        axes.plot(*zip(*points, strict=True), marker=marker, markersize=4, label=name)
    axes.set(
        xlabel="wall time in seconds", ylabel="top-1 of the selection clips in percent", title=title, xlim=(0, None)
    )
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)
    plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--manifest", required=True)
    parser.add_argument("--root")
    parser.add_argument("--out", type=Path, default=Path("cache/two_roads"))
    parser.add_argument("--plot", type=Path, help="File of the plot.  [default: OUT/two_roads.svg]")
    parser.add_argument("--backbone", default="squeezenet")
    parser.add_argument("--head", default="lstm")
    parser.add_argument("--weights", default="bundled")
    parser.add_argument("--num-segments", type=int, default=8)
    parser.add_argument("--views", type=int, default=3)
    parser.add_argument("--maps", default="pooled")
    parser.add_argument("--finetune-epochs", type=int, default=2)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--backbone-lr", type=float, default=1e-3)
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()
    cached_seconds, cached_points = cached_road(arguments, arguments.out)
    timing = arguments.out / "finetune" / f"{arguments.backbone}-{arguments.head}" / "timing.json"
    ends = [times["seconds_at_end"] for times in json.loads(timing.read_text())["epochs"]]
    epoch_seconds = (ends[-1] - ends[0]) / (len(ends) - 1) if len(ends) > 1 else ends[0]
    num_epochs = max(1, math.floor(cached_seconds["total"] / epoch_seconds))
    scratch_seconds, scratch_points = scratch_road(arguments, arguments.out, num_epochs)
    roads = {"extract, fit-head, finetune": cached_points, "end to end from scratch": scratch_points}
    result = {
        "machine": machine(arguments.device),
        "settings": {name: str(value) for name, value in vars(arguments).items()},
        "seconds": {"cached": cached_seconds, "scratch": scratch_seconds},
        "points": roads,
        "best_top1": {name: max(top1 for _, top1 in points) for name, points in roads.items()},
    }
    (arguments.out / "two_roads.json").write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    draw(arguments.plot or arguments.out / "two_roads.svg", roads, f"{arguments.backbone}, {arguments.head}")
    print(json.dumps({key: value for key, value in result.items() if key != "points"}, indent=2))


if __name__ == "__main__":
    main()
