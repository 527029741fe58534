"""Efficient probing: several learned queries attend to the segments' features, each for its share of the values."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from pipeline.heads.head import NUM_FEATURES
from pipeline.heads.positions import learned_tokens
from pipeline.heads.tokens import TokenHead

NUM_QUERIES = 8


class EPHead(TokenHead):
    """Classify a clip from eight learned queries that attend to its segments; without positions, order has no effect.

    The keys are the features themselves. One value projection without bias is split over the queries: each query
    averages 32 features with its weights.

    Shape:
        features: (B, T, C, 1, 1), pooled backbone features of T segments.
        returns:  (B, K), class scores before softmax.

    Source: Psomas et al., Attention, please! Revisiting attentive probing through the lens of efficiency, 2025; not in
        the paper.
    """

    section = "none"
    free_parameters = ("queries",)

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.queries = nn.Parameter(learned_tokens(NUM_QUERIES, NUM_FEATURES))
        self.values = nn.Linear(NUM_FEATURES, NUM_FEATURES, bias=False)
        self.classifier = nn.Linear(NUM_FEATURES, self.num_classes)

    def macs(self, map_size: int) -> int:
        products = (NUM_QUERIES + 1) * NUM_FEATURES  # of queries and keys, of weights and values
        return self.num_tokens(map_size) * (NUM_FEATURES**2 + products) + NUM_FEATURES * self.num_classes

    def forward(self, features: Tensor) -> Tensor:
        tokens = self.tokens(features)  # (B, N, 256)
        similarities = tokens @ self.queries.T.to(tokens.dtype) * NUM_FEATURES**-0.5  # (B, N, 8)
        weights = torch.softmax(similarities, dim=1).to(tokens.dtype)
        values = self.values(tokens).unflatten(2, (NUM_QUERIES, -1))  # (B, N, 8, 32)
        pooled = torch.einsum("bnm,bnmd->bmd", weights, values).flatten(1)  # (B, 256)
        scores: Tensor = self.classifier(pooled)  # (B, K)
        return scores
