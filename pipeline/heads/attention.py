"""Blocks of attention that several heads use: self-attention, and pooling by a query."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

WEIGHT_DEVIATION = 0.02  # of the linear layers at the start, as in ViT
MLP_RATIO = 4


class SelfAttentionBlock(nn.Module):
    """Pre-norm block of a vision transformer: self-attention and a two-layer MLP, each with a norm and a residual.

    Shape:
        tokens, returns: (B, N, D).

    Source: Dosovitskiy et al., An image is worth 16x16 words, 2021 (Eq. 2 and 3).
    """

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.width, self.num_heads = width, num_heads
        self.attention_norm, self.mlp_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.queries_keys_values = nn.Linear(width, 3 * width)
        self.output = nn.Linear(width, width)
        self.mlp = two_layer_mlp(width)
        self.apply(_initialise)

    def macs(self, num_tokens: int) -> int:
        """Count the multiply-accumulates for the tokens of one clip."""
        products = 2 * num_tokens**2 * self.width  # of queries and keys, of weights and values
        return num_tokens * (4 + 2 * MLP_RATIO) * self.width**2 + products

    def forward(self, tokens: Tensor) -> Tensor:
        queries, keys, values = self.queries_keys_values(self.attention_norm(tokens)).chunk(3, dim=2)
        tokens = tokens + self.output(attend(queries, keys, values, self.num_heads))
        mixed: Tensor = tokens + self.mlp(self.mlp_norm(tokens))
        return mixed


class CrossAttentionBlock(nn.Module):
    """Pool tokens into queries: cross-attention without an output projection, residual, norm and a two-layer MLP.

    Shape:
        queries, returns: (B, M, D); tokens: (B, N, D).

    Source: the attentive pooler of Bardes et al., Revisiting feature prediction for learning visual representations
        from video (V-JEPA), 2024, as in its published code.
    """

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.width, self.num_heads = width, num_heads
        self.token_norm, self.mlp_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.query = nn.Linear(width, width)
        self.keys_values = nn.Linear(width, 2 * width)
        self.mlp = two_layer_mlp(width)
        self.apply(_initialise)

    def macs(self, num_queries: int, num_tokens: int) -> int:
        """Count the multiply-accumulates for the queries and tokens of one clip."""
        products = 2 * num_queries * num_tokens * self.width
        return (num_queries * (1 + 2 * MLP_RATIO) + 2 * num_tokens) * self.width**2 + products

    def forward(self, queries: Tensor, tokens: Tensor) -> Tensor:
        keys, values = self.keys_values(self.token_norm(tokens)).chunk(2, dim=2)
        queries = queries + attend(self.query(queries), keys, values, self.num_heads)
        pooled: Tensor = queries + self.mlp(self.mlp_norm(queries))
        return pooled


def attend(queries: Tensor, keys: Tensor, values: Tensor, num_heads: int) -> Tensor:
    """Compute scaled dot-product attention with several heads.

    Shape:
        queries, returns: (B, M, D); keys, values: (B, N, D).
    """
    split = (part.unflatten(2, (num_heads, -1)).transpose(1, 2) for part in (queries, keys, values))  # (B, h, ., D / h)
    return F.scaled_dot_product_attention(*split).transpose(1, 2).flatten(2)


def two_layer_mlp(width: int) -> nn.Sequential:
    """Build the MLP of a block, four times as wide inside."""
    return nn.Sequential(nn.Linear(width, MLP_RATIO * width), nn.GELU(), nn.Linear(MLP_RATIO * width, width))


@torch.no_grad()
def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        nn.init.normal_(module.weight, std=WEIGHT_DEVIATION)
        nn.init.zeros_(module.bias)
