"""Order tests: top-1 when the order of the segments is changed.

They cost almost nothing on cached features. A head that ignores order keeps its top-1 in all of them; a head that uses
order loses some.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

ORDER_TESTS = ("shuffled", "reversed", "repeated")


def segment_orders(order_test: str, clip_ids: Sequence[str], num_segments: int) -> Tensor:
    """Return the index of the segment at each position, for each clip.

    `shuffled` is a permutation that depends only on the id of the clip; `reversed` is the reverse order; `repeated`
    has the middle segment (T // 2) at every position.

    Shape:
        returns: (B, T), int64.
    """
    if order_test == "shuffled":
        return torch.from_numpy(np.stack([_permutation(clip_id, num_segments) for clip_id in clip_ids]))
    order = (
        torch.arange(num_segments).flip(0)
        if order_test == "reversed"
        else torch.full((num_segments,), num_segments // 2)
    )
    return order.expand(len(clip_ids), num_segments)


def reordered(features: Tensor, orders: Tensor) -> Tensor:
    """Reorder the segments of features; channels-last memory stays channels last.

    Shape:
        features, returns: (B, T, C, H, W); orders: (B, T).
    """
    clips = torch.arange(len(features), device=features.device)[:, None]
    stored = features.permute(0, 1, 3, 4, 2)  # (B, T, H, W, C)
    return stored[clips, orders.to(features.device)].permute(0, 1, 4, 2, 3)


def reordering(order_test: str) -> Callable[[Tensor, Sequence[str]], Tensor]:
    """Return the function that reorders a batch of features, given the ids of its clips."""

    def change(features: Tensor, clip_ids: Sequence[str]) -> Tensor:
        return reordered(features, segment_orders(order_test, clip_ids, features.shape[1]))

    return change


def _permutation(clip_id: str, num_segments: int) -> np.ndarray:
    digest = hashlib.sha256(clip_id.encode()).digest()
    return np.random.default_rng(int.from_bytes(digest[:8], "little")).permutation(num_segments)
