"""Decide what `fit-head` fits: which heads, under which recipes and settings."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from pipeline.errors import PipelineError
from pipeline.fit_head.cached_data import CachedData
from pipeline.fit_head.compute import choose_compute
from pipeline.fit_head.run import HeadRun
from pipeline.fit_head.workers import FitTask
from pipeline.heads import HEADS
from pipeline.recipe import Recipe, named_recipe
from pipeline.registry import HEAD_NAMES
from pipeline.settings.fit_head import FitHeadSettings

ALL = "all"
# Settings of a block `heads.NAME` that are no choices of the recipe.
OWN_SETTINGS = ("seeds", "seed", "precision", "threads")


def plan_tasks(settings: FitHeadSettings, data: CachedData, say: Callable[[str], None]) -> list[FitTask]:
    """List the runs to fit, by recipe and head. Everything that can be refused is refused here, before the first fit.

    Raises:
        PipelineError: an unknown head or recipe, or one that the store cannot serve.
    """
    names = _served(list(dict.fromkeys(settings.head)), data, say)
    common = {name: getattr(settings, name) for name in OWN_SETTINGS}
    tasks: list[FitTask] = []
    for chosen in settings.recipe:
        recipe = named_recipe(chosen).with_overrides(**settings.overrides)
        say(f"{chosen}: {data.plan(recipe.training).sentence()}")
        for name in names:
            run = _head_run(name, recipe, dict(settings.heads.get(name, {})), common, settings)
            data.check_recipe(run.recipe)
            data.check_maps(HEADS[name].reads, name)
            out = settings.out / chosen if len(settings.recipe) > 1 else settings.out
            tasks.append(FitTask(run, out, settings.force))
    return tasks


def _served(names: list[str], data: CachedData, say: Callable[[str], None]) -> list[str]:
    """The named heads; `all` are all that the store has the maps for."""
    if ALL not in names:
        return names
    served = [name for name in HEAD_NAMES if data.serves(HEADS[name].reads)]
    left_out = [name for name in HEAD_NAMES if name not in served]
    if left_out:
        say(f"left out, since the store has no maps for them: {', '.join(left_out)}")
    return served


def _head_run(
    name: str, recipe: Recipe, own: dict[str, Any], common: Mapping[str, Any], settings: FitHeadSettings
) -> HeadRun:
    chosen = {**common, **{key: own.pop(key) for key in OWN_SETTINGS if key in own}}
    compute = choose_compute(name, settings.device, chosen["precision"], chosen["threads"], settings.loaders)
    seeds = tuple(range(chosen["seed"], chosen["seed"] + chosen["seeds"]))
    if not seeds:
        raise PipelineError(f"`seeds` (={chosen['seeds']}) must be at least 1.")
    return HeadRun(name, recipe.with_overrides(**own), seeds, compute)
