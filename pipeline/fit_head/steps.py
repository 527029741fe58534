"""Steps of a run: the trials of its search, then its seeds with the chosen settings, then its result folder."""

from __future__ import annotations

import logging
from collections.abc import Generator, Sequence
from functools import partial
from typing import Any

import torch
from torch import nn

from pipeline.errors import PipelineError
from pipeline.fit_head.cached_data import CachedData
from pipeline.fit_head.outcome import RunOutcome
from pipeline.fit_head.run import PlannedRun, run_spec, write_run
from pipeline.fit_head.tasks import SeedOutcome, SeedTask, Task, trial_task
from pipeline.model import head_of_spec
from pipeline.params import settings_text
from pipeline.search.kept import read_kept_curves
from pipeline.search.search import search_trials
from pipeline.search.trials import Trial, choose_trial, read_curves

logger = logging.getLogger(__name__)

RunSteps = Generator[Sequence[Task], Sequence[Any], RunOutcome]
"""Yields fits that may run at once, gets their outcomes in the same order, and returns the outcome of the run."""


def run_steps(planned: PlannedRun, data: CachedData, backbone: nn.Module | None, force: bool = False) -> RunSteps:
    """Run the steps of a planned run.

    force: ignore the trials of a finished search.

    Raises:
        PipelineError: the store does not fit this head, a seed diverges, or every trial of the search failed.
    """
    trials: list[Trial] = []
    search = planned.run.search
    if search is not None:
        known = {**({} if force else read_curves(planned.folder)), **read_kept_curves(planned.unfinished)}
        make_fit = partial(trial_task, planned, data)
        trials = yield from search_trials(search, planned.run.recipe.training.epochs, make_fit, known)
        chosen = choose_trial(trials)
        logger.info(
            f"{planned.run.head}: trial {chosen.number} of {len(trials)} is the best on the selection clips "
            f"(top-1 {chosen.score[0]:.1f} %): {settings_text(chosen.setting)}"
        )
        planned = planned.with_recipe(planned.run.recipe.with_overrides(**chosen.setting))
    outcomes: Sequence[SeedOutcome] = yield [SeedTask(planned, seed) for seed in planned.run.seeds]
    results = []
    for outcome in outcomes:
        if outcome.result is None:
            raise PipelineError(outcome.failure)
        results.append(outcome.result)
    head = head_of_spec(run_spec(planned.run, data, results[0].best_epoch))
    head.load_state_dict({name: torch.from_numpy(array) for name, array in outcomes[0].weights.items()})
    return write_run(planned, data, backbone, results, head, trials)
