"""Attentive probe over every place of the maps of all segments, with fixed sines and cosines as positions."""

from __future__ import annotations

from pipeline.heads.attn_tokens import AttnTokensHead


class AttnTokensSincosHead(AttnTokensHead):
    """Classify a clip as `attn_tokens` does, with added sines and cosines of the segments; order has an effect.

    Shape:
        features: (B, T, C, H, W), backbone feature maps of T segments.
        returns:  (B, K), class scores before softmax.

    Source: that of `attn_tokens`, with `Positions`.
    """

    positions_kind = "sincos"
