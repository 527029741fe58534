"""Settings of `pipeline compare`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from pipeline.settings.help_texts import ROOT_HELP
from pipeline.settings.settings import Settings, option


@dataclass(frozen=True, kw_only=True)
class CompareSettings(Settings):
    """Settings of `pipeline compare`; block `compare`."""

    subject: ClassVar[tuple[str, ...]] = ("dirs", "manifest")

    dirs: tuple[Path, ...] = option((), "Result folders, or folders above them.", is_argument=True)
    out: Path | None = option(None, "Folder for table, plots and report.")
    against: str | None = option(None, "Compare with the committed metrics of this Git revision.", metavar="REV")
    max_drop: float | None = option(
        None, "Points of top-1 that a row may lose against REV; a larger drop ends with exit code 1."
    )
    pairs: tuple[str, ...] = option((), "Pairs of labels that are each other's reverse in time: a:b,c:d.")
    paper: str = option("auto", "Data set of the paper's Table 3: auto, jester, something.")
    manifest: Path | None = option(None, "Manifest for links to clips and contact sheets.")
    root: Path | None = option(None, ROOT_HELP)
    latency: bool = option(True, "Measure the time of each head on this machine.")
    report: bool = option(True, "Write report.html.")
    width: int | None = option(None, "Columns of the printed table.", has_option=False, minimum=1)
