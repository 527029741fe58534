"""Positions of the segments, which attention needs to tell their order."""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from torch import Tensor, nn

TOKEN_DEVIATION = 0.02  # of learned tokens and positions at the start, as in ViT
LONGEST_WAVE = 10_000.0


class Positions(nn.Module):
    """Add a vector to the features of each segment that depends on its position alone.

    kind: `none` adds nothing; `sincos` adds fixed sines and cosines; `learned` adds learned vectors.

    Shape:
        vectors, returns: (..., T, D).

    Source: Vaswani et al., Attention is all you need, 2017 (`sincos`, Sec. 3.5).
    """

    free_parameters: ClassVar[tuple[str, ...]] = ("table",)

    def __init__(self, kind: str, num_positions: int, width: int) -> None:
        super().__init__()
        self.kind = kind
        if kind == "learned":
            self.table = nn.Parameter(learned_tokens(num_positions, width))
        elif kind == "sincos":
            self.register_buffer("table", sines_and_cosines(num_positions, width), persistent=False)

    def forward(self, vectors: Tensor) -> Tensor:
        return vectors if self.kind == "none" else vectors + self.table.to(vectors.dtype)


def learned_tokens(num_tokens: int, width: int) -> Tensor:
    """Draw the initial values of learned tokens. Shape: returns: (num_tokens, width)."""
    return nn.init.normal_(torch.empty(num_tokens, width), std=TOKEN_DEVIATION)


def sines_and_cosines(num_positions: int, width: int) -> Tensor:
    """Compute the sine (even features) and cosine (odd features) of each position at wavelengths of 2π to 10,000 · 2π.

    Shape:
        returns: (num_positions, width).
    """
    rates = torch.exp(torch.arange(0, width, 2) * (-math.log(LONGEST_WAVE) / width))  # (D / 2,)
    angles = torch.arange(num_positions)[:, None] * rates
    return torch.stack((angles.sin(), angles.cos()), dim=2).flatten(1)
