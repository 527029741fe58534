"""Attentive probe of four blocks with fixed sines and cosines as positions."""

from __future__ import annotations

from pipeline.heads.attn4 import Attn4Head


class Attn4SincosHead(Attn4Head):
    """Classify a clip as `attn4` does, with added sines and cosines of the positions; order has an effect.

    Shape:
        features: (B, T, C, 1, 1), pooled backbone features of T segments.
        returns:  (B, K), class scores before softmax.

    Source: that of `attn4`, with `Positions`.
    """

    positions_kind = "sincos"
