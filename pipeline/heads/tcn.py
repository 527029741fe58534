"""Temporal convolutional network: dilated convolutions over the segments."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from pipeline.heads.head import NUM_FEATURES, Head

KERNEL = 3
DILATIONS = (1, 2, 4)


class TCNHead(Head):
    """Classify a clip from three residual layers of dilated convolutions over its segments; then the mean.

    A layer is a convolution of three segments, 1, 2 or 4 apart, ReLU, a convolution of single segments, and the
    residual. The length stays: positions outside the clip are zeros.

    Shape:
        features: (B, T, C, 1, 1), pooled backbone features of T segments.
        returns:  (B, K), class scores before softmax.

    Source: the dilated residual layer of Farha and Gall, MS-TCN: multi-stage temporal convolutional network for action
        segmentation, 2019; Lea et al., Temporal convolutional networks for action segmentation and detection, 2017; not
        in the paper.
    """

    reads = "pooled"
    section = "none"

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.layers = nn.ModuleList(
            nn.Sequential(
                nn.Conv1d(NUM_FEATURES, NUM_FEATURES, KERNEL, padding=dilation, dilation=dilation),
                nn.ReLU(),
                nn.Conv1d(NUM_FEATURES, NUM_FEATURES, 1),
            )
            for dilation in DILATIONS
        )
        self.classifier = nn.Linear(NUM_FEATURES, self.num_classes)

    def macs(self, map_size: int) -> int:
        layer = (KERNEL + 1) * NUM_FEATURES**2
        return len(DILATIONS) * self.num_segments * layer + NUM_FEATURES * self.num_classes

    def forward(self, features: Tensor) -> Tensor:
        vectors = self.project(features).transpose(1, 2)  # (B, 256, T)
        for layer in self.layers:
            vectors = vectors + layer(vectors)
        scores: Tensor = self.classifier(vectors.mean(dim=2))  # (B, K)
        return scores
