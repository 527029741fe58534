"""Attentive probe over every place of the maps of all segments."""

from __future__ import annotations

from pipeline.heads.attn import AttnHead
from pipeline.heads.tokens import MapTokens


class AttnTokensHead(MapTokens, AttnHead):
    """Classify a clip as `attn` does, from every place of its maps; without positions, order has no effect.

    Shape:
        features: (B, T, C, H, W), backbone feature maps of T segments.
        returns:  (B, K), class scores before softmax.

    Source: the attentive probe over all tokens of Bardes et al., Revisiting feature prediction for learning visual
        representations from video (V-JEPA), 2024; not in the paper.
    """
