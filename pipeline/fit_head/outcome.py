"""Outcome of a request to `fit-head`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.fit_head.plan import HeadRequest


@dataclass(frozen=True)
class RunOutcome:
    """Metrics of a run, and whether it was finished before."""

    metrics: Mapping[str, Any]
    folder: Path
    was_finished: bool


@dataclass(frozen=True)
class RequestResult:
    """Result of a request: an outcome or an error."""

    request: HeadRequest
    outcome: RunOutcome | None
    failure: str = ""
