"""Labelled clips of a store for `fit-head`: training clips, their views, and the recipes that the store supports.

This module does not import torch, so that a command without work to do returns at once.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import PipelineError
from pipeline.evaluation.selection import TRAIN, SplitPlan, plan_splits
from pipeline.params import spelled
from pipeline.recipe import Recipe, TrainConfig
from pipeline.registry import is_imported
from pipeline.store.layout import TEST_VIEW
from pipeline.store.settings import StoreSettings
from pipeline.store.table import ClipRow

DEFAULT_NUM_SEGMENTS = 8

Integers = NDArray[np.int64]


class FeatureSource(Protocol):
    """Interface of a feature store for training, implemented by `pipeline.store.FeatureStore`."""

    @property
    def settings(self) -> StoreSettings: ...
    @property
    def classes(self) -> tuple[str, ...]: ...
    @property
    def num_failed(self) -> int: ...
    def table(self) -> Sequence[ClipRow]: ...
    def labels_of(self, view: str, rows: Any) -> Integers: ...
    def read_pooled(self, view: str, rows: Any) -> NDArray[np.float16]: ...
    def read_spatial(self, view: str, row: int) -> NDArray[np.float16]: ...
    def iterate_frames(self, rows: Any) -> Iterator[NDArray[np.float16]]: ...


@dataclass(frozen=True)
class SplitRows:
    """Finished labelled clips of one split, and the views that all of them have."""

    clips: tuple[ClipRow, ...]
    views: tuple[str, ...]

    @property
    def rows(self) -> Integers:
        return np.array([clip.row for clip in self.clips], dtype=np.int64)


class StoredClips:
    """Labelled clips of a store, without their features.

    num_views: number of training draws to use, starting with the first; None uses all. A store without draws trains on
        the test view. num_segments: only for stores of all frames.

    Raises:
        PipelineError: the store has fewer views or another number of segments.
    """

    def __init__(
        self,
        source: FeatureSource,
        num_segments: int | None = None,
        num_views: int | None = None,
    ) -> None:
        self.source = source
        self.has_all_frames = source.settings.frames == "all"
        self.num_segments = self._choose_segments(num_segments)
        self.views = self._choose_views(num_views)
        self._plans: dict[tuple[str, float, int], SplitPlan] = {}

    def plan(self, choices: TrainConfig) -> SplitPlan:
        """Plan the clips that train, select and are reported under a recipe; the draw is cached for all heads.

        Raises:
            PipelineError: the store has too few labelled clips.
        """
        key = (choices.select_on, choices.dev_share, choices.dev_seed)
        if key not in self._plans:
            self._plans[key] = plan_splits(self.source.table(), choices, "The store")
        return self._plans[key]

    def check_recipe(self, recipe: Recipe) -> Recipe:
        """Return the recipe for this store, whose sampling options must be those of the recipe.

        A store of all frames has centre crops without flips; the recipe's sampler draws its frames during training.
        Frames of imported features were chosen elsewhere, so the recipe gets the store's options.

        Raises:
            PipelineError: the recipe's frames differ from the store's; the message names the field.
        """
        if self.has_all_frames:
            return recipe.with_overrides(crops="centre", flip="off")
        held = vars(self.source.settings.frame_choices)
        if is_imported(self.source.settings.backbone):
            return recipe.with_overrides(**held)
        for name, wanted in vars(recipe.frames).items():
            if held[name] != wanted:
                raise PipelineError(
                    f"The recipe '{recipe.name}' has {name}={wanted}, but the store's frames were drawn with "
                    f"{name}={held[name]}. Extract another --store with --recipe {recipe.name}, or choose a recipe "
                    f"that has {name}={held[name]} (--{spelled(name)} {held[name]})."
                )
        return recipe

    @functools.cached_property
    def digest(self) -> str:
        """Return a digest of the store's settings and clips that determine a fit."""
        settings = self.source.settings
        digest = hashlib.sha256(repr((settings.as_dict(), self.num_segments, self.views)).encode())
        for clip in self.source.table():
            digest.update(repr((clip.clip_id, clip.label, clip.split, clip.status, clip.digest, clip.group)).encode())
        return digest.hexdigest()

    def _choose_segments(self, num_segments: int | None) -> int:
        if self.has_all_frames:
            return DEFAULT_NUM_SEGMENTS if num_segments is None else num_segments
        held = self.source.settings.num_segments
        if num_segments not in (None, held):
            raise PipelineError(
                f"The store has {held} segments of each clip, not {num_segments}. Extract another --store with "
                f"--num-segments {num_segments}, or one with --frames all, which supports any number."
            )
        return held

    def _choose_views(self, num_views: int | None) -> tuple[str, ...]:
        if self.has_all_frames:
            return ()
        held: dict[str, None] = {}
        for clip in self.source.table():
            if clip.split == TRAIN:
                held.update(dict.fromkeys(view for view in clip.views if view != TEST_VIEW))
        draws = sorted(held, key=lambda view: (len(view), view))
        if num_views is not None and num_views > len(draws):
            raise PipelineError(
                f"The store has {len(draws)} training views, fewer than `views` (={num_views}). Run `pipeline extract` "
                f"again with --views {num_views} to add the missing ones."
            )
        return tuple(draws[:num_views]) or (TEST_VIEW,)

    def has_maps(self, maps: str) -> bool:
        """Return whether the store has these maps."""
        return maps == "pooled" if self.has_all_frames else maps in self.source.settings.maps

    def check_maps(self, maps: str, head: str = "this head") -> None:
        """Check that the store has the maps of a head.

        Raises:
            PipelineError: it does not; the message tells how to extract them.
        """
        if self.has_maps(maps):
            return
        settings = self.source.settings
        if is_imported(settings.backbone):
            raise PipelineError(
                f"{head} reads {maps} maps, but the imported features have only {' and '.join(settings.maps)}. Import "
                "arrays of the shape (T, C, H, W) or (T, tokens, C)."
            )
        if self.has_all_frames:
            raise PipelineError(
                f"{head} reads {maps} maps, but the store was made with --frames all, which stores only "
                "pooled features. Extract another --store with --maps pooled,spatial."
            )
        raise PipelineError(
            f"{head} reads {maps} maps, but the store has only {' and '.join(settings.maps)}. Extract with "
            "--maps pooled,spatial into another --store."
        )

    def num_training_clips_and_views(self, plan: SplitPlan) -> tuple[int, int]:
        """Count the clips that train and the views that all of them have, without loading features."""
        rows = self.rows_of(TRAIN, plan)
        return len(rows.clips), 1 if self.has_all_frames else len(rows.views)

    def rows_of(self, part: str, plan: SplitPlan) -> SplitRows:
        wanted = plan.clips_of(part, self.source.table())
        if self.has_all_frames:
            return done_rows(wanted, part, None)
        return done_rows(wanted, part, self.views if part == TRAIN else (TEST_VIEW,))


