"""Measure what a training gains over the model that it started from, on the reported clips."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from pipeline.evaluation.metrics import hits
from pipeline.evaluation.statistics import paired_difference
from pipeline.finetune.scoring import ScoredClips

DECIMALS = 4


def gain_over_start(
    trained: Sequence[tuple[ScoredClips, Mapping[str, int] | None]],
) -> dict[str, float | int] | None:
    """Return top-1 before and the paired difference in points with its 95 % interval over clips and seeds.

    trained: for each seed, the scored clips, and whether the initial model is correct (1 or 0) by clip id.

    Clips that a seed could not score before or after are left out. The result is None for a training from scratch, or
    if no clip is left.
    """
    after = [dict(zip(scored.clip_ids, hits(scored.scores, scored.labels), strict=True)) for scored, _ in trained]
    before = [correct for _, correct in trained if correct is not None]
    if len(before) < len(trained):
        return None
    clip_ids = [clip_id for clip_id in after[0] if all(clip_id in each for each in (*after, *before))]
    if not clip_ids:
        return None
    now, then = (
        np.array([[each[clip_id] for clip_id in clip_ids] for each in side], dtype=bool) for side in (after, before)
    )
    difference = paired_difference(now, then, same_seeds=True)
    return {
        "start_top1": round(100 * float(then.mean()), DECIMALS),
        "points": round(difference.points.value, DECIMALS),
        "low": round(difference.points.low, DECIMALS),
        "high": round(difference.points.high, DECIMALS),
        "p_value": float(f"{difference.p_value:.6g}"),
        "num_clips": len(clip_ids),
    }
