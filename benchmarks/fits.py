"""What several studies ask of a fit: which validation clips a head gets right."""

from __future__ import annotations

import numpy as np

from pipeline.evaluation.metrics import hits
from pipeline.heads import HEADS
from pipeline.recipe import Recipe
from pipeline.training.cached_data import CachedData
from pipeline.training.compute import choose_compute
from pipeline.training.fit import fit_head


def right_clips(data: CachedData, head: str, recipe: Recipe, seed: int) -> np.ndarray:
    """Which validation clips a head gets right at its best epoch. Shape: (N,), bool."""
    result = fit_head(data.of(HEADS[head].maps, recipe.frames), head, recipe, seed, choose_compute(head))
    return hits(result.scores, result.labels, 1)
