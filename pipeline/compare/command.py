"""`pipeline compare`: read results, compare them, print the table and write the report."""

from __future__ import annotations

import logging
import platform
import shutil
from collections.abc import Sequence
from pathlib import Path

import click

from pipeline.compare.budget import parse_budgets
from pipeline.compare.columns import legend_of
from pipeline.compare.comparison import Comparison, compare_runs
from pipeline.compare.gate import GateReport, compare_with_revision
from pipeline.compare.head_costs import measure_in_process
from pipeline.compare.signature import check_signatures
from pipeline.compare.table import terminal_table, wrapped
from pipeline.compare.write import write_comparison
from pipeline.errors import PipelineError
from pipeline.evaluation.predictions import parse_pairs
from pipeline.evaluation.result_reader import find_runs, read_run
from pipeline.manifest import read_manifest
from pipeline.settings.compare import CompareSettings

logger = logging.getLogger(__name__)

LEAST_WIDTH, WIDE_WIDTH = 40, 120


def compare(settings: CompareSettings) -> Comparison:
    """Run `stages.compare`, which lists the errors."""
    against, max_drop = settings.against, settings.max_drop
    if against is None and (max_drop is not None or settings.equal_budget):
        option = "--max-drop" if max_drop is not None else "--equal-budget"
        raise PipelineError(f"`{option}` needs a revision to compare with, such as `--against main`.")
    if max_drop is not None and not max_drop >= 0:
        raise PipelineError(f"`--max-drop` (={max_drop:g}) must be zero or more points of top-1.")
    places = [Path(place) for place in settings.dirs]
    # If all results are missing, the gate reports them.
    present = [place for place in places if place.is_dir()] if against is not None else places
    folders = find_runs(present) if present or against is None else []
    runs = [read_run(folder) for folder in folders]
    gate = None
    if against is not None:
        gate = compare_with_revision(runs, places, against, max_drop, settings.equal_budget)
    if not runs:
        _print_gate(gate)
        raise PipelineError(f"There are no results in {', '.join(map(str, places))}. `pipeline fit-head` writes them.")
    known_labels = {label for run in runs for label in run.predictions.classes}
    clips = None if settings.manifest is None else read_manifest(settings.manifest, settings.root)
    costs, machine = measure_in_process(runs) if settings.latency else ({}, platform.machine())
    comparison = compare_runs(
        runs,
        pairs=_known_pairs(settings.pairs, known_labels),
        paper=settings.paper,
        costs=costs,
        budgets=parse_budgets(settings.at_budget),
    )
    # Written before it is printed, so that `pipeline compare | head` writes everything.
    if settings.out is not None:
        write_comparison(settings.out, comparison, gate, clips, machine, settings.report)
    width = settings.width or _terminal_width()
    click.echo(terminal_table(comparison, width))
    logger.info("")
    for term, text in legend_of(comparison, width=width).items():
        logger.info("\n".join(wrapped(f"{term}: {text}", width)))
    if settings.out is not None:
        logger.info(f"Written to {settings.out}.")
    _print_gate(gate)
    if settings.check is not None:
        click.echo("\n" + check_signatures([group.signature for group in comparison.groups], settings.check))
    return comparison


def _known_pairs(texts: Sequence[str], labels: set[str]) -> list[tuple[str, str]]:
    """Return the pairs whose labels are in the results; print the others."""
    pairs = parse_pairs(texts)
    known = [pair for pair in pairs if labels.issuperset(pair)]
    if len(known) < len(pairs):
        absent = sorted({label for pair in pairs for label in pair} - labels)
        logger.info(
            f"{len(pairs) - len(known)} of {len(pairs)} pairs are ignored, because the results have no class "
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
