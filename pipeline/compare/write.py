"""Write a comparison: tables, plots and the report."""

from __future__ import annotations

import platform
from pathlib import Path

import torch

from pipeline.compare.comparison import Comparison
from pipeline.compare.gate import GateReport
from pipeline.compare.plots import write_plots
from pipeline.compare.report import write_report
from pipeline.compare.table import as_json, csv_table, markdown_table, measured_json
from pipeline.files import write_json, write_text
from pipeline.manifest import Manifest


def write_comparison(
    out: Path, comparison: Comparison, gate: GateReport | None, clips: Manifest | None, report: bool
) -> None:
    """Write the tables and plots of a comparison into a folder, and the report if requested."""
    write_text(out / "table.csv", csv_table(comparison))
    write_text(out / "table.md", markdown_table(comparison))
    write_json(out / "comparison.json", as_json(comparison))
    write_json(out / "timing.json", {"machine": _machine(), "cells": measured_json(comparison)})
    write_plots(out / "plots", comparison)
    if report:
        write_report(out / "report.html", comparison, gate=gate, manifest=clips, machine=_machine())


def _machine() -> str:
    return f"{platform.machine()}, {torch.backends.cpu.get_cpu_capability()}, torch {torch.__version__}, one thread"
