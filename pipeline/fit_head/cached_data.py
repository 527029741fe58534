"""What a store gives to training, loaded once for any number of fits."""

from __future__ import annotations

import functools
import hashlib
from pathlib import Path

from pipeline.errors import PipelineError
from pipeline.evaluation.selection import DEV, TRAIN, SplitPlan, plan_splits
from pipeline.fit_head.features import (
    TEST_VIEW,
    Announce,
    FeatureDataset,
    FeatureSource,
    FrameFeatures,
    SplitRows,
    done_rows,
    load_frames,
    load_pooled,
)
from pipeline.fit_head.fit import HeadDataset
from pipeline.fit_head.spatial_features import MapCache, default_map_cache, open_spatial
from pipeline.recipe import Recipe, SamplingConfig, TrainConfig

DEFAULT_NUM_SEGMENTS = 8


class CachedData:
    """The labelled clips of a store, by the kind of maps that a head reads; each kind is loaded at its first use.

    num_views: how many training draws are used, the first ones; None takes all. A store without draws trains on the
    test view. num_segments: for stores of all frames; the others have their own.

    Raises:
        PipelineError: more views or another number of segments than the store holds.
    """

    def __init__(
        self,
        source: FeatureSource,
        scratch: Path,
        announce: Announce,
        num_segments: int | None = None,
        num_views: int | None = None,
        cache: MapCache | None = None,
    ) -> None:
        self.source, self._scratch, self._announce = source, scratch, announce
        self._cache = cache
        self.has_all_frames = source.settings.frames == "all"
        self.num_segments = self._choose_segments(num_segments)
        self.views = self._choose_views(num_views)
        self._loaded: dict[tuple[str, str, frozenset[str]], FeatureDataset] = {}
        self._plans: dict[tuple[str, float, int], SplitPlan] = {}

    def of(self, maps: str, recipe: Recipe) -> HeadDataset:
        """Load the data of a head that reads `maps` and is trained by `recipe`.

        Raises:
            PipelineError: the store does not hold these maps, or has no labelled clips.
        """
        self.check_maps(maps)
        plan = self.plan(recipe.training)
        parts = dict.fromkeys((TRAIN, plan.selected_on, plan.reported_on))
        features = {part: self._part(part, maps, plan, recipe.frames) for part in parts}
        settings = self.source.settings
        return HeadDataset(
            features[TRAIN],
            features[plan.selected_on],
            features[plan.reported_on],
            len(self.source.classes),
            self.num_segments,
            settings.channels,
            settings.backbone,
        )

    def plan(self, choices: TrainConfig) -> SplitPlan:
        """Return which clips train, select and are reported under a recipe; every head asks, it is drawn once.

        Raises:
            PipelineError: the store lacks labelled clips for it.
        """
        key = (choices.select_on, choices.dev_share, choices.dev_seed)
        if key not in self._plans:
            self._plans[key] = plan_splits(self.source.table(), choices, "The store")
        return self._plans[key]

    def _part(self, part: str, maps: str, plan: SplitPlan, choices: SamplingConfig) -> FeatureDataset:
        # Clips that are held out belong to the training clips alone: other parts are the same under every plan.
        key = (part, maps, plan.dev_ids if part in (TRAIN, DEV) else frozenset())
        if key not in self._loaded:
            self._loaded[key] = self._load(part, maps, plan)
        features = self._loaded[key]
        return features.drawn_by(choices) if isinstance(features, FrameFeatures) else features

    def check_recipe(self, recipe: Recipe) -> Recipe:
        """The recipe as it can be followed on this store: its choices of frames must be those of the store.

        A store of all frames has centre crops without flips, and its frames are drawn here, by the recipe's sampler.

        Raises:
            PipelineError: the recipe's frames differ from the store's; the message names the field.
        """
        if self.has_all_frames:
            return recipe.with_overrides(crops="centre", flip="off")
        held = vars(self.source.settings.frame_choices)
        for name, wanted in vars(recipe.frames).items():
            if held[name] != wanted:
                raise PipelineError(
                    f"The recipe '{recipe.name}' has {name}={wanted}, but the store's frames were drawn with "
                    f"{name}={held[name]}. Extract another --store with --recipe {recipe.name}, or choose a recipe "
                    f"that has {name}={held[name]} (--{name.replace('_', '-')} {held[name]})."
                )
        return recipe

    @functools.cached_property
    def digest(self) -> str:
        """Of the store's settings and clips, as far as they decide a fit."""
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
                f"The store holds {held} segments of each clip, not {num_segments}. Extract another --store with "
                f"--num-segments {num_segments}, or one with --frames all, which serves any number."
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
                f"again with --views {num_views}: it adds what is missing."
            )
        chosen = tuple(draws[:num_views])
        if not chosen:
            self._announce("training on the test view: the store has no training views, or `views` is 0")
        return chosen or (TEST_VIEW,)

    def serves(self, maps: str) -> bool:
        """Whether the store holds these maps."""
        return maps == "pooled" if self.has_all_frames else maps in self.source.settings.maps

    def check_maps(self, maps: str, head: str = "this head") -> None:
        """Refuse maps that the store does not hold.

        Raises:
            PipelineError: the message says how to get them.
        """
        if self.serves(maps):
            return
        settings = self.source.settings
        if self.has_all_frames:
            raise PipelineError(
                f"{head} reads {maps} maps, but the store was made with --frames all, which keeps pooled features "
                "alone. Extract another --store with --maps pooled,spatial."
            )
        raise PipelineError(
            f"{head} reads {maps} maps, but the store holds {' and '.join(settings.maps)} alone. Extract with "
            "--maps pooled,spatial into another --store."
        )

    def num_training_clips_and_views(self, plan: SplitPlan) -> tuple[int, int]:
        """Count the clips that train and the views that all of them have, without loading features."""
        rows = self._rows(TRAIN, plan)
        return len(rows.clips), 1 if self.has_all_frames else len(rows.views)

    def _rows(self, part: str, plan: SplitPlan) -> SplitRows:
        wanted = plan.clips_of(part, self.source.table())
        if self.has_all_frames:
            return done_rows(wanted, part, None)
        return done_rows(wanted, part, self.views if part == TRAIN else (TEST_VIEW,))

    def _load(self, part: str, maps: str, plan: SplitPlan) -> FeatureDataset:
        rows = self._rows(part, plan)
        if self.has_all_frames:
            return load_frames(self.source, rows, self.num_segments, SamplingConfig(), self._scratch, self._announce)
        if part == TRAIN and rows.views != self.views:
            self._announce(f"not every training clip has all views yet; used are {', '.join(rows.views)}")
        if maps == "pooled":
            return load_pooled(self.source, rows, self._scratch, self._announce)
        if self._cache is None:
            self._cache = default_map_cache()
        return open_spatial(self.source, rows, self._cache)
