"""Attentive probe over every place of the maps of all segments, with learned positions."""

from __future__ import annotations

from pipeline.heads.attn_tokens import AttnTokensHead


class AttnTokensLearnedHead(AttnTokensHead):
    """Classify a clip as `attn_tokens` does, with a learned vector added to each segment; order has an effect.

    Shape:
        features: (B, T, C, H, W), backbone feature maps of T segments.
        returns:  (B, K), class scores before softmax.

    Source: that of `attn_tokens`, with `Positions`.
    """

    positions_kind = "learned"
