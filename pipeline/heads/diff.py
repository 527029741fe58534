"""Linear layer on the mean of the features and of their differences in time."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from pipeline.errors import PipelineError
from pipeline.heads.head import NUM_FEATURES, Head


class DiffHead(Head):
    """Classify a clip by one linear layer on its mean features, their mean difference and mean absolute difference.

    Differences are those of neighbouring segments. The mean difference is the difference of last and first segment
    divided by T - 1, so it changes its sign if the clip is reversed.

    Shape:
        features: (B, T, C, 1, 1), pooled backbone features of T segments.
        returns:  (B, K), class scores before softmax.

    Raises:
        PipelineError: there are fewer than two segments, which have no difference.

    Source: differences of neighbouring features as in TDN (Wang et al., TDN: temporal difference networks for efficient
        action recognition, 2021), without its layers: a baseline of this project.
    """

    reads = "pooled"
    section = "none"

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        if self.num_segments < 2:
            raise PipelineError(f"`num_segments` (={self.num_segments}) must be at least 2 for the head 'diff'.")
        self.classifier = nn.Linear(3 * NUM_FEATURES, self.num_classes)

    def macs(self, map_size: int) -> int:
        return 3 * NUM_FEATURES * self.num_classes

    def forward(self, features: Tensor) -> Tensor:
        vectors = self.project(features)  # (B, T, 256)
        differences = vectors.diff(dim=1)  # (B, T - 1, 256)
        statistics = (vectors.mean(dim=1), differences.mean(dim=1), differences.abs().mean(dim=1))
        scores: Tensor = self.classifier(torch.cat(statistics, dim=1))  # (B, K)
        return scores
