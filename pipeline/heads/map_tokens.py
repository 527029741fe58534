"""Tokens of heads that attend to every place of the feature maps of all segments."""

from __future__ import annotations

from torch import Tensor

from pipeline.heads.head import Head
from pipeline.heads.positions import Positions


class MapTokens(Head):
    """Make one token of each place of the maps of all segments; a head class takes it before its own base.

    A token has the position of its segment. Its place in the map is known only as far as the backbone's features tell
    it.
    """

    positions: Positions

    def num_tokens(self, map_size: int) -> int:
        """Return the number of tokens of a clip."""
        return self.num_segments * map_size**2

    def tokens(self, features: Tensor) -> Tensor:
        """Project maps to tokens with their positions.

        Shape:
            features: (B, T, C, H, W); returns: (B, H W T, 256).
        """
        of_places = self.project(features).flatten(3).permute(0, 3, 1, 2)  # (B, H W, T, 256)
        tokens: Tensor = self.positions(of_places)
        return tokens.flatten(1, 2)
