"""Temporal shift: linear layers on features of which a part is shifted by one segment."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from pipeline.heads.head import NUM_FEATURES, Head

NUM_LAYERS = 2
SHIFTED = NUM_FEATURES // 8  # channels shifted in each direction


class ShiftHead(Head):
    """Classify a clip from two residual layers, each of which mixes neighbouring segments by a shift; then the mean.

    A layer takes an eighth of the channels from the segment before, an eighth from the segment after, and the others
    from the segment itself; then linear, ReLU and the residual. The shift costs no arithmetic.

    Shape:
        features: (B, T, C, 1, 1), pooled backbone features of T segments.
        returns:  (B, K), class scores before softmax.

    Source: the residual shift of Lin et al., TSM: temporal shift module for efficient video understanding, 2019, with a
        linear layer in place of a convolution; not in the paper.
    """

    reads = "pooled"
    section = "none"

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.layers = nn.ModuleList(nn.Linear(NUM_FEATURES, NUM_FEATURES) for _ in range(NUM_LAYERS))
        self.classifier = nn.Linear(NUM_FEATURES, self.num_classes)

    def macs(self, map_size: int) -> int:
        return NUM_LAYERS * self.num_segments * NUM_FEATURES**2 + NUM_FEATURES * self.num_classes

    def forward(self, features: Tensor) -> Tensor:
        vectors = self.project(features)  # (B, T, 256)
        for layer in self.layers:
            vectors = vectors + torch.relu(layer(shifted(vectors)))
        scores: Tensor = self.classifier(vectors.mean(dim=1))  # (B, K)
        return scores


def shifted(vectors: Tensor) -> Tensor:
    """Shift the first channels one segment later and the next ones one segment earlier; ends are filled with zeros.

    Shape:
        vectors, returns: (B, T, 256).
    """
    later, earlier, rest = vectors.split((SHIFTED, SHIFTED, NUM_FEATURES - 2 * SHIFTED), dim=2)
    zero = later.new_zeros(()).expand_as(later[:, :1])
    return torch.cat((torch.cat((zero, later[:, :-1]), 1), torch.cat((earlier[:, 1:], zero), 1), rest), dim=2)
