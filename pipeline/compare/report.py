"""Write the report: one self-contained HTML file, for light and dark themes, phone and desktop, without network."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup
from matplotlib.figure import Figure

from pipeline.compare import plots
from pipeline.compare.comparison import Comparison, Group, PairTest, Row
from pipeline.compare.disagreement import ConfusedPair, ContactSheet, contact_sheets, most_confused
from pipeline.compare.gate import GateReport
from pipeline.compare.table import Column, legend_of, marked_label, points_text, remarks_of, used_columns
from pipeline.evaluation.result_reader import RunResult
from pipeline.files import write_text
from pipeline.manifest import Manifest

TEMPLATE = "report.html"
MAX_SCALE = 1.9  # maximum scale of a drawing, relative to its size
# Drawn with placeholder colours, which are replaced by the names of the page's colours, so that one drawing works for
# the light and the dark theme. None of them may occur elsewhere.
_MARKERS = plots.Palette("#010203", "#010204", "#010205", "#010206", "#010207", "#010208", "#010209")
_MARKER_NAMES = {getattr(_MARKERS, name): f"var(--{name})" for name in vars(_MARKERS)}


@dataclass(frozen=True)
class HeadPage:
    """Contents of the report for one run."""

    row: Row
    anchor: str
    curves: Markup | None
    confusion: Markup
    confused: list[ConfusedPair]
    settings: dict[str, str]


@dataclass(frozen=True)
class GroupPage:
    """Contents of the report for one group."""

    group: Group
    anchor: str
    columns: list[Column]
    remarks: list[str]
    scale: tuple[float, float]
    accuracy: Markup
    order_tests: Markup | None
    papers: list[tuple[str, Markup]]
    heads: list[HeadPage]
    sheets: list[ContactSheet]
    pairwise: list[list[PairTest | None]]
    shared_settings: dict[str, str]


def write_report(
    path: Path,
    comparison: Comparison,
    *,
    gate: GateReport | None = None,
    manifest: Manifest | None = None,
    machine: str = "",
) -> None:
    """Write the report of a comparison to `path`.

    With a manifest, clips are linked by paths relative to the report, and the clips on which heads disagree are shown.
    """
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters["points"] = points_text
    environment.filters["marked"] = marked_label
    template = environment.from_string(resources.files("pipeline.compare").joinpath(TEMPLATE).read_text("utf-8"))
    folder = path.absolute().parent
    pages = [_group_page(index, group, manifest, folder) for index, group in enumerate(comparison.groups)]
    text = template.render(
        pages=pages, pairs=comparison.pairs, gate=gate, legend=legend_of(comparison), machine=machine
    )
    write_text(path, text)


def inline_svg(figure: Figure, name: str) -> Markup:
    """Return a figure as an SVG element with the colours of the page that scales with the page."""
    text = plots.svg_text(figure, name)
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    for marker, variable in _MARKER_NAMES.items():
        text = text.replace(marker, variable)
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


def _group_page(index: int, group: Group, manifest: Manifest | None, folder: Path) -> GroupPage:
    order_tests = plots.order_probes(group, _MARKERS)
    papers = [
        (agreement.sentence(), inline_svg(plots.against_paper(group, agreement, _MARKERS), f"paper-{index}-{number}"))
        for number, agreement in enumerate(group.agreements)
    ]
    settings = [_settings(row.run) for row in group.rows]
    shared = {key: value for key, value in settings[0].items() if all(other.get(key) == value for other in settings)}
    return GroupPage(
        group=group,
        anchor=f"group-{index}",
        # The most important first, so that a phone shows them without scrolling.
        columns=sorted(used_columns(group), key=lambda column: column.priority),
        remarks=remarks_of(group),
        scale=_scale(group),
        accuracy=inline_svg(plots.accuracy_against_macs(group, _MARKERS), f"accuracy-{index}"),
        order_tests=None if order_tests is None else inline_svg(order_tests, f"probes-{index}"),
        papers=papers,
        heads=[
            _head_page(
                f"{index}-{place}",
                row,
                {key: value for key, value in settings[place].items() if key not in shared},
                manifest,
                folder,
            )
            for place, row in enumerate(group.rows)
        ],
        sheets=[] if manifest is None else contact_sheets(group, manifest, folder),
        pairwise=_pairwise(group),
        shared_settings=shared,
    )


def _head_page(name: str, row: Row, settings: dict[str, str], manifest: Manifest | None, folder: Path) -> HeadPage:
    curves = plots.training_curves(row.run, _MARKERS)
    return HeadPage(
        row=row,
        anchor=f"head-{name}",
        curves=None if curves is None else inline_svg(curves, f"curves-{name}"),
        confusion=inline_svg(plots.confusion(row, _MARKERS), f"confusion-{name}"),
        confused=most_confused(row.run.predictions, manifest, folder),
        settings=settings,
    )


def _settings(run: RunResult) -> dict[str, str]:
    """Return the settings of a run: every value of metrics.json that is not a result, by its dotted name."""
    results = {"report", "select", "probes", "ece", "start"}
    metrics = {key: value for key, value in run.metrics.items() if key not in results}
    values = {"folder": str(run.folder), **dict(_flat(metrics))}
    if run.metrics.get("ece") is not None:
        values["calibration error (ECE)"] = f"{float(run.metrics['ece']):.2f} %"
    return values


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        elif value not in (None, ""):
            yield prefix + key, str(value)


def _scale(group: Group) -> tuple[float, float]:
    """Return the range of the interval bars: from a round value below the lowest to 100."""
    lowest = min(row.top1.low for row in group.rows)
    return (max(0.0, lowest // 10 * 10), 100.0)


def _pairwise(group: Group) -> list[list[PairTest | None]]:
    """Return the test of each row against each column, from the row's point of view; None on the diagonal."""
    by_pair = {(id(test.a), id(test.b)): test for test in group.tests}
    return [[by_pair.get((id(a), id(b))) or by_pair.get((id(b), id(a))) for b in group.rows] for a in group.rows]
