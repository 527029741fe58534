"""Temporal Segment Network: class scores of each segment, averaged."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from pipeline.heads.head import Head


class TSNHead(Head):
    """Classify a clip by the average of its segments' class scores; the order of segments has no effect.

    The learned projection outputs class scores, so the ST block has no parameters.

    Shape:
        features: (B, T, C, 1, 1), pooled backbone features of T segments.
        returns:  (B, K), class scores before softmax.

    Source: paper, Sec. 3.2 (TSN, Fig. 3).
    """

    reads = "pooled"
    section = "3.2"

    def __init__(self, *, num_classes: int, **settings: Any) -> None:
        super().__init__(num_classes=num_classes, num_projected=num_classes, **settings)

    def macs(self, map_size: int) -> int:
        return 0

    def forward(self, features: Tensor) -> Tensor:
        scores = self.project(features)  # (B, T, K)
        return scores.mean(dim=1)  # (B, K)
