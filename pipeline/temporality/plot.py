"""Picture of the classes: accuracy with and without order, and the arrow of time."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from pipeline.files import atomic_path
from pipeline.temporality.table import ClassRow

MARKERS = {
    "ordered": ("o", "#1f62c8"),
    "unordered": ("s", "#c2571a"),
    "single_frame": ("v", "#c2571a"),
    "reversed": ("D", "#5b6472"),
    "arrow": ("^", "#5a8f2c"),
}
GRID = "#dfe3e9"


def write_plot(path: Path, rows: Sequence[ClassRow], num_classes: int) -> None:
    """Draw a line of markers for each class, the class to which order adds most at the top, and write it as SVG."""
    rows = sorted(rows, key=lambda row: row.order_gain.value)
    settings = {"svg.fonttype": "none", "svg.hashsalt": "temporality", "font.size": 9.0}
    with matplotlib.rc_context(settings):  # type: ignore[arg-type]
        figure = Figure(figsize=(7, 1.3 + 0.27 * len(rows)), layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.add_subplot()
        for place, row in enumerate(rows):
            values = {name: row.measures[name].value for name in MARKERS}
            axes.hlines(place, min(values.values()), max(values.values()), color=GRID, linewidth=2, zorder=1)
            for name, (marker, colour) in MARKERS.items():
                label = name.replace("_", " ") if place == 0 else None
                axes.plot([values[name]], [place], marker=marker, color=colour, linestyle="none", label=label,
                          markerfacecolor="none" if marker != "o" else colour, markersize=6)  # fmt: skip
        axes.axvline(100 / num_classes, color=GRID, linestyle=(0, (2, 2)), linewidth=1)
        axes.set_yticks(range(len(rows)), [row.label for row in rows])
        axes.set_xlim(-3, 103)
        axes.set_xlabel("percent of clips; dotted: chance of a class")
        figure.legend(loc="outside upper center", ncols=len(MARKERS), frameon=False, fontsize=8)
        with atomic_path(path) as aside:
            figure.savefig(aside, format="svg", metadata={"Date": None})
