"""Read results of a fit for several studies: top-1 on the selection clips, and the correct reported clips."""

from __future__ import annotations

import numpy as np

from pipeline.evaluation.metrics import hits, top1
from pipeline.fit_head.cached_data import CachedData
from pipeline.fit_head.compute import choose_compute
from pipeline.fit_head.fit import FitResult, fit_head
from pipeline.heads import HEADS
from pipeline.recipe import Recipe


def right_clips(data: CachedData, head: str, recipe: Recipe, seed: int) -> np.ndarray:
    """Return whether each reported clip is classified correctly at the best epoch. Shape: (N,), bool."""
    result = _fit(data, head, recipe, seed)
    return hits(result.scores, result.labels, 1)


def selection_top1(data: CachedData, head: str, recipe: Recipe, seed: int) -> float:
    """Return top-1 in percent on the selection clips at the best epoch, which may be used to choose settings."""
    result = _fit(data, head, recipe, seed)
    return top1(result.scores, result.labels) if result.selection is None else result.selection.top1


def _fit(data: CachedData, head: str, recipe: Recipe, seed: int) -> FitResult:
    return fit_head(data.of(HEADS[head].reads, recipe), head, recipe, seed, choose_compute(head))
