"""Attentive probe with learned positions."""

from __future__ import annotations

from pipeline.heads.attn import AttnHead


class AttnLearnedHead(AttnHead):
    """Classify a clip as `attn` does, with a learned vector added to each segment; order has an effect.

    Shape:
        features: (B, T, C, 1, 1), pooled backbone features of T segments.
        returns:  (B, K), class scores before softmax.

    Source: that of `attn`, with `Positions`.
    """

    positions_kind = "learned"
