"""Search the settings of a run: sample trials, fit them in batches, halve them if asked.

A batch depends on the search and on earlier scores alone, so the result does not depend on the number of processes, the
order in which fits end, or a kill.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from typing import Any, Protocol, Self, TypeVar

from pipeline.search.curve import Curve
from pipeline.search.samplers import TPE_BATCH, GridSampler, TrialSampler
from pipeline.search.trials import COMPLETE, FAILED, PRUNED, Trial
from pipeline.settings.search import Search

Setting = dict[str, Any]


class TrialFit(Protocol):
    """A fit of the setting of one trial."""

    @property
    def digest(self) -> str:
        """The digest of everything that determines the curve."""

    def until(self, num_epochs: int | None) -> Self:
        """Return the same fit that stops after `num_epochs`; None lets it end."""


Fit = TypeVar("Fit", bound=TrialFit)


def search_trials(
    search: Search, num_epochs: int, make_fit: Callable[[int, Setting], Fit], known: dict[str, Curve]
) -> Generator[Sequence[Fit], Sequence[Curve], list[Trial]]:
    """Sample and fit the trials of a search; yield the fits that may run at once, get their curves, return the trials.

    num_epochs: number of epochs of a whole fit. make_fit: returns the fit of a number and a setting. known: curves by
    digest, which are not fitted again.

    Raises:
        PipelineError: Optuna is not installed, or a sampled value is not allowed.
    """
    sampler = GridSampler(search) if search.sampler == "grid" else TrialSampler(search)
    num_trials = search.num_trials
    trials: list[Trial] = []
    while len(trials) < num_trials:
        size = min(TPE_BATCH if search.sampler == "tpe" else num_trials, num_trials - len(trials))
        settings = {len(trials) + index: sampler.ask() for index in range(size)}
        fits = {number: make_fit(number, setting) for number, setting in settings.items()}
        states = yield from _fit_batch(fits, search, num_epochs, known)
        for number, (state, curve) in states.items():
            trial = Trial(number, settings[number], curve, state, fits[number].digest)
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
    fits: dict[int, Fit], search: Search, num_epochs: int, known: dict[str, Curve]
) -> Generator[Sequence[Fit], Sequence[Curve], dict[int, tuple[str, Curve]]]:
    """Fit trials, stage by stage, and return state and curve of each by number."""
    found: dict[int, tuple[str, Curve]] = {}
    left = list(fits)
    for stage in stage_lengths(len(fits), num_epochs, search.halving):
        # Equal settings are one fit, that of the lowest number.
        missing = {
            fit.digest: fit.until(stage)
            for fit in (fits[number] for number in reversed(left))
            if fit.digest not in known or not known[fit.digest].reaches(stage)
        }
        if missing:
            batch = list(reversed(missing.values()))
            known.update(zip((fit.digest for fit in batch), (yield batch), strict=True))
        curves = {number: known[fits[number].digest].until(stage) for number in left}
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
