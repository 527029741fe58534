"""Cached features of one split, from which training batches are drawn; pooled ones in RAM or memory-mapped.

An epoch is a `SampleOrder`: the order of the clips and their views. It depends only on seed and epoch, not on the
number of loader threads or on earlier fits. Pooled features are loaded once and gathered in RAM. Feature maps
(`spatial_features`) are read ahead of the training step by threads, at most a few batches, so memory stays constant.
"""

from __future__ import annotations

import copy
import logging
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import psutil
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.errors import PipelineError
from pipeline.fit_head.shared_tables import SharedTables, table_of
from pipeline.fit_head.stored_clips import FeatureSource, Integers, SplitRows
from pipeline.prefetch import open_executor, prefetch
from pipeline.recipe import SamplingConfig
from pipeline.video.sampling import drawn_frame_indices, test_frame_indices

logger = logging.getLogger(__name__)

ROWS_PER_READ = 4_096
RAM_SHARE = 0.5  # share of the free memory; larger pooled features are memory-mapped
STATISTICS_CLIPS = {"pooled": 4_096, "spatial": 64}
STATISTICS_BATCH = {"pooled": 32, "spatial": 1}  # larger ones do not fit in the processor's cache as float64


class SampleOrder(NamedTuple):
    """Order of the clips of an epoch, with the view of each.

    Shape:
        clips: (N,), positions in the split; views: (N,), positions among the views;
        frames: (N, T), rows in the table of all frames, or None.
    """

    clips: Integers
    views: Integers
    frames: Integers | None = None

    def at(self, places: slice | Integers) -> SampleOrder:
        frames = None if self.frames is None else self.frames[places]
        return SampleOrder(self.clips[places], self.views[places], frames)


class Batch(NamedTuple):
    """A batch. Shape: features: (B, T, C, H, W) float16, H = W = 1 for pooled ones; labels: (B,) int64."""

    features: Tensor
    labels: Tensor


class FeatureDataset(ABC):
    """Features of the labelled clips of one split, from several views.

    Shape:
        labels: (V, N), class indices; the labels of views differ if a flip swaps left and right.
    """

    reads_ahead = False

    def __init__(self, clip_ids: tuple[str, ...], labels: Integers) -> None:
        self.clip_ids = clip_ids
        self.labels = labels
        self._statistics: tuple[Tensor, Tensor] | None = None

    @property
    def num_clips(self) -> int:
        return len(self.clip_ids)

    @property
    def num_views(self) -> int:
        return len(self.labels)

    def shuffled_order(self, seed: int, epoch: int) -> SampleOrder:
        """Return every clip once, in an order and with views that depend only on seed and epoch."""
        generator = np.random.default_rng([seed, epoch])
        clips = generator.permutation(self.num_clips)
        return SampleOrder(clips, generator.integers(0, self.num_views, self.num_clips))

    def sequential_order(self) -> SampleOrder:
        """Return every clip once in the order of the manifest, with its first view."""
        return SampleOrder(np.arange(self.num_clips), np.zeros(self.num_clips, dtype=np.int64))

    def batch(self, draw: SampleOrder) -> Batch:
        return Batch(self.gather(draw), torch.from_numpy(self.labels[draw.views, draw.clips]))

    @abstractmethod
    def gather(self, draw: SampleOrder) -> Tensor:
        """Gather the features of an order. Shape: (N, T, C, H, W)."""

    def channel_statistics(self, num_loaders: int = 0) -> tuple[Tensor, Tensor]:
        """Compute mean and standard deviation of each channel over evenly spaced clips, in their first view; once.

        Shape:
            returns: (C,) and (C,), float32.
        """
        if self._statistics is None:
            self._statistics = self._channel_statistics(num_loaders)
        return self._statistics

    def _channel_statistics(self, num_loaders: int) -> tuple[Tensor, Tensor]:
        kind = "spatial" if self.reads_ahead else "pooled"
        num_sampled = min(self.num_clips, STATISTICS_CLIPS[kind])
        chosen = np.linspace(0, self.num_clips - 1, num_sampled).round().astype(np.int64)
        sums = squares = torch.zeros((), dtype=torch.float64)
        num_values = 0
        for batch in batches(self, self.sequential_order().at(chosen), STATISTICS_BATCH[kind], num_loaders):
            values = batch.features.cpu().double()  # (B, T, C, H, W)
            sums = sums + values.sum(dim=(0, 1, 3, 4))
            squares = squares + values.square_().sum(dim=(0, 1, 3, 4))
            num_values += values.numel() // values.shape[2]
        mean = sums / num_values
        return mean.float(), (squares / num_values - mean.square()).clamp(min=0).sqrt().float()


class PooledFeatures(FeatureDataset):
    """Pooled features of some views in one table. Shape: table: (V, N, T, C) float16."""

    def __init__(self, clip_ids: tuple[str, ...], labels: Integers, table: NDArray[np.float16]) -> None:
        super().__init__(clip_ids, labels)
        self.table = torch.from_numpy(table).flatten(0, 1)  # (V·N, T, C)

    def gather(self, draw: SampleOrder) -> Tensor:
        rows = torch.from_numpy(draw.views * self.num_clips + draw.clips).to(self.table.device)
        return self.table.index_select(0, rows)[..., None, None]  # (B, T, C, 1, 1)


