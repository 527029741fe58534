"""Compare scores from decoded clips with those that `fit-head` computed from cached features."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from pipeline.evaluation.predictions import Predictions
from pipeline.evaluation.result_reader import read_run
from pipeline.finetune.scoring import ScoredClips


def cache_against_clips(cached: Predictions, now: ScoredClips) -> dict[str, float | int] | None:
    """Measure the differences between scores from the clips and from the cache, over all clips that both have.

    The result is None if they have no clip in common.
    """
    position_of = {clip_id: place for place, clip_id in enumerate(cached.clip_ids)}
    pairs = [(position_of[clip_id], place) for place, clip_id in enumerate(now.clip_ids) if clip_id in position_of]
    if not pairs:
        return None
    before = cached.scores[0][[first for first, _ in pairs]]
    after = now.scores[[second for _, second in pairs]]
    labels = now.labels[[second for _, second in pairs]]
    differences = np.abs(before - after)
    return {
        "num_clips": len(pairs),
        "cached_top1": round(100.0 * float(np.mean(before.argmax(axis=1) == labels)), 4),
        "top1": round(100.0 * float(np.mean(after.argmax(axis=1) == labels)), 4),
        "largest_difference": round(float(differences.max()), 4),
        "mean_difference": round(float(differences.mean()), 6),
        "largest_score": round(float(np.abs(before).max()), 4),
        "num_other_class": int((before.argmax(axis=1) != after.argmax(axis=1)).sum()),
    }


def cached_predictions(folder: Path) -> Predictions | None:
    """Read the predictions in the folder of the model file, if any. The first seed is that of the model."""
    if not (folder / "metrics.json").is_file():
        return None
    return read_run(folder).predictions
