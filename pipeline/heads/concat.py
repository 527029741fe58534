"""Linear layer on the concatenated features of the segments."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from pipeline.heads.head import NUM_FEATURES, Head


class ConcatHead(Head):
    """Classify a clip by one linear layer on its segments' features, concatenated in order.

    It is linear in the features, with other weights for each segment: the simplest head that reads order.

    Shape:
        features: (B, T, C, 1, 1), pooled backbone features of T segments.
        returns:  (B, K), class scores before softmax.

    Source: a baseline of this project: Simple-MLP (paper, Sec. 3.2) without its hidden layer.
    """

    reads = "pooled"
    section = "none"

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.classifier = nn.Linear(self.num_segments * NUM_FEATURES, self.num_classes)

    def macs(self, map_size: int) -> int:
        return self.num_segments * NUM_FEATURES * self.num_classes

    def forward(self, features: Tensor) -> Tensor:
        vectors = self.project(features)  # (B, T, 256)
        scores: Tensor = self.classifier(vectors.flatten(1))  # (B, K)
        return scores
