"""`pipeline report`: say where the report is, or serve it with the curves of running fits."""

from __future__ import annotations

from pathlib import Path

import click

from pipeline.compare.serve import REPORT_FILE, serve
from pipeline.errors import PipelineError
from pipeline.settings.report import ReportSettings

DEFAULT_FOLDER = Path("results/compare")


def report(settings: ReportSettings) -> None:
    """Print the address of the report, or serve it.

    Raises:
        PipelineError: there is no report, or the port is in use.
    """
    folder = settings.folder or DEFAULT_FOLDER
    if settings.serve:
        serve(folder, settings.running, settings.port)
        return
    path = folder / REPORT_FILE
    if not path.is_file():
        raise PipelineError(f"There is no {path}. `pipeline compare --out {folder}` writes it.")
    click.echo(path.resolve().as_uri())
