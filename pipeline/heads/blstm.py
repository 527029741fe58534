"""Bidirectional long short-term memory."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from pipeline.heads.head import NUM_FEATURES, Head

HIDDEN = NUM_FEATURES // 2


class BLSTMHead(Head):
    """Classify a clip from the last states of a forward and a backward LSTM over its segments, 128 features each.

    Shape:
        features: (B, T, C, 1, 1), pooled backbone features of T segments.
        returns:  (B, K), class scores before softmax.

    Source: paper, Sec. 3.3 (Bidirectional LSTM). Its text takes "the first output of the positive time direction",
        which depends on a single segment; like the published code, we take the forward state at the last segment and
        the backward state at the first, each of which depends on the whole clip.
    """

    reads = "pooled"
    section = "3.3"

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.lstm = nn.LSTM(NUM_FEATURES, HIDDEN, batch_first=True, bidirectional=True)
        self.classifier = nn.Linear(2 * HIDDEN, self.num_classes)

    def macs(self, map_size: int) -> int:
        step = 2 * 4 * HIDDEN * (NUM_FEATURES + HIDDEN)  # two directions, four gates each
        return self.num_segments * step + 2 * HIDDEN * self.num_classes

    def forward(self, features: Tensor) -> Tensor:
        vectors = self.project(features)  # (B, T, 256)
        states, _ = self.lstm(vectors)  # (B, T, 128 forwards + 128 backwards)
        ends = torch.cat((states[:, -1, :HIDDEN], states[:, 0, HIDDEN:]), dim=1)  # (B, 256)
        scores: Tensor = self.classifier(ends)  # (B, K)
        return scores
