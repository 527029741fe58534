"""Certificate of order: whether the scores of a head can depend on the order of the segments at all.

It is a property of the head's definition, not of its training: an ordered head may still learn not to use order, which
the order tests (`order_tests`) and the time-reversed pairs show.
"""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor

from pipeline.evaluation.order_tests import reordered
from pipeline.heads import HEADS, Head, build_head
from pipeline.registry import BLIND, ORDERED, look_up

NUM_PERMUTATIONS = 100
# Largest difference of the scores of a blind head, as a share of the range of the scores.
MAX_BLIND_DIFFERENCE = 1e-5
SEED = 0
NUM_SEGMENTS, NUM_CHANNELS, NUM_CLASSES = 4, 6, 5
MAP_SIZE = (1, 2)  # the smallest map
# Added to the initial weights, some of which are near 0, where attention is nearly the mean.
WEIGHT_DEVIATION = 0.1


@cache
def order_of(name: str) -> str:
    """Return `blind` or `ordered` for the head of a name, by its scores with random weights.

    Raises:
        PipelineError: the head is unknown.
    """
    size = (1, 1) if look_up("head", name, HEADS).reads == "pooled" else MAP_SIZE
    shape = (NUM_SEGMENTS, NUM_CHANNELS, *size)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        head = build_head(name, in_channels=NUM_CHANNELS, num_segments=NUM_SEGMENTS, num_classes=NUM_CLASSES)
        if head.is_closed_form:
            clips = torch.randn(NUM_PERMUTATIONS, *shape)
            head.fit_closed_form([(clips, torch.arange(NUM_PERMUTATIONS) % NUM_CLASSES)])
        with torch.no_grad():
            for parameter in head.parameters():
                parameter.add_(WEIGHT_DEVIATION * torch.randn_like(parameter))
        return BLIND if order_difference(head, torch.randn(1, *shape)) < MAX_BLIND_DIFFERENCE else ORDERED


def order_difference(head: Head, clip: Tensor) -> float:
    """Return the largest change of a score over 100 random orders of a clip, as a share of the range of the scores.

    Computed in float64, so that rounding does not look like order. Orders come from torch's random generator.

    Shape:
        clip: (1, T, C, H, W).
    """
    was_training = head.training
    orders = torch.stack([torch.randperm(clip.shape[1]) for _ in range(NUM_PERMUTATIONS)]).unique(dim=0)
    head.double().eval()
    with torch.inference_mode():
        plain = head(clip.double())  # (1, K)
        changed = head(reordered(clip.double().expand(len(orders), *clip.shape[1:]), orders))  # (100 or fewer, K)
    head.float().train(was_training)
    return float((changed - plain).abs().max() / (plain.max() - plain.min()))
