"""Long short-term memory."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from pipeline.heads.head import NUM_FEATURES, Head


class LSTMHead(Head):
    """Classify a clip from the last hidden state of an LSTM over its segments.

    Shape:
        features: (B, T, C, 1, 1), pooled backbone features of T segments.
        returns:  (B, K), class scores before softmax.

    Source: paper, Sec. 3.3 (LSTM); without the peepholes of its equations, as its parameter count in Table 3 shows
        and the published code has it.
    """

    reads = "pooled"
    section = "3.3"

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.lstm = nn.LSTM(NUM_FEATURES, NUM_FEATURES, batch_first=True)
        self.classifier = nn.Linear(NUM_FEATURES, self.num_classes)

    def macs(self, map_size: int) -> int:
        step = 4 * 2 * NUM_FEATURES * NUM_FEATURES  # three gates and the candidate, each from input and hidden state
        return self.num_segments * step + NUM_FEATURES * self.num_classes

    def forward(self, features: Tensor) -> Tensor:
        vectors = self.project(features)  # (B, T, 256)
        states, _ = self.lstm(vectors)  # (B, T, 256)
        scores: Tensor = self.classifier(states[:, -1])  # (B, K)
        return scores
