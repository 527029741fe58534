"""Features of a split in which time is taken away or reversed, as data sets for fits."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from pipeline.evaluation.order_tests import reordering
from pipeline.fit_head.features import FeatureDataset, SampleOrder

FORWARD, BACKWARD = 0, 1


class StillFrames(FeatureDataset):
    """Clips whose middle segment is repeated in place of all others, as in the order test `repeated`."""

    def __init__(self, features: FeatureDataset) -> None:
        super().__init__(features.clip_ids, features.labels)
        self._features = features

    def shuffled_order(self, seed: int, epoch: int) -> SampleOrder:
        return self._features.shuffled_order(seed, epoch)

    def sequential_order(self) -> SampleOrder:
        return self._features.sequential_order()

    def gather(self, draw: SampleOrder) -> Tensor:
        return reordering("repeated")(self._features.gather(draw), [""] * len(draw.clips))


class Directions(FeatureDataset):
    """Each clip twice: as it is, with the label 0, and reversed, with the label 1.

    Shape:
        labels: (V, 2 N); the reversed clips come after the others.
    """

    def __init__(self, features: FeatureDataset) -> None:
        num_clips, num_views = features.num_clips, features.num_views
        labels = np.tile(np.repeat([FORWARD, BACKWARD], num_clips), (num_views, 1))
        super().__init__((*features.clip_ids, *features.clip_ids), labels)
        self._features = features

    def shuffled_order(self, seed: int, epoch: int) -> SampleOrder:
        # Two draws of views and frames: a clip and its reverse are not made of the same frames.
        drawn = self._joined(*(self._features.shuffled_order(seed, 2 * epoch + part) for part in (0, 1)))
        shuffled = np.random.default_rng([seed, epoch]).permutation(self.num_clips)
        frames = None if drawn.frames is None else drawn.frames[shuffled]
        return SampleOrder(drawn.clips[shuffled], drawn.views[shuffled], frames)

    def sequential_order(self) -> SampleOrder:
        order = self._features.sequential_order()
        return self._joined(order, order)

    def _joined(self, forward: SampleOrder, backward: SampleOrder) -> SampleOrder:
        return SampleOrder(
            np.concatenate((forward.clips, backward.clips + self._features.num_clips)),
            np.concatenate((forward.views, backward.views)),
            None
            if forward.frames is None or backward.frames is None
            else np.concatenate((forward.frames, backward.frames)),
        )

    def gather(self, draw: SampleOrder) -> Tensor:
        num_clips = self._features.num_clips
        features = self._features.gather(SampleOrder(draw.clips % num_clips, draw.views, draw.frames))
        is_reversed = torch.from_numpy(draw.clips >= num_clips).to(features.device)
        return torch.where(is_reversed[:, None, None, None, None], features.flip(1), features)
