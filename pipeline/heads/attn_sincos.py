"""Attentive probe with fixed sines and cosines as positions."""

from __future__ import annotations

from pipeline.heads.attn import AttnHead


class AttnSincosHead(AttnHead):
    """Classify a clip as `attn` does, with added sines and cosines of the positions; order has an effect.

    Shape:
        features: (B, T, C, 1, 1), pooled backbone features of T segments.
        returns:  (B, K), class scores before softmax.

    Source: that of `attn`, with `Positions`.
    """

    positions_kind = "sincos"
