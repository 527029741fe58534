"""Write the report: one self-contained HTML file, for light and dark themes, phone and desktop, without network."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from pipeline.compare.charts import confusion_chart
from pipeline.compare.columns import Column, legend_of, marked_label, points_text, used_columns
from pipeline.compare.comparison import Comparison, Group, PairTest, Row
from pipeline.compare.disagreement import ConfusedPair, ContactSheet, contact_sheets, most_confused
from pipeline.compare.gain import interpolation_chart
from pipeline.compare.gate import GateReport
from pipeline.compare.plots import GroupPlots, draw_plots
from pipeline.compare.search_charts import SearchPage, budget_chart, budget_note, search_pages
from pipeline.compare.signature import signature_id, signature_line
from pipeline.compare.table import remarks_of
from pipeline.compare.training_curves import training_curves
from pipeline.evaluation.result_reader import RunResult
from pipeline.files import write_text
from pipeline.manifest import Manifest

TEMPLATE = "report.html"


@dataclass(frozen=True)
class HeadPage:
    """Contents of the report for one run."""

    row: Row
    anchor: str
    curves: Markup | None
    interpolation: Markup | None
    confusion: Markup
    confused: list[ConfusedPair]
    settings: dict[str, str]


@dataclass(frozen=True)
class SegmentCell:
    """Top-1 of a head with one number of segments."""

    text: str
    is_best: bool


@dataclass(frozen=True)
class SegmentTable:
    """Groups that differ in the number of segments alone, side by side: top-1 of each head; None if it is missing."""

    title: str
    num_segments: list[int]
    rows: list[tuple[str, list[SegmentCell | None]]]


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
    recalls: list[tuple[str, int, list[float]]]
    budget: Markup | None
    budget_note: str
    searches: list[SearchPage]
    signature: str
    signature_id: str
    shared_settings: dict[str, str]


def write_report(
    path: Path,
    comparison: Comparison,
    *,
    gate: GateReport | None = None,
    manifest: Manifest | None = None,
    machine: str = "",
    plots: Sequence[GroupPlots] | None = None,
) -> None:
    """Write the report of a comparison to `path`.

    With a manifest, clips are linked by paths relative to the report, and the clips on which heads disagree are shown.
    `plots`: the plots of the groups, if they are drawn already.
    """
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters["points"] = points_text
    environment.filters["marked"] = marked_label
    template = environment.from_string(resources.files("pipeline.compare").joinpath(TEMPLATE).read_text("utf-8"))
    folder = path.absolute().parent
    drawn = draw_plots(comparison) if plots is None else plots
    pages = [
        _group_page(index, group, of_group, manifest, folder)
        for index, (group, of_group) in enumerate(zip(comparison.groups, drawn, strict=True))
    ]
    text = template.render(
        pages=pages,
        sides=segment_tables(comparison),
        pairs=comparison.pairs,
        gate=gate,
        legend=legend_of(comparison),
        machine=machine,
    )
    write_text(path, text)


def _group_page(index: int, group: Group, plots: GroupPlots, manifest: Manifest | None, folder: Path) -> GroupPage:
    sentences = [agreement.sentence() for agreement in group.agreements]
    settings = [_settings(row.run) for row in group.rows]
    searches = search_pages(group.rows)
    shared = {key: value for key, value in settings[0].items() if all(other.get(key) == value for other in settings)}
    return GroupPage(
        group=group,
        anchor=f"group-{index}",
        # The most important first, so that a phone shows them without scrolling.
        columns=sorted(used_columns(group), key=lambda column: column.priority),
        remarks=remarks_of(group),
        scale=_scale(group),
        accuracy=plots.accuracy.inline,
        order_tests=None if plots.order_tests is None else plots.order_tests.inline,
        papers=[(sentence, plot.inline) for sentence, plot in zip(sentences, plots.papers, strict=True)],
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
        recalls=class_recalls(group),
        budget=budget_chart(searches),
        budget_note=budget_note(searches),
        searches=searches,
        signature=signature_line(group.signature),
        signature_id=signature_id(group.signature),
        shared_settings=shared,
    )


def segment_tables(comparison: Comparison) -> list[SegmentTable]:
    """Return a table for the groups with one backbone and the same clips, if their numbers of segments differ."""
    by_key: dict[tuple[str, ...], list[Group]] = {}
    for group in comparison.groups:
        run = group.rows[0].run
        key = (group.backbone, group.weights, str(run.metrics["weights"].get("sha256")), run.predictions.clips_digest)
        by_key.setdefault(key, []).append(group)
    tables = []
    for groups in by_key.values():
        if len(groups) < 2:
            continue
        groups.sort(key=lambda group: group.num_segments)
        tops = [{row.label: row.top1 for row in group.rows} for group in groups]
        rows = []
        for label in dict.fromkeys(label for of_group in tops for label in of_group):
            found = [of_group.get(label) for of_group in tops]
            values = [top1.value for top1 in found if top1 is not None]
            best = max(values) if len(set(values)) > 1 else None
            cells = [None if top1 is None else SegmentCell(top1.text(), top1.value == best) for top1 in found]
            rows.append((label, cells))
        title = f"{groups[0].backbone}, weights {groups[0].weights}: numbers of segments side by side"
        tables.append(SegmentTable(title, [group.num_segments for group in groups], rows))
    return tables


def class_recalls(group: Group) -> list[tuple[str, int, list[float]]]:
    """Return each class that has clips, with their number and the recall of each row in percent."""
    predictions = group.rows[0].run.predictions
    counts = np.bincount(predictions.labels, minlength=len(predictions.classes))
    recalls = []
    for row in group.rows:
        own = row.run.predictions
        names = {label: index for index, label in enumerate(own.classes)}
        matrix = own.confusion()
        recalls.append(
            {label: 100 * matrix[names[label], names[label]] for label in predictions.classes if label in names}
        )
    return [
        (label, int(count), [float(of_row.get(label, 0.0) / count) for of_row in recalls])
        for label, count in zip(predictions.classes, counts, strict=True)
        if count
    ]


def _head_page(name: str, row: Row, settings: dict[str, str], manifest: Manifest | None, folder: Path) -> HeadPage:
    predictions = row.run.predictions
    return HeadPage(
        row=row,
        anchor=f"head-{name}",
        curves=training_curves(row.run.history),
        interpolation=interpolation_chart(row.run),
        confusion=confusion_chart(predictions.confusion(), predictions.classes),
        confused=most_confused(predictions, manifest, folder),
        settings=settings,
    )


def _settings(run: RunResult) -> dict[str, str]:
    """Return the settings of a run: every value of metrics.json that is not a result, by its dotted name."""
    results = {"report", "select", "probes", "ece", "start", "gain", "interpolation"}
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