class FrameFeatures(FeatureDataset):
    """Pooled features of every frame, from which each epoch draws frames for any number of segments.

    Shape:
        table: (F, C), the concatenated frames of all clips; starts: (N + 1,), the first row of each clip.
    """

    def __init__(
        self,
        clip_ids: tuple[str, ...],
        labels: Integers,
        table: NDArray[np.float16],
        starts: Integers,
        num_segments: int,
        choices: SamplingConfig,
    ) -> None:
        super().__init__(clip_ids, labels)
        self.table = torch.from_numpy(table)
        self._starts, self._num_frames = starts[:-1], np.diff(starts)
        self._num_segments, self._choices = num_segments, choices

    def drawn_by(self, choices: SamplingConfig) -> FrameFeatures:
        """Return the same features with other sampling options, without copying."""
        other = copy.copy(self)
        other._choices, other._statistics = choices, None
        return other

    def shuffled_order(self, seed: int, epoch: int) -> SampleOrder:
        generator = np.random.default_rng([seed, epoch])
        clips = generator.permutation(self.num_clips)
        frames = np.stack(
            [
                drawn_frame_indices(int(self._num_frames[clip]), self._num_segments, generator, self._choices.sampler)
                for clip in clips
            ]
        )
        return SampleOrder(clips, np.zeros_like(clips), self._starts[clips, None] + frames)

    def sequential_order(self) -> SampleOrder:
        frames = np.stack(
            [
                test_frame_indices(
                    int(num_frames), self._num_segments, self._choices.short_clip, self._choices.test_frames
                )
                for num_frames in self._num_frames
            ]
        )
        clips = np.arange(self.num_clips)
        return SampleOrder(clips, np.zeros_like(clips), self._starts[:, None] + frames)

    def gather(self, draw: SampleOrder) -> Tensor:
        assert draw.frames is not None
        rows = torch.from_numpy(draw.frames.reshape(-1)).to(self.table.device)
        frames = self.table.index_select(0, rows).unflatten(0, draw.frames.shape)  # (B, T, C)
        features: Tensor = frames[..., None, None]
        return features


def batches(features: FeatureDataset, draw: SampleOrder, batch_size: int, num_loaders: int = 1) -> Iterator[Batch]:
    """Yield the batches of an order; the last one may be smaller.

    Feature maps are read by `num_loaders` threads, at most `num_loaders + 1` batches ahead.
    """
    parts = (draw.at(slice(start, start + batch_size)) for start in range(0, len(draw.clips), batch_size))
    if not features.reads_ahead:
        yield from map(features.batch, parts)
        return
    with open_executor(num_loaders, "features") as executor:
        yield from prefetch(executor, features.batch, parts, num_loaders + 2)


def load_pooled(
    source: FeatureSource, split: SplitRows, scratch: Path, shared: SharedTables | None = None
) -> PooledFeatures:
    """Load the pooled features of a split, all its views, once, or map the table of another process."""
    table = table_of(shared, "pooled", split, lambda: _read_pooled(source, split, scratch))
    labels = np.stack([source.labels_of(view, split.rows) for view in split.views])
    return PooledFeatures(tuple(clip.clip_id for clip in split.clips), labels, table)


def _read_pooled(source: FeatureSource, split: SplitRows, scratch: Path) -> NDArray[np.float16]:
    settings = source.settings
    shape = (len(split.views), len(split.clips), settings.num_segments, settings.channels)
    table = _allocate(shape, scratch)
    for view_index, view in enumerate(split.views):
        for start in range(0, len(split.clips), ROWS_PER_READ):
            rows = split.rows[start : start + ROWS_PER_READ]
            read = source.read_pooled(view, rows)
            # A missing row is NaN in all values.
            missing = np.isnan(read[:, 0, 0])
            if missing.any():
                raise unreadable_row(view, int(rows[np.argmax(missing)]))
            table[view_index, start : start + ROWS_PER_READ] = read
    return table


def load_frames(
    source: FeatureSource,
    split: SplitRows,
    num_segments: int,
    choices: SamplingConfig,
    scratch: Path,
    shared: SharedTables | None = None,
) -> FrameFeatures:
    """Load the pooled features of every frame of a split (`--frames all`) once, or map those of another process."""
    starts = np.concatenate([[0], np.cumsum([clip.num_frames for clip in split.clips])]).astype(np.int64)
    table = table_of(shared, "frames", split, lambda: _read_frames(source, split, starts, scratch))
    labels = np.array([[clip.class_index for clip in split.clips]], dtype=np.int64)
    return FrameFeatures(tuple(clip.clip_id for clip in split.clips), labels, table, starts, num_segments, choices)


def _read_frames(source: FeatureSource, split: SplitRows, starts: Integers, scratch: Path) -> NDArray[np.float16]:
    table = _allocate((int(starts[-1]), source.settings.channels), scratch)
    read = source.iterate_frames(split.rows)
    for clip, frames, start, stop in zip(split.clips, read, starts[:-1], starts[1:], strict=True):
        if len(frames) != stop - start:
            raise unreadable_row("all frames", clip.row)
        table[start:stop] = frames
    return table


def _allocate(shape: tuple[int, ...], scratch: Path) -> NDArray[np.float16]:
    num_bytes = int(np.prod(shape)) * 2
    free_bytes = psutil.virtual_memory().available
    if num_bytes <= RAM_SHARE * free_bytes:
        return np.empty(shape, dtype=np.float16)
    logger.info(
        f"pooled features take {num_bytes / 2**30:.1f} GiB, more than {RAM_SHARE:.0%} of the {free_bytes / 2**30:.1f} "
        f"GiB of free memory: they are memory-mapped in {scratch}"
    )
    scratch.mkdir(parents=True, exist_ok=True)
    # Unlinked: the kernel frees the file after the last use of the array, also if the process is killed.
    with tempfile.TemporaryFile(dir=scratch) as file:
        return np.memmap(file, dtype=np.float16, mode="w+", shape=shape)


def unreadable_row(view: str, row: int) -> PipelineError:
    """Return the error for features that are in the store's record but not in its arrays."""
    return PipelineError(
        f"Row {row} of the store counts as done, but its features ({view}) are missing. "
        "Run `pipeline store verify --repair`."
    )
