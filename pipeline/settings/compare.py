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

    dirs: tuple[Path, ...] = option((), "Result folders, or folders that contain them.", is_argument=True)
    out: Path | None = option(None, "Folder to write table, plots and report to.")
    against: str | None = option(None, "Compare with the committed metrics of this Git revision.", metavar="REV")
    max_drop: float | None = option(
        None, "Points of top-1 that a row may lose against REV; a larger drop ends with exit code 1."
    )
    equal_budget: bool = option(
        False, "With REV: a row whose search or fits have another number of trials or epochs ends with exit code 1."
    )
    check: Path | None = option(
        None,
        "Another comparison (its folder or comparison.json); if the protocols differ, the command names the parts and "
        "ends with exit code 1.",
    )
    at_budget: tuple[str, ...] = option(
        (),
        "Budgets of the search for which the table shows the expected best top-1 on the selection clips: numbers of "
        "trials or core-minutes, such as 4,16,10min.",
    )
    pairs: tuple[str, ...] = option((), "Pairs of labels that are the time-reverse of each other: a:b,c:d.")
    paper: str = option("auto", "Data set of the paper's Table 3 to compare with: auto, jester, something.")
    manifest: Path | None = option(None, "Manifest of the clips, for links and contact sheets in the report.")
    root: Path | None = option(None, ROOT_HELP)
    latency: bool = option(True, "Measure the time of each head on this machine.")
    report: bool = option(True, "Write report.html.")
    width: int | None = option(None, "Columns of the printed table.", has_option=False, minimum=1)
