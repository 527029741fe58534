"""What becomes of a head that `fit-head` was asked for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.fit_head.plan import HeadRequest


@dataclass(frozen=True)
class RunOutcome:
    """The metrics of a run, and whether it was there already."""

    metrics: Mapping[str, Any]
    folder: Path
    was_finished: bool


@dataclass(frozen=True)
class RequestResult:
    """The result of a request: an outcome or an error."""

    request: HeadRequest
    outcome: RunOutcome | None
    failure: str = ""
