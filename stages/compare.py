"""`pipeline compare`: compare results in one table and a report, and check them against a revision."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipeline.collection import lasting_imports
from pipeline.compare.head_costs import start_server_early
from pipeline.settings.compare import CompareSettings

if TYPE_CHECKING:
    from pipeline.compare.comparison import Comparison


def run(settings: CompareSettings) -> Comparison:
    """Compare result folders and print the table; with `out`, write it with plots and the report.

    Raises:
        UnknownRevisionError: Git does not have the revision `against`.
        GateError: a row lost more than `max_drop` against it, vanished, or has another budget (`equal_budget`).
        PipelineError: there are no results, results are inconsistent, a pair is unknown, `max_drop` or `equal_budget`
            has no revision, or the protocol differs from that of `check`.
    """
    if settings.latency:
        start_server_early()
    with lasting_imports():
        from pipeline.compare.command import compare

    return compare(settings)
