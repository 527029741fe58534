"""Simple-MLP: two linear layers on the concatenated features of the segments."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from pipeline.heads.dropout import ElementDropout
from pipeline.heads.head import NUM_FEATURES, Head

HIDDEN = 512


class MLPHead(Head):
    """Classify a clip from its segments' features, concatenated in order, by two linear layers.

    Shape:
        features: (B, T, C, 1, 1), pooled backbone features of T segments.
        returns:  (B, K), class scores before softmax.

    Source: paper, Sec. 3.2 (Simple MLP, Fig. 2); the ReLU on the input and dropout 0.2 between the layers are from
        the published code; the option `mlp_dropout` sets the latter.
    """

    reads = "pooled"
    section = "3.2"

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.layers = nn.Sequential(
            nn.ReLU(),
            nn.Linear(self.num_segments * NUM_FEATURES, HIDDEN),
            nn.ReLU(),
            ElementDropout(self.choices.mlp_dropout),
            nn.Linear(HIDDEN, self.num_classes),
        )

    def macs(self, map_size: int) -> int:
        return self.num_segments * NUM_FEATURES * HIDDEN + HIDDEN * self.num_classes

    def forward(self, features: Tensor) -> Tensor:
        vectors = self.project(features)  # (B, T, 256)
        scores: Tensor = self.layers(vectors.flatten(1))  # (B, K)
        return scores
