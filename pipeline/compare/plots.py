"""Plots of a comparison, drawn with matplotlib's objects, without pyplot and its global state.

Every plot is a function from data to a `Figure`, small enough to be read on a phone. It is drawn once: the PNG and SVG
files are byte-identical each time, and the report shows the same SVG with colours that follow its light or dark theme.
The many small figures of single heads are in `charts`, which needs no matplotlib.
"""

from __future__ import annotations

import io
import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import matplotlib
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from pipeline.compare.columns import count_text
from pipeline.compare.comparison import Comparison, Group
from pipeline.compare.labels import place_labels
from pipeline.compare.paper import RankAgreement
from pipeline.files import atomic_path, write_text

WIDTH_INCHES = 4.1
PNG_DPI = 160
MAX_SCALE = 1.9  # maximum scale of a drawing in the report, relative to its size
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
# The report replaces each colour by the variable of its theme; no other colour may occur in a plot.
_VARIABLES = {getattr(LIGHT, name): f"var(--{name})" for name in vars(LIGHT)}


def accuracy_against_macs(group: Group) -> Figure:
    """Plot top-1 with its interval against MACs of the ST block on a logarithmic axis, and the Pareto front."""
    rows = [row for row in group.rows if row.complexity is not None]
    figure, axes = _figure(WIDTH_INCHES, 3.9)
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
        color=LIGHT.main,
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
        colour = LIGHT.main if on_front else LIGHT.muted
        is_spatial = row.complexity is not None and row.complexity.maps == "spatial"
        axes.vlines(x, row.top1.low, row.top1.high, color=colour, linewidth=1.2, alpha=0.6, zorder=3)
        axes.plot(
            [x],
            [row.top1.value],
            marker="s" if is_spatial else "o",
            markersize=6.5,
            color=colour,
            markerfacecolor=colour if on_front else LIGHT.surface,
            zorder=4,
        )
        points.append((x, row.top1.value, row.label))
        lines.append([(x, row.top1.low), (x, row.top1.high)])
    axes.margins(y=0.1)
    place_labels(figure, axes, points, LIGHT.ink, lines)
    decades = [10.0**power for power in range(3, 13) if lowest / 3 < 10.0**power < max(counts, default=1) * 3]
    axes.xaxis.set_major_locator(FixedLocator([zero_at, *decades] if has_free else decades))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(
        FuncFormatter(lambda value, _: "0" if value < lowest / 3 else _tick_text(int(value)))
    )
    if has_free:
        axes.axvline(lowest / 4, color=LIGHT.grid, linewidth=1, linestyle=(0, (2, 2)), zorder=1)
    axes.set_xlabel("multiply-accumulates of the ST block, one clip")
    axes.set_ylabel("top-1 (%)")
    _keys(axes, [("o", "pooled features"), ("s", "feature maps")])
    return figure


def order_probes(group: Group) -> Figure | None:
    """Plot top-1 with frames in order, shuffled, reversed, and one frame repeated; None without order tests."""
    rows = [row for row in group.rows if row.order_test_drops][::-1]
    if not rows:
        return None
    figure, axes = _figure(WIDTH_INCHES, 1.2 + 0.27 * len(rows))
    for place, row in enumerate(rows):
        values = {order_test: row.top1.value - drop for order_test, drop in row.order_test_drops.items()}
        axes.hlines(place, min(values.values()), row.top1.value, color=LIGHT.grid, linewidth=2, zorder=1)
        for order_test, marker in ORDER_TESTS.items():
            if order_test in values:
                axes.plot([values[order_test]], [place], marker=marker, color=LIGHT.second, markersize=5, zorder=3,
                          markerfacecolor=LIGHT.surface)  # fmt: skip
        axes.plot([row.top1.value], [place], marker="o", color=LIGHT.main, markersize=6.5, zorder=4)
    chance = 100 / len(rows[0].run.predictions.classes)
    axes.axvline(chance, color=LIGHT.muted, linewidth=1, linestyle=(0, (2, 2)), zorder=1)
    axes.set_yticks(range(len(rows)), [row.label for row in rows])
    axes.set_xlim(-2, 102)
    axes.set_ylim(-0.6, len(rows) - 0.4)
    axes.set_xlabel("top-1 (%)")
    handles = [axes.plot([], [], marker="o", linestyle="none", color=LIGHT.main, label="in order")[0]]
    for order_test, marker in ORDER_TESTS.items():
        handles += axes.plot([], [], marker=marker, linestyle="none", color=LIGHT.second, label=order_test,
                             markerfacecolor=LIGHT.surface)  # fmt: skip
    handles += axes.plot([], [], color=LIGHT.muted, linewidth=1, linestyle=(0, (2, 2)), label="chance")
    _legend(axes, loc="lower center", bbox_to_anchor=(0.4, 1.0), ncols=3, handles=handles)
    return figure


