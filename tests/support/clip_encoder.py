"""Small video encoders for tests of `python:tests.support.clip_encoder:FACTORY`."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class DifferenceEncoder(nn.Module):
    """An encoder of 4 frames whose tokens see the other frames: 2 steps of 2×2 places, 5 channels."""

    num_frames = 4
    grid = (2, 2, 2)

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(1)
        self.weight = nn.Parameter(torch.randn(5, 6, generator=generator))
        self.preprocessing = {"input_size": 32, "mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}

    def forward(self, clips: Tensor) -> Tensor:
        places = nn.functional.adaptive_avg_pool2d(clips.flatten(0, 1), 2).unflatten(0, clips.shape[:2])
        steps = places.unflatten(1, (2, 2)).mean(dim=2)  # (B, 2, 3, 2, 2), means of two frames
        seen = torch.cat((steps, steps - places.mean(dim=1, keepdim=True)), dim=2)  # (B, 2, 6, 2, 2)
        return torch.einsum("kc,btchw->bthwk", self.weight, seen).flatten(1, 3)  # (B, 8, 5)


def difference_encoder() -> nn.Module:
    """Build the encoder."""
    return DifferenceEncoder()


def encoder_of_other_tokens() -> nn.Module:
    """Build an encoder whose tokens do not fill its grid."""
    encoder = DifferenceEncoder()
    encoder.grid = (4, 2, 2)
    return encoder


def encoder_without_a_grid() -> nn.Module:
    """Build a network that is no encoder."""
    return nn.Linear(2, 2)


def no_network() -> int:
    """Return something else."""
    return 3
