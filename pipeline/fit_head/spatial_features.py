"""Feature maps of one split, streamed from the store; what fits a stated budget stays in RAM once it was read."""

from __future__ import annotations

import threading

import numpy as np
import psutil
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.fit_head.features import FeatureDataset, SampleOrder, unreadable_row
from pipeline.fit_head.stored_clips import FeatureSource, Integers, SplitRows

MAP_CACHE_BYTES = 4 << 30  # at most
MAP_CACHE_SHARE = 0.25  # and at most this share of the memory that is free


class SpatialFeatures(FeatureDataset):
    """Feature maps, read from the store by whichever thread gathers; what fits a budget stays in RAM."""

    reads_ahead = True

    def __init__(self, source: FeatureSource, split: SplitRows, labels: Integers, cache: MapCache) -> None:
        super().__init__(tuple(clip.clip_id for clip in split.clips), labels)
        self._source, self._views, self._rows, self._cache = source, split.views, split.rows, cache

    def gather(self, draw: SampleOrder) -> Tensor:
        maps: Tensor | None = None
        for place, (clip, view) in enumerate(zip(draw.clips, draw.views, strict=True)):
            clip_maps = self._cache.get(self._source, self._views[view], int(self._rows[clip]))
            if maps is None:
                maps = torch.empty((len(draw.clips), *clip_maps.shape), dtype=torch.float16)  # (B, T, H, W, C)
            maps[place] = torch.from_numpy(clip_maps)
        assert maps is not None
        return maps.permute(0, 1, 4, 2, 3)  # a view: the storage stays channels last, as the heads like it


class MapCache:
    """Feature maps that were read already, up to a number of bytes; beyond it every reading goes to the store.

    It holds what comes first and gives nothing up: with a shuffled order, throwing out the oldest would keep just
    what is asked for last. Several threads may use it, and several fits on one store share it.
    """

    def __init__(self, num_bytes: int) -> None:
        self._free_bytes = num_bytes
        self._maps: dict[tuple[str, int], NDArray[np.float16]] = {}
        self._lock = threading.Lock()

    def get(self, source: FeatureSource, view: str, row: int) -> NDArray[np.float16]:
        """The maps of one clip. Shape: (T, H, W, C)."""
        known = self._maps.get((view, row))
        if known is not None:
            return known
        maps = source.read_spatial(view, row)
        if np.isnan(maps.flat[0]):
            raise unreadable_row(view, row)
        with self._lock:
            if (view, row) not in self._maps and maps.nbytes <= self._free_bytes:
                self._maps[view, row] = maps
                self._free_bytes -= maps.nbytes
        return maps


def default_map_cache() -> MapCache:
    """A cache of the stated budget, or of a quarter of the free memory where that is less."""
    return MapCache(min(MAP_CACHE_BYTES, int(MAP_CACHE_SHARE * psutil.virtual_memory().available)))


def open_spatial(source: FeatureSource, split: SplitRows, cache: MapCache) -> SpatialFeatures:
    """The feature maps of a split; nothing but labels is read yet."""
    labels = np.stack([source.labels_of(view, split.rows) for view in split.views])
    return SpatialFeatures(source, split, labels, cache)
