"""Linear layer on mean and standard deviation of the features over time."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from pipeline.heads.head import NUM_FEATURES, Head

# Added to the variance: the derivative of the square root is infinite at 0, the variance of a still clip.
EPSILON = 1e-6


class MeanStdHead(Head):
    """Classify a clip by one linear layer on mean and deviation of its segments' features; order has no effect.

    The deviation shows that something changes, but not in which direction.

    Shape:
        features: (B, T, C, 1, 1), pooled backbone features of T segments.
        returns:  (B, K), class scores before softmax.

    Source: statistics pooling of Snyder et al., Deep neural network embeddings for text-independent speaker
        verification, 2017; not in the paper.
    """

    reads = "pooled"
    section = "none"

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.classifier = nn.Linear(2 * NUM_FEATURES, self.num_classes)

    def macs(self, map_size: int) -> int:
        return 2 * NUM_FEATURES * self.num_classes

    def forward(self, features: Tensor) -> Tensor:
        vectors = self.project(features)  # (B, T, 256)
        deviation = (vectors.var(dim=1, correction=0) + EPSILON).sqrt()
        statistics = torch.cat((vectors.mean(dim=1), deviation), dim=1)  # (B, 512)
        scores: Tensor = self.classifier(statistics)  # (B, K)
        return scores
