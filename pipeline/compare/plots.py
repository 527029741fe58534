"""Plots of a comparison, drawn with matplotlib's objects, without pyplot and its global state.

Every plot is a function from data and a `Palette` to a `Figure`, small enough to be read on a phone. The PNG and SVG
files are byte-identical each time; the SVG in the report has colours that follow its light or dark theme.
"""

from __future__ import annotations

import io
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator

from pipeline.compare.comparison import Comparison, Group, Row
from pipeline.compare.labels import place_labels
from pipeline.compare.paper import RankAgreement
from pipeline.compare.table import count_text
from pipeline.evaluation.result_reader import RunResult
from pipeline.files import atomic_path, write_text

WIDTH_INCHES = 4.1
SMALL_WIDTH_INCHES = 3.1
CROWDED_ROW_INCHES = 0.12
PNG_DPI = 160
MAX_LABELLED_CLASSES = 30
# Readable on light and dark backgrounds; red and green also differ in lightness, for colour-blind readers.
RIGHT, WRONG = "#3f8f5f", "#f08a3c"
ORDER_TESTS = {"shuffled": "s", "reversed": "D", "repeated": "v"}
_SETTINGS: Any = {"svg.fonttype": "none", "font.family": "DejaVu Sans", "font.size": 9.0, "axes.linewidth": 0.8}
# Crops the empty margins that a square matrix leaves in its figure.
_TIGHT: Any = {"bbox_inches": "tight", "pad_inches": 0.04}


@dataclass(frozen=True)
class Palette:
    """Colours of a plot; each has one meaning."""

    ink: str
    muted: str
    grid: str
    surface: str
    main: str
    second: str
    third: str


LIGHT = Palette("#1c2330", "#5b6472", "#dfe3e9", "#ffffff", "#1f62c8", "#c2571a", "#5a8f2c")


def accuracy_against_macs(group: Group, palette: Palette = LIGHT) -> Figure:
    """Plot top-1 with its interval against MACs of the ST block on a logarithmic axis, and the Pareto front."""
    rows = [row for row in group.rows if row.complexity is not None]
    figure, axes = _figure(palette, WIDTH_INCHES, 3.9)
    costs = {id(row): row.complexity.macs for row in rows if row.complexity is not None}
    counts = [macs for macs in costs.values() if macs > 0]
    lowest = min(counts, default=1_000_000)
    # A logarithmic axis has no zero; TSN, which has no MACs, is placed left of it, separated by a line.
    zero_at = lowest / 12
    places = {key: float(macs) if macs > 0 else zero_at for key, macs in costs.items()}
    front = group.front()
    has_free = any(macs == 0 for macs in costs.values())
    # Set, not found: a single point would have an axis without width. The right side leaves room for a name.
    axes.set_xscale("log")
    axes.set_xlim((zero_at if has_free else lowest) / 5, max(counts, default=lowest) * 12)
    axes.plot(
        [places[id(row)] for row in front],
        [row.top1.value for row in front],
        color=palette.main,
        linewidth=1.4,
        alpha=0.55,
        zorder=2,
        drawstyle="steps-post",
    )
    points: list[tuple[float, float, str]] = []
    corners = [(places[id(row)], row.top1.value) for row in front]
    bends = [point for one, other in itertools.pairwise(corners) for point in (one, (other[0], one[1]))]
    lines = [bends + corners[-1:]]
    for row in rows:
        x, on_front = places[id(row)], row in front
        colour = palette.main if on_front else palette.muted
        is_spatial = row.complexity is not None and row.complexity.maps == "spatial"
        axes.vlines(x, row.top1.low, row.top1.high, color=colour, linewidth=1.2, alpha=0.6, zorder=3)
        axes.plot(
            [x],
            [row.top1.value],
            marker="s" if is_spatial else "o",
            markersize=6.5,
            color=colour,
            markerfacecolor=colour if on_front else palette.surface,
            zorder=4,
        )
        points.append((x, row.top1.value, row.label))
        lines.append([(x, row.top1.low), (x, row.top1.high)])
    axes.margins(y=0.1)
    place_labels(figure, axes, points, palette.ink, lines)
    decades = [10.0**power for power in range(3, 13) if lowest / 3 < 10.0**power < max(counts, default=1) * 3]
    axes.xaxis.set_major_locator(FixedLocator([zero_at, *decades] if has_free else decades))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(
        FuncFormatter(lambda value, _: "0" if value < lowest / 3 else _tick_text(int(value)))
    )
    if has_free:
        axes.axvline(lowest / 4, color=palette.grid, linewidth=1, linestyle=(0, (2, 2)), zorder=1)
    axes.set_xlabel("multiply-accumulates of the ST block, one clip")
    axes.set_ylabel("top-1 (%)")
    _keys(axes, palette, [("o", "pooled features"), ("s", "feature maps")])
    return figure


