"""Tokens of the heads that attend: one of each segment, or one of each place of the maps of all segments."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from torch import Tensor

from pipeline.heads.head import NUM_FEATURES, Head
from pipeline.heads.positions import Positions


class TokenHead(Head):
    """Base class of the heads that attend to tokens; each token has the position of its segment."""

    reads: ClassVar[Literal["pooled", "spatial"]] = "pooled"
    positions_kind: ClassVar[str] = "none"

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.positions = Positions(self.positions_kind, self.num_segments, NUM_FEATURES)

    def num_tokens(self, map_size: int) -> int:
        """Return the number of tokens of a clip."""
        return self.num_segments

    def tokens(self, features: Tensor) -> Tensor:
        """Project features to tokens with their positions. Shape: features: (B, T, C, H, W); returns: (B, N, 256)."""
        tokens: Tensor = self.positions(self.project(features))
        return tokens


class MapTokens(TokenHead):
    """Make one token of each place of the maps of all segments; a head class takes it before its own base.

    The place of a token in its map is known only as far as the backbone's features tell it.
    """

    reads = "spatial"

    def num_tokens(self, map_size: int) -> int:
        return self.num_segments * map_size**2

    def tokens(self, features: Tensor) -> Tensor:
        of_places = self.project(features).flatten(3).permute(0, 3, 1, 2)  # (B, H W, T, 256)
        tokens: Tensor = self.positions(of_places)
        return tokens.flatten(1, 2)  # (B, H W T, 256)
