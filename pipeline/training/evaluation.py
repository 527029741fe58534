"""Scores of a head on cached features, and the figures that are made of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from pipeline.errors import PipelineError
from pipeline.evaluation import metrics
from pipeline.training.compute import Compute
from pipeline.training.features import ClipFeatures, Draw, batches
from pipeline.training.probes import PROBES, probe_of

EVALUATION_BATCH = {"pooled": 256, "spatial": 32}
# Scores are rounded before anything is computed of them, so that predictions.csv gives every figure again exactly.
SCORE_DECIMALS = 4

Change = Callable[[Tensor, Sequence[str]], Tensor]


def score_features(
    head: nn.Module,
    features: ClipFeatures,
    compute: Compute,
    draw: Draw | None = None,
    change: Change | None = None,
) -> NDArray[np.float64]:
    """The scores of every clip, in the order of the manifest or of `draw`, rounded to `SCORE_DECIMALS`.

    Raises:
        PipelineError: a score that is not a finite number.

    Shape:
        returns: (N, K).
    """
    draw = features.plain_draw() if draw is None else draw
    clip_ids = [features.clip_ids[clip] for clip in draw.clips]
    size = EVALUATION_BATCH["spatial" if features.reads_ahead else "pooled"]
    found: list[Tensor] = []
    head.eval()
    with torch.inference_mode(), compute.autocast():
        for index, batch in enumerate(batches(features, draw, size, compute.num_loaders)):
            inputs = compute.moved(batch.features)
            if change is not None:
                inputs = change(inputs, clip_ids[index * size : (index + 1) * size])
            found.append(head(inputs).float().cpu())
    scores = torch.cat(found).numpy().astype(np.float64)
    return rounded(scores)


def rounded(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """Scores as they stand in predictions.csv.

    Raises:
        PipelineError: a score that is not a finite number.
    """
    if not np.isfinite(scores).all():
        raise PipelineError(
            f"{int((~np.isfinite(scores).all(axis=1)).sum())} of {len(scores)} clips have scores that are not finite "
            "numbers: the head diverged. Lower lr, or clip_norm."
        )
    # Adding 0.0 turns -0.0 into 0.0, which reads better in a file.
    values: NDArray[np.float64] = np.round(scores, SCORE_DECIMALS)
    return values + np.float64(0.0)


def figures(scores: NDArray[np.float64], labels: NDArray[np.int64]) -> dict[str, float]:
    """The figures of a split: shares in percent, the loss in nats."""
    return {
        "top1": metrics.top1(scores, labels),
        "top5": metrics.top5(scores, labels),
        "mean_class_accuracy": metrics.mean_class_accuracy(scores, labels),
        "loss": metrics.cross_entropy(scores, labels),
    }


def probe_scores(head: nn.Module, features: ClipFeatures, compute: Compute) -> dict[str, NDArray[np.float64]]:
    """The scores under each order probe. Shape: (N, K) each."""
    return {probe: score_features(head, features, compute, change=probe_of(probe)) for probe in PROBES}