def training_curves(run: RunResult, palette: Palette = LIGHT) -> Figure | None:
    """Plot validation top-1 and both losses by epoch, averaged over seeds; None if no epoch was trained."""
    history = run.history
    if history is None or history.empty or "epoch" not in history:
        return None
    by_epoch: pd.DataFrame = history.groupby("epoch").mean(numeric_only=True)
    figure = _empty_figure(palette, SMALL_WIDTH_INCHES - 0.5, 2.3, is_filled=True)
    top, bottom = figure.subplots(2, 1, sharex=True)
    for axes in (top, bottom):
        _style(axes, palette)
    if "select_top1" in by_epoch:
        if "seed" in history:
            for _, of_seed in history.groupby("seed"):
                top.plot(of_seed["epoch"], of_seed["select_top1"], color=palette.main, linewidth=0.7, alpha=0.35)
        top.plot(by_epoch.index, by_epoch["select_top1"], color=palette.main, linewidth=1.6, marker=".", markersize=4)
    for column, name, style, colour in (
        ("train_loss", "training", (0, (3, 2)), palette.muted),
        ("select_loss", "selection", "solid", palette.second),
    ):
        if column in by_epoch:
            bottom.plot(by_epoch.index, by_epoch[column], color=colour, linestyle=style, linewidth=1.4, label=name,
                        marker=".", markersize=3)  # fmt: skip
    top.set_ylim(0, 104)
    top.set_ylabel("top-1 (%)")
    bottom.set_ylabel("loss")
    bottom.set_xlabel("epoch")
    bottom.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))
    _legend(bottom, palette)
    return figure


def confusion(row: Row, palette: Palette = LIGHT) -> Figure:
    """Plot how the clips of each class were classified, in percent of the class; the diagonal is correct."""
    predictions = row.run.predictions
    matrix = predictions.confusion()
    totals = matrix.sum(axis=1, keepdims=True)
    shares = np.divide(matrix, totals, out=np.zeros_like(matrix), where=totals > 0)
    num_classes = len(predictions.classes)
    has_labels = num_classes <= MAX_LABELLED_CLASSES
    is_crowded = has_labels and num_classes > 16
    # With many classes, names in a square matrix would be too small, so rows are higher than columns are wide.
    height = CROWDED_ROW_INCHES * num_classes if is_crowded else SMALL_WIDTH_INCHES - 0.6
    figure = _empty_figure(palette, SMALL_WIDTH_INCHES - 0.6, height, is_filled=True)
    axes = figure.subplots()
    _style(axes, palette)
    axes.grid(visible=False)
    # The strength of a colour is readable on light and dark backgrounds.
    image = np.zeros((num_classes, num_classes, 4))
    image[:] = matplotlib.colors.to_rgba(WRONG)
    image[np.eye(num_classes, dtype=bool)] = matplotlib.colors.to_rgba(RIGHT)
    image[:, :, 3] = np.sqrt(shares) * 0.95
    axes.imshow(image, interpolation="nearest", aspect="auto" if is_crowded else "equal")
    axes.set_xlabel("predicted")
    axes.set_ylabel("label")
    axes.tick_params(length=0)
    if has_labels:
        size = 6.5 if is_crowded else 7.0
        # Names only at the rows; columns have the number of their row, so that long names leave room for the matrix.
        names = [f"{label}  {index}" for index, label in enumerate(predictions.classes)]
        axes.set_xticks(range(num_classes), [str(index) for index in range(num_classes)],
                        fontsize=5.5 if is_crowded else size,
                        rotation="vertical" if is_crowded else "horizontal")  # fmt: skip
        axes.set_yticks(range(num_classes), names, fontsize=size)
        for line in range(1, num_classes):
            axes.axhline(line - 0.5, color=palette.grid, linewidth=0.4)
            axes.axvline(line - 0.5, color=palette.grid, linewidth=0.4)
    return figure


def order_probes(group: Group, palette: Palette = LIGHT) -> Figure | None:
    """Plot top-1 with frames in order, shuffled, reversed, and one frame repeated; None without order tests."""
    rows = [row for row in group.rows if row.order_test_drops][::-1]
    if not rows:
        return None
    figure, axes = _figure(palette, WIDTH_INCHES, 1.2 + 0.27 * len(rows))
    for place, row in enumerate(rows):
        values = {order_test: row.top1.value - drop for order_test, drop in row.order_test_drops.items()}
        axes.hlines(place, min(values.values()), row.top1.value, color=palette.grid, linewidth=2, zorder=1)
        for order_test, marker in ORDER_TESTS.items():
            if order_test in values:
                axes.plot([values[order_test]], [place], marker=marker, color=palette.second, markersize=5, zorder=3,
                          markerfacecolor=palette.surface)  # fmt: skip
        axes.plot([row.top1.value], [place], marker="o", color=palette.main, markersize=6.5, zorder=4)
    chance = 100 / len(rows[0].run.predictions.classes)
    axes.axvline(chance, color=palette.muted, linewidth=1, linestyle=(0, (2, 2)), zorder=1)
    axes.set_yticks(range(len(rows)), [row.label for row in rows])
    axes.set_xlim(-2, 102)
    axes.set_ylim(-0.6, len(rows) - 0.4)
    axes.set_xlabel("top-1 (%)")
    handles = [axes.plot([], [], marker="o", linestyle="none", color=palette.main, label="in order")[0]]
    for order_test, marker in ORDER_TESTS.items():
        handles += axes.plot([], [], marker=marker, linestyle="none", color=palette.second, label=order_test,
                             markerfacecolor=palette.surface)  # fmt: skip
    handles += axes.plot([], [], color=palette.muted, linewidth=1, linestyle=(0, (2, 2)), label="chance")
    _legend(axes, palette, loc="lower center", bbox_to_anchor=(0.4, 1.0), ncols=3, handles=handles)
    return figure


