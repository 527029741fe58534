"""Attentive probe of four blocks with learned positions."""

from __future__ import annotations

from pipeline.heads.attn4 import Attn4Head


class Attn4LearnedHead(Attn4Head):
    """Classify a clip as `attn4` does, with a learned vector added to each segment; order has an effect.

    Shape:
        features: (B, T, C, 1, 1), pooled backbone features of T segments.
        returns:  (B, K), class scores before softmax.

    Source: that of `attn4`, with `Positions`.
    """

    positions_kind = "learned"
