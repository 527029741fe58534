"""Attentive probe with three blocks of self-attention before the pooling."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from pipeline.heads.attention import SelfAttentionBlock
from pipeline.heads.attn import NUM_HEADS, AttnHead
from pipeline.heads.head import NUM_FEATURES

NUM_BLOCKS = 3


class Attn4Head(AttnHead):
    """Classify a clip as `attn` does, after three blocks of self-attention over its segments.

    Without positions, self-attention treats all segments alike, so order has no effect.

    Shape:
        features: (B, T, C, 1, 1), pooled backbone features of T segments.
        returns:  (B, K), class scores before softmax.

    Source: the attentive probe of four blocks of Assran et al., V-JEPA 2: self-supervised video models enable
        understanding, prediction and planning, 2025; not in the paper.
    """

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.blocks = nn.Sequential(*(SelfAttentionBlock(NUM_FEATURES, NUM_HEADS) for _ in range(NUM_BLOCKS)))

    def macs(self, map_size: int) -> int:
        block = self.blocks[0]
        assert isinstance(block, SelfAttentionBlock)
        return super().macs(map_size) + NUM_BLOCKS * block.macs(self.num_tokens(map_size))

    def forward(self, features: Tensor) -> Tensor:
        return self.pool(self.blocks(self.tokens(features)))
