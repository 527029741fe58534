"""Attentive probe: a learned query pools the segments by cross-attention."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from pipeline.heads.attention import CrossAttentionBlock
from pipeline.heads.head import NUM_FEATURES
from pipeline.heads.positions import learned_tokens
from pipeline.heads.tokens import TokenHead

NUM_HEADS = 16


class AttnHead(TokenHead):
    """Classify a clip from one learned query that attends to its segments; without positions, order has no effect.

    Shape:
        features: (B, T, C, 1, 1), pooled backbone features of T segments.
        returns:  (B, K), class scores before softmax.

    Source: the attentive probe of Bardes et al., Revisiting feature prediction for learning visual representations from
        video (V-JEPA), 2024; attentional pooling of Yu et al., CoCa: contrastive captioners are image-text foundation
        models, 2022; not in the paper.
    """

    section = "none"
    free_parameters = ("query",)

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.query = nn.Parameter(learned_tokens(1, NUM_FEATURES))
        self.pooler = CrossAttentionBlock(NUM_FEATURES, NUM_HEADS)
        self.classifier = nn.Linear(NUM_FEATURES, self.num_classes)

    def macs(self, map_size: int) -> int:
        return self.pooler.macs(1, self.num_tokens(map_size)) + NUM_FEATURES * self.num_classes

    def forward(self, features: Tensor) -> Tensor:
        return self.pool(self.tokens(features))

    def pool(self, tokens: Tensor) -> Tensor:
        """Compute class scores from tokens. Shape: tokens: (B, N, 256); returns: (B, K)."""
        queries = self.query.expand(tokens.shape[0], 1, NUM_FEATURES)
        pooled = self.pooler(queries, tokens)[:, 0]  # (B, 256)
        scores: Tensor = self.classifier(pooled)  # (B, K)
        return scores
