"""Question: what is better: training end to end from scratch, or cache, head and a short finetune?

Both ways start with the same backbone weights and clips, and have the same seeds. The first extracts features, fits a
head on them and finetunes it. The second trains end to end with a new head, twice: for as much processor time as the
first way takes (equal time), and for as many epochs (equal epochs), each with a schedule of its whole length. The plot
shows the accuracy on the selection clips after each epoch, as mean and range over seeds, against processor time and
against epochs; the table compares the ends of all ways on the reported clips.

    python -m benchmarks.two_roads --manifest data_manifests/gestures.csv --root data/gestures --input-size 112 \\
        --threads 1 --seeds 3 --plot docs/studies/two_roads.svg --out docs/studies/two_roads.md
"""

from __future__ import annotations

import dataclasses
import json
import resource
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import click
import matplotlib
import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

import stages.extract
import stages.finetune
import stages.fit_head
from benchmarks.heads import machine
from pipeline.evaluation.result_reader import RunResult, read_run
from pipeline.evaluation.result_writer import HISTORY_FILE, MODEL_FILE, TIMING_FILE, cell_name
from pipeline.evaluation.statistics import accuracy_interval, paired_difference
from pipeline.files import write_text
from pipeline.settings.extract import ExtractSettings
from pipeline.settings.finetune import FinetuneSettings
from pipeline.settings.fit_head import FitHeadSettings

matplotlib.use("Agg")
from matplotlib import pyplot as plt

CACHED, EQUAL_TIME, EQUAL_EPOCHS = "extract, fit-head, finetune", "end to end, equal time", "end to end, equal epochs"


@dataclass(frozen=True)
class Curve:
    """Accuracy of the selection clips in percent after each epoch, and the processor time of one seed until then.

    Shape:
        epochs, seconds: (E,); top1: (S, E), for each seed.
    """

    epochs: NDArray[np.float64]
    seconds: NDArray[np.float64]
    top1: NDArray[np.float64]


@dataclass(frozen=True)
class Road:
    """One way of training: its curves, one behind the other, and its result folder."""

    name: str
    curves: tuple[Curve, ...]
    cell: Path

    @property
    def seconds(self) -> float:
        """Processor time of one seed."""
        return float(self.curves[-1].seconds[-1])

    @property
    def num_epochs(self) -> int:
        return int(self.curves[-1].epochs[-1])


@dataclass(frozen=True)
class Study:
    """The clips, the model and the training that all ways have in common."""

    manifest: Path
    root: Path | None
    backbone: str
    head: str
    weights: str
    num_segments: int
    views: int
    input_size: int
    seeds: int
    threads: int | None
    precision: str
    fit_epochs: int
    finetune_epochs: int

    def cached(self, out: Path) -> Road:
        """Extract features, fit the head and finetune it."""
        store = str(out / "store.zarr")
        clock = Clock()
        stages.extract.run(ExtractSettings(
            manifest=self.manifest, root=self.root, store=store, backbone=self.backbone, weights=self.weights,
            num_segments=self.num_segments, views=self.views, maps="pooled", input_size=self.input_size,
            workers=0 if self.threads == 1 else self.threads, dtype=self.precision,
        ))  # fmt: skip
        extract_seconds, clock = clock.seconds(), Clock()
        stages.fit_head.run(FitHeadSettings(
            store=store, head=self.head, recipe="cached", seeds=self.seeds, out=out / "fit_head", jobs=1,
            overrides={"epochs": self.fit_epochs}, precision="float32",
        ))  # fmt: skip
        fitted = curve_of_fit(out / "fit_head" / self.cell, extract_seconds, clock.seconds() / self.seeds)
        clock = Clock()
        finetuned = self._finetune(
            out / "finetune", str(out / "fit_head" / self.cell / MODEL_FILE), {"epochs": self.finetune_epochs}
        )
        last = curve_of_finetune(finetuned, clock.seconds() / self.seeds, fitted)
        return Road(CACHED, (fitted, last), finetuned)

    def end_to_end(self, name: str, out: Path, rates: dict[str, float], num_epochs: int) -> Road:
        """Train backbone and a new head for a number of epochs."""
        clock = Clock()
        cell = self._finetune(out, "none", {**rates, "epochs": num_epochs})
        return Road(name, (curve_of_finetune(cell, clock.seconds() / self.seeds),), cell)

    @property
    def cell(self) -> str:
        return cell_name(self.backbone, self.head)

    def _finetune(self, out: Path, init: str, overrides: dict[str, float]) -> Path:
        settings = FinetuneSettings(
            manifest=self.manifest, root=self.root, init=init, head=self.head, out=out, recipe="finetune",
            overrides=overrides, seeds=self.seeds, threads=self.threads, precision=self.precision,
        )  # fmt: skip
        if init == "none":
            settings = dataclasses.replace(
                settings, backbone=self.backbone, weights=self.weights, num_segments=self.num_segments,
                input_size=self.input_size,
            )  # fmt: skip
        stages.finetune.run(settings)
        return out / self.cell


