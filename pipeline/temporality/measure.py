"""Fit heads with and without time, and the direction of time, and collect which clips each gets right."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.errors import PipelineError
from pipeline.evaluation.columns import group_indices
from pipeline.evaluation.metrics import hits
from pipeline.evaluation.selection import groups_of
from pipeline.fit_head.cached_data import CachedData
from pipeline.fit_head.features import FeatureDataset
from pipeline.fit_head.fit import HeadDataset, fit_head
from pipeline.fit_head.stored_clips import FeatureSource
from pipeline.heads import HEADS
from pipeline.recipe import named_recipe
from pipeline.runtime import Runtime
from pipeline.settings.temporality import TemporalitySettings
from pipeline.temporality.datasets import Directions, StillFrames

logger = logging.getLogger(__name__)

RECIPE = "cached"
BLIND_HEAD = "meanstd"  # sees all frames, in no order
# What is measured, in the order of the table.
MEASURES = {
    "ordered": "top-1 of the head with the frames in order",
    "unordered": f"top-1 of `{BLIND_HEAD}`, which sees all frames in no order",
    "single_frame": "top-1 of the head fitted and tested on the middle frame repeated",
    "shuffled": "top-1 of the head with the frames shuffled in the test",
    "reversed": "top-1 of the head with the frames reversed in the test",
    "arrow": "percent of clips, as they are and reversed, whose direction of time a probe tells; chance is 50",
}


@dataclass(frozen=True)
class Measured:
    """Which reported clips are right in each measure, and the predictions in order and reversed.

    Shape:
        labels: (N,); groups: (N,) or None; right: (S, N) by measure; predicted, predicted_reversed: (S, N).
    """

    classes: tuple[str, ...]
    labels: NDArray[np.int64]
    groups: NDArray[np.int64] | None
    right: dict[str, NDArray[np.float64]]
    predicted: NDArray[np.int64]
    predicted_reversed: NDArray[np.int64]
    head: str
    reported_on: str


def measure(source: FeatureSource, settings: TemporalitySettings) -> Measured:
    """Fit every measurement with each seed on the pooled features of a store.

    Raises:
        PipelineError: the store has no pooled features, or the head reads spatial maps.
    """
    if HEADS[settings.head].reads != "pooled":
        raise PipelineError(f"`head` (={settings.head}) reads spatial maps. Choose a head of pooled features, as mlp.")
    recipe = named_recipe(RECIPE).with_overrides(epochs=settings.epochs)
    cached = CachedData(source, settings.out, settings.num_segments)
    recipe = cached.check_recipe(recipe)
    data = cached.of("pooled", recipe)
    still, directions = _changed(data, StillFrames), dataclasses.replace(_changed(data, Directions), num_classes=2)
    compute = Runtime(torch.device("cpu"), "float32", threads=1)
    labels, num_clips = data.report.labels[0], data.report.num_clips
    found: dict[str, list[NDArray[np.float64]]] = {name: [] for name in MEASURES}
    predicted, predicted_reversed = [], []
    for seed in range(settings.seeds):
        logger.info(
            f"seed {seed}: fitting {settings.head} in order, without order, on one frame, and forward or backward"
        )
        ordered = fit_head(data, settings.head, recipe, seed, compute)
        unordered = fit_head(data, BLIND_HEAD, recipe, seed, compute)
        single = fit_head(still, settings.head, recipe, seed, compute)
        arrow = fit_head(directions, settings.head, recipe, seed, compute)
        arrow_right = hits(arrow.scores, arrow.labels).astype(np.float64)
        scores = {
            "ordered": ordered.scores,
            "unordered": unordered.scores,
            "single_frame": single.scores,
            "shuffled": ordered.order_tests["shuffled"],
            "reversed": ordered.order_tests["reversed"],
        }
        for name, values in scores.items():
            found[name].append(hits(values, labels).astype(np.float64))
        found["arrow"].append((arrow_right[:num_clips] + arrow_right[num_clips:]) / 2)
        predicted.append(ordered.scores.argmax(axis=1))
        predicted_reversed.append(ordered.order_tests["reversed"].argmax(axis=1))
    plan = cached.plan(recipe.training)
    groups = groups_of(plan.clips_of(plan.reported_on, source.table()))
    clip_ids = data.report.clip_ids
    return Measured(
        classes=tuple(source.classes),
        labels=labels,
        groups=None if groups is None else group_indices(clip_ids, map(groups.__getitem__, clip_ids)),
        right={name: np.stack(values) for name, values in found.items()},
        predicted=np.stack(predicted),
        predicted_reversed=np.stack(predicted_reversed),
        head=settings.head,
        reported_on=plan.reported_on,
    )


def _changed(data: HeadDataset, change: Callable[[FeatureDataset], FeatureDataset]) -> HeadDataset:
    """Change the three parts of the data; parts that are one object stay one."""
    select = change(data.select)
    return dataclasses.replace(
        data,
        train=change(data.train),
        select=select,
        report=select if data.report is data.select else change(data.report),
    )
