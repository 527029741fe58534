"""Load the data of a store for training, once for any number of fits."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pipeline.evaluation.selection import DEV, TRAIN, SplitPlan
from pipeline.fit_head.features import FeatureDataset, FrameFeatures, load_frames, load_pooled
from pipeline.fit_head.fit import HeadDataset
from pipeline.fit_head.shared_tables import SharedTables
from pipeline.fit_head.spatial_features import MapCache, default_map_cache, open_spatial
from pipeline.fit_head.stored_clips import FeatureSource, StoredClips
from pipeline.recipe import Recipe, SamplingConfig

logger = logging.getLogger(__name__)


class CachedData(StoredClips):
    """Labelled clips of a store, by the kind of maps that a head reads; each kind is loaded at its first use."""

    def __init__(
        self,
        source: FeatureSource,
        scratch: Path,
        num_segments: int | None = None,
        num_views: int | None = None,
        cache: MapCache | None = None,
        shared: SharedTables | None = None,
    ) -> None:
        super().__init__(source, num_segments, num_views)
        self._scratch, self._cache, self._shared = scratch, cache, shared
        self._loaded: dict[tuple[str, str, frozenset[str]], FeatureDataset] = {}

    @contextmanager
    def sharing(self, folder: Path) -> Iterator[SharedTables]:
        """Write features that are loaded in the block to a folder, and yield what other processes map them with."""
        self._shared = SharedTables(folder, writes=True)
        try:
            yield SharedTables(folder)
        finally:
            self._shared = None

    def of(self, maps: str, recipe: Recipe) -> HeadDataset:
        """Load the data of a head that reads `maps` and is trained by `recipe`.

        Raises:
            PipelineError: the store does not have these maps, or has no labelled clips.
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

    def _part(self, part: str, maps: str, plan: SplitPlan, choices: SamplingConfig) -> FeatureDataset:
        # Only training clips can be held out, so the other parts are equal under every plan.
        key = (part, maps, plan.dev_ids if part in (TRAIN, DEV) else frozenset())
        if key not in self._loaded:
            self._loaded[key] = self._load(part, maps, plan)
        features = self._loaded[key]
        return features.drawn_by(choices) if isinstance(features, FrameFeatures) else features

    def _load(self, part: str, maps: str, plan: SplitPlan) -> FeatureDataset:
        rows = self.rows_of(part, plan)
        if self.has_all_frames:
            return load_frames(self.source, rows, self.num_segments, SamplingConfig(), self._scratch, self._shared)
        if part == TRAIN and rows.views != self.views:
            logger.info(f"some training clips lack views; the views {', '.join(rows.views)} are used")
        if maps == "pooled":
            return load_pooled(self.source, rows, self._scratch, self._shared)
        if self._cache is None:
            self._cache = default_map_cache()
        return open_spatial(self.source, rows, self._cache, self._shared)
