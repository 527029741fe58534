"""Efficient probing over every place of the maps of all segments."""

from __future__ import annotations

from pipeline.heads.ep import EPHead
from pipeline.heads.tokens import MapTokens


class EPTokensHead(MapTokens, EPHead):
    """Classify a clip as `ep` does, from every place of its maps; without positions, order has no effect.

    Shape:
        features: (B, T, C, H, W), backbone feature maps of T segments.
        returns:  (B, K), class scores before softmax.

    Source: Psomas et al., Attention, please! Revisiting attentive probing through the lens of efficiency, 2025; not in
        the paper.
    """
