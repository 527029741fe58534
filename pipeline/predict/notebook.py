"""Functions for notebooks: open a feature store and load its features as tensors."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from pipeline.errors import PipelineError
from pipeline.store import FeatureStore
from pipeline.store.layout import TEST_VIEW

KINDS = ("pooled", "spatial")


class LabelledFeatures(NamedTuple):
    """Features of some clips as a head reads them.

    Shape:
        features: (N, T, C, H, W) float16, H = W = 1 if pooled; labels: (N,) int64, -1 for an unlabelled clip.
    """

    features: Tensor
    labels: Tensor
    clip_ids: tuple[str, ...]


def open_store(location: str | Path) -> FeatureStore:
    """Open a feature store for reading.

    Raises:
        PipelineError: the store does not exist or is damaged.
    """
    return FeatureStore.open(location)


def features(
    store: FeatureStore | str | Path,
    split: str = "val",
    maps: str = "pooled",
    view: str = TEST_VIEW,
    limit: int | None = None,
) -> LabelledFeatures:
    """Load the features of the finished clips of a split into memory, in the order of the manifest.

    `limit` loads only the first clips: feature maps of SqueezeNet take 1.4 MB per clip of 8 segments.

    Raises:
        PipelineError: there are no such clips, or the store does not contain these maps.
    """
    if maps not in KINDS:
        raise PipelineError(f"`maps` (={maps!r}) must be one of {', '.join(KINDS)}.")
    opened = store if isinstance(store, FeatureStore) else FeatureStore.open(store)
    clips = opened.clips(split, view)[:limit]
    rows = [clip.row for clip in clips]
    if maps == "pooled":
        found = torch.from_numpy(opened.read_pooled(view, rows))[..., None, None]  # (N, T, C, 1, 1)
    else:
        stored = torch.from_numpy(opened.read_spatial_batch(view, rows))  # (N, T, H, W, C)
        found = stored.permute(0, 1, 4, 2, 3)
    labels = torch.from_numpy(opened.labels_of(view, np.array(rows, dtype=np.int64)))
    return LabelledFeatures(found, labels, tuple(clip.clip_id for clip in clips))
