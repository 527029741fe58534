"""Efficient probing with learned positions."""

from __future__ import annotations

from pipeline.heads.ep import EPHead


class EPLearnedHead(EPHead):
    """Classify a clip as `ep` does, with a learned vector added to each segment; order has an effect.

    Shape:
        features: (B, T, C, 1, 1), pooled backbone features of T segments.
        returns:  (B, K), class scores before softmax.

    Source: that of `ep`, with `Positions`.
    """

    positions_kind = "learned"
