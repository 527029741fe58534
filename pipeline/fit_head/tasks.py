"""Fits of a run that a process can do alone: one seed, or one trial of a search."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Protocol

from numpy.typing import NDArray

from pipeline.errors import PipelineError
from pipeline.evaluation.result_writer import SeedResult
from pipeline.fit_head.cached_data import CachedData
from pipeline.fit_head.finished import run_digest
from pipeline.fit_head.fit import FitResult, fit_head, fit_trial
from pipeline.fit_head.run import HeadRun, PlannedRun
from pipeline.fit_head.stored_clips import StoredClips
from pipeline.heads import HEADS
from pipeline.progress import Progress
from pipeline.search.curve import Curve
from pipeline.search.kept import keep_curve, trial_name

logger = logging.getLogger(__name__)

ProgressMaker = Callable[[str, int], Progress]
"""Callable that creates the progress of a fit from a label and a number of clips."""


class Outcome(Protocol):
    """What the schedule reads of a fit: its measured cost."""

    @property
    def seconds(self) -> float: ...
    @property
    def num_epochs(self) -> int: ...


class Task(Protocol):
    """A fit on the features of a store; it is sent to a worker process."""

    @property
    def run(self) -> HeadRun: ...
    @property
    def name(self) -> str: ...
    def fit(self, data: CachedData, progress_of: ProgressMaker) -> Any: ...
    def keep(self, outcome: Any) -> None: ...


@dataclass(frozen=True)
class SeedOutcome:
    """The result of a seed and the weights of its head (of the first seed only), or an error."""

    result: SeedResult | None
    weights: Mapping[str, NDArray[Any]]
    failure: str = ""

    @property
    def seconds(self) -> float:
        return 0.0 if self.result is None else self.result.seconds

    @property
    def num_epochs(self) -> int:
        return 0 if self.result is None else len(self.result.history)


@dataclass(frozen=True)
class SeedTask:
    """Fit one seed of a run, from its checkpoint if there is one, and score the reported clips."""

    planned: PlannedRun
    seed: int

    @property
    def run(self) -> HeadRun:
        return self.planned.run

    @property
    def name(self) -> str:
        return f"{self.run.head}, seed {self.seed}"

    def fit(self, data: CachedData, progress_of: ProgressMaker) -> SeedOutcome:
        """Fit the seed in this process; an error of the data or a divergence is a part of the outcome."""
        run = self.run
        try:
            head_data = data.of(HEADS[run.head].reads, run.recipe)
            total = run.recipe.training.epochs * head_data.train.num_clips
            with progress_of(self.name, total) as progress:
                result = fit_head(
                    head_data,
                    run.head,
                    run.recipe,
                    self.seed,
                    run.compute,
                    checkpoint=self.planned.checkpoint(self.seed),
                    checkpoint_seconds=self.planned.checkpoint_seconds,
                    digest=self.planned.digest,
                    on_batch=progress.advance,
                )
        except PipelineError as error:
            return SeedOutcome(None, {}, str(error))
        # As arrays, because torch sends tensors through files that disappear with the process.
        weights = {name: tensor.cpu().numpy() for name, tensor in result.head.state_dict().items()}
        return SeedOutcome(_without_head(result), weights if self.seed == run.seeds[0] else {})

    def keep(self, outcome: SeedOutcome) -> None:
        """Do nothing: the checkpoint is enough to resume a killed run."""


@dataclass(frozen=True)
class TrialTask:
    """Fit one trial of a search, to `num_epochs` or to the end, and score the selection clips.

    planned: the run with the recipe of the trial. digest: that of everything that determines the curve.
    """

    planned: PlannedRun
    number: int
    digest: str
    num_epochs: int | None = None

    @property
    def run(self) -> HeadRun:
        return self.planned.run

    @property
    def name(self) -> str:
        return f"{self.run.head}, trial {self.number}"

    def until(self, num_epochs: int | None) -> TrialTask:
        return replace(self, num_epochs=num_epochs)

    def fit(self, data: CachedData, progress_of: ProgressMaker) -> Curve:
        """Fit the trial in this process; an error is a part of the curve."""
        run = self.run
        try:
            head_data = data.of(HEADS[run.head].reads, run.recipe)
        except PipelineError as error:
            return Curve((), (), is_over=False, seconds=0.0, failure=str(error))
        num_epochs = run.recipe.training.epochs if self.num_epochs is None else self.num_epochs
        with progress_of(self.name, num_epochs * head_data.train.num_clips) as progress:
            return fit_trial(
                head_data,
                run.head,
                run.recipe,
                run.seeds[0],
                run.compute,
                num_epochs=self.num_epochs,
                checkpoint=_trial_file(self.planned, self.digest, ".pt"),
                checkpoint_seconds=self.planned.checkpoint_seconds,
                digest=self.digest,
                on_batch=progress.advance,
            )

    def keep(self, curve: Curve) -> None:
        """Write the curve, so that a killed search does not fit the trial again. A failed trial is tried again."""
        logger.info(f"{self.name}: {curve.summary()}")
        keep_curve(self.planned.unfinished, self.digest, curve)
        if curve.is_over or curve.failure:
            _trial_file(self.planned, self.digest, ".pt").unlink(missing_ok=True)


def trial_task(planned: PlannedRun, data: StoredClips, number: int, setting: Mapping[str, Any]) -> TrialTask:
    """Return the fit of a trial: the recipe of the run with the setting, and the first seed."""
    run = planned.run
    recipe, compute = run.recipe.with_overrides(**setting), run.compute
    digest = run_digest(run.head, recipe, run.seeds[:1], data, str(compute.device), compute.precision, compute.threads)
    return TrialTask(planned.with_recipe(recipe), number, digest)


def _trial_file(planned: PlannedRun, digest: str, suffix: str) -> Path:
    return planned.unfinished / f"{trial_name(digest)}{suffix}"


def _without_head(result: FitResult) -> SeedResult:
    return SeedResult(**{field.name: getattr(result, field.name) for field in fields(SeedResult)})