def labelled_rows(source: FeatureSource, split: str, views: Sequence[str] | None) -> SplitRows:
    """Return the finished labelled clips of a split, and those of `views` that all of them have.

    views: None for a store of all frames, which has no views.

    Raises:
        PipelineError: there is no clip, or the clips have no view in common.
    """
    of_split = [clip for clip in source.table() if clip.split == split]
    if not any(clip.label for clip in of_split):
        splits = ", ".join(dict.fromkeys(clip.split for clip in source.table())) or "none"
        raise PipelineError(
            f"The store has no labelled clip in split '{split}' ({len(of_split)} unlabelled ones). Its "
            f"splits: {splits}."
        )
    return done_rows([clip for clip in of_split if clip.label], split, views)


def done_rows(wanted: Sequence[ClipRow], split: str, views: Sequence[str] | None) -> SplitRows:
    """Return the wanted clips that are extracted, and those of `views` that all of them have.

    Raises:
        PipelineError: no clip is extracted, or the clips have no view in common.
    """
    clips = tuple(clip for clip in wanted if clip.status == "done")
    if not clips:
        raise PipelineError(
            f"None of the {len(wanted)} labelled clips of split '{split}' is extracted. `pipeline store info` gives "
            "the reasons of failed clips; `pipeline extract` computes the others."
        )
    if views is None:
        return SplitRows(clips, ())
    common = set(views).intersection(*(clip.views for clip in clips))
    if not common:
        raise PipelineError(
            f"The {len(clips)} clips of split '{split}' have none of the views {', '.join(views)} in common. "
            "Run `pipeline extract` again to complete them."
        )
    return SplitRows(clips, tuple(view for view in views if view in common))
