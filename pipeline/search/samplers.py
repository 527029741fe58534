"""Sample the settings of trials with Optuna's samplers, which are imported only when a search runs.

The settings of trial n depend on the search and on the scores of the trials that `TrialSampler.tell` got before, so a
resumed search gets the same settings, and more trials continue the sequence.
"""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.errors import PipelineError
from pipeline.settings.search import Dimension, Search, Values

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution
    from optuna.samplers import BaseSampler

# Digits of a sampled number: enough for every purpose, and few enough to type it again.
SIGNIFICANT_DIGITS = 4
# Number of TPE trials that run at once. Not the number of processes, on which no result depends.
TPE_BATCH = 4


class TrialSampler:
    """Settings of the trials of one search, in order.

    Raises:
        PipelineError: Optuna is not installed.
    """

    def __init__(self, search: Search) -> None:
        self._space = dict(search.space)
        optuna = _import_optuna()
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._distributions = {name: _distribution(dimension) for name, dimension in search.space}
        self._study = optuna.create_study(sampler=_sampler(search, self._distributions), direction="maximize")

    def ask(self) -> dict[str, Any]:
        """Return the settings of the next trial."""
        trial = self._study.ask(self._distributions)
        return {name: _value(dimension, trial.params[name]) for name, dimension in self._space.items()}

    def tell(self, number: int, score: float | None) -> None:
        """Report the selection score of a trial; None if it failed."""
        if score is None:
            self._study.tell(number, state=_import_optuna().trial.TrialState.FAIL)
        else:
            self._study.tell(number, score)


class GridSampler:
    """Every combination of the lists of a search, in a random order that depends only on its seed."""

    def __init__(self, search: Search) -> None:
        lists = [dimension.values for _, dimension in search.space if isinstance(dimension, Values)]
        self._names = [name for name, _ in search.space]
        points = list(itertools.product(*lists))
        order = np.random.default_rng(search.seed).permutation(len(points))
        self._points = iter([points[index] for index in order])

    def ask(self) -> dict[str, Any]:
        """Return the settings of the next trial."""
        return dict(zip(self._names, next(self._points), strict=True))

    def tell(self, number: int, score: float | None) -> None:
        """Ignore a score: the order is fixed."""


def _import_optuna() -> Any:
    try:
        import optuna
    except ModuleNotFoundError as error:
        raise PipelineError(
            "A search needs Optuna. Install the extra: pip install 'st-pipeline[search]' (in a checkout: "
            "pip install -e '.[search]'); or use --search-sampler grid, which needs no further package."
        ) from error
    return optuna


def _sampler(search: Search, distributions: Mapping[str, BaseDistribution]) -> BaseSampler:
    from optuna.samplers import QMCSampler, RandomSampler, TPESampler

    if search.sampler == "random":
        return RandomSampler(seed=search.seed)
    if search.sampler == "tpe":
        return TPESampler(seed=search.seed)

    class WholeSpaceQMC(QMCSampler):
        """QMC that knows the space from the first trial, which it would otherwise draw at random."""

        def infer_relative_search_space(self, study: Any, trial: Any) -> dict[str, BaseDistribution]:
            return dict(distributions)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Optuna marks the sampler as experimental
        return WholeSpaceQMC(scramble=True, seed=search.seed)


def _distribution(dimension: Dimension) -> BaseDistribution:
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if isinstance(dimension, Values):
        return CategoricalDistribution(range(len(dimension.values)))
    if dimension.is_integer:
        return IntDistribution(int(dimension.low), int(dimension.high), log=dimension.is_log)
    return FloatDistribution(dimension.low, dimension.high, log=dimension.is_log)


def _value(dimension: Dimension, sampled: Any) -> Any:
    if isinstance(dimension, Values):
        return dimension.values[sampled]
    if dimension.is_integer:
        return int(sampled)
    return min(max(float(f"{sampled:.{SIGNIFICANT_DIGITS}g}"), dimension.low), dimension.high)
