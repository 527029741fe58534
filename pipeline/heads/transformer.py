"""Transformer encoder over the segments, read at a class token."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from pipeline.heads.attention import SelfAttentionBlock
from pipeline.heads.head import NUM_FEATURES, Head
from pipeline.heads.positions import Positions, learned_tokens

NUM_BLOCKS, NUM_HEADS = 2, 8


class TransformerHead(Head):
    """Classify a clip from a class token after two blocks of self-attention over it and the segments.

    Learned positions are added to the class token and the segments.

    Shape:
        features: (B, T, C, 1, 1), pooled backbone features of T segments.
        returns:  (B, K), class scores before softmax.

    Source: the encoder of Dosovitskiy et al., An image is worth 16x16 words, 2021, over segments instead of patches, as
        the temporal encoder of Arnab et al., ViViT: a video vision transformer, 2021 (model 2); not in the paper.
    """

    reads = "pooled"
    section = "none"
    free_parameters = ("class_token",)

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.class_token = nn.Parameter(learned_tokens(1, NUM_FEATURES))
        self.positions = Positions("learned", self.num_segments + 1, NUM_FEATURES)
        self.blocks = nn.Sequential(*(SelfAttentionBlock(NUM_FEATURES, NUM_HEADS) for _ in range(NUM_BLOCKS)))
        self.norm = nn.LayerNorm(NUM_FEATURES)
        self.classifier = nn.Linear(NUM_FEATURES, self.num_classes)

    def macs(self, map_size: int) -> int:
        block = self.blocks[0]
        assert isinstance(block, SelfAttentionBlock)
        return NUM_BLOCKS * block.macs(self.num_segments + 1) + NUM_FEATURES * self.num_classes

    def forward(self, features: Tensor) -> Tensor:
        vectors = self.project(features)  # (B, T, 256)
        class_tokens = self.class_token.to(vectors.dtype).expand(vectors.shape[0], 1, NUM_FEATURES)
        tokens = self.blocks(self.positions(torch.cat((class_tokens, vectors), dim=1)))  # (B, T + 1, 256)
        scores: Tensor = self.classifier(self.norm(tokens[:, 0]))  # (B, K)
        return scores
