"""Question: how much accuracy does each further view of the clips add, and how many bytes of the store does it take?

Heads of pooled features are fitted with the first 0, 1, 2, … training views of a store (0: every epoch uses the test
view), for the same number of steps each; with a store of `--frames all`, also with frames drawn from every segment in
each epoch. Sizes are those of the compressed pooled features in the store.

    pipeline extract --manifest M --root R --views 8 --maps pooled --store VIEWS.zarr
    pipeline extract --manifest M --root R --frames all --store FRAMES.zarr
    python -m benchmarks.views_curve VIEWS.zarr --frames-store FRAMES.zarr --out docs/studies/views_demo.md
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import click
import matplotlib
import numpy as np
import torch

from benchmarks.fits import right_clips
from benchmarks.heads import machine
from pipeline.evaluation.statistics import Interval, accuracy_interval
from pipeline.extract.blocks import views_of
from pipeline.files import write_text
from pipeline.fit_head.cached_data import CachedData
from pipeline.recipe import Recipe, named_recipe
from pipeline.store import FeatureStore
from pipeline.store.writer import TRAIN_SPLIT
from pipeline.store_command.info import describe

matplotlib.use("Agg")
from matplotlib import pyplot as plt


@dataclass(frozen=True)
class Point:
    """Result for one number of views: bytes of the store, and top-1 of each head with its interval."""

    name: str
    num_bytes: float
    top1: dict[str, Interval]


def measured(data: CachedData, name: str, num_bytes: float, heads: Sequence[str], recipe: Recipe, seeds: int) -> Point:
    """Fit every head with every seed."""
    top1 = {}
    for head in heads:
        correct = [right_clips(data, head, data.check_recipe(recipe), seed) for seed in range(seeds)]
        top1[head] = accuracy_interval(np.stack(correct))
        click.echo(f"{name}, {head}: {top1[head].value:.1f}", err=True)
    return Point(name, num_bytes, top1)


def bytes_of(store: FeatureStore, num_views: int) -> float:
    """Return the bytes of a store with only `num_views` training views; all views of a clip have the same size."""
    about = describe(store)
    kept = sum(about.num_by_view[view] for view in views_of(TRAIN_SPLIT, num_views))
    return about.num_bytes * kept / sum(about.num_by_view.values())


def draw(path: Path, points: Sequence[Point], title: str) -> None:
    """Plot top-1 against the number of views, one line per head."""
    figure, axes = plt.subplots(figsize=(7, 4.2), layout="constrained")
    places = range(len(points))
    for head in points[0].top1:
        found = [point.top1[head] for point in points]
        (line,) = axes.plot(places, [each.value for each in found], marker="o", markersize=4, label=head)
        axes.fill_between(
            places, [each.low for each in found], [each.high for each in found], color=line.get_color(), alpha=0.12
        )
    axes.set_xticks(places, [f"{point.name}\n{point.num_bytes / 1e6:.1f} MB" for point in points])
    axes.set(xlabel="training views in the store", ylabel="top-1 in percent", title=title)
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)


@click.command()
@click.argument("store")
@click.option("--frames-store", help="A store of the same clips made with --frames all.")
@click.option("--views", default="0,1,2,4,8", show_default=True)
@click.option("--heads", default="mlp,trn,lstm", show_default=True)
@click.option("--seeds", default=3, show_default=True)
@click.option("--epochs", default=20, show_default=True)
@click.option("--title", default="", help="Of the plot.")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    help="Markdown file for the table; the plot is written to the same folder.",
)
def main(
    store: str, frames_store: str | None, views: str, heads: str, seeds: int, epochs: int, title: str, out: Path | None
) -> None:
    """Print top-1 of each head for each number of training views."""
    recipe = named_recipe("cached").with_overrides(epochs=epochs)
    opened = FeatureStore.open(store)
    points = []
    for num_views in map(int, views.split(",")):
        data = CachedData(opened, Path("."), num_views=num_views)
        points.append(measured(data, str(num_views), bytes_of(opened, num_views), heads.split(","), recipe, seeds))
    if frames_store is not None:
        every = FeatureStore.open(frames_store)
        data = CachedData(every, Path("."), opened.settings.num_segments)
        points.append(measured(data, "all frames", describe(every).num_bytes, heads.split(","), recipe, seeds))
    about = machine("cpu")
    lines = [
        f"`python -m benchmarks.views_curve STORE{' --frames-store FRAMES' if frames_store else ''} --views {views} "
        f"--seeds {seeds} --epochs {epochs}`: {about['processor']}, torch {torch.__version__}; "
        f"{opened.settings.backbone}, weights {opened.settings.weights['name']}. Validation top-1 in percent, mean"
        " over seeds with its 95 % interval over clips and seeds; megabytes of the pooled features in the store.",
        "",
        f"| training views | MB | {' | '.join(points[0].top1)} |",
        f"|---|---:|{'---:|' * len(points[0].top1)}",
    ]
    for point in points:
        cells = [f"{each.value:.1f} [{each.low:.1f}, {each.high:.1f}]" for each in point.top1.values()]
        lines.append(f"| {point.name} | {point.num_bytes / 1e6:.1f} | {' | '.join(cells)} |")
    click.echo("\n".join(lines))
    if out is not None:
        write_text(out, "\n".join(lines) + "\n")
        draw(out.with_suffix(".svg"), points, title)


if __name__ == "__main__":
    main()
