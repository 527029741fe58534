"""Initial weights of every head against those of the published layers, as torch draws them."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from pipeline.heads import build_head
from pipeline.recipe import PUBLISHED_CODE
from tests.support.published_code import BLOCKS, Network

NUM_SEEDS = 8
SIZES = {"in_channels": 16, "num_segments": 8, "num_classes": 27}


def drawn(name: str, is_published: bool) -> dict[str, Tensor]:
    """Every initial tensor under its published name, from several seeds."""
    states = []
    for seed in range(NUM_SEEDS):
        torch.manual_seed(seed)
        network = Network(name, **SIZES)
        if not is_published:
            torch.manual_seed(1000 + seed)
            network.load_head(build_head(name, **SIZES, choices=PUBLISHED_CODE.head).state_dict())
        states.append(network.state_dict())
    return {key: torch.stack([state[key] for state in states]).double() for key in states[0]}


@pytest.mark.parametrize("name", BLOCKS)
def test_initial_weights_spread_as_those_of_the_published_layers(name: str) -> None:
    found, published = drawn(name, is_published=False), drawn(name, is_published=True)
    for key, values in published.items():
        # Five standard errors of a standard deviation, at most 1 / sqrt(N) of it for uniform and normal values.
        tolerance = 5 / math.sqrt(values.numel())
        assert found[key].std().item() == pytest.approx(values.std().item(), rel=tolerance), key
        assert abs((found[key].mean() - values.mean()).item()) <= tolerance * values.std().item() * math.sqrt(2), key
