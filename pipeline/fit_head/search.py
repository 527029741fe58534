"""Search the settings of a run: sample trials, fit them in batches, halve them if asked.

A batch depends on the search and on earlier scores alone, so the result does not depend on the number of processes, the
order in which fits end, or a kill.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import Any

from pipeline.fit_head.curve import Curve
from pipeline.fit_head.finished import run_digest
from pipeline.fit_head.run import PlannedRun
from pipeline.fit_head.samplers import TPE_BATCH, GridSampler, TrialSampler
from pipeline.fit_head.stored_clips import StoredClips
from pipeline.fit_head.tasks import Task, TrialTask
from pipeline.fit_head.trials import COMPLETE, FAILED, PRUNED, Trial
from pipeline.settings.search import Search

Setting = dict[str, Any]
Batches = Generator[Sequence[Task], Sequence[Any], list[Trial]]
"""Yields the fits that may run at once, gets their outcomes, and returns the trials."""


def search_trials(planned: PlannedRun, search: Search, data: StoredClips, known: dict[str, Curve]) -> Batches:
    """Sample and fit the trials of a search; curves in `known` are not fitted again.

    Raises:
        PipelineError: Optuna is not installed, or a sampled value is not allowed.
    """
    sampler = GridSampler(search) if search.sampler == "grid" else TrialSampler(search)
    num_trials = search.num_trials
    trials: list[Trial] = []
    while len(trials) < num_trials:
        size = min(TPE_BATCH if search.sampler == "tpe" else num_trials, num_trials - len(trials))
        settings = {len(trials) + index: sampler.ask() for index in range(size)}
        tasks = {number: _task(planned, number, setting, data) for number, setting in settings.items()}
        states = yield from _fit_batch(tasks, search, planned.run.recipe.training.epochs, known)
        for number, (state, curve) in states.items():
            trial = Trial(number, settings[number], curve, state, tasks[number].digest)
            sampler.tell(number, None if state == FAILED else trial.score[0])
            trials.append(trial)
    return trials


def stage_lengths(num_trials: int, num_epochs: int, halving: int | None) -> list[int | None]:
    """Return the epochs after which successive halving drops trials, and None for the end of the fit.

    >>> stage_lengths(16, 20, 2), stage_lengths(16, 20, 4), stage_lengths(16, 20, None)
    ([1, 2, 5, 10, None], [1, 5, None], [None])
    """
    stages: list[int | None] = [None]
    divisor = 1
    while halving is not None and divisor * halving <= min(num_trials, num_epochs):
        divisor *= halving
        stages.insert(0, num_epochs // divisor)
    return stages


def _fit_batch(
    tasks: dict[int, TrialTask], search: Search, num_epochs: int, known: dict[str, Curve]
) -> Generator[Sequence[Task], Sequence[Any], dict[int, tuple[str, Curve]]]:
    """Fit trials, stage by stage, and return state and curve of each by number."""
    found: dict[int, tuple[str, Curve]] = {}
    left = list(tasks)
    for stage in stage_lengths(len(tasks), num_epochs, search.halving):
        missing = {
            task.digest: TrialTask(task.planned, task.number, task.digest, stage)
            for task in (tasks[number] for number in reversed(left))
            if task.digest not in known or not known[task.digest].reaches(stage)
        }
        if missing:
            fits = list(reversed(missing.values()))
            known.update(zip((fit.digest for fit in fits), (yield fits), strict=True))
        curves = {number: known[tasks[number].digest].until(stage) for number in left}
        found.update((number, (FAILED if curve.failure else COMPLETE, curve)) for number, curve in curves.items())
        usable = [number for number in left if not curves[number].failure]
        if stage is None or search.halving is None:
            break
        ranked = sorted(usable, key=lambda number: (*_negative_score(curves[number]), number))
        left = sorted(ranked[: max(1, len(left) // search.halving)])
        found.update((number, (PRUNED, curves[number])) for number in usable if number not in left)
    return dict(sorted(found.items()))


def _negative_score(curve: Curve) -> tuple[float, float]:
    best = curve.best_epoch - 1
    return -curve.top1[best], curve.loss[best]


def _task(planned: PlannedRun, number: int, setting: Setting, data: StoredClips) -> TrialTask:
    run = planned.run
    recipe, compute = run.recipe.with_overrides(**setting), run.compute
    digest = run_digest(run.head, recipe, run.seeds[:1], data, str(compute.device), compute.precision, compute.threads)
    return TrialTask(planned.with_recipe(recipe), number, digest)
