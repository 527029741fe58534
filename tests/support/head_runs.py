"""Fit one head and write its result folder, without the command."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import nn

from pipeline.fit_head.cached_data import CachedData
from pipeline.fit_head.outcome import RunOutcome
from pipeline.fit_head.run import HeadRun, fit_run, plan_run


def run_head(run: HeadRun, data: CachedData, backbone: nn.Module, out: Path, **options: Any) -> RunOutcome:
    """Fit a run below `out`, unless it was finished there before; `options` are those of `fit_run`."""
    planned = plan_run(run, data, out, force=False)
    if planned.finished is not None:
        return RunOutcome(planned.finished, planned.folder, was_finished=True)
    return fit_run(planned, data, backbone, **options)