def history_of(cell: Path) -> NDArray[np.float64]:
    """Read the accuracy of the selection clips, without the initial model.

    Shape:
        returns: (S, E)
    """
    history = pd.read_csv(cell / HISTORY_FILE)
    table = history[history.epoch > 0].pivot(index="seed", columns="epoch", values="select_top1")
    return np.asarray(table.to_numpy(), dtype=np.float64)


def curve_of_fit(cell: Path, began_at_seconds: float, seconds: float) -> Curve:
    """Return the curve of a fit on cached features; all epochs of a fit take the same time."""
    top1 = history_of(cell)
    epochs = np.arange(1, top1.shape[1] + 1, dtype=np.float64)
    return Curve(epochs, began_at_seconds + seconds * epochs / len(epochs), top1)


def curve_of_finetune(cell: Path, seconds: float, before: Curve | None = None) -> Curve:
    """Return the curve of a training end to end, behind that of the fit from which it started.

    `seconds` are those of one seed; the wall time of each epoch divides them.
    """
    top1 = history_of(cell)
    times = json.loads((cell / TIMING_FILE).read_text())["epochs"]
    wall = np.array([each["seconds_at_end"] for each in times]).reshape(top1.shape).mean(axis=0)
    epochs = np.arange(1, top1.shape[1] + 1, dtype=np.float64)
    first_epoch, began_at_seconds = (0.0, 0.0) if before is None else (before.epochs[-1], before.seconds[-1])
    return Curve(first_epoch + epochs, began_at_seconds + seconds * wall / wall[-1], top1)


class Clock:
    """Clock of the processor time of this process and its ended children since its creation."""

    def __init__(self) -> None:
        self._started_at_seconds = self._total()

    def seconds(self) -> float:
        return self._total() - self._started_at_seconds

    def _total(self) -> float:
        used = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
        return sum(each.ru_utime + each.ru_stime for each in used)


def draw(path: Path, roads: Sequence[Road], title: str) -> None:
    """Plot the accuracy of all ways against seconds and epochs, with the range of the seeds as a band."""
    figure, both = plt.subplots(1, 2, figsize=(10, 4.2), layout="constrained", sharey=True)
    for axes, axis_name in zip(both, ("seconds", "epochs"), strict=True):
        for road, colour in zip(roads, ("C0", "C1", "C2"), strict=True):
            for index, curve in enumerate(road.curves):
                x, label = getattr(curve, axis_name), road.name if index == 0 else None
                axes.plot(x, curve.top1.mean(axis=0), color=colour, marker="os"[index], markersize=3, label=label)
                axes.fill_between(
                    x, curve.top1.min(axis=0), curve.top1.max(axis=0), color=colour, alpha=0.2, linewidth=0
                )
        axes.set(xlabel="processor seconds of one seed" if axis_name == "seconds" else "epochs", xlim=(0, None))
        axes.grid(alpha=0.3)
    both[0].set(ylabel="top-1 of the selection clips in percent")
    both[1].legend(loc="lower right")
    figure.suptitle(title)
    figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)
    plt.close(figure)


