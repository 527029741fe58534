"""`pipeline compare`: results -> one table, files to commit, a report, and a gate against a revision."""

from __future__ import annotations

import logging
import platform
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click
import torch

from pipeline.backbones import backbone_contract
from pipeline.compare.comparison import Comparison, compare_runs, map_size_of
from pipeline.compare.gate import GateReport, compare_with_revision
from pipeline.compare.latency import HeadCost, measure_head
from pipeline.compare.plots import write_plots
from pipeline.compare.report import write_report
from pipeline.compare.table import (
    as_json,
    csv_table,
    legend_of,
    markdown_table,
    measured_json,
    terminal_table,
    wrapped,
)
from pipeline.errors import PipelineError
from pipeline.evaluation.result_reader import RunResult, find_runs, parse_pairs, read_run
from pipeline.files import write_json, write_text
from pipeline.heads import HEADS
from pipeline.manifest import Manifest, read_manifest
from pipeline.model import load_spec
from pipeline.progress import tracked
from pipeline.recipe import recipe_from_dict
from pipeline.settings.compare import CompareSettings

logger = logging.getLogger(__name__)

LEAST_WIDTH, WIDE_WIDTH = 40, 120


def run(settings: CompareSettings) -> Comparison:
    """Compare result folders and print the table; with `out`, write it with plots and the report.

    Raises:
        UnknownRevisionError: Git knows no revision `against`.
        GateError: a row lost more than `max_drop` against it, or vanished.
        PipelineError: no results, results that contradict themselves, an unknown pair, a drop without a revision.
    """
    against, max_drop = settings.against, settings.max_drop
    if max_drop is not None and against is None:
        raise PipelineError("A drop is against a revision: `--max-drop` needs `--against`, such as `--against main`.")
    if max_drop is not None and not max_drop >= 0:
        raise PipelineError(f"`--max-drop` (={max_drop:g}) must be zero or more points of top-1.")
    places = [Path(place) for place in settings.dirs]
    # Results that are gone altogether are for the gate to name, where there is one.
    present = [place for place in places if place.is_dir()] if against is not None else places
    folders = find_runs(present) if present or against is None else []
    runs = [read_run(folder) for folder in folders]
    gate = None if against is None else compare_with_revision(runs, places, against, max_drop)
    if not runs:
        _print_gate(gate)
        raise PipelineError(f"There are no results in {', '.join(map(str, places))}. `pipeline fit-head` writes them.")
    known_labels = {label for run in runs for label in run.predictions.classes}
    clips = None if settings.manifest is None else read_manifest(settings.manifest, settings.root)
    comparison = compare_runs(
        runs,
        pairs=_known_pairs(settings.pairs, known_labels),
        paper=settings.paper,
        costs=_measured(runs) if settings.latency else {},
    )
    width = settings.width or _terminal_width()
    click.echo(terminal_table(comparison, width))
    logger.info("")
    for term, text in legend_of(comparison, width=width).items():
        logger.info("\n".join(wrapped(f"{term}: {text}", width)))
    if settings.out is not None:
        _write(settings.out, comparison, gate, clips, settings.report)
        logger.info(f"Written to {settings.out}.")
    _print_gate(gate)
    return comparison


def _known_pairs(texts: Sequence[str], labels: set[str]) -> list[tuple[str, str]]:
    """Return the pairs whose labels the results have; name the others."""
    pairs = parse_pairs(texts)
    known = [pair for pair in pairs if labels.issuperset(pair)]
    if len(known) < len(pairs):
        absent = sorted({label for pair in pairs for label in pair} - labels)
        logger.info(
            f"{len(pairs) - len(known)} of {len(pairs)} pairs are left out, because these results have no class "
            f"{', '.join(repr(label) for label in absent)}."
        )
    return known


def _print_gate(gate: GateReport | None) -> None:
    if gate is not None:
        click.echo("\n" + gate.markdown())
        click.echo("\n" + gate.check())


def _terminal_width() -> int:
    columns = shutil.get_terminal_size(fallback=(WIDE_WIDTH, 24)).columns
    return max(LEAST_WIDTH, columns)


def _measured(runs: Sequence[RunResult]) -> dict[str, HeadCost]:
    """The cost of each run's head; runs that differ in training alone share one measurement."""
    costs: dict[str, HeadCost] = {}
    by_sizes: dict[tuple[Any, ...], HeadCost] = {}
    for run in tracked(runs, "measuring", len(runs), "heads"):
        map_size = map_size_of(run)
        if run.head not in HEADS or map_size is None:
            continue
        channels = _channels(run)
        recipe = run.metrics["recipe"]
        choices = recipe_from_dict(dict(recipe)).head if isinstance(recipe, Mapping) and "head" in recipe else None
        sizes = (run.head, channels, run.num_segments, len(run.predictions.classes), map_size, choices)
        if sizes not in by_sizes:
            by_sizes[sizes] = measure_head(
                run.head,
                in_channels=channels,
                num_segments=run.num_segments,
                num_classes=len(run.predictions.classes),
                map_size=map_size,
                choices=choices,
            )
        costs[run.name] = by_sizes[sizes]
    return costs


def _channels(run: RunResult) -> int:
    if run.model_path.is_file():
        return load_spec(run.model_path).in_channels
    return backbone_contract(run.backbone).channels


def _write(out: Path, comparison: Comparison, gate: GateReport | None, clips: Manifest | None, report: bool) -> None:
    write_text(out / "table.csv", csv_table(comparison))
    write_text(out / "table.md", markdown_table(comparison))
    write_json(out / "comparison.json", as_json(comparison))
    write_json(out / "timing.json", {"machine": _machine(), "cells": measured_json(comparison)})
    write_plots(out / "plots", comparison)
    if report:
        write_report(out / "report.html", comparison, gate=gate, manifest=clips, machine=_machine())


def _machine() -> str:
    return f"{platform.machine()}, {torch.backends.cpu.get_cpu_capability()}, torch {torch.__version__}, one thread"
