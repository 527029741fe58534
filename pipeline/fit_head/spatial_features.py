"""Feature maps of one split, streamed from the store and cached in RAM up to a budget."""

from __future__ import annotations

import threading

import numpy as np
import psutil
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.fit_head.features import FeatureDataset, SampleOrder, unreadable_row
from pipeline.fit_head.shared_tables import SharedTables, table_of
from pipeline.fit_head.stored_clips import FeatureSource, Integers, SplitRows

MAP_CACHE_BYTES = 4 << 30  # maximum
MAP_CACHE_SHARE = 0.25  # and maximum share of the free memory


class SpatialFeatures(FeatureDataset):
    """Feature maps, read from the store by the thread that gathers a batch, and cached in RAM up to a budget."""

    reads_ahead = True

    def __init__(self, source: FeatureSource, split: SplitRows, labels: Integers, cache: MapCache) -> None:
        super().__init__(tuple(clip.clip_id for clip in split.clips), labels)
        self._source, self._views, self._rows, self._cache = source, split.views, split.rows, cache

    def gather(self, draw: SampleOrder) -> Tensor:
        maps: NDArray[np.float16] | None = None
        for place, (clip, view) in enumerate(zip(draw.clips, draw.views, strict=True)):
            clip_maps = self._cache.get(self._source, self._views[view], int(self._rows[clip]))
            if maps is None:
                maps = np.empty((len(draw.clips), *clip_maps.shape), dtype=np.float16)  # (B, T, H, W, C)
            # NumPy copies in this thread; torch would start more threads, which disturb those of the training step.
            maps[place] = clip_maps
        assert maps is not None
        # A view: the memory stays channels last, which is fast for the heads.
        return torch.from_numpy(maps).permute(0, 1, 4, 2, 3)


class MapCache:
    """Cache of feature maps up to a number of bytes; other maps are read from the store each time.

    No eviction: with a shuffled order, LRU would evict exactly the maps that the next epoch needs. The cache may be
    used by several threads, and is shared by several fits on one store.
    """

    def __init__(self, num_bytes: int) -> None:
        self._free_bytes = num_bytes
        self._maps: dict[tuple[str, int], NDArray[np.float16]] = {}
        self._lock = threading.Lock()

    def get(self, source: FeatureSource, view: str, row: int) -> NDArray[np.float16]:
        """Return the maps of one clip. Shape: (T, H, W, C)."""
        known = self._maps.get((view, row))
        if known is not None:
            return known
        maps = _read(source, view, row)
        with self._lock:
            if (view, row) not in self._maps and maps.nbytes <= self._free_bytes:
                self._maps[view, row] = maps
                self._free_bytes -= maps.nbytes
        return maps

    def preload(self, source: FeatureSource, split: SplitRows, shared: SharedTables) -> None:
        """Map the maps of a split that another process shares, or read and share as many as the budget allows."""
        pairs = [(view, int(row)) for view in split.views for row in split.rows]

        def read() -> NDArray[np.float16]:
            first = _read(source, *pairs[0])
            num_maps = min(len(pairs), self._free_bytes // first.nbytes)
            table = np.empty((num_maps, *first.shape), dtype=np.float16)
            for index, pair in enumerate(pairs[:num_maps]):
                table[index] = _read(source, *pair)
            self._free_bytes -= table.nbytes
            return table

        self._maps.update(zip(pairs, table_of(shared, "spatial", split, read), strict=False))


def _read(source: FeatureSource, view: str, row: int) -> NDArray[np.float16]:
    maps = source.read_spatial(view, row)
    if np.isnan(maps.flat[0]):
        raise unreadable_row(view, row)
    return maps


def default_map_cache() -> MapCache:
    """Create a cache of the default budget, or of a quarter of the free memory if that is less."""
    return MapCache(min(MAP_CACHE_BYTES, int(MAP_CACHE_SHARE * psutil.virtual_memory().available)))


def open_spatial(
    source: FeatureSource, split: SplitRows, cache: MapCache, shared: SharedTables | None = None
) -> SpatialFeatures:
    """Open the feature maps of a split; only labels are read, and maps that are shared with other processes."""
    if shared is not None:
        cache.preload(source, split, shared)
    labels = np.stack([source.labels_of(view, split.rows) for view in split.views])
    return SpatialFeatures(source, split, labels, cache)
