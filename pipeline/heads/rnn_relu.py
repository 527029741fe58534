"""Vanilla recurrent network with the rectified linear unit."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from pipeline.heads.head import NUM_FEATURES, Head


class RNNReLUHead(Head):
    """Classify a clip from the last hidden state of an RNN with the rectified linear unit over its segments.

    Shape:
        features: (B, T, C, 1, 1), pooled backbone features of T segments.
        returns:  (B, K), class scores before softmax.

    Source: paper, Sec. 3.3 (RNN_ReLU).
    """

    reads = "pooled"
    section = "3.3"

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.rnn = nn.RNN(NUM_FEATURES, NUM_FEATURES, nonlinearity="relu", batch_first=True)
        self.classifier = nn.Linear(NUM_FEATURES, self.num_classes)

    def macs(self, map_size: int) -> int:
        step = 2 * NUM_FEATURES * NUM_FEATURES  # input to hidden, hidden to hidden
        return self.num_segments * step + NUM_FEATURES * self.num_classes

    def forward(self, features: Tensor) -> Tensor:
        vectors = self.project(features)  # (B, T, 256)
        states, _ = self.rnn(vectors)  # (B, T, 256)
        scores: Tensor = self.classifier(states[:, -1])  # (B, K)
        return scores
