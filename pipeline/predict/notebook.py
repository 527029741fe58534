"""What a notebook asks of a store: open it, and have its features as tensors."""

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
        features: (N, T, C, H, W) float16, H = W = 1 for pooled ones; labels: (N,) int64, -1 for an unlabelled clip.
    """

    features: Tensor
    labels: Tensor
    clip_ids: tuple[str, ...]


def open_store(location: str | Path) -> FeatureStore:
    """Open a feature store to read from.

    Raises:
        PipelineError: there is no store, or it is damaged.
    """
    return FeatureStore.open(location)


def features(
    store: FeatureStore | str | Path,
    split: str = "val",
    maps: str = "pooled",
    view: str = TEST_VIEW,
    limit: int | None = None,
) -> LabelledFeatures:
    """The features of the clips of a split that are done, all in RAM, in the order of the manifest.

    `limit` takes the first clips only: feature maps of SqueezeNet take 1.4 MB a clip of 8 segments.

    Raises:
        PipelineError: no such clips, or the store does not hold these maps.
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
