"""Order tests of cached features."""

from __future__ import annotations

import torch

from pipeline.evaluation.order_tests import reordered, reordering, segment_orders

IDS = [f"clip{index}" for index in range(6)]


def test_reversed_and_repeated_by_hand() -> None:
    features = torch.arange(2 * 4).view(2, 4, 1, 1, 1)
    assert reordering("reversed")(features, IDS[:2]).flatten(1).tolist() == [[3, 2, 1, 0], [7, 6, 5, 4]]
    assert reordering("repeated")(features, IDS[:2]).flatten(1).tolist() == [[2] * 4, [6] * 4]


def test_shuffled_is_a_permutation_of_each_clips_own() -> None:
    orders = segment_orders("shuffled", IDS, 8)
    assert (orders.sort(dim=1).values == torch.arange(8)).all()
    assert len({tuple(order.tolist()) for order in orders}) > 1


def test_shuffling_does_not_depend_on_the_other_clips() -> None:
    whole = segment_orders("shuffled", IDS, 8)
    alone = torch.cat([segment_orders("shuffled", [clip_id], 8) for clip_id in IDS])
    assert torch.equal(whole, alone)


def test_maps_stay_channels_last() -> None:
    maps = torch.randn(2, 4, 3, 3, 5).permute(0, 1, 4, 2, 3)
    orders = torch.tensor([[3, 2, 1, 0], [0, 0, 0, 0]])
    changed = reordered(maps, orders)
    assert changed.stride() == maps.stride()
    assert torch.equal(changed[0, 0], maps[0, 3])
    assert torch.equal(changed[1, 3], maps[1, 0])