def against_paper(group: Group, agreement: RankAgreement) -> Figure:
    """Plot our top-1 of each head against the paper's; points on a rising line are in the same order."""
    figure, axes = _figure(WIDTH_INCHES, 3.6)
    points = [
        (agreement.column.accuracies[row.run.head], row.top1.value, row.label)
        for row in group.rows
        if not row.run.is_finetuned
        and row.run.recipe == agreement.recipe
        and row.run.head in agreement.column.accuracies
    ]
    axes.plot([x for x, _, _ in points], [y for _, y, _ in points], "o", color=LIGHT.main, markersize=6, zorder=3)
    axes.margins(x=0.2, y=0.1)
    place_labels(figure, axes, points, LIGHT.ink)
    axes.set_xlabel(f"paper: top-1 (%) on {agreement.column.title}")
    axes.set_ylabel("here: top-1 (%)")
    return figure


@dataclass(frozen=True)
class Plot:
    """A drawn plot. `name` is the name of its files."""

    name: str
    figure: Figure

    @cached_property
    def svg(self) -> str:
        """The SVG file, the same text each time; the name makes its ids unique in a page."""
        buffer = io.StringIO()
        with matplotlib.rc_context({**_SETTINGS, "svg.hashsalt": self.name}):
            options: Any = {"metadata": {"Date": None, "Creator": None}, "transparent": True, **_TIGHT}
            self.figure.savefig(buffer, format="svg", **options)
        return buffer.getvalue()

    @property
    def inline(self) -> Markup:
        """An SVG element with the colours of the report's page that scales with the page."""
        text = self.svg[self.svg.index("<svg") :]
        text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
        for colour, variable in _VARIABLES.items():
            text = text.replace(colour, variable)
        # A size in points would not scale with the page; the view box keeps the proportions.
        text = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", text, count=1)
        text = re.sub(
            r'(<svg[^>]*?) width="([\d.]+)pt"',
            lambda found: f'{found[1]} style="max-width:{float(found[2]) * MAX_SCALE:.0f}px"',
            text,
            count=1,
        )
        # Safe as markup: matplotlib escapes labels as XML.
        return Markup(text)


@dataclass(frozen=True)
class GroupPlots:
    """The plots of a group; `papers` has one for each agreement."""

    accuracy: Plot
    order_tests: Plot | None
    papers: tuple[Plot, ...]

    def all(self) -> list[Plot]:
        return [plot for plot in (self.accuracy, self.order_tests, *self.papers) if plot is not None]


def draw_plots(comparison: Comparison) -> list[GroupPlots]:
    """Draw the plots of each group, without measured times."""
    drawn = []
    for index, group in enumerate(comparison.groups):
        suffix = f"-{index + 1}" if len(comparison.groups) > 1 else ""
        order_tests = order_probes(group)
        papers = [
            Plot(f"paper{suffix}{'' if number == 0 else f'-recipe{number + 1}'}", against_paper(group, agreement))
            for number, agreement in enumerate(group.agreements)
        ]
        drawn.append(
            GroupPlots(
                Plot(f"accuracy-macs{suffix}", accuracy_against_macs(group)),
                None if order_tests is None else Plot(f"order-probes{suffix}", order_tests),
                tuple(papers),
            )
        )
    return drawn


def write_plots(folder: Path, plots: Sequence[GroupPlots]) -> None:
    """Write plots as PNG and SVG.

    Plots of single runs are in the report, and `dvc plots show` draws them from the files of each run.
    """
    for plot in (plot for of_group in plots for plot in of_group.all()):
        write_text(folder / f"{plot.name}.svg", plot.svg)
        with atomic_path(folder / f"{plot.name}.png") as aside:
            plot.figure.savefig(aside, format="png", dpi=PNG_DPI, metadata={"Software": None}, **_TIGHT)


def _figure(width: float, height: float) -> tuple[Figure, Axes]:
    """Create axes that fill a figure; labels are outside, where a file written with `_TIGHT` shows them.

    A constrained layout would take as long as drawing.
    """
    with matplotlib.rc_context(_SETTINGS):
        figure = Figure(figsize=(width, height), facecolor=LIGHT.surface)
        FigureCanvasAgg(figure)
        axes = figure.add_axes((0, 0, 1, 1))
    _style(axes)
    return figure, axes


def _style(axes: Axes) -> None:
    axes.set_facecolor(LIGHT.surface)
    axes.grid(visible=True, color=LIGHT.grid, linewidth=0.7)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color(LIGHT.grid)
    axes.tick_params(colors=LIGHT.muted, labelsize=8, length=3)
    axes.xaxis.label.set_color(LIGHT.muted)
    axes.yaxis.label.set_color(LIGHT.muted)


def _keys(axes: Axes, markers: Sequence[tuple[str, str]]) -> None:
    handles = [
        axes.plot(
            [], [], marker=marker, linestyle="none", color=LIGHT.muted, markerfacecolor=LIGHT.surface, label=text
        )[0]
        for marker, text in markers
    ]
    handles += axes.plot([], [], color=LIGHT.main, linewidth=1.4, alpha=0.55, label="Pareto front")
    _legend(axes, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=3, handles=handles)


def _legend(axes: Axes, **options: Any) -> None:
    legend = axes.legend(frameon=False, fontsize=8, handletextpad=0.4, columnspacing=1.2, **options)
    for text in legend.get_texts():
        text.set_color(LIGHT.ink)


def _tick_text(count: int) -> str:
    number, _, unit = count_text(count).partition(" ")
    return f"{float(number):g} {unit}".strip()
