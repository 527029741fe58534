"""Linear probe: one linear layer on the mean of the backbone features."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from pipeline.heads.head import Head


class LinearHead(Head):
    """Classify a clip by one linear layer on the mean of its segments' backbone features; order has no effect.

    With equal weights its scores are those of TSN, whose layer comes before the mean; in training, dropout acts on the
    mean instead of each segment. The layer is in the place of the learned projection, so the ST block has no
    parameters.

    Shape:
        features: (B, T, C, 1, 1), pooled backbone features of T segments.
        returns:  (B, K), class scores before softmax.

    Source: the linear probe of Alain and Bengio, Understanding intermediate layers using linear classifier probes,
        2016; not in the paper.
    """

    reads = "pooled"
    section = "none"

    def __init__(self, *, num_classes: int, **settings: Any) -> None:
        super().__init__(num_classes=num_classes, num_projected=num_classes, **settings)

    def macs(self, map_size: int) -> int:
        return 0

    def forward(self, features: Tensor) -> Tensor:
        mean = self.prepare(features).flatten(2).mean(dim=1)  # (B, C)
        scores: Tensor = self.projection(self.dropout(mean))  # (B, K)
        return scores
