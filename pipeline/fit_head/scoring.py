"""Score cached features with a head."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from pipeline.evaluation.metrics import round_scores
from pipeline.evaluation.order_tests import ORDER_TESTS, reordering
from pipeline.fit_head.features import FeatureDataset, SampleOrder, batches
from pipeline.runtime import Runtime

EVALUATION_BATCH = {"pooled": 256, "spatial": 32}

Change = Callable[[Tensor, Sequence[str]], Tensor]


def score_features(
    head: nn.Module,
    features: FeatureDataset,
    compute: Runtime,
    draw: SampleOrder | None = None,
    change: Change | None = None,
) -> NDArray[np.float64]:
    """Score every clip, in the order of the manifest or of `draw`, rounded to four decimals.

    Raises:
        PipelineError: a score is not finite.

    Shape:
        returns: (N, K).
    """
    draw = features.sequential_order() if draw is None else draw
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
    return round_scores(scores)


def order_test_scores(head: nn.Module, features: FeatureDataset, compute: Runtime) -> dict[str, NDArray[np.float64]]:
    """Score features under each order test. Shape: (N, K) each."""
    return {
        order_test: score_features(head, features, compute, change=reordering(order_test)) for order_test in ORDER_TESTS
    }