def table(roads: Sequence[Road]) -> str:
    """Return a Markdown table of the ends of all ways, each compared with the first one on the reported clips."""
    lines = [
        "| way | epochs | seconds, one seed | selection top-1 | reported top-1 [95 %] | cached minus this |",
        "|---|---:|---:|---:|---|---|",
    ]
    runs: list[RunResult] = [read_run(road.cell) for road in roads]
    first = runs[0].predictions
    for road, run in zip(roads, runs, strict=True):
        correct, best = run.predictions.correct, road.curves[-1].top1.max(axis=1).mean()
        interval = accuracy_interval(correct, groups=first.groups)
        difference = paired_difference(first.correct, correct, groups=first.groups)
        points = difference.points
        compared = "" if run is runs[0] else f"{points.value:+.1f} [{points.low:+.1f}, {points.high:+.1f}]"
        lines.append(
            f"| {road.name} | {road.num_epochs} | {road.seconds:.0f} | {best:.1f} | {interval.text()} | {compared} |"
        )
    return "\n".join(lines) + "\n"


@click.command()
@click.option("--manifest", type=click.Path(path_type=Path, exists=True), required=True)
@click.option("--root", type=click.Path(path_type=Path, exists=True))
@click.option("--backbone", default="squeezenet", show_default=True)
@click.option("--head", default="lstm", show_default=True)
@click.option("--weights", default="bundled", show_default=True)
@click.option("--num-segments", default=8, show_default=True)
@click.option("--views", default=3, show_default=True, help="Training views in the store.")
@click.option("--input-size", default=224, show_default=True)
@click.option("--fit-epochs", default=20, show_default=True)
@click.option("--finetune-epochs", default=8, show_default=True)
@click.option("--lr", default=1e-3, show_default=True, help="Rate of the head from scratch.")
@click.option("--backbone-lr", default=3e-4, show_default=True, help="Rate of the backbone from scratch.")
@click.option("--seeds", default=1, show_default=True)
@click.option("--threads", type=int, help="Threads of torch, and extraction workers.  [default: one per core]")
@click.option("--precision", default="float32", show_default=True)
@click.option("--work", type=click.Path(path_type=Path), help="Empty folder for the results.  [default: temporary]")
@click.option("--plot", type=click.Path(path_type=Path), help="File of the plot.")
@click.option("--out", type=click.Path(path_type=Path), help="Markdown file for the table.")
def main(
    lr: float, backbone_lr: float, work: Path | None, plot: Path | None, out: Path | None, **common: object
) -> None:
    """Train both ways and print their table."""
    study = Study(**common)  # type: ignore[arg-type]
    rates = {"lr": lr, "backbone_lr": backbone_lr}
    with tempfile.TemporaryDirectory() as temporary:
        folder = work or Path(temporary)
        if folder.is_dir() and any(folder.iterdir()):
            raise click.ClickException(f"{folder} is not empty: results that are there already would take no time.")
        cached = study.cached(folder)
        num_epochs = study.fit_epochs + study.finetune_epochs
        equal_epochs = study.end_to_end(EQUAL_EPOCHS, folder / "equal_epochs", rates, num_epochs)
        in_time = max(1, round(cached.seconds / (equal_epochs.seconds / num_epochs)))
        equal_time = study.end_to_end(EQUAL_TIME, folder / "equal_time", rates, in_time)
        roads = (cached, equal_time, equal_epochs)
        text = (
            f"{machine('cpu')['processor']}, torch {torch.__version__}, {study.precision}, {study.threads or 'all'} "
            f"thread(s), {study.seeds} seed(s); {study.backbone}, {study.head}; from scratch: lr {lr:g}, backbone-lr "
            f"{backbone_lr:g}.\n\n{table(roads)}"
        )
        if plot is not None:
            draw(plot, roads, f"{study.backbone}, {study.head}, {study.seeds} seeds")
    click.echo(text)
    if out is not None:
        write_text(out, text)


if __name__ == "__main__":
    main()
