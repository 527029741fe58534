"""What several studies read from a fit: its top-1 on the selection clips, and which reported clips are right."""

from __future__ import annotations

import numpy as np

from pipeline.evaluation.metrics import hits, top1
from pipeline.fit_head.cached_data import CachedData
from pipeline.fit_head.compute import choose_compute
from pipeline.fit_head.fit import FitResult, fit_head
from pipeline.heads import HEADS
from pipeline.recipe import Recipe


def right_clips(data: CachedData, head: str, recipe: Recipe, seed: int) -> np.ndarray:
    """Return which reported clips a head gets right at its best epoch. Shape: (N,), bool."""
    result = _fit(data, head, recipe, seed)
    return hits(result.scores, result.labels, 1)


def selection_top1(data: CachedData, head: str, recipe: Recipe, seed: int) -> float:
    """Return top-1 in percent on the selection clips at the best epoch: what settings may be chosen by."""
    result = _fit(data, head, recipe, seed)
    return top1(result.scores, result.labels) if result.selection is None else result.selection.top1


def _fit(data: CachedData, head: str, recipe: Recipe, seed: int) -> FitResult:
    return fit_head(data.of(HEADS[head].reads, recipe), head, recipe, seed, choose_compute(head))
