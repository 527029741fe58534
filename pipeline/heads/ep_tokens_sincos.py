"""Efficient probing over every place of the maps of all segments, with fixed sines and cosines as positions."""

from __future__ import annotations

from pipeline.heads.ep_tokens import EPTokensHead


class EPTokensSincosHead(EPTokensHead):
    """Classify a clip as `ep_tokens` does, with added sines and cosines of the segments; order has an effect.

    Shape:
        features: (B, T, C, H, W), backbone feature maps of T segments.
        returns:  (B, K), class scores before softmax.

    Source: that of `ep_tokens`, with `Positions`.
    """

    positions_kind = "sincos"
