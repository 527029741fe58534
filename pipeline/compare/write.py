"""Write a comparison: tables, plots and the report."""

from __future__ import annotations

from pathlib import Path

from pipeline.compare.comparison import Comparison
from pipeline.compare.gate import GateReport
from pipeline.compare.plots import draw_plots, write_plots
from pipeline.compare.records import as_json, csv_table, measured_json
from pipeline.compare.report import write_report
from pipeline.compare.table import markdown_table
from pipeline.files import write_json, write_text
from pipeline.manifest import Manifest


def write_comparison(
    out: Path, comparison: Comparison, gate: GateReport | None, clips: Manifest | None, machine: str, report: bool
) -> None:
    """Write the tables and plots of a comparison into a folder, and the report if requested.

    machine: description of the machine on which costs were measured.
    """
    write_text(out / "table.csv", csv_table(comparison))
    write_text(out / "table.md", markdown_table(comparison))
    write_json(out / "comparison.json", as_json(comparison))
    write_json(out / "timing.json", {"machine": machine, "cells": measured_json(comparison)})
    plots = draw_plots(comparison)
    write_plots(out / "plots", plots)
    if report:
        write_report(out / "report.html", comparison, gate=gate, manifest=clips, machine=machine, plots=plots)