def against_paper(group: Group, agreement: RankAgreement, palette: Palette = LIGHT) -> Figure:
    """Plot our top-1 of each head against the paper's; points on a rising line are in the same order."""
    figure, axes = _figure(palette, WIDTH_INCHES, 3.6)
    points = [
        (agreement.column.accuracies[row.run.head], row.top1.value, row.label)
        for row in group.rows
        if not row.run.is_finetuned
        and row.run.recipe == agreement.recipe
        and row.run.head in agreement.column.accuracies
    ]
    axes.plot([x for x, _, _ in points], [y for _, y, _ in points], "o", color=palette.main, markersize=6, zorder=3)
    axes.margins(x=0.2, y=0.1)
    place_labels(figure, axes, points, palette.ink)
    axes.set_xlabel(f"paper: top-1 (%) on {agreement.column.title}")
    axes.set_ylabel("here: top-1 (%)")
    return figure


def write_plots(folder: Path, comparison: Comparison) -> list[Path]:
    """Write the plots of each group as PNG and SVG, without measured times; return the paths.

    Plots of single runs are in the report, and `dvc plots show` draws them from the files of each run.
    """
    figures: dict[str, Figure | None] = {}
    for index, group in enumerate(comparison.groups):
        suffix = f"-{index + 1}" if len(comparison.groups) > 1 else ""
        figures[f"accuracy-macs{suffix}"] = accuracy_against_macs(group)
        figures[f"order-probes{suffix}"] = order_probes(group)
        for number, agreement in enumerate(group.agreements):
            figures[f"paper{suffix}{'' if number == 0 else f'-recipe{number + 1}'}"] = against_paper(group, agreement)
    written: list[Path] = []
    for name, figure in figures.items():
        if figure is not None:
            written += [folder / f"{name}.svg", folder / f"{name}.png"]
            write_text(written[-2], svg_text(figure, name))
            with atomic_path(written[-1]) as aside:
                figure.savefig(aside, format="png", dpi=PNG_DPI, metadata={"Software": None}, **_TIGHT)
    return written


def svg_text(figure: Figure, name: str) -> str:
    """Return a figure as SVG, the same text each time; `name` makes its ids unique in a page."""
    buffer = io.StringIO()
    with matplotlib.rc_context({**_SETTINGS, "svg.hashsalt": name}):
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None}, transparent=True, **_TIGHT)
    return buffer.getvalue()


def _empty_figure(palette: Palette, width: float, height: float, *, is_filled: bool = False) -> Figure:
    """Create a figure; axes that fill it have their labels outside, where a file written with `_TIGHT` shows them.

    A constrained layout takes as long as drawing, which is too slow for the plots of every run.
    """
    with matplotlib.rc_context(_SETTINGS):
        figure = Figure(figsize=(width, height), layout=None if is_filled else "constrained", facecolor=palette.surface)
        FigureCanvasAgg(figure)
        if is_filled:
            figure.subplots_adjust(left=0, right=1, bottom=0, top=1, hspace=0.12)
    return figure


def _figure(palette: Palette, width: float, height: float) -> tuple[Figure, Axes]:
    figure = _empty_figure(palette, width, height)
    axes = figure.subplots()
    _style(axes, palette)
    return figure, axes


def _style(axes: Axes, palette: Palette) -> None:
    axes.set_facecolor(palette.surface)
    axes.grid(visible=True, color=palette.grid, linewidth=0.7)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color(palette.grid)
    axes.tick_params(colors=palette.muted, labelsize=8, length=3)
    axes.xaxis.label.set_color(palette.muted)
    axes.yaxis.label.set_color(palette.muted)


def _keys(axes: Axes, palette: Palette, markers: Sequence[tuple[str, str]]) -> None:
    handles = [
        axes.plot(
            [], [], marker=marker, linestyle="none", color=palette.muted, markerfacecolor=palette.surface, label=text
        )[0]
        for marker, text in markers
    ]
    handles += axes.plot([], [], color=palette.main, linewidth=1.4, alpha=0.55, label="Pareto front")
    _legend(axes, palette, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=3, handles=handles)


def _legend(axes: Axes, palette: Palette, **options: Any) -> None:
    legend = axes.legend(frameon=False, fontsize=8, handletextpad=0.4, columnspacing=1.2, **options)
    for text in legend.get_texts():
        text.set_color(palette.ink)


def _tick_text(count: int) -> str:
    number, _, unit = count_text(count).partition(" ")
    return f"{float(number):g} {unit}".strip()
