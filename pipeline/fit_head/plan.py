"""Plan the fits of `fit-head`: heads, recipes and settings. This module does not import torch."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.errors import PipelineError
from pipeline.evaluation.result_writer import cell_name
from pipeline.fit_head.stored_clips import StoredClips
from pipeline.recipe import Recipe, named_recipe
from pipeline.registry import HEAD_GROUPS, VIDEO_ENCODER_NOTE
from pipeline.settings.fit_head import OWN_SETTINGS, FitHeadSettings
from pipeline.settings.search import Search, plan_search
from pipeline.store.layout import TEST_VIEW

logger = logging.getLogger(__name__)

AUTO = "auto"


@dataclass(frozen=True)
class HeadRequest:
    """One head to fit, with results below `out`; for precision `auto` and threads None, the machine decides."""

    head: str
    recipe: Recipe
    seeds: tuple[int, ...]
    out: Path
    device: str
    precision: str
    threads: int | None
    search: Search | None = None

    def folder(self, backbone: str) -> Path:
        """Return the result folder on features of a backbone."""
        return self.out / cell_name(backbone, self.head)


def plan_requests(settings: FitHeadSettings, clips: StoredClips) -> list[HeadRequest]:
    """List the heads to fit, by recipe and name.

    Raises:
        PipelineError: the store does not fit a recipe, or a setting is out of range.
    """
    names = _served(settings, clips)
    if clips.views == (TEST_VIEW,):
        logger.info("training uses the test view, because the store has no training views or `views` is 0")
    if clips.source.settings.video_encoder:
        logger.info(VIDEO_ENCODER_NOTE)
    common = {name: getattr(settings, name) for name in OWN_SETTINGS}
    requests: list[HeadRequest] = []
    for chosen in settings.recipe:
        recipe = named_recipe(chosen).with_overrides(**settings.overrides)
        logger.info(f"{chosen}: {clips.plan(recipe.training).sentence()}")
        out = settings.out / chosen if len(settings.recipe) > 1 else settings.out
        for name in names:
            request = _request(name, recipe, dict(settings.heads.get(name, {})), common, out, settings.device)
            clips.check_recipe(request.recipe)
            requests.append(request)
    return requests


def _served(settings: FitHeadSettings, clips: StoredClips) -> list[str]:
    """Return the heads to fit; of a group, those whose maps the store has."""
    names = settings.head_names
    if not HEAD_GROUPS.keys() & settings.head or (clips.has_maps("pooled") and clips.has_maps("spatial")):
        return list(names)
    from pipeline.heads import HEADS  # imports torch

    left_out = [name for name in names if name not in settings.head and not clips.has_maps(HEADS[name].reads)]
    if left_out:
        logger.info(f"skipped, because the store does not have their maps: {', '.join(left_out)}")
    return [name for name in names if name not in left_out]


def _request(
    name: str, recipe: Recipe, own: dict[str, Any], common: Mapping[str, Any], out: Path, device: str
) -> HeadRequest:
    chosen = {**common, **{key: own.pop(key) for key in OWN_SETTINGS if key in own}}
    seeds = tuple(range(chosen["seed"], chosen["seed"] + chosen["seeds"]))
    recipe, search = recipe.with_overrides(**own), plan_search(chosen)
    if search is not None and recipe.training.epochs == 0:
        raise PipelineError("`epochs` (=0) must be at least 1 for a search, which compares trained heads.")
    return HeadRequest(name, recipe, seeds, out, device, chosen["precision"], chosen["threads"], search)
