"""A feature source in memory, with clips whose label depends only on the order of their segments."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from pipeline.recipe import SamplingConfig
from pipeline.store.settings import StoreSettings
from pipeline.store.table import ClipRow

T, C, SIZE = 8, 12, 4
CLASSES = ("forwards", "backwards", "still")


def settings(**changes: Any) -> StoreSettings:
    values: dict[str, Any] = {
        "backbone": "squeezenet",
        "weights": {"name": "random", "sha256": ""},
        "compute_dtype": "float32",
        "capability": "AVX2",
        "compile_mode": "eager",
        "batch_frames": 16,
        "transform_version": 2,
        "frame_choices": SamplingConfig(),
        "num_segments": T,
        "seed": 0,
        "maps": ("pooled", "spatial"),
        "channels": C,
        "map_size": SIZE,
        "preprocessing": {},
    }
    return StoreSettings(**{**values, **changes})


@dataclass
class MemorySource:
    """Implement `FeatureSource` in memory, and count the reads."""

    settings: StoreSettings
    rows: list[ClipRow]
    maps: dict[str, np.ndarray]  # by view: (N, T, H, W, C)
    labels: dict[str, np.ndarray]
    frames: list[np.ndarray] = field(default_factory=list)
    classes: tuple[str, ...] = CLASSES
    num_failed: int = 2
    reads: list[tuple[str, int]] = field(default_factory=list)

    def table(self) -> Sequence[ClipRow]:
        return self.rows

    def labels_of(self, view: str, rows: Any) -> np.ndarray:
        return self.labels[view][np.asarray(rows)]

    def read_pooled(self, view: str, rows: Any) -> np.ndarray:
        return self.maps[view][np.asarray(rows)].mean(axis=(2, 3), dtype=np.float32).astype(np.float16)

    def read_spatial(self, view: str, row: int) -> np.ndarray:
        self.reads.append((view, row))
        return self.maps[view][row]

    def iterate_frames(self, rows: Any) -> Iterator[np.ndarray]:
        return (self.frames[row] for row in rows)


def make_source(
    num_train: int = 60,
    num_val: int = 30,
    num_views: int = 2,
    num_unlabelled: int = 3,
    seed: int = 0,
    **changes: Any,
) -> MemorySource:
    """Create clips with a ramp along a direction, forwards, backwards or in random order, with noise.

    All classes have the same multiset of segments, so the mean has no information. Both splits have unlabelled clips.
    """
    generator = np.random.default_rng(seed)
    direction = generator.normal(size=C)
    splits = ["train"] * num_train + ["val"] * num_val + ["train", "val"] * num_unlabelled
    num_clips = len(splits)
    labels = np.array([index % 3 for index in range(num_train + num_val)] + [-1] * 2 * num_unlabelled)
    views = ("test", *(f"train-{k}" for k in range(num_views)))
    maps: dict[str, np.ndarray] = {}
    for view in views:
        values = np.empty((num_clips, T, SIZE, SIZE, C), dtype=np.float16)
        for clip, label in enumerate(labels):
            ramp = np.linspace(-1, 1, T)
            order = {0: ramp, 1: ramp[::-1]}.get(int(label), generator.permutation(ramp))
            noise = generator.normal(scale=0.1, size=(T, SIZE, SIZE, C))
            values[clip] = (order[:, None, None, None] * direction + noise).astype(np.float16)
        maps[view] = values
    rows = [
        ClipRow(
            row=index,
            block=0,
            clip_id=f"clip{index:03d}",
            path=f"clip{index:03d}.webm",
            label="" if labels[index] < 0 else CLASSES[labels[index]],
            class_index=int(labels[index]),
            split=split,
            status="done",
            kind="",
            reason="",
            size=1,
            digest="0",
            num_frames=20 + index % 7,
            height=100,
            width=100,
            views=views if split == "train" else ("test",),
        )
        for index, split in enumerate(splits)
    ]
    frames = [generator.normal(size=(row.num_frames, C)).astype(np.float16) for row in rows]
    return MemorySource(settings(**changes), rows, maps, {view: labels for view in views}, frames)
