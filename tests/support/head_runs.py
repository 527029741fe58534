"""Fit one head and write its result folder, without the command."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from torch import nn

from pipeline.errors import PipelineError
from pipeline.fit_head.cached_data import CachedData
from pipeline.fit_head.outcome import RunOutcome
from pipeline.fit_head.plan import HeadRequest
from pipeline.fit_head.run import HeadRun, plan_run
from pipeline.fit_head.schedule import ThisProcess, fit_scheduled
from pipeline.fit_head.steps import run_steps


def run_head(run: HeadRun, data: CachedData, backbone: nn.Module, out: Path, **options: Any) -> RunOutcome:
    """Fit a run below `out`, unless it was finished there before; `options` are fields of `PlannedRun`."""
    planned = dataclasses.replace(plan_run(run, data, out, force=False), **options)
    if planned.finished is not None:
        return RunOutcome(planned.finished, planned.folder, was_finished=True)
    request = HeadRequest(run.head, run.recipe, run.seeds, out, "cpu", "auto", None, run.search)
    (result,) = fit_scheduled({request: run_steps(planned, data, backbone)}, ThisProcess(data))
    if result.outcome is None:
        raise PipelineError(result.failure)
    return result.outcome
